//! What the layers know of each other: the forward pass, the backends and the sweep see the knobs of a spec and never the
//! name of a family; and a family is a page.

use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "cu" || e == "cuh") {
                let text = std::fs::read_to_string(&path).expect("a source");
                files.push((path, text));
            }
        }
    }
    files
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
}

#[test]
fn no_engine_backend_sweep_or_kernel_names_a_family() {
    let families: Vec<&str> = patchwave::model::model_types().collect();
    assert!(families.len() >= 30);
    for folder in ["src/engine", "src/backend", "src/sweep", "kernels"] {
        let files = sources(folder);
        assert!(!files.is_empty(), "{folder}");
        for (path, text) in files {
            for (i, line) in text.lines().enumerate() {
                for word in words(code(line)) {
                    let named = matches!(word, "Family" | "family" | "model_type") || families.contains(&word);
                    assert!(!named, "{}:{}: {word}", path.display(), i + 1);
                }
            }
        }
    }
}

/// The picture of `src/lib.rs` from top to bottom: nobody imports what stands below. `bench` is above the command line
/// alone, and knows shapes of published models by their configs in one file.
#[test]
fn benchmarks_stand_on_everything_and_nothing_but_the_command_line_on_them() {
    for folder in ["backend", "model", "prompts", "engine", "sweep", "capture", "probe", "export"] {
        for (path, text) in sources(&format!("src/{folder}")) {
            for (i, line) in text.lines().enumerate() {
                assert!(!code(line).contains("crate::bench"), "{}:{}", path.display(), i + 1);
            }
        }
    }
    let families: Vec<&str> = patchwave::model::model_types().collect();
    for (path, text) in sources("src/bench") {
        for (i, line) in text.lines().enumerate() {
            let above = ["crate::cli", "crate::export"].iter().any(|m| code(line).contains(m));
            assert!(!above, "{}:{}: it imports what stands below", path.display(), i + 1);
            let in_tests = text.lines().take(i).any(|l| l.contains("#[cfg(test)]"));
            let named = words(code(line)).any(|w| families.contains(&w));
            assert!(!named || in_tests || path.ends_with("like.rs"), "{}:{}: {line}", path.display(), i + 1);
        }
    }
}

#[test]
fn a_family_is_sixty_lines_at_most() {
    let families: Vec<_> =
        sources("src/model/family").into_iter().filter(|(_, text)| text.contains("const FAMILY: Family")).collect();
    assert_eq!(families.len(), patchwave::model::model_types().count(), "one file for each");
    for (path, text) in families {
        assert!(text.lines().count() <= 60, "{}: {} lines", path.display(), text.lines().count());
    }
}
