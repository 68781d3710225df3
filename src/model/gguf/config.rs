//! GGUF metadata as the `config.json` that Hugging Face would have for the model.
//!
//! What a GGUF file cannot say is said by the family: `hidden_act` (SiLU; `gelu_new` in GPT-2; `gelu` in GPT-NeoX, whose
//! files do not record it: llama.cpp has one GELU for both), and SmolLM3's pattern of layers without rotary positions,
//! which llama.cpp has in its code (`n_no_rope_layer_step = 4`), too. Metadata of the architecture that is not understood
//! and not neutral is put into the config under its own name, where an unknown key is an error.

use super::Gguf;
use super::header::Value as Metadata;
use super::layout::Family;
use crate::model::ModelError;
use serde_json::{Map, Value, json};

type Config = Map<String, Value>;

/// Keys of the architecture (after its name and a dot) that [`Gguf::config`] uses or that change nothing.
const UNDERSTOOD: [&str; 25] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
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
    "tensor_data_layout", // "Meta AI original pth": the permuted rows that layout.rs undoes
    "use_parallel_residual",
    "vocab_size",
];

/// Keys that change nothing at one value that is neither zero nor false.
const NEUTRAL: [(&str, Metadata); 2] =
    [("attention.causal", Metadata::Bool(true)), ("rope.scaling.attn_factor", Metadata::F32(1.0))];

/// The float64 whose decimal is the shortest that names this float32.
pub(super) fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

impl Gguf {
    /// The model's configuration in the words of Hugging Face's `config.json`.
    ///
    /// Rope scalings become `rope_scaling`: `linear` and `yarn` as there, and the tensor `rope_freqs.weight` (how llama.cpp
    /// writes Llama 3's scaling) as `{"rope_type": "rope_freqs", "factors": [n_rot / 2 numbers]}`, which means
    /// `inv_freq[i] /= factors[i]`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] names an architecture, rope scaling or shape that patchwave does not do;
    /// [`ModelError::Malformed`] a key that is missing, of the wrong type or against the tensors.
    pub fn config(&self) -> Result<Map<String, Value>, ModelError> {
        let architecture = self.architecture()?;
        let Some(family) = Family::from_architecture(architecture) else {
            return Err(self.unsupported(format!(
                "has the architecture {architecture:?}; patchwave reads GGUF files of {}",
                Family::ARCHITECTURES
            )));
        };
        let mut config = match family {
            Family::Gpt2 => self.gpt2()?,
            Family::GptNeox => self.gpt_neox()?,
            _ => self.llama_like(family)?,
        };
        config.insert("tie_word_embeddings".into(), json!(self.tensor("output.weight").is_none()));
        self.pass_on_what_is_not_understood(&mut config);
        Ok(config)
    }

