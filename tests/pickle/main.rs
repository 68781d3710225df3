//! `pytorch_model.bin`: what `torch.save` writes is read bit for bit, and everything else is refused by name.

mod torch_file;

use patchwave::model::{Checkpoint, ModelError, ModelFiles, Params, PickledFolder, SafetensorsFolder};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use torch_file::{Entry, Tensor, entry, floats, matrix, state_dict, torch_file, zip};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join("torch").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).expect("a file");
    }
    dir
}

fn open(bytes: &[u8]) -> Result<PickledFolder, ModelError> {
    PickledFolder::open(folder(&[("pytorch_model.bin", bytes)]).path())
}

#[track_caller]
fn refused<T>(result: Result<T, ModelError>, words: &[&str]) {
    let Err(e) = result else { panic!("accepted") };
    let message = e.to_string();
    assert!(e.exit_code() == 2 && !message.contains('\n'), "{message}");
    assert!(words.iter().all(|w| message.contains(w)), "{message:?} lacks one of {words:?}");
}

#[track_caller]
fn read(checkpoint: &dyn Checkpoint, name: &str) -> Vec<u32> {
    let mut out = vec![f32::NAN; checkpoint.tensors()[name].len()];
    checkpoint.read(name, &mut out).unwrap_or_else(|e| panic!("{e}"));
    out.into_iter().map(f32::to_bits).collect()
}

// ---------------------------------------------------------------------------------------------- what is read

