//! What metrics read of the logits. Rows and the vocabulary are taken in blocks, so that no row of the whole vocabulary
//! is in memory.

use super::driver::{Arguments, Driver, DriverError};
use super::launch::{Stream, at, at_option, threads_for};
use super::memory::Device;
use crate::backend::{LOGITS_AT_ONCE, Unembedding, View, ViewMut};
use std::ops::Range;

/// Tokens and rows whose logits are in memory at once.
const TOKENS: usize = LOGITS_AT_ONCE.1;
const ROWS: usize = LOGITS_AT_ONCE.0;
/// Bytes of a `Total` of `metrics.cu`.
const TOTAL_BYTES: usize = 16;

fn blocks(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size).map(move |first| first..n.min(first + size))
}

impl<D: Driver> Stream<D> {
    /// See [`crate::backend::Backend::token_logits`].
    pub fn token_logits(
        &self,
        h: View<'_, Device<D>>,
        u: &Unembedding<'_, Device<D>>,
        tokens: &[u32],
        counts: &[usize],
    ) -> Result<Vec<f32>, DriverError> {
        assert!(tokens.iter().all(|t| (*t as usize) < u.d_vocab) && counts.len() <= h.rows);
        let rows: Vec<u32> =
            counts.iter().enumerate().flat_map(|(row, n)| std::iter::repeat_n(row as u32, *n)).collect();
        assert_eq!(rows.len(), tokens.len());
        let (rows, tokens_on_device) = (self.list(&rows)?, self.list(tokens)?);
        let out = self.memory.numbers::<f32>(tokens.len())?;
        let arguments = Arguments::new()
            .value(out.ptr())
            .value(at(h))
            .int("a row of a matrix", h.stride)
            .int("d_model", h.cols)
            .value(rows.ptr())
            .value(tokens_on_device.ptr())
            .int("answer tokens", tokens.len())
            .value(u.matrix.ptr())
            .value(at_option(u.bias))
            .value(u.scale)
            .value(u.softcap.unwrap_or(0.0));
        // SAFETY: rows and tokens exist (asserted).
        unsafe { self.launch(&self.kernels.token_logits, (tokens.len().div_ceil(8), 1), 256, 0, arguments)? }
        self.fetch(out.ptr(), tokens.len())
    }

    /// Raw products of some rows with some of the vocabulary, `[rows, tokens]`, in `into`.
    fn products(
        &self,
        h: View<'_, Device<D>>,
        u: &Unembedding<'_, Device<D>>,
        tokens: &Range<usize>,
        into: &mut Device<D>,
    ) -> Result<(), DriverError> {
        assert!(tokens.end * h.cols <= u.matrix.len());
        let w = u.matrix.ptr().offset(4 * tokens.start * h.cols);
        self.gemm_unpacked(h, w, ViewMut::packed(into, h.rows, tokens.len()))
    }

    /// Sums of exponentials over the whole vocabulary, one `Total` per row.
    fn totals(
        &self,
        h: View<'_, Device<D>>,
        u: &Unembedding<'_, Device<D>>,
        products: &mut Device<D>,
    ) -> Result<Device<D>, DriverError> {
        let totals = self.memory.numbers::<[u8; TOTAL_BYTES]>(h.rows)?;
        for tokens in blocks(u.d_vocab, TOKENS) {
            self.products(h, u, &tokens, products)?;
            let arguments = Arguments::new()
                .value(totals.ptr())
                .value(products.ptr())
                .int("tokens", tokens.len())
                .int("tokens", tokens.len())
                .value(at_option(u.bias))
                .int("a token", tokens.start)
                .value(u.scale)
                .value(u.softcap.unwrap_or(0.0))
                .flag(tokens.start == 0);
            // SAFETY: one Total per row; `products` holds the block's rows.
            unsafe { self.launch(&self.kernels.sum_exp_rows, (h.rows, 1), 128, 0, arguments)? }
        }
        Ok(totals)
    }

    /// See [`crate::backend::Backend::log_sum_exp`].
    pub fn log_sum_exp(&self, h: View<'_, Device<D>>, u: &Unembedding<'_, Device<D>>) -> Result<Vec<f32>, DriverError> {
        let mut products = self.memory.numbers::<f32>(ROWS.min(h.rows) * TOKENS.min(u.d_vocab))?;
        let mut all = Vec::with_capacity(h.rows);
        for rows in blocks(h.rows, ROWS) {
            let n = rows.len();
            let totals = self.totals(h.range(rows), u, &mut products)?;
            let out = self.memory.numbers::<f32>(n)?;
            let arguments = Arguments::new().value(out.ptr()).value(totals.ptr()).int("rows", n);
            // SAFETY: both have n entries.
            unsafe { self.launch(&self.kernels.log_totals, (n.div_ceil(256), 1), 256, 0, arguments)? }
            all.extend(self.fetch::<f32>(out.ptr(), n)?);
        }
        Ok(all)
    }

