//! The roofline picture on figures made up.

use patchwave::export::roofline::{Ceiling, Point, Roofline};

fn picture() -> Roofline {
    let point = |name: &str, intensity, flops_per_second, ceiling| Point {
        name: name.into(),
        about: format!("{intensity} FLOP per byte"),
        intensity,
        flops_per_second,
        ceiling,
    };
    let ceiling = |name: &str, flops_per_second| Ceiling { name: name.into(), flops_per_second };
    Roofline {
        title: "gpt2 & co on <a card>".into(),
        notes: vec!["ceilings: made up".into()],
        bandwidth: 4e12,
        ceilings: vec![ceiling("float32", 1.2e14), ceiling("bfloat16", 7e14)],
        points: vec![
            point("gemm qkv", 340.0, 1e14, 0),
            point("gemm o", 330.0, 1e14, 0),
            point("gemm qkv", 500.0, 6e14, 1),
            point("norm", 0.9, 3e12, 0),
        ],
    }
}

/// `PATCHWAVE_UPDATE_GOLDEN=1` writes the file anew; look at the picture before committing it.
#[test]
fn the_picture_is_the_golden_one() {
    let svg = picture().to_svg().expect("figures that are rates");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/roofline.svg");
    if std::env::var_os("PATCHWAVE_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &svg).expect("a golden file");
    }
    assert_eq!(svg, std::fs::read_to_string(path).expect("the golden file"));
}

#[test]
fn it_is_svg_with_every_point_under_its_roof() {
    let svg = picture().to_svg().expect("figures that are rates");
    resvg::usvg::Tree::from_str(&svg, &resvg::usvg::Options::default()).expect("valid SVG");
    assert!(svg.contains("gpt2 &amp; co on &lt;a card&gt;") && !svg.contains("<a card>"));
    assert!(svg.contains("prefers-color-scheme:dark"));
    // A circle for each, in its ceiling's colour, its figures on hover.
    assert_eq!(svg.matches("<circle class=\"a\"").count(), 3);
    assert_eq!(svg.matches("<circle class=\"b\"").count(), 1);
    assert_eq!(svg.matches("<title>norm: 0.9 FLOP per byte</title>").count(), 2, "the point and its name");
}

#[test]
fn names_of_neighbours_do_not_lie_on_each_other() {
    let svg = picture().to_svg().expect("figures that are rates");
    let number = |text: &str, key: &str| -> f64 {
        let (_, rest) = text.split_once(&format!(" {key}=\"")).expect("a coordinate");
        rest.split('"').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    let labels: Vec<(f64, f64)> = svg
        .lines()
        .filter(|l| l.contains("gemm") && l.starts_with("<text"))
        .map(|l| (number(l, "x"), number(l, "y")))
        .collect();
    assert_eq!(labels.len(), 3);
    for (i, a) in labels.iter().enumerate() {
        for b in &labels[..i] {
            assert!((a.1 - b.1).abs() >= 10.0 || (a.0 - b.0).abs() >= 50.0, "{labels:?}");
        }
    }
}
