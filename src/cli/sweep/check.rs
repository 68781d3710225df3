//! Options against the model and the pairs, before any weight is read.

use super::Args;
use crate::Error;
use crate::cli::patching::Patching;
use crate::cli::usage;
use crate::engine::Site;
use crate::model::ModelSpec;
use crate::prompts::{Align, Encode, PositionAxis, PromptSet, Selector, position_labels, resolve_positions};
use crate::sweep::{Column, Direction, Metric, Selection, SiteCells, select};
use serde_json::{Map, Value, json};

/// Options after they have been checked against the model.
pub struct Plan {
    pub sites: Vec<SiteCells>,
    pub columns: Vec<Column>,
    pub restricted: bool,
    pub direction: Direction,
    pub metric: Metric,
    pub patching: Patching,
}

/// Sites, axes and selections against the model and the pairs.
pub fn check(
    args: &Args,
    spec: &ModelSpec,
    set: &PromptSet,
    sites: &[Site],
    metric: Metric,
    tokenizer: Option<&dyn Encode>,
) -> Result<Plan, Error> {
    for site in sites {
        if !(0..spec.n_layers()).any(|l| site.exists(spec, l)) {
            let has: Vec<&str> = Site::ALL
                .into_iter()
                .filter(|s| (0..spec.n_layers()).any(|l| s.exists(spec, l)))
                .map(Site::name)
                .collect();
            return Err(usage(format!(
                "--sites {site}: no layer of this {} model has it; it has {}",
                spec.family,
                has.join(", ")
            )));
        }
    }
    let by = args.by.as_deref().map(select::by).transpose().map_err(usage)?;
    let cuts = sites.iter().map(|s| select::by_for(*s, by)).collect::<Result<Vec<_>, _>>().map_err(usage)?;
    let layers = args.layers.as_deref().map(|l| select::layers(l, spec.n_layers())).transpose().map_err(usage)?;
    let heads = args.heads.as_deref().map(|h| select::heads(h, spec, sites)).transpose().map_err(usage)?;
    if heads.is_some() && !cuts.iter().all(|b| b.has_heads()) {
        return Err(usage("--heads: some of the sites are not cut by head; use --by head or --by head,pos"));
    }
    let (columns, restricted) = columns(set, args.positions.as_deref(), args.align.unwrap_or_default(), tokenizer)?;
    let patching = args.patch.read(&args.pairs, set, columns.clone())?;
    // The positions of a knockout are the destinations of its edges.
    let (columns, restricted) = match &patching.edges {
        Some(_) if args.positions.is_some() => {
            return Err(usage("--positions: a knockout's positions are those of --edges"));
        }
        Some(edges) => (edges.columns.clone(), true),
        None => (columns, restricted),
    };
    let selection = Selection { layers, heads };
    let n_columns = Vec::<Column>::len(&columns);
    let sites: Vec<SiteCells> =
        sites.iter().zip(cuts).map(|(site, by)| SiteCells::new(spec, *site, by, n_columns, &selection)).collect();
    if !sites.iter().any(|s| s.cells.iter().any(|c| c.exists)) {
        return Err(usage("--layers and --heads leave no cell at the chosen sites"));
    }
    let visited = || sites.iter().flat_map(|s| s.cells.iter().filter(|c| c.exists).map(move |c| (s, c.layer as usize)));
    patching.kind().check(spec, visited().map(|(s, layer)| (s.site, layer)))?;
    if let Some(edges) = &patching.edges {
        let layers = visited().map(|(_, layer)| layer).collect();
        edges.check(spec, &layers, !sites.iter().all(|s| s.by.has_positions()), set)?;
    }
    let direction = patching.direction(args.direction);
    Ok(Plan { sites, columns, restricted, direction, metric, patching })
}

/// What a run must share with one that it resumes.
pub fn identity(args: &Args, plan: &Plan, sites: &[Site], set: &PromptSet, model: &str) -> Map<String, Value> {
    let names: Vec<&str> = sites.iter().map(|s| s.name()).collect();
    let by: Vec<&str> = plan.sites.iter().map(|s| s.by.name()).collect();
    let value = json!({
        "patchwave": env!("CARGO_PKG_VERSION"),
        "model_sha256": model,
        "prompts_sha256": set.hash,
        "sites": names,
        "by": by,
        "layers": args.layers,
        "heads": args.heads,
        "positions": args.positions,
        "direction": plan.direction.as_str(),
        "patch": plan.patching.json(),
        "metric": plan.metric.name(),
        "correct_only": args.pairs.correct_only,
        "align": args.align,
        "dtype": args.device.dtype,
    });
    value.as_object().cloned().unwrap_or_default()
}

/// The position axis: what `--positions` names, or every position of the pairs as they are aligned. Tells, too, whether
/// the user named them.
///
/// # Errors
/// A name that a pair lacks, or a number beyond all pairs.
pub fn columns(
    set: &PromptSet,
    positions: Option<&str>,
    align: Align,
    tokenizer: Option<&dyn Encode>,
) -> Result<(Vec<Column>, bool), Error> {
    match positions {
        Some(list) => {
            let selectors = Selector::parse_list(list)?;
            let resolved = resolve_positions(set, &selectors)?;
            let column = |(s, at): (&Selector, Vec<Option<usize>>)| Column {
                label: s.to_string(),
                at: at.into_iter().map(|p| p.map(|p| p as u32)).collect(),
            };
            Ok((selectors.iter().zip(resolved).map(column).collect(), true))
        }
        None => {
            let axis = PositionAxis::new(set, align);
            let labels = position_labels(set, tokenizer, align);
            let at = |c: usize| set.pairs.iter().map(|p| axis.position(c, p.len()).map(|p| p as u32)).collect();
            Ok((labels.into_iter().enumerate().map(|(c, label)| Column { label, at: at(c) }).collect(), false))
        }
    }
}
