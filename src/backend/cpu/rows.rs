//! Operations that treat each row on its own: norms, rope, activations, copies, patches.

use super::simd;
use crate::backend::{
    Combine, Epilogue, Norm, PatchEntry, PatchSource, RopeTable, RowIndex, Then, View, ViewMut, XIelu,
};
use crate::model::spec::{Act, NormKind, NormWeight, RopeLayout};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

type Buf = Vec<f32>;

/// Rows given to a thread at a time; fewer are not worth the hand-over.
const ROWS_PER_TASK: usize = 32;

pub(super) fn row<'a>(v: View<'a, Buf>, i: usize) -> &'a [f32] {
    &v.buf[v.offset + i * v.stride..][..v.cols]
}

/// Calls `f(i, row)` for every row, in parallel. The result does not depend on how the rows are shared out.
pub(super) fn for_each_row(x: ViewMut<'_, Buf>, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    if x.rows == 0 || x.cols == 0 {
        return;
    }
    let end = x.offset + (x.rows - 1) * x.stride + x.cols;
    let (cols, stride) = (x.cols, x.stride);
    x.buf[x.offset..end]
        .par_chunks_mut(stride)
        .with_min_len(ROWS_PER_TASK)
        .enumerate()
        .for_each(|(i, row)| f(i, &mut row[..cols]));
}

struct NormRow<'a> {
    norm: &'a Norm<'a, Buf>,
    x: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl WithSimd for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let NormRow { norm, x, y } = self;
        let width = y.len() / norm.heads;
        for (h, y) in y.chunks_exact_mut(width).enumerate() {
            let params = |p: Option<&'_ Buf>| -> Option<(usize, usize)> {
                p.map(|_| if norm.distinct { (h * width, width) } else { (0, width) })
            };
            if let Some(x) = x {
                y.copy_from_slice(&x[h * width..][..width]);
            }
            let mean = match norm.kind {
                NormKind::LayerNorm => simd::sum(simd, y) / width as f32,
                NormKind::RmsNorm => 0.0,
            };
            let variance = simd::sum_of_squares_around(simd, y, mean) / width as f32;
            let scale = 1.0 / (variance + norm.eps).sqrt();
            for v in y.iter_mut() {
                *v = (*v - mean) * scale;
            }
            if let (Some(w), Some((at, n))) = (norm.weight, params(norm.weight)) {
                match norm.weight_kind {
                    NormWeight::OnePlusScale => {
                        for (v, w) in y.iter_mut().zip(&w[at..at + n]) {
                            *v *= 1.0 + w;
                        }
                    }
                    _ => {
                        for (v, w) in y.iter_mut().zip(&w[at..at + n]) {
                            *v *= w;
                        }
                    }
                }
            }
            if let (Some(b), Some((at, n))) = (norm.bias, params(norm.bias)) {
                for (v, b) in y.iter_mut().zip(&b[at..at + n]) {
                    *v += b;
                }
            }
        }
    }
}

pub fn norm(x: View<'_, Buf>, norm: &Norm<'_, Buf>, out: ViewMut<'_, Buf>) {
    let arch = Arch::new();
    for_each_row(out, |i, y| arch.dispatch(NormRow { norm, x: Some(row(x, i)), y }));
}

pub fn norm_in_place(x: ViewMut<'_, Buf>, norm: &Norm<'_, Buf>) {
    let arch = Arch::new();
    for_each_row(x, |_, y| arch.dispatch(NormRow { norm, x: None, y }));
}

pub fn add(x: ViewMut<'_, Buf>, y: View<'_, Buf>, scale: f32) {
    let arch = Arch::new();
    for_each_row(x, |i, x| {
        let y = row(y, i);
        arch.dispatch(|| {
            if scale == 1.0 {
                x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            } else {
                x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
            }
        });
    });
}

pub fn rope(x: ViewMut<'_, Buf>, heads: usize, table: &RopeTable<Buf>, index: &[u32]) {
    let (arch, half) = (Arch::new(), table.n_rot / 2);
    for_each_row(x, |i, x| {
        let (cos, sin) = table.table[index[i] as usize * table.n_rot..][..table.n_rot].split_at(half);
        let d_head = x.len() / heads;
        arch.dispatch(|| {
            for head in x.chunks_exact_mut(d_head) {
                match table.layout {
                    RopeLayout::HalfSplit => {
                        let (a, rest) = head.split_at_mut(half);
                        for (((a, b), c), s) in a.iter_mut().zip(rest).zip(cos).zip(sin) {
                            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                        }
                    }
                    RopeLayout::Interleaved => {
                        for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                            let (a, b) = (pair[0], pair[1]);
                            pair[0] = a * c - b * s;
                            pair[1] = b * c + a * s;
                        }
                    }
                }
            }
        });
    });
}

#[inline(always)]
fn act_of(act: Act, xielu: XIelu, x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    match act {
        Act::Relu => x.max(0.0),
        Act::Relu2 => x.max(0.0) * x.max(0.0),
        Act::Silu => x * simd::sigmoid(x),
        Act::QuickGelu => x * simd::sigmoid(1.702 * x),
        // x/2 · (1 + tanh(u)) = x · σ(2u)
        Act::GeluTanh => x * simd::sigmoid(2.0 * SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)),
        Act::GeluErf => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
        Act::XIelu if x > 0.0 => xielu.alpha_p * x * x + xielu.beta * x,
        Act::XIelu => xielu.alpha_n * (x.min(xielu.eps).exp_m1() - x) + xielu.beta * x,
    }
}

