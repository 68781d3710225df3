//! The numbers that patches are made of, laid out like the caches of the runs that they patch.
//!
//! For one cell, "base + noise" is a value like any other, because the base run upstream of a patch is the base run: the
//! wave takes it from a cache ([`shifted`]). Where several nodes are patched in one run, what is added meets the run's own
//! activation instead ([`delta_cache`]), and the reference path does so always.

use super::PatchKind;
use super::random::Random;
use crate::backend::{Backend, BackendError, Combine, RowIndex, View, ViewMut};
use crate::engine::{Cache, Keep, Model, Point, Program, PromptRows, Site};
use crate::model::ModelSpec;
use crate::prompts::{Align, Pair};
use crate::sweep::cells::Direction;
use crate::sweep::group::{point_width, value_point};
use crate::sweep::run::SweepError;

/// A kept activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kept {
    Boundary(usize),
    Point(usize, Point),
}

/// A site of a layer, and where its values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub site: Site,
    pub layer: usize,
    pub kept: Kept,
}

/// Which pairs the rows of a cache are of: pair `first + i` of `all` is prompt i.
#[derive(Clone, Copy)]
pub(crate) struct Pairs<'a> {
    pub all: &'a [Pair],
    pub first: usize,
    pub direction: Direction,
    pub align: Option<Align>,
}

/// The places of some sites and layers, each once. A head's result stands under z, unless `results` are wanted.
pub(crate) fn places(spec: &ModelSpec, sites: impl IntoIterator<Item = (Site, usize)>, results: bool) -> Vec<Place> {
    let program = Program::new(spec);
    let mut all: Vec<Place> = Vec::new();
    for (site, layer) in sites {
        let Some(boundary) = program.entry_boundary(spec, site, layer) else { continue };
        let point = if results { Point::of(site) } else { value_point(site) };
        let kept = point.map_or(Kept::Boundary(boundary), |p| Kept::Point(layer, p));
        if all.iter().all(|p| p.kept != kept) {
            all.push(Place { site, layer, kept });
        }
    }
    all
}

impl Place {
    fn heads(&self, spec: &ModelSpec) -> usize {
        spec.attn(self.layer).map_or(0, |a| a.n_heads)
    }

    fn is_quadratic(&self) -> bool {
        matches!(self.kept, Kept::Point(_, p) if p.is_quadratic())
    }

    /// Numbers of one row of a prompt of `len` tokens.
    fn width(&self, spec: &ModelSpec, len: usize) -> usize {
        match self.kept {
            Kept::Boundary(_) => spec.d_model,
            Kept::Point(..) if self.is_quadratic() => self.heads(spec) * len,
            Kept::Point(layer, point) => point_width(spec, layer, point),
        }
    }

    /// A number of its own for chance: the same for the same activation, whichever sites a run visits.
    fn word(&self) -> u64 {
        match self.kept {
            Kept::Boundary(b) => b as u64,
            Kept::Point(layer, point) => ((point as u64 + 1) << 32) | layer as u64,
        }
    }

    /// All numbers of this place in a cache, as one row.
    fn all<'c, B: Backend>(&self, spec: &ModelSpec, cache: &'c Cache<B>) -> View<'c, B::Buf> {
        let prompts = &cache.prompts;
        let total = match self.is_quadratic() {
            true => prompts.squares(self.heads(spec)),
            false => prompts.n_rows() * self.width(spec, 0),
        };
        let buffer = match self.kept {
            Kept::Boundary(b) => cache.resid(b, spec.d_model).buf,
            Kept::Point(layer, point) => cache.buffer(layer, point),
        };
        View::packed(buffer, 1, total)
    }

    fn insert<B: Backend>(&self, cache: &mut Cache<B>, buf: B::Buf) {
        match self.kept {
            Kept::Boundary(b) => cache.insert_resid(b, buf),
            Kept::Point(layer, point) => cache.insert_point(layer, point, buf),
        }
    }
}

/// What a run must keep to have every place.
pub(crate) fn keep_of(places: &[Place]) -> Keep {
    let mut keep = Keep::default();
    for place in places {
        match place.kept {
            Kept::Boundary(b) => keep.boundaries.insert(b),
            Kept::Point(layer, point) => keep.points.insert((layer, point)),
        };
    }
    keep
}

