//! What happens before the first kernel runs: finding a driver, a GPU, and code for it. No GPU is needed; where none of
//! these tests can tell more than that, none of it has run on hardware.

use patchwave::backend::cuda::images::{Capability, MODULES, Origin, Target, load};
use patchwave::backend::cuda::nvidia::{CudaVersion, DeviceInfo, SYMBOLS, Unavailable, probe, select, select_several};
use patchwave::backend::cuda::nvrtc::{Nvrtc, NvrtcError};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

// The part of the build script that chooses what is embedded, with its tests.
#[path = "../kernels/images.rs"]
#[allow(dead_code)]
mod build_images;

const AMPERE: Capability = Capability { major: 8, minor: 0 };
const HOPPER: Capability = Capability { major: 9, minor: 0 };
const CUDA_13: CudaVersion = CudaVersion { major: 13, minor: 0 };

fn gpu(ordinal: u32, major: u32, minor: u32) -> DeviceInfo {
    DeviceInfo {
        ordinal,
        name: format!("GPU {ordinal}"),
        capability: Capability { major, minor },
        memory_bytes: 80 << 30,
        driver: CUDA_13,
    }
}

// ---- devices ----

#[test]
fn probing_never_panics_and_says_what_is_missing_in_one_line() {
    match probe() {
        Ok(devices) => assert!(!devices.is_empty()),
        Err(reason) => {
            let line = reason.to_string();
            assert!(!line.contains('\n') && line.len() > 30, "{line}");
            if reason == Unavailable::NoDriver {
                assert!(line.contains("no CUDA driver") && line.contains("525"), "{line}");
            }
        }
    }
    assert_eq!(probe().is_ok(), probe().is_ok(), "asking again is no different");
}

#[test]
fn without_a_number_the_first_usable_gpu_is_taken() {
    let devices = [gpu(0, 7, 5), gpu(1, 9, 0), gpu(2, 8, 0)];
    assert_eq!(select(&devices, None).unwrap().ordinal, 1);
    assert_eq!(select(&devices, Some(2)).unwrap().ordinal, 2);
}

