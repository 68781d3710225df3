//! Captured activations: Hugging Face's numbers, the same bits however they are batched, readable by others.

mod support;

use patchwave::backend::cpu::Cpu;
use patchwave::capture::{
    Asked, CaptureError, Hook, NamedPosition, NpyFolder, Plan, SafetensorsFile, Store, StoreAs, WhichRun, capture,
};
use patchwave::engine::{Model, Site};
use patchwave::model::ModelFiles;
use patchwave::prompts::Pair;
use patchwave::sweep::Limits;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Of the largest number of the tensor.
const TOLERANCE: f32 = 1e-5;

/// Tensors by name: shape and numbers.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let numbers = |t: &safetensors::tensor::TensorView<'_>| match t.dtype() {
        Dtype::F32 => t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::I64 => t.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
        Dtype::F16 => t.data().chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => t.data().iter().map(|b| f32::from(*b)).collect(),
    };
    file.tensors().into_iter().map(|(name, t)| (name, (t.shape().to_vec(), numbers(&t)))).collect()
}

fn everything(spec: &patchwave::model::ModelSpec) -> Asked {
    let sites = Site::ALL.into_iter().filter(|s| (0..spec.n_layers()).any(|l| s.exists(spec, l)));
    Asked {
        runs: vec![WhichRun::Clean, WhichRun::Corrupted],
        hooks: [Hook::Logits].into_iter().chain(sites.map(Hook::Site)).collect(),
        layers: None,
        positions: None,
        store_as: StoreAs::Float32,
    }
}

/// What a capture into one file writes.
fn captured(model: &Model<Cpu>, pairs: &[Pair], asked: Asked, limits: Limits) -> Result<Vec<u8>, CaptureError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("acts.safetensors");
    let plan = Plan::new(&model.spec, pairs, asked, vec![("model".into(), "tiny".into())])?;
    let store = Box::new(SafetensorsFile::create(&path, &plan)?);
    capture(model, pairs, &plan, store, limits, &mut |_| ControlFlow::Continue(()))?;
    Ok(std::fs::read(path).expect("the file is there"))
}

fn tiny(case: &str) -> (Model<Cpu>, Vec<Pair>, Tensors) {
    let dir = Path::new(FIXTURES).join("hf").join(case);
    let files = ModelFiles::open(&dir, &[]).unwrap_or_else(|e| panic!("{case}: {e}"));
    let model = Model::load(Arc::new(files.spec.clone()), &*files.params, Cpu, &|_| ()).expect("it loads");
    let reference = read(&std::fs::read(dir.join("ref.safetensors")).expect("a reference"));
    let (shape, ids) = &reference["ids"];
    let ids: Vec<Vec<u32>> = ids.chunks_exact(shape[1]).map(|r| r.iter().map(|x| *x as u32).collect()).collect();
    let pairs = vec![support::pair(ids[0].clone(), ids[1].clone(), vec![], vec![])];
    (model, pairs, reference)
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(worst <= TOLERANCE * scale, "{what}: off by {worst:e} of {scale}");
}

/// The references hold both prompts, `[2, T, …]`; captures have them apart.
fn halves(numbers: &[f32]) -> [(WhichRun, &[f32]); 2] {
    let (clean, corrupted) = numbers.split_at(numbers.len() / 2);
    [(WhichRun::Clean, clean), (WhichRun::Corrupted, corrupted)]
}

