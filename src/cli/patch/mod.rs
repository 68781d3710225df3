//! `patchwave patch`: several nodes patched in one run, the metric of every pair.

mod report;

use super::args::{self, Answers, DeviceArgs, Job, ModelArgs, OnDevice, PairArgs};
use super::patching::{PatchArgs, Patching};
use super::sweep::columns;
use super::terminal::{note, say, warn};
use super::usage;
use crate::Error;
use crate::backend::Backend;
use crate::model::ModelSpec;
use crate::prompts::{Align, Encode, PromptSet};
use crate::sweep::{By, Cell, Direction, Joint, Metric, Needs, Node, SiteCells, Target, node};
use report::{Kind, Report};
use std::path::PathBuf;
use std::sync::Arc;

const MORE: &str = "\
A node is a head (a9.h6: its z; a9.h6<q>, <k>, <v>, <attn_scores>, <pattern>, <result>), what attention or the MLP of a
layer adds (a9, m3; m3<pre> and m3<post> inside it), the residual stream (resid_pre5, blocks.5.hook_resid_post, input),
each at every position or at some: a9.h6@S2+end. A file has one a line, or is a circuit of EAP-IG or MIB as JSON.

--except patches every head's z and every MLP's output that is not listed, but not the embedding: is this circuit enough?
With --patch knockout the nodes are the heads (a9 for all of a layer) that lose --edges.

Examples:
  patchwave patch --nodes a0.h5,a1.h3
  patchwave patch --model M --prompts P --nodes a9.h9,a9.h6@S2,m0 --direction noise --output patched.json
  patchwave patch --model M --prompts P --nodes @circuit.json --except --patch mean
  patchwave patch --model M --prompts P --nodes a9.h9,a9.h6 --patch knockout --edges 'IO->end'";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Nodes to patch together: a9.h9,a9.h6@S2,m0, or @FILE
    #[arg(long, value_name = "NODES", required_unless_present = "nodes_file")]
    nodes: Option<String>,
    /// File of nodes: one a line with # comments, or a circuit as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "nodes")]
    nodes_file: Option<PathBuf>,
    /// Patch every head and MLP but the nodes
    #[arg(long)]
    except: bool,
    /// denoise: clean into corrupted; noise: corrupted into clean [default: denoise for source patches, noise for others]
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    #[command(flatten)]
    patch: PatchArgs,
    /// logit_diff, prob, prob_diff, logprob or kl
    #[arg(long, default_value = "logit_diff")]
    metric: String,
    /// How positions of prompts of different lengths correspond [default: start, and not at all for means and resampling]
    #[arg(long, value_enum)]
    align: Option<Align>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write the result to this file, .json or .csv
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<(), Error> {
    args.device.run(PatchJob(&args))
}

struct PatchJob<'a>(&'a Args);

impl Job for PatchJob<'_> {
    fn run<B: Backend>(self, on: OnDevice<'_, B>) -> Result<(), Error> {
        run_on(on, self.0)
    }
}

/// The nodes that the options name.
fn nodes(args: &Args) -> Result<Vec<Node>, Error> {
    let file = match (&args.nodes, &args.nodes_file) {
        (_, Some(file)) => file.clone(),
        (Some(list), None) => match list.strip_prefix('@') {
            Some(file) => file.into(),
            None => return node::parse_list(list).map_err(|e| usage(format!("--nodes: {e}"))),
        },
        (None, None) => return Err(usage("--nodes or --nodes-file says which nodes are patched")),
    };
    let name = file.display().to_string();
    let text = std::fs::read_to_string(&file).map_err(|e| usage(format!("{name}: {e}")))?;
    Ok(node::read_list(&name, &text)?)
}

