//! From an operation and its sizes to a call that can be repeated, with all its buffers on the device.

use super::case::{Case, Kind, Then as CaseThen};
use super::numbers::{fill, fixed_point, matrix};
use crate::backend::{
    AttnCall, AttnSegment, Backend, BackendError, Combine, Epilogue, Norm, PatchEntry, PatchSource, RopeTable,
    RowIndex, Then, Unembedding, View, ViewMut, WeightSlice, XIelu,
};
use crate::engine::forward::attn_params;
use crate::engine::weights::QkvWidths;
use crate::model::spec::{AttnSpec, NormScope, NormSpec};

/// Seeds of the two factors of a product.
pub(super) const X: u64 = 1;
pub(super) const W: u64 = 2;

/// What the entries of a weight with `k` input dimensions are scaled by, so that sums have variance 1, as what a norm leads
/// to: activations of larger ones would be of numbers next to zero, which processors are slow at.
pub(super) fn gain(k: usize) -> f32 {
    3.0 / (k as f32).sqrt()
}

/// A weight `[k, n]` of numbers by chance: input i of output o is `gain(k)` times number o·k + i of the sequence [`W`].
pub(super) fn weight<B: Backend>(backend: &B, k: usize, n: usize) -> Result<B::Weight, BackendError> {
    backend.pack(k, &[n], &mut |_, out| {
        fill(W, 0, gain(k), out);
        Ok(())
    })
}

