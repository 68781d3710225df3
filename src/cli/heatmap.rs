//! `patchwave heatmap`: a finished run as a picture.

use super::terminal::say;
use crate::Error;
use crate::export::{ExportError, Format, Heatmap, Options, ScaleBy, Style, run};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Folder of a finished run
    run: PathBuf,
    /// Picture to write; its ending says which kind (.svg, .png or .html with values on hover) [default: RUN/heatmap.html]
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[command(flatten)]
    look: LookArgs,
}

/// Options that pictures share.
#[derive(clap::Args)]
pub struct LookArgs {
    /// default: layers down, heads or tokens across, red-white-blue; rome: tokens down, layers across, light to dark
    #[arg(long, value_enum, default_value = "default", hide_possible_values = true)]
    style: Style,
    /// Only these sites, one panel each, in this order: z,q [default: all]
    #[arg(long, value_delimiter = ',')]
    sites: Vec<String>,
    /// run: one colour scale for all sites; site: one for each
    #[arg(long, value_enum, default_value = "run", hide_possible_values = true)]
    scale: ScaleBy,
    /// Panels side by side [default: as many as suit a screen]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    columns: Option<u16>,
}

impl LookArgs {
    pub fn options(&self) -> Options {
        Options {
            style: self.style,
            scale: self.scale,
            sites: self.sites.iter().map(|s| s.trim().to_owned()).collect(),
            columns: self.columns.map(usize::from),
        }
    }
}

pub fn run(args: Args) -> Result<(), Error> {
    let output = args.output.unwrap_or_else(|| args.run.join("heatmap.html"));
    let format = Format::from_path(&output)?;
    let picture = Heatmap::with(&run::read(&args.run)?, &args.look.options())?.render(format)?;
    std::fs::write(&output, picture).map_err(|source| ExportError::Write { path: output.clone(), source })?;
    say(&output.display().to_string());
    Ok(())
}
