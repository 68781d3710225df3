//! Models of the hub: a server on this machine plays the hub (`server.rs`), and everything ends up in a cache of its own.

mod server;

use patchwave::model::hub::{HubError, Progress};
use patchwave::model::{Hub as Client, ModelError, ModelFiles, Snapshot};
use serde_json::{Value, json};
use server::{Files, Hub, Repository, Serve, commit, sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A tiny model as a repository has it, beside files that nobody needs.
fn model(case: &str) -> Files {
    let folder = Path::new(FIXTURES).join("hf").join(case);
    let mut files = Files::new();
    for entry in fs::read_dir(folder).expect("the fixture").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        if name != "ref.safetensors" && name != "config_v5.json" {
            files.insert(name, fs::read(entry.path()).expect("a file"));
        }
    }
    files.insert("tokenizer.json".to_owned(), words().into_bytes());
    files.insert("tokenizer_config.json".to_owned(), b"{\"bos_token\": null}".to_vec());
    for unneeded in ["README.md", "tf_model.h5", "pytorch_model.bin", "onnx/model.onnx"] {
        files.insert(unneeded.to_owned(), b"nobody needs this".to_vec());
    }
    files
}

/// A tokenizer of three words.
fn words() -> String {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"the": 0, "cat": 1, "sat": 2}, "unk_token": "the"},
    })
    .to_string()
}

/// A model whose weights are a pickle that torch wrote.
fn pickled() -> Files {
    let mut files = model("llama_mqa_bf16");
    files.remove("model.safetensors");
    let weights = fs::read(Path::new(FIXTURES).join("torch/llama_mqa_bf16.bin")).expect("the fixture");
    files.insert("pytorch_model.bin".to_owned(), weights);
    files
}

struct Scene {
    hub: Hub,
    dir: TempDir,
}

impl Scene {
    /// A hub with `owner/tiny`.
    fn new() -> Scene {
        let scene = Scene { hub: Hub::start(), dir: tempfile::tempdir().expect("a temporary folder") };
        scene.hub.add("owner/tiny", model("gpt2"));
        scene
    }

    fn client(&self) -> Client {
        let (cache, endpoint) = (self.dir.path().join("hub"), self.hub.endpoint());
        Client { cache, endpoint, token: None, offline: false }
    }

    fn fetch(&self, id: &str) -> Result<Snapshot, ModelError> {
        self.client().fetch(&id.parse()?, &())
    }

    #[track_caller]
    fn fetched(&self, id: &str) -> Snapshot {
        self.fetch(id).unwrap_or_else(|e| panic!("{e}"))
    }

    #[track_caller]
    fn refused(&self, id: &str, words: &[&str]) -> HubError {
        refused(self.fetch(id), words)
    }

    /// The program, with nothing of this machine's own settings.
    fn run(&self, args: &str, settings: &[(&str, &str)]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_patchwave"));
        command.current_dir(self.dir.path()).args(args.split_whitespace());
        for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("HF_") || n.starts_with("HUGGING")) {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.dir.path()).env("HF_ENDPOINT", self.hub.endpoint()).env("NO_PROXY", "127.0.0.1");
        let output = command.envs(settings.iter().copied()).output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn fails(&self, args: &str, settings: &[(&str, &str)], code: i32, words: &[&str]) {
        let (found, out, err) = self.run(args, settings);
        assert!(found == Some(code) && out.is_empty(), "{found:?} {out} {err}");
        assert!(err.starts_with("error: ") && err.trim_end().lines().count() == 1, "not one line: {err}");
        assert!(words.iter().all(|w| err.contains(w)), "{err:?} lacks one of {words:?}");
    }
}

#[track_caller]
fn refused(result: Result<Snapshot, ModelError>, words: &[&str]) -> HubError {
    let error = match result {
        Err(ModelError::Hub(e)) => *e,
        other => panic!("{other:?}"),
    };
    let message = error.to_string();
    assert!(words.iter().all(|w| message.contains(w)) && !message.contains('\n'), "{message:?} lacks one of {words:?}");
    error
}

#[track_caller]
fn hash(path: &Path) -> String {
    ModelFiles::open(path, &[]).and_then(|m| m.sha256()).unwrap_or_else(|e| panic!("{e}"))
}

fn fixture(case: &str) -> PathBuf {
    Path::new(FIXTURES).join("hf").join(case)
}

