//! Llama and what differs from it in a bias, a norm or a number.

use super::*;
use crate::model::gguf::config::Trunk;
use serde_json::json;

/// The names of the whole tree; a family uses those that it has.
pub(super) const TREE: &[Name] = &[
    name("token_embd", "model.embed_tokens"),
    name("output_norm", "model.norm"),
    name("output", "lm_head"),
    name("blk.attn_norm", "model.layers.{l}.input_layernorm"),
    name("blk.attn_q", "model.layers.{l}.self_attn.q_proj"),
    name("blk.attn_k", "model.layers.{l}.self_attn.k_proj"),
    name("blk.attn_v", "model.layers.{l}.self_attn.v_proj"),
    name("blk.attn_output", "model.layers.{l}.self_attn.o_proj"),
    name("blk.attn_q_norm", "model.layers.{l}.self_attn.q_norm"),
    name("blk.attn_k_norm", "model.layers.{l}.self_attn.k_norm"),
    name("blk.ffn_norm", "model.layers.{l}.post_attention_layernorm"),
    name("blk.ffn_gate", "model.layers.{l}.mlp.gate_proj"),
    name("blk.ffn_up", "model.layers.{l}.mlp.up_proj"),
    name("blk.ffn_down", "model.layers.{l}.mlp.down_proj"),
];

/// The converters that inherit from `LlamaModel` with its `undo_permute`.
pub(super) const PERMUTED: &[Name] = &[
    ruled("blk.attn_q", "model.layers.{l}.self_attn.q_proj", Rule::Interleaved(Part::Q)),
    ruled("blk.attn_k", "model.layers.{l}.self_attn.k_proj", Rule::Interleaved(Part::K)),
];

const WINDOW: &str = "attention.sliding_window";

/// Llama, and Mistral where every layer has a window. `tensor_data_layout` is "Meta AI original pth": the permuted rows.
pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    model_types: &["llama", "mistral"],
    needs: None,
    varies: false,
    names: &[PERMUTED, TREE],
    numbers: &[],
    understood: &[WINDOW, "tensor_data_layout"],
    config: |gguf| {
        let mut trunk = plain(gguf, "llama")?;
        match gguf.uniform(WINDOW)?.filter(|w| *w > 0) {
            Some(window) => {
                trunk.set("model_type", "mistral");
                trunk.set("sliding_window", window);
            }
            None => bias_keys(gguf, &mut trunk),
        }
        Ok(trunk.config)
    },
};

/// The layers without rope are in llama.cpp's code: `n_no_rope_layer_step = 4`.
pub(super) const SMOLLM3: Architecture = Architecture {
    name: "smollm3",
    model_types: &["smollm3"],
    understood: &[WINDOW, "tensor_data_layout"],
    config: |gguf| {
        let mut trunk = plain(gguf, "smollm3")?;
        bias_keys(gguf, &mut trunk);
        let rotates: Vec<u8> = (1..=trunk.sizes.n_layers).map(|layer| u8::from(layer % 4 != 0)).collect();
        trunk.set("no_rope_layers", rotates);
        trunk.set("no_rope_layer_interval", 4);
        no_window(gguf)?;
        Ok(trunk.config)
    },
    ..LLAMA
};

pub(super) const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_types: &["qwen2"],
    needs: None,
    varies: false,
    names: &[TREE],
    numbers: &[],
    understood: &[WINDOW],
    config: |gguf| {
        no_window(gguf)?;
        Ok(plain(gguf, "qwen2")?.config)
    },
};

pub(super) const QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_types: &["qwen3"],
    config: |gguf| {
        no_window(gguf)?;
        let mut trunk = plain(gguf, "qwen3")?;
        trunk.set("attention_bias", biased(gguf, "attn_q"));
        Ok(trunk.config)
    },
    ..QWEN2
};

