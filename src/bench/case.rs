//! What is timed: every operation of [`crate::backend::Backend`] that a sweep runs, at one model's shapes.

use super::shape::WaveShape;
use super::work::{self, Finish, Work};
use super::{BenchError, memory};
use crate::backend::{AttnSegment, HeadRows};
use crate::engine::weights::{QkvWidths, mlp_width};
use crate::model::ModelSpec;
use crate::model::spec::{Act, AttnSpec, MlpSpec, NormSpec, Op, RopeLayout};

/// One operation at one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name in [`crate::backend::Backend`].
    pub op: &'static str,
    /// Which of several of that name.
    pub part: Option<&'static str>,
    pub kind: Kind,
}

/// What becomes of a product's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Write,
    Activate(Act),
    Gate(Act),
    AddTo,
}

/// The operation with its sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Gemm {
        m: usize,
        k: usize,
        n: usize,
        bias: bool,
        then: Then,
    },
    HeadDelta {
        groups: Vec<HeadRows>,
        width: usize,
        k: usize,
        n: usize,
    },
    /// In a wave's segments behind the base run's keys and values; or, captured, the base run's own.
    Attention {
        spec: Box<AttnSpec>,
        segments: Vec<AttnSegment>,
        prefix_rows: usize,
        captured: bool,
    },
    Norm {
        spec: NormSpec,
        rows: usize,
        width: usize,
        in_place: bool,
    },
    Rope {
        rows: usize,
        heads: usize,
        d: usize,
        n_rot: usize,
        layout: RopeLayout,
        positions: usize,
    },
    Activation {
        rows: usize,
        d_mlp: usize,
        act: Act,
        gated: bool,
    },
    Embed {
        rows: usize,
        d: usize,
        d_vocab: usize,
    },
    /// Rows by index from a matrix of `from` rows.
    CopyRows {
        rows: usize,
        d: usize,
        from: usize,
    },
    Add {
        rows: usize,
        d: usize,
    },
    Scale {
        rows: usize,
        d: usize,
    },
    ScaleRows {
        rows: usize,
        d: usize,
    },
    Clamp {
        rows: usize,
        d: usize,
    },
    /// One rectangle of `own` rows and `cols` columns for each of `segments` segments, from a matrix like x.
    Patch {
        rows: usize,
        d: usize,
        own: usize,
        cols: usize,
        values: usize,
    },
    Differs {
        rows: usize,
        d: usize,
        heads: usize,
    },
    TokenLogits {
        rows: usize,
        d: usize,
        d_vocab: usize,
    },
    LogSumExp {
        rows: usize,
        d: usize,
        d_vocab: usize,
    },
    Kl {
        rows: usize,
        clean: usize,
        d: usize,
        d_vocab: usize,
    },
}

impl Case {
    fn new(op: &'static str, kind: Kind) -> Case {
        Case { op, part: None, kind }
    }

    fn part(self, part: &'static str) -> Case {
        Case { part: Some(part), ..self }
    }

    /// A bare product of `--shape`: `[m, k]` · `[k, n]`.
    ///
    /// # Errors
    /// [`BenchError::Shape`]: a size is zero.
    pub fn product(m: usize, n: usize, k: usize) -> Result<Case, BenchError> {
        if m.min(n).min(k) == 0 {
            return Err(BenchError::Shape { text: format!("{m},{n},{k}") });
        }
        Ok(Case::new("gemm", Kind::Gemm { m, k, n, bias: false, then: Then::Write }))
    }

    /// The product that `--shape M,N,K` asks for.
    ///
    /// # Errors
    /// [`BenchError::Shape`].
    pub fn parse(text: &str) -> Result<Case, BenchError> {
        let sizes: Vec<usize> = text.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        match sizes[..] {
            [m, n, k] if text.split(',').count() == 3 => Case::product(m, n, k),
            _ => Err(BenchError::Shape { text: text.to_owned() }),
        }
    }

    /// Rows of a product; 0 of what is none.
    pub fn rows(&self) -> usize {
        match self.kind {
            Kind::Gemm { m, .. } => m,
            _ => 0,
        }
    }