/// Everything that the operation reads and writes, on the device, and a call that runs it once. The call may be made any
/// number of times: what is written in place neither vanishes nor overflows.
///
/// # Errors
/// No memory on the device.
pub fn prepare<'b, B: Backend>(backend: &'b B, case: &Case) -> Result<Box<dyn FnMut() + 'b>, BackendError> {
    Ok(match case.kind.clone() {
        Kind::Gemm { m, k, n, bias, then } => {
            let (x, w, mut out) = (matrix(backend, m, k, X)?, weight(backend, k, n)?, backend.zeros(m * n)?);
            let bias = if bias { Some(matrix(backend, 1, n, 3)?) } else { None };
            let mut stream = if then == CaseThen::AddTo { Some(backend.zeros(m * n)?) } else { None };
            Box::new(move || {
                let then = match (then, &mut stream) {
                    (CaseThen::AddTo, Some(stream)) => {
                        Then::AddTo { stream: ViewMut::packed(stream, m, n), scale: 1.0 }
                    }
                    (CaseThen::Activate(act), _) => Then::Activate(act),
                    (CaseThen::Gate(act), _) => Then::Gate(act),
                    _ => Then::Write,
                };
                let epilogue = Epilogue { bias: bias.as_ref().map(|b| View::packed(b, 1, n)), then };
                let slice = WeightSlice { k: 0..k, n: 0..n };
                backend.gemm(View::packed(&x, m, k), &w, slice, epilogue, ViewMut::packed(&mut out, m, n));
            })
        }
        Kind::HeadDelta { groups, width, k, n } => {
            let rows = groups.last().map_or(0, |g| g.rows.end);
            let (x, w, mut out) = (matrix(backend, rows, width, X)?, weight(backend, k, n)?, backend.zeros(rows * n)?);
            Box::new(move || {
                backend.head_delta(View::packed(&x, rows, width), &groups, &w, ViewMut::packed(&mut out, rows, n));
            })
        }
        Kind::Attention { spec, segments, prefix_rows, captured } => {
            attention(backend, *spec, segments, prefix_rows, captured)?
        }
        Kind::Norm { spec, rows, width, in_place } => norm(backend, spec, rows, width, in_place)?,
        Kind::Rope { rows, heads, d, n_rot, layout, positions } => {
            let mut x = matrix(backend, rows, heads * d, X)?;
            // Angles do not matter to the time; cos and sin of one keep lengths as they are.
            let (cos, sin) = (1f32.cos(), 1f32.sin());
            let row = (0..n_rot).map(|i| if i < n_rot / 2 { cos } else { sin });
            let table: Vec<f32> = row.cycle().take(positions * n_rot).collect();
            let table = RopeTable { table: backend.upload(table)?, n_rot, layout };
            let index: Vec<u32> = (0..rows).map(|i| (i % positions) as u32).collect();
            Box::new(move || backend.rope(ViewMut::packed(&mut x, rows, heads * d), heads, &table, &index))
        }
        Kind::Activation { rows, d_mlp, act, gated } => {
            let width = if gated { 2 * d_mlp } else { d_mlp };
            let mut row = vec![fixed_point(act); width];
            row[d_mlp..].fill(1.0);
            let row = backend.upload(row)?;
            let mut x = backend.zeros(rows * width)?;
            let to = ViewMut::packed(&mut x, rows, width);
            let from = vec![0; rows];
            let row = View::packed(&row, 1, width);
            backend.copy_rows(row, RowIndex::List(&from), to, RowIndex::All, Combine::Set, 1.0);
            let xielu = XIelu { alpha_p: 0.5, alpha_n: 0.5, beta: 0.5, eps: -1e-6 };
            Box::new(move || backend.activation(ViewMut::packed(&mut x, rows, width), act, xielu, gated))
        }
        Kind::Embed { rows, d, d_vocab } => {
            let (table, mut out) = (matrix(backend, d_vocab, d, X)?, backend.zeros(rows * d)?);
            let ids = spread(rows, d_vocab);
            Box::new(move || {
                backend.embed(View::packed(&table, d_vocab, d), &ids, 1.0, ViewMut::packed(&mut out, rows, d));
            })
        }
        Kind::CopyRows { rows, d, from } => {
            let (x, mut out) = (matrix(backend, from, d, X)?, backend.zeros(rows * d)?);
            let list: Vec<u32> = (0..rows).map(|i| (i % from) as u32).collect();
            Box::new(move || {
                let (x, out) = (View::packed(&x, from, d), ViewMut::packed(&mut out, rows, d));
                backend.copy_rows(x, RowIndex::List(&list), out, RowIndex::All, Combine::Set, 1.0);
            })
        }
        Kind::Add { rows, d } => {
            let (mut x, y) = (matrix(backend, rows, d, X)?, matrix(backend, rows, d, W)?);
            Box::new(move || backend.add(ViewMut::packed(&mut x, rows, d), View::packed(&y, rows, d), 1.0))
        }
        Kind::Scale { rows, d } => {
            let mut x = matrix(backend, rows, d, X)?;
            Box::new(move || backend.scale(ViewMut::packed(&mut x, rows, d), 1.0))
        }
        Kind::ScaleRows { rows, d } => {
            let (mut x, factors) = (matrix(backend, rows, d, X)?, vec![1.0; rows]);
            Box::new(move || backend.scale_rows(ViewMut::packed(&mut x, rows, d), &factors))
        }
        Kind::Clamp { rows, d } => {
            let mut x = matrix(backend, rows, d, X)?;
            Box::new(move || backend.clamp(ViewMut::packed(&mut x, rows, d), 0.5))
        }
        Kind::Patch { rows, d, own, cols, values } => {
            let (mut x, from) = (matrix(backend, rows, d, X)?, matrix(backend, values, d, W)?);
            let entry = |i: usize| {
                let (first, heads) = (i * own, d / cols);
                let head = (i % heads) * cols;
                let value = PatchSource::Row(first % (values - own + 1));
                PatchEntry { rows: first..rows.min(first + own), cols: head..head + cols, value }
            };
            let table: Vec<PatchEntry> = (0..rows.div_ceil(own)).map(entry).collect();
            Box::new(move || {
                let from = View::packed(&from, values, d);
                backend.patch(ViewMut::packed(&mut x, rows, d), &table, Some(from));
            })
        }
        Kind::Differs { rows, d, heads } => {
            let (a, b) = (matrix(backend, rows, d, X)?, matrix(backend, rows, d, X)?);
            Box::new(move || {
                backend.differs(View::packed(&a, rows, d), Some(View::packed(&b, rows, d)), heads);
            })
        }
        Kind::TokenLogits { rows, d, d_vocab } => {
            let (h, table) = (matrix(backend, rows, d, X)?, matrix(backend, d_vocab, d, W)?);
            let (tokens, counts) = (spread(2 * rows, d_vocab), vec![2; rows]);
            Box::new(move || {
                backend.token_logits(View::packed(&h, rows, d), &unembedding(&table, d_vocab), &tokens, &counts);
            })
        }
        Kind::LogSumExp { rows, d, d_vocab } => {
            let (h, table) = (matrix(backend, rows, d, X)?, matrix(backend, d_vocab, d, W)?);
            Box::new(move || {
                backend.log_sum_exp(View::packed(&h, rows, d), &unembedding(&table, d_vocab));
            })
        }
        Kind::Kl { rows, clean, d, d_vocab } => {
            let (h, table) = (matrix(backend, rows, d, X)?, matrix(backend, d_vocab, d, W)?);
            let reference = matrix(backend, clean, d, 3)?;
            // As in a wave, where pairs alternate from row to row.
            let rows_of: Vec<u32> = (0..rows).map(|i| (i % clean) as u32).collect();
            Box::new(move || {
                let (h, reference) = (View::packed(&h, rows, d), View::packed(&reference, clean, d));
                backend.kl(h, reference, &rows_of, &unembedding(&table, d_vocab));
            })
        }
    })
}

