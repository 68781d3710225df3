//! attention.cu against a float64 reference over every option of `AttnCall`.

use crate::support::*;
use patchwave::backend::cuda::Precision;
use patchwave::backend::{AttnCall, AttnOverride, AttnOverrideKind, AttnParams, AttnSegment, Backend, View, ViewMut};
use patchwave::model::spec::AlibiAt;

/// One layer, its inputs, and what is asked of it.
struct Case {
    n_heads: usize,
    n_kv_heads: usize,
    d_qk: usize,
    d_v: usize,
    /// Query heads in a row of q.
    heads: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    alibi: Option<(Vec<f32>, AlibiAt)>,
    sinks: Option<Vec<f32>>,
    segments: Vec<AttnSegment>,
    overrides: Vec<AttnOverride>,
    q: Option<Vec<f32>>,
    k: Vec<f32>,
    v: Vec<f32>,
    prefix_k: Vec<f32>,
    prefix_v: Vec<f32>,
    values: Vec<f32>,
}

/// (first position, length, prompt length) per segment; prompts lie one after the other in the base cache.
fn case(seed: u64, (n_heads, n_kv_heads, d_qk, d_v): (usize, usize, usize, usize), parts: &[(usize, usize)]) -> Case {
    let (mut segments, mut q_row, mut own_row, mut capture_at) = (Vec::new(), 0, 0, 0);
    let longest = parts.iter().map(|p| p.0 + p.1).max().expect("segments");
    for (i, (first, len)) in parts.iter().enumerate() {
        segments.push(AttnSegment {
            q_row,
            n_q: *len,
            q_position: *first,
            prefix_row: i * longest,
            prefix_len: *first,
            own_row,
            own_len: *len,
            first_head: 0,
            capture_at,
        });
        q_row += len;
        own_row += len;
        capture_at += len * n_heads * (first + len);
    }
    let cache_rows = parts.len() * longest;
    Case {
        n_heads,
        n_kv_heads,
        d_qk,
        d_v,
        heads: n_heads,
        window: None,
        softcap: None,
        alibi: None,
        sinks: None,
        segments,
        overrides: Vec::new(),
        q: Some(random(seed, q_row * n_heads * d_qk)),
        k: random(seed + 1, own_row * n_kv_heads * d_qk),
        v: random(seed + 2, own_row * n_kv_heads * d_v),
        prefix_k: random(seed + 3, cache_rows * n_kv_heads * d_qk),
        prefix_v: random(seed + 4, cache_rows * n_kv_heads * d_v),
        values: random(seed + 5, n_heads * longest * longest),
    }
}

impl Case {
    fn scale(&self) -> f32 {
        1.0 / (self.d_qk as f32).sqrt()
    }

    fn q_rows(&self) -> usize {
        self.segments.iter().map(|s| s.q_row + s.n_q).max().unwrap_or(0)
    }

    fn captured(&self) -> usize {
        let end = |s: &AttnSegment| s.capture_at + s.n_q * self.heads * (s.prefix_len + s.own_len);
        self.segments.iter().map(end).max().unwrap_or(0)
    }

    /// z, then scores, then patterns. A run that captures takes attention_segments, one that does not attention_fused for
    /// segments without overrides.
    fn run(&self, gpu: &Gpu, capture: bool) -> Vec<f32> {
        self.measure(gpu, capture).0
    }