    fn llama_like(&self, family: Family) -> Result<Config, ModelError> {
        let sizes = self.sizes()?;
        let n_kv_heads = self.uniform("attention.head_count_kv")?.unwrap_or(sizes.n_heads);
        let d_head = self.uniform("attention.key_length")?.unwrap_or(sizes.d_model / sizes.n_heads);
        if let Some(d_v) = self.uniform("attention.value_length")?.filter(|d_v| *d_v != d_head) {
            return Err(self.unsupported(format!("has value heads of {d_v} and key heads of {d_head} dimensions")));
        }
        if let Some(n_rot) = self.uniform("rope.dimension_count")?.filter(|n_rot| *n_rot != d_head) {
            return Err(self.unsupported(format!("rotates {n_rot} of the {d_head} dimensions of a head, not all")));
        }
        let mut config = Config::new();
        config.insert(
            "model_type".into(),
            json!(match family {
                Family::Qwen2 => "qwen2",
                Family::Qwen3 => "qwen3",
                Family::SmolLm3 => "smollm3",
                _ => "llama",
            }),
        );
        config.insert("hidden_size".into(), json!(sizes.d_model));
        config.insert("intermediate_size".into(), json!(self.required("feed_forward_length")?));
        config.insert("num_hidden_layers".into(), json!(sizes.n_layers));
        config.insert("num_attention_heads".into(), json!(sizes.n_heads));
        config.insert("num_key_value_heads".into(), json!(n_kv_heads));
        if matches!(family, Family::Llama | Family::Qwen3) || d_head.checked_mul(sizes.n_heads) != Some(sizes.d_model) {
            config.insert("head_dim".into(), json!(d_head)); // The others have no such key when it says nothing.
        }
        config.insert("hidden_act".into(), json!("silu"));
        config.insert("rms_norm_eps".into(), json!(self.required_float("attention.layer_norm_rms_epsilon")?));
        config.insert("rope_theta".into(), json!(self.float_of_family("rope.freq_base")?.unwrap_or(10_000.0)));
        config.insert("vocab_size".into(), json!(sizes.d_vocab));
        if let Some(n_ctx) = self.uniform("context_length")? {
            config.insert("max_position_embeddings".into(), json!(n_ctx));
        }
        if let Some(scaling) = self.rope_scaling(d_head)? {
            config.insert("rope_scaling".into(), scaling);
        }
        let biased = |stem: &str| self.tensor(&format!("blk.0.{stem}.bias")).is_some();
        match family {
            Family::Llama | Family::SmolLm3 => {
                config.insert("attention_bias".into(), json!(biased("attn_q") || biased("attn_output")));
                config.insert("mlp_bias".into(), json!(biased("ffn_up")));
            }
            Family::Qwen3 => {
                config.insert("attention_bias".into(), json!(biased("attn_q")));
            }
            _ => {} // Qwen2 always has biases on q, k and v, and no key for them.
        }
        if family == Family::SmolLm3 {
            let rotates: Vec<u8> = (1..=sizes.n_layers).map(|layer| u8::from(layer % 4 != 0)).collect();
            config.insert("no_rope_layers".into(), json!(rotates));
            config.insert("no_rope_layer_interval".into(), json!(4));
        }
        if let Some(window) = self.uniform("attention.sliding_window")?.filter(|w| *w > 0) {
            if family != Family::Llama {
                let architecture = self.architecture()?;
                return Err(self.unsupported(format!(
                    "has a sliding window of {window}, and GGUF does not say which layers of a {architecture} use it"
                )));
            }
            // A llama in which every layer has a window is what Hugging Face calls a mistral.
            config.insert("model_type".into(), json!("mistral"));
            config.insert("sliding_window".into(), json!(window));
            for key_of_llama in ["attention_bias", "mlp_bias"] {
                config.remove(key_of_llama);
            }
        }
        Ok(config)
    }

    fn gpt2(&self) -> Result<Config, ModelError> {
        let sizes = self.sizes()?;
        let mut config = Config::new();
        config.insert("model_type".into(), json!("gpt2"));
        config.insert("n_embd".into(), json!(sizes.d_model));
        config.insert("n_layer".into(), json!(sizes.n_layers));
        config.insert("n_head".into(), json!(sizes.n_heads));
        config.insert("n_inner".into(), json!(self.required("feed_forward_length")?));
        let positions = match self.tensor("position_embd.weight") {
            Some(tensor) => tensor.shape[0],
            None => self.required("context_length")?,
        };
        config.insert("n_positions".into(), json!(positions));
        config.insert("activation_function".into(), json!("gelu_new"));
        config.insert("layer_norm_epsilon".into(), json!(self.required_float("attention.layer_norm_epsilon")?));
        config.insert("vocab_size".into(), json!(sizes.d_vocab));
        Ok(config)
    }

