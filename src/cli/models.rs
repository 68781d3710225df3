//! `patchwave models`: what can be opened.

use super::terminal::say;
use crate::Error;
use crate::model::catalog::{catalog, markdown, unsupported};
use std::fmt::Write as _;

#[derive(clap::Args)]
pub struct Args {
    /// Print the table of docs/models.md
    #[arg(long)]
    markdown: bool,
}

pub fn run(args: Args) -> Result<(), Error> {
    if args.markdown {
        say(markdown().trim_end());
        return Ok(());
    }
    let mut text = String::from(
        "Dense decoder-only transformers (class A). Formats: safetensors and pytorch_model.bin folders, the hub, and GGUF\n\
         where an architecture is named. Each is compared with the implementation named last, on tiny random models: logits,\n\
         every residual, and the logits under a z-patch of every head, to 1e-5 of the largest.\n\n",
    );
    let types = catalog();
    let rows: Vec<[String; 5]> = types
        .iter()
        .map(|t| [t.name.into(), t.gguf().join(", "), t.models.into(), t.remarks.into(), t.checked.into()])
        .collect();
    let head = ["model_type", "GGUF", "models", "remarks", "compared with"].map(str::to_owned);
    let width = |c: usize| rows.iter().chain([&head]).map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for row in [&head].into_iter().chain(&rows) {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text.push_str("\nKnown and refused:\n");
    for (missing, types) in unsupported() {
        let _ = writeln!(text, "  {missing}: {}", types.join(", "));
    }
    text.push_str("\nAny other model_type is unknown and refused, too. Details: docs/models.md.");
    say(&text);
    Ok(())
}