    /// And the device memory taken before the kernels came.
    fn measure(&self, gpu: &Gpu, capture: bool) -> (Vec<f32>, usize) {
        let kv_columns = |own: &[f32], d: usize| {
            let rows = self.segments.iter().map(|s| s.own_row + s.own_len).max().unwrap_or(0);
            (rows, own.len().checked_div(rows).unwrap_or(d))
        };
        let cache_rows = self.prefix_k.len() / (self.n_kv_heads * self.d_qk);
        let q = self.q.as_ref().map(|q| Askew::new(gpu, q, self.q_rows(), self.heads * self.d_qk));
        let (k_rows, k_cols) = kv_columns(&self.k, self.d_qk);
        let (v_rows, v_cols) = kv_columns(&self.v, self.d_v);
        let k = Askew::new(gpu, &self.k, k_rows, k_cols);
        let v = Askew::new(gpu, &self.v, v_rows, v_cols);
        let prefix_k = Askew::new(gpu, &self.prefix_k, cache_rows, self.n_kv_heads * self.d_qk);
        let prefix_v = Askew::new(gpu, &self.prefix_v, cache_rows, self.n_kv_heads * self.d_v);
        let sinks = self.sinks.as_ref().map(|s| upload(gpu, s));
        let values = upload(gpu, &self.values);
        let mut scores = upload(gpu, &vec![9.0; self.captured()]);
        let mut pattern = upload(gpu, &vec![9.0; self.captured()]);
        let mut z = upload(gpu, &vec![f32::NAN; self.q_rows() * self.heads * self.d_v]);
        let call = AttnCall {
            params: AttnParams {
                n_heads: self.n_heads,
                n_kv_heads: self.n_kv_heads,
                d_qk: self.d_qk,
                d_v: self.d_v,
                scale: self.scale(),
                window: self.window,
                softcap: self.softcap,
                alibi: self.alibi.as_ref().map(|(slopes, at)| (slopes.as_slice(), *at)),
                sinks: sinks.as_ref(),
            },
            heads: self.heads,
            q: q.as_ref().map(|q| q.view()),
            k: Some(k.view()),
            v: Some(v.view()),
            prefix: Some((prefix_k.view(), prefix_v.view())),
            segments: &self.segments,
            overrides: &self.overrides,
            override_values: Some(&values),
            capture_scores: capture.then_some(&mut scores),
            capture_pattern: capture.then_some(&mut pattern),
        };
        let (width, used) = (self.heads * self.d_v, gpu.driver().memory_used());
        gpu.attention(call, ViewMut::packed(&mut z, self.q_rows(), width));
        let mut all = gpu.download(View::packed(&z, self.q_rows(), width));
        if capture {
            all.extend(gpu.download(View::packed(&scores, 1, self.captured())));
            all.extend(gpu.download(View::packed(&pattern, 1, self.captured())));
        }
        (all, used)
    }

    fn reference(&self) -> Vec<f64> {
        let group = self.n_heads / self.n_kv_heads;
        let mut z = vec![f64::NAN; self.q_rows() * self.heads * self.d_v];
        let mut scores = vec![f64::NEG_INFINITY; self.captured()];
        let mut pattern = vec![0.0; self.captured()];
        for (index, s) in self.segments.iter().enumerate() {
            let n_keys = s.prefix_len + s.own_len;
            let own_heads = (s.first_head + self.heads - 1) / group - s.first_head / group + 1;
            for i in 0..s.n_q {
                for j in 0..self.heads {
                    let (head, t) = (s.first_head + j, s.q_position + i);
                    let kv = head / group;
                    let row = |own: &[f32], prefix: &[f32], d: usize, key: usize| -> Vec<f64> {
                        if key < s.prefix_len {
                            wide(&prefix[((s.prefix_row + key) * self.n_kv_heads + kv) * d..][..d])
                        } else {
                            let own_kv = kv - s.first_head / group;
                            wide(&own[((s.own_row + key - s.prefix_len) * own_heads + own_kv) * d..][..d])
                        }
                    };
                    let from = self.window.map_or(0, |w| (t + 1).saturating_sub(w));
                    let here = |o: &&AttnOverride| {
                        o.segment == index && o.heads.contains(&head) && o.destinations.contains(&t)
                    };
                    let mut fitting = self.overrides.iter().filter(here);
                    let found = fitting.find(|o| !matches!(o.kind, AttnOverrideKind::Knockout { .. }));
                    let knocked_out = |key: usize| {
                        self.overrides.iter().filter(here).any(
                            |o| matches!(o.kind, AttnOverrideKind::Knockout { from, to } if (from..to).contains(&key)),
                        )
                    };
                    let replaced = |key: usize| {
                        let o = found.expect("there is one");
                        let at = |at| at + (t * self.n_heads + head) * o.n_positions + key;
                        o.values_at.map_or(0.0, |a| self.values[at(a)] as f64)
                    };
                    let captured = s.capture_at + (i * self.heads + j) * n_keys;
                    let mut row_of = vec![0.0; t + 1];
                    if found.is_some_and(|o| o.kind == AttnOverrideKind::Pattern) {
                        (from..=t).for_each(|key| row_of[key] = replaced(key));
                    } else {
                        for (key, x) in row_of.iter_mut().enumerate().skip(from) {
                            let factor = match found.map(|o| o.kind) {
                                None => Some(1.0),
                                Some(AttnOverrideKind::ChangeScores { factor }) => Some(factor as f64),
                                _ => None,
                            };
                            *x = match (factor, &self.q) {
                                (Some(factor), Some(q)) => {
                                    let q = &q[((s.q_row + i) * self.heads + j) * self.d_qk..][..self.d_qk];
                                    let k = row(&self.k, &self.prefix_k, self.d_qk, key);
                                    let mut x = q.iter().zip(k).map(|(q, k)| *q as f64 * k).sum::<f64>();
                                    let bias = |a: &[f32]| a[head] * key as f32;
                                    x = match &self.alibi {
                                        None => x * self.scale() as f64,
                                        Some((a, AlibiAt::AfterScale)) => x * self.scale() as f64 + bias(a) as f64,
                                        Some((a, AlibiAt::BeforeScaleRounded)) => {
                                            (x + half::bf16::from_f32(bias(a)).to_f64()) * self.scale() as f64
                                        }
                                    };
                                    x = self.softcap.map_or(x, |c| c as f64 * (x / c as f64).tanh());
                                    if found.is_some() { factor * x + replaced(key) } else { x }
                                }
                                _ => replaced(key),
                            };
                            if knocked_out(key) {
                                *x = f64::NEG_INFINITY;
                            }
                            scores[captured + key] = *x;
                        }
                        let sink = self.sinks.as_ref().map(|s| s[head] as f64);
                        let sum = row_of[from..].iter().map(|x| x.exp()).sum::<f64>() + sink.map_or(0.0, f64::exp);
                        row_of[from..].iter_mut().for_each(|x| *x = x.exp() / sum);
                    }
                    for d in 0..self.d_v {
                        let value = |key: usize| row(&self.v, &self.prefix_v, self.d_v, key)[d];
                        z[((s.q_row + i) * self.heads + j) * self.d_v + d] =
                            (from..=t).map(|key| row_of[key] * value(key)).sum();
                    }
                    pattern[captured + from..=captured + t].copy_from_slice(&row_of[from..]);
                }
            }
        }
        z.extend(scores);
        z.extend(pattern);
        z
    }

