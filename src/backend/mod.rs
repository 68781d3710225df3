//! The operations the engine is written in, as one trait over opaque device buffers.
//!
//! A backend knows rows, columns and numbers; it knows neither models nor what a patch means. Every operation but
//! [`Backend::attention`] treats each row on its own, in an order of summation that does not depend on the other rows,
//! so **a row's result never depends on the batch it is in**. Everything the wave promises bit for bit rests on that.

pub mod cpu;
pub mod cuda;

use crate::model::spec::{Act, AlibiAt, NormKind, NormWeight, RopeLayout};
use std::ops::Range;

/// What a device can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    #[error("out of memory: {bytes} more bytes were asked for; a smaller --max-memory cuts the wave")]
    OutOfMemory { bytes: usize },
    /// A parameter could not be read while it was being packed.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    #[error(transparent)]
    Device(cuda::DriverError),
}

impl From<cuda::DriverError> for BackendError {
    fn from(error: cuda::DriverError) -> Self {
        match error {
            cuda::DriverError::OutOfMemory { bytes } => BackendError::OutOfMemory { bytes },
            error => BackendError::Device(error),
        }
    }
}

/// `rows` × `cols` numbers of a device buffer; row i starts at `offset + i * stride`.
#[derive(Debug)]
pub struct View<'a, B> {
    pub buf: &'a B,
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl<B> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for View<'_, B> {}

/// A [`View`] that may be written.
#[derive(Debug)]
pub struct ViewMut<'a, B> {
    pub buf: &'a mut B,
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl<'a, B> View<'a, B> {
    /// The whole rows 0..rows of a packed matrix `[rows, cols]`.
    pub fn packed(buf: &'a B, rows: usize, cols: usize) -> Self {
        View { buf, offset: 0, rows, cols, stride: cols }
    }

    /// Columns `range` of the same rows.
    pub fn columns(self, range: Range<usize>) -> Self {
        debug_assert!(range.end <= self.stride);
        View { offset: self.offset + range.start, cols: range.len(), ..self }
    }

    /// Rows `range`.
    pub fn range(self, range: Range<usize>) -> Self {
        debug_assert!(range.end <= self.rows);
        View { offset: self.offset + range.start * self.stride, rows: range.len(), ..self }
    }

    /// The same numbers with each row cut into rows of `cols` (a `[rows, n_heads * d]` matrix as
    /// `[rows * n_heads, d]`). The view must be packed.
    pub fn split_rows(self, cols: usize) -> Self {
        debug_assert!(self.stride == self.cols && self.cols.is_multiple_of(cols));
        View { rows: self.rows * (self.cols / cols), cols, stride: cols, ..self }
    }
}

impl<'a, B> ViewMut<'a, B> {
    pub fn packed(buf: &'a mut B, rows: usize, cols: usize) -> Self {
        ViewMut { buf, offset: 0, rows, cols, stride: cols }
    }

    pub fn columns(self, range: Range<usize>) -> Self {
        debug_assert!(range.end <= self.stride);
        ViewMut { offset: self.offset + range.start, cols: range.len(), ..self }
    }

    pub fn range(self, range: Range<usize>) -> Self {
        debug_assert!(range.end <= self.rows);
        ViewMut { offset: self.offset + range.start * self.stride, rows: range.len(), ..self }
    }

    pub fn read(&self) -> View<'_, B> {
        View { buf: self.buf, offset: self.offset, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    pub fn reborrow(&mut self) -> ViewMut<'_, B> {
        ViewMut { buf: self.buf, offset: self.offset, rows: self.rows, cols: self.cols, stride: self.stride }
    }
}

/// How [`Backend::copy_rows`] combines what it reads with what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    Set,
    Add,
    Subtract,
}

/// Which rows of a matrix an operation visits, in order.
#[derive(Debug, Clone, Copy)]
pub enum RowIndex<'a> {
    /// 0, 1, 2 …
    All,
    /// These, one after the other.
    List(&'a [u32]),
}

/// A norm with its parameters on the device.
pub struct Norm<'a, B> {
    pub kind: NormKind,
    pub eps: f32,
    pub weight_kind: NormWeight,
    /// `[width]`, or `[heads, width]` where every head has its own.
    pub weight: Option<&'a B>,
    pub bias: Option<&'a B>,
    /// The row is cut into this many slices of equal width, each normalised on its own (1 on the residual stream).
    pub heads: usize,
    /// The weights differ from slice to slice.
    pub distinct: bool,
}

