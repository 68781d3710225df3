//! metrics.cu: logits of a few tokens, log-sum-exp and KL over a vocabulary of more than one block.

use crate::support::*;
use patchwave::backend::cuda::Precision;
use patchwave::backend::{Backend, Unembedding, View};

const D: usize = 3;

struct Vocabulary {
    size: usize,
    matrix: Vec<f32>,
    bias: Option<Vec<f32>>,
    scale: f32,
    softcap: Option<f32>,
}

impl Vocabulary {
    fn new(size: usize, with_options: bool) -> Self {
        Vocabulary {
            size,
            matrix: random(1, size * D),
            bias: with_options.then(|| random(2, size)),
            scale: if with_options { 0.7 } else { 1.0 },
            softcap: with_options.then_some(3.0),
        }
    }

    fn on<T>(&self, gpu: &Gpu, f: impl FnOnce(&Unembedding<'_, Buf>) -> T) -> T {
        let matrix = upload(gpu, &self.matrix);
        let bias = self.bias.as_ref().map(|b| upload(gpu, b));
        f(&Unembedding {
            matrix: &matrix,
            bias: bias.as_ref(),
            d_vocab: self.size,
            scale: self.scale,
            softcap: self.softcap,
        })
    }

    fn logits(&self, h: &[f32]) -> Vec<f64> {
        let dot = |w: &[f32]| h.iter().zip(w).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
        let finish = |(t, w): (usize, &[f32])| {
            let x = self.scale as f64 * (dot(w) + self.bias.as_ref().map_or(0.0, |b| b[t] as f64));
            self.softcap.map_or(x, |c| c as f64 * (x / c as f64).tanh())
        };
        self.matrix.chunks(D).enumerate().map(finish).collect()
    }

    fn log_sum_exp(&self, h: &[f32]) -> f64 {
        self.logits(h).iter().map(|x| x.exp()).sum::<f64>().ln()
    }
}

#[test]
fn logits_of_a_few_tokens() {
    for options in [false, true] {
        let v = Vocabulary::new(91, options);
        let h = random(3, 4 * D);
        let (tokens, counts) = ([90u32, 0, 17, 17, 3], [2, 0, 1, 2]);
        let got = everywhere(Precision::Ffma, |gpu| {
            let h = Askew::new(gpu, &h, 4, D);
            v.on(gpu, |u| gpu.token_logits(h.view(), u, &tokens, &counts))
        });
        let rows = [0, 0, 2, 3, 3];
        let want: Vec<f64> = rows.iter().zip(tokens).map(|(r, t)| v.logits(&h[r * D..][..D])[t as usize]).collect();
        assert_close(&got, &want, 3e-7, "token logits");
        let all = everywhere(Precision::Ffma, |gpu| {
            let h = Askew::new(gpu, &h, 4, D);
            v.on(gpu, |u| gpu.logits(h.view(), u))
        });
        let want: Vec<f64> = h.chunks(D).flat_map(|h| v.logits(h)).collect();
        assert_close(&all, &want, 3e-7, "all logits");
    }
}

#[test]
fn log_sum_exp_over_blocks_of_the_vocabulary() {
    for (size, options) in [(5, false), (130, true), (4200, true)] {
        let v = Vocabulary::new(size, options);
        let h: Vec<f32> = random(4, 3 * D).iter().map(|x| 4.0 * x).collect();
        let got = everywhere(Precision::Ffma, |gpu| {
            let h = Askew::new(gpu, &h, 3, D);
            v.on(gpu, |u| gpu.log_sum_exp(h.view(), u))
        });
        let want: Vec<f64> = h.chunks(D).map(|h| v.log_sum_exp(h)).collect();
        assert_close(&got, &want, 2e-7, &format!("{size} tokens"));
    }
}

/// Small divergences keep their digits, that of a row from itself is zero, and each row finds its own reference.
#[test]
fn kl_over_blocks_of_the_vocabulary() {
    let v = Vocabulary::new(4200, false);
    let reference = random(5, 4 * D);
    let reference_rows = [2u32, 0, 2, 3];
    let mut h: Vec<f32> = reference_rows.iter().flat_map(|r| &reference[*r as usize * D..][..D]).copied().collect();
    for (i, x) in h.iter_mut().enumerate() {
        *x += [0.0, 0.5, 0.01, -2.0][i / D];
    }
    let got = everywhere(Precision::Ffma, |gpu| {
        let (h, reference) = (Askew::new(gpu, &h, 4, D), Askew::new(gpu, &reference, 4, D));
        v.on(gpu, |u| gpu.kl(h.view(), reference.view(), &reference_rows, u))
    });
    for (i, r) in reference_rows.iter().enumerate() {
        let (clean, row) = (&reference[*r as usize * D..][..D], &h[i * D..][..D]);
        let (zc, z) = (v.log_sum_exp(clean), v.log_sum_exp(row));
        let want: f64 =
            v.logits(clean).iter().zip(v.logits(row)).map(|(c, l)| (c - zc).exp() * ((c - zc) - (l - z))).sum();
        assert!((got[i] as f64 - want).abs() < 3e-7 * want.max(1.0), "row {i}: {} not {want}", got[i]);
    }
    assert_eq!(got[0], 0.0);
}

/// A row's numbers do not depend on how many rows there are.
#[test]
fn rows_do_not_depend_on_their_number() {
    let v = Vocabulary::new(70, true);
    let gpu = Gpu::new(Default::default(), Precision::Ffma).expect("every kernel is there");
    let h = random(6, 300 * D);
    let buf = upload(&gpu, &h);
    let all = View::packed(&buf, 300, D);
    let whole = v.on(&gpu, |u| gpu.log_sum_exp(all, u));
    let references: Vec<u32> = (0..300).map(|i| i * 7 % 300).collect();
    let kl = v.on(&gpu, |u| gpu.kl(all, all, &references, u));
    for i in [0, 255, 256, 299] {
        assert_eq!(v.on(&gpu, |u| gpu.log_sum_exp(all.range(i..i + 1), u)), whole[i..=i]);
        assert_eq!(v.on(&gpu, |u| gpu.kl(all.range(i..i + 1), all, &references[i..=i], u)), kl[i..=i]);
    }
    assert!(gpu.check().is_ok());
}