/// `n` numbers below `below`, far from their neighbours.
fn spread(n: usize, below: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (i.wrapping_mul(2_654_435_761) % below as u64) as u32).collect()
}

fn unembedding<B>(matrix: &B, d_vocab: usize) -> Unembedding<'_, B> {
    Unembedding { matrix, bias: None, d_vocab, scale: 1.0, softcap: None }
}

fn norm<'b, B: Backend>(
    backend: &'b B,
    spec: NormSpec,
    rows: usize,
    width: usize,
    in_place: bool,
) -> Result<Box<dyn FnMut() + 'b>, BackendError> {
    debug_assert_eq!(spec.scope, NormScope::Full, "norms of the residual stream");
    let (mut x, mut out) = (matrix(backend, rows, width, X)?, backend.zeros(if in_place { 0 } else { rows * width })?);
    let ones = || backend.upload(vec![1.0; width]);
    let weight = if spec.weight == crate::model::spec::NormWeight::None { None } else { Some(ones()?) };
    let bias = if spec.bias { Some(matrix(backend, 1, width, 3)?) } else { None };
    Ok(Box::new(move || {
        let norm = Norm {
            kind: spec.kind,
            eps: spec.eps,
            weight_kind: spec.weight,
            weight: weight.as_ref(),
            bias: bias.as_ref(),
            heads: 1,
            distinct: false,
        };
        if in_place {
            backend.norm_in_place(ViewMut::packed(&mut x, rows, width), &norm);
        } else {
            backend.norm(View::packed(&x, rows, width), &norm, ViewMut::packed(&mut out, rows, width));
        }
    }))
}

fn attention<'b, B: Backend>(
    backend: &'b B,
    spec: AttnSpec,
    segments: Vec<AttnSegment>,
    prefix_rows: usize,
    captured: bool,
) -> Result<Box<dyn FnMut() + 'b>, BackendError> {
    let (w, z_width) = (QkvWidths::of(&spec), spec.n_heads * spec.d_v);
    let rows: usize = segments.iter().map(|s| s.n_q).sum();
    // The base run's cache has whole prompts; a wave's segments read the beginning of each.
    let base_rows = segments.iter().map(|s| s.prefix_row + s.prefix_len).max().unwrap_or(0);
    let q = matrix(backend, rows, w.q, X)?;
    let kv = matrix(backend, rows, w.k + w.v, W)?;
    let prefix = match prefix_rows {
        0 => None,
        _ => Some((matrix(backend, base_rows, w.k, 3)?, matrix(backend, base_rows, w.v, 4)?)),
    };
    let sinks = if spec.sinks { Some(matrix(backend, 1, spec.n_heads, 5)?) } else { None };
    let squares: usize = segments.iter().map(|s| s.n_q * (s.prefix_len + s.own_len)).sum();
    let mut pattern = if captured { Some(backend.zeros(squares * spec.n_heads)?) } else { None };
    let mut z = backend.zeros(rows * z_width)?;
    Ok(Box::new(move || {
        let own = View::packed(&kv, rows, w.k + w.v);
        let call = AttnCall {
            params: attn_params(&spec, sinks.as_ref()),
            heads: spec.n_heads,
            q: Some(View::packed(&q, rows, w.q)),
            k: Some(own.columns(0..w.k)),
            v: Some(own.columns(w.k..w.k + w.v)),
            prefix: prefix.as_ref().map(|(k, v)| (View::packed(k, base_rows, w.k), View::packed(v, base_rows, w.v))),
            segments: &segments,
            overrides: &[],
            override_values: None,
            capture_scores: None,
            capture_pattern: pattern.as_mut(),
        };
        backend.attention(call, ViewMut::packed(&mut z, rows, z_width));
    }))
}