#[test]
fn logits_and_residuals_of_every_family_are_hugging_faces() {
    for cases in support::fixture_families().into_values() {
        for dir in cases {
            let case = dir.file_name().unwrap().to_string_lossy().into_owned();
            let (model, pairs, reference) = tiny(&case);
            let residuals = [Site::ResidPre, Site::ResidPost].map(Hook::Site);
            let hooks = [Hook::Logits].into_iter().chain(residuals).collect();
            let asked = Asked { hooks, ..everything(&model.spec) };
            let got = read(&captured(&model, &pairs, asked, Limits::default()).expect("it captures"));
            let n = model.spec.n_layers();
            let mut names: Vec<(String, String)> = vec![("logits".into(), "logits".into())];
            for layer in 0..n {
                names.push((Site::ResidPre.hook_name(layer), format!("resid.{layer}")));
                names.push((Site::ResidPost.hook_name(layer), format!("resid.{}", layer + 1)));
            }
            for (ours, theirs) in names {
                for (run, want) in halves(&reference[&theirs].1) {
                    let (shape, numbers) = &got[&format!("{}.{ours}", run.name())];
                    assert_eq!(shape[..2], [1, pairs[0].len()], "[pair, pos, …]");
                    assert_close(&format!("{case}: {} {ours}", run.name()), numbers, want);
                }
            }
        }
    }
}

#[test]
fn hooks_inside_a_layer_are_hugging_faces() {
    for case in ["gpt2", "gpt_neox", "qwen3"] {
        let (model, pairs, _) = tiny(case);
        let got = read(&captured(&model, &pairs, everything(&model.spec), Limits::default()).expect("it captures"));
        let hooks = read(&std::fs::read(format!("{FIXTURES}/hooks/{case}.safetensors")).expect("recorded hooks"));
        assert!(hooks.len() >= 7, "{case}");
        for (name, (shape, want)) in &hooks {
            for (run, want) in halves(want) {
                let (ours, numbers) = &got[&format!("{}.{name}", run.name())];
                assert_eq!((ours[0], &ours[1..]), (1, &shape[1..]), "{case}: {name}");
                assert_close(&format!("{case}: {} {name}", run.name()), numbers, want);
            }
        }
        // The softmax of the scores is the pattern, so masked scores are −∞.
        let layer = model.spec.n_layers() - 1;
        let of = |site: Site| &got[&format!("clean.{}", site.hook_name(layer))];
        let (shape, scores) = of(Site::AttnScores);
        let soft: Vec<f32> = scores
            .chunks_exact(shape[3])
            .flat_map(|row| {
                let e: Vec<f32> = row.iter().map(|x| x.exp()).collect();
                let sum: f32 = e.iter().sum();
                e.into_iter().map(move |x| x / sum).collect::<Vec<_>>()
            })
            .collect();
        assert_close(&format!("{case}: softmax of attn_scores"), &soft, &of(Site::Pattern).1);
        assert_eq!(scores[1], f32::NEG_INFINITY, "the first position does not see the second");
    }
}

/// Whatever is in memory together: one prompt, some, or all.
#[test]
fn cut_into_different_batches_no_bit_changes() {
    for seed in 0..4 {
        let model = support::load(support::random_spec(seed), seed);
        let pairs = support::random_pairs(seed, 7, model.spec.d_vocab);
        let all = captured(&model, &pairs, everything(&model.spec), Limits::default()).expect("it captures");
        for limits in [
            Limits { max_rows: 1, cache_bytes: 1 },
            Limits { max_rows: 14, cache_bytes: 1 << 30 },
            Limits { max_rows: 1000, cache_bytes: 300_000 },
        ] {
            let cut = captured(&model, &pairs, everything(&model.spec), limits).expect("it captures");
            assert!(cut == all, "seed {seed}, {limits:?}");
        }
    }
}

/// Prompts of different lengths are packed; each pair's part is what a capture of that pair alone holds.
#[test]
fn packed_tensors_hold_each_pair_at_its_offset() {
    let model = support::load(support::random_spec(11), 11);
    let pairs = support::random_pairs(11, 5, model.spec.d_vocab);
    assert!(pairs.iter().any(|p| p.len() != pairs[0].len()));
    let all = read(&captured(&model, &pairs, everything(&model.spec), Limits::default()).unwrap());
    let offsets = |name: &str| all[name].1.iter().map(|x| *x as usize).collect::<Vec<_>>();
    assert_eq!(offsets("row_offsets"), offsets("token_offsets"));
    for (i, pair) in pairs.iter().enumerate() {
        let alone =
            read(&captured(&model, std::slice::from_ref(pair), everything(&model.spec), Limits::default()).unwrap());
        assert_eq!(all["lengths"].1[i] as usize, pair.len());
        for (name, (shape, want)) in alone.iter().filter(|(n, _)| n.contains('.')) {
            let numbers = &all[name].1;
            let is_matrix = name.contains("attn_scores") || name.contains("pattern");
            let (starts, one) = match is_matrix {
                true => (offsets("matrix_offsets"), shape[1]),
                false => (offsets("row_offsets"), want.len() / pair.len()),
            };
            let part = &numbers[starts[i] * one..starts[i + 1] * one];
            assert!(support::bits(part) == support::bits(want), "{name} of pair {i}");
        }
    }
}

