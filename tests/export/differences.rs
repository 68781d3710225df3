//! Two runs against each other: what changed, with its interval, and the picture of it.

use crate::*;
use patchwave::export::compare;

/// z by head over four pairs; `shift` moves every patched run of head (1, 1).
fn noisy(shift: f32) -> RunResult {
    let mut run = heads();
    run.metric_clean = vec![2.0, 3.0, 2.5, 1.5];
    run.metric_corrupted = vec![-2.0, -1.0, -3.0, -2.0];
    let metric = |cell: usize, pair: usize| match cell {
        5 => NAN,
        4 => 1.0 + pair as f32 / 4.0 + shift,
        cell => run.metric_corrupted[pair] + cell as f32 * 0.1 * (1.0 + pair as f32),
    };
    let metric: Vec<f32> = (0..24).map(|i| metric(i / 4, i % 4)).collect();
    let effects =
        patchwave::sweep::effect::effects(&metric, &run.metric_clean, &run.metric_corrupted, run.direction, 0.0);
    run.sites[0].effect = effects.effect;
    run.sites[0].metric = metric;
    run.meta.insert("prompts".into(), json!({"sha256": "abc", "pairs_dropped": 0}));
    run.meta.insert("plan".into(), json!({"model_sha256": "1", "prompts_sha256": "abc", "layers": null}));
    run
}

fn refused(first: &RunResult, second: &RunResult) -> String {
    let error = compare(first, second).err().expect("different plans");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn a_run_does_not_differ_from_itself() {
    let run = noisy(0.0);
    let diff = compare(&run, &run).expect("comparable");
    let site = &diff.sites[0];
    assert!(diff.paired && diff.other.is_empty());
    assert_eq!(site.cells, 5);
    assert_eq!(site.difference[..5], [0.0; 5]);
    assert!(site.difference[5].is_nan());
    assert!((site.pearson - 1.0).abs() < 1e-12 && (site.spearman - 1.0).abs() < 1e-12);
    assert!(diff.table(10).ends_with("\nNo effect differs.\n"), "{}", diff.table(10));
}

#[test]
fn what_changed_is_listed_with_its_interval() {
    let (first, second) = (noisy(0.0), noisy(0.8));
    let diff = compare(&first, &second).expect("comparable");
    // Each pair moves by 0.8, the mean span is 4.25.
    assert!((diff.sites[0].difference[4] - 0.8 / 4.25).abs() < 1e-6);
    let (low, high) = (diff.sites[0].spread.low[4], diff.sites[0].spread.high[4]);
    assert!(low < 0.8 / 4.25 && 0.8 / 4.25 < high && high - low < 0.1, "{low} {high}");
    let table = diff.table(3);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "site  cells  pearson  spearman  mean |difference|");
    assert!(lines[1].starts_with("z         5  "), "{table}");
    assert_eq!(
        lines[3].split_whitespace().collect::<Vec<_>>(),
        ["node", "first", "second", "difference", "95", "%", "interval"]
    );
    assert!(lines[4].starts_with("a1.h1  "), "{table}");
    assert_eq!(lines.len(), 5, "one cell differs: {table}");
    let mut csv = Vec::new();
    diff.write_csv(&mut csv).expect("written");
    let csv = String::from_utf8(csv).expect("text");
    assert_eq!(csv.lines().next(), Some("site,layer,head,first,second,difference,stderr,interval_low,interval_high"));
    assert_eq!(csv.lines().nth(6), Some("z,1,2,,,,,,"));
}

#[test]
fn other_pairs_are_resampled_on_their_own() {
    let (first, mut second) = (noisy(0.0), noisy(0.0));
    second.meta.insert("prompts".into(), json!({"sha256": "def", "pairs_dropped": 0}));
    second.meta.insert("plan".into(), json!({"model_sha256": "1", "prompts_sha256": "def", "layers": "0-1"}));
    let diff = compare(&first, &second).expect("comparable");
    assert!(!diff.paired);
    assert_eq!(diff.other, ["prompts", "layers (default, 0-1)"]);
    assert!(diff.sites[0].spread.high[4] > 0.0, "equal effects, but not known to be equal");
    // Dropped pairs may be others in each run.
    let mut dropped = noisy(0.0);
    dropped.meta.insert("prompts".into(), json!({"sha256": "abc", "pairs_dropped": 1}));
    assert!(!compare(&first, &dropped).expect("comparable").paired);
}

#[test]
fn runs_of_different_plans_are_refused_and_say_how_they_differ() {
    let run = noisy(0.0);
    let mut more = run.clone();
    more.sites.push(site("mlp_out", vec![Axis::numbered("layer", 2)], &[0.5, 0.0]));
    more.sites[1].metric = vec![0.0; 8];
    assert!(refused(&run, &more).contains("sites: z in the first run, z, mlp_out in the second"));
    let mut renamed = run.clone();
    renamed.sites[0].site = "q".into();
    assert!(refused(&run, &renamed).contains("sites: z in the first run, q in the second"));
    let mut noise = run.clone();
    noise.direction = Direction::Noise;
    assert!(refused(&run, &noise).contains("direction: denoise in the first run, noise in the second"));
    let mut by_position = run.clone();
    by_position.sites[0].axes[1] = pos(&["a_0", "b_1", "c_2"]);
    assert!(
        refused(&run, &by_position)
            .contains("site z, axes: [layer, head] in the first run, [layer, pos] in the second")
    );
    let mut other_tokens = by_position.clone();
    other_tokens.sites[0].axes[1].labels[2] = " d_2".into();
    let message = refused(&by_position, &other_tokens);
    assert!(message.contains("site z, axis pos, entry 2: c_2 in the first run, ␣d_2 in the second"), "{message}");
    let mut larger = run.clone();
    larger.sites[0].axes[0] = Axis::numbered("layer", 3);
    larger.sites[0].effect.extend([0.0; 3]);
    larger.sites[0].metric.extend([0.0; 12]);
    assert!(refused(&run, &larger).contains("site z, axis layer: 2 entries in the first run, 3 in the second"));
    let mut undefined = run.clone();
    undefined.effect_defined = false;
    assert!(refused(&run, &undefined).contains("effects of the second run are undefined"));
}

#[test]
fn the_picture_shows_the_difference_and_both_effects() {
    let (first, second) = (noisy(0.0), noisy(0.8));
    let diff = compare(&first, &second).expect("comparable");
    let heatmap = diff.heatmap(("a", "b<&>"), &Options::default()).expect("a heat map");
    let svg = heatmap.to_svg();
    assert!(svg.contains(">b&lt;&amp;&gt; − a · z · difference of effects</text>"), "{svg}");
    assert!(svg.contains("fill=\"#082f6b\"><title>a1.h1: difference +0.1882 ± "), "{svg}");
    assert!(svg.contains(", first 0.") && svg.contains(", second 0."));
    assert!(svg.contains("<title>a1.h2: no such cell</title>"));
    let html = heatmap.to_html();
    assert!(html.contains("\"details\":[\"first\",\"second\"]"));
}
