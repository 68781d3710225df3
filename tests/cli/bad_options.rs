//! Options that make no sense, contradict each other or the model: one line, exit code 2, and nothing is written.

use crate::scene::{Done, Scene};

#[test]
fn unknown_site() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--sites zz", &["zz", "resid_pre", "pattern"]);
    scene.sweep_refused("--sites z,,q", &["site"]);
    scene.sweep_refused("--sites z,z", &["z", "twice"]);
}

#[test]
fn unknown_metric() {
    Scene::new("gpt2").sweep_refused("--metric accuracy", &["accuracy", "logit_diff", "kl"]);
}

#[test]
fn site_that_no_layer_has() {
    let scene = Scene::new("gpt_neox");
    scene.sweep_refused("--sites resid_mid", &["resid_mid", "gpt_neox", "resid_pre", "resid_post", "pattern"]);
}

#[test]
fn by_head_for_a_site_without_heads() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--sites resid_pre --by head", &["resid_pre", "no heads", "pos"]);
    scene.sweep_refused("--sites z,resid_pre --by head,pos", &["resid_pre", "no heads"]);
    scene.sweep_refused("--by token", &["--by", "token", "head,pos"]);
}

#[test]
fn heads_out_of_range() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--heads a1.h4", &["--heads", "a1.h4", "4 heads"]);
    scene.sweep_refused("--heads a3.h0", &["--heads", "a3.h0", "layers 0 to 2"]);
    scene.sweep_refused("--heads nine", &["--heads", "nine", "a9.h6"]);
    scene.sweep_refused("--heads a1.h1 --by layer", &["--heads", "--by head"]);
    // KV heads are fewer.
    Scene::new("llama").sweep_refused("--sites k --heads a1.h2", &["a1.h2", "2 heads"]);
}

#[test]
fn layers_out_of_range() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--layers 0-3", &["--layers", "0-3", "layers 0 to 2"]);
    scene.sweep_refused("--layers 0-99999999999999999999", &["--layers", "not a layer number"]);
    scene.sweep_refused("--layers 2-1", &["--layers", "2-1", "backward"]);
    scene.sweep_refused("--layers 0 --heads a1.h1", &["--layers and --heads", "no cell"]);
}

#[test]
fn max_memory_too_small() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--max-memory 1MB", &["--max-memory", "at least", "MiB", "weights"]);
}

#[test]
fn max_memory_that_is_no_amount() {
    let scene = Scene::new("gpt2");
    for bad in ["lots", "8parsecs", "-1GiB", "0", "nan"] {
        scene.sweep_refused(&format!("--max-memory={bad}"), &["--max-memory", bad, "8GiB"]);
    }
}

#[test]
fn devices_that_are_not_there() {
    let scene = Scene::new("gpt2");
    let no_driver = patchwave::backend::cuda::nvidia::probe().is_err();
    let mut missing = if no_driver { vec!["cuda", "cuda:1"] } else { Vec::new() };
    if cfg!(not(feature = "emulator")) {
        missing.push("emulated");
    }
    for device in missing {
        scene.sweep_refused(&format!("--device {device}"), &["--device", device, "--device cpu"]);
    }
    for device in ["tpu", "cuda:x", ""] {
        scene.sweep_refused(&format!("--device={device}"), &["--device", device, "auto, cpu, cuda"]);
    }
}

#[test]
fn devices_that_cannot_share_a_sweep() {
    let scene = Scene::new("gpt2");
    for (devices, why) in [
        ("cuda:0,cuda:0", "cuda:0 is named twice"),
        ("cpu,cpu", "the CPU is no device among several"),
        ("cuda:0,cpu", "the CPU is no device among several"),
        ("emulated,cuda:0", "of one kind"),
        ("cuda:all,cuda:1", "by cuda:all alone"),
        ("cuda,cuda:1", "named by its number"),
        ("cuda:0,,cuda:1", "auto, cpu, cuda"),
    ] {
        scene.sweep_refused(&format!("--device {devices}"), &["--device", devices, why]);
    }
}

#[test]
fn commands_for_a_single_device() {
    let scene = Scene::new("gpt2");
    for command in
        ["patch --nodes a0.h0", "capture --sites z --output acts.safetensors", "probe --sites z --label kind"]
    {
        for devices in ["cuda:0,cuda:1", "cuda:all", "emulated,emulated"] {
            let args = format!("{command} --model model --prompts pairs.jsonl --device {devices}");
            scene.refused(&args, &["--device", devices, "takes a single device", "a sweep takes several"]);
        }
    }
}

#[test]
fn dtypes_that_the_cpu_has_not() {
    let scene = Scene::new("gpt2");
    for dtype in ["bfloat16", "bf16x3"] {
        scene.sweep_refused(&format!("--dtype {dtype}"), &["--dtype", dtype, "float32"]);
    }
    scene.sweep_refused("--dtype float8", &["--dtype", "float8", "bf16x3"]);
}

#[test]
fn model_without_prompts() {
    Scene::new("gpt2").refused("sweep --model model", &["--model needs --prompts"]);
    // Nothing is fetched for a command that cannot run.
    Scene::empty().refused("sweep --model owner/name", &["--model needs --prompts"]);
}

#[test]
fn options_that_clap_refuses_take_one_line_too() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--direction sideways", &["sideways", "--direction", "denoise, noise"]);
    scene.sweep_refused("--frobnicate", &["--frobnicate"]);
    scene.sweep_refused("--verify many", &["many", "--verify"]);
    scene.sweep_refused("--patch twice", &["twice", "source, zero, mean"]);
    scene.refused("sweep --model", &["--model", "value is required"]);
    scene.refused("inspect", &["--model"]);
    scene.refused("inspect --model model --tokens 0", &["--tokens", "0"]);
    scene.refused("inspect --model model --tokens 18446744073709551615", &["--tokens"]);
    scene.refused("swep", &["swep", "sweep"]);
}

