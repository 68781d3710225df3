//! GGUF metadata as the `config.json` that Hugging Face would have for the model: what all architectures share.
//!
//! What each says in other words, and what it leaves unsaid, is in `architecture/`. Metadata of the architecture that is
//! not understood and not neutral is put into the config under its own name, where an unknown key is an error.

use super::Gguf;
use super::architecture::Architecture;
use super::header::{self, Value as Metadata};
use crate::model::ModelError;
use serde_json::{Map, Value, json};

pub(super) type Config = Map<String, Value>;

/// Keys of an architecture (after its name and a dot) that are used, or change nothing, in all of them.
pub(super) const UNDERSTOOD: [&str; 22] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.finetuned", // how the model was trained
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "vocab_size",
];

/// Keys that change nothing at one value that is neither zero nor false.
const NEUTRAL: [(&str, Metadata); 2] =
    [("attention.causal", Metadata::Bool(true)), ("rope.scaling.attn_factor", Metadata::F32(1.0))];

/// The float64 whose decimal is the shortest that names this float32.
pub(super) fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// A config in the making, and the widths that most architectures need to finish it.
pub(super) struct Trunk {
    pub config: Config,
    pub sizes: Sizes,
    /// Width of a head of q and k, which is that of v.
    pub d_head: usize,
}

impl Trunk {
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.config.insert(key.to_owned(), value.into());
    }
}

impl Gguf {
    /// The model's configuration in the words of Hugging Face's `config.json`.
    ///
    /// Rope scalings become `rope_scaling`: `linear`, `yarn` and `longrope` as there, and the tensor `rope_freqs.weight`
    /// (how llama.cpp writes Llama 3's scaling) as `{"rope_type": "rope_freqs", "factors": [n_rot / 2 numbers]}`, which
    /// means `inv_freq[i] /= factors[i]`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] names an architecture, rope scaling or shape that patchwave does not do;
    /// [`ModelError::Malformed`] a key that is missing, of the wrong type or against the tensors.
    pub fn config(&self) -> Result<Map<String, Value>, ModelError> {
        let name = self.architecture()?;
        let Some(architecture) = Architecture::find(name, &self.header.tensors) else {
            let known = Gguf::architectures().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
            return Err(
                self.unsupported(format!("has the architecture {name:?}; patchwave reads GGUF files of {known}"))
            );
        };
        let mut config = (architecture.config)(self)?;
        config.insert("tie_word_embeddings".into(), json!(self.tensor("output.weight").is_none()));
        self.pass_on_what_is_not_understood(architecture, &mut config);
        Ok(config)
    }

