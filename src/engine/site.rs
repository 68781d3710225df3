//! The places of a forward pass that can be patched, under TransformerLens's names.
//!
//! Exact definitions, family by family, are in `docs/sites.md`.

use crate::model::ModelSpec;
use crate::model::spec::Op;
use std::fmt;
use std::str::FromStr;

/// An activation of one layer. The comments give what a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Block input `[d_model]`.
    ResidPre,
    /// After the attention's output is added `[d_model]`; absent where attention and MLP are parallel.
    ResidMid,
    /// Block output `[d_model]`.
    ResidPost,
    /// What attention adds to the residual: after bias, post-norm and residual multiplier `[d_model]`.
    AttnOut,
    /// What the MLP adds to the residual, likewise `[d_model]`.
    MlpOut,
    /// Input of the output projection `[n_heads, d_v]`.
    Z,
    /// Query projection with bias, before clipping, norm and rope `[n_heads, d_qk]`.
    Q,
    /// Key projection, likewise `[n_kv_heads, d_qk]`.
    K,
    /// Value projection with bias, before clipping `[n_kv_heads, d_v]`.
    V,
    /// After scale, position bias, softcap and mask `[n_heads, n_positions]`; the row is the destination.
    AttnScores,
    /// After the softmax `[n_heads, n_positions]`; the row is the destination.
    Pattern,
    /// z_h · W_O[h] of each head, without bias `[n_heads, d_model]`.
    Result,
    /// Gate projection (up projection where there is no gate), before the activation `[d_mlp]`.
    MlpPre,
    /// Input of the down projection: act(pre), times the up projection where there is a gate `[d_mlp]`.
    MlpPost,
}

impl Site {
    pub const ALL: [Site; 14] = [
        Site::ResidPre,
        Site::ResidMid,
        Site::ResidPost,
        Site::AttnOut,
        Site::MlpOut,
        Site::Z,
        Site::Q,
        Site::K,
        Site::V,
        Site::AttnScores,
        Site::Pattern,
        Site::Result,
        Site::MlpPre,
        Site::MlpPost,
    ];

    /// TransformerLens's short name.
    pub fn name(self) -> &'static str {
        match self {
            Site::ResidPre => "resid_pre",
            Site::ResidMid => "resid_mid",
            Site::ResidPost => "resid_post",
            Site::AttnOut => "attn_out",
            Site::MlpOut => "mlp_out",
            Site::Z => "z",
            Site::Q => "q",
            Site::K => "k",
            Site::V => "v",
            Site::AttnScores => "attn_scores",
            Site::Pattern => "pattern",
            Site::Result => "result",
            Site::MlpPre => "mlp_pre",
            Site::MlpPost => "mlp_post",
        }
    }

    /// The hook's full name in layer `layer`.
    pub fn hook_name(self, layer: usize) -> String {
        match self {
            Site::MlpPre => format!("blocks.{layer}.mlp.hook_pre"),
            Site::MlpPost => format!("blocks.{layer}.mlp.hook_post"),
            s if s.has_heads() => format!("blocks.{layer}.attn.hook_{}", s.name()),
            s => format!("blocks.{layer}.hook_{}", s.name()),
        }
    }

    pub fn has_heads(self) -> bool {
        use Site::*;
        matches!(self, Z | Q | K | V | AttnScores | Pattern | Result)
    }

    /// Heads at this site in layer `layer` (KV heads for k and v), 0 where the layer lacks the site, 1 where the site
    /// has no heads.
    pub fn heads(self, spec: &ModelSpec, layer: usize) -> usize {
        if !self.exists(spec, layer) {
            return 0;
        }
        match (self, spec.attn(layer)) {
            (Site::K | Site::V, Some(a)) => a.n_kv_heads,
            (s, Some(a)) if s.has_heads() => a.n_heads,
            _ => 1,
        }
    }

    pub fn exists(self, spec: &ModelSpec, layer: usize) -> bool {
        let block = &spec.blocks[layer];
        match self {
            Site::ResidPre | Site::ResidPost => true,
            Site::ResidMid => !block.parallel && block.subs.len() == 2 && matches!(block.subs[0].op, Op::Attn(_)),
            Site::MlpOut | Site::MlpPre | Site::MlpPost => spec.mlp(layer).is_some(),
            _ => spec.attn(layer).is_some(),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no site has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown site {0:?}; the sites are {list}", list = Site::ALL.map(Site::name).join(", "))]
pub struct UnknownSite(pub String);

impl FromStr for Site {
    type Err = UnknownSite;

    /// Short names (`z`, `resid_pre`), hook names (`hook_z`, `attn.hook_z`, `mlp.hook_pre`) and full ones with any or
    /// no layer (`blocks.*.attn.hook_z`).
    fn from_str(name: &str) -> Result<Self, UnknownSite> {
        let mut short = name;
        if let Some(rest) = short.strip_prefix("blocks.") {
            short = rest.split_once('.').map_or(short, |(_, rest)| rest);
        }
        short = short.strip_prefix("attn.").unwrap_or(short);
        let short = match short.strip_prefix("mlp.") {
            Some("hook_pre") => "mlp_pre",
            Some("hook_post") => "mlp_post",
            _ => short.strip_prefix("hook_").unwrap_or(short),
        };
        Site::ALL.into_iter().find(|s| s.name() == short).ok_or_else(|| UnknownSite(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_hook_names_its_site() {
        for site in Site::ALL {
            assert_eq!(site.name().parse(), Ok(site));
            assert_eq!(site.hook_name(5).parse(), Ok(site));
            assert_eq!(site.hook_name(5).replace(".5.", ".*.").parse(), Ok(site));
        }
        assert_eq!("attn.hook_z".parse(), Ok(Site::Z));
        assert!("zz".parse::<Site>().unwrap_err().to_string().contains("resid_pre, resid_mid"));
    }
}
