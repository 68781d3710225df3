//! The CPU backend: float32, rayon over rows, the `gemm` crate for products.

mod attention;
mod matrix;
mod rows;
mod simd;
mod vocab;

use super::*;
pub use matrix::Weight;
use matrix::{Rhs, matmul};

/// Runs everything in float32 on all cores of the rayon pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

/// `len` zeros, or an error where the system has no room for them.
fn reserve(len: usize) -> Result<Vec<f32>, BackendError> {
    let mut v = Vec::new();
    v.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory { bytes: len.saturating_mul(4) })?;
    v.resize(len, 0.0);
    Ok(v)
}

impl Backend for Cpu {
    type Buf = Vec<f32>;
    type Weight = Weight;

    fn device(&self) -> String {
        let n = rayon::current_num_threads();
        format!("cpu, {n} thread{}, {}", if n == 1 { "" } else { "s" }, instruction_set())
    }

    /// Operations have run when they return.
    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn zeros(&self, len: usize) -> Result<Vec<f32>, BackendError> {
        reserve(len)
    }

    fn upload(&self, numbers: Vec<f32>) -> Result<Vec<f32>, BackendError> {
        Ok(numbers)
    }

    fn download(&self, view: View<'_, Vec<f32>>) -> Vec<f32> {
        (0..view.rows).flat_map(|i| rows::row(view, i)).copied().collect()
    }

    fn pack(
        &self,
        k: usize,
        outs: &[usize],
        read: &mut dyn FnMut(usize, &mut [f32]) -> Result<(), crate::model::ModelError>,
    ) -> Result<Weight, BackendError> {
        let n: usize = outs.iter().sum();
        let mut numbers = reserve(k * n)?;
        let mut part = reserve(k * outs.iter().copied().max().unwrap_or(0))?;
        let mut at = 0;
        for (i, n_out) in outs.iter().enumerate() {
            let part = &mut part[..k * n_out];
            read(i, part)?;
            transpose_into(part, k, &mut numbers, n, at);
            at += n_out;
        }
        Ok(Weight { numbers, k, n })
    }

    fn gemm(
        &self,
        x: View<'_, Vec<f32>>,
        w: &Weight,
        slice: WeightSlice,
        epilogue: Epilogue<'_, Vec<f32>>,
        out: ViewMut<'_, Vec<f32>>,
    ) {
        assert!(slice.k.end <= w.k && slice.n.end <= w.n);
        assert!(x.cols == slice.k.len() && out.cols == slice.n.len() && x.rows == out.rows);
        if x.rows == 0 {
            return;
        }
        let rhs = Rhs { numbers: &w.numbers, start: slice.k.start * w.n + slice.n.start, row: w.n, col: 1 };
        let y = &mut out.buf[out.offset..];
        matmul(x.rows, out.cols, x.cols, &x.buf[x.offset..], x.stride, rhs, y, out.stride);
        rows::epilogue(epilogue, out);
    }

    fn head_delta(&self, delta: View<'_, Vec<f32>>, groups: &[HeadRows], w_o: &Weight, mut out: ViewMut<'_, Vec<f32>>) {
        for g in groups {
            let slice = WeightSlice { k: g.k..g.k + delta.cols, n: 0..w_o.n };
            let out = out.reborrow().range(g.rows.clone());
            self.gemm(delta.range(g.rows.clone()), w_o, slice, Epilogue::none(), out);
        }
    }

    fn norm(&self, x: View<'_, Vec<f32>>, norm: &Norm<'_, Vec<f32>>, out: ViewMut<'_, Vec<f32>>) {
        rows::norm(x, norm, out);
    }

    fn norm_in_place(&self, x: ViewMut<'_, Vec<f32>>, norm: &Norm<'_, Vec<f32>>) {
        rows::norm_in_place(x, norm);
    }

    fn add(&self, x: ViewMut<'_, Vec<f32>>, y: View<'_, Vec<f32>>, scale: f32) {
        rows::add(x, y, scale);
    }

