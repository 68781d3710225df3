//! The table of the top cells.

use crate::*;

#[test]
fn the_top_cells_come_first_with_a_bar() {
    let expected = "\
#  node    effect
1  a1.h1  +0.7500              │████████████
2  a0.h2  -0.5000      ████████│
and 1 more, and 2 without any effect
";
    assert_eq!(top_cells(&heads(), 2), expected);
    assert!(!top_cells(&heads(), 20).contains("more"));
}

#[test]
fn several_sites_are_told_apart() {
    let mut run = heads();
    let axes = vec![Axis::numbered("layer", 1), pos(&["S2\u{1b}[2J"])];
    run.sites.push(site("resid_pre", axes, &[1.5]));
    let table = top_cells(&run, 2);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "#  site       node                     effect");
    assert!(lines[1].starts_with("1  resid_pre  resid_pre0@S2\\u{1b}[2J  +1.5000"), "{table}");
    assert!(lines[2].starts_with("2  z          a1.h1                   +0.7500"), "{table}");
}

#[test]
fn undefined_effects_are_said_to_be() {
    let mut run = heads();
    run.sites[0].effect.fill(NAN);
    run.effect_defined = false;
    let table = top_cells(&run, 1);
    assert!(table.starts_with("Effects are undefined"), "{table}");
    assert!(table.contains("1  a1.h1          +3.0000"), "{table}");
}

#[test]
fn a_sweep_without_effect_says_so() {
    let run = run(vec![site("mlp_out", vec![Axis::numbered("layer", 2)], &[0.0, NAN])]);
    assert_eq!(top_cells(&run, 5), "No cell changed the metric.\n");
}
