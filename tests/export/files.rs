//! The files of a run folder, byte for byte.

use crate::*;

#[test]
fn a_run_comes_back_bit_for_bit() {
    let axes = vec![Axis::numbered("layer", 2), pos(&[" Mary_0", "\n_1", "<script>\"_2"])];
    let mut run = run(vec![heads().sites.remove(0), site("resid_pre", axes, &[0.1, NAN, -0.0, 1e-40, 7.5, -1.0])]);
    run.direction = Direction::Noise;
    run.effect_defined = false;
    let dir = written(&run);
    let back = read(dir.path()).expect("readable");
    assert_eq!(back.meta, run.meta);
    assert_eq!((back.direction, back.effect_defined), (Direction::Noise, false));
    assert_eq!(bits(&back.metric_clean), bits(&run.metric_clean));
    assert_eq!(bits(&back.metric_corrupted), bits(&run.metric_corrupted));
    assert_eq!(back.sites.len(), 2);
    for (back, site) in back.sites.iter().zip(&run.sites) {
        assert_eq!((&back.site, &back.axes), (&site.site, &site.axes));
        assert_eq!(bits(&back.effect), bits(&site.effect));
        assert_eq!(bits(&back.metric), bits(&site.metric));
    }
}

#[test]
fn one_site_has_the_tensors_of_the_contract() {
    let dir = written(&heads());
    let bytes = fs::read(dir.path().join("effects.safetensors")).expect("effects");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let shape = |name: &str| tensors.tensor(name).expect(name).shape().to_vec();
    assert_eq!(tensors.len(), 6);
    assert_eq!((shape("stderr"), shape("interval")), (vec![2, 3], vec![2, 3, 2]));
    assert_eq!((shape("effect"), shape("metric")), (vec![2, 3], vec![2, 3, 2]));
    assert_eq!((shape("metric_clean"), shape("metric_corrupted")), (vec![2], vec![2]));
    assert!(tensors.iter().all(|(_, t)| t.dtype() == Dtype::F32));
    assert_eq!(tensors.tensor("effect").expect("effect").data()[..4], 0.25_f32.to_le_bytes());
    // Data that begin at a multiple of eight can be used where they lie.
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) % 8, 0);
}

#[test]
fn several_sites_have_their_name_in_the_tensor() {
    let mut run = heads();
    run.sites.push(site("mlp_out", vec![Axis::numbered("layer", 2)], &[0.5, 0.0]));
    let dir = written(&run);
    let bytes = fs::read(dir.path().join("effects.safetensors")).expect("effects");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut names = tensors.names();
    names.sort();
    let of_sites =
        ["effect", "interval", "metric", "stderr"].map(|kind| [format!("{kind}.mlp_out"), format!("{kind}.z")]);
    let mut expected: Vec<String> = of_sites.into_iter().flatten().collect();
    expected.extend(["metric_clean", "metric_corrupted"].map(String::from));
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(tensors.tensor("metric.mlp_out").expect("metric").shape(), [2, 2]);
}

#[test]
fn the_csv_has_a_row_for_each_cell_and_nothing_where_there_is_none() {
    let csv = fs::read_to_string(written(&heads()).path().join("effects.csv")).expect("csv");
    // Both pairs say the same, so the spread is 0.
    let expected = "site,layer,head,effect,mean_metric,n_pairs,stderr,interval_low,interval_high\n\
                    z,0,0,0.25,-1,2,0,0.25,0.25\nz,0,1,0,-2,2,0,0,0\nz,0,2,-0.5,-4,2,0,-0.5,-0.5\n\
                    z,1,0,0,-2,2,0,0,0\nz,1,1,0.75,1,2,0,0.75,0.75\nz,1,2,,,0,,,\n";
    assert_eq!(csv, expected);
}

