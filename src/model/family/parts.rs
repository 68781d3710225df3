//! What the resolvers share: the dimensions of a decoder, its activation, norms and ordinary blocks.

use super::Family;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH};
use crate::model::rope::Rope;
use crate::model::spec::*;

/// The sizes of a decoder with the same attention in every layer.
pub(super) struct Dims {
    pub d_model: usize,
    pub d_vocab: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub d_head: usize,
    pub d_mlp: usize,
}

/// Defaults of a config class for keys that are absent.
pub(super) struct DimDefaults {
    /// `None`: the key is required.
    pub d_vocab: Option<usize>,
    /// `None`: the key is required.
    pub n_heads: Option<usize>,
    /// `None`: as many as query heads.
    pub n_kv_heads: Option<usize>,
    /// `None`: d_model / n_heads.
    pub d_head: Option<usize>,
    /// 4 · d_model where the key is absent or null, as in GPT-2; otherwise the key is required.
    pub mlp_is_four_wide: bool,
    pub eps: f64,
    pub act: &'static str,
    /// How the activation is read: [`activation`] but for Gemma.
    pub read_act: fn(&Config, &str) -> Result<Act, ModelError>,
}

impl DimDefaults {
    /// Those of `LlamaConfig`.
    pub const LLAMA: DimDefaults = DimDefaults {
        d_vocab: None,
        n_heads: None,
        n_kv_heads: None,
        d_head: None,
        mlp_is_four_wide: false,
        eps: 1e-6,
        act: "silu",
        read_act: activation,
    };
}