    fn agrees(&self, what: &str) {
        let want = self.reference();
        let got = everywhere(Precision::Ffma, |gpu| self.run(gpu, true));
        let (z, captured) = (self.q_rows() * self.heads * self.d_v, self.captured());
        for (part, range) in [("z", 0..z), ("scores", z..z + captured), ("pattern", z + captured..z + 2 * captured)] {
            assert_close(&got[range.clone()], &want[range], 2e-6, &format!("{what}: {part}"));
        }
        // The kernel that captures and the fused one differ in no bit of z.
        let alone = everywhere(Precision::Ffma, |gpu| self.run(gpu, false));
        let differs = alone.iter().zip(&got).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!((alone.len(), differs), (z, None), "{what}: fused");
    }
}

#[test]
fn segments_continue_prompts_of_the_base_cache() {
    case(1, (3, 3, 5, 5), &[(0, 7), (4, 3), (40, 30), (2, 1)]).agrees("two-part keys");
}

#[test]
fn grouped_queries_share_keys_and_values_have_their_own_width() {
    case(2, (6, 2, 8, 3), &[(0, 5), (3, 34)]).agrees("grouped queries");
}

#[test]
fn every_option_at_once() {
    let mut c = case(3, (4, 2, 6, 33), &[(0, 9), (5, 40)]);
    (c.window, c.softcap) = (Some(4), Some(1.5));
    let slopes = vec![0.7, 0.5, 0.13, 0.0626];
    c.alibi = Some((slopes.clone(), AlibiAt::AfterScale));
    c.sinks = Some(random(30, 4));
    c.agrees("window, softcap, alibi, sinks");
    c.alibi = Some((slopes, AlibiAt::BeforeScaleRounded));
    c.agrees("the same, alibi before the scale");
}

#[test]
fn scores_and_patterns_are_replaced() {
    let mut c = case(4, (4, 2, 4, 4), &[(0, 6), (3, 5), (1, 4)]);
    c.window = Some(5);
    let entry = |segment, kind, heads, destinations, values_at| AttnOverride {
        segment,
        kind,
        heads,
        destinations,
        values_at,
        n_positions: 8,
    };
    c.overrides = vec![
        entry(2, AttnOverrideKind::Pattern, 0..4, 2..4, None),
        entry(0, AttnOverrideKind::Scores, 1..3, 2..5, Some(0)),
        // The first that fits counts.
        entry(0, AttnOverrideKind::Pattern, 0..4, 4..6, Some(0)),
        entry(1, AttnOverrideKind::Pattern, 3..4, 3..8, Some(0)),
    ];
    c.agrees("overrides");
}

