//! Model types that are known and not supported, with what is missing for each.

/// What a model needs that is not there.
const KINDS: &[(&str, &[&str])] = &[
    (
        "mixture-of-experts layers are not supported yet",
        &[
            "mixtral",
            "qwen2_moe",
            "qwen3_moe",
            "olmoe",
            "glm4_moe",
            "gpt_oss",
            "phimoe",
            "minimax",
            "minimax_m2",
            "dots1",
            "llama4_text",
            "granitemoe",
            "granitemoeshared",
            "jetmoe",
            "dbrx",
            "ernie4_5_moe",
            "hunyuan_v1_moe",
            "flex_olmo",
            "afmoe",
            "exaone_moe",
        ],
    ),
    (
        "multi-head latent attention (MLA) is not supported yet",
        &[
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "kimi_k2",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "mistral4",
            "minicpm3",
            "longcat_flash",
        ],
    ),
    (
        "linear attention (gated DeltaNet) is not supported yet",
        &["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid", "kimi_linear", "lfm2", "lfm2_moe"],
    ),
    (
        "state-space layers (Mamba) are not supported yet",
        &[
            "mamba",
            "mamba2",
            "falcon_mamba",
            "nemotron_h",
            "jamba",
            "bamba",
            "zamba",
            "zamba2",
            "falcon_h1",
            "granitemoehybrid",
            "plamo2",
        ],
    ),
    ("recurrent layers are not supported yet", &["rwkv", "rwkv5", "rwkv6", "recurrent_gemma", "xlstm"]),
    (
        "per-layer embeddings and KV heads shared between layers are not supported",
        &["gemma3n", "gemma3n_text", "gemma4", "gemma4_text"],
    ),
    ("several residual streams are not supported", &["deepseek_v4", "glm5_next", "qwen4_exp"]),
    (
        "models of images or sound beside text are not supported; use a checkpoint of the text model alone",
        &[
            "llama4",
            "mllama",
            "llava",
            "llava_next",
            "paligemma",
            "idefics2",
            "idefics3",
            "smolvlm",
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen3_vl",
            "qwen3_5",
            "qwen3_5_moe",
            "cohere2_vision",
            "aya_vision",
            "pixtral",
            "phi4_multimodal",
            "qwen2_audio",
            "whisper",
            "glm4v",
        ],
    ),
    (
        "only decoder-only language models are supported",
        &[
            "bert",
            "roberta",
            "distilbert",
            "albert",
            "deberta",
            "deberta-v2",
            "electra",
            "modernbert",
            "xlm-roberta",
            "t5",
            "mt5",
            "bart",
            "mbart",
            "pegasus",
            "xlnet",
            "clip",
            "vit",
        ],
    ),
];

/// What is missing, and the types that need it.
pub(in crate::model) fn kinds() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    KINDS.iter().copied()
}

/// What is missing for `model_type`; `None` for a type that nobody has heard of here.
pub(super) fn missing(model_type: &str) -> Option<&'static str> {
    KINDS.iter().find(|(_, types)| types.contains(&model_type)).map(|(what, _)| *what)
}
