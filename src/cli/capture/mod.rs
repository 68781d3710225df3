//! `patchwave capture`: activations of the unpatched runs as files.

mod work;

use super::args::{DeviceArgs, Job, ModelArgs, OnDevice, PairArgs};
use super::terminal::{say, size};
use super::usage;
use crate::Error;
use crate::backend::Backend;
use crate::capture::{CaptureError, NpyFolder, SafetensorsFile, Store, StoreAs};
use std::path::PathBuf;
pub use work::{RunChoice, Wanted, Work};

const MORE: &str = "\
Sites: logits resid_pre resid_mid resid_post attn_out mlp_out z q k v attn_scores pattern result mlp_pre mlp_post.
Tensors are called by their hooks, clean.blocks.5.attn.hook_z, and are [pair, pos, ...]; with prompts of different
lengths and without --positions they are [rows, ...] with row_offsets. Prompts may also be records with a single prompt
(clean, prompt or text); their other fields are kept as labels. No more than one batch of prompts is in memory.";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// What to capture, comma-separated: logits, short names (z) or hook names (attn.hook_z)
    #[arg(long, required = true, value_delimiter = ',')]
    sites: Vec<String>,
    /// Only these layers: 8-12,15
    #[arg(long)]
    layers: Option<String>,
    /// Only these positions: names from the prompts, `end`, numbers (negative from the end)
    #[arg(long, allow_hyphen_values = true)]
    positions: Option<String>,
    /// Whose run [default: both, clean where no record has a corrupted prompt]
    #[arg(long, value_enum)]
    run: Option<RunChoice>,
    /// File (safetensors) or folder (npy) to write; must not exist
    #[arg(long, short)]
    output: PathBuf,
    /// One safetensors file, or a folder with a .npy file for each tensor
    #[arg(long, value_enum, default_value = "safetensors")]
    format: Format,
    /// How the numbers are stored; --dtype is how they are computed
    #[arg(long, value_enum, default_value = "float32")]
    store_as: StoreAs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Safetensors,
    Npy,
}

pub fn run(args: Args) -> Result<(), Error> {
    args.pairs.no_idle_seed()?;
    args.device.run(CaptureJob { args: &args })
}

struct CaptureJob<'a> {
    args: &'a Args,
}

impl Job for CaptureJob<'_> {
    fn run<B: Backend>(self, on: OnDevice<'_, B>) -> Result<(), Error> {
        let args = self.args;
        if args.output.symlink_metadata().is_ok() {
            return Err(CaptureError::Exists { path: args.output.clone() }.into());
        }
        if args.format == Format::Npy && args.store_as == StoreAs::Bfloat16 {
            return Err(usage(
                "--format npy: numpy has no bfloat16; use --store-as float32 or float16, or --format safetensors",
            ));
        }
        let wanted = Wanted {
            model: &args.model,
            pairs: &args.pairs,
            sites: &args.sites,
            layers: args.layers.as_deref(),
            positions: args.positions.as_deref(),
            run: args.run,
            store_as: args.store_as,
            dtype: &args.device.dtype,
        };
        let about = on.about.clone();
        let work = Work::check(&wanted, on)?;
        let (plan, set) = work.run(|plan| -> Result<Box<dyn Store>, CaptureError> {
            Ok(match args.format {
                Format::Safetensors => Box::new(SafetensorsFile::create(&args.output, plan)?),
                Format::Npy => Box::new(NpyFolder::create(&args.output, plan)?),
            })
        })?;
        let runs: Vec<&str> = plan.asked.runs.iter().map(|r| r.name()).collect();
        say(&format!("{} pairs, {} run{}", set.pairs.len(), runs.join(" and "), if runs.len() > 1 { "s" } else { "" }));
        let lines = plan.summary();
        let width = lines.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        for (name, layers, shape) in lines {
            let layers = match layers {
                _ if !name.contains(".*.") => String::new(),
                1 => "1 layer".to_owned(),
                n => format!("{n} layers"),
            };
            say(&format!("  {name:width$}  {layers:9}  {shape:?}"));
        }
        if let Some(about) = about {
            say(&about);
        }
        say(&format!("\n{}  {}", args.output.display(), size(plan.bytes())));
        Ok(())
    }
}
