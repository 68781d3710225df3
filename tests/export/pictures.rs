//! Heat maps: geometry, scales, colours, what can be read from them.

use crate::*;

fn svg(run: &RunResult) -> String {
    String::from_utf8(render(run, Format::Svg).expect("an SVG")).expect("UTF-8")
}

/// The middle of the cell with the given name, in pixels of the SVG.
fn middle(svg: &str, name: &str) -> (f64, f64) {
    let numbers = |text: &str| {
        let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').filter(|part| !part.is_empty());
        digits.take(4).map(|part| part.parse().expect("a number")).collect::<Vec<f64>>()
    };
    let cell = svg.find(&format!("<title>{name}:")).expect("the cell's title");
    let rect = numbers(&svg[svg[..cell].rfind("<rect").expect("the cell")..cell]);
    let group = svg[..cell].rfind("translate(").expect("the panel");
    let origin = numbers(&svg[group..cell]);
    (origin[0] + rect[0] + rect[2] / 2.0, origin[1] + rect[1] + rect[3] / 2.0)
}

/// The colour of a cell in the PNG, which is twice as large as the SVG.
fn pixel(run: &RunResult, name: &str) -> color::Rgb {
    let png = render(run, Format::Png).expect("a PNG");
    let pixmap = Pixmap::decode_png(&png).expect("a PNG that decodes");
    let (x, y) = middle(&svg(run), name);
    let pixel = pixmap.pixel((2.0 * x) as u32, (2.0 * y) as u32).expect("inside the picture");
    [pixel.red(), pixel.green(), pixel.blue()]
}

#[test]
fn a_cell_is_a_box_with_its_value_on_hover() {
    let svg = svg(&heads());
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width="), "{}", &svg[..80]);
    let cell = |text: &str| assert!(svg.contains(text), "{text}\n{svg}");
    cell(
        "<rect x=\"40\" y=\"40\" width=\"39\" height=\"39\" fill=\"#082f6b\">\
         <title>a1.h1: effect +0.7500 ± 0, 95 % interval +0.7500 to +0.7500, logit_diff 1.000</title></rect>",
    );
    cell("<title>a0.h2: effect −0.5000 ± 0, 95 % interval −0.5000 to −0.5000, logit_diff −4.000</title>");
    cell("fill=\"#b4b7bb\"><title>a1.h2: no such cell</title>");
    cell(">tiny · z · denoise · logit_diff · 2 pairs</text>");
    cell(">m_clean 2.000 · m_corrupted −2.000</text>");
    cell(">layer</text>");
    cell(">head</text>");
    cell(">no such cell</text>");
}

#[test]
fn the_png_is_twice_the_svg_blue_where_positive_red_where_negative_gray_where_nothing_is() {
    let run = heads();
    let tree = resvg::usvg::Tree::from_str(&svg(&run), &resvg::usvg::Options::default()).expect("valid SVG");
    let png = Pixmap::decode_png(&render(&run, Format::Png).expect("a PNG")).expect("a PNG that decodes");
    let size = (tree.size().width() as u32 * 2, tree.size().height() as u32 * 2);
    assert_eq!((png.width(), png.height()), size);
    assert_eq!(pixel(&run, "a1.h1"), color::of(0.75, 0.75));
    assert_eq!(pixel(&run, "a0.h2"), color::of(-0.5, 0.75));
    assert_eq!(pixel(&run, "a0.h1"), color::of(0.0, 0.75));
    assert_eq!(pixel(&run, "a1.h2"), color::MISSING);
    let ([r, _, b], [red, _, blue]) = (color::of(0.75, 0.75), color::of(-0.5, 0.75));
    assert!(b > r && red > blue);
}

#[test]
fn the_bundled_font_draws_the_text() {
    let png = Pixmap::decode_png(&render(&heads(), Format::Png).expect("a PNG")).expect("decodes");
    // The title is the only thing that dark in the upper 80 pixels.
    let dark = png.pixels().iter().take(png.width() as usize * 80).filter(|p| p.red() < 0x60).count();
    assert!(dark > 500, "{dark} dark pixels");
}

