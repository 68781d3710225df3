//! A model's parameters on a device, fused into as few GEMMs as its sites allow.

use crate::backend::{Backend, BackendError, Norm, Unembedding, View, XIelu};
use crate::model::spec::{Act, AttnSpec, MlpSpec, NormScope, NormSpec, Op, XIELU};
use crate::model::{ModelSpec, Params};
use std::collections::HashMap;
use std::sync::Arc;

/// The weights of one sub-layer.
pub enum SubWeights<B: Backend> {
    Attn {
        /// q | k | v: `[d_model, n_heads * d_qk + n_kv_heads * (d_qk + d_v)]`
        qkv: B::Weight,
        qkv_bias: Option<B::Buf>,
        /// `[n_heads * d_v, d_model]`
        o: B::Weight,
        o_bias: Option<B::Buf>,
        /// `[n_heads]`
        sinks: Option<B::Buf>,
    },
    Mlp {
        /// gate | up, or up alone: `[d_model, 2 d_mlp]` or `[d_model, d_mlp]`
        up: B::Weight,
        up_bias: Option<B::Buf>,
        /// `[d_mlp, d_model]`
        down: B::Weight,
        down_bias: Option<B::Buf>,
        /// Zeros unless the activation is xIELU.
        xielu: XIelu,
    },
}

impl<B: Backend> SubWeights<B> {
    /// The numbers of an MLP's activation.
    pub fn xielu(&self) -> XIelu {
        match self {
            SubWeights::Mlp { xielu, .. } => *xielu,
            SubWeights::Attn { .. } => XIelu::default(),
        }
    }
}

struct NormParams<B: Backend> {
    weight: Option<B::Buf>,
    bias: Option<B::Buf>,
}

/// A model ready to run on `backend`.
pub struct Model<B: Backend> {
    pub spec: Arc<ModelSpec>,
    pub backend: B,
    /// `[d_vocab, d_embed]`
    pub(super) embed: B::Buf,
    /// `[d_embed, d_model]`, where the two differ
    pub(super) proj_in: Option<B::Weight>,
    /// `[d_model, d_embed]`
    pub(super) proj_out: Option<B::Weight>,
    /// `[rows, d_model]`
    pub(super) positions: Option<B::Buf>,
    unembed: Option<B::Buf>,
    unembed_bias: Option<B::Buf>,
    norms: HashMap<String, NormParams<B>>,
    /// One per sub-layer of every block.
    pub(crate) layers: Vec<Vec<SubWeights<B>>>,
}

/// Widths of the parts of a fused qkv row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QkvWidths {
    pub q: usize,
    pub k: usize,
    pub v: usize,
}

impl QkvWidths {
    pub fn of(a: &AttnSpec) -> Self {
        QkvWidths { q: a.n_heads * a.d_qk, k: a.n_kv_heads * a.d_qk, v: a.n_kv_heads * a.d_v }
    }

    pub fn total(self) -> usize {
        self.q + self.k + self.v
    }
}

/// The formula's numbers from the stored ones (`XIELUActivation` of transformers' activations.py).
fn read_xielu(params: &dyn Params, layer: usize) -> Result<XIelu, BackendError> {
    let mut stored = [0.0f32; 4];
    for (number, (name, _)) in stored.iter_mut().zip(XIELU) {
        params.read(&format!("blocks.{layer}.mlp.act.{name}"), std::slice::from_mut(number))?;
    }
    let [alpha_p, alpha_n, beta, eps] = stored;
    // ln(1 + exp(x)) that does not overflow
    let softplus = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
    Ok(XIelu { alpha_p: softplus(alpha_p), alpha_n: beta + softplus(alpha_n), beta, eps })
}

/// Width of a row of the MLP's first GEMM.
pub fn mlp_width(m: &MlpSpec) -> usize {
    if m.gated { 2 * m.d_mlp } else { m.d_mlp }
}