    fn gpt_neox(&self) -> Result<Config, ModelError> {
        let sizes = self.sizes()?;
        let d_head = sizes.d_model / sizes.n_heads;
        let n_rot = self.uniform("rope.dimension_count")?.unwrap_or(d_head);
        if n_rot > d_head {
            return Err(self.malformed(format!("rotates {n_rot} dimensions of heads that have {d_head}")));
        }
        let mut share = n_rot as f64 / d_head as f64;
        if ((d_head as f64 * share) as usize) < n_rot {
            share = share.next_up(); // Hugging Face takes int(d_head · rotary_pct)
        }
        let parallel = self.boolean(&self.key_of_family("use_parallel_residual")?)?.unwrap_or(true);
        let mut config = Config::new();
        config.insert("model_type".into(), json!("gpt_neox"));
        config.insert("hidden_size".into(), json!(sizes.d_model));
        config.insert("intermediate_size".into(), json!(self.required("feed_forward_length")?));
        config.insert("num_hidden_layers".into(), json!(sizes.n_layers));
        config.insert("num_attention_heads".into(), json!(sizes.n_heads));
        config.insert("hidden_act".into(), json!("gelu"));
        config.insert("layer_norm_eps".into(), json!(self.required_float("attention.layer_norm_epsilon")?));
        config.insert("rotary_pct".into(), json!(share));
        config.insert("rotary_emb_base".into(), json!(self.float_of_family("rope.freq_base")?.unwrap_or(10_000.0)));
        config.insert("use_parallel_residual".into(), json!(parallel));
        config.insert("attention_bias".into(), json!(self.tensor("blk.0.attn_qkv.bias").is_some()));
        config.insert("vocab_size".into(), json!(sizes.d_vocab));
        if let Some(n_ctx) = self.uniform("context_length")? {
            config.insert("max_position_embeddings".into(), json!(n_ctx));
        }
        if let Some(scaling) = self.rope_scaling(n_rot)? {
            config.insert("rope_scaling".into(), scaling);
        }
        Ok(config)
    }

    fn sizes(&self) -> Result<Sizes, ModelError> {
        let Some(embedding) = self.tensor("token_embd.weight").filter(|t| t.shape.len() == 2) else {
            return Err(self.malformed("has no matrix token_embd.weight: it holds no whole model"));
        };
        let sizes = Sizes {
            d_model: self.required("embedding_length")?,
            n_layers: self.required("block_count")?,
            n_heads: self.required("attention.head_count")?,
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
        if let Some(index) = self.rope_freqs {
            if let Some(kind) = kind {
                return Err(self.unsupported(format!("scales its rope twice: {kind:?} and rope_freqs.weight")));
            }
            return self.rope_factors(index, n_rot).map(Some);
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
                    "has the rope scaling {kind:?}; patchwave reads none, linear, yarn and rope_freqs.weight from GGUF"
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

    fn rope_factors(&self, index: usize, n_rot: usize) -> Result<Value, ModelError> {
        let tensor = &self.header.tensors[index];
        if tensor.shape != [n_rot / 2] {
            return Err(self.malformed(format!(
                "rope_freqs.weight is {:?}, [{}] was expected",
                tensor.shape,
                n_rot / 2
            )));
        }
        let mut factors = vec![0.0; n_rot / 2];
        tensor.kind.widen(&self.map[tensor.bytes.clone()], &mut factors);
        if let Some(bad) = factors.iter().find(|f| !f.is_finite() || **f <= 0.0) {
            return Err(self.malformed(format!("rope_freqs.weight has the factor {bad}; factors are positive")));
        }
        // Exactly, unlike `shortest`: these came out of a calculation.
        let factors: Vec<f64> = factors.into_iter().map(f64::from).collect();
        Ok(json!({"rope_type": "rope_freqs", "factors": factors}))
    }

    fn pass_on_what_is_not_understood(&self, config: &mut Config) {
        let Ok(architecture) = self.architecture() else { return };
        for (key, value) in &self.header.metadata {
            let Some(rest) = key.strip_prefix(architecture).and_then(|rest| rest.strip_prefix('.')) else { continue };
            if UNDERSTOOD.contains(&rest) || NEUTRAL.contains(&(rest, value.clone())) {
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

    fn tensor(&self, name: &str) -> Option<&super::Tensor> {
        self.header.tensors.iter().find(|t| t.name == name)
    }

    fn required(&self, key: &str) -> Result<usize, ModelError> {
        match self.uniform(key)? {
            Some(n) => Ok(n),
            None => Err(self.malformed(format!("has no {} in its metadata", self.key_of_family(key)?))),
        }
    }

    fn float_of_family(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.float(&self.key_of_family(key)?)
    }

    fn required_float(&self, key: &str) -> Result<f64, ModelError> {
        match self.float_of_family(key)? {
            Some(x) => Ok(x),
            None => Err(self.malformed(format!("has no {} in its metadata", self.key_of_family(key)?))),
        }
    }
}

/// The sizes that every family states in the same keys.
struct Sizes {
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    d_vocab: usize,
}