#[test]
fn heads_by_position_have_a_row_for_each_head() {
    let axes = vec![Axis::numbered("layer", 2), pos(&["The_0", " end_1"]), Axis::numbered("head", 2)];
    let run = run(vec![site("q", axes, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])]);
    let heatmap = Heatmap::new(&run).expect("a heat map");
    let panel = &heatmap.panels[0];
    assert_eq!(panel.row_labels, ["L0H0", "L0H1", "L1H0", "L1H1"]);
    assert_eq!(panel.col_labels, ["The_0", "␣end_1"]);
    assert_eq!(panel.values, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(panel.cell_name(3, 1), "a1.h1<q>@␣end_1");
    assert_eq!(panel.cell_name(2, 0), "a1.h0<q>@The_0");
    // [layer, pos, head] to [layer and head, pos]: the first cell's neighbour below is the next head.
    let mut other = run.clone();
    other.sites[0].effect[1] = 0.5;
    assert_eq!(Heatmap::new(&other).expect("a heat map").panels[0].values[2], 0.5);
}

#[test]
fn the_scale_is_symmetric_and_shared_by_the_panels() {
    let layers = || vec![Axis::numbered("layer", 2)];
    let two = run(vec![site("attn_out", layers(), &[0.1, -0.9]), site("mlp_out", layers(), &[0.3, f32::INFINITY])]);
    let scales = |run: &RunResult| {
        let panels = Heatmap::new(run).expect("a heat map").panels;
        panels.iter().map(|panel| panel.scale).collect::<Vec<_>>()
    };
    assert_eq!(scales(&two), [Scale::Diverging { limit: 0.9 }; 2]);
    let none = run(vec![site("mlp_out", layers(), &[0.0, NAN])]);
    assert_eq!(scales(&none), [Scale::Diverging { limit: 1.0 }]);
    let svg = svg(&two);
    assert!(svg.contains(">attn_out</text>") && svg.contains(">mlp_out</text>"));
    assert!(svg.contains("<title>m0: effect +0.3000"));
}

#[test]
fn each_site_can_have_a_scale_and_a_bar_of_its_own() {
    let layers = || vec![Axis::numbered("layer", 2)];
    let two = run(vec![site("attn_out", layers(), &[0.1, -0.9]), site("mlp_out", layers(), &[0.01, NAN])]);
    let own = Options { scale: ScaleBy::Site, ..Options::default() };
    let heatmap = Heatmap::with(&two, &own).expect("a heat map");
    let scales: Vec<Scale> = heatmap.panels.iter().map(|panel| panel.scale).collect();
    assert_eq!(scales, [Scale::Diverging { limit: 0.9 }, Scale::Diverging { limit: 0.01 }]);
    let svg = heatmap.to_svg();
    assert_eq!(svg.matches("<linearGradient").count(), 2);
    assert_eq!(svg.matches(">no such cell</text>").count(), 1, "only the second has such a cell");
    assert!(svg.contains("#082f6b\"><title>m0: "), "the largest of its own panel");
    let one = Options { scale: ScaleBy::Site, sites: vec!["mlp_out".into()], ..Options::default() };
    assert_eq!(Heatmap::with(&two, &one).expect("a heat map").panels.len(), 1);
}

#[test]
fn columns_decide_how_panels_wrap() {
    let layers = || vec![Axis::numbered("layer", 4)];
    let names = ["resid_pre", "resid_mid", "attn_out", "mlp_out"];
    let four = run(names.iter().map(|name| site(name, layers(), &[0.1, 0.2, 0.3, 0.4])).collect());
    let heading = |columns: Option<usize>| -> Vec<(String, String)> {
        let svg = Heatmap::with(&four, &Options { columns, ..Options::default() }).expect("a heat map").to_svg();
        let document = resvg::usvg::roxmltree::Document::parse(&svg).expect("XML");
        let headings = document.descendants().filter(|n| n.attribute("font-size") == Some("13"));
        let place = |n: resvg::usvg::roxmltree::Node| ["x", "y"].map(|a| n.attribute(a).unwrap_or("").to_owned());
        headings.map(|n| place(n).into()).collect()
    };
    let distinct = |values: Vec<String>| std::collections::BTreeSet::from_iter(values).len();
    for (columns, rows) in [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1)] {
        let (x, y): (Vec<_>, Vec<_>) = heading(Some(columns)).into_iter().unzip();
        assert_eq!((distinct(x), distinct(y)), (columns.min(4), rows), "{columns}");
    }
}

