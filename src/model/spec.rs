//! [`ModelSpec`]: everything the forward pass needs to know about a model, resolved once and immutable afterwards.
//!
//! The forward pass branches on these knobs and never on the name of a family. A family is a resolver that turns
//! `config.json` and the tensor index into a spec (`model/family/`). The knobs and where each comes from are described,
//! family by family, in `docs/models.md`.

use std::collections::HashSet;

/// A decoder-only transformer as a list of blocks around a residual stream of width `d_model`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// `model_type` of the config, for messages and reports only.
    pub family: String,
    pub d_model: usize,
    pub d_vocab: usize,
    /// Longest prompt the model allows, in tokens; `None` where nothing limits it.
    pub n_ctx: Option<usize>,
    pub embed: EmbedSpec,
    /// Layers index into this list: some models have one table for sliding layers and one for full ones.
    pub ropes: Vec<RopeSpec>,
    /// One per layer, never assumed to be uniform.
    pub blocks: Vec<BlockSpec>,
    /// `None` where the last block already ends in a norm (OPT-350m).
    pub final_norm: Option<NormSpec>,
    pub unembed: UnembedSpec,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EmbedSpec {
    /// Width of the token embedding where it is not d_model: `proj_in.weight` `[d_model, width]` follows the embedding and
    /// `proj_out.weight` `[width, d_model]` the final norm (OPT-350m).
    pub projected: Option<usize>,
    /// Multiplies the token embedding: √d_model in Gemma, `embedding_multiplier` in Granite, 1 elsewhere.
    pub scale: f32,
    pub positions: Option<LearnedPositions>,
    /// A norm after the embedding (Bloom).
    pub norm: Option<NormSpec>,
}

/// Learned absolute positions: row `position + offset` of `pos.weight` `[rows, d_model]` is added to the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedPositions {
    pub rows: usize,
    /// 2 in OPT, 0 elsewhere.
    pub offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct UnembedSpec {
    /// The unembedding is the token embedding; otherwise `unembed.weight` `[d_vocab, d_model]` is a parameter.
    pub tied: bool,
    pub bias: bool,
    /// Multiplies the logits: `logit_scale` in Cohere, 1/`logits_scaling` in Granite, 1 elsewhere.
    pub scale: f32,
    /// logits ← cap · tanh(logits / cap), after the scale (Gemma-2).
    pub softcap: Option<f32>,
}

/// One layer: its sub-layers in order (attention then MLP, usually; none at all in a no-op layer).
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSpec {
    pub subs: Vec<SubLayer>,
    /// Every sub-layer reads the block's input, and their outputs are added one after the other (GPT-J, NeoX, Cohere …).
    pub parallel: bool,
    /// Multiplies every branch before it is added (`residual_multiplier` in Granite), 1 elsewhere.
    pub resid_scale: f32,
}

/// One residual sub-layer: x ← resid_norm(x + resid_scale · post_norm(op(pre_norm(x)))). Absent norms are the identity.
#[derive(Debug, Clone, PartialEq)]
pub struct SubLayer {
    pub op: Op,
    pub pre_norm: Option<NormSpec>,
    /// On the branch output, before it is added (OLMo-2, Gemma-2, GLM-4).
    pub post_norm: Option<NormSpec>,
    /// On the residual, after the addition (the original post-LN; OPT-350m).
    pub resid_norm: Option<NormSpec>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Attn(AttnSpec),
    Mlp(MlpSpec),
}

#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    pub kind: NormKind,
    pub eps: f32,
    pub weight: NormWeight,
    pub bias: bool,
    pub scope: NormScope,
    /// The parameters are `{tensor}.weight` and `{tensor}.bias`. Two norms may share them (one norm before both
    /// branches of a parallel block).
    pub tensor: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// (x − mean) / √(var + eps)
    LayerNorm,
    /// x / √(mean(x²) + eps)
    RmsNorm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormWeight {
    /// OLMo: no parameters at all.
    None,
    Scale,
    /// Multiplies by 1 + w (Gemma, Nemotron).
    OnePlusScale,
}

