//! What the resolvers share: the dimensions of a decoder, its activation, norms and ordinary blocks.

use crate::model::ModelError;
use crate::model::config::{Config, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH};
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
#[derive(Default)]
pub(super) struct DimDefaults {
    /// `None`: as many as query heads.
    pub n_kv_heads: Option<usize>,
    /// `None`: d_model / n_heads.
    pub d_head: Option<usize>,
    /// 4 · d_model where the key is absent or null, as in GPT-2; otherwise the key is required.
    pub mlp_is_four_wide: bool,
}

impl Dims {
    /// # Errors
    /// [`ModelError::Config`] that names the key: missing, zero, absurdly large, or not divisible as it must be.
    pub fn read(cfg: &Config, defaults: DimDefaults) -> Result<Dims, ModelError> {
        let d_model = cfg.required_size(&["hidden_size", "n_embd", "d_model"], MAX_WIDTH)?;
        let d_vocab = cfg.required_size(&["vocab_size"], MAX_WIDTH)?;
        let n_layers = cfg.required_size(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"], MAX_LAYERS)?;
        let n_heads = cfg.required_size(&["num_attention_heads", "n_head", "num_heads", "n_heads"], MAX_HEADS)?;

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
    match name.as_str() {
        "relu" => Ok(Act::Relu),
        "relu2" => Ok(Act::Relu2),
        "silu" | "swish" => Ok(Act::Silu),
        "gelu" | "gelu_python" => Ok(Act::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Act::GeluTanh),
        "quick_gelu" => Ok(Act::QuickGelu),
        _ => {
            let known = "relu, relu2, silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu";
            Err(cfg.error(&key, format!("unknown activation {name:?}; supported are {known}")))
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
    EmbedSpec { scale: 1.0, positions: None, norm: None }
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
