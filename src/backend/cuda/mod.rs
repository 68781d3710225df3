//! The CUDA backend: every operation as launches of the kernels in `kernels/`, over a small [`Driver`].
//!
//! All launch logic is here and knows no device: with the feature `emulator`, [`emulated::Emulated`] runs it on the CPU.
//! Operations are issued to one stream, in order. Those that return nothing cannot fail at their call; their first
//! failure is reported by the next one that can ([`Cuda::check`] asks for it), and nothing is launched after it.
//!
//! Emulated, not yet run on hardware.

mod attention;
pub mod driver;
#[cfg(feature = "emulator")]
pub mod emulated;
mod gemm;
mod gemm_sm90;
pub mod images;
mod launch;
mod memory;
pub mod nvidia;
pub mod nvrtc;
mod rows;
mod vocab;

use super::*;
pub use driver::{Driver, DriverError};
pub use gemm::{Precision, Weight};
use launch::Stream;
pub use memory::Device;

/// The kernels on a device.
pub struct Cuda<D: Driver> {
    stream: Stream<D>,
    precision: Precision,
}

impl<D: Driver> Cuda<D> {
    /// # Errors
    /// The device lacks a kernel.
    pub fn new(driver: D, precision: Precision) -> Result<Self, DriverError> {
        Ok(Cuda { stream: Stream::new(driver)?, precision })
    }

    /// The device underneath.
    pub fn driver(&self) -> &D {
        self.stream.driver()
    }

    /// How weights that are packed from now on are multiplied; those there are keep their precision.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    fn done(&self, result: Result<(), DriverError>) {
        self.stream.keep(result, || ());
    }
}