#[test]
fn a_model_that_torch_saved_is_the_model_in_safetensors_bit_for_bit() {
    let safe = Path::new(FIXTURES).join("hf/llama_mqa_bf16");
    let config = fs::read(safe.join("config.json")).expect("the fixture");
    let dir = folder(&[("config.json", &config), ("pytorch_model.bin", &fixture("llama_mqa_bf16.bin"))]);
    let (ours, theirs) = (ModelFiles::open(dir.path(), &[]), ModelFiles::open(&safe, &[]));
    let (ours, theirs) = (ours.unwrap_or_else(|e| panic!("{e}")), theirs.unwrap_or_else(|e| panic!("{e}")));
    assert_eq!((&ours.stored_as, ours.n_parameters), (&theirs.stored_as, theirs.n_parameters));
    for p in ours.spec.params() {
        let read = |params: &dyn Params| {
            let mut out = vec![0.0; p.shape.iter().product()];
            params.read(&p.name, &mut out).unwrap_or_else(|e| panic!("{e}"));
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(read(&*ours.params), read(&*theirs.params), "{}", p.name);
    }
}

#[test]
fn types_parameters_views_and_shared_storages() {
    let ours = open(&fixture("kinds.bin")).unwrap_or_else(|e| panic!("{e}"));
    let theirs = folder(&[("model.safetensors", &fixture("kinds.safetensors"))]);
    let theirs = SafetensorsFolder::open(theirs.path()).unwrap_or_else(|e| panic!("{e}"));
    assert!(theirs.tensors().len() == 16 && ours.tensors().len() == 22);
    for (name, info) in theirs.tensors() {
        assert_eq!(&ours.tensors()[name], info, "{name}");
        assert_eq!(read(&ours, name), read(&theirs, name), "{name}");
    }
    for (name, dtype) in [("i64", "I64"), ("i32", "I32"), ("i16", "I16"), ("i8", "I8"), ("u8", "U8"), ("mask", "BOOL")]
    {
        assert_eq!(ours.tensors()[name].dtype, dtype);
        refused(ours.read(name, &mut [0.0; 4]), &[name, "stored as", dtype]);
    }
}

#[test]
fn the_writer_of_these_tests_writes_what_torch_does() {
    let tensors = [matrix("a", "0", 2, 3), Tensor { size: vec![3, 2], stride: vec![1, 3], ..matrix("b", "0", 2, 3) }];
    let file = open(&torch_file(&state_dict(&tensors), &[("0", floats(6))])).unwrap_or_else(|e| panic!("{e}"));
    let numbers = |name| read(&file, name).into_iter().map(f32::from_bits).collect::<Vec<_>>();
    assert_eq!(numbers("a"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(numbers("b"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
}

fn sharded(index: &str) -> Result<PickledFolder, ModelError> {
    let shard = |name, key| torch_file(&state_dict(&[matrix(name, key, 2, 2)]), &[(key, floats(4))]);
    let dir = folder(&[
        ("pytorch_model.bin.index.json", index.as_bytes()),
        ("pytorch_model-00001-of-00002.bin", &shard("a", "0")),
        ("pytorch_model-00002-of-00002.bin", &shard("b", "7")),
    ]);
    PickledFolder::open(dir.path())
}

#[test]
fn shards_are_one_model() {
    let index = r#"{"metadata": {}, "weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}"#;
    let model = sharded(index).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.tensors().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(model.files().len() == 2 && read(&model, "a") == read(&model, "b"));
}

#[test]
fn indexes_that_lie() {
    let index = |shard: &str| format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
    refused(sharded(&index("pytorch_model-00002-of-00002.bin")), &["index.json", "\"a\"", "it is not"]);
    refused(sharded(&index("pytorch_model-00003-of-00002.bin")), &["00003", "not in the folder"]);
    refused(sharded(&index("../pytorch_model.bin")), &["../pytorch_model.bin", "same folder"]);
    refused(sharded(&index("model.safetensors")), &["model.safetensors", "*.bin"]);
    refused(sharded("{}"), &["index.json", "invalid index"]);
}

#[test]
fn safetensors_are_read_where_both_are_there() {
    let safe = Path::new(FIXTURES).join("hf/llama_mqa_bf16");
    let file = |name: &str| fs::read(safe.join(name)).expect("the fixture");
    let (config, weights) = (file("config.json"), file("model.safetensors"));
    let dir = folder(&[("config.json", &config), ("model.safetensors", &weights), ("pytorch_model.bin", b"no pickle")]);
    assert!(ModelFiles::open(dir.path(), &[]).is_ok());
}

// ---------------------------------------------------------------------------------------------- what is refused

/// A pickle that is nothing but this.
fn pickled(program: &[u8]) -> Result<PickledFolder, ModelError> {
    open(&torch_file(&[b"\x80\x02", program].concat(), &[("0", floats(4))]))
}

#[test]
fn the_format_before_pytorch_1_6() {
    refused(open(&fixture("legacy.bin")), &["pytorch_model.bin", "before 1.6", "save_pretrained"]);
}

#[test]
fn another_pickle_protocol() {
    refused(open(&fixture("protocol4.bin")), &["protocol 4", "save_pretrained"]);
}

#[test]
fn a_training_checkpoint() {
    refused(open(&fixture("checkpoint.bin")), &["\"epoch\"", "an int", "not a tensor", "save_pretrained"]);
    refused(pickled(b"N."), &["None", "not a dictionary of tensors"]);
    refused(pickled(b"}K\x01Ns."), &["keys"]);
}

#[test]
fn hostile_pickles_are_refused_by_the_name_that_they_ask_for() {
    let run = |name: &str| [b"c", name.as_bytes(), b"\nX\x04\0\0\0true\x85R."].concat();
    for (line, name) in [
        ("os\nsystem", "os.system"),
        ("posix\nsystem", "posix.system"),
        ("builtins\neval", "builtins.eval"),
        ("torch\nload", "torch.load"),
        ("torch._utils\n_rebuild_tensor_v3", "torch._utils._rebuild_tensor_v3"),
        ("collections\nOrderedDict.fromkeys", "collections.OrderedDict.fromkeys"),
    ] {
        refused(pickled(&run(line)), &["pytorch_model.bin", &format!("asks for {name};"), "runs no code"]);
    }
    // Opcodes that could reach a class by other ways.
    for (program, opcode) in [
        (&b"(S'os'\nios\nsystem\n."[..], "0x53"),
        (b"(ios\nsystem\n.", "0x69"),
        (b"X\x02\0\0\0osX\x06\0\0\0system\x93.", "0x93"),
        (b"\x82\x01.", "0x82"),
        (b")\x81.", "0x81"),
    ] {
        refused(pickled(program), &["opcode", opcode]);
    }
    // A known name where it has no business.
    refused(pickled(b"ctorch\nFloatStorage\n)R."), &["malformed", "arguments"]);
    refused(pickled(b"ccollections\nOrderedDict\nK\x01\x85R."), &["malformed", "arguments"]);
    refused(pickled(b"ccollections\nOrderedDict\n)RNb."), &["malformed", "no dictionary"]);
}

fn one(change: impl FnOnce(&mut Tensor)) -> Result<PickledFolder, ModelError> {
    let mut tensor = matrix("weight", "0", 2, 2);
    change(&mut tensor);
    open(&torch_file(&state_dict(&[tensor]), &[("0", floats(4))]))
}

#[test]
fn tensors_that_reach_beyond_their_storage() {
    assert!(one(|_| {}).is_ok());
    let beyond = ["reaches beyond the 4 numbers of storage \"0\""];
    refused(one(|t| t.offset = 1), &beyond);
    refused(one(|t| t.size = vec![2, 3]), &beyond);
    refused(one(|t| t.stride = vec![3, 1]), &beyond);
    refused(one(|t| t.offset = i64::MAX), &beyond);
    refused(one(|t| t.offset = -1), &["-1 is out of range"]);
    refused(one(|t| t.stride = vec![-2, 1]), &["-2 is out of range"]);
    refused(one(|t| t.stride = vec![1]), &["shape [2, 2] with strides [1]"]);
}

#[test]
fn absurd_sizes() {
    let beyond = ["reaches beyond"];
    refused(one(|t| t.size = vec![1 << 40, 1 << 40]), &beyond);
    refused(one(|t| (t.size, t.stride) = (vec![1 << 62, 4], vec![0, 1])), &beyond);
    refused(one(|t| (t.size, t.stride) = (vec![2, 2], vec![i64::MAX, i64::MAX])), &beyond);
    // Expanded from one number to as many as one likes.
    refused(one(|t| (t.size, t.stride) = (vec![1 << 40], vec![0])), &beyond);
    refused(one(|t| t.numel = 1 << 60), &["weight", "claims", "has 16 bytes"]);
    refused(one(|t| t.numel = i64::MAX), &["weight", "claims"]);
    // Nothing, in a large way, is nothing.
    assert!(one(|t| (t.size, t.stride) = (vec![0, 1 << 40, 1 << 40], vec![1 << 62, 1 << 40, 1])).is_ok());
    // The same numbers under thousands of names.
    let names: Vec<&'static str> = (0..600).map(|i| &*Box::leak(format!("w{i}").into_boxed_str())).collect();
    let tensors: Vec<Tensor> = names.iter().map(|name| matrix(name, "0", 512, 512)).collect();
    refused(open(&torch_file(&state_dict(&tensors), &[("0", floats(512 * 512))])), &["again and again"]);
}

#[test]
fn storages_that_are_missing_or_of_another_length() {
    refused(one(|t| t.key = "1"), &["weight", "data/1", "missing"]);
    refused(one(|t| t.key = "../data.pkl"), &["weight", "missing"]);
    refused(one(|t| t.storage = "DoubleStorage"), &["weight", "4 F64 numbers", "16 bytes"]);
    refused(one(|t| t.storage = "HalfStorage"), &["weight", "16 bytes"]);
    refused(one(|t| t.storage = "ComplexFloatStorage"), &["torch.ComplexFloatStorage"]);
}

#[test]
fn a_tensor_twice() {
    let twice = state_dict(&[matrix("a", "0", 2, 2), matrix("a", "0", 2, 2)]);
    refused(open(&torch_file(&twice, &[("0", floats(4))])), &["\"a\"", "twice"]);
}

#[test]
fn pickles_nested_without_end() {
    refused(pickled(&b"(".repeat(100_000)), &["nested a thousand deep"]);
    let lists = [&b"]".repeat(1_000_000)[..], &b"a".repeat(999_999), b"."].concat();
    refused(pickled(&lists), &["a list", "not a dictionary of tensors"]);
    let tuples = [&b"N"[..], &b"\x85".repeat(1_000_000), b"."].concat();
    refused(pickled(&tuples), &["a tuple"]);
    refused(pickled(&b")".repeat(5_000_000)), &["millions of objects"]);
    refused(pickled(&b"N".repeat(9_000_000)), &["millions of instructions"]);
    // A list of two copies of the last list, over and over: 2^200 entries, if one were to look.
    let mut copies = b"]q\x00".to_vec();
    (0..200).for_each(|_| copies.extend(b"](h\x00h\x00eq\x00"));
    copies.push(b'.');
    refused(pickled(&copies), &["a list"]);
    // One that holds itself.
    refused(pickled(b"]q\x00h\x00a."), &["a list"]);
}

#[test]
fn pickles_that_make_no_sense() {
    for program in [&b""[..], b"(", b"K", b"X\xff\xff\xff\xff", b"cos", b"\x8a\xff1", b"}q"] {
        refused(pickled(program), &["truncated"]);
    }
    for program in [
        &b"."[..],
        b"t.",
        b"s.",
        b"R.",
        b"Q.",
        b"h\x05.",
        b"q\x00.",
        b"NNs.",
        b"]Nu.",
        b"}(Nu.",
        b"N(a.",
        b"X\x01\0\0\0\xff.",
    ] {
        refused(pickled(program), &["malformed at byte"]);
    }
    refused(pickled(b"\x8a\x09123456789."), &["9 bytes"]);
    refused(pickled(b"NQ."), &["tuple"]);
    refused(pickled(b"X\x06\0\0\0moduleNN\x87Q."), &["no storage"]);
}

#[test]
fn truncated_containers() {
    let whole = fixture("kinds.bin");
    let end = whole.len();
    for len in (0..end).step_by(17).chain(end - 100..end) {
        let Err(e) = open(&whole[..len]) else { panic!("{len} bytes of {end} accepted") };
        assert!(e.to_string().contains("truncated"), "{e}");
    }
    refused(open(b"PK\x03\x04 and then nothing"), &["truncated, or not written by torch.save"]);
}

/// A good file, with one of its entries changed.
fn with_entry(index: usize, change: impl FnOnce(&mut Entry)) -> Result<PickledFolder, ModelError> {
    let pickle = state_dict(&[matrix("weight", "0", 2, 2)]);
    let mut entries = vec![entry("a/data.pkl", &pickle), entry("a/data/0", &floats(4)), entry("a/version", b"3\n")];
    change(&mut entries[index]);
    open(&zip(&entries))
}

#[test]
fn containers_that_claim_more_than_they_hold() {
    assert!(with_entry(0, |_| {}).is_ok());
    assert!(with_entry(1, |e| e.large = true).is_ok(), "ZIP64, which PyTorch writes from 4 GiB on");
    refused(with_entry(1, |e| e.method = 8), &["a/data/0", "compressed", "save_pretrained"]);
    refused(with_entry(1, |e| e.unpacked = Some(u32::MAX - 1)), &["a/data/0", "claims to grow from 16"]);
    refused(
        with_entry(1, |e| (e.packed, e.unpacked) = (Some(1 << 30), Some(1 << 30))),
        &["a/data/0", "not lie within"],
    );
    refused(with_entry(1, |e| (e.packed, e.unpacked) = (Some(u32::MAX), Some(u32::MAX))), &["a/data/0", "no lengths"]);
    refused(with_entry(1, |e| e.offset = Some(u32::MAX - 1)), &["a/data/0", "not where the directory says"]);
    refused(with_entry(1, |e| e.offset = Some(0)), &["overlap"]);
    refused(with_entry(2, |e| e.name = "a/data/0".to_owned()), &["a/data/0", "twice"]);
    refused(with_entry(0, |e| e.name = "a/other.pkl".to_owned()), &["no data.pkl"]);
    refused(with_entry(2, |e| e.name = "b/data.pkl".to_owned()), &["several data.pkl"]);
    let big = |e: &mut Entry| (e.name, e.data) = ("a/byteorder".to_owned(), b"big".to_vec());
    refused(with_entry(2, big), &["big-endian"]);
}

/// The file is read or refused, and nothing panics.
#[test]
fn changed_bytes_do_no_harm() {
    let whole = fixture("kinds.bin");
    let dir = folder(&[]);
    let path = dir.path().join("pytorch_model.bin");
    for at in (0..whole.len()).step_by(11) {
        for value in [0xff, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            fs::write(&path, &bytes).expect("a file");
            let Ok(model) = PickledFolder::open(dir.path()) else { continue };
            for (name, info) in model.tensors() {
                if info.len() < 1 << 20 {
                    let _ = model.read(name, &mut vec![0.0; info.len()]);
                }
            }
        }
    }
}