    /// `gemm qkv`
    pub fn name(&self) -> String {
        match self.part {
            Some(part) => format!("{} {part}", self.op),
            None => self.op.to_owned(),
        }
    }

    /// It multiplies by a packed weight, so that the precision matters.
    pub fn is_product(&self) -> bool {
        matches!(self.kind, Kind::Gemm { .. } | Kind::HeadDelta { .. })
    }

    /// Its speed is best told in FLOP/s, rather than in bytes a second.
    pub fn is_compute(&self) -> bool {
        self.is_product() || matches!(self.kind, Kind::Attention { .. } | Kind::LogSumExp { .. } | Kind::Kl { .. })
    }

    /// The sizes, for people.
    pub fn shape(&self) -> String {
        match &self.kind {
            Kind::Gemm { m, k, n, .. } => format!("{m} × {k} → {n}"),
            Kind::HeadDelta { groups, width, n, .. } => {
                format!("{} × {width} → {n}, {} heads", delta_rows(groups), groups.len())
            }
            Kind::Attention { spec, segments, .. } => {
                let rows: usize = segments.iter().map(|s| s.n_q).sum();
                let (a, keys) = (spec, segments.first().map_or(0, |s| s.prefix_len + s.own_len));
                format!("{rows} × {} heads of {}, {keys} keys", a.n_heads, a.d_qk)
            }
            Kind::Norm { rows, width, .. } => format!("{rows} × {width}"),
            Kind::Rope { rows, heads, n_rot, .. } => format!("{rows} × {heads} heads of {n_rot}"),
            Kind::Activation { rows, d_mlp, .. } => format!("{rows} × {d_mlp}"),
            Kind::Patch { rows, cols, d, .. } => format!("{rows} × {cols} of {d}"),
            Kind::Embed { rows, d, .. }
            | Kind::CopyRows { rows, d, .. }
            | Kind::Add { rows, d }
            | Kind::Scale { rows, d }
            | Kind::ScaleRows { rows, d }
            | Kind::Clamp { rows, d }
            | Kind::Differs { rows, d, .. } => format!("{rows} × {d}"),
            Kind::TokenLogits { rows, d, .. } => format!("{rows} × {d} → 2"),
            Kind::LogSumExp { rows, d, d_vocab } | Kind::Kl { rows, d, d_vocab, .. } => {
                format!("{rows} × {d} → {d_vocab}")
            }
        }
    }

    /// What one call does, with packed weights of `weight_bytes` a number. See [`work`].
    pub fn work(&self, weight_bytes: f64) -> Work {
        match &self.kind {
            Kind::Gemm { m, k, n, bias, then } => {
                let finish = match then {
                    Then::Write | Then::Activate(_) => Finish::Write,
                    Then::Gate(_) => Finish::Gate,
                    Then::AddTo => Finish::Add,
                };
                work::gemm(*m, *k, *n, weight_bytes, *bias, finish)
            }
            Kind::HeadDelta { groups, width, n, .. } => {
                work::head_delta(delta_rows(groups), *width, *n, groups.len(), weight_bytes)
            }
            Kind::Attention { spec: a, segments, prefix_rows, captured } => {
                work::attention(segments, (a.n_heads, a.n_kv_heads), (a.d_qk, a.d_v), a.window, *prefix_rows, *captured)
            }
            Kind::Norm { spec, rows, width, .. } => work::norm(*rows, *width, spec.kind),
            Kind::Rope { rows, heads, n_rot, positions, .. } => work::rope(*rows, *heads, *n_rot, *positions),
            Kind::Activation { rows, d_mlp, act, gated } => work::activation(*rows, *d_mlp, *act, *gated),
            Kind::Embed { rows, d, .. } => work::each(rows * d, 1.0, 2.0, *rows),
            // What is read repeats where the wave is taller than the base run.
            Kind::CopyRows { rows, d, from } => {
                let read = rows.min(from) * d;
                Work::new(0.0, (rows * d + read + rows) as f64)
            }
            Kind::Add { rows, d } => work::each(rows * d, 2.0, 3.0, 0),
            Kind::Scale { rows, d } => work::each(rows * d, 1.0, 2.0, 0),
            Kind::ScaleRows { rows, d } => work::each(rows * d, 1.0, 2.0, *rows),
            Kind::Clamp { rows, d } => work::each(rows * d, 2.0, 2.0, 0),
            Kind::Patch { rows, cols, values, .. } => Work::new(0.0, (rows * cols + rows.min(values) * cols) as f64),
            Kind::Differs { rows, d, heads } => Work::new((rows * d) as f64, (2 * rows * d + rows * heads) as f64),
            // Two tokens a row: a metric reads an answer and a wrong one.
            Kind::TokenLogits { rows, d, d_vocab } => {
                let tokens = (2 * rows).min(*d_vocab);
                Work::new((4 * rows * d) as f64, (rows * d + tokens * d + 2 * rows) as f64)
            }
            Kind::LogSumExp { rows, d, d_vocab } => work::log_sum_exp(*rows, *d, *d_vocab),
            Kind::Kl { rows, clean, d, d_vocab } => work::kl(*rows, *clean, *d, *d_vocab),
        }
    }