impl<B: Backend> Model<B> {
    /// Reads every parameter of `spec` once and packs it on the device; `progress` is called with the share done.
    ///
    /// # Errors
    /// What `params` reports (a tensor that is not finite, a damaged file), or no memory on the device.
    pub fn load(
        spec: Arc<ModelSpec>,
        params: &dyn Params,
        backend: B,
        progress: &dyn Fn(f64),
    ) -> Result<Model<B>, BackendError> {
        let shapes: HashMap<String, Vec<usize>> = spec.params().into_iter().map(|p| (p.name, p.shape)).collect();
        let tensor = |name: &str| -> Result<B::Buf, BackendError> {
            let mut numbers = vec![0.0; shapes[name].iter().product()];
            params.read(name, &mut numbers)?;
            backend.upload(numbers)
        };
        let optional = |name: &str| shapes.contains_key(name).then(|| tensor(name)).transpose();
        let embed = tensor("embed.weight")?;
        let (d, d_embed) = (spec.d_model, spec.d_embed());
        let projection = |name: &str, k: usize, n: usize| {
            let pack = || backend.pack(k, &[n], &mut |_, out| params.read(name, out));
            spec.embed.projected.is_some().then(pack).transpose()
        };
        let proj_in = projection("proj_in.weight", d_embed, d)?;
        let proj_out = projection("proj_out.weight", d, d_embed)?;
        let positions = optional("pos.weight")?;
        let mut layers = Vec::with_capacity(spec.n_layers());
        for (l, block) in spec.blocks.iter().enumerate() {
            let mut subs = Vec::new();
            for sub in &block.subs {
                let fused = |parts: &[(&str, usize)], k: usize| -> Result<_, BackendError> {
                    let widths: Vec<usize> = parts.iter().map(|p| p.1).collect();
                    let name = |i: usize, what: &str| format!("blocks.{l}.{}.{what}", parts[i].0);
                    let weight = backend.pack(k, &widths, &mut |i, out| params.read(&name(i, "weight"), out))?;
                    let mut bias = vec![0.0; widths.iter().sum()];
                    let (mut at, mut any) = (0, false);
                    for (i, w) in widths.iter().enumerate() {
                        if shapes.contains_key(&name(i, "bias")) {
                            params.read(&name(i, "bias"), &mut bias[at..at + w])?;
                            any = true;
                        }
                        at += w;
                    }
                    let bias = if any { Some(backend.upload(bias)?) } else { None };
                    Ok((weight, bias))
                };
                subs.push(match &sub.op {
                    Op::Attn(a) => {
                        let w = QkvWidths::of(a);
                        let parts = [("attn.q", w.q), ("attn.k", w.k), ("attn.v", w.v)];
                        let (qkv, qkv_bias) = fused(&parts, spec.d_model)?;
                        let (o, o_bias) = fused(&[("attn.o", spec.d_model)], a.n_heads * a.d_v)?;
                        let sinks = optional(&format!("blocks.{l}.attn.sinks"))?;
                        SubWeights::Attn { qkv, qkv_bias, o, o_bias, sinks }
                    }
                    Op::Mlp(m) => {
                        let (gate, up) = (("mlp.gate", m.d_mlp), ("mlp.up", m.d_mlp));
                        let parts = if m.gated { vec![gate, up] } else { vec![up] };
                        let (up, up_bias) = fused(&parts, spec.d_model)?;
                        let (down, down_bias) = fused(&[("mlp.down", spec.d_model)], m.d_mlp)?;
                        let xielu = if m.act == Act::XIelu { read_xielu(params, l)? } else { XIelu::default() };
                        SubWeights::Mlp { up, up_bias, down, down_bias, xielu }
                    }
                });
            }
            layers.push(subs);
            progress((l + 1) as f64 / spec.n_layers() as f64);
        }
        let mut norms = HashMap::new();
        for norm in spec.norms() {
            let tensor = &norm.tensor;
            if !norms.contains_key(tensor) {
                let weight = optional(&format!("{tensor}.weight"))?;
                let bias = optional(&format!("{tensor}.bias"))?;
                norms.insert(tensor.clone(), NormParams { weight, bias });
            }
        }
        let unembed = optional("unembed.weight")?;
        let unembed_bias = optional("unembed.bias")?;
        Ok(Model {
            embed,
            proj_in,
            proj_out,
            positions,
            unembed,
            unembed_bias,
            norms,
            layers,
            backend,
            spec: spec.clone(),
        })
    }

    /// The norm with its parameters; `heads` slices per row where it works head by head.
    pub fn norm<'a>(&'a self, spec: &NormSpec, heads: usize) -> Norm<'a, B::Buf> {
        let params = &self.norms[&spec.tensor];
        Norm {
            kind: spec.kind,
            eps: spec.eps,
            weight_kind: spec.weight,
            weight: params.weight.as_ref(),
            bias: params.bias.as_ref(),
            heads: if spec.scope == NormScope::Full { 1 } else { heads },
            distinct: spec.scope == NormScope::PerHeadDistinct,
        }
    }

    pub fn unembedding(&self) -> Unembedding<'_, B::Buf> {
        Unembedding {
            matrix: self.unembed.as_ref().unwrap_or(&self.embed),
            bias: self.unembed_bias.as_ref(),
            d_vocab: self.spec.d_vocab,
            scale: self.spec.unembed.scale,
            softcap: self.spec.unembed.softcap,
        }
    }

    /// A bias as one row `[1, n]`, columns `range` of it.
    pub(super) fn bias_row(bias: Option<&B::Buf>, range: std::ops::Range<usize>) -> Option<View<'_, B::Buf>> {
        bias.map(|b| View { buf: b, offset: range.start, rows: 1, cols: range.len(), stride: range.len() })
    }
}