/// Knockouts take sources away, all that fit; what is masked already stays so.
#[test]
fn scores_are_changed_and_sources_knocked_out() {
    let mut c = case(7, (4, 2, 4, 4), &[(0, 6), (3, 37)]);
    c.window = Some(34);
    let entry = |segment, kind, heads, destinations, values_at| AttnOverride {
        segment,
        kind,
        heads,
        destinations,
        values_at,
        n_positions: 40,
    };
    let knockout = |from, to| AttnOverrideKind::Knockout { from, to };
    c.overrides = vec![
        entry(0, knockout(1, 3), 0..4, 3..6, None),
        entry(0, AttnOverrideKind::ChangeScores { factor: 0.5 }, 1..3, 2..5, Some(0)),
        entry(0, knockout(0, 1), 2..3, 1..6, None),
        entry(1, knockout(30, 38), 0..2, 36..40, None),
        entry(1, AttnOverrideKind::ChangeScores { factor: -2.0 }, 0..1, 38..40, None),
        entry(1, knockout(0, 2), 3..4, 39..40, None),
        entry(1, AttnOverrideKind::Scores, 3..4, 39..40, Some(0)),
    ];
    c.agrees("changed scores and knockouts");
}

/// One query head at a time, as patches of q re-run them, and values that come from the base cache alone.
#[test]
fn a_single_head_reads_its_own_group() {
    let mut c = case(5, (6, 3, 4, 4), &[(0, 8), (0, 8)]);
    c.heads = 1;
    c.segments = [(0, 5, 2, 0), (1, 7, 0, 6), (1, 3, 5, 14)]
        .into_iter()
        .enumerate()
        .map(|(i, (prompt, position, first_head, capture_at))| AttnSegment {
            q_row: i,
            n_q: 1,
            q_position: position,
            prefix_row: prompt * 8,
            prefix_len: position + 1,
            own_row: 0,
            own_len: 0,
            first_head,
            capture_at,
        })
        .collect();
    c.q = Some(random(50, 3 * 4));
    (c.k, c.v) = (Vec::new(), Vec::new());
    c.agrees("one head");
    // Without queries every pattern is replaced.
    c.q = None;
    let replace = |segment: usize| AttnOverride {
        segment,
        kind: AttnOverrideKind::Pattern,
        heads: 0..6,
        destinations: 0..8,
        values_at: Some(0),
        n_positions: 8,
    };
    c.overrides = (0..3).map(replace).collect();
    c.agrees("no queries");
}

/// A warp that has one item after the other rewrites its row: here nothing but its own barrier keeps lanes apart.
#[test]
fn replaced_patterns_take_turns_in_a_warps_row() {
    let mut c = case(7, (4, 1, 4, 40), &[(0, 9)]);
    c.q = None;
    c.overrides = vec![AttnOverride {
        segment: 0,
        kind: AttnOverrideKind::Pattern,
        heads: 0..4,
        destinations: 0..9,
        values_at: Some(0),
        n_positions: 9,
    }];
    c.agrees("36 items, no queries");
}

/// A case over every knob: lengths on both sides of a tile of keys, heads narrower and wider than a tile, some of the query
/// heads, segments of which scores or patterns are replaced beside others.
fn random_case(seed: u64) -> Case {
    let mut state = seed;
    let mut pick = |n: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % n
    };
    let (n_kv_heads, group) = (1 + pick(3), 1 + pick(4));
    let (n_heads, widths) = (n_kv_heads * group, [1, 3, 4, 7, 33, 64, 65, 130]);
    let shape = (n_heads, n_kv_heads, widths[pick(8)], widths[pick(8)]);
    let lengths = [1, 2, 31, 32, 33, 64, 65, 300];
    let mut part = || {
        let total = lengths[pick(8)];
        let own = (1 + pick(total)).min(1 + pick(24));
        (total - own, own)
    };
    let parts = [part(), part(), part()];
    let mut c = case(seed, shape, &parts);
    c.window = [None, Some(1), Some(7), Some(40)][pick(4)];
    c.softcap = [None, Some(2.0)][pick(2)];
    // Slopes as models have them: scores stay near 1 at the last key.
    let slopes: Vec<f32> = random(seed + 6, n_heads).iter().map(|x| x / 256.0).collect();
    c.alibi = [None, Some(AlibiAt::AfterScale), Some(AlibiAt::BeforeScaleRounded)][pick(3)].map(|at| (slopes, at));
    c.sinks = [None, Some(random(seed + 7, n_heads))][pick(2)].take();
    // A block of columns: of q those of `heads` query heads, of k and v those of the heads they read.
    c.heads = 1 + pick(n_heads);
    let first_head = pick(n_heads - c.heads + 1);
    let mut capture_at = 0;
    for s in &mut c.segments {
        (s.first_head, s.capture_at) = (first_head, capture_at);
        capture_at += s.n_q * c.heads * (s.prefix_len + s.own_len);
    }
    let read = (first_head + c.heads - 1) / group - first_head / group + 1;
    let rows = c.q_rows();
    c.q = Some(random(seed + 8, rows * c.heads * c.d_qk));
    c.k = random(seed + 9, rows * read * c.d_qk);
    c.v = random(seed + 10, rows * read * c.d_v);
    let n_positions = parts.iter().map(|p| p.0 + p.1).max().expect("segments");
    if pick(3) == 0 {
        let kind = [AttnOverrideKind::Pattern, AttnOverrideKind::Scores][pick(2)];
        let (heads, destinations) = (0..1 + pick(n_heads), pick(n_positions)..n_positions);
        c.overrides = vec![AttnOverride { segment: 1, kind, heads, destinations, values_at: Some(0), n_positions }];
    }
    c
}

