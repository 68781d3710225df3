//! A backend that keeps the time of every operation of another.

use super::work::{self, Finish, Work};
use crate::backend::*;
use crate::model::ModelError;
use crate::model::spec::Act;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Runs every operation on `B` and keeps the host's time in it. With [`Timed::wait_for_each`] it also waits for each, which
/// makes that time the operation's own, and counts FLOP and bytes; without, it changes nothing that a clock could see.
///
/// Weights of one shape share one set of numbers, the first that was packed: a model by chance takes the memory of a
/// layer. Between two uses of it lies all the rest of a layer, so that caches gain nothing.
pub struct Timed<B: Backend> {
    inner: B,
    weight_bytes: f64,
    each: AtomicBool,
    tally: Mutex<BTreeMap<Operation, Tally>>,
    /// What waiting has met; reported by the next check, as a backend would have.
    failure: Mutex<Option<BackendError>>,
    #[allow(clippy::type_complexity)]
    packed: Mutex<HashMap<(usize, Vec<usize>), Arc<B::Weight>>>,
}

/// An operation; products of different weights are different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// Its name in [`Backend`].
    pub name: &'static str,
    /// Input and output dimensions of a product's weight.
    pub product: Option<(usize, usize)>,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.product {
            Some((k, n)) => write!(f, "{} {k} → {n}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// What all calls of one operation took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    pub calls: u64,
    pub time: Duration,
    /// Zero unless each operation was waited for.
    pub work: Work,
    /// It returns numbers, so that the host waits for the device in it in any case.
    pub waits: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Timed<B> {
    /// `weight_bytes`: what a packed weight keeps of each number.
    pub fn new(inner: B, weight_bytes: f64) -> Self {
        Timed {
            inner,
            weight_bytes,
            each: AtomicBool::new(false),
            tally: Mutex::default(),
            failure: Mutex::default(),
            packed: Mutex::default(),
        }
    }

    /// Whether each operation is waited for from now on.
    pub fn wait_for_each(&self, each: bool) {
        self.each.store(each, Ordering::Relaxed);
    }

    /// What was kept since the last time, and nothing is kept of it any more.
    pub fn take(&self) -> BTreeMap<Operation, Tally> {
        std::mem::take(&mut *locked(&self.tally))
    }

    fn keep<T>(&self, name: &'static str, waits: bool, work: impl FnOnce() -> Work, call: impl FnOnce() -> T) -> T {
        self.keep_operation(Operation { name, product: None }, waits, work, call)
    }

    fn keep_operation<T>(
        &self,
        operation: Operation,
        waits: bool,
        work: impl FnOnce() -> Work,
        call: impl FnOnce() -> T,
    ) -> T {
        let each = self.each.load(Ordering::Relaxed);
        let work = if each { work() } else { Work::default() };
        let start = Instant::now();
        let result = call();
        if each && let Err(e) = self.inner.synchronize() {
            locked(&self.failure).get_or_insert(e);
        }
        let time = start.elapsed();
        let mut tally = locked(&self.tally);
        let tally = tally.entry(operation).or_default();
        tally.calls += 1;
        tally.time += time;
        tally.work += work;
        tally.waits = waits;
        result
    }
}

fn numbers<T>(view: &View<'_, T>) -> usize {
    view.rows * view.cols
}

impl<B: Backend> Backend for Timed<B> {
    type Buf = B::Buf;
    type Weight = Arc<B::Weight>;

    fn device(&self) -> String {
        self.inner.device()
    }

    fn check(&self) -> Result<(), BackendError> {
        match locked(&self.failure).take() {
            Some(e) => Err(e),
            None => self.inner.check(),
        }
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.check()?;
        self.inner.synchronize()
    }

    fn reserve(&self, bytes: usize) -> Result<(), BackendError> {
        self.keep("reserve", false, Work::default, || self.inner.reserve(bytes))
    }

    fn without_growth<T>(&self, work: impl FnOnce() -> T) -> T {
        self.inner.without_growth(work)
    }

    fn zeros(&self, len: usize) -> Result<B::Buf, BackendError> {
        self.keep("zeros", false, || Work::new(0.0, len as f64), || self.inner.zeros(len))
    }

    fn upload(&self, numbers: Vec<f32>) -> Result<B::Buf, BackendError> {
        let n = numbers.len() as f64;
        self.keep("upload", false, || Work::new(0.0, n), || self.inner.upload(numbers))
    }

    fn download(&self, view: View<'_, B::Buf>) -> Vec<f32> {
        self.keep("download", true, || Work::new(0.0, numbers(&view) as f64), || self.inner.download(view))
    }

    fn pack(
        &self,
        k: usize,
        outs: &[usize],
        read: &mut dyn FnMut(usize, &mut [f32]) -> Result<(), ModelError>,
    ) -> Result<Arc<B::Weight>, BackendError> {
        let key = (k, outs.to_vec());
        if let Some(weight) = locked(&self.packed).get(&key) {
            return Ok(weight.clone());
        }
        let weight = Arc::new(self.inner.pack(k, outs, read)?);
        locked(&self.packed).insert(key, weight.clone());
        Ok(weight)
    }

    fn gemm(
        &self,
        x: View<'_, B::Buf>,
        w: &Arc<B::Weight>,
        slice: WeightSlice,
        epilogue: Epilogue<'_, B::Buf>,
        out: ViewMut<'_, B::Buf>,
    ) {
        let (k, n) = (slice.k.len(), slice.n.len());
        let finish = match epilogue.then {
            Then::Write | Then::Activate(_) => Finish::Write,
            Then::Gate(_) => Finish::Gate,
            Then::AddTo { .. } => Finish::Add,
        };
        let work = || work::gemm(x.rows, k, n, self.weight_bytes, epilogue.bias.is_some(), finish);
        let work = if self.each.load(Ordering::Relaxed) { work() } else { Work::default() };
        let operation = Operation { name: "gemm", product: Some((k, n)) };
        self.keep_operation(operation, false, || work, || self.inner.gemm(x, w, slice, epilogue, out));
    }

    fn head_delta(&self, delta: View<'_, B::Buf>, groups: &[HeadRows], w_o: &Arc<B::Weight>, out: ViewMut<'_, B::Buf>) {
        let (rows, k, n) = (groups.iter().map(|g| g.rows.len()).sum(), delta.cols, out.cols);
        let work = || work::head_delta(rows, k, n, groups.len(), self.weight_bytes);
        let operation = Operation { name: "head_delta", product: Some((k, n)) };
        self.keep_operation(operation, false, work, || self.inner.head_delta(delta, groups, w_o, out));
    }

    fn norm(&self, x: View<'_, B::Buf>, norm: &Norm<'_, B::Buf>, out: ViewMut<'_, B::Buf>) {
        self.keep("norm", false, || work::norm(x.rows, x.cols, norm.kind), || self.inner.norm(x, norm, out));
    }

    fn norm_in_place(&self, x: ViewMut<'_, B::Buf>, norm: &Norm<'_, B::Buf>) {
        let (rows, cols) = (x.rows, x.cols);
        self.keep("norm_in_place", false, || work::norm(rows, cols, norm.kind), || self.inner.norm_in_place(x, norm));
    }

    fn add(&self, x: ViewMut<'_, B::Buf>, y: View<'_, B::Buf>, scale: f32) {
        self.keep("add", false, || work::each(numbers(&y), 2.0, 3.0, 0), || self.inner.add(x, y, scale));
    }

    fn scale(&self, x: ViewMut<'_, B::Buf>, factor: f32) {
        let n = numbers(&x.read());
        self.keep("scale", false, || work::each(n, 1.0, 2.0, 0), || self.inner.scale(x, factor));
    }

    fn scale_rows(&self, x: ViewMut<'_, B::Buf>, factors: &[f32]) {
        let n = numbers(&x.read());
        let work = || work::each(n, 1.0, 2.0, factors.len());
        self.keep("scale_rows", false, work, || self.inner.scale_rows(x, factors));
    }

    fn clamp(&self, x: ViewMut<'_, B::Buf>, limit: f32) {
        let n = numbers(&x.read());
        self.keep("clamp", false, || work::each(n, 2.0, 2.0, 0), || self.inner.clamp(x, limit));
    }

    fn rope(&self, x: ViewMut<'_, B::Buf>, heads: usize, table: &RopeTable<B::Buf>, index: &[u32]) {
        let rows = x.rows;
        // As many rows of the table as there are positions, which are few; at most one for each row.
        let work = || work::rope(rows, heads, table.n_rot, distinct(index));
        self.keep("rope", false, work, || self.inner.rope(x, heads, table, index));
    }

    fn attention(&self, call: AttnCall<'_, B::Buf>, z: ViewMut<'_, B::Buf>) {
        let p = &call.params;
        let share = call.heads.div_ceil((p.n_heads / p.n_kv_heads.max(1)).max(1));
        let captured = call.capture_scores.is_some() || call.capture_pattern.is_some();
        let (heads, widths, window, segments) = ((call.heads, share), (p.d_qk, p.d_v), p.window, call.segments);
        let work = || work::attention(segments, heads, widths, window, distinct_prefixes(segments), captured);
        let work = if self.each.load(Ordering::Relaxed) { work() } else { Work::default() };
        self.keep("attention", false, || work, || self.inner.attention(call, z));
    }

    fn activation(&self, x: ViewMut<'_, B::Buf>, act: Act, xielu: XIelu, gated: bool) {
        let (rows, width) = (x.rows, if gated { x.cols / 2 } else { x.cols });
        let work = || work::activation(rows, width, act, gated);
        self.keep("activation", false, work, || self.inner.activation(x, act, xielu, gated));
    }

    fn embed(&self, table: View<'_, B::Buf>, ids: &[u32], scale: f32, out: ViewMut<'_, B::Buf>) {
        let n = numbers(&out.read());
        let work = || work::each(n, 1.0, 2.0, ids.len());
        self.keep("embed", false, work, || self.inner.embed(table, ids, scale, out));
    }

    fn copy_rows(
        &self,
        src: View<'_, B::Buf>,
        from: RowIndex<'_>,
        dst: ViewMut<'_, B::Buf>,
        to: RowIndex<'_>,
        combine: Combine,
        scale: f32,
    ) {
        let listed = |index: &RowIndex<'_>| match index {
            RowIndex::List(list) => list.len(),
            RowIndex::All => 0,
        };
        let indices = listed(&from) + listed(&to);
        let rows = listed(&from).max(listed(&to));
        let n = if rows == 0 { src.rows } else { rows } * dst.cols;
        let (flops, moved) = if combine == Combine::Set { (0.0, 2.0) } else { (2.0, 3.0) };
        let work = || work::each(n, flops, moved, indices);
        self.keep("copy_rows", false, work, || self.inner.copy_rows(src, from, dst, to, combine, scale));
    }

    fn patch(&self, x: ViewMut<'_, B::Buf>, table: &[PatchEntry], values: Option<View<'_, B::Buf>>) {
        let n: usize = table.iter().map(|e| e.rows.len() * e.cols.len()).sum();
        self.keep("patch", false, || work::each(n, 0.0, 2.0, 0), || self.inner.patch(x, table, values));
    }

    fn differs(&self, a: View<'_, B::Buf>, b: Option<View<'_, B::Buf>>, heads: usize) -> Vec<bool> {
        let work = || work::each(numbers(&a), 1.0, 2.0, 0);
        self.keep("differs", true, work, || self.inner.differs(a, b, heads))
    }

    fn token_logits(
        &self,
        h: View<'_, B::Buf>,
        unembedding: &Unembedding<'_, B::Buf>,
        tokens: &[u32],
        counts: &[usize],
    ) -> Vec<f32> {
        let work = || Work::new((2 * tokens.len() * h.cols) as f64, (numbers(&h) + tokens.len() * (h.cols + 1)) as f64);
        self.keep("token_logits", true, work, || self.inner.token_logits(h, unembedding, tokens, counts))
    }

    fn log_sum_exp(&self, h: View<'_, B::Buf>, unembedding: &Unembedding<'_, B::Buf>) -> Vec<f32> {
        let work = || work::log_sum_exp(h.rows, h.cols, unembedding.d_vocab);
        self.keep("log_sum_exp", true, work, || self.inner.log_sum_exp(h, unembedding))
    }

    fn kl(
        &self,
        h: View<'_, B::Buf>,
        reference: View<'_, B::Buf>,
        reference_rows: &[u32],
        unembedding: &Unembedding<'_, B::Buf>,
    ) -> Vec<f32> {
        let work = || work::kl(h.rows, distinct(reference_rows), h.cols, unembedding.d_vocab);
        self.keep("kl", true, work, || self.inner.kl(h, reference, reference_rows, unembedding))
    }

    fn logits(&self, h: View<'_, B::Buf>, unembedding: &Unembedding<'_, B::Buf>) -> Vec<f32> {
        let work = || work::log_sum_exp(h.rows, h.cols, unembedding.d_vocab);
        self.keep("logits", true, work, || self.inner.logits(h, unembedding))
    }
}

fn distinct(list: &[u32]) -> usize {
    list.iter().collect::<std::collections::HashSet<_>>().len()
}

/// Rows of the base cache that segments read, those of one prompt once.
fn distinct_prefixes(segments: &[AttnSegment]) -> usize {
    let mut longest: HashMap<usize, usize> = HashMap::new();
    for s in segments {
        let len = longest.entry(s.prefix_row).or_default();
        *len = (*len).max(s.prefix_len);
    }
    longest.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    fn gemm(timed: &Timed<Cpu>) {
        let mut ones = |_: usize, out: &mut [f32]| {
            out.fill(1.0);
            Ok(())
        };
        let w = timed.pack(3, &[5], &mut ones).expect("memory");
        let (x, mut out) = (vec![1.0; 6], vec![0.0; 10]);
        let slice = WeightSlice { k: 0..3, n: 0..5 };
        timed.gemm(View::packed(&x, 2, 3), &w, slice, Epilogue::none(), ViewMut::packed(&mut out, 2, 5));
        assert_eq!(out, [3.0; 10]);
    }

    #[test]
    fn operations_are_counted_and_worked_out_only_where_each_is_waited_for() {
        let timed = Timed::new(Cpu, 4.0);
        gemm(&timed);
        let plain = timed.take();
        let key = Operation { name: "gemm", product: Some((3, 5)) };
        assert_eq!((plain[&key].calls, plain[&key].work), (1, Work::default()));
        timed.wait_for_each(true);
        gemm(&timed);
        gemm(&timed);
        let each = timed.take();
        assert_eq!((each[&key].calls, each[&key].work.flops), (2, 120.0));
        assert!(each[&key].time > Duration::ZERO && timed.take().is_empty());
        assert_eq!(key.to_string(), "gemm 3 → 5");
    }

    #[test]
    fn weights_of_one_shape_are_packed_once() {
        let timed = Timed::new(Cpu, 4.0);
        let mut reads = 0;
        let mut pack = |outs: &[usize]| {
            timed.pack(2, outs, &mut |_, out| {
                reads += 1;
                out.fill(reads as f32);
                Ok(())
            })
        };
        let (a, b, c) = (pack(&[4]).expect("memory"), pack(&[4]).expect("memory"), pack(&[2, 2]).expect("memory"));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        assert_eq!(reads, 3);
    }

    #[test]
    fn prefixes_of_one_prompt_count_once() {
        let s = |prefix_row, prefix_len| AttnSegment {
            q_row: 0,
            n_q: 1,
            q_position: prefix_len,
            prefix_row,
            prefix_len,
            own_row: 0,
            own_len: 1,
            first_head: 0,
            capture_at: 0,
        };
        assert_eq!(distinct_prefixes(&[s(0, 3), s(15, 2), s(0, 4)]), 6);
    }
}