    /// See [`crate::backend::Backend::kl`].
    pub fn kl(
        &self,
        h: View<'_, Device<D>>,
        reference: View<'_, Device<D>>,
        reference_rows: &[u32],
        u: &Unembedding<'_, Device<D>>,
    ) -> Result<Vec<f32>, DriverError> {
        assert!(reference_rows.len() == h.rows && reference_rows.iter().all(|r| (*r as usize) < reference.rows));
        let size = ROWS.min(h.rows) * TOKENS.min(u.d_vocab);
        let mut products = self.memory.numbers::<f32>(size)?;
        let mut clean_products = self.memory.numbers::<f32>(size)?;
        let mut all = Vec::with_capacity(h.rows);
        for rows in blocks(h.rows, ROWS) {
            let n = rows.len();
            // The clean rows of this block, each once.
            let mut clean_rows: Vec<u32> = reference_rows[rows.clone()].to_vec();
            clean_rows.sort_unstable();
            clean_rows.dedup();
            let place = |r: &u32| clean_rows.partition_point(|c| c < r) as u32;
            let places: Vec<u32> = reference_rows[rows.clone()].iter().map(place).collect();
            let clean = self.gather(reference, &clean_rows)?;
            let clean = View::packed(&clean, clean_rows.len(), h.cols);
            let places = self.list(&places)?;

            let rows = h.range(rows);
            let totals = self.totals(rows, u, &mut products)?;
            let clean_totals = self.totals(clean, u, &mut clean_products)?;
            let sums = self.memory.numbers::<f64>(n)?;
            for tokens in blocks(u.d_vocab, TOKENS) {
                self.products(rows, u, &tokens, &mut products)?;
                self.products(clean, u, &tokens, &mut clean_products)?;
                let arguments = Arguments::new()
                    .value(sums.ptr())
                    .value(products.ptr())
                    .int("tokens", tokens.len())
                    .value(clean_products.ptr())
                    .int("tokens", tokens.len())
                    .value(places.ptr())
                    .int("tokens", tokens.len())
                    .value(at_option(u.bias))
                    .int("a token", tokens.start)
                    .value(u.scale)
                    .value(u.softcap.unwrap_or(0.0))
                    .value(totals.ptr())
                    .value(clean_totals.ptr())
                    .flag(tokens.start == 0);
                // SAFETY: one sum and one Total per row, one Total per clean row, places among the clean rows.
                unsafe { self.launch(&self.kernels.divergence_rows, (n, 1), 128, 0, arguments)? }
            }
            let out = self.memory.numbers::<f32>(n)?;
            let arguments = Arguments::new().value(out.ptr()).value(sums.ptr()).int("rows", n);
            // SAFETY: both have n entries.
            unsafe { self.launch(&self.kernels.narrow, (n.div_ceil(256), 1), 256, 0, arguments)? }
            all.extend(self.fetch::<f32>(out.ptr(), n)?);
        }
        Ok(all)
    }

    /// See [`crate::backend::Backend::logits`].
    pub fn logits(&self, h: View<'_, Device<D>>, u: &Unembedding<'_, Device<D>>) -> Result<Vec<f32>, DriverError> {
        let mut products = self.memory.numbers::<f32>(ROWS.min(h.rows) * u.d_vocab)?;
        let mut all = Vec::with_capacity(h.rows * u.d_vocab);
        for rows in blocks(h.rows, ROWS) {
            let n = rows.len();
            self.products(h.range(rows), u, &(0..u.d_vocab), &mut products)?;
            let arguments = Arguments::new()
                .value(products.ptr())
                .int("tokens", u.d_vocab)
                .int("tokens", u.d_vocab)
                .value(at_option(u.bias))
                .int("a token", 0)
                .value(u.scale)
                .value(u.softcap.unwrap_or(0.0));
            let threads = threads_for(u.d_vocab);
            // SAFETY: `products` holds n rows of the whole vocabulary.
            unsafe { self.launch(&self.kernels.finish_logits, (n, 1), threads, 0, arguments)? }
            all.extend(self.fetch::<f32>(products.ptr(), n * u.d_vocab)?);
        }
        Ok(all)
    }
}
