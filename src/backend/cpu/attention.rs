//! Attention over segments: one task per segment, each query on its own, keys in the order of their positions.
//!
//! Whether a key comes from the base cache or from the segment's own rows changes no bit: the arithmetic sees only the
//! sequence of key rows.

use super::rows::row;
use super::simd;
use crate::backend::{AttnCall, AttnOverride, AttnOverrideKind, AttnSegment, View, ViewMut};
use crate::model::spec::AlibiAt;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

type Buf = Vec<f32>;

pub fn attention(mut call: AttnCall<'_, Buf>, z: ViewMut<'_, Buf>) {
    assert_eq!(z.stride, call.heads * call.params.d_v, "z is packed");
    let width = z.stride;
    let scores = call.capture_scores.take();
    let pattern = call.capture_pattern.take();
    // Segments own consecutive rows of z and consecutive stretches of the capture buffers, in order.
    let size = |s: &AttnSegment| s.n_q * call.heads * (s.prefix_len + s.own_len);
    let cut = |buf: Option<&mut Buf>| -> Vec<Option<CapturePtr>> {
        match buf {
            None => vec![None; call.segments.len()],
            Some(buf) => call
                .segments
                .iter()
                .map(|s| {
                    assert!(s.capture_at + size(s) <= buf.len());
                    Some(CapturePtr(buf[s.capture_at..].as_mut_ptr()))
                })
                .collect(),
        }
    };
    let (scores, pattern) = (cut(scores), cut(pattern));
    let mut jobs = Vec::with_capacity(call.segments.len());
    let mut rest = &mut z.buf[z.offset..];
    let mut at = 0;
    for (i, s) in call.segments.iter().enumerate() {
        assert_eq!(s.q_row, at, "segments lie in the order of their rows");
        let (mine, others) = rest.split_at_mut(s.n_q * width);
        rest = others;
        at += s.n_q;
        jobs.push((i, mine));
    }
    let arch = Arch::new();
    let call = &call;
    let run = |scratch: &mut Scratch, (i, z): (usize, &mut [f32])| {
        let segment = &call.segments[i];
        // SAFETY: each segment's stretch lies inside the buffer (asserted above) and segments' stretches are disjoint
        // by the contract of `capture_at`.
        let slice =
            |p: &Option<CapturePtr>| p.as_ref().map(|p| unsafe { std::slice::from_raw_parts_mut(p.0, size(segment)) });
        let (scores, pattern) = (slice(&scores[i]), slice(&pattern[i]));
        arch.dispatch(Segment { call, index: i, segment, z, scores, pattern, scratch });
    };
    jobs.into_par_iter().with_min_len(4).for_each_init(Scratch::default, run);
}

#[derive(Clone)]
struct CapturePtr(*mut f32);
// SAFETY: see where it is turned into a slice.
unsafe impl Send for CapturePtr {}
unsafe impl Sync for CapturePtr {}

#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
}

struct Segment<'a> {
    call: &'a AttnCall<'a, Buf>,
    index: usize,
    segment: &'a AttnSegment,
    z: &'a mut [f32],
    scores: Option<&'a mut [f32]>,
    pattern: Option<&'a mut [f32]>,
    scratch: &'a mut Scratch,
}

