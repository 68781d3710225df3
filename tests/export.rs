//! A finished run on disk and in pictures: what numpy, a spreadsheet, a browser and a terminal get to see.

use std::fs;
use std::path::Path;

use patchwave::export::heatmap::{Format, Heatmap, Options, Scale, ScaleBy, Style, color, render};
use patchwave::export::run::{read, write};
use patchwave::export::{Axis, Direction, ExportError, RunResult, SiteEffects, top_cells};
use resvg::tiny_skia::Pixmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const NAN: f32 = f32::NAN;

fn pos(labels: &[&str]) -> Axis {
    Axis { name: "pos".into(), labels: labels.iter().map(|l| l.to_string()).collect() }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

/// A site over two pairs whose runs give −2 (corrupted) and 2 (clean), so that an effect of e is a metric of 4e − 2.
fn site(name: &str, axes: Vec<Axis>, effect: &[f32]) -> SiteEffects {
    let metric = effect.iter().flat_map(|e| [4.0 * e - 2.0; 2]).collect();
    SiteEffects { site: name.into(), axes, effect: effect.to_vec(), metric }
}

fn run(sites: Vec<SiteEffects>) -> RunResult {
    RunResult {
        meta: object(json!({"model": "tiny", "metric": "logit_diff", "patch": "source", "rows_computed": 1234})),
        sites,
        metric_clean: vec![2.0, 2.0],
        metric_corrupted: vec![-2.0, -2.0],
        effect_defined: true,
        direction: Direction::Denoise,
    }
}

/// z by head of a model with 2 layers of 3 heads, the last head of layer 1 missing.
fn heads() -> RunResult {
    let axes = vec![Axis::numbered("layer", 2), Axis::numbered("head", 3)];
    run(vec![site("z", axes, &[0.25, 0.0, -0.5, 0.0, 0.75, NAN])])
}

fn written(run: &RunResult) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), run).expect("a run that can be written");
    dir
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn read_error(dir: &Path) -> (String, u8) {
    let error = read(dir).expect_err("not a readable run");
    (error.to_string(), error.exit_code())
}

fn edit_json(dir: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let path = dir.join("run.json");
    let mut all = object(serde_json::from_slice(&fs::read(&path).expect("run.json")).expect("JSON"));
    edit(&mut all);
    fs::write(path, Value::Object(all).to_string()).expect("written");
}

mod files {
    use super::*;

    #[test]
    fn a_run_comes_back_bit_for_bit() {
        let axes = vec![Axis::numbered("layer", 2), pos(&[" Mary_0", "\n_1", "<script>\"_2"])];
        let mut run = run(vec![heads().sites.remove(0), site("resid_pre", axes, &[0.1, NAN, -0.0, 1e-40, 7.5, -1.0])]);
        run.direction = Direction::Noise;
        run.effect_defined = false;
        let dir = written(&run);
        let back = read(dir.path()).expect("readable");
        assert_eq!(back.meta, run.meta);
        assert_eq!((back.direction, back.effect_defined), (Direction::Noise, false));
        assert_eq!(bits(&back.metric_clean), bits(&run.metric_clean));
        assert_eq!(bits(&back.metric_corrupted), bits(&run.metric_corrupted));
        assert_eq!(back.sites.len(), 2);
        for (back, site) in back.sites.iter().zip(&run.sites) {
            assert_eq!((&back.site, &back.axes), (&site.site, &site.axes));
            assert_eq!(bits(&back.effect), bits(&site.effect));
            assert_eq!(bits(&back.metric), bits(&site.metric));
        }
    }