    /// Bytes of memory that timing it takes, at most; infinite where no machine has so many.
    pub fn memory(&self, weight_bytes: f64) -> f64 {
        memory::of(&self.kind, weight_bytes)
    }
}

fn delta_rows(groups: &[HeadRows]) -> usize {
    groups.last().map_or(0, |g| g.rows.end)
}

/// A sub-layer: its layer, and its index there.
type Place = (usize, usize);

/// The attention and the MLP of the layer that stands for all: the one in the middle, or the next that has attention and an MLP.
fn typical(spec: &ModelSpec) -> (Option<Place>, Option<Place>) {
    let middle = spec.n_layers() / 2;
    let find = |attention: bool| {
        (middle..spec.n_layers()).chain(0..middle).find_map(|l| {
            let subs = spec.blocks[l].subs.iter();
            subs.enumerate().find(|(_, s)| matches!(s.op, Op::Attn(_)) == attention).map(|(i, _)| (l, i))
        })
    };
    (find(true), find(false))
}

/// Every operation that a sweep of all heads runs in a typical layer, and those around the layers.
///
/// # Errors
/// [`BenchError::NoLayer`].
pub fn cases(spec: &ModelSpec, shape: &WaveShape) -> Result<Vec<Case>, BenchError> {
    let (rows, d, d_embed) = (shape.rows, spec.d_model, spec.d_embed());
    let (attention, mlp) = typical(spec);
    let mut all = Vec::new();
    for (layer, index) in attention.iter().chain(&mlp) {
        match &spec.blocks[*layer].subs[*index].op {
            Op::Attn(a) => attention_cases(spec, a, shape, &mut all),
            Op::Mlp(m) => mlp_cases(spec, m, shape, &mut all),
        }
    }
    if all.is_empty() {
        return Err(BenchError::NoLayer);
    }
    let sub = |at: &Option<Place>| at.map(|(l, i)| &spec.blocks[l].subs[i]);
    let (attn_sub, mlp_sub) = (sub(&attention), sub(&mlp));
    let norms = [attn_sub, mlp_sub].into_iter().flatten();
    let mut between = norms.flat_map(|s| [&s.pre_norm, &s.post_norm, &s.resid_norm]).flatten();
    let last = shape.segments();
    if let Some(norm) = between.next() {
        all.push(Case::new("norm", Kind::Norm { spec: norm.clone(), rows, width: d, in_place: false }));
    }
    if let Some(norm) = spec.final_norm.as_ref().or(between.next()) {
        all.push(Case::new("norm_in_place", Kind::Norm { spec: norm.clone(), rows: last, width: d, in_place: true }));
    }
    all.push(Case::new("embed", Kind::Embed { rows: shape.base_rows(), d: d_embed, d_vocab: spec.d_vocab }));
    all.push(Case::new("copy_rows", Kind::CopyRows { rows, d, from: shape.base_rows() }));
    all.push(Case::new("add", Kind::Add { rows, d }));
    if spec.blocks.iter().any(|b| b.resid_scale != 1.0) {
        all.push(Case::new("scale", Kind::Scale { rows, d }));
    }
    all.push(Case::new("token_logits", Kind::TokenLogits { rows: last, d: d_embed, d_vocab: spec.d_vocab }));
    all.push(Case::new("log_sum_exp", Kind::LogSumExp { rows: last, d: d_embed, d_vocab: spec.d_vocab }));
    let clean = shape.pairs.min(last);
    all.push(Case::new("kl", Kind::Kl { rows: last, clean, d: d_embed, d_vocab: spec.d_vocab }));
    Ok(all)
}