#[test]
fn fusing_changes_no_bit() {
    for seed in 0..24 {
        random_case(seed).agrees(&format!("random case {seed}"));
    }
}

/// Heads so wide that fewer scores fit beside the queries; scores that are computed anew for each pass.
#[test]
fn scores_that_are_not_kept_give_the_same_bits() {
    let mut c = case(8, (2, 1, 300, 70), &[(290, 10), (0, 3)]);
    c.sinks = Some(random(80, 2));
    c.agrees("keys in five chunks, values in two");
    let mut c = case(9, (3, 1, 3, 2), &[(490, 20)]);
    (c.softcap, c.alibi) = (Some(3.0), Some((vec![0.01, 0.02, 0.03], AlibiAt::AfterScale)));
    c.agrees("two blocks of items");
    // Here the block sees no more keys than a row holds, though the prompt is longer.
    c.window = Some(33);
    c.agrees("a window of a long prompt");
}

/// Rows of scores that do not fit in shared memory lie in device memory.
#[test]
fn long_prompts_spill_their_scores() {
    let mut c = case(6, (1, 1, 2, 2), &[(1600, 3)]);
    c.agrees("long");
    // A pattern taken from the run itself gives its z bit for bit.
    let gpu = Gpu::new(Default::default(), Precision::Ffma).expect("every kernel is there");
    let own = c.run(&gpu, true);
    let (z, captured, n) = (3 * 2, c.captured(), 1603);
    c.values = vec![0.0; n * n];
    c.values[1600 * n..].copy_from_slice(&own[z + captured..]);
    c.overrides = vec![AttnOverride {
        segment: 0,
        kind: AttnOverrideKind::Pattern,
        heads: 0..1,
        destinations: 0..n,
        values_at: Some(0),
        n_positions: n,
    }];
    assert_eq!(c.run(&gpu, false), own[..z]);
}

/// Fused, no prompt is too long for a device that holds its keys and values: there are no scores in its memory.
#[test]
fn the_fused_kernel_needs_no_workspace() {
    let c = case(10, (4, 4, 2, 2), &[(1600, 3)]);
    let on = |device: TestDevice| Gpu::new(device, Precision::Ffma).expect("every kernel is there");
    let (z, used) = c.measure(&on(TestDevice::default()), false);
    let fits = |memory: usize| {
        // Not even the inputs may fit, which the test's uploads take for a panic.
        let got = std::panic::catch_unwind(|| {
            let gpu = on(TestDevice::default().with_memory(memory));
            let got = c.run(&gpu, false);
            gpu.check().is_ok().then_some(got)
        });
        matches!(got, Ok(Some(got)) if got == z)
    };
    // The least memory that is enough; a device with plenty takes larger blocks than it needs.
    let (mut less, mut enough) = (0, used);
    assert!(fits(enough));
    while enough - less > 8 << 10 {
        let middle = (less + enough) / 2;
        if fits(middle) { enough = middle } else { less = middle }
    }
    let gpu = on(TestDevice::default().with_memory(enough));
    c.run(&gpu, true);
    assert!(gpu.check().is_err(), "rows of scores of four blocks of threads");
}
