//! `patchwave diff`: two runs over the same cells.

use super::heatmap::LookArgs;
use super::terminal::say;
use super::usage;
use crate::Error;
use crate::export::{Diff, ExportError, Format, compare, run};
use std::path::{Path, PathBuf};

const MORE: &str = "\
Both runs must have the same sites, axes and direction; models, prompts, metrics and kinds of patch may differ. A
difference is the second run's effect minus the first's. With the same prompts intervals are of paired differences.";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    /// Folder of a finished run
    first: PathBuf,
    /// Folder of the run to compare with it
    second: PathBuf,
    /// Picture of the differences (.svg, .png or .html with values on hover) [default: SECOND/diff-FIRST.html]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Table of all cells to write
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Cells to list
    #[arg(long, default_value_t = 10)]
    top: usize,
    #[command(flatten)]
    look: LookArgs,
}

pub fn run(args: Args) -> Result<(), Error> {
    let names = (name(&args.first), name(&args.second));
    let output = args.output.unwrap_or_else(|| args.second.join(format!("diff-{}.html", names.0)));
    let format = Format::from_path(&output)?;
    let (first, second) = (run::read(&args.first)?, run::read(&args.second)?);
    let diff = compare(&first, &second)?;
    let picture = diff.heatmap((&names.0, &names.1), &args.look.options())?.render(format)?;
    let mut csv = Vec::new();
    if args.csv.is_some() {
        diff.write_csv(&mut csv).map_err(|e| usage(format!("--csv: {e}")))?;
    }
    let files = [(Some(output), picture), (args.csv, csv)];
    let mut written = String::new();
    for (path, bytes) in files {
        let Some(path) = path else { continue };
        std::fs::write(&path, bytes).map_err(|source| ExportError::Write { path: path.clone(), source })?;
        written.push_str(&format!("\n{}", path.display()));
    }
    say(&about(&diff, &args.first, &args.second));
    say(&diff.table(args.top));
    say(written.trim_start());
    Ok(())
}

fn about(diff: &Diff<'_>, first: &Path, second: &Path) -> String {
    let mut lines = format!("first   {}\nsecond  {}\n", first.display(), second.display());
    if !diff.other.is_empty() {
        lines.push_str(&format!("differ in {}\n", diff.other.join(", ")));
    }
    lines.push_str(&match (diff.paired, diff.n_pairs) {
        (true, (1, _)) => "one pair, the same in both: no intervals\n".to_owned(),
        (true, (n, _)) => format!("{n} pairs, the same in both: intervals of paired differences\n"),
        (false, (a, b)) => format!("{a} and {b} pairs, not known to be the same: each run resampled on its own\n"),
    });
    lines
}

/// The last part of a run's path.
fn name(path: &Path) -> String {
    let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    named(path).or_else(|| named(&path.canonicalize().ok()?)).unwrap_or_else(|| "run".to_owned())
}