    /// Every `general.architecture` that is read, and the `model_type`s that its files may have.
    pub fn architectures() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
        Architecture::all().map(|a| (a.name, a.model_types))
    }

    /// The sizes, the activation, and the base of the rope.
    pub(super) fn trunk(&self, model_type: &str, hidden_act: &str) -> Result<Trunk, ModelError> {
        let sizes = self.sizes()?;
        let n_kv_heads = self.uniform("attention.head_count_kv")?.unwrap_or(sizes.n_heads);
        let d_head = self.uniform("attention.key_length")?.unwrap_or(sizes.d_model / sizes.n_heads);
        if let Some(d_v) = self.uniform("attention.value_length")?.filter(|d_v| *d_v != d_head) {
            return Err(self.unsupported(format!("has value heads of {d_v} and key heads of {d_head} dimensions")));
        }
        let mut trunk = Trunk { config: Config::new(), sizes, d_head };
        trunk.set("model_type", model_type);
        trunk.set("hidden_size", sizes.d_model);
        trunk.set("intermediate_size", self.required("feed_forward_length")?);
        trunk.set("num_hidden_layers", sizes.n_layers);
        trunk.set("num_attention_heads", sizes.n_heads);
        trunk.set("num_key_value_heads", n_kv_heads);
        trunk.set("head_dim", d_head);
        trunk.set("hidden_act", hidden_act);
        trunk.set("vocab_size", sizes.d_vocab);
        trunk.set("rope_theta", self.float_of_family("rope.freq_base")?.unwrap_or(10_000.0));
        if let Some(n_ctx) = self.uniform("context_length")? {
            trunk.set("max_position_embeddings", n_ctx);
        }
        Ok(trunk)
    }

    pub(super) fn rms_eps(&self, trunk: &mut Trunk) -> Result<(), ModelError> {
        trunk.set("rms_norm_eps", self.required_float("attention.layer_norm_rms_epsilon")?);
        Ok(())
    }

    pub(super) fn layer_norm_eps(&self, trunk: &mut Trunk) -> Result<(), ModelError> {
        trunk.set("layer_norm_eps", self.required_float("attention.layer_norm_epsilon")?);
        Ok(())
    }

    /// A rope on all dimensions of a head.
    pub(super) fn whole_rope(&self, trunk: &mut Trunk) -> Result<(), ModelError> {
        let d_head = trunk.d_head;
        if let Some(n_rot) = self.uniform("rope.dimension_count")?.filter(|n_rot| *n_rot != d_head) {
            return Err(self.unsupported(format!("rotates {n_rot} of the {d_head} dimensions of a head, not all")));
        }
        if let Some(scaling) = self.rope_scaling(d_head)? {
            trunk.set("rope_scaling", scaling);
        }
        Ok(())
    }

    /// A rope on the first `rope.dimension_count` dimensions of a head, all if the key is missing.
    pub(super) fn partial_rope(&self, trunk: &mut Trunk, share_key: &str) -> Result<(), ModelError> {
        let d_head = trunk.d_head;
        let n_rot = self.uniform("rope.dimension_count")?.unwrap_or(d_head);
        if n_rot > d_head {
            return Err(self.malformed(format!("rotates {n_rot} dimensions of heads that have {d_head}")));
        }
        let mut share = n_rot as f64 / d_head as f64;
        if ((d_head as f64 * share) as usize) < n_rot {
            share = share.next_up(); // Hugging Face takes int(d_head · share)
        }
        trunk.set(share_key, share);
        if let Some(scaling) = self.rope_scaling(n_rot)? {
            trunk.set("rope_scaling", scaling);
        }
        Ok(())
    }

    /// `sliding_window` and `layer_types`, which is as `attention.sliding_window_pattern` says: one flag for each layer, or
    /// a period, the last layer of which does not slide. Where it is missing, `period`, which llama.cpp has in its code.
    ///
    /// Without `attention.sliding_window` no layer slides.
    pub(super) fn sliding_layers(&self, trunk: &mut Trunk, period: usize) -> Result<bool, ModelError> {
        let n_layers = trunk.sizes.n_layers;
        let key = self.key_of_family("attention.sliding_window_pattern")?;
        let by_period = |period: usize| (1..=n_layers).map(|l| l % period != 0).collect();
        let mut slides: Vec<bool> = match self.header.metadata.get(&key) {
            None => by_period(period),
            Some(Metadata::Array(array)) => match header::booleans(&self.map, array) {
                Some(flags) if flags.len() == n_layers => flags,
                Some(flags) => {
                    return Err(self.malformed(format!("has {} flags in {key} for {n_layers} layers", flags.len())));
                }
                None => return Err(self.wrong_type(&key, "a number or an array of booleans")),
            },
            Some(_) => match self.uniform("attention.sliding_window_pattern")? {
                Some(0) | None => return Err(self.malformed(format!("{key} is 0; a period has at least one layer"))),
                Some(period) => by_period(period),
            },
        };
        let window = self.uniform("attention.sliding_window")?.filter(|w| *w > 0);
        if window.is_none() {
            slides.fill(false);
        }
        trunk.set("sliding_window", window);
        let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
        trunk.set("layer_types", slides.iter().map(kind).collect::<Vec<_>>());
        Ok(window.is_some())
    }

    pub(super) fn sizes(&self) -> Result<Sizes, ModelError> {
        self.sizes_with(|| self.required("attention.head_count"))
    }

    /// The sizes of a model with this many heads.
    pub(super) fn sizes_with(&self, n_heads: impl Fn() -> Result<usize, ModelError>) -> Result<Sizes, ModelError> {
        let Some(embedding) = self.tensor("token_embd.weight").filter(|t| t.shape.len() == 2) else {
            return Err(self.malformed("has no matrix token_embd.weight: it holds no whole model"));
        };
        let sizes = Sizes {
            d_model: self.required("embedding_length")?,
            n_layers: self.required("block_count")?,
            n_heads: n_heads()?,
            d_vocab: embedding.shape[0],
        };
        if embedding.shape[1] != sizes.d_model {
            return Err(self.malformed(format!(
                "says embedding_length {}, but token_embd.weight is {:?}",
                sizes.d_model, embedding.shape
            )));
        }
        if let Some(d_vocab) = self.uniform("vocab_size")?.filter(|n| *n != sizes.d_vocab) {
            return Err(
                self.malformed(format!("says vocab_size {d_vocab}, but token_embd.weight is {:?}", embedding.shape))
            );
        }
        if sizes.n_heads == 0 || sizes.d_model < sizes.n_heads {
            return Err(self.malformed(format!("says that {} heads share {} dimensions", sizes.n_heads, sizes.d_model)));
        }
        if sizes.n_layers > self.header.tensors.len() {
            let (layers, tensors) = (sizes.n_layers, self.header.tensors.len());
            return Err(self.malformed(format!("says block_count {layers}, but has only {tensors} tensors")));
        }
        Ok(sizes)
    }

    fn rope_scaling(&self, n_rot: usize) -> Result<Option<Value>, ModelError> {
        let kind = self.string(&self.key_of_family("rope.scaling.type")?)?.filter(|kind| *kind != "none");
        let by_tensor =
            ["rope_freqs.weight", "rope_factors_long.weight"].into_iter().find(|t| self.tensor(t).is_some());
        if let (Some(tensor), Some(kind)) = (by_tensor, kind.filter(|kind| *kind != "longrope")) {
            return Err(self.unsupported(format!("scales its rope twice: {kind:?} and {tensor}")));
        }
        if let Some(factors) = self.rope_factors("rope_freqs.weight", n_rot)? {
            return Ok(Some(json!({"rope_type": "rope_freqs", "factors": factors})));
        }
        if let Some(scaling) = self.longrope(n_rot)? {
            return Ok(Some(scaling));
        }
        if let Some(x) = self.float_of_family("rope.scaling.attn_factor")?.filter(|x| *x != 1.0 && *x != 0.0) {
            return Err(self.unsupported(format!("has the attention factor {x} without rope_factors_long.weight")));
        }
        let factor = self.float_of_family("rope.scaling.factor")?;
        let mut scaling = Config::new();
        match kind {
            None => {
                // Before 2023-10 linear scaling was a key of its own.
                let Some(factor) = self.float_of_family("rope.scale_linear")?.filter(|f| *f != 1.0) else {
                    return Ok(None);
                };
                scaling.insert("rope_type".into(), json!("linear"));
                scaling.insert("factor".into(), json!(factor));
            }
            Some(kind @ ("linear" | "yarn")) => {
                let Some(factor) = factor else {
                    return Err(self.malformed(format!("scales its rope by {kind:?} and has no rope.scaling.factor")));
                };
                scaling.insert("rope_type".into(), json!(kind));
                scaling.insert("factor".into(), json!(factor));
            }
            Some(kind) => {
                return Err(self.unsupported(format!(
                    "has the rope scaling {kind:?}; patchwave reads none, linear, yarn, rope_freqs.weight and rope_factors_long.weight from GGUF"
                )));
            }
        }
        if kind == Some("yarn") {
            let original = self.uniform("rope.scaling.original_context_length")?;
            let original =
                original.ok_or_else(|| self.malformed("has yarn without rope.scaling.original_context_length"))?;
            scaling.insert("original_max_position_embeddings".into(), json!(original));
            for (name, key) in [
                ("beta_fast", "yarn_beta_fast"),
                ("beta_slow", "yarn_beta_slow"),
                ("attention_factor", "yarn_attn_factor"),
            ] {
                if let Some(x) = self.float_of_family(&format!("rope.scaling.{key}"))? {
                    scaling.insert(name.into(), json!(x));
                }
            }
            if let Some(x) = self.float_of_family("rope.scaling.yarn_ext_factor")?.filter(|x| *x != 1.0 && *x >= 0.0) {
                return Err(self.unsupported(format!("has yarn with an extrapolation factor of {x}; only 1 is known")));
            }
        }
        Ok(Some(Value::Object(scaling)))
    }

    /// LongRoPE: one set of divisors for short prompts, another for long ones.
    fn longrope(&self, n_rot: usize) -> Result<Option<Value>, ModelError> {
        let factors = |name| self.rope_factors(name, n_rot);
        let (long, short) = match (factors("rope_factors_long.weight")?, factors("rope_factors_short.weight")?) {
            (None, None) => return Ok(None),
            (Some(long), Some(short)) => (long, short),
            _ => return Err(self.malformed("has only one of rope_factors_long.weight and rope_factors_short.weight")),
        };
        let original = self.required("rope.scaling.original_context_length")?;
        let mut scaling = json!({
            "rope_type": "longrope", "long_factor": long, "short_factor": short,
            "original_max_position_embeddings": original,
        });
        if let Some(x) = self.float_of_family("rope.scaling.attn_factor")? {
            scaling["attention_factor"] = json!(x);
        }
        Ok(Some(scaling))
    }

    /// The numbers of a tensor that divide the frequencies of the rope, `[n_rot / 2]`.
    fn rope_factors(&self, name: &str, n_rot: usize) -> Result<Option<Vec<f64>>, ModelError> {
        let Some(tensor) = self.tensor(name) else { return Ok(None) };
        if tensor.shape != [n_rot / 2] {
            let (shape, wanted) = (&tensor.shape, n_rot / 2);
            return Err(self.malformed(format!("{name} is {shape:?}, [{wanted}] was expected")));
        }
        let mut factors = vec![0.0; n_rot / 2];
        tensor.kind.widen(&self.map[tensor.bytes.clone()], &mut factors);
        if let Some(bad) = factors.iter().find(|f| !f.is_finite() || **f <= 0.0) {
            return Err(self.malformed(format!("{name} has the factor {bad}; factors are positive")));
        }
        // Exactly, unlike `shortest`: these came out of a calculation.
        Ok(Some(factors.into_iter().map(f64::from).collect()))
    }

    fn pass_on_what_is_not_understood(&self, architecture: &Architecture, config: &mut Config) {
        for (key, value) in &self.header.metadata {
            let Some(rest) = key.strip_prefix(architecture.name).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let understood = UNDERSTOOD.contains(&rest) || architecture.understood.contains(&rest);
            if understood || NEUTRAL.contains(&(rest, value.clone())) {
                continue;
            }
            let value = match value {
                Metadata::Unsigned(0) | Metadata::Signed(0) | Metadata::Bool(false) => continue,
                Metadata::Unsigned(n) => json!(n),
                Metadata::Signed(n) => json!(n),
                Metadata::F32(x) if *x == 0.0 => continue,
                Metadata::F32(x) => json!(shortest(*x)),
                Metadata::F64(x) => json!(x),
                Metadata::Bool(b) => json!(b),
                Metadata::String(s) => json!(s),
                Metadata::Array(a) => json!(format!("an array of {}", a.len)),
            };
            config.insert(key.clone(), value);
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&super::Tensor> {
        self.header.tensors.iter().find(|t| t.name == name)
    }

    pub(super) fn required(&self, key: &str) -> Result<usize, ModelError> {
        match self.uniform(key)? {
            Some(n) => Ok(n),
            None => Err(self.malformed(format!("has no {} in its metadata", self.key_of_family(key)?))),
        }
    }

    pub(super) fn float_of_family(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.float(&self.key_of_family(key)?)
    }

    pub(super) fn required_float(&self, key: &str) -> Result<f64, ModelError> {
        match self.float_of_family(key)? {
            Some(x) => Ok(x),
            None => Err(self.malformed(format!("has no {} in its metadata", self.key_of_family(key)?))),
        }
    }
}

/// The sizes that every architecture states in the same keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub d_model: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub d_vocab: usize,
}