    #[test]
    fn one_site_has_the_tensors_of_the_contract() {
        let dir = written(&heads());
        let bytes = fs::read(dir.path().join("effects.safetensors")).expect("effects");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let shape = |name: &str| tensors.tensor(name).expect(name).shape().to_vec();
        assert_eq!(tensors.len(), 6);
        assert_eq!((shape("stderr"), shape("interval")), (vec![2, 3], vec![2, 3, 2]));
        assert_eq!((shape("effect"), shape("metric")), (vec![2, 3], vec![2, 3, 2]));
        assert_eq!((shape("metric_clean"), shape("metric_corrupted")), (vec![2], vec![2]));
        assert!(tensors.iter().all(|(_, t)| t.dtype() == Dtype::F32));
        assert_eq!(tensors.tensor("effect").expect("effect").data()[..4], 0.25_f32.to_le_bytes());
        // Data that begin at a multiple of eight can be used where they lie.
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) % 8, 0);
    }

    #[test]
    fn several_sites_have_their_name_in_the_tensor() {
        let mut run = heads();
        run.sites.push(site("mlp_out", vec![Axis::numbered("layer", 2)], &[0.5, 0.0]));
        let dir = written(&run);
        let bytes = fs::read(dir.path().join("effects.safetensors")).expect("effects");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut names = tensors.names();
        names.sort();
        let of_sites =
            ["effect", "interval", "metric", "stderr"].map(|kind| [format!("{kind}.mlp_out"), format!("{kind}.z")]);
        let mut expected: Vec<String> = of_sites.into_iter().flatten().collect();
        expected.extend(["metric_clean", "metric_corrupted"].map(String::from));
        expected.sort();
        assert_eq!(names, expected);
        assert_eq!(tensors.tensor("metric.mlp_out").expect("metric").shape(), [2, 2]);
    }

    #[test]
    fn the_csv_has_a_row_for_each_cell_and_nothing_where_there_is_none() {
        let csv = fs::read_to_string(written(&heads()).path().join("effects.csv")).expect("csv");
        // Both pairs say the same, so the spread is 0.
        let expected = "site,layer,head,effect,mean_metric,n_pairs,stderr,interval_low,interval_high\n\
                        z,0,0,0.25,-1,2,0,0.25,0.25\nz,0,1,0,-2,2,0,0,0\nz,0,2,-0.5,-4,2,0,-0.5,-0.5\n\
                        z,1,0,0,-2,2,0,0,0\nz,1,1,0.75,1,2,0,0.75,0.75\nz,1,2,,,0,,,\n";
        assert_eq!(csv, expected);
    }

    #[test]
    fn the_csv_of_several_sites_has_all_their_axes() {
        let mut run = heads();
        run.sites[0].effect.truncate(3);
        run.sites[0].metric.truncate(6);
        run.sites[0].axes[0] = Axis::numbered("layer", 1);
        run.sites.push(site("resid_pre", vec![Axis::numbered("layer", 1), pos(&["a,\"b\"_0", " c_1"])], &[1.0, 0.5]));
        // The second pair is one token shorter.
        run.sites[1].metric[3] = NAN;
        let csv = fs::read_to_string(written(&run).path().join("effects.csv")).expect("csv");
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(
            lines[0],
            "site,layer,head,pos,pos_label,effect,mean_metric,n_pairs,stderr,interval_low,interval_high"
        );
        assert_eq!(lines[1], "z,0,0,,,0.25,-1,2,0,0.25,0.25");
        assert_eq!(lines[4], "resid_pre,0,,0,\"a,\"\"b\"\"_0\",1,2,2,0,1,1");
        // One pair says nothing about the spread.
        assert_eq!(lines[5], "resid_pre,0,,1, c_1,0.5,0,1,,,");
    }

    #[test]
    fn run_json_says_what_the_tensors_mean() {
        let dir = written(&heads());
        let text = fs::read_to_string(dir.path().join("run.json")).expect("run.json");
        assert!(text.contains("\n  \"model\": \"tiny\""), "pretty: {text}");
        let all: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(all["format_version"], 1);
        assert_eq!(all["direction"], "denoise");
        assert_eq!(all["effect_defined"], true);
        assert_eq!(all["n_pairs"], 2);
        assert_eq!(all["rows_computed"], 1234);
        assert_eq!((&all["mean_metric_clean"], &all["mean_metric_corrupted"]), (&json!(2.0), &json!(-2.0)));
        let axes = json!([{"name": "layer", "labels": ["0", "1"]}, {"name": "head", "labels": ["0", "1", "2"]}]);
        let site = json!({
            "site": "z", "effect": "effect", "metric": "metric", "stderr": "stderr", "interval": "interval",
            "shape": [2, 3], "axes": axes,
        });
        let statistics = json!({
            "stderr": "delta method", "interval": "percentile bootstrap over pairs", "draws": 1000, "level": 0.95,
            "seed": 0,
        });
        assert_eq!(all["statistics"], statistics);
        assert_eq!(all["sites"], json!([site]));
    }

    #[test]
    fn runs_of_early_versions_lack_statistics_and_are_read() {
        let dir = written(&heads());
        let path = dir.path().join("effects.safetensors");
        let bytes = fs::read(&path).expect("effects");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let kept = tensors.iter().filter(|(name, _)| !["stderr", "interval"].contains(name));
        let early = safetensors::serialize(kept, None).expect("serialized");
        fs::write(path, early).expect("written");
        assert!(read_error(dir.path()).0.contains("4 tensors, but run.json speaks of 6"));
        edit_json(dir.path(), |all| drop(all.remove("statistics")));
        let back = read(dir.path()).expect("an early run");
        assert_eq!(bits(&back.sites[0].effect), bits(&heads().sites[0].effect));
    }

    #[test]
    fn a_run_is_four_files_and_the_same_bytes_each_time() {
        let (one, two) = (written(&heads()), written(&heads()));
        let mut names: Vec<String> = fs::read_dir(one.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        assert_eq!(names, ["effects.csv", "effects.safetensors", "heatmap.svg", "run.json"]);
        for name in names {
            assert_eq!(fs::read(one.path().join(&name)).ok(), fs::read(two.path().join(&name)).ok(), "{name}");
        }
    }

    #[test]
    fn a_run_replaces_an_older_one() {
        let dir = written(&heads());
        let mut newer = heads();
        newer.sites[0].effect[0] = 0.125;
        write(dir.path(), &newer).expect("written again");
        assert_eq!(read(dir.path()).expect("readable").sites[0].effect[0], 0.125);
    }

    #[test]
    fn a_write_that_fails_leaves_no_finished_run_and_no_partial_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // A folder where run.json should go: its rename must fail.
        fs::create_dir_all(dir.path().join("run.json/x")).expect("a folder");
        let error = write(dir.path(), &heads()).expect_err("run.json is a folder");
        assert!(error.to_string().contains("run.json: cannot write"), "{error}");
        assert!(!dir.path().join("effects.safetensors").exists());
        let partial = |name: &str| name.ends_with(".partial");
        let left = fs::read_dir(dir.path()).expect("a folder").filter_map(|e| e.ok()?.file_name().into_string().ok());
        assert_eq!(left.filter(|name| partial(name)).count(), 0);
    }

    #[test]
    fn a_full_disk_is_a_failed_run_and_a_forbidden_place_is_bad_usage() {
        let write = |kind: std::io::ErrorKind| ExportError::Write { path: "runs/x".into(), source: kind.into() };
        assert_eq!(write(std::io::ErrorKind::StorageFull).exit_code(), 1);
        assert_eq!(write(std::io::ErrorKind::PermissionDenied).exit_code(), 2);
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = super::write(file.path(), &heads()).expect_err("a file is no folder");
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let broken = |edit: fn(&mut RunResult)| {
            let mut run = heads();
            edit(&mut run);
            write(tempfile::tempdir().expect("a folder").path(), &run).expect_err("inconsistent").to_string()
        };
        assert!(broken(|run| run.sites[0].metric.truncate(11)).contains("11 metrics"));
        assert!(broken(|run| run.sites.clear()).contains("no sites"));
        assert!(broken(|run| run.sites.push(run.sites[0].clone())).contains("there twice"));
        assert!(broken(|run| run.metric_clean.clear()).contains("no pairs"));
        assert!(broken(|run| run.metric_corrupted.truncate(1)).contains("metric_corrupted 1"));
        assert!(broken(|run| run.sites[0].axes.swap(0, 1)).contains("axes [\"head\", \"layer\"]"));
        assert!(broken(|run| drop(run.meta.insert("sites".into(), json!(1)))).contains("meta has `sites`"));
    }
}