pub fn activation(x: ViewMut<'_, Buf>, act: Act, xielu: XIelu, gated: bool) {
    let arch = Arch::new();
    for_each_row(x, |_, x| activate(arch, x, act, xielu, gated));
}

/// One row of [`activation`].
fn activate(arch: Arch, x: &mut [f32], act: Act, xielu: XIelu, gated: bool) {
    let (gate, up) = if gated { x.split_at_mut(x.len() / 2) } else { (x, &mut [][..]) };
    // One loop per activation, so that each is compiled on its own and becomes vectors.
    macro_rules! each {
        ($($act:ident),*) => {
            match act {
                $(Act::$act => arch.dispatch(|| {
                    gate.iter_mut().for_each(|g| *g = act_of(Act::$act, xielu, *g));
                    gate.iter_mut().zip(up.iter()).for_each(|(g, u)| *g *= u);
                }),)*
            }
        };
    }
    each!(Relu, Relu2, Silu, QuickGelu, GeluTanh, GeluErf, XIelu);
}

/// What follows a product, row by row, so that a row is still in the cache when it is activated or added.
pub fn epilogue(epilogue: Epilogue<'_, Buf>, out: ViewMut<'_, Buf>) {
    let arch = Arch::new();
    let bias = epilogue.bias.map(|b| row(b, 0));
    let add_bias = |y: &mut [f32]| {
        if let Some(bias) = bias {
            arch.dispatch(|| y.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
    };
    match epilogue.then {
        Then::Write if bias.is_none() => {}
        Then::Write => for_each_row(out, |_, y| add_bias(y)),
        Then::Activate(act) | Then::Gate(act) => {
            let gated = matches!(epilogue.then, Then::Gate(_));
            for_each_row(out, |_, y| {
                add_bias(y);
                activate(arch, y, act, XIelu::default(), gated);
            });
        }
        Then::AddTo { stream, scale } => {
            let sums = out.read();
            for_each_row(stream, |i, x| {
                let y = row(sums, i);
                arch.dispatch(|| match bias {
                    // 1 · y is y: one loop serves both, and no order of operations changes.
                    Some(bias) => x.iter_mut().zip(y.iter().zip(bias)).for_each(|(x, (y, b))| *x += scale * (y + b)),
                    None => x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y),
                });
            });
        }
    }
}

pub fn copy_rows(
    src: View<'_, Buf>,
    from: RowIndex<'_>,
    dst: ViewMut<'_, Buf>,
    to: RowIndex<'_>,
    combine: Combine,
    scale: f32,
) {
    let source = |i: usize| match from {
        RowIndex::All => row(src, i),
        RowIndex::List(list) => row(src, list[i] as usize),
    };
    let write = |i: usize, out: &mut [f32]| {
        let values = out.iter_mut().zip(source(i));
        match combine {
            Combine::Set if scale == 1.0 => out.copy_from_slice(source(i)),
            Combine::Set => values.for_each(|(o, v)| *o = scale * v),
            Combine::Add if scale == 1.0 => values.for_each(|(o, v)| *o += v),
            Combine::Add => values.for_each(|(o, v)| *o += scale * v),
            Combine::Subtract => values.for_each(|(o, v)| *o -= scale * v),
        }
    };
    match to {
        RowIndex::All => for_each_row(dst, write),
        RowIndex::List(list) => {
            for (i, r) in list.iter().enumerate() {
                let at = dst.offset + *r as usize * dst.stride;
                write(i, &mut dst.buf[at..at + dst.cols]);
            }
        }
    }
}

pub fn patch(x: ViewMut<'_, Buf>, table: &[PatchEntry], values: Option<View<'_, Buf>>) {
    for entry in table {
        for (i, r) in entry.rows.clone().enumerate() {
            let at = x.offset + r * x.stride;
            let out = &mut x.buf[at + entry.cols.start..at + entry.cols.end];
            match (entry.value, values) {
                (PatchSource::Row(first), Some(values)) => {
                    out.copy_from_slice(&row(values, first + i)[entry.cols.clone()]);
                }
                (PatchSource::AddRow(first), Some(values)) => {
                    let from = &row(values, first + i)[entry.cols.clone()];
                    out.iter_mut().zip(from).for_each(|(x, y)| *x += y);
                }
                (PatchSource::Row(_) | PatchSource::AddRow(_), None) => {
                    unreachable!("a patch from a row needs values")
                }
                (PatchSource::Scale(factor), _) => out.iter_mut().for_each(|x| *x *= factor),
                (PatchSource::Zero, _) => out.fill(0.0),
            }
        }
    }
}

pub fn differs(a: View<'_, Buf>, b: Option<View<'_, Buf>>, heads: usize) -> Vec<bool> {
    let width = a.cols / heads;
    let mut flags = Vec::with_capacity(a.rows * heads);
    for i in 0..a.rows {
        for h in 0..heads {
            let x = &row(a, i)[h * width..][..width];
            flags.push(match b {
                Some(b) => x != &row(b, i)[h * width..][..width],
                None => x.iter().any(|v| *v != 0.0),
            });
        }
    }
    flags
}