fn attention_cases(spec: &ModelSpec, a: &AttnSpec, shape: &WaveShape, all: &mut Vec<Case>) {
    let (rows, d, w) = (shape.rows, spec.d_model, QkvWidths::of(a));
    let bias = a.bias.q || a.bias.k || a.bias.v;
    let gemm = |k, n, bias, then| Case::new("gemm", Kind::Gemm { m: rows, k, n, bias, then });
    all.push(gemm(d, w.total(), bias, Then::Write).part("qkv"));
    all.push(gemm(a.n_heads * a.d_v, d, a.bias.o, Then::AddTo).part("o"));
    all.push(Case::new("head_delta", head_delta(a, d, shape)));
    let (wave, base) = (wave_segments(shape), base_segments(shape, a.n_heads));
    let prefix_rows = shape.pairs.min(shape.segments()) * shape.first();
    let fused = Kind::Attention { spec: Box::new(a.clone()), segments: wave, prefix_rows, captured: false };
    let kept = Kind::Attention { spec: Box::new(a.clone()), segments: base, prefix_rows: 0, captured: true };
    all.push(Case::new("attention", fused).part("fused"));
    all.push(Case::new("attention", kept).part("segments"));
    if let Some(rope) = a.rope.and_then(|r| spec.ropes.get(r)) {
        let (n_rot, layout) = (rope.n_rot(), rope.layout);
        let kind = Kind::Rope { rows, heads: a.n_heads, d: a.d_qk, n_rot, layout, positions: shape.len };
        all.push(Case::new("rope", kind));
    }
    if a.qkv_clip.is_some() {
        all.push(Case::new("clamp", Kind::Clamp { rows, d: w.q }));
    }
    if a.q_temperature.is_some() {
        all.push(Case::new("scale_rows", Kind::ScaleRows { rows, d: w.q }));
    }
    let z = a.n_heads * a.d_v;
    let values = shape.base_rows();
    all.push(Case::new("patch", Kind::Patch { rows, d: z, own: shape.own(), cols: a.d_v, values }));
    all.push(Case::new("differs", Kind::Differs { rows: values, d: z, heads: a.n_heads }));
}

fn mlp_cases(spec: &ModelSpec, m: &MlpSpec, shape: &WaveShape, all: &mut Vec<Case>) {
    let (rows, d) = (shape.rows, spec.d_model);
    let gemm = |k, n, bias, then| Case::new("gemm", Kind::Gemm { m: rows, k, n, bias, then });
    // As the forward pass issues it: xIELU has learned numbers, which the epilogue does not take.
    let then = match (m.act, m.gated) {
        (Act::XIelu, _) => Then::Write,
        (act, true) => Then::Gate(act),
        (act, false) => Then::Activate(act),
    };
    let up = gemm(d, mlp_width(m), m.bias.up || m.bias.gate, then);
    all.push(up.part(if m.gated { "gate_up" } else { "up" }));
    all.push(gemm(m.d_mlp, d, m.bias.down, Then::AddTo).part("down"));
    let kind = Kind::Activation { rows, d_mlp: m.d_mlp, act: m.act, gated: m.gated };
    all.push(Case::new("activation", kind));
}

/// The newcomers of one layer: every head's segments, no more rows than the wave has.
fn head_delta(a: &AttnSpec, d: usize, shape: &WaveShape) -> Kind {
    let each = (shape.pairs * shape.own()).min(shape.rows.div_ceil(a.n_heads));
    let mut groups = Vec::new();
    for head in 0..a.n_heads {
        let first = head * each;
        let rows = first..(first + each).min(shape.rows);
        if !rows.is_empty() {
            groups.push(HeadRows { rows, k: head * a.d_v });
        }
    }
    Kind::HeadDelta { groups, width: a.d_v, k: a.n_heads * a.d_v, n: d }
}

