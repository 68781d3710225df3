//! Llama-Nemotron Super and Ultra (`nemotron-nas`, DeciLM; `block_configs`): Llama in which every layer has its own number
//! of KV heads and its own width, and some have no attention or no MLP.

use super::Family;
use super::llama::{NAMES, Trunk, mlp_bias, qkvo_bias};
use super::names::Tensors;
use super::parts::DimDefaults;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_HEADS, MAX_WIDTH};
use crate::model::inert::Inert;
use crate::model::rope::RopeDefaults;
use crate::model::spec::{ModelSpec, Op, SubLayer};

pub(super) const FAMILY: Family =
    Family { model_type: "nemotron-nas", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

const IN_BLOCK: &[Inert] = &[
    Inert::at("replace_with_linear", &["false"], "linear layers in place of others are not supported yet"),
    Inert::at("unshifted_sink", &["false"], "attention sinks of this kind are not supported"),
    Inert::at("use_prefill_window_in_sink_attention", &["false"], "attention sinks of this kind are not supported"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { mlp_is_four_wide: true, ..DimDefaults::LLAMA };
    let trunk = Trunk::read(cfg, dims, RopeDefaults::default())?;
    let (bias, mlp_bias) = (qkvo_bias(cfg, tensors)?, mlp_bias(cfg, tensors)?);
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, mlp_bias, |_, attn| attn.bias = bias);
    let missing = || cfg.error("block_configs", "the key is missing");
    let blocks = cfg.table_per_layer("block_configs", spec.n_layers())?.ok_or_else(missing)?;
    for (block, table) in spec.blocks.iter_mut().zip(blocks) {
        let subs = std::mem::take(&mut block.subs).into_iter();
        let kept = subs.map(|sub| vary(sub, &table, spec.d_model)).collect::<Result<Vec<_>, _>>()?;
        block.subs = kept.into_iter().flatten().collect();
        table.finish(&[])?;
    }
    Ok(spec)
}

/// The sub-layer as its table wants it; `None` where there is none. Widths follow from `ffn_mult` as in the published
/// `modeling_decilm.py`: 2/3 · ffn_mult · d_model, rounded up to a multiple of 256.
fn vary(mut sub: SubLayer, block: &Config, d_model: usize) -> Result<Option<SubLayer>, ModelError> {
    let name = if matches!(sub.op, Op::Attn(_)) { "attention" } else { "ffn" };
    let table = block.table(name)?.ok_or_else(|| block.error(name, "the key is missing"))?;
    let absent = table.flag("no_op")?.unwrap_or(false);
    let rounded = |width: f64| (width as usize).next_multiple_of(256);
    let group = table.size(&["n_heads_in_group"], MAX_HEADS)?;
    let width = match (table.size(&["intermediate_size"], MAX_WIDTH)?, table.positive(&["ffn_mult"])?) {
        (None, Some(n)) => Some(rounded((2.0 * n * d_model as f64 / 3.0).min(MAX_WIDTH as f64 + 1.0))),
        (width, _) => width,
    };
    table.finish(&[IN_BLOCK])?;
    match (&mut sub.op, group, width) {
        _ if absent => return Ok(None),
        (Op::Attn(a), Some(group), _) if a.n_heads % group == 0 => a.n_kv_heads = a.n_heads / group,
        (Op::Attn(_), ..) => return Err(table.error("n_heads_in_group", "is missing or does not divide the heads")),
        (Op::Mlp(m), _, Some(width)) if (1..=MAX_WIDTH).contains(&width) => m.d_mlp = width,
        _ => return Err(table.error("ffn_mult", "is missing, too small or too large")),
    }
    Ok(Some(sub))
}
