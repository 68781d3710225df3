//! `patchwave task`: prompt pairs made for a model's tokenizer.

use super::args::{ModelArgs, of_tokenizer, task_pairs};
use super::terminal::say;
use crate::Error;
use crate::export::ExportError;
use crate::prompts::tasks::{TASKS, Task};
use crate::prompts::{BosPolicy, Encode, LoadOptions};
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

const MORE: &str = "\
Each line is one pair, in text: clean, corrupted, answer, wrong, positions by name, and labels. Words are one token in
the model's tokenizer, and clean and corrupted have the same length. NAME:CORRUPTION chooses how the corrupted prompt
differs: ioi:abc. A sweep makes the same pairs itself: sweep --model M --task ioi --pairs 64 --seed 0.";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    /// The task: ioi, ioi:abc, … [default: list them all]
    #[arg(value_name = "NAME[:CORRUPTION]")]
    name: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// How many pairs [default: 64]
    #[arg(long, value_name = "N", requires = "name")]
    pairs: Option<usize>,
    /// Where the task's choices start; the same seed makes the same pairs [default: 0]
    #[arg(long, requires = "name")]
    seed: Option<u64>,
    /// File to write [default: standard output]
    #[arg(long, short, requires = "name")]
    output: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<(), Error> {
    let Some(name) = &args.name else {
        say(&list());
        return Ok(());
    };
    let (files, _) = args.model.open()?;
    let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn Encode);
    // What is printed can be used: it has gone through every check that a file goes through.
    let options = LoadOptions {
        bos: BosPolicy::Auto,
        d_vocab: files.spec.d_vocab,
        n_ctx: files.spec.n_ctx,
        needs_wrong: true,
        needs_answer: true,
        needs_corrupted: true,
    };
    let (jsonl, _) =
        task_pairs(name, args.pairs, args.seed, tokenizer, &options).map_err(|e| of_tokenizer(&files, e))?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, &jsonl).map_err(|source| ExportError::Write { path: path.clone(), source })?
        }
        // A reader that has gone away (`| head`) is not an error.
        None => drop(std::io::stdout().lock().write_all(jsonl.as_bytes())),
    }
    Ok(())
}

/// Every task with a line, an example and its corruptions.
fn list() -> String {
    let mut text = String::new();
    for Task { name, about, example, variants, positions, metric, .. } in TASKS {
        let _ = writeln!(text, "{name:<14}{about}");
        let _ = writeln!(text, "{:<14}{example}", "");
        for (i, variant) in variants.iter().enumerate() {
            let default = if i == 0 && variants.len() > 1 { " (default)" } else { "" };
            let _ = writeln!(text, "{:<14}{name}:{}{default}: {}", "", variant.name, variant.about);
        }
        let _ = writeln!(text, "{:<14}positions {}; metric {metric}\n", "", positions.join(", "));
    }
    text.push_str(
        "patchwave task NAME[:CORRUPTION] --model M prints pairs; --task NAME[:CORRUPTION] uses them directly.",
    );
    text
}