#[test]
fn rome_has_tokens_downward_layers_across_and_one_hue() {
    let rome = Options { style: Style::Rome, ..Options::default() };
    let axes = vec![Axis::numbered("layer", 2), pos(&["The_0", " Space_1", " end_2"])];
    let by_position = run(vec![site("resid_pre", axes, &[0.0, 0.1, 0.2, 0.3, 0.4, NAN])]);
    let heatmap = Heatmap::with(&by_position, &rome).expect("a heat map");
    let panel = &heatmap.panels[0];
    assert_eq!((panel.x_name(), panel.y_name()), ("layer", "position"));
    assert_eq!(panel.row_labels, ["The_0", "␣Space_1", "␣end_2"]);
    assert_eq!(panel.col_labels, ["0", "1"]);
    assert_eq!(panel.values[..5], [0.0, 0.3, 0.1, 0.4, 0.2]);
    assert_eq!(
        (panel.cell_name(1, 1), panel.cell_name(2, 0)),
        ("resid_pre1@␣Space_1".into(), "resid_pre0@␣end_2".into())
    );
    assert_eq!(panel.scale, Scale::Sequential { low: 0.0, high: 0.4 });
    assert_eq!(panel.scale.color(0.4), color::sequential(color::STEPS - 1));
    assert!(heatmap.to_svg().contains("<title>resid_pre1@␣Space_1: effect +0.4000"));

    // Heads are columns under their layer.
    let axes = vec![Axis::numbered("layer", 2), pos(&["a_0", "b_1"]), Axis::numbered("head", 2)];
    let heads = run(vec![site("q", axes, &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])]);
    let panel = &Heatmap::with(&heads, &rome).expect("a heat map").panels[0];
    assert_eq!(panel.col_labels, ["L0H0", "L0H1", "L1H0", "L1H1"]);
    assert_eq!(panel.values, [0.0, 0.1, 0.4, 0.5, 0.2, 0.3, 0.6, 0.7]);
    assert_eq!(panel.cell_name(1, 2), "a1.h0<q>@b_1");
}