/// A rotary table on the device: row r is `[cos | sin]`, `n_rot / 2` each, amplitude included.
pub struct RopeTable<B> {
    /// `[rows, n_rot]`
    pub table: B,
    pub n_rot: usize,
    pub layout: RopeLayout,
}

/// One entry of the patch table: a rectangle of a site's matrix and what is written there.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchEntry {
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    pub value: PatchSource,
}

/// What an entry of the patch table does to its rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PatchSource {
    Zero,
    /// The same columns of the values matrix, from this row on, are written.
    Row(usize),
    /// They are added.
    AddRow(usize),
    /// What is there is multiplied.
    Scale(f32),
}

/// One run of queries in [`Backend::attention`]: queries at positions `q_position ..+ n_q`, keys at positions
/// `0..prefix_len` from the base cache and `prefix_len ..+ own_len` from the segment's own rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttnSegment {
    /// First row of the queries in `q`, and of the results in `z`.
    pub q_row: usize,
    pub n_q: usize,
    pub q_position: usize,
    /// Row of position 0 of this prompt in the base cache.
    pub prefix_row: usize,
    pub prefix_len: usize,
    /// First own row in `k` and `v`.
    pub own_row: usize,
    pub own_len: usize,
    /// The model's query head that column block 0 of `q` belongs to. Key/value heads follow from it.
    pub first_head: usize,
    /// Where this segment's scores or patterns begin in the capture buffer: `[n_q, heads in q, prefix_len + own_len]`.
    pub capture_at: usize,
}

/// Attention scores or patterns of some queries are replaced instead of computed, or changed behind their computation.
#[derive(Debug, Clone, PartialEq)]
pub struct AttnOverride {
    /// Index into [`AttnCall::segments`].
    pub segment: usize,
    pub kind: AttnOverrideKind,
    /// Of the model.
    pub heads: Range<usize>,
    /// Destination positions.
    pub destinations: Range<usize>,
    /// Where the prompt's matrix `[n_positions, n_heads, n_positions]` begins in the values buffer; `None` writes
    /// (or adds) zeros. Only unmasked entries are touched.
    pub values_at: Option<usize>,
    /// n_positions of that matrix.
    pub n_positions: usize,
}

/// What becomes of the scores or patterns. Of the first two kinds and `ChangeScores`, the first override that fits a
/// query counts; knockouts count all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttnOverrideKind {
    /// The values instead of the scores.
    Scores,
    /// The values instead of the pattern.
    Pattern,
    /// `factor` · score + value.
    ChangeScores { factor: f32 },
    /// −∞ at the source positions `from..to`: attention knockout (Geva et al. 2023, arXiv:2304.14767). A query keeps a
    /// source, or a sink.
    Knockout { from: usize, to: usize },
}

/// What an attention layer is, for [`Backend::attention`].
pub struct AttnParams<'a, B> {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub d_qk: usize,
    pub d_v: usize,
    pub scale: f32,
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    /// Slopes, one per head of the model, and how they are added.
    pub alibi: Option<(&'a [f32], AlibiAt)>,
    /// `[n_heads]`
    pub sinks: Option<&'a B>,
}

/// Arguments of [`Backend::attention`].
pub struct AttnCall<'a, B> {
    pub params: AttnParams<'a, B>,
    /// Query heads in every row of `q` and `z`: all of the model's, or those a patch re-runs.
    pub heads: usize,
    /// `[q rows, heads * d_qk]`, rotated. May be absent where every score or pattern is replaced.
    pub q: Option<View<'a, B>>,
    /// Own keys `[rows, kv heads of those heads * d_qk]`, rotated.
    pub k: Option<View<'a, B>>,
    /// Own values `[rows, kv heads of those heads * d_v]`.
    pub v: Option<View<'a, B>>,
    /// Keys and values of the base run, all KV heads: `[rows, n_kv_heads * d_qk]`, `[rows, n_kv_heads * d_v]`.
    pub prefix: Option<(View<'a, B>, View<'a, B>)>,
    pub segments: &'a [AttnSegment],
    pub overrides: &'a [AttnOverride],
    pub override_values: Option<&'a B>,
    /// Scores and patterns are written here where they are wanted; masked entries are −∞ and 0.
    pub capture_scores: Option<&'a mut B>,
    pub capture_pattern: Option<&'a mut B>,
}