/// The segments of a wave: pair after pair, behind what the base run's cache has of each.
fn wave_segments(shape: &WaveShape) -> Vec<AttnSegment> {
    let (first, own) = (shape.first(), shape.own());
    let segment = |i: usize| {
        let row = i * own;
        let len = own.min(shape.rows - row);
        AttnSegment {
            q_row: row,
            n_q: len,
            q_position: first,
            prefix_row: (i % shape.pairs) * shape.len,
            prefix_len: first,
            own_row: row,
            own_len: len,
            first_head: 0,
            capture_at: 0,
        }
    };
    (0..shape.segments()).map(segment).collect()
}

/// The segments of the base run: whole prompts.
fn base_segments(shape: &WaveShape, heads: usize) -> Vec<AttnSegment> {
    let len = shape.len;
    let segment = |i: usize| AttnSegment {
        q_row: i * len,
        n_q: len,
        q_position: 0,
        prefix_row: 0,
        prefix_len: 0,
        own_row: i * len,
        own_len: len,
        first_head: 0,
        capture_at: i * len * len * heads,
    };
    (0..shape.pairs).map(segment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::like::like;

    fn of(name: &str, rows: usize) -> Vec<Case> {
        cases(&like(name).expect("a spec"), &WaveShape { rows, pairs: 32, len: 15 }).expect("cases")
    }

    #[test]
    fn gpt2s_operations_have_gpt2s_shapes() {
        let all = of("gpt2", 23_040);
        let shape = |name: &str| all.iter().find(|c| c.name() == name).unwrap_or_else(|| panic!("{name}")).shape();
        assert_eq!(shape("gemm qkv"), "23040 × 768 → 2304");
        assert_eq!(shape("gemm o"), "23040 × 768 → 768");
        assert_eq!(shape("gemm up"), "23040 × 768 → 3072");
        assert_eq!(shape("gemm down"), "23040 × 3072 → 768");
        assert_eq!(shape("head_delta"), "1920 × 64 → 768, 12 heads");
        assert_eq!(shape("attention fused"), "23040 × 12 heads of 64, 15 keys");
        assert_eq!(shape("log_sum_exp"), "4608 × 768 → 50257");
        assert!(all.iter().all(|c| c.op != "rope"), "positions are learned");
    }

    #[test]
    fn a_short_last_segment_and_few_rows_add_up() {
        for rows in [1, 7, 64] {
            for name in ["gpt2", "llama-3-8b"] {
                for case in of(name, rows) {
                    let work = case.work(4.0);
                    assert!(work.bytes > 0.0 && work.flops >= 0.0 && case.memory(4.0) >= 0.0, "{case:?}");
                    match case.kind {
                        Kind::Attention { segments, captured: false, .. } => {
                            assert_eq!(segments.iter().map(|s| s.n_q).sum::<usize>(), rows);
                        }
                        Kind::HeadDelta { groups, .. } => assert!(delta_rows(&groups) <= rows),
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn llamas_gates_and_ups_are_one_product() {
        let all = of("llama-3-8b", 100);
        let up = all.iter().find(|c| c.part == Some("gate_up")).expect("a gated MLP");
        assert_eq!(up.kind, Kind::Gemm { m: 100, k: 4096, n: 28_672, bias: false, then: Then::Gate(Act::Silu) });
        assert!(all.iter().any(|c| c.op == "rope"));
    }

    #[test]
    fn a_product_without_rows_is_refused() {
        assert_eq!(Case::product(4, 5, 6).expect("a product").shape(), "4 × 6 → 5");
        assert_eq!(Case::parse("4, 5,6").expect("a product").shape(), "4 × 6 → 5");
        for wrong in ["0,5,6", "4,5", "4,5,6,7", "4,x,5,6", "-1,5,6", ""] {
            assert!(matches!(Case::parse(wrong), Err(BenchError::Shape { .. })), "{wrong}");
        }
    }
}
