//! The buffers that a batch of rows moves through, allocated once.

use super::weights::{Model, QkvWidths, mlp_width};
use crate::backend::{Backend, BackendError};
use crate::model::ModelSpec;
use crate::model::spec::Op;

/// Buffers for up to `capacity` rows, allocated once and used by every step.
pub struct Workspace<B: Backend> {
    pub capacity: usize,
    /// The residual stream `[rows, d_model]`.
    pub x: B::Buf,
    /// `[rows, d_model]`
    pub(super) spare: B::Buf,
    /// Normalised input of a branch `[rows, d_model]`
    pub(super) h: B::Buf,
    /// `[rows, q | k | v]`, or the MLP's hidden row `[rows, gate | up]`
    pub(super) wide: B::Buf,
    /// Queries of the rows that live on `[rows, n_heads * d_qk]`
    pub(super) q: B::Buf,
    /// `[rows, n_heads * d_v]`
    pub(super) z: B::Buf,
    /// Output of the attention branch `[rows, d_model]`
    pub(super) attn_out: B::Buf,
    /// Output of the MLP branch `[rows, d_model]`
    pub(super) mlp_out: B::Buf,
}

/// Widest q, z and hidden rows of any layer: (wide, q, z).
fn widths(spec: &ModelSpec) -> (usize, usize, usize) {
    let mut w = (1, 1, 1);
    for sub in spec.blocks.iter().flat_map(|b| &b.subs) {
        match &sub.op {
            Op::Attn(a) => {
                let qkv = QkvWidths::of(a);
                w = (w.0.max(qkv.total()), w.1.max(qkv.q), w.2.max(a.n_heads * a.d_v));
            }
            Op::Mlp(m) => w.0 = w.0.max(mlp_width(m)),
        }
    }
    w
}

/// Bytes that one row takes in a [`Workspace`].
pub fn bytes_per_row(spec: &ModelSpec) -> usize {
    let (wide, q, z) = widths(spec);
    4 * (5 * spec.d_model + wide + q + z)
}

impl<B: Backend> Workspace<B> {
    pub fn new(model: &Model<B>, capacity: usize) -> Result<Self, BackendError> {
        let (wide, q, z) = widths(&model.spec);
        let rows = |width: usize| model.backend.zeros(capacity * width);
        let d = model.spec.d_model;
        Ok(Workspace {
            capacity,
            x: rows(d)?,
            spare: rows(d)?,
            h: rows(d)?,
            wide: rows(wide)?,
            q: rows(q)?,
            z: rows(z)?,
            attn_out: rows(d)?,
            mlp_out: rows(d)?,
        })
    }
}
