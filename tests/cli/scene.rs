//! A temporary folder with a tiny model and prompts in it, and the program run there.

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// How the program ended.
#[derive(Debug)]
pub struct Done {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    /// It did what it was asked.
    #[track_caller]
    pub fn ok(self) -> Done {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It ended with `code` and one line on standard error that holds all of `words`; nothing on standard output.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Done {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.err.starts_with("error: ") && self.err.trim_end().lines().count() == 1, "not one line: {self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        assert_eq!(self.out, "");
        self
    }
}

/// A tensor as it lies in a safetensors file.
#[derive(Debug, Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Stored {
    pub fn fill(&mut self, value: f32) {
        self.data.chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&value.to_le_bytes()));
    }
}

pub type Tensors = BTreeMap<String, Stored>;

/// The one tensor whose name ends like this; files differ in how they begin.
#[track_caller]
pub fn tensor<'t>(tensors: &'t mut Tensors, ending: &str) -> &'t mut Stored {
    let found = tensors.iter_mut().find(|(name, _)| name.ends_with(ending));
    found.unwrap_or_else(|| panic!("no tensor {ending}")).1
}

/// The folder in which the program runs. Holds `model/` and `pairs.jsonl`.
pub struct Scene {
    dir: TempDir,
}

impl Scene {
    /// With a copy of the fixture `case` of `tests/fixtures/hf` and three pairs of 6 tokens.
    pub fn new(case: &str) -> Scene {
        let scene = Scene::empty();
        fs::create_dir(scene.path("model")).expect("a new folder");
        for entry in fs::read_dir(Path::new(FIXTURES).join("hf").join(case)).expect("the fixture").flatten() {
            let name = entry.file_name();
            if name != "ref.safetensors" && name != "config_v5.json" {
                fs::copy(entry.path(), scene.path("model").join(name)).expect("a copy");
            }
        }
        scene.pairs(&pairs_of_lengths(&[6, 6, 6]));
        scene
    }