    fn scale(&self, x: ViewMut<'_, Vec<f32>>, factor: f32) {
        rows::for_each_row(x, |_, x| x.iter_mut().for_each(|x| *x *= factor));
    }

    fn scale_rows(&self, x: ViewMut<'_, Vec<f32>>, factors: &[f32]) {
        rows::for_each_row(x, |i, x| x.iter_mut().for_each(|x| *x *= factors[i]));
    }

    fn clamp(&self, x: ViewMut<'_, Vec<f32>>, limit: f32) {
        rows::for_each_row(x, |_, x| x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit)));
    }

    fn rope(&self, x: ViewMut<'_, Vec<f32>>, heads: usize, table: &RopeTable<Vec<f32>>, index: &[u32]) {
        rows::rope(x, heads, table, index);
    }

    fn attention(&self, call: AttnCall<'_, Vec<f32>>, z: ViewMut<'_, Vec<f32>>) {
        attention::attention(call, z);
    }

    fn activation(&self, x: ViewMut<'_, Vec<f32>>, act: Act, xielu: XIelu, gated: bool) {
        rows::activation(x, act, xielu, gated);
    }

    fn embed(&self, table: View<'_, Vec<f32>>, ids: &[u32], scale: f32, out: ViewMut<'_, Vec<f32>>) {
        rows::copy_rows(table, RowIndex::List(ids), out, RowIndex::All, Combine::Set, scale);
    }

    fn copy_rows(
        &self,
        src: View<'_, Vec<f32>>,
        from: RowIndex<'_>,
        dst: ViewMut<'_, Vec<f32>>,
        to: RowIndex<'_>,
        combine: Combine,
        scale: f32,
    ) {
        rows::copy_rows(src, from, dst, to, combine, scale);
    }

    fn patch(&self, x: ViewMut<'_, Vec<f32>>, table: &[PatchEntry], values: Option<View<'_, Vec<f32>>>) {
        rows::patch(x, table, values);
    }

    fn differs(&self, a: View<'_, Vec<f32>>, b: Option<View<'_, Vec<f32>>>, heads: usize) -> Vec<bool> {
        rows::differs(a, b, heads)
    }

    fn token_logits(
        &self,
        h: View<'_, Vec<f32>>,
        unembedding: &Unembedding<'_, Vec<f32>>,
        tokens: &[u32],
        counts: &[usize],
    ) -> Vec<f32> {
        vocab::token_logits(h, unembedding, tokens, counts)
    }

    fn log_sum_exp(&self, h: View<'_, Vec<f32>>, unembedding: &Unembedding<'_, Vec<f32>>) -> Vec<f32> {
        vocab::log_sum_exp(h, unembedding)
    }

    fn kl(
        &self,
        h: View<'_, Vec<f32>>,
        reference: View<'_, Vec<f32>>,
        reference_rows: &[u32],
        unembedding: &Unembedding<'_, Vec<f32>>,
    ) -> Vec<f32> {
        vocab::kl(h, reference, reference_rows, unembedding)
    }

    fn logits(&self, h: View<'_, Vec<f32>>, unembedding: &Unembedding<'_, Vec<f32>>) -> Vec<f32> {
        vocab::logits(h, unembedding)
    }
}

/// Writes `part` `[n_out, k]` as columns `at ..+ n_out` of `numbers` `[k, n]`, in blocks that stay in cache.
fn transpose_into(part: &[f32], k: usize, numbers: &mut [f32], n: usize, at: usize) {
    use rayon::prelude::*;
    const BLOCK: usize = 32;
    numbers.par_chunks_mut(BLOCK * n).enumerate().for_each(|(block, rows)| {
        for (o, source) in part.chunks_exact(k).enumerate() {
            let source = &source[block * BLOCK..k.min((block + 1) * BLOCK)];
            for (row, v) in rows.chunks_exact_mut(n).zip(source) {
                row[at + o] = *v;
            }
        }
    });
}

/// The widest instructions the processor has, in words.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "AVX2";
        }
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "portable"
    }
}