/// The unembedding: logits = softcap(scale · (h · matrixᵀ + bias)).
pub struct Unembedding<'a, B> {
    /// `[d_vocab, d_model]`
    pub matrix: &'a B,
    pub bias: Option<&'a B>,
    pub d_vocab: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
}

/// The numbers of an [`Act::XIelu`], as its formula has them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct XIelu {
    pub alpha_p: f32,
    pub alpha_n: f32,
    pub beta: f32,
    pub eps: f32,
}

/// Columns and rows of a packed weight that a GEMM uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSlice {
    /// Input dimensions.
    pub k: Range<usize>,
    /// Output dimensions.
    pub n: Range<usize>,
}

/// Rows of a head delta that share a slice of the input dimensions of W_O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadRows {
    pub rows: Range<usize>,
    /// First input dimension of W_O: head · d_v.
    pub k: usize,
}

/// What a GEMM does with its finished sums before it writes anything. Each variant has the bits of the operations that
/// do the same one after the other.
#[derive(Debug)]
pub struct Epilogue<'a, B> {
    /// `[1, n]`, added to every row first.
    pub bias: Option<View<'a, B>>,
    pub then: Then<'a, B>,
}

/// What becomes of sums and bias: s, `[m, n]`.
#[derive(Debug)]
pub enum Then<'a, B> {
    /// out = s.
    Write,
    /// out = act(s): [`Backend::activation`] of an MLP without a gate.
    Activate(Act),
    /// s is `[gate | up]`: the left half of out becomes act(gate) · up, as by [`Backend::activation`]. What is in the
    /// right half afterwards is undefined.
    Gate(Act),
    /// stream `[m, n]` += scale · s: [`Backend::scale`], then [`Backend::add`]. `out` is room for s; what is in it
    /// afterwards is undefined.
    AddTo { stream: ViewMut<'a, B>, scale: f32 },
}

impl<'a, B> Epilogue<'a, B> {
    /// Only the bias, if there is one.
    pub fn bias(bias: Option<View<'a, B>>) -> Self {
        Epilogue { bias, then: Then::Write }
    }

    /// Nothing: the bare product.
    pub fn none() -> Self {
        Epilogue::bias(None)
    }
}

/// Rows and tokens whose logits may be in memory at once, where an operation goes over the whole vocabulary.
pub const LOGITS_AT_ONCE: (usize, usize) = (256, 4096);

/// The operations. Shapes in the comments are those of the views; views of one call never overlap.
pub trait Backend: Send + Sync {
    /// float32 numbers on the device.
    type Buf: Send + Sync;
    /// A weight `[k, n]` in whatever form the device multiplies fastest.
    type Weight: Send + Sync;

    /// The device in words, for reports.
    fn device(&self) -> String;

