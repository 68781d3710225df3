//! norm.cu, rope.cu, activation.cu, embed.cu.

use crate::support::*;
use patchwave::backend::cuda::Precision;
use patchwave::backend::{Backend, Combine, Norm, RopeTable, RowIndex, View, ViewMut, XIelu};
use patchwave::model::spec::{Act, NormKind, NormWeight, RopeLayout};

const ROWS: usize = 11;

/// The norm in float64, straight from its definition.
#[allow(clippy::too_many_arguments)]
fn norm_reference(
    x: &[f32],
    cols: usize,
    heads: usize,
    kind: NormKind,
    one_plus: bool,
    distinct: bool,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f64,
) -> Vec<f64> {
    let width = cols / heads;
    let mut out = Vec::new();
    for (slice, x) in x.chunks(width).enumerate() {
        let x = wide(x);
        let mean = if kind == NormKind::LayerNorm { x.iter().sum::<f64>() / width as f64 } else { 0.0 };
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        let at = if distinct { slice % heads * width } else { 0 };
        for (i, v) in x.iter().enumerate() {
            let w = weight.map_or(1.0, |w| w[at + i] as f64 + if one_plus { 1.0 } else { 0.0 });
            out.push((v - mean) / (variance + eps).sqrt() * w + bias.map_or(0.0, |b| b[at + i] as f64));
        }
    }
    out
}

#[test]
fn norms_of_every_kind() {
    for (case, (heads, width, distinct)) in
        [(1, 37, false), (1, 64, false), (3, 5, false), (3, 33, true)].into_iter().enumerate()
    {
        for kind in [NormKind::LayerNorm, NormKind::RmsNorm] {
            for (weight_kind, with_bias) in
                [(NormWeight::None, false), (NormWeight::Scale, true), (NormWeight::OnePlusScale, false)]
            {
                let cols = heads * width;
                // A large mean, so that the variance has to be taken around it.
                let x: Vec<f32> = random(case as u64, ROWS * cols).iter().map(|v| v + 30.0).collect();
                let n_params = if distinct { cols } else { width };
                let (w, b) = (random(90, n_params), random(91, n_params));
                let weight = (weight_kind != NormWeight::None).then_some(&w[..]);
                let bias = with_bias.then_some(&b[..]);
                let one_plus = weight_kind == NormWeight::OnePlusScale;
                let want = norm_reference(&x, cols, heads, kind, one_plus, distinct, weight, bias, 1e-5);
                let run = |in_place: bool| {
                    everywhere(Precision::Ffma, |gpu| {
                        let mut x = Askew::new(gpu, &x, ROWS, cols);
                        let (w, b) = (weight.map(|w| upload(gpu, w)), bias.map(|b| upload(gpu, b)));
                        let norm = Norm {
                            kind,
                            eps: 1e-5,
                            weight_kind,
                            weight: w.as_ref(),
                            bias: b.as_ref(),
                            heads,
                            distinct,
                        };
                        if in_place {
                            gpu.norm_in_place(x.view_mut(), &norm);
                            return x.read(gpu);
                        }
                        let mut y = Askew::new(gpu, &vec![f32::NAN; ROWS * cols], ROWS, cols);
                        gpu.norm(x.view(), &norm, y.view_mut());
                        y.read(gpu)
                    })
                };
                let got = run(false);
                // The mean of 30 costs two digits of what is left of x.
                assert_close(&got, &want, 1e-5, &format!("{kind:?} {weight_kind:?} heads {heads}"));
                assert_eq!(run(true), got, "in place");
            }
        }
    }
}

#[test]
fn rope_in_both_layouts_turns_some_dimensions() {
    let (heads, d_head, n_rot, table_rows) = (3, 10, 6, 7);
    let x = random(1, ROWS * heads * d_head);
    let table = random(2, table_rows * n_rot);
    let index: Vec<u32> = (0..ROWS as u32).map(|i| i * 5 % table_rows as u32).collect();
    for layout in [RopeLayout::HalfSplit, RopeLayout::Interleaved] {
        let mut want = wide(&x);
        for (row, x) in want.chunks_mut(heads * d_head).enumerate() {
            let angles = &table[index[row] as usize * n_rot..][..n_rot];
            for head in x.chunks_mut(d_head) {
                for i in 0..n_rot / 2 {
                    let (a, b) = if layout == RopeLayout::HalfSplit { (i, i + n_rot / 2) } else { (2 * i, 2 * i + 1) };
                    let (c, s) = (angles[i] as f64, angles[n_rot / 2 + i] as f64);
                    (head[a], head[b]) = (head[a] * c - head[b] * s, head[b] * c + head[a] * s);
                }
            }
        }
        let got = everywhere(Precision::Ffma, |gpu| {
            let mut x = Askew::new(gpu, &x, ROWS, heads * d_head);
            let table = RopeTable { table: upload(gpu, &table), n_rot, layout };
            gpu.rope(x.view_mut(), heads, &table, &index);
            x.read(gpu)
        });
        assert_close(&got, &want, 2e-7, &format!("{layout:?}"));
    }
}

