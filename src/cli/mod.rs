//! The command line: one file per subcommand. Each parses, calls the library, and prints.

mod args;
mod bench;
mod capture;
mod device;
mod diff;
mod heatmap;
mod inspect;
mod interrupt;
mod model;
mod models;
mod patch;
mod patching;
mod probe;
mod sweep;
mod task;
mod terminal;

use crate::Error;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  patchwave sweep                                     the bundled demo model: which heads do induction?
  patchwave sweep --model SmolLM2-135M --prompts ioi.jsonl
  patchwave sweep --model M --prompts P --sites resid_pre,attn_out,mlp_out --by pos
  patchwave sweep --model M --prompts P --sites z,q,k,v,pattern --by head,pos --direction noise
  patchwave patch --nodes a0.h5,a1.h3                 several nodes at once: the metric of every pair
  patchwave heatmap runs/demo-z-1 --output picture.html
  patchwave diff runs/a runs/b                        what changed, and is it more than chance?
  patchwave capture --model M --prompts P --sites logits,resid_post,z --output acts.safetensors
  patchwave probe --model M --prompts P --sites resid_post --label FIELD
  patchwave inspect --model M                         what can be patched, with shapes
  patchwave bench --like gpt2                         how fast each operation is, of what the device can do
  patchwave task ioi --model M > pairs.jsonl          prompt pairs for its tokenizer; or: sweep --model M --task ioi

M is a folder in Hugging Face layout, a .gguf file, or the id of a model on the Hugging Face hub (gpt2,
EleutherAI/pythia-70m@step1000), fetched once into its standard cache. P is JSONL, one pair a line:
  {\"clean\": \"… Mary gave it to\", \"corrupted\": \"… John gave it to\", \"answer\": \" John\", \"wrong\": \" Mary\"}

Exit codes: 0 done; 1 failed on the way (or interrupted); 2 bad usage or input.";

/// Exact activation patching: every head, position and site of a transformer, patched one at a time.
#[derive(Parser)]
#[command(name = "patchwave", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Patch every cell of one or more sites and write effects, a table and a heat map
    Sweep(Box<sweep::Args>),
    /// Patch several nodes at once and print the metric of every pair
    Patch(Box<patch::Args>),
    /// Draw a finished run as SVG, PNG or HTML
    Heatmap(heatmap::Args),
    /// Compare two runs cell by cell: differences with intervals, correlations, a picture
    Diff(diff::Args),
    /// Write activations and logits of the unpatched runs to safetensors or .npy files
    Capture(Box<capture::Args>),
    /// Read labels from activations with a linear probe at every layer and position
    Probe(Box<probe::Args>),
    /// Show what a model is made of, its patch points with shapes, and the memory that a sweep takes
    Inspect(inspect::Args),
    /// Time the operations of a sweep, or a whole one on random weights, against what the device can do
    Bench(Box<bench::Args>),
    /// List the model types that can be opened, in which formats, and how each was checked
    Models(models::Args),
    /// Make prompt pairs for a model's tokenizer: ioi, greater_than … as JSONL; without NAME, list the tasks
    Task(task::Args),
}

/// Runs the command line and tells its end in an exit code.
pub fn main() -> ExitCode {
    // A bug must not look like bad input, nor fill the screen.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        terminal::error(&format!(
            "internal error{place}: {}; please report this",
            info.payload_as_str().unwrap_or("?")
        ));
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version, asked for or for want of a command.
        Err(e) if !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => e.exit(),
        Err(e) => {
            terminal::error(&bad_options(&e));
            return ExitCode::from(2);
        }
    };
    let done = std::panic::catch_unwind(|| match cli.command {
        Command::Sweep(args) => sweep::run(*args),
        Command::Patch(args) => patch::run(*args),
        Command::Heatmap(args) => heatmap::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Capture(args) => capture::run(*args),
        Command::Probe(args) => probe::run(*args),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(*args),
        Command::Models(args) => models::run(args),
        Command::Task(args) => task::run(args),
    });
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            terminal::error(&e.to_string());
            ExitCode::from(e.exit_code())
        }
        Err(_) => ExitCode::from(1),
    }
}

/// What clap has to say, without the usage that it repeats each time: like every other bad input, one line.
fn bad_options(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let said =
        text.lines().map(str::trim).take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"));
    let mut line = String::new();
    for part in said.filter(|part| !part.is_empty()) {
        line.push_str(match part {
            _ if line.is_empty() => "",
            tip if tip.starts_with("tip:") => "; ",
            _ => " ",
        });
        line.push_str(part);
    }
    line
}

fn usage(message: impl ToString) -> Error {
    Error::Usage(message.to_string())
}
