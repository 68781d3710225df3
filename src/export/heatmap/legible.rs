//! Pictures of every size are legible: no two texts overlap and all are inside the page.

use super::{Heatmap, Options, ScaleBy, Style};
use crate::export::font;
use crate::export::run::{Axis, Direction, RunResult, SiteEffects};
use proptest::prelude::*;
use resvg::usvg::roxmltree::{Document, Node};
use serde_json::{Map, json};

/// The corners of a text.
type Corners = [(f64, f64); 4];

struct Text {
    text: String,
    corners: Corners,
}

/// Every text of a picture with the room that it takes: its advance by the bundled font, from the descenders to the
/// height of capitals.
fn texts(document: &Document<'_>) -> Vec<Text> {
    let one = |node: Node<'_, '_>| {
        let number = |name: &str| node.attribute(name).and_then(|v| v.parse::<f64>().ok()).expect("a number");
        let (x, y, size) = (number("x"), number("y"), number("font-size"));
        let text = node.text().unwrap_or_default();
        let width = font::width(text, size);
        let left = match node.attribute("text-anchor") {
            Some("middle") => -width / 2.0,
            Some("end") => -width,
            _ => 0.0,
        };
        let turn = node.attribute("transform").and_then(|t| t.strip_prefix("rotate(")?.split(' ').next()?.parse().ok());
        let (sin, cos) = turn.unwrap_or(0.0_f64).to_radians().sin_cos();
        let (top, bottom) = (-0.73 * size, 0.2 * size);
        let corners = [(left, top), (left + width, top), (left + width, bottom), (left, bottom)];
        let corners = corners.map(|(dx, dy)| (x + dx * cos - dy * sin, y + dx * sin + dy * cos));
        Text { text: text.to_owned(), corners }
    };
    document.descendants().filter(|node| node.has_tag_name("text")).map(one).collect()
}

/// Whether two boxes overlap: no line along a side of either has them on different sides.
fn overlap(a: &Corners, b: &Corners) -> bool {
    let axes = [a, b].into_iter().flat_map(|c| [(c[0], c[1]), (c[1], c[2])]);
    axes.map(|((x0, y0), (x1, y1))| (x1 - x0, y1 - y0)).all(|(x, y)| {
        let length = x.hypot(y).max(1e-9);
        let extent = |corners: &Corners| {
            let along = corners.map(|(cx, cy)| (cx * x + cy * y) / length);
            along.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)))
        };
        let ((low_a, high_a), (low_b, high_b)) = (extent(a), extent(b));
        high_a > low_b + 0.2 && high_b > low_a + 0.2
    })
}

fn assert_legible(heatmap: &Heatmap) -> (f64, f64) {
    let svg = heatmap.to_svg();
    let document = Document::parse(&svg).expect("XML");
    let size = |name: &str| document.root_element().attribute(name).and_then(|v| v.parse().ok()).expect("a size");
    let (width, height): (f64, f64) = (size("width"), size("height"));
    let texts = texts(&document);
    for (i, text) in texts.iter().enumerate() {
        let inside = |(x, y): &(f64, f64)| (0.0..=width).contains(x) && (0.0..=height).contains(y);
        assert!(text.corners.iter().all(inside), "{:?} leaves {width} × {height}: {:?}", text.text, text.corners);
        for other in &texts[..i] {
            assert!(
                !overlap(&text.corners, &other.corners),
                "{:?} {:?} overlaps {:?} {:?}",
                text.text,
                text.corners,
                other.text,
                other.corners
            );
        }
    }
    (width, height)
}

/// What a picture is drawn of.
#[derive(Debug, Clone)]
struct Case {
    layers: usize,
    heads: Option<usize>,
    positions: Option<usize>,
    sites: usize,
    /// Letters of each token.
    letters: usize,
    /// Largest effect.
    largest: f32,
    options: Options,
}

