//! Keys of `config.json` that do not touch what the forward pass computes, each with the reason.
//!
//! A key that is neither read by the resolver nor listed here is an error (`--allow-config-key` overrides), so a config
//! that asks for something patchwave does not do is never run as if it had not. A key that *would* change the maths
//! stands here with the values at which it does not.

use serde_json::Value;

/// One key that may be ignored.
#[derive(Debug, Clone, Copy)]
pub struct Inert {
    pub key: &'static str,
    pub at: At,
    /// Why it may be ignored; shown when a value outside [`At::Neutral`] is refused.
    pub why: &'static str,
}

/// The values at which a key is inert.
#[derive(Debug, Clone, Copy)]
pub enum At {
    Any,
    /// JSON texts; numbers compare as numbers (`1` equals `1.0`).
    Neutral(&'static [&'static str]),
}

impl Inert {
    pub const fn any(key: &'static str, why: &'static str) -> Self {
        Inert { key, at: At::Any, why }
    }

    pub const fn at(key: &'static str, neutral: &'static [&'static str], why: &'static str) -> Self {
        Inert { key, at: At::Neutral(neutral), why }
    }

    /// Whether `value` leaves the forward pass as it is.
    pub fn accepts(&self, value: &Value) -> bool {
        match self.at {
            At::Any => true,
            At::Neutral(texts) => {
                texts.iter().any(|t| serde_json::from_str::<Value>(t).is_ok_and(|neutral| same(&neutral, value)))
            }
        }
    }
}

/// Equality of JSON values with `1` equal to `1.0`.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

const RECORD: &str = "a record of where the file came from";
const OUTPUT: &str = "selects what the Python model returns";
const GENERATION: &str = "a setting of text generation";
const TOKENS: &str = "a token id or a setting of the tokenizer";
const TRAINING: &str = "used only in training";
const INIT: &str = "used only to draw initial weights";
const DROPOUT: &str = "dropout is off in inference";
const LOSS: &str = "a setting of a loss";
const HEAD: &str = "a setting of a classification head, which would show as a left-over tensor";
const RUNTIME: &str = "chooses an implementation, not a result";
const STORAGE: &str = "every tensor carries its own storage type";

/// For every family: the attributes of `PretrainedConfig` in transformers 4 and 5, and what other tools leave behind.
/// Keys that begin with `_` are inert as well.
pub const SHARED: &[Inert] = &[
    Inert::any("architectures", "the tensors say which head the checkpoint has"),
    Inert::any("transformers_version", RECORD),
    Inert::any("name_or_path", RECORD),
    Inert::any("auto_map", "names Python code"),
    Inert::any("model_type", "read from the top of the file; in a table of it, a record"),
    Inert::any("custom_pipelines", "names Python code"),
    Inert::any("task_specific_params", GENERATION),
    Inert::any("finetuning_task", RECORD),
    Inert::any("transformers.js_config", RECORD),
    Inert::any("model_name", RECORD),
    Inert::any("unsloth_version", RECORD),
    Inert::any("unsloth_fixed", RECORD),
    Inert::any("is_llama_config", RECORD),
    Inert::any("language", RECORD),
    Inert::any("license", RECORD),
    Inert::any("tokenizer_class", TOKENS),
    Inert::any("tokenizer_model_type", TOKENS),
    Inert::any("prefix", TOKENS),
    Inert::any("bos_token_id", TOKENS),
    Inert::any("eos_token_id", TOKENS),
    Inert::any("eod_token_id", TOKENS),
    Inert::any("pad_token_id", TOKENS),
    Inert::any("sep_token_id", TOKENS),
    Inert::any("cls_token_id", TOKENS),
    Inert::any("unk_token_id", TOKENS),
    Inert::any("mask_token_id", TOKENS),
    Inert::any("decoder_start_token_id", TOKENS),
    Inert::any("pad_token", TOKENS),
    Inert::any("bos_token", TOKENS),
    Inert::any("eos_token", TOKENS),
    Inert::any("output_hidden_states", OUTPUT),
    Inert::any("output_attentions", OUTPUT),
    Inert::any("output_scores", OUTPUT),
    Inert::any("output_past", OUTPUT),
    Inert::any("output_router_logits", OUTPUT),
    Inert::any("return_dict", OUTPUT),
    Inert::any("use_return_dict", OUTPUT),
    Inert::any("return_dict_in_generate", OUTPUT),
    Inert::any("use_cache", RUNTIME),
    Inert::any("cache_implementation", RUNTIME),
    Inert::any("init_device", RUNTIME),
    Inert::any("attn_impl", RUNTIME),
    Inert::any("verbose", RUNTIME),
    Inert::any("init_config", INIT),
    Inert::any("tokenizer_name", RECORD),
    Inert::any("torchscript", RUNTIME),
    Inert::any("tf_legacy_loss", LOSS),
    Inert::any("use_bfloat16", STORAGE),
    Inert::any("torch_dtype", STORAGE),
    Inert::any("dtype", STORAGE),
    Inert::any("chunk_size_feed_forward", RUNTIME),
    Inert::any("attn_implementation", RUNTIME),
    Inert::any("experts_implementation", RUNTIME),
    Inert::any("use_flash_attn", RUNTIME),
    Inert::any("use_flash_attention_2", RUNTIME),
    Inert::any("fused_dense", RUNTIME),
    Inert::any("gradient_checkpointing", TRAINING),
    Inert::any("embedding_fraction", TRAINING),
    Inert::any("use_gradient_checkpointing", TRAINING),
    Inert::any("max_sequence_length", "the length used in training; positions are limited by the model's own key"),
    Inert::any("max_seq_len", "the length used in training; positions are limited by the model's own key"),
    Inert::any("model_max_length", "a setting of the tokenizer"),
    Inert::any("pretraining_tp", "splits matrix products into slices that are summed again"),
    Inert::any("is_decoder", "a decoder-only model is causal whatever it says"),
    Inert::any("is_causal", "a decoder-only model is causal; a bidirectional one would have another model_type"),
    Inert::any("initializer_range", INIT),
    Inert::any("initializer_factor", INIT),
    Inert::any("init_std", INIT),
    Inert::any("attention_dropout", DROPOUT),
    Inert::any("hidden_dropout", DROPOUT),
    Inert::any("hidden_dropout_prob", DROPOUT),
    Inert::any("attention_probs_dropout_prob", DROPOUT),
    Inert::any("classifier_dropout", DROPOUT),
    Inert::any("attn_pdrop", DROPOUT),
    Inert::any("embd_pdrop", DROPOUT),
    Inert::any("resid_pdrop", DROPOUT),
    Inert::any("dropout", DROPOUT),
    Inert::any("activation_dropout", DROPOUT),
    Inert::any("emb_pdrop", DROPOUT),
    Inert::any("resid_dropout", DROPOUT),
    Inert::any("embed_dropout", DROPOUT),
    Inert::any("residual_dropout", DROPOUT),
    Inert::any("embedding_dropout", DROPOUT),
    Inert::any("embd_dropout", DROPOUT),
    Inert::any("layerdrop", DROPOUT),
    Inert::any("router_aux_loss_coef", LOSS),
    Inert::any("router_jitter_noise", TRAINING),
    Inert::any("aux_loss_alpha", LOSS),
    Inert::any("label_smoothing", LOSS),
    Inert::any("loss_type", LOSS),
    Inert::any("z_loss_coefficient", LOSS),
    Inert::any("num_labels", HEAD),
    Inert::any("id2label", HEAD),
    Inert::any("label2id", HEAD),
    Inert::any("problem_type", HEAD),
    Inert::any("summary_type", HEAD),
    Inert::any("summary_use_proj", HEAD),
    Inert::any("summary_activation", HEAD),
    Inert::any("summary_proj_to_labels", HEAD),
    Inert::any("summary_first_dropout", HEAD),
    Inert::any("generation_config", GENERATION),
    Inert::any("max_length", GENERATION),
    Inert::any("max_new_tokens", GENERATION),
    Inert::any("min_length", GENERATION),
    Inert::any("do_sample", GENERATION),
    Inert::any("early_stopping", GENERATION),
    Inert::any("num_beams", GENERATION),
    Inert::any("num_beam_groups", GENERATION),
    Inert::any("diversity_penalty", GENERATION),
    Inert::any("temperature", GENERATION),
    Inert::any("top_k", GENERATION),
    Inert::any("top_p", GENERATION),
    Inert::any("min_p", GENERATION),
    Inert::any("typical_p", GENERATION),
    Inert::any("repetition_penalty", GENERATION),
    Inert::any("length_penalty", GENERATION),
    Inert::any("no_repeat_ngram_size", GENERATION),
    Inert::any("encoder_no_repeat_ngram_size", GENERATION),
    Inert::any("bad_words_ids", GENERATION),
    Inert::any("num_return_sequences", GENERATION),
    Inert::any("forced_bos_token_id", GENERATION),
    Inert::any("forced_eos_token_id", GENERATION),
    Inert::any("remove_invalid_values", GENERATION),
    Inert::any("exponential_decay_length_penalty", GENERATION),
    Inert::any("suppress_tokens", GENERATION),
    Inert::any("begin_suppress_tokens", GENERATION),
    Inert::at("is_encoder_decoder", &["false"], "only decoders are supported"),
    Inert::at("tie_encoder_decoder", &["false"], "only decoders are supported"),
    Inert::at("add_cross_attention", &["false"], "cross-attention is not supported"),
    Inert::at("cross_attention_hidden_size", &["null"], "cross-attention is not supported"),
    Inert::at("pruned_heads", &["{}", "[]"], "pruned heads are not supported"),
    Inert::at("apply_residual_connection_post_layernorm", &["false"], "residuals after the norm are not supported"),
    Inert::at("rope_interleaved", &["false"], "this model type rotates halves"),
    Inert::at(
        "quantization_config",
        &["{}"],
        "quantised weights are not supported here; use the checkpoint they were made from, or a GGUF file",
    ),
];

/// In a `rope_scaling` or `rope_parameters` table, whatever its type.
pub const ROPE: &[Inert] = &[
    Inert::any("finetuned", "a record: whether the model was trained with the scaling"),
    Inert::any("mrope_section", "text positions are the same on every axis"),
    Inert::any("mrope_interleaved", "text positions are the same on every axis"),
    Inert::at("attn_factor", &["1"], "a factor on cos and sin is spelled attention_factor"),
    Inert::at("extrapolation_factor", &["1"], "only the full ramp is supported"),
];
