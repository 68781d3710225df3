//! OLMo, whose norms have no parameters, and OLMo-2, OLMo-3 and EXAONE-4, whose norms follow the branches.

use super::llama::{TREE, plain};
use super::*;

/// The converter permutes weights only; biases, which no published model has, stay as they are.
pub(super) const OLMO: Architecture = Architecture {
    name: "olmo",
    model_types: &["olmo"],
    needs: None,
    varies: false,
    names: &[
        &[
            ruled("blk.attn_q", "model.layers.{l}.self_attn.q_proj", Rule::InterleavedWeight(Part::Q)),
            ruled("blk.attn_k", "model.layers.{l}.self_attn.k_proj", Rule::InterleavedWeight(Part::K)),
        ],
        TREE,
    ],
    numbers: &[],
    understood: &["attention.clamp_kqv"],
    config: |gguf| {
        let mut trunk = gguf.trunk("olmo", "silu")?;
        gguf.layer_norm_eps(&mut trunk)?;
        gguf.whole_rope(&mut trunk)?;
        trunk.set("clip_qkv", gguf.float_of_family("attention.clamp_kqv")?.filter(|limit| *limit != 0.0));
        Ok(trunk.config)
    },
};

const AFTER_BRANCHES: &[Name] = &[
    name("blk.post_attention_norm", "model.layers.{l}.post_attention_layernorm"),
    name("blk.post_ffw_norm", "model.layers.{l}.post_feedforward_layernorm"),
];

const WINDOWS: [&str; 2] = ["attention.sliding_window", "attention.sliding_window_pattern"];

/// With a window it is OLMo-3, every fourth layer of which is full where nothing else is recorded. The scaling of the rope
/// is for the full layers, in llama.cpp as in Hugging Face.
pub(super) const OLMO2: Architecture = Architecture {
    name: "olmo2",
    model_types: &["olmo2", "olmo3"],
    needs: None,
    varies: false,
    names: &[AFTER_BRANCHES, TREE],
    numbers: &[],
    understood: &[WINDOWS[0], WINDOWS[1], "rope.freq_base_swa"],
    config: |gguf| {
        let mut trunk = plain(gguf, "olmo2")?;
        if gguf.sliding_layers(&mut trunk, 4)? {
            trunk.set("model_type", "olmo3");
        } else {
            trunk.config.remove("sliding_window");
            trunk.config.remove("layer_types");
        }
        let (full, sliding) = (gguf.float_of_family("rope.freq_base")?, gguf.float_of_family("rope.freq_base_swa")?);
        if sliding.is_some() && sliding != full {
            return Err(gguf.unsupported("has a rope of its own for the layers that slide (rope.freq_base_swa)"));
        }
        Ok(trunk.config)
    },
};

/// Where nothing is recorded and there is a window, every fourth layer is full.
pub(super) const EXAONE4: Architecture = Architecture {
    name: "exaone4",
    model_types: &["exaone4"],
    understood: &WINDOWS,
    config: |gguf| {
        let mut trunk = plain(gguf, "exaone4")?;
        gguf.sliding_layers(&mut trunk, 4)?;
        Ok(trunk.config)
    },
    ..OLMO2
};