#[test]
fn rome_needs_positions() {
    let rome = |sites: &[&str]| Options {
        style: Style::Rome,
        sites: sites.iter().map(|s| s.to_string()).collect(),
        ..Options::default()
    };
    let refused = |run: &RunResult, options: &Options| {
        let error = Heatmap::with(run, options).expect_err("no positions");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let message = refused(&heads(), &rome(&[]));
    assert!(
        message.contains("style rome needs positions") && message.contains("(z)") && message.contains("--by pos"),
        "{message}"
    );
    // Of a run with both kinds of site, those with positions are drawn, and the picture says so.
    let mut both = heads();
    both.sites.push(site("resid_pre", vec![Axis::numbered("layer", 1), pos(&["a_0"])], &[0.5]));
    let heatmap = Heatmap::with(&both, &rome(&[])).expect("a heat map");
    assert_eq!(heatmap.panels.len(), 1);
    assert!(heatmap.to_svg().contains(">not shown, for want of positions: z</text>"));
    assert!(refused(&both, &rome(&["z"])).contains("which site z of this run has not"));
    assert!(refused(&both, &rome(&["k"])).contains("no site k; it has z, resid_pre"));
    assert!(refused(&both, &rome(&["resid_pre", "resid_pre"])).contains("resid_pre is named twice"));
}

#[test]
fn undefined_effects_show_the_change_of_the_metric_instead() {
    let mut run = heads();
    run.sites[0].effect.fill(NAN);
    run.effect_defined = false;
    let heatmap = Heatmap::new(&run).expect("a heat map");
    assert_eq!(heatmap.panels[0].values[..5], [1.0, 0.0, -2.0, 0.0, 3.0]);
    assert!(heatmap.panels[0].values[5].is_nan());
    let text = svg(&run);
    assert!(text.contains("effect undefined (m_clean ≈ m_corrupted) · colours show m − m_corrupted"));
    assert!(text.contains("<title>a1.h1: m − m_corrupted +3.000, logit_diff 1.000</title>"));
    run.direction = Direction::Noise;
    let noise = Heatmap::new(&run).expect("a heat map");
    assert_eq!((noise.quantity.as_str(), noise.panels[0].values[4]), ("m − m_clean", -1.0));
}

#[test]
fn labels_cannot_break_out_of_the_picture() {
    let evil = pos(&["<script>alert(1)</script>_0", "\"'&_1", "a\nb_2", "</title>\u{1b}\u{202e}_3", "中_4"]);
    let mut run = run(vec![site("resid_pre", vec![Axis::numbered("layer", 1), evil], &[0.1, 0.2, 0.3, 0.4, 0.5])]);
    run.meta.insert("model".into(), json!("<b>&{{data}}</script>"));
    let svg = svg(&run);
    resvg::usvg::roxmltree::Document::parse(&svg).expect("well-formed XML");
    assert!(!svg.contains("<script") && !svg.contains("<b>"));
    assert!(svg.contains("resid_pre0@&lt;script&gt;alert(1)&lt;/script&gt;_0: effect"));
    assert!(svg.contains("resid_pre0@&quot;&#39;&amp;_1"));
    assert!(svg.contains("resid_pre0@a\\nb_2"));
    assert!(svg.contains("\\u{1b}\\u{202e}_3"));
    assert!(svg.contains(">中_4</text>"));
    render(&run, Format::Png).expect("a PNG with characters that the font lacks");

    let html = String::from_utf8(render(&run, Format::Html).expect("HTML")).expect("UTF-8");
    assert_eq!(html.matches("<script").count(), 1);
    assert_eq!(html.matches("</script").count(), 1);
    assert!(html.contains("\\u003cscript\\u003ealert(1)\\u003c/script\\u003e_0"));
}

#[test]
fn the_page_is_complete_in_itself() {
    let html = String::from_utf8(render(&heads(), Format::Html).expect("HTML")).expect("UTF-8");
    assert!(html.starts_with("<!DOCTYPE html>"));
    for outside in ["http", "src=", "href=", "@import", "url(", "{{"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("prefers-color-scheme: dark"));
    // 0.25 and 0 in little-endian float32: the first two effects.
    assert!(html.contains("\"values\":\"AACAPgAAAAA"));
}

#[test]
fn large_sweeps_stay_legible_and_small() {
    let cells = |n: usize| (0..n).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect::<Vec<_>>();
    let wide = vec![Axis::numbered("layer", 32), Axis::numbered("head", 64)];
    let wide = run(vec![site("z", wide, &cells(32 * 64))]);
    let heads = svg(&wide);
    assert!(heads.contains("<title>a31.h63: "));
    assert!(heads.contains(">62</text>") && !heads.contains(">63</text>"), "every second head has room");

    let tokens: Vec<String> = (0..500).map(|i| format!(" token_{i}")).collect();
    let tokens = Axis { name: "pos".into(), labels: tokens };
    let long = vec![Axis::numbered("layer", 32), tokens.clone()];
    let long = svg(&run(vec![site("resid_pre", long, &cells(32 * 500))]));
    let shown = long.matches(">␣token_").count();
    assert!((40..=160).contains(&shown), "{shown} of 500 labels");

    let huge = vec![Axis::numbered("layer", 24), tokens, Axis::numbered("head", 4)];
    let huge = svg(&run(vec![site("z", huge, &cells(24 * 500 * 4))]));
    assert!(huge.len() < 2_000_000, "{} bytes", huge.len());
    assert!(huge.contains("<path fill=\"#"));
}

#[test]
fn the_format_is_the_files_ending() {
    let format = |name: &str| Format::from_path(Path::new(name));
    assert_eq!(format("a/b.SVG").ok(), Some(Format::Svg));
    assert_eq!(format("b.png").ok(), Some(Format::Png));
    assert_eq!(format("b.html").ok(), Some(Format::Html));
    for name in ["b.pdf", "b", "svg", ".png"] {
        let error = format(name).expect_err(name);
        assert!(error.to_string().contains("must end in .svg, .png or .html"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