#[test]
fn a_card_below_ampere_is_refused_by_name() {
    for (devices, ordinal) in [(vec![gpu(0, 7, 5)], None), (vec![gpu(0, 7, 5), gpu(1, 9, 0)], Some(0))] {
        let line = select(&devices, ordinal).unwrap_err().to_string();
        assert!(line.contains("cuda:0 (GPU 0)") && line.contains("7.5") && line.contains("8.0"), "{line}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_refused_with_those_that_are() {
    let line = select(&[gpu(0, 9, 0), gpu(1, 9, 0)], Some(7)).unwrap_err().to_string();
    assert!(line.contains("cuda:7") && line.contains("cuda:0 to cuda:1"), "{line}");
}

#[test]
fn several_gpus_are_those_named_or_all_in_their_order() {
    let devices = [gpu(0, 8, 0), gpu(1, 8, 9), gpu(2, 8, 0)];
    let ordinals = |chosen: Vec<&DeviceInfo>| chosen.iter().map(|d| d.ordinal).collect::<Vec<_>>();
    assert_eq!(ordinals(select_several(&devices, None).unwrap()), [0, 1, 2]);
    assert_eq!(ordinals(select_several(&devices, Some(&[2, 0])).unwrap()), [2, 0]);
    let line = select_several(&devices, Some(&[0, 3])).unwrap_err().to_string();
    assert!(line.contains("cuda:3") && line.contains("cuda:0 to cuda:2"), "{line}");
    let old = [gpu(0, 9, 0), gpu(1, 7, 5)];
    let line = select_several(&old, None).unwrap_err().to_string();
    assert!(line.contains("cuda:1 (GPU 1)") && line.contains("7.5"), "{line}");
    assert!(matches!(select_several(&[], None), Err(Unavailable::NoDevice { .. })));
}

#[test]
fn hopper_and_other_cards_do_not_share_a_sweep() {
    let devices = [gpu(0, 9, 0), gpu(1, 9, 0), gpu(2, 8, 0)];
    assert_eq!(select_several(&devices, Some(&[0, 1])).unwrap().len(), 2);
    for ordinals in [None, Some(&[0, 2][..]), Some(&[2, 1])] {
        let line = select_several(&devices, ordinals).unwrap_err().to_string();
        for words in ["cuda:2 (GPU 2, compute capability 8.0)", "compute capability 9.0", "the same bits"] {
            assert!(line.contains(words) && !line.contains('\n'), "{line}");
        }
    }
}

#[test]
fn cuda_numbers_its_versions_in_thousands() {
    assert_eq!(CudaVersion::from_number(12020).to_string(), "12.2");
    assert_eq!(CudaVersion::from_number(-1).to_string(), "0.0");
    assert!(CudaVersion::from_number(11080) < CudaVersion::from_number(12000));
}

// ---- a stand-in for libcuda, by way of the command line ----

/// Compiles a library that has every function of the driver: those in `bodies` as written there, the others failing with
/// CUDA_ERROR_NOT_INITIALIZED. None, and a line, where there is no C compiler.
fn stand_in(folder: &Path, bodies: &[(&str, &str)], without: Option<&str>) -> Option<()> {
    let mut source = String::new();
    for symbol in SYMBOLS.iter().filter(|s| Some(**s) != without) {
        match bodies.iter().find(|b| b.0 == *symbol) {
            Some((_, body)) => source.push_str(&format!("int {symbol}{body}\n")),
            None => source.push_str(&format!("int {symbol}(void) {{ return 3; }}\n")),
        }
    }
    let file = folder.join("libcuda.c");
    std::fs::write(&file, source).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-shared", "-fPIC", "-w", "-o"]).arg(folder.join("libcuda.so")).arg(&file);
    match command.status() {
        Ok(status) if status.success() => Some(()),
        other => {
            println!("skipped: {compiler} makes no stand-in for libcuda ({other:?})");
            None
        }
    }
}

const VERSION_12_4: (&str, &str) = ("cuDriverGetVersion", "(int* v) { *v = 12040; return 0; }");
const STARTS: (&str, &str) = ("cuInit", "(unsigned f) { return 0; }");
const ONE_GPU: (&str, &str) = ("cuDeviceGetCount", "(int* n) { *n = 1; return 0; }");
const OPENS: (&str, &str) = ("cuDeviceGet", "(int* d, int i) { *d = i; return 0; }");
const NAMED: (&str, &str) =
    ("cuDeviceGetName", "(char* s, int n, int d) { s[0] = 'T'; s[1] = '4'; s[2] = 0; return 0; }");
const MEMORY: (&str, &str) = ("cuDeviceTotalMem_v2", "(unsigned long* n, int d) { *n = 1ul << 34; return 0; }");
const TURING: (&str, &str) =
    ("cuDeviceGetAttribute", "(int* v, int which, int d) { *v = which == 75 ? 7 : 5; return 0; }");
const AMPERE_CARD: (&str, &str) =
    ("cuDeviceGetAttribute", "(int* v, int which, int d) { *v = which == 75 ? 8 : 0; return 0; }");

fn patchwave(folder: &Path, library_path: &Path, device: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchwave"));
    command.args(["sweep", "--verify", "0", "--device", device, "--output"]).arg(folder.join("run"));
    command.env("LD_LIBRARY_PATH", library_path).env_remove("CUDA_VISIBLE_DEVICES").output().unwrap()
}

/// The one line that `--device cuda` fails with over this stand-in; that `auto` then runs on the CPU and says why.
fn refused(bodies: &[(&str, &str)], without: Option<&str>) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    stand_in(folder.path(), bodies, without)?;
    let output = patchwave(folder.path(), folder.path(), "cuda");
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(!folder.path().join("run").exists(), "nothing is written");

    let output = patchwave(folder.path(), folder.path(), "auto");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("device: cpu"), "{said}");
    Some(line)
}

#[test]
fn without_a_driver_cuda_is_refused_and_auto_takes_the_cpu() {
    if probe() != Err(Unavailable::NoDriver) {
        println!("skipped: this machine has a driver");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for device in ["cuda", "cuda:1", "cuda:0,cuda:1", "cuda:all"] {
        let output = patchwave(folder.path(), folder.path(), device);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
        assert!(line.contains(&format!("--device {device}: no CUDA driver on this machine")), "{line}");
    }
    let output = patchwave(folder.path(), folder.path(), "auto");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("device: cpu") && said.contains("no CUDA driver"), "{said}");
}

#[test]
fn a_driver_that_is_too_old() {
    let old = ("cuDriverGetVersion", "(int* v) { *v = 11080; return 0; }");
    if let Some(line) = refused(&[old, STARTS], None) {
        assert!(line.contains("too old") && line.contains("11.8") && line.contains("12.0"), "{line}");
    }
}

#[test]
fn a_library_that_lacks_a_function_is_no_driver() {
    if let Some(line) = refused(&[VERSION_12_4, STARTS], Some("cuLaunchKernel")) {
        assert!(line.contains("cuLaunchKernel"), "{line}");
    }
}