    /// The first failure of an operation that returns nothing, on devices where such operations can fail. After one,
    /// results mean nothing; asking for it makes the device usable again.
    fn check(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Waits until everything issued has run: for whoever looks at a clock.
    ///
    /// # Errors
    /// As [`Backend::check`].
    fn synchronize(&self) -> Result<(), BackendError>;

    /// Makes room for buffers of `bytes` altogether beside those there are, so that they can be had without asking the
    /// device. For devices that are slow to give memory; others do nothing.
    fn reserve(&self, _bytes: usize) -> Result<(), BackendError> {
        Ok(())
    }

    /// Does `work` with what memory there is: on a device that keeps memory of its own, nothing is asked of it until
    /// `work` is done, and what does not fit is out of memory.
    fn without_growth<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Result<Self::Buf, BackendError>;

    /// Takes the numbers over; no copy on the CPU.
    fn upload(&self, numbers: Vec<f32>) -> Result<Self::Buf, BackendError>;

    /// The numbers of the view, row-major.
    fn download(&self, view: View<'_, Self::Buf>) -> Vec<f32>;

    /// Packs several `[out_i, k]` matrices side by side into one weight `[k, Σ out_i]`; `read(i, numbers)` fills the
    /// i-th, one after the other, so that no more than one is in memory unpacked.
    #[allow(clippy::type_complexity)]
    fn pack(
        &self,
        k: usize,
        outs: &[usize],
        read: &mut dyn FnMut(usize, &mut [f32]) -> Result<(), crate::model::ModelError>,
    ) -> Result<Self::Weight, BackendError>;

    /// x `[m, k]` · w(slice) `[k, n]`, through the epilogue into out `[m, n]`.
    fn gemm(
        &self,
        x: View<'_, Self::Buf>,
        w: &Self::Weight,
        slice: WeightSlice,
        epilogue: Epilogue<'_, Self::Buf>,
        out: ViewMut<'_, Self::Buf>,
    );

    /// out `[n, d_model]` = delta `[n, width]` · W_O, where each group of rows uses its own `width` input dimensions.
    fn head_delta(
        &self,
        delta: View<'_, Self::Buf>,
        groups: &[HeadRows],
        w_o: &Self::Weight,
        out: ViewMut<'_, Self::Buf>,
    );

    /// out = norm(x).
    fn norm(&self, x: View<'_, Self::Buf>, norm: &Norm<'_, Self::Buf>, out: ViewMut<'_, Self::Buf>);

    /// x = norm(x).
    fn norm_in_place(&self, x: ViewMut<'_, Self::Buf>, norm: &Norm<'_, Self::Buf>);

    /// x += scale · y.
    fn add(&self, x: ViewMut<'_, Self::Buf>, y: View<'_, Self::Buf>, scale: f32);

    /// x *= factor, one for all.
    fn scale(&self, x: ViewMut<'_, Self::Buf>, factor: f32);

    /// Row i of x *= factors[i].
    fn scale_rows(&self, x: ViewMut<'_, Self::Buf>, factors: &[f32]);

    /// x ← min(max(x, −limit), limit).
    fn clamp(&self, x: ViewMut<'_, Self::Buf>, limit: f32);

    /// Rotates `heads` heads of each row; row i uses table row `index[i]`.
    fn rope(&self, x: ViewMut<'_, Self::Buf>, heads: usize, table: &RopeTable<Self::Buf>, index: &[u32]);

    /// z `[q rows, heads * d_v]`.
    fn attention(&self, call: AttnCall<'_, Self::Buf>, z: ViewMut<'_, Self::Buf>);

    /// Rows of `[gate | up]` (`[rows, 2 d_mlp]`): gate ← act(gate) · up. Ungated: rows `[rows, d_mlp]` ← act. `xielu` is read
    /// by [`Act::XIelu`] alone.
    fn activation(&self, x: ViewMut<'_, Self::Buf>, act: Act, xielu: XIelu, gated: bool);

    /// out row i = scale · table row `ids[i]`.
    fn embed(&self, table: View<'_, Self::Buf>, ids: &[u32], scale: f32, out: ViewMut<'_, Self::Buf>);

    /// dst[to(i)] (=, +=, −=) scale · src[from(i)]. No row is written twice.
    fn copy_rows(
        &self,
        src: View<'_, Self::Buf>,
        from: RowIndex<'_>,
        dst: ViewMut<'_, Self::Buf>,
        to: RowIndex<'_>,
        combine: Combine,
        scale: f32,
    );

    /// Writes every entry of the patch table into `x`.
    fn patch(&self, x: ViewMut<'_, Self::Buf>, table: &[PatchEntry], values: Option<View<'_, Self::Buf>>);

    /// Whether any number in a slice differs (as a number: 0 equals −0): flags `[rows, heads]`, rows cut into `heads`
    /// slices. `b` absent compares with zero.
    fn differs(&self, a: View<'_, Self::Buf>, b: Option<View<'_, Self::Buf>>, heads: usize) -> Vec<bool>;

    /// Logits of `tokens[i]` (flattened, `counts[i]` of them in row i) from final hidden rows h `[rows, d_model]`.
    fn token_logits(
        &self,
        h: View<'_, Self::Buf>,
        unembedding: &Unembedding<'_, Self::Buf>,
        tokens: &[u32],
        counts: &[usize],
    ) -> Vec<f32>;

    /// ln Σ_v exp(logit_v) of every row, over the whole vocabulary; never more than a block of logits in memory.
    fn log_sum_exp(&self, h: View<'_, Self::Buf>, unembedding: &Unembedding<'_, Self::Buf>) -> Vec<f32>;

    /// KL(p_reference ‖ p_row) in nats over the whole vocabulary; row i is compared with row `reference_rows[i]` of
    /// `reference` `[.., d_model]`.
    fn kl(
        &self,
        h: View<'_, Self::Buf>,
        reference: View<'_, Self::Buf>,
        reference_rows: &[u32],
        unembedding: &Unembedding<'_, Self::Buf>,
    ) -> Vec<f32>;

    /// All logits `[rows, d_vocab]`: for tests and captures, not for the wave.
    fn logits(&self, h: View<'_, Self::Buf>, unembedding: &Unembedding<'_, Self::Buf>) -> Vec<f32>;
}
