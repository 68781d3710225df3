//! Models of text and images around a language model that is supported: its config is the table `text_config`, and its
//! tensors carry one more prefix. What sees the images is left aside; prompts are text.

use super::ModelError;
use super::config::Config;
use super::inert::{self, Inert};
use serde_json::{Map, Value};

/// (`model_type`, that of its `text_config` where the file does not say)
const WRAPPERS: &[(&str, &str)] = &[("gemma3", "gemma3_text"), ("mistral3", "mistral")];

/// Prefixes of the tensors that no prompt of text reaches.
const OF_IMAGES: &[&str] =
    &["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

const IMAGES: &str = "matters only where there are images";
const INERT: &[Inert] = &[
    Inert::any("vision_config", IMAGES),
    Inert::any("boi_token_index", IMAGES),
    Inert::any("eoi_token_index", IMAGES),
    Inert::any("image_token_index", IMAGES),
    Inert::any("image_token_id", IMAGES),
    Inert::any("mm_tokens_per_image", IMAGES),
    Inert::any("projector_hidden_act", IMAGES),
    Inert::any("multimodal_projector_bias", IMAGES),
    Inert::any("spatial_merge_size", IMAGES),
    Inert::any("vision_feature_layer", IMAGES),
    Inert::any("tie_word_embeddings", "handed on to text_config"),
];

/// The config of the language model, and whether it was inside a wrapper.
///
/// # Errors
/// [`ModelError::Config`] for a wrapper without `text_config`, or with a key that is not known.
pub(super) fn language_model(mut config: Map<String, Value>, allow: &[String]) -> Result<(Config, bool), ModelError> {
    let name = config.get("model_type").and_then(Value::as_str);
    let Some((_, inner)) = WRAPPERS.iter().find(|(wrapper, _)| Some(*wrapper) == name) else {
        return Ok((Config::new(config, allow), false));
    };
    let tied = config.get("tie_word_embeddings").cloned();
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        text.entry("model_type").or_insert_with(|| Value::from(*inner));
        if let Some(tied) = tied {
            text.entry("tie_word_embeddings").or_insert(tied);
        }
    }
    let outer = Config::new(config, allow);
    let text = outer.table("text_config")?.ok_or_else(|| outer.error("text_config", "the key is missing"))?;
    outer.finish(&[INERT, inert::SHARED])?;
    Ok((text, true))
}

/// Whether a wrapped model's tensor belongs to what sees the images.
pub(super) fn is_of_images(tensor: &str) -> bool {
    OF_IMAGES.iter().any(|prefix| tensor.starts_with(prefix))
}