/// What is patched, in every pair.
fn targets(
    args: &Args,
    nodes: &[Node],
    spec: &ModelSpec,
    set: &PromptSet,
    patching: &Patching,
) -> Result<Vec<Target>, Error> {
    nodes.iter().try_for_each(|n| n.check(spec))?;
    let in_pairs = |nodes: &[Node]| nodes.iter().map(|n| n.target(set)).collect::<Result<Vec<Target>, _>>();
    let Some(edges) = &patching.edges else {
        let targets = in_pairs(nodes)?;
        node::check_overlaps(nodes, &targets, spec, set)?;
        return match args.except {
            true => Ok(node::complement(nodes, &targets, spec, set)?),
            false => Ok(targets),
        };
    };
    // A knockout's positions are the destinations of its edges.
    let mut heads = nodes.iter().map(Node::scores).collect::<Result<Vec<Node>, _>>()?;
    node::check_overlaps(&heads, &in_pairs(&heads)?, spec, set)?;
    if args.except {
        heads = node::complement_scores(&heads, spec);
    }
    let layers = heads.iter().map(|n| n.layer).collect();
    edges.check(spec, &layers, true, set)?;
    let mut destinations: Vec<Vec<usize>> = Vec::new();
    for pair in 0..set.pairs.len() {
        let mut here: Vec<usize> = edges.columns.iter().filter_map(|c| c.at[pair].map(|p| p as usize)).collect();
        here.sort_unstable();
        here.dedup();
        destinations.push(here);
    }
    let targets = in_pairs(&heads)?;
    Ok(targets.into_iter().map(|t| Target { positions: destinations.clone(), ..t }).collect())
}

/// The cells that targets are, for an estimate of memory.
fn cells_of(targets: &[Target]) -> Vec<SiteCells> {
    let cell = |t: &Target| Cell {
        site: t.site,
        layer: t.layer as u32,
        head: t.head.map(|h| h as u32),
        column: None,
        exists: true,
    };
    let cells = |t: &Target| SiteCells { site: t.site, by: By::Layer, n_heads: 1, n_columns: 1, cells: vec![cell(t)] };
    targets.iter().map(cells).collect()
}

fn run_on<B: Backend>(on: OnDevice<'_, B>, args: &Args) -> Result<(), Error> {
    let metric: Metric = args.metric.parse().map_err(usage)?;
    let output = match args.output.as_deref() {
        Some(path) => Some((path, Kind::of(path).map_err(usage)?)),
        None => None,
    };
    let nodes = nodes(args)?;
    let (files, name) = args.pairs.open(&args.model)?;
    let spec = Arc::new(files.spec.clone());
    let reads = Answers { answer: metric.needs_answers(), wrong: metric.needs_wrong() };
    let mut set = args.pairs.load(&files, reads)?;
    let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn Encode);
    let (axis, _) = columns(&set, None, args.align.unwrap_or_default(), tokenizer)?;
    let mut patching = args.patch.read(&args.pairs, &set, axis)?;
    let mut targets = targets(args, &nodes, &spec, &set, &patching)?;
    patching.kind().check(&spec, targets.iter().map(|t| (t.site, t.layer)))?;
    let longest = set.longest();
    let needs = Needs::new(&spec, files.n_parameters, &cells_of(&targets), patching.kind(), longest);
    let limits = on.limits(&needs, longest)?;

    let OnDevice { backend, about, .. } = on;
    let device = backend.device();
    if let Some(about) = &about {
        note(about);
    }
    let model = args::load_weights(&files, spec, backend)?;
    let n_given = set.pairs.len();
    let keep = args.pairs.keep_correct(&model, &mut set)?;
    patching.retain(&keep);
    for target in &mut targets {
        let mut kept = keep.iter();
        target.positions.retain(|_| *kept.next().unwrap_or(&true));
    }
    let direction = patching.direction(args.direction);
    let joint = Joint {
        model: &model,
        pairs: &set.pairs,
        targets,
        columns: patching.edges.as_ref().map(|e| e.columns.clone()).unwrap_or_default(),
        direction,
        patch: patching.kind(),
        metric,
        align: args.align,
        limits,
    };
    let outcome = joint.run()?;
    let report = Report {
        nodes: &nodes,
        except: args.except,
        n_targets: joint.targets.len(),
        patch: patching.json(),
        direction,
        metric,
        set: &set,
        n_given,
        outcome: &outcome,
        model: (&name, &files),
        device: &device,
        dtype: &args.device.dtype,
    };
    let not_preferred = outcome.prefers.iter().filter(|p| !**p).count();
    if not_preferred > 0 {
        warn(&format!(
            "the clean run does not prefer the answer in {not_preferred} of {} pairs (--correct-only drops them)",
            set.pairs.len()
        ));
    }
    if let Some((path, kind)) = output {
        report.write(path, kind)?;
    }
    say(&report.table());
    if let Some(about) = about {
        say(&about);
    }
    if let Some((path, _)) = output {
        say(&format!("\n{}", path.display()));
    }
    Ok(())
}