/// Over which slices of a row the statistics are taken. All but `Full` are for norms of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormScope {
    /// The whole row; weight `[width]`.
    Full,
    /// Each head on its own, one weight `[d_head]` for all heads (Qwen-3).
    PerHead,
    /// Each head on its own with a weight of its own: `[n_heads, d_head]` (StableLM-2, Cohere).
    PerHeadDistinct,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AttnSpec {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    /// Width of a query and key head.
    pub d_qk: usize,
    /// Width of a value head.
    pub d_v: usize,
    /// Multiplies q·k: 1/√d_head usually, 1 in GPT-Neo, `attention_multiplier` in Granite …
    pub scale: f32,
    /// Index into [`ModelSpec::ropes`]; `None` in a layer without rotary positions.
    pub rope: Option<usize>,
    pub alibi: Option<Alibi>,
    /// Query i sees keys j with 0 ≤ i − j < window; `None` sees all j ≤ i.
    pub window: Option<usize>,
    /// scores ← cap · tanh(scores / cap), before the mask (Gemma-2).
    pub softcap: Option<f32>,
    /// A learned extra logit per head (`blocks.L.attn.sinks` `[n_heads]`) that takes part in the softmax and is dropped.
    pub sinks: bool,
    /// q, k and v are clamped to ±clip after a full-width qk-norm and before a per-head one (OLMo).
    pub qkv_clip: Option<f32>,
    pub q_norm: Option<NormSpec>,
    pub k_norm: Option<NormSpec>,
    pub qk_norm_at: QkNormAt,
    /// q ← q · (1 + beta · ln(1 + ⌊position / original⌋)) after the rotation (Ministral-3).
    pub q_temperature: Option<QTemperature>,
    pub bias: QkvoBias,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QkNormAt {
    #[default]
    BeforeRope,
    AfterRope,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QTemperature {
    pub beta: f32,
    pub original: usize,
}

/// Which projections have a bias `blocks.L.attn.{q,k,v,o}.bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QkvoBias {
    pub q: bool,
    pub k: bool,
    pub v: bool,
    pub o: bool,
}

/// Linear position biases: scores += slope_h · j for key position j (Bloom, Falcon-RW, MPT).
#[derive(Debug, Clone, PartialEq)]
pub struct Alibi {
    /// One per query head.
    pub slopes: Vec<f32>,
    pub at: AlibiAt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlibiAt {
    /// score = scale · q·k + slope · j
    #[default]
    AfterScale,
    /// score = scale · (q·k + bf16(slope · j)): Falcon-RW, whose biases are rounded to bfloat16 whatever the weights are
    /// (`build_alibi_tensor` of modeling_falcon.py).
    BeforeScaleRounded,
}

/// down(act(gate(x)) ⊙ up(x)) when gated, down(act(up(x))) when not.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpSpec {
    pub d_mlp: usize,
    pub gated: bool,
    pub act: Act,
    pub bias: MlpBias,
}

/// Which projections have a bias `blocks.L.mlp.{gate,up,down}.bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MlpBias {
    pub gate: bool,
    pub up: bool,
    pub down: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    Relu,
    /// relu(x)² (Nemotron)
    Relu2,
    /// x·σ(x)
    Silu,
    /// x·Φ(x), with the error function
    GeluErf,
    /// The tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`)
    GeluTanh,
    /// x·σ(1.702 x)
    QuickGelu,
    /// α_p x² + β x for x > 0, α_n (exp(min(x, ε)) − 1 − x) + β x elsewhere (Apertus; arXiv 2411.13010). Each MLP has its own
    /// `blocks.L.mlp.act.{alpha_p,alpha_n}` `[1]` and `.{beta,eps}` `[]`: α_p = softplus(alpha_p),
    /// α_n = beta + softplus(alpha_n).
    XIelu,
}