    pub fn empty() -> Scene {
        Scene { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("a file in a temporary folder");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).expect("text")
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).expect("JSON")
    }

    /// Replaces the prompts.
    pub fn pairs(&self, pairs: &[Value]) {
        self.write("pairs.jsonl", pairs.iter().map(|p| format!("{p}\n")).collect::<String>());
    }

    /// Changes keys of the model's config.
    pub fn config(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut config = self.json("model/config.json");
        change(config.as_object_mut().expect("an object"));
        self.write("model/config.json", config.to_string());
    }

    /// Changes tensors of the model's one weight file.
    pub fn tensors(&self, change: impl FnOnce(&mut Tensors)) {
        let bytes = self.read("model/model.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("a fixture");
        let stored = |t: safetensors::tensor::TensorView<'_>| Stored {
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            data: t.data().to_vec(),
        };
        let mut tensors = file.tensors().into_iter().map(|(name, t)| (name, stored(t))).collect();
        change(&mut tensors);
        self.write("model/model.safetensors", safetensors_file(&tensors));
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_patchwave"));
        command.current_dir(self.dir.path()).args(args.split_whitespace()).stdin(Stdio::null());
        // tests/hub has a hub of its own; nothing here may ask the real one.
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("huggingface"));
        command
    }

    /// Runs the program with arguments that are parted by spaces.
    pub fn run(&self, args: &str) -> Done {
        self.run_args(&args.split_whitespace().collect::<Vec<_>>())
    }

    pub fn run_args(&self, args: &[&str]) -> Done {
        let output = self.command("").args(args).output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// `sweep` of the folder's model and prompts into `run`.
    pub fn sweep(&self, more: &str) -> Done {
        self.run(&sweep_args(more))
    }

    /// Starts that sweep and does not wait.
    pub fn start_sweep(&self, more: &str) -> Child {
        self.start(&sweep_args(more))
    }

    /// Starts the program and does not wait.
    pub fn start(&self, args: &str) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    /// The least `--max-memory`, in bytes, with which that sweep runs: each wave is then one item or a few.
    pub fn least_memory(&self, more: &str) -> u64 {
        let refused = self.sweep(&format!("{more} --force --max-memory 1")).failed(2, &["at least"]);
        let (_, after) = refused.err.split_once("at least ").expect("it says how much is needed");
        after.split(' ').next().and_then(|n| n.parse().ok()).expect("a number of bytes")
    }

    /// The program refuses: exit code 2, one line with `words`, and every file is as it was.
    #[track_caller]
    pub fn refused(&self, args: &str, words: &[&str]) {
        let before = self.files();
        self.run(args).failed(2, words);
        assert_eq!(self.files(), before, "something was written");
    }

    #[track_caller]
    pub fn sweep_refused(&self, more: &str, words: &[&str]) {
        self.refused(&sweep_args(more), words);
    }

    /// Every file and folder with its length.
    pub fn files(&self) -> BTreeMap<PathBuf, u64> {
        let (mut all, mut folders) = (BTreeMap::new(), vec![self.dir.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let about = entry.metadata().expect("a file");
                all.insert(entry.path(), if about.is_dir() { 0 } else { about.len() });
                if about.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        all
    }

    /// `effects.safetensors` of the run `name`.
    pub fn effects(&self, name: &str) -> Effects {
        let bytes = self.read(&format!("{name}/effects.safetensors"));
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let values = |t: safetensors::tensor::TensorView<'_>| {
            assert_eq!(t.dtype(), Dtype::F32);
            let numbers = t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            (t.shape().to_vec(), numbers)
        };
        Effects(file.tensors().into_iter().map(|(name, t)| (name, values(t))).collect())
    }
}

fn sweep_args(more: &str) -> String {
    format!("sweep --model model --prompts pairs.jsonl --output run {more}")
}

/// A run's tensors, all float32.
pub struct Effects(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Effects {
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    #[track_caller]
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    #[track_caller]
    pub fn values(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }

    /// One number.
    #[track_caller]
    pub fn at(&self, name: &str, index: &[usize]) -> f32 {
        let (shape, values) = &self.0[name];
        assert!(shape.len() == index.len() && index.iter().zip(shape).all(|(i, n)| i < n), "{index:?} of {shape:?}");
        values[index.iter().zip(shape).fold(0, |at, (i, n)| at * n + i)]
    }
}

/// A pair of token ids whose answer is 5, not 9.
pub fn pair(clean: &[u32], corrupted: &[u32]) -> Value {
    json!({"clean": clean, "corrupted": corrupted, "answer": 5, "wrong": 9})
}

/// Pairs of these lengths, ids below 60, that differ at position 2 only.
pub fn pairs_of_lengths(lengths: &[usize]) -> Vec<Value> {
    let pair_of = |(i, &len): (usize, &usize)| {
        let clean: Vec<u32> = (0..len).map(|t| ((7 * t + 13 * i + t * t) % 60) as u32).collect();
        let mut corrupted = clean.clone();
        corrupted[2] = (corrupted[2] + 11 + i as u32 % 40) % 60;
        pair(&clean, &corrupted)
    };
    lengths.iter().enumerate().map(pair_of).collect()
}

/// A safetensors file with this header, whatever it says.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub fn safetensors_file(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, t) in tensors {
        let offsets = [data.len(), data.len() + t.data.len()];
        header.insert(name.clone(), json!({"dtype": t.dtype.to_string(), "shape": t.shape, "data_offsets": offsets}));
        data.extend(&t.data);
    }
    let header = Value::Object(header).to_string();
    let width = header.len().next_multiple_of(8);
    with_header(&format!("{header:<width$}"), &data)
}

/// A tokenizer of whole words that are parted by spaces; ids count from 0 in this order.
pub fn word_tokenizer(words: &[&str]) -> String {
    let vocab: Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": words[0]},
    })
    .to_string()
}