#[test]
fn the_stub_of_the_toolkit() {
    let stub = ("cuInit", "(unsigned f) { return 34; }");
    if let Some(line) = refused(&[VERSION_12_4, stub], None) {
        assert!(line.contains("stub"), "{line}");
    }
}

#[test]
fn a_driver_without_a_gpu() {
    let none = ("cuInit", "(unsigned f) { return 100; }");
    if let Some(line) = refused(&[VERSION_12_4, none], None) {
        assert!(line.contains("no CUDA device"), "{line}");
    }
    let hidden = ("cuDeviceGetCount", "(int* n) { *n = 0; return 0; }");
    if let Some(line) = refused(&[VERSION_12_4, STARTS, hidden], None) {
        assert!(line.contains("no CUDA device"), "{line}");
    }
}

#[test]
fn a_driver_that_fails_with_a_code_of_its_own() {
    let new_code = ("cuInit", "(unsigned f) { return 12345; }");
    let name = ("cuGetErrorName", "(int c, const char** s) { *s = 0; return 1; }");
    if let Some(line) = refused(&[VERSION_12_4, new_code, name], None) {
        assert!(line.contains("fails to start") && line.contains("12345"), "{line}");
    }
}

#[test]
fn a_card_that_is_too_old() {
    if let Some(line) = refused(&[VERSION_12_4, STARTS, ONE_GPU, OPENS, NAMED, MEMORY, TURING], None) {
        assert!(line.contains("cuda:0 (T4)") && line.contains("7.5") && line.contains("8.0"), "{line}");
    }
}

#[test]
fn a_gpu_that_does_not_open() {
    if let Some(line) = refused(&[VERSION_12_4, STARTS, ONE_GPU, OPENS, NAMED, MEMORY, AMPERE_CARD], None) {
        assert!(line.contains("fails to start a context"), "{line}");
    }
}

// ---- code ----

#[test]
fn every_kernel_has_an_image_for_every_card_or_none_at_all() {
    for module in MODULES.iter().filter(|m| !m.images.is_empty()) {
        for card in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1), (13, 0)] {
            let card = Capability { major: card.0, minor: card.1 };
            assert_eq!(module.is_for(card), !module.images_for(card).is_empty(), "{} for {card}", module.name);
        }
    }
}

/// The library that `PATCHWAVE_NVRTC` names, or one that this machine happens to have.
fn nvrtc() -> Option<Nvrtc> {
    match Nvrtc::find(CUDA_13) {
        Ok(nvrtc) => Some(nvrtc),
        Err(NvrtcError::NotFound) => {
            println!("skipped: no NVRTC on this machine; PATCHWAVE_NVRTC names one");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn nvrtc_compiles_every_kernel() {
    let Some(nvrtc) = nvrtc() else { return };
    for card in [AMPERE, HOPPER] {
        for module in MODULES.iter().filter(|m| m.is_for(card)) {
            let (target, bytes) = nvrtc.compile(module.name, module.source, card).unwrap();
            assert_eq!(target, Target::of_card(card));
            assert_eq!(&bytes[..4], b"\x7fELF", "{}", module.name);
        }
    }
}

#[test]
fn nvrtc_says_what_is_wrong_with_a_source_in_one_line() {
    let Some(nvrtc) = nvrtc() else { return };
    let message = nvrtc.compile("norm", "#include \"gpu.cuh\"\nnonsense", AMPERE).unwrap_err().to_string();
    assert!(message.contains("norm.cu(2): error") && !message.contains('\n'), "{message}");
}

#[test]
fn a_kernel_whose_images_the_driver_refuses_is_compiled() {
    let Some(nvrtc) = nvrtc() else { return };
    let module = MODULES.iter().find(|m| m.name == "rope").unwrap();
    let embedded = module.images_for(AMPERE).len();
    let mut refusals = 0;
    let mut accept = |image: &[u8]| {
        assert_eq!(image.last(), Some(&0));
        refusals += 1;
        if refusals > embedded { Ok(()) } else { Err("too new".to_owned()) }
    };
    let ((), origin) = load(module, AMPERE, CUDA_13, &mut Some(Ok(nvrtc)), &mut accept).unwrap();
    assert_eq!(origin, Origin::Nvrtc(Target::of_card(AMPERE)));
}

#[test]
fn a_folder_named_for_nvrtc_that_has_none_is_an_error_and_no_silence() {
    let folder = tempfile::tempdir().unwrap();
    let error = NvrtcError::NotThere { path: PathBuf::from("/here"), reason: Nvrtc::open(folder.path()).unwrap_err() };
    assert!(error.to_string().contains("PATCHWAVE_NVRTC=/here"), "{error}");
}