/// A rotary table: angle(position, i) = position · inv_freq[i]; cos and sin are multiplied by `amplitude`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// `[n_rot / 2]`. The first n_rot dimensions of a head rotate, the others pass.
    pub inv_freq: Vec<f32>,
    pub amplitude: f32,
    pub layout: RopeLayout,
    /// Scalings whose table depends on the length of the prompt it runs on.
    pub by_length: Option<RopeByLength>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Pairs (i, i + n_rot/2), as in Hugging Face's Llama.
    HalfSplit,
    /// Pairs (2i, 2i + 1), as in GPT-J and GLM.
    Interleaved,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RopeByLength {
    /// Dynamic NTK: theta grows with the length once it exceeds `max_positions`
    /// (`_compute_dynamic_ntk_parameters` of transformers' modeling_rope_utils.py).
    DynamicNtk { theta: f64, factor: f64, max_positions: usize },
    /// LongRoPE: another table, for all positions, once the prompt is longer than `beyond` tokens.
    LongFactor { beyond: usize, inv_freq: Vec<f32> },
}

impl RopeSpec {
    /// Rotated dimensions of a head.
    pub fn n_rot(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// The frequencies for a prompt of `length` tokens, `[n_rot / 2]`.
    pub fn inv_freq_for(&self, length: usize) -> Vec<f32> {
        match &self.by_length {
            Some(RopeByLength::LongFactor { beyond, inv_freq }) if length > *beyond => inv_freq.clone(),
            Some(RopeByLength::DynamicNtk { theta, factor, max_positions }) if length > *max_positions => {
                super::rope::dynamic_ntk(*theta, *factor, *max_positions, self.n_rot(), length)
            }
            _ => self.inv_freq.clone(),
        }
    }
}

/// One parameter a spec needs: its name and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub shape: Vec<usize>,
}

impl ModelSpec {
    pub fn n_layers(&self) -> usize {
        self.blocks.len()
    }

    /// Width of the token embedding, and of the rows that the unembedding reads.
    pub fn d_embed(&self) -> usize {
        self.embed.projected.unwrap_or(self.d_model)
    }

    /// The attention of layer `layer`, if it has one.
    pub fn attn(&self, layer: usize) -> Option<&AttnSpec> {
        self.blocks[layer].subs.iter().find_map(|s| match &s.op {
            Op::Attn(a) => Some(a),
            Op::Mlp(_) => None,
        })
    }

    /// The MLP of layer `layer`, if it has one.
    pub fn mlp(&self, layer: usize) -> Option<&MlpSpec> {
        self.blocks[layer].subs.iter().find_map(|s| match &s.op {
            Op::Mlp(m) => Some(m),
            Op::Attn(_) => None,
        })
    }