/// The files that were asked for with their content, without what is asked for about them.
fn contents(asked: &[String]) -> Vec<&str> {
    let wanted = asked.iter().filter(|a| a.contains("/resolve/") && !a.ends_with(" 0-0"));
    wanted.map(|a| a.rsplit('/').next().unwrap_or_default()).collect()
}

// ---------------------------------------------------------------------------------------------- what is fetched

#[test]
fn only_what_is_needed_is_fetched_into_the_standard_cache() {
    let scene = Scene::new();
    let snapshot = scene.fetched("owner/tiny");
    let (root, at) = (scene.dir.path().join("hub/models--owner--tiny"), commit("owner/tiny", "main"));
    assert_eq!(snapshot.commit, at);
    assert_eq!(snapshot.path, root.join("snapshots").join(&at));
    assert_eq!(fs::read_to_string(root.join("refs/main")).expect("the branch"), at);
    let mut names: Vec<_> = fs::read_dir(&snapshot.path).expect("a folder").flatten().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    // Links to blobs under the hub's hashes, as huggingface_hub makes them.
    let weights = fs::read(fixture("gpt2").join("model.safetensors")).expect("the fixture");
    let link = fs::read_link(snapshot.path.join("model.safetensors")).expect("a link");
    assert_eq!(link, Path::new("../../blobs").join(sha256(&weights)));
    assert!(root.join(".no_exist").join(&at).join("special_tokens_map.json").exists());
    assert!(!root.join(".partial").exists(), "what was staged is gone");
    assert_eq!(hash(&snapshot.path), hash(&fixture("gpt2")));
}

#[test]
fn what_is_complete_in_the_cache_needs_no_hub() {
    let scene = Scene::new();
    let first = scene.fetched("owner/tiny");
    scene.hub.asked();
    assert_eq!(scene.fetched("owner/tiny"), first);
    assert_eq!(scene.fetched(&format!("owner/tiny@{}", first.commit)).path, first.path);
    assert_eq!(scene.hub.asked(), [""; 0]);
    let down = Client { endpoint: "http://127.0.0.1:9".to_owned(), ..scene.client() };
    assert_eq!(down.fetch(&first.id, &()).expect("from the cache"), first);
}

#[test]
fn revisions_are_different_models() {
    let scene = Scene::new();
    let (main, step) = (model("gpt2"), model("gpt2_inverse_layer"));
    let revisions = [("main", main), ("step1000", step.clone()), ("refs/pr/1", step)];
    let revisions = revisions.into_iter().map(|(name, files)| (name.to_owned(), files)).collect();
    scene.hub.state().repositories.insert("owner/steps".into(), Repository { revisions, ..Repository::default() });
    assert_eq!(hash(&scene.fetched("owner/steps").path), hash(&fixture("gpt2")));
    let step = scene.fetched("owner/steps@step1000");
    assert_eq!(hash(&step.path), hash(&fixture("gpt2_inverse_layer")));
    assert_eq!(step.id.name(), "steps@step1000");
    scene.hub.asked();
    // Another name for the same bytes: they are not fetched again.
    assert_eq!(hash(&scene.fetched("owner/steps@refs/pr/1").path), hash(&step.path));
    assert_eq!(contents(&scene.hub.asked()), [""; 0]);
}

#[test]
fn an_old_name_leads_to_the_new_one() {
    let scene = Scene::new();
    let moved = Repository { moved_to: Some("owner/tiny".into()), ..Repository::default() };
    scene.hub.state().repositories.insert("tiny".into(), moved);
    assert_eq!(hash(&scene.fetched("tiny").path), hash(&fixture("gpt2")));
}

#[test]
fn shards_of_safetensors() {
    let scene = Scene::new();
    scene.hub.add("owner/shards", model("llama"));
    assert_eq!(hash(&scene.fetched("owner/shards").path), hash(&fixture("llama")));
    // One that is gone is fetched again, alone.
    let snapshot = scene.fetched("owner/shards").path;
    let shard = fs::read_dir(&snapshot)
        .expect("a folder")
        .flatten()
        .find(|e| e.path().extension() == Some("safetensors".as_ref()));
    let shard = shard.expect("a shard").path();
    fs::remove_file(shard.canonicalize().expect("a link")).expect("a blob");
    scene.hub.asked();
    assert_eq!(hash(&scene.fetched("owner/shards").path), hash(&fixture("llama")));
    assert_eq!(contents(&scene.hub.asked()).len(), 1);
}

