//! `patchwave bench`: what its reports hold. Times differ from run to run; their form does not.

use crate::scene::Scene;
use serde_json::Value;

const FLOAT32: &[&str] = &["float32"];

fn report(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!(number.is_finite() && number > 0.0, "{number}");
    number
}

/// Every kernel's figures fit together; the kernels' names, each once for each precision.
#[track_caller]
fn kernels(report: &Value, precisions: &[&str]) -> Vec<String> {
    let ceilings = &report["ceilings"];
    let copy = positive(&ceilings["copy"]);
    let products = ceilings["products"].as_array().expect("a list");
    assert_eq!(products.iter().map(|p| p["precision"].as_str().unwrap()).collect::<Vec<_>>(), precisions);
    // Where only one precision is timed, everything is compared with its product.
    let product = |precision: &str| products.iter().find(|p| p["precision"] == precision).unwrap_or(&products[0]);
    let flops = |precision: &str| positive(&product(precision)["flops"]);
    let mut names = Vec::new();
    for kernel in report["kernels"].as_array().expect("a list") {
        let time = &kernel["time"];
        let [min, q1, median, q3] = ["min", "q1", "median", "q3"].map(|q| positive(&time[q]));
        assert!(min <= q1 && q1 <= median && median <= q3, "{time}");
        assert!(time["samples"].as_u64() >= Some(3) && time["calls"].as_u64() >= Some(1), "{time}");
        let (work, bytes) = (kernel["flops"].as_f64().unwrap(), positive(&kernel["bytes"]));
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
        assert!(near(positive(&kernel["bytes_per_second"]), bytes / median), "{kernel}");
        let precision = kernel["precision"].as_str().expect("a name");
        let least = (work / flops(precision)).max(bytes / copy);
        assert!(near(positive(&kernel["share"]), least / median), "{kernel}");
        let name = match kernel["part"].as_str() {
            Some(part) => format!("{} {part}", kernel["op"].as_str().unwrap()),
            None => kernel["op"].as_str().unwrap().to_owned(),
        };
        if kernel["op"] == "gemm" {
            let (max, rms) = (positive(&kernel["error"]["max"]), positive(&kernel["error"]["rms"]));
            let most = if precision == "bfloat16" { 2e-2 } else { 1e-4 };
            assert!(rms <= max && max < most, "{kernel}");
            assert_eq!(kernel["rival"], Value::Null, "nothing to compare with here");
        }
        names.push(name);
    }
    names
}

#[test]
fn every_operation_of_gpt2s_sweep_is_timed() {
    let scene = Scene::empty();
    let done =
        scene.run("bench --like gpt2 --rows 64 --time 0.01 --device cpu --json report.json --output roofline.svg").ok();
    let report = report(&scene.text("report.json"));
    let expected = [
        "gemm qkv",
        "gemm o",
        "head_delta",
        "attention fused",
        "attention segments",
        "patch",
        "differs",
        "gemm up",
        "gemm down",
        "activation",
        "norm",
        "norm_in_place",
        "embed",
        "copy_rows",
        "add",
        "token_logits",
        "log_sum_exp",
        "kl",
    ];
    assert_eq!(kernels(&report, FLOAT32), expected);
    assert_eq!((report["shape"]["rows"].as_u64(), report["rival"].clone()), (Some(64), Value::Null));
    for name in expected {
        assert!(done.out.contains(name), "{name}: {}", done.out);
    }
    assert!(
        done.out.contains("64 × 768 → 2304") && done.out.ends_with("report.json\n\nroofline.svg\n"),
        "{}",
        done.out
    );
    let picture = scene.text("roofline.svg");
    assert!(picture.starts_with("<svg") && picture.contains("gemm qkv") && picture.contains("prefers-color-scheme"));
}

#[test]
fn a_models_own_shapes_without_its_weights() {
    let scene = Scene::new("llama");
    let done = scene.run("bench --model model --rows 9 --pairs 2 --len 6 --time 0.01 --device cpu --json").ok();
    let names = kernels(&report(&done.out), FLOAT32);
    assert!(names.contains(&"gemm gate_up".to_owned()) && names.contains(&"rope".to_owned()), "{names:?}");
}

#[test]
fn a_product_alone() {
    let done = Scene::empty().run("bench --shape 33,20,40 --time 0.01 --device cpu --json").ok();
    let report = report(&done.out);
    assert_eq!(kernels(&report, FLOAT32), ["gemm"]);
    assert_eq!(report["kernels"][0]["shape"], "33 × 40 → 20");
    assert_eq!(report["kernels"][0]["flops"].as_f64(), Some(2.0 * 33.0 * 20.0 * 40.0));
}