#[test]
fn unwritable_output() {
    let scene = Scene::new("gpt2");
    scene.write("plain", "a file");
    let sweep = |output: &str| format!("sweep --model model --prompts pairs.jsonl --output {output}");
    scene.refused(&sweep("plain/run"), &["plain/run", "cannot write"]);
    scene.refused(&sweep("plain"), &["plain", "is a file"]);
    scene.refused(&sweep("/proc/patchwave/run"), &["/proc/patchwave/run", "cannot write"]);
    // The folder above could be made; the run's own could not.
    scene.refused(&sweep(&format!("new/{}", "n".repeat(300))), &["nnn", "cannot write"]);
}

#[test]
fn output_that_holds_something_else() {
    let scene = Scene::new("gpt2");
    for how in ["", "--force", "--resume"] {
        let args = format!("sweep --model model --prompts pairs.jsonl --output model {how}");
        scene.refused(&args, &["model", "not empty", "no run"]);
    }
}

#[test]
fn existing_run_without_leave() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    scene.sweep_refused("", &["run", "--resume", "--force"]);
    scene.sweep("--force").ok();
}

#[test]
fn resume_without_a_run() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--resume", &["run", "no run to resume"]);
    std::fs::create_dir(scene.path("run")).expect("a folder");
    scene.sweep_refused("--resume", &["run", "no run to resume"]);
    scene.refused("sweep --resume", &["--output"]);
}

#[test]
fn resume_with_other_options_names_the_key() {
    let scene = Scene::new("gpt2");
    scene.sweep("--metric prob").ok();
    for (other, key) in [
        ("--metric kl", "`metric`"),
        ("--metric prob --sites q", "`sites`"),
        ("--metric prob --by layer", "`by`"),
        ("--metric prob --layers 1", "`layers`"),
        ("--metric prob --heads a1.h1", "`heads`"),
        ("--metric prob --positions end", "`positions`"),
        ("--metric prob --direction noise", "`direction`"),
        ("--metric prob --patch zero --direction denoise", "`patch`"),
        ("--metric prob --correct-only", "`correct_only`"),
        ("--metric prob --align end", "`align`"),
    ] {
        scene.sweep_refused(&format!("{other} --resume"), &["run", key]);
    }
    let before = scene.read("pairs.jsonl");
    scene.write("pairs.jsonl", [&before[..], &before[..]].concat());
    scene.sweep_refused("--metric prob --resume", &["`prompts_sha256`"]);
    scene.write("pairs.jsonl", before);
    scene.tensors(|t| t.values_mut().next().expect("a tensor").fill(0.25));
    scene.sweep_refused("--metric prob --resume", &["`model_sha256`"]);
}

#[test]
fn resume_with_force() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    scene.sweep_refused("--resume --force", &["--resume", "--force", "cannot be used"]);
}

#[test]
fn unknown_picture_extension() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    scene.refused("heatmap run --output picture.jpeg", &["picture.jpeg", ".svg, .png or .html"]);
    scene.refused("heatmap run --output picture", &["picture", ".svg, .png or .html"]);
    scene.refused("heatmap run --output none/picture.svg", &["none/picture.svg", "cannot write"]);
}

#[test]
fn heatmap_of_what_is_no_finished_run() {
    let scene = Scene::new("gpt2");
    scene.refused("heatmap model", &["model", "not a run"]);
    scene.refused("heatmap none", &["none"]);
    scene.refused("heatmap pairs.jsonl", &["pairs.jsonl"]);
    scene.sweep("").ok();
    std::fs::remove_file(scene.path("run/effects.safetensors")).expect("it was there");
    scene.refused("heatmap run", &["run", "unfinished", "--resume"]);
}

#[test]
fn heatmap_of_what_the_run_has_not() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    scene.refused("heatmap run --style rome", &["style rome needs positions", "(z)", "--by pos"]);
    scene.refused("heatmap run --style viridis", &["viridis", "--style", "default, rome"]);
    scene.refused("heatmap run --scale cell", &["cell", "--scale", "run, site"]);
    scene.refused("heatmap run --sites q", &["no site q", "it has z"]);
    scene.refused("heatmap run --sites z,z", &["z is named twice"]);
    scene.refused("heatmap run --columns 0", &["--columns"]);
}

#[test]
fn diff_of_what_cannot_be_compared() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    let sweep = |more: &str| drop(scene.run(&format!("sweep --model model --prompts pairs.jsonl {more}")).ok());
    sweep("--output noise --direction noise");
    sweep("--output sites --sites z,q");
    sweep("--output by --by head,pos");
    scene.refused("diff run noise", &["direction: denoise in the first run, noise in the second"]);
    scene.refused("diff run sites", &["sites: z in the first run, z, q in the second"]);
    scene.refused("diff run by", &["site z, axes: [layer, head] in the first run, [layer, pos, head] in the second"]);
    scene.refused("diff run run --style rome", &["style rome needs positions"]);
    scene.refused("diff run run --output picture.pdf", &["picture.pdf", ".svg, .png or .html"]);
    scene.refused("diff run none", &["none", "no such folder"]);
    scene.refused("diff run", &["<SECOND>"]);
    scene.refused("diff model run", &["model", "not a run"]);
    std::fs::remove_file(scene.path("by/effects.safetensors")).expect("it was there");
    scene.refused("diff run by", &["by", "unfinished", "--resume"]);
}

#[test]
fn a_name_with_line_breaks_still_makes_one_line() {
    let done: Done = Scene::new("gpt2").run_args(&["inspect", "--model", "no\nsuch\u{1b}[31mmodel"]);
    done.failed(2, &["no\\nsuch"]);
}
