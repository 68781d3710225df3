//! `patchwave heatmap`: a finished run as a picture.

use super::terminal::say;
use crate::Error;
use crate::export::{ExportError, Format, heatmap, run};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Folder of a finished run
    run: PathBuf,
    /// Picture to write; its ending says which kind (.svg, .png or .html with values on hover) [default: RUN/heatmap.html]
    #[arg(long, short)]
    output: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<(), Error> {
    let output = args.output.unwrap_or_else(|| args.run.join("heatmap.html"));
    let format = Format::from_path(&output)?;
    let picture = heatmap::render(&run::read(&args.run)?, format)?;
    std::fs::write(&output, picture).map_err(|source| ExportError::Write { path: output.clone(), source })?;
    say(&output.display().to_string());
    Ok(())
}