#[test]
fn named_positions_are_rows_of_the_whole() {
    let model = support::load(support::random_spec(3), 3);
    let pairs = support::random_pairs(3, 4, model.spec.d_vocab);
    let last: Vec<usize> = pairs.iter().map(|p| p.len() - 1).collect();
    let named =
        [("end", last), ("1", vec![1; 4])].map(|(label, at)| NamedPosition { label: label.into(), at }).to_vec();
    let asked = Asked { positions: Some(named.clone()), ..everything(&model.spec) };
    let some = read(&captured(&model, &pairs, asked, Limits { max_rows: 9, cache_bytes: 1 << 20 }).unwrap());
    let whole = read(&captured(&model, &pairs, everything(&model.spec), Limits::default()).unwrap());
    assert!(!some.contains_key("row_offsets"), "two rows of every pair need no offsets");
    assert_eq!(some["positions"].0, [4, 2]);
    let starts: Vec<usize> = whole["row_offsets"].1.iter().map(|x| *x as usize).collect();
    for (name, (shape, numbers)) in some.iter().filter(|(n, _)| n.starts_with("clean.")) {
        if name.contains("attn_scores") || name.contains("pattern") {
            continue;
        }
        assert_eq!(shape[..2], [4, 2], "{name}");
        let width: usize = shape[2..].iter().product();
        for (row, got) in numbers.chunks_exact(width).enumerate() {
            let from = starts[row / 2] + named[row % 2].at[row / 2];
            assert_eq!(support::bits(got), support::bits(&whole[name].1[from * width..][..width]), "{name}, row {row}");
        }
    }
    // Destinations are chosen, sources are all.
    let heads = model.spec.attn(0).unwrap().n_heads;
    let (_, got) = &some[&format!("clean.{}", Site::Pattern.hook_name(0))];
    let len = pairs[0].len();
    for (h, rows) in got[..heads * 2 * len].chunks_exact(2 * len).enumerate() {
        let (_, all) = &whole[&format!("clean.{}", Site::Pattern.hook_name(0))];
        let row = |at: usize| &all[(h * len + at) * len..][..len];
        assert_eq!((&rows[..len], &rows[len..]), (row(len - 1), row(1)), "head {h}");
    }
}

/// The numbers behind a `.npy` header: dtype, shape as Python writes it, data.
fn npy(bytes: &[u8]) -> (String, String, &[u8]) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let len = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let text = std::str::from_utf8(&bytes[10..10 + len]).unwrap();
    let after = |key: &str| text.split_once(key).unwrap().1.to_owned();
    let descr = after("'descr': '").split('\'').next().unwrap().to_owned();
    let shape = after("'shape': ").split(')').next().unwrap().trim_end_matches(',').to_owned() + ")";
    (descr, shape, &bytes[10 + len..])
}

