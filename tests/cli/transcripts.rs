//! What the program prints, word for word, against `tests/golden/`.
//!
//! `PATCHWAVE_UPDATE_GOLDEN=1 cargo test --release --test cli transcripts` writes the files anew; look at the
//! difference before committing it. What depends on the machine or on weights is masked first: see [`masked`].

use crate::scene::{FIXTURES, Scene};
use std::path::Path;

/// Compares `text` with the golden file `name`.
#[track_caller]
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("PATCHWAVE_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, text).expect("a golden file");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for (n, (ours, theirs)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(ours, theirs, "{name}, line {}; the whole text is:\n{text}", n + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{name}:\n{text}");
}

/// Numbers with a point or an exponent become `N`, colours `#C`, packed numbers `"BASE64"`, the version `VERSION`, the
/// device `DEVICE`; in the lines of a table the width of columns and the bars go, too.
fn masked(text: &str) -> String {
    let text = text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("device: ") {
            out.push_str("device: DEVICE\n");
            continue;
        }
        let line = masked_numbers(line);
        match line.split_once('│') {
            Some((before, _)) => {
                let bar = |word: &&str| word.chars().all(|c| ('▀'..='▟').contains(&c));
                out.push_str(&before.split_whitespace().filter(|word| !bar(word)).collect::<Vec<_>>().join(" "));
            }
            None => out.push_str(&line),
        }
        out.push('\n');
    }
    out
}

fn masked_numbers(line: &str) -> String {
    let (mut out, mut rest) = (String::new(), line);
    while let Some(c) = rest.chars().next() {
        let begins = !out.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '.');
        let (mask, len) = match (float_len(rest), colour_len(rest), base64_len(rest)) {
            (Some(len), _, _) if begins => ("N", len),
            (_, Some(len), _) => ("#C", len),
            (_, _, Some(len)) => ("\"BASE64\"", len),
            _ => ("", c.len_utf8()),
        };
        out.push_str(if mask.is_empty() { &rest[..len] } else { mask });
        rest = &rest[len..];
    }
    out
}

/// Bytes of the number that `text` begins with, if it has a point or an exponent.
fn float_len(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !"+-.e−".contains(c)).unwrap_or(text.len());
    let number = text[..end].trim_end_matches(['.', '-', '+', 'e', '−']);
    let value = number.replace('−', "-");
    (value.contains('.') || value.contains("e-")).then_some(())?;
    value.parse::<f64>().is_ok().then_some(number.len())
}

fn colour_len(text: &str) -> Option<usize> {
    let hex = text.strip_prefix('#')?.get(..6)?;
    hex.bytes().all(|b| b.is_ascii_hexdigit()).then_some(7)
}

/// Bytes of the string of packed numbers that `text` begins with.
fn base64_len(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('"')?;
    let len = inside.find('"')?;
    let packed = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
    (len >= 32 && inside.bytes().take(len).all(packed)).then_some(len + 2)
}

#[test]
fn help_teaches() {
    let scene = Scene::empty();
    for (name, args) in [
        ("help.txt", "--help"),
        ("help-sweep.txt", "sweep --help"),
        ("help-patch.txt", "patch --help"),
        ("help-heatmap.txt", "heatmap --help"),
        ("help-diff.txt", "diff --help"),
        ("help-inspect.txt", "inspect --help"),
        ("help-models.txt", "models --help"),
        ("models.txt", "models"),
        ("help-capture.txt", "capture --help"),
        ("help-probe.txt", "probe --help"),
        ("help-bench.txt", "bench --help"),
    ] {
        golden(name, &scene.run(args).ok().out);
    }
    let nothing = scene.run("");
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(2), ""));
    assert!(nothing.err.contains("Usage:") && nothing.err.contains("sweep"), "{nothing:?}");
    assert_eq!(scene.run("--version").ok().out.trim_end(), concat!("patchwave ", env!("CARGO_PKG_VERSION")));
}

/// The demo's weights may be trained anew, so that only the form of its numbers is held; `tests/demo.rs` holds the rest.
#[test]
fn the_demo_sweeps_twice_in_a_row() {
    let scene = Scene::empty();
    let node = |text: &str| {
        let line = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
            [rank, node, number] if node.starts_with('a') && number == "N" => format!("{rank} aL.hH N\n"),
            _ if line.starts_with("rows computed") => "rows computed\n".to_owned(),
            _ => format!("{line}\n"),
        };
        masked(text).lines().map(line).collect::<String>()
    };
    let first = scene.run("sweep").ok();
    let second = scene.run("sweep").ok();
    golden("demo.txt", &node(&first.out));
    assert_eq!(node(&second.out), node(&first.out).replace("demo-z-1", "demo-z-2"));
    assert_eq!((first.err.as_str(), second.err.as_str()), ("", ""));
    assert!(scene.read("runs/demo-z-1/effects.safetensors") == scene.read("runs/demo-z-2/effects.safetensors"));
}

#[test]
fn the_demo_is_captured_and_probed() {
    let scene = Scene::empty();
    let capture = "capture --sites logits,resid_post,z,pattern --output acts.safetensors";
    golden("capture-demo.txt", &masked(&scene.run(capture).ok().out));
    let few = "capture --sites k --positions A1,end --layers 1 --run clean --format npy --output few";
    golden("capture-demo-npy.txt", &masked(&scene.run(few).ok().out));
    // Is the key that comes back in the first half of the alphabet?
    scene.write("labelled.jsonl", crate::probe::demo_with_labels());
    // The demo's weights may be trained anew: scores are masked, and which layers come first.
    let node = |text: &str| {
        let line =
            |line: &str| if line.starts_with("resid_post") { "resid_postL@POS\n".into() } else { format!("{line}\n") };
        masked(text).lines().map(line).collect::<String>()
    };
    let probe = "probe --prompts labelled.jsonl --positions A1,B,end --label half --folds 4";
    golden("probe-demo.txt", &node(&scene.run(probe).ok().out));
    let files = ["probe.csv", "probe.json", "heatmap.svg", "directions.safetensors"];
    assert!(files.iter().all(|f| scene.path("runs/demo-probe-1").join(f).is_file()));
}