mod hostile_folders {
    use super::*;

    #[test]
    fn no_folder_a_file_and_an_empty_folder_are_not_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(read_error(&dir.path().join("none")).0.ends_with("not a run: there is no such folder"));
        let file = dir.path().join("effects.safetensors.txt");
        fs::write(&file, "x").expect("written");
        assert!(read_error(&file).0.contains("it is a file; give the folder"));
        fs::remove_file(file).expect("removed");
        assert_eq!(read_error(dir.path()).1, 2);
        assert!(read_error(dir.path()).0.contains("it has no effects.safetensors"));
    }

    #[test]
    fn an_unfinished_run_says_how_to_finish_it() {
        for file in ["run.json", "effects.csv", "effects.safetensors.partial", "blocks.partial"] {
            let dir = tempfile::tempdir().expect("a folder");
            fs::write(dir.path().join(file), "x").expect("written");
            let (message, code) = read_error(dir.path());
            assert!(message.contains("unfinished") && message.contains("--resume"), "{file}: {message}");
            assert_eq!(code, 2);
        }
    }

    #[test]
    fn effects_without_run_json_mean_nothing() {
        let dir = written(&heads());
        fs::remove_file(dir.path().join("run.json")).expect("removed");
        assert!(read_error(dir.path()).0.contains("no run.json"));
    }

    #[test]
    fn effects_cut_at_any_byte_are_refused() {
        let dir = written(&heads());
        let path = dir.path().join("effects.safetensors");
        let bytes = fs::read(&path).expect("effects");
        for len in [0, 1, 7, 8, 9, 40, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..len]).expect("written");
            let (message, code) = read_error(dir.path());
            assert!(message.contains("not a whole safetensors file"), "{len}: {message}");
            assert_eq!(code, 2);
        }
    }

    #[test]
    fn a_header_that_claims_too_much_is_refused_without_allocating_it() {
        let dir = written(&heads());
        let path = dir.path().join("effects.safetensors");
        let tensor = |shape: &str, end: u64| {
            let header = format!("{{\"effect\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}");
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat()
        };
        for bytes in [
            u64::MAX.to_le_bytes().to_vec(),
            [&(1_u64 << 40).to_le_bytes()[..], b"{}"].concat(),
            tensor("[1099511627776,1099511627776]", 16),
            tensor("[4]", u64::MAX),
            tensor("[3]", 16),
        ] {
            fs::write(&path, bytes).expect("written");
            assert!(read_error(dir.path()).0.contains("not a whole safetensors file"));
        }
    }

    #[test]
    fn tensors_that_contradict_run_json_are_named() {
        let dir = written(&heads());
        edit_json(dir.path(), |all| all["sites"][0]["axes"][1]["labels"] = json!(["0", "1"]));
        assert!(read_error(dir.path()).0.contains("tensor effect is [2, 3], but by run.json it must be [2, 2]"));

        let dir = written(&heads());
        edit_json(dir.path(), |all| all["n_pairs"] = json!(3));
        assert!(read_error(dir.path()).0.contains("tensor metric_clean is [2], but by run.json it must be [3]"));

        let dir = written(&heads());
        edit_json(dir.path(), |all| {
            let mut second = all["sites"][0].clone();
            second["site"] = json!("q");
            all["sites"].as_array_mut().expect("sites").push(second);
        });
        assert!(read_error(dir.path()).0.contains("6 tensors, but run.json speaks of 10"));
    }

    #[test]
    fn run_json_must_be_one_we_understand() {
        let message = |edit: fn(&mut Map<String, Value>)| {
            let dir = written(&heads());
            edit_json(dir.path(), edit);
            let (message, code) = read_error(dir.path());
            assert_eq!(code, 2);
            message
        };
        assert!(message(|all| all["format_version"] = json!(2)).contains("format_version 2; this patchwave reads 1"));
        assert!(message(|all| drop(all.remove("format_version"))).contains("no format_version"));
        assert!(message(|all| drop(all.remove("direction"))).contains("direction"));
        assert!(message(|all| all["direction"] = json!("sideways")).contains("sideways"));
        assert!(message(|all| all["n_pairs"] = json!(-1)).contains("-1"));
        assert!(message(|all| all["n_pairs"] = json!(u64::MAX)).contains("metric_clean"));
        assert!(message(|all| all["sites"] = json!([])).contains("6 tensors, but run.json speaks of 2"));
        let unknown_axis = message(|all| all["sites"][0]["axes"][1]["name"] = json!("neuron"));
        assert!(unknown_axis.contains("axes [\"layer\", \"neuron\"]"), "{unknown_axis}");
        assert!(message(|all| all["sites"][0]["axes"] = json!([])).contains("axes []"));

        let dir = written(&heads());
        fs::write(dir.path().join("run.json"), "{\"format_version\": 1,").expect("written");
        assert!(read_error(dir.path()).0.contains("invalid JSON"));
        fs::write(dir.path().join("run.json"), "[".repeat(100_000)).expect("written");
        assert!(read_error(dir.path()).0.contains("invalid JSON"));
    }
}

mod pictures {
    use super::*;

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
}

mod differences {
    use super::*;
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
        assert_eq!(
            csv.lines().next(),
            Some("site,layer,head,first,second,difference,stderr,interval_low,interval_high")
        );
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
}

mod table {
    use super::*;

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
}