/// Ministral 3 by its temperature, which llama.cpp applies as Hugging Face does, from the original length of the YaRN on;
/// without one the text half of Mistral Small 3, a Mistral without window. `yarn_log_multiplier` is `mscale_all_dim`;
/// llama.cpp, too, takes `mscale` to be the same.
pub(super) const MISTRAL3: Architecture = Architecture {
    name: "mistral3",
    model_types: &["ministral3", "mistral"],
    needs: None,
    varies: false,
    names: &[PERMUTED, TREE],
    numbers: &[],
    understood: &["attention.temperature_scale", "rope.scaling.yarn_log_multiplier"],
    config: |gguf| {
        let mut trunk = plain(gguf, "mistral")?;
        trunk.set("sliding_window", json!(null));
        let beta = gguf.float_of_family("attention.temperature_scale")?.filter(|beta| *beta != 0.0);
        let mscale = gguf.float_of_family("rope.scaling.yarn_log_multiplier")?.filter(|m| *m != 0.0);
        let mut rope = match trunk.config.remove("rope_scaling") {
            Some(rope) if beta.is_some() || mscale.is_some() => rope,
            None if beta.is_some() || mscale.is_some() => {
                return Err(gguf.malformed("has a temperature or a YaRN multiplier, and no rope.scaling"));
            }
            plain => {
                plain.into_iter().for_each(|rope| trunk.set("rope_scaling", rope));
                return Ok(trunk.config);
            }
        };
        if let Some(mscale) = mscale {
            (rope["mscale"], rope["mscale_all_dim"]) = (json!(mscale), json!(mscale));
        }
        if let Some(beta) = beta {
            trunk.set("model_type", "ministral3");
            rope["llama_4_scaling_beta"] = json!(beta);
        }
        trunk.set("rope_parameters", rope);
        Ok(trunk.config)
    },
};

/// llama.cpp needs all four multipliers, and so does this: what a missing one would mean differs between it and
/// Hugging Face.
pub(super) const GRANITE: Architecture = Architecture {
    name: "granite",
    model_types: &["granite"],
    needs: None,
    varies: false,
    names: &[PERMUTED, TREE],
    numbers: &[],
    understood: &["attention.scale", "embedding_scale", "residual_scale", "logit_scale"],
    config: |gguf| {
        let mut trunk = plain(gguf, "granite")?;
        for (ours, key) in [
            ("attention_multiplier", "attention.scale"),
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
        ] {
            trunk.set(ours, gguf.required_float(key)?);
        }
        Ok(trunk.config)
    },
};

/// `post_attention_layernorm` is what its name says in llama.cpp, though it is the norm before the MLP.
pub(super) const SEED_OSS: Architecture = Architecture {
    name: "seed_oss",
    model_types: &["seed_oss"],
    needs: None,
    varies: false,
    names: &[&[name("blk.post_attention_norm", "model.layers.{l}.post_attention_layernorm")], TREE],
    numbers: &[],
    understood: &[],
    config: |gguf| Ok(plain(gguf, "seed_oss")?.config),
};

/// The numbers of the xIELUs are metadata, as the checkpoint has them (before the softplus).
pub(super) const APERTUS: Architecture = Architecture {
    name: "apertus",
    model_types: &["apertus"],
    needs: None,
    varies: false,
    names: &[
        &[
            name("blk.attn_norm", "model.layers.{l}.attention_layernorm"),
            name("blk.ffn_norm", "model.layers.{l}.feedforward_layernorm"),
        ],
        TREE,
    ],
    numbers: &[
        ("xielu.alpha_p", "model.layers.{l}.mlp.act_fn.alpha_p", &[1]),
        ("xielu.alpha_n", "model.layers.{l}.mlp.act_fn.alpha_n", &[1]),
        ("xielu.beta", "model.layers.{l}.mlp.act_fn.beta", &[]),
        ("xielu.eps", "model.layers.{l}.mlp.act_fn.eps", &[]),
    ],
    understood: &[],
    config: |gguf| {
        let mut trunk = plain(gguf, "apertus")?;
        trunk.set("hidden_act", "xielu");
        // Hugging Face's class has a scaling where the key is absent.
        trunk.config.entry("rope_scaling").or_insert(json!({"rope_type": "default"}));
        Ok(trunk.config)
    },
};

/// RMS norms, SiLU, and a rope on whole heads.
pub(super) fn plain(gguf: &Gguf, model_type: &str) -> Result<Trunk, ModelError> {
    let mut trunk = gguf.trunk(model_type, "silu")?;
    gguf.rms_eps(&mut trunk)?;
    gguf.whole_rope(&mut trunk)?;
    Ok(trunk)
}

pub(super) fn biased(gguf: &Gguf, stem: &str) -> bool {
    gguf.tensor(&format!("blk.0.{stem}.bias")).is_some()
}

fn bias_keys(gguf: &Gguf, trunk: &mut Trunk) {
    trunk.set("attention_bias", biased(gguf, "attn_q") || biased(gguf, "attn_output"));
    trunk.set("mlp_bias", biased(gguf, "ffn_up"));
}

/// llama.cpp knows no windows in these.
fn no_window(gguf: &Gguf) -> Result<(), ModelError> {
    match gguf.uniform(WINDOW)?.filter(|w| *w > 0) {
        None => Ok(()),
        Some(window) => {
            let name = gguf.architecture()?;
            Err(gguf.unsupported(format!(
                "has a sliding window of {window}, and GGUF does not say which layers of a {name} use it"
            )))
        }
    }
}