impl Dims {
    /// # Errors
    /// [`ModelError::Config`] that names the key: missing, zero, absurdly large, or not divisible as it must be.
    pub fn read(cfg: &Config, defaults: &DimDefaults) -> Result<Dims, ModelError> {
        let d_model = cfg.required_size(&["hidden_size", "n_embd", "d_model", "n_embed"], MAX_WIDTH)?;
        let or_default = |keys: &[&str], max, default: Option<usize>| match default {
            Some(default) => Ok(cfg.size(keys, max)?.unwrap_or(default)),
            None => cfg.required_size(keys, max),
        };
        let d_vocab = or_default(&["vocab_size"], MAX_WIDTH, defaults.d_vocab)?;
        let n_layers = cfg.required_size(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"], MAX_LAYERS)?;
        let head_keys = ["num_attention_heads", "n_head", "num_heads", "n_heads"];
        let n_heads = or_default(&head_keys, MAX_HEADS, defaults.n_heads)?;

        let absent = !cfg.contains("num_key_value_heads");
        let n_kv_heads = match cfg.size(&["num_key_value_heads", "num_kv_heads"], MAX_HEADS)? {
            Some(n) => n,
            None => defaults.n_kv_heads.filter(|_| absent).unwrap_or(n_heads),
        };
        if n_heads % n_kv_heads != 0 {
            let reason = format!("{n_kv_heads} does not divide num_attention_heads, which is {n_heads}");
            return Err(cfg.error("num_key_value_heads", reason));
        }
        let d_head = match cfg.size(&["head_dim"], MAX_HEADS)?.or(defaults.d_head) {
            Some(d_head) => d_head,
            None if d_model % n_heads != 0 => {
                let reason =
                    format!("{n_heads} does not divide hidden_size, which is {d_model}, and no head_dim is given");
                return Err(cfg.error("num_attention_heads", reason));
            }
            None => d_model / n_heads,
        };
        if n_heads * d_head > MAX_WIDTH {
            return Err(cfg.error("head_dim", format!("{n_heads} heads of {d_head} are wider than {MAX_WIDTH}")));
        }
        let mlp_keys = ["intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"];
        let d_mlp = match cfg.size(&mlp_keys, MAX_WIDTH)? {
            Some(d_mlp) => d_mlp,
            None if defaults.mlp_is_four_wide => 4 * d_model,
            None => return Err(cfg.error("intermediate_size", "the key is missing")),
        };
        Ok(Dims { d_model, d_vocab, n_layers, n_heads, n_kv_heads, d_head, d_mlp })
    }

    /// Plain causal attention, scaled by 1/√d_head, without biases.
    pub fn attn(&self, rope: Option<usize>) -> AttnSpec {
        AttnSpec {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            d_qk: self.d_head,
            d_v: self.d_head,
            scale: (self.d_head as f64).powf(-0.5) as f32,
            rope,
            alibi: None,
            window: None,
            softcap: None,
            sinks: false,
            qkv_clip: None,
            q_norm: None,
            k_norm: None,
            qk_norm_at: QkNormAt::default(),
            q_temperature: None,
            bias: QkvoBias::default(),
        }
    }
}

/// The activation named by `hidden_act` or one of its synonyms.
///
/// # Errors
/// [`ModelError::Config`] that names an activation we do not have.
pub(super) fn activation(cfg: &Config, default: &str) -> Result<Act, ModelError> {
    let keys = ["hidden_activation", "hidden_act", "activation_function", "activation"];
    let (key, name) = cfg.text(&keys)?.unwrap_or_else(|| (keys[1].to_owned(), default.to_owned()));
    act_named(cfg, &key, &name)
}

fn act_named(cfg: &Config, key: &str, name: &str) -> Result<Act, ModelError> {
    match name {
        "relu" => Ok(Act::Relu),
        "relu2" => Ok(Act::Relu2),
        "silu" | "swish" => Ok(Act::Silu),
        "gelu" | "gelu_python" => Ok(Act::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Act::GeluTanh),
        "quick_gelu" => Ok(Act::QuickGelu),
        "xielu" => Ok(Act::XIelu),
        _ => {
            let known = "relu, relu2, silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, xielu";
            Err(cfg.error(key, format!("unknown activation {name:?}; supported are {known}")))
        }
    }
}

/// The epsilon of the norms, under any of its names.
pub(super) fn eps(cfg: &Config, default: f64) -> Result<f32, ModelError> {
    let keys = ["rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps", "norm_epsilon"];
    let eps = cfg.positive(&keys)?.unwrap_or(default) as f32;
    if eps > 0.0 && eps < 1.0 { Ok(eps) } else { Err(cfg.error("rms_norm_eps", format!("{eps} is not in (0, 1)"))) }
}

/// The largest prompt of a model with learned positions.
pub(super) fn learned_positions(cfg: &Config, default: usize) -> Result<usize, ModelError> {
    Ok(cfg.size(&["n_positions", "max_position_embeddings"], MAX_WIDTH.min(MAX_POSITIONS))?.unwrap_or(default))
}

pub(super) fn layer_norm(eps: f32, tensor: impl Into<String>) -> NormSpec {
    NormSpec {
        kind: NormKind::LayerNorm,
        eps,
        weight: NormWeight::Scale,
        bias: true,
        scope: NormScope::Full,
        tensor: tensor.into(),
    }
}

pub(super) fn rms_norm(eps: f32, tensor: impl Into<String>) -> NormSpec {
    NormSpec { kind: NormKind::RmsNorm, bias: false, ..layer_norm(eps, tensor) }
}

/// Layer norms without a bias.
pub(super) fn scale_norm(eps: f32, tensor: impl Into<String>) -> NormSpec {
    NormSpec { bias: false, ..layer_norm(eps, tensor) }
}

/// A norm of q and one of k, with `scope`: `blocks.L.attn.{q,k}_norm`.
pub(super) fn qk_norms(layer: usize, attn: &mut AttnSpec, scope: NormScope, norm: impl Fn(String) -> NormSpec) {
    let named = |name| Some(NormSpec { scope, ..norm(format!("blocks.{layer}.attn.{name}")) });
    (attn.q_norm, attn.k_norm) = (named("q_norm"), named("k_norm"));
}

/// Norms of the branches' outputs, `blocks.L.ln1_post` and `blocks.L.ln2_post`, beside the norms of their inputs or, if
/// `alone`, instead of them.
pub(super) fn post_norms(spec: &mut ModelSpec, alone: bool, norm: impl Fn(String) -> NormSpec) {
    for (l, block) in spec.blocks.iter_mut().enumerate() {
        for (sub, name) in block.subs.iter_mut().zip(["ln1_post", "ln2_post"]) {
            sub.post_norm = Some(norm(format!("blocks.{l}.{name}")));
            sub.pre_norm = sub.pre_norm.take().filter(|_| !alone);
        }
    }
}

/// Attention and MLP side by side behind one norm, `blocks.L.ln1`.
pub(super) fn parallel_behind_one_norm(spec: &mut ModelSpec) {
    for block in &mut spec.blocks {
        block.parallel = true;
        let first = block.subs.first().and_then(|s| s.pre_norm.clone());
        block.subs.iter_mut().for_each(|s| s.pre_norm = first.clone());
    }
}

/// Changes every norm of the model, those of q and k included.
pub(super) fn each_norm(spec: &mut ModelSpec, change: impl Fn(&mut NormSpec)) {
    spec.embed.norm.iter_mut().chain(&mut spec.final_norm).for_each(&change);
    for sub in spec.blocks.iter_mut().flat_map(|b| &mut b.subs) {
        let of_branch = [&mut sub.pre_norm, &mut sub.post_norm, &mut sub.resid_norm];
        of_branch.into_iter().flatten().for_each(&change);
        if let Op::Attn(a) = &mut sub.op {
            a.q_norm.iter_mut().chain(&mut a.k_norm).for_each(&change);
        }
    }
}

/// Changes the attention of every layer that has one.
pub(super) fn each_attn(spec: &mut ModelSpec, change: impl Fn(usize, &mut AttnSpec)) {
    for (l, block) in spec.blocks.iter_mut().enumerate() {
        for sub in &mut block.subs {
            if let Op::Attn(a) = &mut sub.op {
                change(l, a);
            }
        }
    }
}

/// An MLP without a gate, every projection with a bias or none.
pub(super) fn plain_mlp(d_mlp: usize, act: Act, bias: bool) -> MlpSpec {
    MlpSpec { d_mlp, gated: false, act, bias: MlpBias { gate: false, up: bias, down: bias } }
}

/// The same answer for q, k, v and o.
pub(super) fn all_biased(bias: bool) -> QkvoBias {
    QkvoBias { q: bias, k: bias, v: bias, o: bias }
}

/// The slopes of linear position biases as Bloom and Falcon have them (`build_alibi_tensor`; arXiv 2108.12409): powers of
/// one base for as many heads as a power of two covers, every other power of a finer one for the rest.
pub(super) fn alibi_slopes(n_heads: usize) -> Vec<f32> {
    let whole = if n_heads.is_power_of_two() { n_heads } else { n_heads.next_power_of_two() / 2 };
    let base = |n: usize| f64::powf(2.0, -f64::powf(2.0, 3.0 - (n as f64).log2())) as f32;
    let powers = (1..=whole).map(|i| base(whole).powi(i as i32));
    powers.chain((0..n_heads - whole).map(|i| base(2 * whole).powi(2 * i as i32 + 1))).collect()
}

/// Falcon's biases: slopes and products are rounded to bfloat16, and added before the scale.
pub(super) fn rounded_alibi(n_heads: usize) -> Alibi {
    let rounded = |x: f32| half::bf16::from_f32(x).to_f32();
    let slopes = alibi_slopes(n_heads).into_iter().map(rounded).collect();
    Alibi { slopes, at: AlibiAt::BeforeScaleRounded }
}

/// The biases of MPT (`build_mpt_alibi_tensor`), which spreads the exponents evenly up to 8.
pub(super) fn mpt_alibi(n_heads: usize) -> Alibi {
    let n = n_heads.next_power_of_two();
    let slope = |i: usize| 1.0 / f64::powf(2.0, (i as f64) * 8.0 / n as f64) as f32;
    let slopes = if n == n_heads {
        (1..=n).map(slope).collect()
    } else {
        (2..=n).step_by(2).chain((1..=n).step_by(2)).take(n_heads).map(slope).collect()
    };
    Alibi { slopes, at: AlibiAt::AfterScale }
}

/// A model of layer norms around `block(layer)`, with rotary positions or none.
pub(super) fn layer_norm_spec(
    family: &Family,
    dims: &Dims,
    rope: Option<Rope>,
    eps: f32,
    tied: bool,
    block: impl Fn(usize) -> BlockSpec,
) -> ModelSpec {
    ModelSpec {
        family: family.model_type.into(),
        d_model: dims.d_model,
        d_vocab: dims.d_vocab,
        n_ctx: rope.as_ref().map(|r| r.n_ctx),
        embed: plain_embed(),
        ropes: rope.into_iter().map(|r| r.spec).collect(),
        blocks: (0..dims.n_layers).map(block).collect(),
        final_norm: Some(layer_norm(eps, "ln_final")),
        unembed: plain_unembed(tied),
    }
}

/// Learned positions, and no more of them than there are rows behind the offset.
pub(super) fn learn_positions(spec: &mut ModelSpec, positions: usize, offset: usize) {
    spec.embed.positions = Some(LearnedPositions { rows: positions + offset, offset });
    spec.n_ctx = Some(positions);
}

/// A softcap: null switches off what the class has by default.
pub(super) fn softcap(cfg: &Config, key: &str, default: Option<f32>) -> Result<Option<f32>, ModelError> {
    let absent = !cfg.contains(key);
    Ok(cfg.positive(&[key])?.map(|cap| cap as f32).or(default.filter(|_| absent)))
}

/// Attention, then the MLP, each behind a norm of its own (`blocks.L.ln1`, `blocks.L.ln2`).
pub(super) fn pre_norm_block(
    layer: usize,
    attn: AttnSpec,
    mlp: MlpSpec,
    norm: impl Fn(String) -> NormSpec,
    parallel: bool,
) -> BlockSpec {
    let sub = |op, name: &str| SubLayer {
        op,
        pre_norm: Some(norm(format!("blocks.{layer}.{name}"))),
        post_norm: None,
        resid_norm: None,
    };
    BlockSpec { subs: vec![sub(Op::Attn(attn), "ln1"), sub(Op::Mlp(mlp), "ln2")], parallel, resid_scale: 1.0 }
}

pub(super) fn plain_embed() -> EmbedSpec {
    EmbedSpec { projected: None, scale: 1.0, positions: None, norm: None }
}

pub(super) fn plain_unembed(tied: bool) -> UnembedSpec {
    UnembedSpec { tied, bias: false, scale: 1.0, softcap: None }
}

/// The attention window of each layer in models that mix kinds: from `layer_types` if it is given, else `slides(layer)`
/// says which layers slide.
///
/// # Errors
/// [`ModelError::Config`] for an unknown kind of layer, and for layers that slide though no window is set.
pub(super) fn windows(
    cfg: &Config,
    n_layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let Some(kinds) = cfg.per_layer("layer_types", n_layers)? else {
        return Ok((0..n_layers).map(|l| window.filter(|_| slides(l))).collect());
    };
    let one = |kind: &serde_json::Value| match (kind.as_str(), window) {
        (Some("full_attention"), _) => Ok(None),
        (Some("sliding_attention"), Some(w)) => Ok(Some(w)),
        (Some("sliding_attention"), None) => {
            Err(cfg.error("layer_types", "a layer slides, but use_sliding_window and sliding_window set no window"))
        }
        _ => Err(cfg.error("layer_types", format!("{kind} is neither full_attention nor sliding_attention"))),
    };
    kinds.iter().map(one).collect()
}

/// `sliding_window` where `use_sliding_window` switches it on.
pub(super) fn switched_window(cfg: &Config, default: Option<usize>) -> Result<Option<usize>, ModelError> {
    let absent = !cfg.contains("sliding_window");
    let on = cfg.flag("use_sliding_window")?.unwrap_or(false);
    let window = if on { cfg.size(&["sliding_window"], MAX_POSITIONS)? } else { None };
    cfg.get("sliding_window");
    Ok(window.or(default.filter(|_| on && absent)))
}
