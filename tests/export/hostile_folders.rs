//! Folders that are no run, or claim to be one.

use crate::*;

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
