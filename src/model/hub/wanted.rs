//! Which files of a repository a model is made of.

use crate::model::{pickle, safetensors};
use std::collections::BTreeSet;

pub(super) const CONFIG: &str = "config.json";
/// Files that a model may lack. What they say changes ids and BOS, so that they are fetched wherever they are.
pub(super) const OPTIONAL: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Where the weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Weights {
    Single(String),
    /// An index, and how its shards end.
    Sharded(&'static str, &'static str),
}

/// The weights among the files of a folder: safetensors before pickles, one file before shards, as in transformers; a
/// lone `*.safetensors` of another name last.
pub(super) fn weights(names: &BTreeSet<String>) -> Option<Weights> {
    if names.contains(safetensors::SINGLE) {
        return Some(Weights::Single(safetensors::SINGLE.to_owned()));
    }
    if names.contains(safetensors::INDEX) {
        return Some(Weights::Sharded(safetensors::INDEX, ".safetensors"));
    }
    if names.contains(pickle::SINGLE) {
        return Some(Weights::Single(pickle::SINGLE.to_owned()));
    }
    if names.contains(pickle::INDEX) {
        return Some(Weights::Sharded(pickle::INDEX, ".bin"));
    }
    let mut others = names.iter().filter(|n| n.ends_with(".safetensors") && !n.contains('/'));
    match (others.next(), others.next()) {
        (Some(only), None) => Some(Weights::Single(only.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_come_before_pickles() {
        let of = |names: &[&str]| weights(&names.iter().map(|n| (*n).to_owned()).collect());
        let single = |n: &str| Some(Weights::Single(n.to_owned()));
        assert_eq!(of(&["pytorch_model.bin", "model.safetensors", "tf_model.h5"]), single("model.safetensors"));
        let sharded = Some(Weights::Sharded("model.safetensors.index.json", ".safetensors"));
        assert_eq!(of(&["pytorch_model.bin", "model.safetensors.index.json"]), sharded);
        assert_eq!(of(&["pytorch_model.bin", "adapter.safetensors"]), single("pytorch_model.bin"));
        let pickled = Some(Weights::Sharded("pytorch_model.bin.index.json", ".bin"));
        assert_eq!(of(&["pytorch_model.bin.index.json"]), pickled);
        assert_eq!(of(&["weights.safetensors", "onnx/other.safetensors"]), single("weights.safetensors"));
        assert_eq!(of(&["a.safetensors", "b.safetensors"]), None);
        assert_eq!(of(&["flax_model.msgpack"]), None);
    }
}
