//! What a run leaves behind: residuals at boundaries and activations at points, packed rows of all prompts.

use super::site::Site;
use crate::backend::{Backend, View};
use crate::model::spec::AttnSpec;
use std::collections::{BTreeSet, HashMap};

/// An activation inside a sub-layer that a run can keep. The sites that can be patched are among them; the others are
/// what a cell needs of its base run to enter the wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// Raw projections, `[rows, heads * d]`.
    Q,
    K,
    V,
    /// After clip, norm and rope: what the scores are made of.
    RotQ,
    RotK,
    /// v after clipping; the same as `V` where nothing clips, and then not kept twice.
    ClippedV,
    /// Per prompt `[n_positions, n_heads, n_positions]`.
    AttnScores,
    Pattern,
    /// `[rows, n_heads * d_v]`
    Z,
    /// `[rows, n_heads * d_model]`
    Result,
    /// z · W_O + b before the post-norm, `[rows, d_model]`
    AttnRaw,
    AttnOut,
    /// `[rows, d_mlp]`
    MlpPre,
    /// Up projection of a gated MLP, `[rows, d_mlp]`
    MlpUp,
    /// `[rows, d_mlp]`
    MlpPost,
    MlpOut,
}

impl Point {
    /// The point that a patch of `site` writes; residual sites are boundaries instead.
    pub fn of(site: Site) -> Option<Point> {
        Some(match site {
            Site::ResidPre | Site::ResidMid | Site::ResidPost => return None,
            Site::AttnOut => Point::AttnOut,
            Site::MlpOut => Point::MlpOut,
            Site::Z => Point::Z,
            Site::Q => Point::Q,
            Site::K => Point::K,
            Site::V => Point::V,
            Site::AttnScores => Point::AttnScores,
            Site::Pattern => Point::Pattern,
            Site::Result => Point::Result,
            Site::MlpPre => Point::MlpPre,
            Site::MlpPost => Point::MlpPost,
        })
    }

    /// Where the values that attention reads are kept.
    pub fn attended_v(a: &AttnSpec) -> Point {
        if a.qkv_clip.is_some() { Point::ClippedV } else { Point::V }
    }

    /// A prompt's entries are a matrix of positions by positions.
    pub fn is_quadratic(self) -> bool {
        matches!(self, Point::AttnScores | Point::Pattern)
    }
}

/// Which activations a run keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    pub boundaries: BTreeSet<usize>,
    /// (layer, point)
    pub points: BTreeSet<(usize, Point)>,
}

/// Token ids of several prompts, packed row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRows {
    pub ids: Vec<Vec<u32>>,
    /// First row of every prompt, and one more for the end.
    pub offsets: Vec<usize>,
    /// First entry of every prompt's matrix of positions by positions, per head, and one more for the end.
    square_offsets: Vec<usize>,
}

impl PromptRows {
    pub fn new(ids: Vec<Vec<u32>>) -> Self {
        let (mut offsets, mut square_offsets) = (vec![0], vec![0]);
        for (i, ids) in ids.iter().enumerate() {
            offsets.push(offsets[i] + ids.len());
            square_offsets.push(square_offsets[i] + ids.len() * ids.len());
        }
        PromptRows { ids, offsets, square_offsets }
    }

    pub fn n_prompts(&self) -> usize {
        self.ids.len()
    }

    pub fn n_rows(&self) -> usize {
        *self.offsets.last().expect("never empty")
    }

    pub fn len_of(&self, prompt: usize) -> usize {
        self.ids[prompt].len()
    }

    /// Where prompt `prompt`'s `[n_positions, n_heads, n_positions]` begins in a quadratic point's buffer.
    pub fn square_at(&self, prompt: usize, n_heads: usize) -> usize {
        self.square_offsets[prompt] * n_heads
    }

    /// Numbers of a quadratic point's buffer.
    pub fn squares(&self, n_heads: usize) -> usize {
        self.square_offsets.last().expect("never empty") * n_heads
    }
}

/// The kept activations of one run over `prompts`.
pub struct Cache<B: Backend> {
    pub prompts: PromptRows,
    pub(super) resid: HashMap<usize, B::Buf>,
    pub(super) points: HashMap<(usize, Point), B::Buf>,
}

impl<B: Backend> Cache<B> {
    pub(crate) fn empty(prompts: PromptRows) -> Self {
        Cache { prompts, resid: HashMap::new(), points: HashMap::new() }
    }

    /// The residual at a boundary `[rows, d_model]`. Asking for one that was not kept is a bug of the caller.
    pub fn resid(&self, boundary: usize, d_model: usize) -> View<'_, B::Buf> {
        View::packed(&self.resid[&boundary], self.prompts.n_rows(), d_model)
    }

    /// A kept point `[rows, width]`.
    pub fn point(&self, layer: usize, point: Point, width: usize) -> View<'_, B::Buf> {
        View::packed(self.buffer(layer, point), self.prompts.n_rows(), width)
    }

    /// One prompt's scores or pattern, `[n_positions, n_heads * n_positions]`.
    pub fn matrix(&self, layer: usize, point: Point, prompt: usize, n_heads: usize) -> View<'_, B::Buf> {
        let len = self.prompts.len_of(prompt);
        let offset = self.prompts.square_at(prompt, n_heads);
        View { buf: self.buffer(layer, point), offset, rows: len, cols: n_heads * len, stride: n_heads * len }
    }

    /// The whole buffer of a point.
    pub fn buffer(&self, layer: usize, point: Point) -> &B::Buf {
        &self.points[&(layer, point)]
    }

    pub fn has(&self, layer: usize, point: Point) -> bool {
        self.points.contains_key(&(layer, point))
    }

    pub(crate) fn insert_resid(&mut self, boundary: usize, buf: B::Buf) {
        self.resid.insert(boundary, buf);
    }

    pub(crate) fn insert_point(&mut self, layer: usize, point: Point, buf: B::Buf) {
        self.points.insert((layer, point), buf);
    }
}
