//! Tests over a stand-in for libcuda (`tests/libcuda_stand_in.c`).

use std::process::Command;

/// Runs `test` of the same binary again as a process that finds the stand-in as its libcuda. None where there is no C compiler.
pub fn over_the_stand_in(test: &str, variables: &[(&str, &str)]) -> Option<()> {
    let folder = tempfile::tempdir().unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libcuda_stand_in.c");
    let mut command = Command::new(&compiler);
    command.args(["-shared", "-fPIC", "-w", "-o"]).arg(folder.path().join("libcuda.so")).arg(source);
    if !command.status().is_ok_and(|s| s.success()) {
        println!("skipped: {compiler} makes no stand-in for libcuda");
        return None;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([test, "--exact", "--include-ignored", "--nocapture"]).envs(variables.iter().copied());
    let output = again.env("LD_LIBRARY_PATH", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("{said}");
    Some(())
}