impl WithSimd for Segment<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (call, s) = (self.call, self.segment);
        let p = &call.params;
        let n_keys = s.prefix_len + s.own_len;
        let group = p.n_heads / p.n_kv_heads;
        let first_kv = s.first_head / group;
        let overrides: Vec<&AttnOverride> = call.overrides.iter().filter(|o| o.segment == self.index).collect();
        self.scratch.scores.resize(n_keys, 0.0);
        let mut gathered: Option<KvHead<'_>> = None;
        for j in 0..call.heads {
            let head = s.first_head + j;
            let kv = head / group;
            if gathered.as_ref().is_none_or(|g| g.index != kv) {
                // Keys are not needed where every score is replaced.
                let keys = match call.q {
                    Some(_) => gather(s, call.prefix.map(|(k, _)| k), call.k, kv, kv - first_kv, p.d_qk),
                    None => Vec::new(),
                };
                let values = gather(s, call.prefix.map(|(_, v)| v), call.v, kv, kv - first_kv, p.d_v);
                gathered = Some(KvHead { index: kv, keys, values });
            }
            let KvHead { keys, values, .. } = gathered.as_ref().expect("set just above");
            for i in 0..s.n_q {
                let t = s.q_position + i;
                let from = p.window.map_or(0, |w| (t + 1).saturating_sub(w));
                let scores = &mut self.scratch.scores[from..=t];
                let fits = |o: &&&AttnOverride| o.heads.contains(&head) && o.destinations.contains(&t);
                let is_knockout = |o: &&&AttnOverride| matches!(o.kind, AttnOverrideKind::Knockout { .. });
                let replaced = overrides.iter().filter(fits).find(|o| !is_knockout(o));
                let values_of = |o: &AttnOverride| {
                    o.values_at.map(|at| {
                        let values = call.override_values.expect("values to replace with");
                        let row = at + (t * p.n_heads + head) * o.n_positions;
                        &values[row + from..=row + t]
                    })
                };
                let replacement = |out: &mut [f32], o: &AttnOverride| match values_of(o) {
                    None => out.fill(0.0),
                    Some(values) => out.copy_from_slice(values),
                };
                let captured = (i * call.heads + j) * n_keys;
                match replaced {
                    Some(o) if o.kind == AttnOverrideKind::Pattern => {
                        if let Some(out) = &mut self.scores {
                            out[captured..captured + n_keys].fill(f32::NEG_INFINITY);
                        }
                        replacement(scores, o);
                    }
                    other => {
                        match other.map(|o| (o, o.kind)) {
                            Some((o, AttnOverrideKind::Scores)) => replacement(scores, o),
                            changed => {
                                let q = call.q.expect("queries, or a replacement for every score");
                                let q = &row(q, s.q_row + i)[j * p.d_qk..][..p.d_qk];
                                score(simd, p, head, q, &keys[from..=t], from, scores);
                                if let Some((o, AttnOverrideKind::ChangeScores { factor })) = changed {
                                    scores.iter_mut().for_each(|s| *s *= factor);
                                    let values = values_of(o).into_iter().flatten();
                                    scores.iter_mut().zip(values).for_each(|(s, v)| *s += v);
                                }
                            }
                        }
                        for o in overrides.iter().filter(fits) {
                            if let AttnOverrideKind::Knockout { from: first, to } = o.kind {
                                let range = first.clamp(from, t + 1)..to.clamp(from, t + 1);
                                range.for_each(|key| scores[key - from] = f32::NEG_INFINITY);
                            }
                        }
                        if let Some(out) = &mut self.scores {
                            let out = &mut out[captured..captured + n_keys];
                            out.fill(f32::NEG_INFINITY);
                            out[from..=t].copy_from_slice(scores);
                        }
                        softmax(scores, p.sinks.map(|s| s[head]));
                    }
                }
                if let Some(out) = &mut self.pattern {
                    let out = &mut out[captured..captured + n_keys];
                    out.fill(0.0);
                    out[from..=t].copy_from_slice(scores);
                }
                let z = &mut self.z[(i * call.heads + j) * p.d_v..][..p.d_v];
                simd::weighted_sum(simd, z, scores, &values[from..=t]);
            }
        }
    }
}

/// One KV head's rows, position by position.
struct KvHead<'a> {
    index: usize,
    keys: Vec<&'a [f32]>,
    values: Vec<&'a [f32]>,
}

/// The rows of one KV head, position by position: the base cache's, then the segment's own.
fn gather<'a>(
    s: &AttnSegment,
    prefix: Option<View<'a, Buf>>,
    own: Option<View<'a, Buf>>,
    kv_head: usize,
    own_head: usize,
    d: usize,
) -> Vec<&'a [f32]> {
    let take = |v: View<'a, Buf>, r: usize, head: usize| &v.buf[v.offset + r * v.stride + head * d..][..d];
    let mut rows = Vec::with_capacity(s.prefix_len + s.own_len);
    if s.prefix_len > 0 {
        let v = prefix.expect("a prefix lies in a base cache");
        rows.extend((0..s.prefix_len).map(|i| take(v, s.prefix_row + i, kv_head)));
    }
    if s.own_len > 0 {
        let v = own.expect("own positions have own rows");
        rows.extend((0..s.own_len).map(|i| take(v, s.own_row + i, own_head)));
    }
    rows
}

/// scores_j = softcap(scale · q·k_j + slope · j), or the slopes before the scale, for the keys from position `from` on.
#[inline(always)]
fn score<S: Simd>(
    simd: S,
    p: &crate::backend::AttnParams<'_, Buf>,
    head: usize,
    q: &[f32],
    keys: &[&[f32]],
    from: usize,
    scores: &mut [f32],
) {
    for (s, k) in scores.iter_mut().zip(keys) {
        *s = simd::dot(simd, q, k);
    }
    let bias = |slopes: &[f32], j: usize| slopes[head] * (from + j) as f32;
    match p.alibi {
        Some((slopes, AlibiAt::BeforeScaleRounded)) => {
            for (j, s) in scores.iter_mut().enumerate() {
                *s = (*s + half::bf16::from_f32(bias(slopes, j)).to_f32()) * p.scale;
            }
        }
        Some((slopes, AlibiAt::AfterScale)) => {
            for (j, s) in scores.iter_mut().enumerate() {
                *s = *s * p.scale + bias(slopes, j);
            }
        }
        None => scores.iter_mut().for_each(|s| *s *= p.scale),
    }
    if let Some(cap) = p.softcap {
        for s in scores.iter_mut() {
            *s = cap * (*s / cap).tanh();
        }
    }
}

/// In place; a sink takes its share of the sum and leaves.
#[inline(always)]
fn softmax(scores: &mut [f32], sink: Option<f32>) {
    let max = scores.iter().fold(sink.unwrap_or(f32::NEG_INFINITY), |a, b| a.max(*b));
    for s in scores.iter_mut() {
        // Sources that are knocked out have no share at all; simd::exp is never 0.
        *s = if *s == f32::NEG_INFINITY { 0.0 } else { simd::exp(*s - max) };
    }
    let mut sum = sink.map_or(0.0, |s| simd::exp(s - max));
    for s in scores.iter() {
        sum += s;
    }
    let inverse = 1.0 / sum;
    for s in scores.iter_mut() {
        *s *= inverse;
    }
}
