//! Comparison with cuBLASLt over stand-ins for it and for libcuda: that it is found, asked for the product that is meant, and
//! not missed where it is not there. A real one has not been at hand: not yet run on hardware.

use patchwave::backend::cuda::nvidia::{Nvidia, Unavailable, probe};
use patchwave::backend::cuda::{Cuda, Precision};
use patchwave::bench::Benched;
use patchwave::bench::numbers::{PERIOD, number};
use std::path::Path;
use std::process::Command;

fn compile(source: &str, to: &Path) -> bool {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-w", "-o"]).arg(to).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
    command.status().is_ok_and(|s| s.success())
}

/// Runs `test` of this file again as a process that finds the stand-ins.
fn over_the_stand_ins(test: &str, with_cublas: bool) {
    let folder = tempfile::tempdir().unwrap();
    if !compile("tests/libcuda_stand_in.c", &folder.path().join("libcuda.so")) {
        return println!("skipped: there is no C compiler");
    }
    let libraries = folder.path().join("elsewhere");
    std::fs::create_dir(&libraries).unwrap();
    assert!(!with_cublas || compile("tests/libcublaslt_stand_in.c", &libraries.join("libcublasLt.so.12")));
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([test, "--exact", "--include-ignored", "--nocapture"]);
    again.env("LD_LIBRARY_PATH", folder.path()).env("PATCHWAVE_CUBLASLT", &libraries);
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

fn gpu() -> Option<Cuda<Nvidia>> {
    match Nvidia::open(&probe().unwrap()[0]) {
        Ok(gpu) => Some(Cuda::new(gpu, Precision::Float32).unwrap()),
        Err(Unavailable::Kernels { error, .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn its_products_are_ours() {
    over_the_stand_ins("with_the_stand_ins", true);
}

#[test]
#[ignore = "run by the test above, as a process of its own"]
fn with_the_stand_ins() {
    let Some(gpu) = gpu() else { return };
    let rival = gpu.rival().expect("a GPU has one").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rival.name(), "cuBLASLt 12.8.4");
    // Rows of X repeat beyond the period.
    let (m, n, k) = (PERIOD + 4, 5, 7);
    for (precision, tolerance) in [("float32", 1e-7), ("bfloat16", 1e-2)] {
        let mut product = rival.product(precision, (m, n, k)).expect("it has this precision").expect("a product");
        product.issue().unwrap();
        product.issue().unwrap();
        for r in [0, 1, PERIOD - 1, PERIOD, m - 1] {
            let row = product.row(r).unwrap();
            assert_eq!(row.len(), n);
            for (c, got) in row.iter().enumerate() {
                let gain = 3.0 / (k as f32).sqrt();
                let terms =
                    (0..k).map(|i| f64::from(number(1, (r % PERIOD) * k + i)) * f64::from(gain * number(2, c * k + i)));
                let (exact, size) = terms.fold((0.0, 0.0), |(sum, size): (f64, f64), t| (sum + t, size + t.abs()));
                assert!((f64::from(*got) - exact).abs() <= tolerance * size, "{precision} [{r}, {c}]: {got}, {exact}");
            }
        }
    }
    assert!(rival.product("bf16x3", (m, n, k)).is_none(), "it has no such product");
    let Err(error) = rival.product("float32", (4, 5, 13)).expect("it has this precision") else {
        panic!("the stand-in has no algorithm for 13")
    };
    assert!(error.to_string().contains("no algorithm for 4 × 13 → 5"), "{error}");
}

#[test]
fn where_it_is_not_there_it_is_said_not_to_be() {
    over_the_stand_ins("without_cublas", false);
}

#[test]
#[ignore = "run by the test above, as a process of its own"]
fn without_cublas() {
    let Some(gpu) = gpu() else { return };
    let Some(Err(reason)) = gpu.rival() else { panic!("an empty folder has no cuBLASLt") };
    assert!(reason.contains("PATCHWAVE_CUBLASLT=") && reason.contains("no libcublasLt.so"), "{reason}");
}