/// What is added to the activations of `place`, in the rows of `prompts`; `None` for patches that add nothing.
fn delta(
    spec: &ModelSpec,
    patch: PatchKind<'_>,
    draw: usize,
    place: &Place,
    prompts: &PromptRows,
    first: usize,
) -> Option<Vec<f32>> {
    let mut all = Vec::new();
    for prompt in 0..prompts.n_prompts() {
        let len = prompts.len_of(prompt);
        let width = place.width(spec, len);
        for position in 0..len {
            let at = all.len();
            all.resize(at + width, 0.0);
            match patch {
                PatchKind::Noise { sigma, draws } => {
                    let words = [draw as u64, (first + prompt) as u64, place.word(), position as u64];
                    Random::new(draws.seed, &words).normals(sigma, &mut all[at..]);
                }
                PatchKind::Add { directions, scale, axis } => {
                    let here = |c: &crate::sweep::Column| c.at[first + prompt] == Some(position as u32);
                    // A place beyond the axis is not patched.
                    let column = axis.iter().position(here).unwrap_or(0);
                    let row = directions.row(place.site, place.layer, column, width);
                    all[at..].iter_mut().zip(row).for_each(|(x, v)| *x = scale * v);
                }
                _ => return None,
            }
        }
    }
    Some(all)
}

/// What `patch` adds, as a cache.
pub(crate) fn delta_cache<B: Backend>(
    model: &Model<B>,
    patch: PatchKind<'_>,
    draw: usize,
    places: &[Place],
    prompts: &PromptRows,
    first: usize,
) -> Result<Cache<B>, BackendError> {
    let mut cache = Cache::empty(prompts.clone());
    for place in places {
        if let Some(numbers) = delta(&model.spec, patch, draw, place, prompts, first) {
            place.insert(&mut cache, model.backend.upload(numbers)?);
        }
    }
    Ok(cache)
}

/// The activations of `base` plus what `patch` adds, or times its factor, as a cache.
pub(crate) fn shifted<B: Backend>(
    model: &Model<B>,
    patch: PatchKind<'_>,
    draw: usize,
    places: &[Place],
    base: &Cache<B>,
    first: usize,
) -> Result<Cache<B>, BackendError> {
    let mut cache = Cache::empty(base.prompts.clone());
    for place in places {
        let mut numbers = model.backend.download(place.all(&model.spec, base));
        if let PatchKind::Scale(factor) = patch {
            // Masked scores stay −∞, whatever the factor.
            numbers.iter_mut().filter(|x| x.is_finite()).for_each(|x| *x *= factor);
        } else if let Some(delta) = delta(&model.spec, patch, draw, place, &base.prompts, first) {
            numbers.iter_mut().zip(delta).for_each(|(x, d)| *x += d);
        }
        place.insert(&mut cache, model.backend.upload(numbers)?);
    }
    Ok(cache)
}

/// The source runs of the pairs that stand in for the group's, in the rows of `base`. `partner` has one pair for each of
/// all pairs. A position that the other prompt does not have keeps the base run's activation.
pub(crate) fn resampled<B: Backend>(
    model: &Model<B>,
    places: &[Place],
    base: &Cache<B>,
    partner: &[u32],
    pairs: Pairs<'_>,
) -> Result<Cache<B>, SweepError> {
    let prompts = &base.prompts;
    let of = |prompt: usize| {
        let pair = &pairs.all[partner[pairs.first + prompt] as usize];
        match pairs.direction {
            Direction::Denoise => &pair.clean,
            Direction::Noise => &pair.corrupted,
        }
    };
    let others = PromptRows::new((0..prompts.n_prompts()).map(|p| of(p).clone()).collect());
    let run = model.run(others.clone(), &keep_of(places), &[])?;
    if (0..prompts.n_prompts()).all(|p| others.len_of(p) == prompts.len_of(p)) {
        return Ok(run.cache);
    }
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for p in 0..prompts.n_prompts() {
        let (own, other) = (prompts.len_of(p), others.len_of(p));
        for position in 0..own {
            let there = match pairs.align {
                Some(Align::End) => (position + other).checked_sub(own),
                _ => Some(position),
            };
            if let Some(there) = there.filter(|t| *t < other) {
                from.push((others.offsets[p] + there) as u32);
                to.push((prompts.offsets[p] + position) as u32);
            }
        }
    }
    let mut cache = Cache::empty(prompts.clone());
    let backend = &model.backend;
    for place in places {
        if place.is_quadratic() {
            return Err(super::InterventionError::MatricesOfLengths { site: place.site }.into());
        }
        let (width, rows) = (place.width(&model.spec, 0), prompts.n_rows());
        let mut buf = backend.zeros(rows * width)?;
        let own = View { rows, cols: width, stride: width, ..place.all(&model.spec, base) };
        let own_to = ViewMut::packed(&mut buf, rows, width);
        backend.copy_rows(own, RowIndex::All, own_to, RowIndex::All, Combine::Set, 1.0);
        let other = View { rows: others.n_rows(), cols: width, stride: width, ..place.all(&model.spec, &run.cache) };
        let other_to = ViewMut::packed(&mut buf, rows, width);
        backend.copy_rows(other, RowIndex::List(&from), other_to, RowIndex::List(&to), Combine::Set, 1.0);
        place.insert(&mut cache, buf);
    }
    Ok(cache)
}