#[test]
fn a_repository_that_has_only_a_pickle() {
    let scene = Scene::new();
    scene.hub.add("owner/old", pickled());
    let path = scene.fetched("owner/old").path;
    let read = |path: &Path| {
        let model = ModelFiles::open(path, &[]).unwrap_or_else(|e| panic!("{e}"));
        let mut all = vec![];
        for p in model.spec.params() {
            let mut out = vec![0.0; p.shape.iter().product()];
            model.params.read(&p.name, &mut out).unwrap_or_else(|e| panic!("{e}"));
            all.extend(out.into_iter().map(f32::to_bits));
        }
        all
    };
    assert_eq!(read(&path), read(&fixture("llama_mqa_bf16")));
}

#[test]
fn gguf_files_are_named() {
    let scene = Scene::new();
    let gguf = fs::read(Path::new(FIXTURES).join("gguf/tiny-llama.gguf")).expect("the fixture");
    let files = [("README.md".to_owned(), vec![1]), ("tiny.Q4_0.gguf".to_owned(), gguf)].into();
    scene.hub.add("owner/tiny-GGUF", files);
    let error = scene.refused("owner/tiny-GGUF", &["only GGUF files", "owner/tiny-GGUF:tiny.Q4_0.gguf"]);
    assert_eq!(error.exit_code(), 2);
    let snapshot = scene.fetched("owner/tiny-GGUF:tiny.Q4_0.gguf");
    assert_eq!(snapshot.id.name(), "tiny.Q4_0");
    assert!(ModelFiles::open(&snapshot.path, &[]).is_ok());
    scene.refused("owner/tiny-GGUF:other.gguf", &["no other.gguf", "tiny.Q4_0.gguf"]);
}

#[test]
fn a_tokenizer_that_another_program_did_not_fetch_is_fetched() {
    let scene = Scene::new();
    let snapshot = scene.fetched("owner/tiny");
    fs::remove_file(snapshot.path.join("tokenizer_config.json")).expect("it was there");
    // Where nobody can be asked, it is said.
    let offline = Client { offline: true, ..scene.client() };
    assert_eq!(offline.fetch(&snapshot.id, &()).expect("usable").unknown, ["tokenizer_config.json"]);
    let down = Client { endpoint: "http://127.0.0.1:9".to_owned(), ..scene.client() };
    assert_eq!(down.fetch(&snapshot.id, &()).expect("usable").unknown, ["tokenizer_config.json"]);
    assert_eq!(scene.fetched("owner/tiny").unknown, [""; 0]);
    assert!(snapshot.path.join("tokenizer_config.json").exists());
}