    /// Every parameter the forward pass reads, once each, matrices as `[out, in]`:
    ///
    /// `embed.weight`, `proj_in.weight`, `proj_out.weight`, `pos.weight`, `blocks.L.attn.{q,k,v,o}.{weight,bias}`, `blocks.L.attn.sinks`,
    /// `blocks.L.mlp.{gate,up,down}.{weight,bias}`, `blocks.L.mlp.act.*` of xIELU, `unembed.{weight,bias}`, and `.weight` and `.bias` of every norm
    /// under the norm's own `tensor` name. Empty products are impossible: resolvers refuse zero dimensions.
    pub fn params(&self) -> Vec<Param> {
        let mut list = ParamList::default();
        let (d, d_embed) = (self.d_model, self.d_embed());
        list.add("embed.weight", &[self.d_vocab, d_embed]);
        if self.embed.projected.is_some() {
            list.add("proj_in.weight", &[d, d_embed]);
            list.add("proj_out.weight", &[d_embed, d]);
        }
        if let Some(p) = &self.embed.positions {
            list.add("pos.weight", &[p.rows, d]);
        }
        list.norm(self.embed.norm.as_ref(), 1, d);
        for (l, block) in self.blocks.iter().enumerate() {
            for sub in &block.subs {
                for norm in [&sub.pre_norm, &sub.post_norm, &sub.resid_norm] {
                    list.norm(norm.as_ref(), 1, d);
                }
                match &sub.op {
                    Op::Attn(a) => {
                        list.linear(&format!("blocks.{l}.attn.q"), a.n_heads * a.d_qk, d, a.bias.q);
                        list.linear(&format!("blocks.{l}.attn.k"), a.n_kv_heads * a.d_qk, d, a.bias.k);
                        list.linear(&format!("blocks.{l}.attn.v"), a.n_kv_heads * a.d_v, d, a.bias.v);
                        list.linear(&format!("blocks.{l}.attn.o"), d, a.n_heads * a.d_v, a.bias.o);
                        list.norm(a.q_norm.as_ref(), a.n_heads, a.d_qk);
                        list.norm(a.k_norm.as_ref(), a.n_kv_heads, a.d_qk);
                        if a.sinks {
                            list.add(&format!("blocks.{l}.attn.sinks"), &[a.n_heads]);
                        }
                    }
                    Op::Mlp(m) => {
                        if m.gated {
                            list.linear(&format!("blocks.{l}.mlp.gate"), m.d_mlp, d, m.bias.gate);
                        }
                        list.linear(&format!("blocks.{l}.mlp.up"), m.d_mlp, d, m.bias.up);
                        list.linear(&format!("blocks.{l}.mlp.down"), d, m.d_mlp, m.bias.down);
                        if m.act == Act::XIelu {
                            for (name, shape) in XIELU {
                                list.add(&format!("blocks.{l}.mlp.act.{name}"), shape);
                            }
                        }
                    }
                }
            }
        }
        list.norm(self.final_norm.as_ref(), 1, d);
        if !self.unembed.tied {
            list.add("unembed.weight", &[self.d_vocab, d_embed]);
        }
        if self.unembed.bias {
            list.add("unembed.bias", &[self.d_vocab]);
        }
        list.params
    }
}

/// The numbers of an xIELU, by name and shape.
pub const XIELU: [(&str, &[usize]); 4] = [("alpha_p", &[1]), ("alpha_n", &[1]), ("beta", &[]), ("eps", &[])];

#[derive(Default)]
struct ParamList {
    params: Vec<Param>,
    names: HashSet<String>,
}

impl ParamList {
    fn add(&mut self, name: &str, shape: &[usize]) {
        if self.names.insert(name.to_owned()) {
            self.params.push(Param { name: name.to_owned(), shape: shape.to_vec() });
        }
    }

    fn linear(&mut self, name: &str, n_out: usize, n_in: usize, bias: bool) {
        self.add(&format!("{name}.weight"), &[n_out, n_in]);
        if bias {
            self.add(&format!("{name}.bias"), &[n_out]);
        }
    }

    /// A norm over rows of `heads · d` numbers (`heads` is 1 on the residual stream).
    fn norm(&mut self, norm: Option<&NormSpec>, heads: usize, d: usize) {
        let Some(norm) = norm else { return };
        let shape = match norm.scope {
            NormScope::Full => vec![heads * d],
            NormScope::PerHead => vec![d],
            NormScope::PerHeadDistinct => vec![heads, d],
        };
        if norm.weight != NormWeight::None {
            self.add(&format!("{}.weight", norm.tensor), &shape);
        }
        if norm.bias {
            self.add(&format!("{}.bias", norm.tensor), &shape);
        }
    }
}

impl ModelSpec {
    /// Every norm of the model, in the order in which they run.
    pub fn norms(&self) -> Vec<&NormSpec> {
        let mut norms: Vec<&NormSpec> = self.embed.norm.iter().collect();
        for sub in self.blocks.iter().flat_map(|b| &b.subs) {
            norms.extend(&sub.pre_norm);
            if let Op::Attn(a) = &sub.op {
                norms.extend(a.q_norm.iter().chain(&a.k_norm));
            }
            norms.extend(sub.post_norm.iter().chain(&sub.resid_norm));
        }
        norms.extend(&self.final_norm);
        norms
    }
}
