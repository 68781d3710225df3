//! Stopping a sweep and going on: after `kill -9`, after Ctrl-C, after a damaged block.

use crate::scene::{Scene, pairs_of_lengths};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

const JOURNAL: &str = "run/effects.blocks.partial";
const EFFECTS: &str = "run/effects.safetensors";

/// A scene whose sweep with these options takes thousands of waves, each of one item.
fn long_sweep() -> (Scene, String) {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[16; 40]));
    let options = "--sites z,q,k,v,pattern --by head,pos --verify 2";
    let least = scene.least_memory(options);
    (scene, format!("{options} --max-memory {least}"))
}

/// Waits until the sweep has written some blocks.
fn under_way(scene: &Scene, child: &mut Child) {
    let started = Instant::now();
    while std::fs::metadata(scene.path(JOURNAL)).map_or(0, |m| m.len()) < 4000 {
        assert!(child.try_wait().expect("a child").is_none(), "the sweep ended too soon");
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was written for a minute");
        sleep(Duration::from_millis(1));
    }
}

/// Finishes the run and compares it with one that nothing disturbed, which ran in larger waves, too.
fn finish_and_compare(scene: &Scene, options: &str) {
    assert!(!scene.path(EFFECTS).exists(), "only a complete run has effects.safetensors");
    scene.run("heatmap run").failed(2, &["unfinished", "--resume"]);
    scene.sweep_refused(options, &["run", "--resume", "--force"]);
    scene.sweep(&format!("{options} --resume")).ok();
    assert!(!scene.path(JOURNAL).exists());
    let run = scene.json("run/run.json");
    assert!(run["items"]["resumed"].as_u64() > Some(100), "{}", run["items"]);
    let resumed = scene.read(EFFECTS);
    let in_one_go = options.split(" --max-memory").next().expect("options");
    scene.sweep(&format!("{in_one_go} --force")).ok();
    assert!(scene.read(EFFECTS) == resumed, "a resumed run has the same bits");
}

#[test]
fn a_killed_sweep_goes_on_to_the_same_bits() {
    let (scene, options) = long_sweep();
    let mut child = scene.start_sweep(&options);
    under_way(&scene, &mut child);
    child.kill().expect("kill -9");
    child.wait().expect("it ends");
    finish_and_compare(&scene, &options);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_run_that_can_go_on_and_says_how() {
    let (scene, options) = long_sweep();
    let mut child = scene.start_sweep(&options);
    under_way(&scene, &mut child);
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in ["error: interrupted", "--output run", "--resume"] {
        assert!(said.contains(word), "{said}");
    }
    finish_and_compare(&scene, &options);
}

#[test]
fn a_block_that_was_cut_off_is_lost_and_computed_again() {
    let (scene, options) = long_sweep();
    let mut child = scene.start_sweep(&options);
    under_way(&scene, &mut child);
    child.kill().expect("kill -9");
    child.wait().expect("it ends");
    let journal = scene.read(JOURNAL);
    scene.write(JOURNAL, &journal[..journal.len() - 5]);
    finish_and_compare(&scene, &options);
}

#[test]
fn resuming_a_complete_run_says_so_and_touches_nothing() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    let before = scene.read("run/run.json");
    let done = scene.sweep("--resume").ok();
    assert!(done.out.contains("complete") && done.out.contains("a0.h0"), "{done:?}");
    assert_eq!(scene.read("run/run.json"), before);
}

#[test]
fn a_journal_that_is_none_is_refused() {
    let scene = Scene::new("gpt2");
    std::fs::create_dir(scene.path("run")).expect("a folder");
    for journal in ["", "no plan", "[1]\n", "{}\n"] {
        scene.write(JOURNAL, journal);
        scene.sweep_refused("--resume", &["run"]);
    }
    scene.sweep("--force").ok();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scene = Scene::new("gpt2");
    let mut child = scene.start_sweep("");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert!(scene.path(EFFECTS).exists());
    for args in ["--help", "sweep --help", "inspect --model model", "heatmap run"] {
        let mut child = scene.start(args);
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(0) && said.is_empty(), "{args}: {:?} {said}", output.status);
    }
}