/// The error function by its Maclaurin series, good to 1e-12 for |x| < 4.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn activations_gated_and_not() {
    let width = 45;
    let xielu = XIelu { alpha_p: 0.7, alpha_n: 1.1, beta: 0.4, eps: -0.2 };
    for act in [Act::Relu, Act::Relu2, Act::Silu, Act::GeluErf, Act::GeluTanh, Act::QuickGelu, Act::XIelu] {
        let f = |x: f64| {
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            match act {
                Act::Relu => x.max(0.0),
                Act::Relu2 => x.max(0.0).powi(2),
                Act::Silu => x * sigmoid(x),
                Act::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
                Act::GeluTanh => {
                    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
                }
                Act::QuickGelu => x * sigmoid(1.702 * x),
                Act::XIelu if x > 0.0 => 0.7f32 as f64 * x * x + 0.4f32 as f64 * x,
                Act::XIelu => 1.1f32 as f64 * (x.min(-0.2f32 as f64).exp_m1() - x) + 0.4f32 as f64 * x,
            }
        };
        for gated in [false, true] {
            let cols = if gated { 2 * width } else { width };
            let x = random(5, ROWS * cols);
            let mut want = wide(&x);
            for row in want.chunks_mut(cols) {
                for i in 0..width {
                    row[i] = f(row[i]) * if gated { row[width + i] } else { 1.0 };
                }
            }
            let got = everywhere(Precision::Ffma, |gpu| {
                let mut x = Askew::new(gpu, &x, ROWS, cols);
                gpu.activation(x.view_mut(), act, xielu, gated);
                x.read(gpu)
            });
            assert_close(&got, &want, 3e-7, &format!("{act:?} gated {gated}"));
        }
    }
}

#[test]
fn rows_are_scaled_clamped_and_added() {
    let cols = 300; // more than a block has threads
    let (x, y) = (random(6, ROWS * cols), random(7, ROWS * cols));
    let factors = random(8, ROWS);
    let got = everywhere(Precision::Ffma, |gpu| {
        let (mut x, y) = (Askew::new(gpu, &x, ROWS, cols), Askew::new(gpu, &y, ROWS, cols));
        gpu.add(x.view_mut(), y.view(), 0.25);
        gpu.scale_rows(x.view_mut(), &factors);
        gpu.scale(x.view_mut(), -3.0);
        gpu.clamp(x.view_mut(), 2.5);
        x.read(gpu)
    });
    let value = |i: usize| -3.0 * factors[i / cols] as f64 * (x[i] as f64 + 0.25 * y[i] as f64);
    let want: Vec<f64> = (0..x.len()).map(|i| value(i).clamp(-2.5, 2.5)).collect();
    assert_close(&got, &want, 3e-7, "add, scale, clamp");
}

#[test]
fn embedding_takes_rows_by_id() {
    let (vocab, d) = (13, 19);
    let table = random(9, vocab * d);
    let ids = [12u32, 0, 5, 5, 7];
    let got = everywhere(Precision::Ffma, |gpu| {
        let table = Askew::new(gpu, &table, vocab, d);
        let mut out = Askew::new(gpu, &vec![f32::NAN; ids.len() * d], ids.len(), d);
        gpu.embed(table.view(), &ids, 4.0, out.view_mut());
        out.read(gpu)
    });
    let want: Vec<f32> = ids.iter().flat_map(|id| &table[*id as usize * d..][..d]).map(|v| 4.0 * v).collect();
    assert_eq!(got, want);
}

/// Columns of a matrix without rows begin behind its end. A wave asks for them where all rows that a patch touches are
/// dead by then.
#[test]
fn a_matrix_without_rows_has_columns() {
    let gpu = Gpu::new(Default::default(), Precision::Ffma).expect("every kernel is there");
    let from = upload(&gpu, &random(1, 12));
    let mut to = gpu.zeros(0).expect("nothing");
    let empty = ViewMut::packed(&mut to, 0, 6).columns(3..6);
    gpu.copy_rows(View::packed(&from, 4, 3), RowIndex::List(&[]), empty, RowIndex::All, Combine::Set, 1.0);
    gpu.activation(ViewMut::packed(&mut to, 0, 6), Act::Silu, XIelu::default(), true);
    gpu.check().expect("nothing was launched, nothing failed");
}