#[test]
fn the_csv_of_several_sites_has_all_their_axes() {
    let mut run = heads();
    run.sites[0].effect.truncate(3);
    run.sites[0].metric.truncate(6);
    run.sites[0].axes[0] = Axis::numbered("layer", 1);
    run.sites.push(site("resid_pre", vec![Axis::numbered("layer", 1), pos(&["a,\"b\"_0", " c_1"])], &[1.0, 0.5]));
    // The second pair is one token shorter.
    run.sites[1].metric[3] = NAN;
    let csv = fs::read_to_string(written(&run).path().join("effects.csv")).expect("csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "site,layer,head,pos,pos_label,effect,mean_metric,n_pairs,stderr,interval_low,interval_high");
    assert_eq!(lines[1], "z,0,0,,,0.25,-1,2,0,0.25,0.25");
    assert_eq!(lines[4], "resid_pre,0,,0,\"a,\"\"b\"\"_0\",1,2,2,0,1,1");
    // One pair says nothing about the spread.
    assert_eq!(lines[5], "resid_pre,0,,1, c_1,0.5,0,1,,,");
}

#[test]
fn run_json_says_what_the_tensors_mean() {
    let dir = written(&heads());
    let text = fs::read_to_string(dir.path().join("run.json")).expect("run.json");
    assert!(text.contains("\n  \"model\": \"tiny\""), "pretty: {text}");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(all["format_version"], 1);
    assert_eq!(all["direction"], "denoise");
    assert_eq!(all["effect_defined"], true);
    assert_eq!(all["n_pairs"], 2);
    assert_eq!(all["rows_computed"], 1234);
    assert_eq!((&all["mean_metric_clean"], &all["mean_metric_corrupted"]), (&json!(2.0), &json!(-2.0)));
    let axes = json!([{"name": "layer", "labels": ["0", "1"]}, {"name": "head", "labels": ["0", "1", "2"]}]);
    let site = json!({
        "site": "z", "effect": "effect", "metric": "metric", "stderr": "stderr", "interval": "interval",
        "shape": [2, 3], "axes": axes,
    });
    let statistics = json!({
        "stderr": "delta method", "interval": "percentile bootstrap over pairs", "draws": 1000, "level": 0.95,
        "seed": 0,
    });
    assert_eq!(all["statistics"], statistics);
    assert_eq!(all["sites"], json!([site]));
}

#[test]
fn runs_of_early_versions_lack_statistics_and_are_read() {
    let dir = written(&heads());
    let path = dir.path().join("effects.safetensors");
    let bytes = fs::read(&path).expect("effects");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let kept = tensors.iter().filter(|(name, _)| !["stderr", "interval"].contains(name));
    let early = safetensors::serialize(kept, None).expect("serialized");
    fs::write(path, early).expect("written");
    assert!(read_error(dir.path()).0.contains("4 tensors, but run.json speaks of 6"));
    edit_json(dir.path(), |all| drop(all.remove("statistics")));
    let back = read(dir.path()).expect("an early run");
    assert_eq!(bits(&back.sites[0].effect), bits(&heads().sites[0].effect));
}

#[test]
fn a_run_is_four_files_and_the_same_bytes_each_time() {
    let (one, two) = (written(&heads()), written(&heads()));
    let mut names: Vec<String> = fs::read_dir(one.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert_eq!(names, ["effects.csv", "effects.safetensors", "heatmap.svg", "run.json"]);
    for name in names {
        assert_eq!(fs::read(one.path().join(&name)).ok(), fs::read(two.path().join(&name)).ok(), "{name}");
    }
}

#[test]
fn a_run_replaces_an_older_one() {
    let dir = written(&heads());
    let mut newer = heads();
    newer.sites[0].effect[0] = 0.125;
    write(dir.path(), &newer).expect("written again");
    assert_eq!(read(dir.path()).expect("readable").sites[0].effect[0], 0.125);
}

#[test]
fn a_write_that_fails_leaves_no_finished_run_and_no_partial_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // A folder where run.json should go: its rename must fail.
    fs::create_dir_all(dir.path().join("run.json/x")).expect("a folder");
    let error = write(dir.path(), &heads()).expect_err("run.json is a folder");
    assert!(error.to_string().contains("run.json: cannot write"), "{error}");
    assert!(!dir.path().join("effects.safetensors").exists());
    let partial = |name: &str| name.ends_with(".partial");
    let left = fs::read_dir(dir.path()).expect("a folder").filter_map(|e| e.ok()?.file_name().into_string().ok());
    assert_eq!(left.filter(|name| partial(name)).count(), 0);
}

#[test]
fn a_full_disk_is_a_failed_run_and_a_forbidden_place_is_bad_usage() {
    let write = |kind: std::io::ErrorKind| ExportError::Write { path: "runs/x".into(), source: kind.into() };
    assert_eq!(write(std::io::ErrorKind::StorageFull).exit_code(), 1);
    assert_eq!(write(std::io::ErrorKind::PermissionDenied).exit_code(), 2);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = super::write(file.path(), &heads()).expect_err("a file is no folder");
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let broken = |edit: fn(&mut RunResult)| {
        let mut run = heads();
        edit(&mut run);
        write(tempfile::tempdir().expect("a folder").path(), &run).expect_err("inconsistent").to_string()
    };
    assert!(broken(|run| run.sites[0].metric.truncate(11)).contains("11 metrics"));
    assert!(broken(|run| run.sites.clear()).contains("no sites"));
    assert!(broken(|run| run.sites.push(run.sites[0].clone())).contains("there twice"));
    assert!(broken(|run| run.metric_clean.clear()).contains("no pairs"));
    assert!(broken(|run| run.metric_corrupted.truncate(1)).contains("metric_corrupted 1"));
    assert!(broken(|run| run.sites[0].axes.swap(0, 1)).contains("axes [\"head\", \"layer\"]"));
    assert!(broken(|run| drop(run.meta.insert("sites".into(), json!(1)))).contains("meta has `sites`"));
}