#[test]
fn npy_files_hold_the_same_bytes() {
    let (model, pairs, _) = tiny("gpt2");
    let folder = tempfile::tempdir().unwrap();
    let asked = Asked { store_as: StoreAs::Float16, ..everything(&model.spec) };
    let path = folder.path().join("acts");
    let plan = Plan::new(&model.spec, &pairs, asked.clone(), vec![]).unwrap();
    let store = Box::new(NpyFolder::create(&path, &plan).unwrap());
    capture(&model, &pairs, &plan, store, Limits::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    let bytes = captured(&model, &pairs, asked, Limits::default()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), file.len() + 1, "and metadata.json");
    for (name, tensor) in file.tensors() {
        let bytes = std::fs::read(path.join(format!("{name}.npy"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (descr, shape, data) = npy(&bytes);
        assert_eq!(descr, if tensor.dtype() == Dtype::F16 { "<f2" } else { "<i8" }, "{name}");
        let wanted: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
        assert_eq!(shape, format!("({})", wanted.join(", ")), "{name}");
        assert!(data == tensor.data(), "{name}");
    }
}

/// A disk with room for so many bytes.
struct FullAfter {
    left: usize,
    inner: Box<dyn Store>,
}

impl Store for FullAfter {
    fn write(&mut self, tensor: usize, at: u64, bytes: &[u8]) -> Result<(), CaptureError> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| CaptureError::Write {
            path: "acts.safetensors".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        })?;
        self.inner.write(tensor, at, bytes)
    }

    fn finish(self: Box<Self>) -> Result<(), CaptureError> {
        self.inner.finish()
    }
}

#[test]
fn a_full_disk_leaves_no_file() {
    let (model, pairs, _) = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    for npy in [false, true] {
        let path = folder.path().join("acts.safetensors");
        let plan = Plan::new(&model.spec, &pairs, everything(&model.spec), vec![]).unwrap();
        let inner: Box<dyn Store> = match npy {
            true => Box::new(NpyFolder::create(&path, &plan).unwrap()),
            false => Box::new(SafetensorsFile::create(&path, &plan).unwrap()),
        };
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "under a temporary name");
        let store = Box::new(FullAfter { left: 20_000, inner });
        let error = capture(&model, &pairs, &plan, store, Limits::default(), &mut |_| ControlFlow::Continue(()));
        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
        assert!(error.to_string().contains("acts.safetensors: cannot write"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "npy: {npy}");
    }
}

#[test]
fn an_interrupted_capture_leaves_no_file() {
    let (model, pairs, _) = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::new(&model.spec, &pairs, everything(&model.spec), vec![]).unwrap();
    let store = Box::new(SafetensorsFile::create(&folder.path().join("a"), &plan).unwrap());
    let stopped = capture(&model, &pairs, &plan, store, Limits::default(), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(CaptureError::Interrupted)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_there_is_not_replaced() {
    let (model, pairs, _) = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acts.safetensors");
    std::fs::write(&path, "mine").unwrap();
    let plan = Plan::new(&model.spec, &pairs, everything(&model.spec), vec![]).unwrap();
    for error in [SafetensorsFile::create(&path, &plan).err(), NpyFolder::create(&path, &plan).err()] {
        let error = error.expect("refused");
        assert!(matches!(error, CaptureError::Exists { .. }) && error.exit_code() == 2, "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn sites_that_are_not_there_or_named_twice() {
    let (model, pairs, _) = tiny("gpt_neox"); // parallel: no resid_mid
    let refused = |hooks: Vec<Hook>| {
        let asked = Asked { hooks, ..everything(&model.spec) };
        Plan::new(&model.spec, &pairs, asked, vec![]).unwrap_err().to_string()
    };
    let message = refused(vec![Hook::Site(Site::ResidMid)]);
    assert!(message.contains("resid_mid") && message.contains("gpt_neox") && message.contains("logits"), "{message}");
    assert!(refused(vec![Hook::Logits, Hook::Logits]).contains("logits twice"));
    let alone = [Pair { corrupted: vec![], ..pairs[0].clone() }];
    let message = Plan::new(&model.spec, &alone, everything(&model.spec), vec![]).unwrap_err().to_string();
    assert!(message.contains("pair 0") && message.contains("--run clean"), "{message}");
}

#[test]
fn bfloat16_is_not_numpys() {
    let (model, pairs, _) = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let asked = Asked { store_as: StoreAs::Bfloat16, ..everything(&model.spec) };
    let plan = Plan::new(&model.spec, &pairs, asked, vec![]).unwrap();
    let error = NpyFolder::create(&folder.path().join("acts"), &plan).err().expect("refused");
    assert!(error.to_string().contains("bfloat16"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