#[test]
fn progress_counts_every_byte() {
    #[derive(Default)]
    struct Count {
        files: AtomicU64,
        expected: AtomicU64,
        read: AtomicU64,
    }
    impl Progress for Count {
        fn begin(&self, _: &str, bytes: u64) {
            self.expected.store(bytes, Ordering::Relaxed);
            self.read.store(0, Ordering::Relaxed);
        }
        fn advance(&self, bytes: u64) {
            self.read.fetch_add(bytes, Ordering::Relaxed);
        }
        fn end(&self) {
            assert_eq!(self.read.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed));
            self.files.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (scene, count) = (Scene::new(), Count::default());
    scene.hub.serve(Serve::Cut { after: 10_000, times: 1 });
    scene.client().fetch(&"owner/tiny".parse().expect("an id"), &count).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(count.files.into_inner(), 4);
}

// ---------------------------------------------------------------------------------------------- what breaks off

#[test]
fn a_broken_connection_is_taken_up_again() {
    let scene = Scene::new();
    scene.hub.serve(Serve::Cut { after: 30_000, times: 3 });
    assert_eq!(hash(&scene.fetched("owner/tiny").path), hash(&fixture("gpt2")));
    let asked = scene.hub.asked();
    let ranges =
        asked.iter().filter(|a| a.contains("/cdn/") && !a.ends_with(" 0-0")).filter_map(|a| a.rsplit(' ').next());
    let of_weights: Vec<_> = ranges.collect();
    assert!(of_weights.contains(&"30000-") && of_weights.contains(&"60000-"), "{of_weights:?}");
}

#[test]
fn a_half_downloaded_file_is_never_taken_for_a_whole_one() {
    let scene = Scene::new();
    scene.hub.serve(Serve::Cut { after: 20_000, times: 5 });
    let error = scene.refused("owner/tiny", &["model.safetensors", "broke off", "goes on where it stopped"]);
    assert_eq!(error.exit_code(), 1);
    let snapshot = scene.client().cache.join("models--owner--tiny/snapshots").join(commit("owner/tiny", "main"));
    assert!(snapshot.join("config.json").exists() && !snapshot.join("model.safetensors").exists());
    // Without the hub it is incomplete, and not used.
    let down = Client { endpoint: "http://127.0.0.1:9".to_owned(), ..scene.client() };
    refused(down.fetch(&"owner/tiny".parse().expect("an id"), &()), &["cannot be reached"]);
    // With it, the rest is fetched.
    scene.hub.asked();
    assert_eq!(hash(&scene.fetched("owner/tiny").path), hash(&fixture("gpt2")));
    let asked = scene.hub.asked();
    assert!(asked.iter().any(|a| a.contains("/resolve/") && a.contains("model.safetensors 100000-")), "{asked:?}");
}

#[test]
fn a_server_that_ignores_ranges_does_no_harm() {
    let scene = Scene::new();
    scene.hub.serve(Serve::Cut { after: 20_000, times: 5 });
    scene.refused("owner/tiny", &["broke off"]);
    scene.hub.serve(Serve::IgnoringRanges);
    let error = scene.refused("owner/tiny", &["model.safetensors", "not the hub's file", "instead of", "thrown away"]);
    assert_eq!(error.exit_code(), 1);
    assert_eq!(hash(&scene.fetched("owner/tiny").path), hash(&fixture("gpt2")));
}

#[test]
fn a_damaged_file_is_thrown_away() {
    let scene = Scene::new();
    scene.hub.serve(Serve::Damaged);
    assert_eq!(scene.refused("owner/tiny", &["not the hub's file", "SHA-256"]).exit_code(), 1);
    scene.hub.serve(Serve::Well);
    assert_eq!(hash(&scene.fetched("owner/tiny").path), hash(&fixture("gpt2")));
}

#[test]
fn an_etag_that_leaves_the_folder() {
    let scene = Scene::new();
    for etag in ["../../../../evil", "", "a/b", "a.part"] {
        scene.hub.serve(Serve::UnderEtag(etag));
        scene.refused("owner/tiny", &["headers of model.safetensors"]);
    }
    let names = fs::read_dir(scene.dir.path()).expect("a folder").flatten().map(|e| e.file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["hub"]);
}

#[test]
fn hub_down() {
    let scene = Scene::new();
    let down = Client { endpoint: "http://127.0.0.1:9".to_owned(), ..scene.client() };
    let error = refused(
        down.fetch(&"owner/tiny".parse().expect("an id"), &()),
        &["http://127.0.0.1:9 cannot be reached", "owner/tiny"],
    );
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn something_that_is_no_hub() {
    let scene = Scene::new();
    let files = scene.client();
    let elsewhere = Client { endpoint: format!("{}/cdn", scene.hub.endpoint()), ..files };
    refused(elsewhere.fetch(&"owner/tiny".parse().expect("an id"), &()), &["no such repository"]);
}

// ---------------------------------------------------------------------------------------------- what is refused

#[test]
fn no_such_repository_and_no_such_revision() {
    let scene = Scene::new();
    let error = scene.refused("owner/none", &["owner/none", "no such repository", &scene.hub.endpoint(), "HF_TOKEN"]);
    assert_eq!(error.exit_code(), 2);
    let error = scene.refused("owner/tiny@v9", &["owner/tiny", "no revision \"v9\""]);
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn gated_repositories_ask_for_a_token() {
    let scene = Scene::new();
    scene.hub.state().repositories.get_mut("owner/tiny").expect("it").token = Some("hf_right".into());
    let error = scene.refused("owner/tiny", &["gated", "set HF_TOKEN"]);
    assert_eq!(error.exit_code(), 2);
    let with = |token: &str| Client { token: Some(token.to_owned()), ..scene.client() };
    let id = "owner/tiny".parse().expect("an id");
    refused(with("hf_wrong").fetch(&id, &()), &["this HF_TOKEN", "access"]);
    assert!(with("hf_right").fetch(&id, &()).is_ok());
}

#[test]
fn repositories_without_a_model() {
    let scene = Scene::new();
    let without = |names: &[&str]| {
        let mut files = model("gpt2");
        names.iter().for_each(|n| drop(files.remove(*n)));
        files
    };
    scene.hub.add("owner/no-config", without(&["config.json"]));
    scene.refused("owner/no-config", &["no config.json", "tf_model.h5"]);
    scene.hub.add("owner/no-weights", without(&["model.safetensors", "pytorch_model.bin"]));
    scene.refused("owner/no-weights", &["neither safetensors nor pytorch_model.bin", "tf_model.h5"]);
    assert!(!scene.hub.asked().iter().any(|a| a.contains("/resolve/")), "nothing was fetched in vain");
}

// ---------------------------------------------------------------------------------------------- the program

#[test]
fn a_sweep_of_a_model_of_the_hub() {
    let scene = Scene::new();
    let pair = json!({"clean": [1, 2, 3, 4], "corrupted": [1, 5, 3, 4], "answer": 5, "wrong": 9});
    fs::write(scene.dir.path().join("pairs.jsonl"), pair.to_string()).expect("a file");
    let (code, out, err) = scene.run("sweep --model owner/tiny --prompts pairs.jsonl --device cpu", &[]);
    assert!(code == Some(0) && err.is_empty(), "{out}{err}");
    let run: Value = serde_json::from_slice(&fs::read(scene.dir.path().join("runs/tiny-z-1/run.json")).expect("a run"))
        .expect("JSON");
    assert_eq!(run["model"]["name"], "tiny");
    assert_eq!(run["model"]["hub"], json!({"id": "owner/tiny", "commit": commit("owner/tiny", "main")}));
    // Again, without the hub.
    let (code, _, err) = scene.run("inspect --model owner/tiny", &[("HF_ENDPOINT", "http://127.0.0.1:9")]);
    assert!(code == Some(0) && err.is_empty(), "{err}");
}

#[test]
fn the_environment_is_that_of_huggingface_hub() {
    let scene = Scene::new();
    scene.hub.state().repositories.get_mut("owner/tiny").expect("it").token = Some("hf_right".into());
    let inspect = "inspect --model owner/tiny";
    scene.fails(inspect, &[], 2, &["gated", "HF_TOKEN"]);
    scene.fails(inspect, &[("HF_TOKEN", "hf wrong")], 2, &["HF_TOKEN", "characters"]);
    scene.fails(inspect, &[("HF_ENDPOINT", "huggingface.co")], 2, &["HF_ENDPOINT"]);
    scene.fails(inspect, &[("HF_HUB_OFFLINE", "1")], 2, &["HF_HUB_OFFLINE", "lacks owner/tiny"]);
    fs::write(scene.dir.path().join("token"), "hf_right\n").expect("the token file");
    scene.hub.asked();
    let (code, _, err) = scene.run(inspect, &[("HF_HUB_CACHE", "elsewhere")]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(scene.dir.path().join("elsewhere/models--owner--tiny").exists());
    assert!(scene.hub.asked().iter().all(|a| a.ends_with(" with hf_right")));
    scene.fails(inspect, &[("HF_TOKEN", "hf_wrong")], 2, &["this HF_TOKEN"]);
    let (code, _, _) = scene.run(inspect, &[("HF_HUB_CACHE", "elsewhere"), ("HF_HUB_OFFLINE", "TRUE")]);
    assert_eq!(code, Some(0));
}

#[test]
fn hub_down_fails_on_the_way_and_offline_is_a_wrong_request() {
    let scene = Scene::new();
    let down = [("HF_ENDPOINT", "http://127.0.0.1:9")];
    scene.fails("inspect --model owner/tiny", &down, 1, &["owner/tiny", "cannot be reached", "http://127.0.0.1:9"]);
    scene.fails("inspect --model owner/tiny", &[("HF_HUB_OFFLINE", "1")], 2, &["no such folder", "HF_HUB_OFFLINE"]);
    assert_eq!(scene.hub.asked(), [""; 0]);
}

#[test]
fn a_path_is_never_taken_for_an_id() {
    let scene = Scene::new();
    for path in ["./owner/tiny", "../owner/tiny", "/owner/tiny", ".", "owner/tiny/x", "tiny.gguf", "~/tiny"] {
        let (code, _, err) = scene.run(&format!("inspect --model {path}"), &[]);
        assert!(code == Some(2) && err.lines().count() == 1, "{path}: {err}");
    }
    // A folder of that name wins over the hub.
    fs::create_dir_all(scene.dir.path().join("owner/tiny")).expect("a folder");
    scene.fails("inspect --model owner/tiny", &[], 2, &["config.json"]);
    assert_eq!(scene.hub.asked(), [""; 0]);
    scene.fails("inspect --model owner/tiny@v9", &[], 2, &["no revision"]);
}
