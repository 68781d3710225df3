//! What a patch is, as the forward pass sees it.

use super::cache::{Cache, Point};
use super::site::Site;
use crate::backend::Backend;
use std::ops::Range;

/// What becomes of an activation at a patch point.
pub enum Value<'a, B: Backend> {
    Zero,
    /// It becomes the same rows of a prompt of another run (the source run, or means over it).
    From(&'a Cache<B>, usize),
    /// Those rows are added to it.
    Add(&'a Cache<B>, usize),
    /// It is multiplied.
    Scale(f32),
    /// attn_scores only: this source position becomes −∞.
    Knockout(usize),
}

impl<B: Backend> Clone for Value<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Value<'_, B> {}

/// One activation of one segment, replaced where the forward pass computes it.
pub struct PatchPoint<'a, B: Backend> {
    pub site: Site,
    pub layer: usize,
    /// Index into the run's segments.
    pub segment: usize,
    /// Heads of the site; `None` is the whole row.
    pub heads: Option<Range<usize>>,
    /// Positions of the prompt: destinations, for scores and patterns.
    pub positions: Range<usize>,
    pub value: Value<'a, B>,
}

impl<B: Backend> PatchPoint<'_, B> {
    pub(super) fn is_at(&self, layer: usize, point: Point) -> bool {
        self.layer == layer && Point::of(self.site) == Some(point)
    }
}