impl Case {
    fn run(&self) -> RunResult {
        let mut axes = vec![Axis::numbered("layer", self.layers)];
        let token =
            |i: usize| format!(" {}_{i}", "abcmWMgj".chars().cycle().skip(i).take(self.letters).collect::<String>());
        axes.extend(self.positions.map(|n| Axis { name: "pos".into(), labels: (0..n).map(token).collect() }));
        axes.extend(self.heads.map(|n| Axis::numbered("head", n)));
        let cells: usize = axes.iter().map(|axis| axis.labels.len()).product();
        let effect =
            |i: usize| if i % 11 == 10 { f32::NAN } else { ((i * 37 % 101) as f32 / 50.0 - 1.0) * self.largest };
        let effect: Vec<f32> = (0..cells).map(effect).collect();
        let names = ["z", "attn_scores", "resid_pre", "q", "mlp_out", "pattern", "k"];
        let site = |name: &&str| SiteEffects {
            site: name.to_string(),
            axes: axes.clone(),
            effect: effect.clone(),
            metric: effect.clone(),
        };
        RunResult {
            meta: Map::from_iter([
                ("model".to_owned(), json!("EleutherAI/pythia-70m")),
                ("metric".to_owned(), json!("logit_diff")),
            ]),
            sites: names.iter().take(self.sites).map(site).collect(),
            metric_clean: vec![1.0],
            metric_corrupted: vec![0.0],
            effect_defined: true,
            direction: Direction::Denoise,
        }
    }

    fn heatmap(&self) -> Heatmap {
        Heatmap::with(&self.run(), &self.options).expect("a heat map")
    }
}

fn options() -> impl Strategy<Value = (ScaleBy, Option<usize>)> {
    (prop_oneof![Just(ScaleBy::Run), Just(ScaleBy::Site)], proptest::option::of(1_usize..5))
}

prop_compose! {
    fn any_case()(
        layers in 1_usize..90, heads in proptest::option::of(1_usize..130),
        positions in proptest::option::of(prop_oneof![1_usize..30, 1_usize..620]),
        sites in 1_usize..8, letters in 1_usize..24, largest in prop_oneof![Just(0.0_f32), 1e-7_f32..1e7],
        (scale, columns) in options(), rome in any::<bool>(),
    ) -> Case {
        // Both axes at once, but not so large that drawing it takes long.
        let (heads, layers) = match positions {
            Some(n) if n > 30 => (heads.map(|h| h.min(6)), layers.min(12)),
            Some(_) => (heads.map(|h| h.min(20)), layers.min(24)),
            None => (heads, layers),
        };
        let style = if rome && positions.is_some() { Style::Rome } else { Style::Default };
        Case { layers, heads, positions, sites, letters, largest, options: Options { style, scale, columns, sites: vec![] } }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_text_overlaps_another_or_leaves_the_page(case in any_case()) {
        assert_legible(&case.heatmap());
    }
}

fn case(layers: usize, heads: Option<usize>, positions: Option<usize>, style: Style) -> Case {
    let options = Options { style, ..Options::default() };
    Case { layers, heads, positions, sites: 1, letters: 6, largest: 0.7, options }
}

#[test]
fn large_models_and_long_prompts_fit_a_screens_width_or_little_more() {
    for (case, widest, highest) in [
        (case(32, Some(64), None, Style::Default), 1200.0, 700.0),
        (case(80, Some(64), None, Style::Default), 1200.0, 800.0),
        (case(32, None, Some(500), Style::Default), 1800.0, 900.0),
        (case(32, None, Some(500), Style::Rome), 1200.0, 1800.0),
        (case(12, Some(12), Some(16), Style::Default), 1000.0, 1800.0),
    ] {
        let (width, height) = assert_legible(&case.heatmap());
        assert!(width <= widest && height <= highest, "{width} × {height} of {case:?}");
    }
}

#[test]
fn a_cell_is_never_too_small_to_see() {
    let figure = super::geometry::Figure::new(&case(80, Some(128), None, Style::Default).heatmap());
    assert!(figure.panels[0].cell_width >= 5.0 && figure.panels[0].cell_height >= 5.0);
    let figure = super::geometry::Figure::new(&case(48, None, Some(620), Style::Default).heatmap());
    assert!(figure.panels[0].cell_width >= 3.0 && figure.panels[0].cell_height >= 4.0);
}

#[test]
fn boxes_that_touch_do_not_overlap() {
    let square = |x: f64| [(x, 0.0), (x + 1.0, 0.0), (x + 1.0, 1.0), (x, 1.0)];
    let diamond = [(1.9, -1.0), (2.9, 0.0), (1.9, 1.0), (0.9, 0.0)];
    assert!(overlap(&square(0.0), &square(0.5)));
    assert!(!overlap(&square(0.0), &square(1.0)));
    assert!(overlap(&square(1.0), &diamond));
    assert!(!overlap(&[(0.0, 0.9), (1.0, 0.9), (1.0, 1.9), (0.0, 1.9)], &diamond));
}