#[test]
fn the_demos_two_heads_patched_together() {
    let scene = Scene::empty();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    let form = |text: &str| masked(text).lines().map(words).collect::<String>();
    let done = scene.run("patch --nodes a0.h5,a1.h3 --output both.csv").ok();
    golden("patch-demo.txt", &form(&done.out));
    assert_eq!(done.err, "");
    let knockout = ["patch", "--nodes", "a1.h3", "--patch", "knockout", "--edges", "B->A2"];
    golden("patch-demo-knockout.txt", &form(&scene.run_args(&knockout).ok().out));
}

#[test]
fn sweeps_of_a_tiny_model() {
    let scene = Scene::new("gpt2");
    golden("sweep-gpt2.txt", &masked(&scene.sweep("").ok().out));
    golden("sweep-gpt2-complete.txt", &masked(&scene.sweep("--resume").ok().out));
    golden("sweep-gpt2-sites.txt", &masked(&scene.sweep("--sites resid_pre,mlp_out,k --force --verify 0").ok().out));
    scene.run("sweep --model model --prompts pairs.jsonl --sites q,k").ok();
    assert!(scene.path("runs/model-q-k-1/effects.safetensors").exists());
}

#[test]
fn inspect_shows_every_family() {
    for case in ["gpt2", "gpt_neox", "gpt_neox_serial", "llama", "mistral", "qwen2_sliding", "qwen3", "smollm3"] {
        let scene = Scene::empty();
        let shown = scene.run_args(&["inspect", "--model", &format!("{FIXTURES}/hf/{case}")]).ok();
        golden(&format!("inspect-{case}.txt"), &shown.out);
        let absent = shown.out.lines().any(|l| l.contains("resid_mid") && l.contains("none"));
        assert_eq!(absent, case == "gpt_neox", "only parallel attention and MLP have no residual between them");
    }
}

#[test]
fn inspect_reads_gguf() {
    let shown = Scene::empty().run_args(&["inspect", "--model", &format!("{FIXTURES}/gguf/tiny-llama.gguf")]).ok();
    golden("inspect-gguf-llama.txt", &shown.out);
}

#[test]
fn heatmaps_are_svg_png_and_html() {
    let scene = Scene::new("gpt2");
    scene.sweep("--sites z,resid_pre").ok();
    for name in ["picture.svg", "picture.png", "picture.html"] {
        let done = scene.run(&format!("heatmap run --output {name}")).ok();
        assert_eq!((done.out, done.err), (format!("{name}\n"), String::new()));
    }
    golden("heatmap.svg", &masked(&scene.text("picture.svg")));
    golden("heatmap.html", &masked(&scene.text("picture.html")));
    assert_eq!(scene.text("run/heatmap.svg"), scene.text("picture.svg"));
    let png = scene.read("picture.png");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB`\x82"));
    assert_eq!(scene.run("heatmap run").ok().out, "run/heatmap.html\n");
    assert_eq!(scene.text("run/heatmap.html"), scene.text("picture.html"));
}

/// Columns are as wide as their numbers are long, so only the words of a line are held.
fn words(text: &str) -> String {
    masked(text).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn two_runs_are_compared() {
    let scene = Scene::new("gpt2");
    scene.sweep("--sites z,resid_pre").ok();
    scene.run("sweep --model model --prompts pairs.jsonl --sites z,resid_pre --patch zero --direction denoise --output zero").ok();
    let done = scene.run("diff run zero --csv cells.csv --top 4").ok();
    golden("diff.txt", &words(&done.out));
    assert_eq!(done.err, "");
    assert!(scene.text("zero/diff-run.html").contains("\"quantity\":\"difference\""));
    let csv = scene.text("cells.csv");
    assert_eq!(
        csv.lines().next(),
        Some("site,layer,head,pos,pos_label,first,second,difference,stderr,interval_low,interval_high")
    );
    assert_eq!(csv.lines().count(), 1 + 3 * 4 + 3 * 6);
    for name in ["difference.svg", "difference.png"] {
        let done = scene.run(&format!("diff run zero --output {name} --scale site --columns 1 --sites z")).ok();
        assert!(done.out.ends_with(&format!("\n{name}\n")), "{}", done.out);
    }
    golden("diff.svg", &masked(&scene.text("difference.svg")));
    golden("diff-same.txt", &words(&scene.run("diff run run --output same.html").ok().out));
}

#[test]
fn heatmaps_in_the_style_of_rome() {
    let scene = Scene::new("gpt2");
    scene.sweep("--sites z,resid_pre").ok();
    let done = scene.run("heatmap run --style rome --output rome.svg").ok();
    assert_eq!((done.out.as_str(), done.err.as_str()), ("rome.svg\n", ""));
    golden("heatmap-rome.svg", &masked(&scene.text("rome.svg")));
    scene.run("heatmap run --style rome --scale site --output rome.html").ok();
    assert!(scene.text("rome.html").contains("\"transposed\":true"));
    scene.run("heatmap run --style default --output plain.svg").ok();
    assert_eq!(scene.text("plain.svg"), scene.text("run/heatmap.svg"));
}