/// The breakdown adds up to the time that was measured around it.
#[track_caller]
fn adds_up(report: &Value) {
    let seconds = positive(&report["timed_seconds"]);
    let parts = report["breakdown"].as_array().expect("a list");
    let sum: f64 = parts.iter().map(|p| p["seconds"].as_f64().unwrap()).sum();
    assert!((sum - seconds).abs() <= 1e-6 + 1e-6 * seconds, "{sum} of {seconds}");
    let flops = |p: &&Value| {
        let name = p["operation"].as_str().unwrap();
        name.starts_with("gemm") || name.starts_with("head_delta")
    };
    let gemm: f64 = parts.iter().filter(flops).map(|p| positive(&p["flops"])).sum();
    assert_eq!(gemm, positive(&report["gemm_flops"]));
    assert!(positive(&report["share"]) < 10.0 && positive(&report["row_layers"]) > 0.0);
}

#[test]
fn a_whole_sweep_on_random_weights() {
    let scene = Scene::new("gpt2");
    let done =
        scene.run("bench sweep --model model --pairs 3 --len 6 --time 0.01 --device cpu --json report.json").ok();
    let report = report(&scene.text("report.json"));
    adds_up(&report);
    let runs: Vec<f64> = report["runs"].as_array().unwrap().iter().map(positive).collect();
    assert!(runs.len() == 3 && runs.contains(&positive(&report["seconds"])), "the median of {runs:?}");
    // Both runs of all pairs go through every layer, and the cells' rows come on top.
    let layers = report["layers"].as_f64().unwrap();
    assert!(report["row_layers"].as_f64().unwrap() > 2.0 * 3.0 * 6.0 * layers, "{report}");
    assert_eq!((report["host_seconds"].clone(), report["launch_bound"].clone()), (Value::Null, false.into()));
    for words in ["row-layers/s", "where the time goes", "attention", "head_delta", "between operations (host)"] {
        assert!(done.out.contains(words), "{words}: {}", done.out);
    }
    let fewer =
        scene.run("bench sweep --model model --pairs 3 --len 6 --layers 1 --time 0.01 --device cpu --json").ok();
    assert_eq!(self::report(&fewer.out)["layers"].as_u64(), Some(1));
}

#[cfg(feature = "emulator")]
#[test]
fn the_emulated_device_is_timed_in_every_precision() {
    let scene = Scene::new("llama");
    let args = "--model model --rows 5 --pairs 2 --len 6 --time 0.01 --device emulated --json";
    let all = report(&scene.run(&format!("bench kernels {args}")).ok().out);
    let names = kernels(&all, &["float32", "bf16x3", "bfloat16"]);
    assert_eq!(names.iter().filter(|n| *n == "gemm qkv").count(), 3);
    assert_eq!(names.iter().filter(|n| *n == "norm").count(), 1);
    let error = |precision: &str| {
        let row = all["kernels"].as_array().unwrap().iter();
        let mut row = row.filter(|k| k["part"] == "qkv" && k["precision"] == precision);
        positive(&row.next().expect("a row")["error"]["rms"])
    };
    assert!(error("float32") < error("bf16x3") && error("bf16x3") < error("bfloat16"));
    let one = report(&scene.run(&format!("bench kernels {args} --dtype bfloat16")).ok().out);
    kernels(&one, &["bfloat16"]);
    adds_up(&report(&scene.run(&format!("bench sweep {}", args.replace("--rows 5 ", ""))).ok().out));
}

#[test]
fn what_cannot_be_timed_is_refused_in_one_line() {
    let scene = Scene::new("gpt2");
    for (args, words) in [
        ("--like gpt3", &["--like gpt3", "gpt2", "llama-3-8b"][..]),
        ("--like gpt2 --model model", &["--like", "--model"]),
        ("--shape 4,5", &["--shape 4,5", "M,N,K"]),
        ("--shape 0,5,6", &["--shape 0,5,6"]),
        ("--shape 4,5,6 --rows 7", &["--rows", "--shape"]),
        ("sweep --shape 4,5,6", &["--shape", "kernels"]),
        ("sweep --like gpt2 --output a.svg", &["--output", "--json"]),
        ("--layers 2", &["--layers", "sweep"]),
        ("--output a.png", &["a.png", ".svg"]),
        ("--rows 0", &["--rows"]),
        ("--len 1", &["--len"]),
        ("--time 0", &["--time"]),
        ("--time soon", &["--time"]),
        ("--dtype float16", &["--dtype float16"]),
        ("--device cpu --dtype bfloat16", &["the CPU computes in float32"]),
        ("--max-memory 1MiB", &["--max-memory is 1 MiB"]),
        ("--shape 99999999999,99999999999,99999999999", &["too large for gemm"]),
        ("--rows 4000000000", &["4000000000"]),
        ("sweep --like gpt2 --pairs 65536 --len 1024", &["67108864"]),
        ("sweep --like gpt2 --len 1025", &["1025", "1024"]),
        ("sweep --like gpt2 --max-memory 1MiB", &["at least"]),
        ("--model nowhere/at/all", &["nowhere/at/all"]),
    ] {
        scene.refused(&format!("bench {args}"), words);
    }
}