fn nan(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

impl<D: Driver> Backend for Cuda<D> {
    type Buf = Device<D>;
    type Weight = Weight<D>;

    fn device(&self) -> String {
        self.stream.driver().device()
    }

    fn check(&self) -> Result<(), BackendError> {
        Ok(self.stream.take_failure()?)
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.check()?;
        Ok(self.driver().synchronize()?)
    }

    fn reserve(&self, bytes: usize) -> Result<(), BackendError> {
        self.check()?;
        Ok(self.stream.memory.reserve(bytes)?)
    }

    fn without_growth<T>(&self, work: impl FnOnce() -> T) -> T {
        self.stream.memory.closed(work)
    }

    fn zeros(&self, len: usize) -> Result<Device<D>, BackendError> {
        self.check()?;
        Ok(self.stream.zeros(len)?)
    }

    fn upload(&self, numbers: Vec<f32>) -> Result<Device<D>, BackendError> {
        self.check()?;
        Ok(self.stream.list(&numbers)?)
    }

    fn download(&self, view: View<'_, Device<D>>) -> Vec<f32> {
        self.stream.keep(self.stream.download(view), || nan(view.rows * view.cols))
    }

    fn pack(
        &self,
        k: usize,
        outs: &[usize],
        read: &mut dyn FnMut(usize, &mut [f32]) -> Result<(), crate::model::ModelError>,
    ) -> Result<Weight<D>, BackendError> {
        self.stream.pack(self.precision, k, outs, read)
    }

    fn gemm(
        &self,
        x: View<'_, Device<D>>,
        w: &Weight<D>,
        slice: WeightSlice,
        epilogue: Epilogue<'_, Device<D>>,
        out: ViewMut<'_, Device<D>>,
    ) {
        self.done(self.stream.gemm(x, w, slice, None, epilogue, out));
    }

    fn head_delta(
        &self,
        delta: View<'_, Device<D>>,
        groups: &[HeadRows],
        w_o: &Weight<D>,
        out: ViewMut<'_, Device<D>>,
    ) {
        let slice = WeightSlice { k: 0..delta.cols, n: 0..w_o.n };
        self.done(self.stream.gemm(delta, w_o, slice, Some(groups), Epilogue::none(), out));
    }

    fn norm(&self, x: View<'_, Device<D>>, norm: &Norm<'_, Device<D>>, out: ViewMut<'_, Device<D>>) {
        self.done(self.stream.norm(x, norm, out));
    }

    fn norm_in_place(&self, x: ViewMut<'_, Device<D>>, norm: &Norm<'_, Device<D>>) {
        self.done(self.stream.norm_in_place(x, norm));
    }

    fn add(&self, x: ViewMut<'_, Device<D>>, y: View<'_, Device<D>>, scale: f32) {
        self.done(self.stream.copy_rows(y, RowIndex::All, x, RowIndex::All, Combine::Add, scale));
    }

    fn scale(&self, x: ViewMut<'_, Device<D>>, factor: f32) {
        self.done(self.stream.scale_rows(x, factor, None));
    }

    fn scale_rows(&self, x: ViewMut<'_, Device<D>>, factors: &[f32]) {
        self.done(self.stream.scale_rows(x, 1.0, Some(factors)));
    }

    fn clamp(&self, x: ViewMut<'_, Device<D>>, limit: f32) {
        self.done(self.stream.clamp(x, limit));
    }

    fn rope(&self, x: ViewMut<'_, Device<D>>, heads: usize, table: &RopeTable<Device<D>>, index: &[u32]) {
        self.done(self.stream.rope(x, heads, table, index));
    }

    fn attention(&self, call: AttnCall<'_, Device<D>>, z: ViewMut<'_, Device<D>>) {
        self.done(self.stream.attention(call, z));
    }

    fn activation(&self, x: ViewMut<'_, Device<D>>, act: Act, xielu: XIelu, gated: bool) {
        self.done(self.stream.activation(x, act, xielu, gated));
    }

    fn embed(&self, table: View<'_, Device<D>>, ids: &[u32], scale: f32, out: ViewMut<'_, Device<D>>) {
        self.done(self.stream.embed(table, ids, scale, out));
    }

    fn copy_rows(
        &self,
        src: View<'_, Device<D>>,
        from: RowIndex<'_>,
        dst: ViewMut<'_, Device<D>>,
        to: RowIndex<'_>,
        combine: Combine,
        scale: f32,
    ) {
        self.done(self.stream.copy_rows(src, from, dst, to, combine, scale));
    }

    fn patch(&self, x: ViewMut<'_, Device<D>>, table: &[PatchEntry], values: Option<View<'_, Device<D>>>) {
        self.done(self.stream.patch(x, table, values));
    }

    /// Where the device has failed, everything differs: no cell is taken for unchanged.
    fn differs(&self, a: View<'_, Device<D>>, b: Option<View<'_, Device<D>>>, heads: usize) -> Vec<bool> {
        self.stream.keep(self.stream.differs(a, b, heads), || vec![true; a.rows * heads])
    }

    fn token_logits(
        &self,
        h: View<'_, Device<D>>,
        unembedding: &Unembedding<'_, Device<D>>,
        tokens: &[u32],
        counts: &[usize],
    ) -> Vec<f32> {
        self.stream.keep(self.stream.token_logits(h, unembedding, tokens, counts), || nan(tokens.len()))
    }

    fn log_sum_exp(&self, h: View<'_, Device<D>>, unembedding: &Unembedding<'_, Device<D>>) -> Vec<f32> {
        self.stream.keep(self.stream.log_sum_exp(h, unembedding), || nan(h.rows))
    }

    fn kl(
        &self,
        h: View<'_, Device<D>>,
        reference: View<'_, Device<D>>,
        reference_rows: &[u32],
        unembedding: &Unembedding<'_, Device<D>>,
    ) -> Vec<f32> {
        self.stream.keep(self.stream.kl(h, reference, reference_rows, unembedding), || nan(h.rows))
    }

    fn logits(&self, h: View<'_, Device<D>>, unembedding: &Unembedding<'_, Device<D>>) -> Vec<f32> {
        self.stream.keep(self.stream.logits(h, unembedding), || nan(h.rows * unembedding.d_vocab))
    }
}
