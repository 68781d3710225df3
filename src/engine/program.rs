//! The order in which a model's sub-layers run, and what can still reach the metric from where.
//!
//! A *step* maps the residual stream at one *boundary* to the next: one sub-layer in a sequential block, a whole block
//! where the branches are parallel. Boundary 0 is the embedding; step i leads from boundary i to boundary i + 1. Every
//! patch becomes visible in the residual stream at some boundary, and that is where its cell enters the wave.

use super::site::Site;
use crate::model::ModelSpec;
use crate::model::spec::Op;

/// Sub-layers that run together: those of one parallel block, or a single one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub layer: usize,
    /// Indices into the block's `subs`.
    pub subs: std::ops::Range<usize>,
    /// More than one branch reads the step's input.
    pub parallel: bool,
}

/// The steps of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub steps: Vec<Step>,
    /// First boundary of every layer, and one more for the end.
    layer_start: Vec<usize>,
    /// For every boundary, how far back from the last position the metric can still see: positions before
    /// `len − reach` are dead there. `None` is all the way.
    reach: Vec<Option<usize>>,
}

impl Program {
    pub fn new(spec: &ModelSpec) -> Program {
        let (mut steps, mut layer_start) = (Vec::new(), Vec::new());
        for (layer, block) in spec.blocks.iter().enumerate() {
            layer_start.push(steps.len());
            let n = block.subs.len();
            if block.parallel && n > 1 {
                steps.push(Step { layer, subs: 0..n, parallel: true });
            } else {
                steps.extend((0..n).map(|i| Step { layer, subs: i..i + 1, parallel: false }));
            }
        }
        layer_start.push(steps.len());
        // Backward from the metric, which reads the last position alone. A causal attention without a window lets
        // every earlier position through; one with a window of w lets w − 1 more through.
        let mut reach: Vec<Option<usize>> = vec![Some(1); steps.len() + 1];
        for (i, step) in steps.iter().enumerate().rev() {
            let mut widest = reach[i + 1];
            for sub in &spec.blocks[step.layer].subs[step.subs.clone()] {
                if let Op::Attn(a) = &sub.op {
                    widest = match (reach[i + 1], a.window) {
                        (Some(r), Some(w)) => Some(r.saturating_add(w.saturating_sub(1))),
                        _ => None,
                    };
                }
            }
            reach[i] = widest;
        }
        Program { steps, layer_start, reach }
    }

    pub fn n_boundaries(&self) -> usize {
        self.steps.len() + 1
    }

    /// The first position of a prompt of `len` tokens whose residual at `boundary` can reach the metric.
    pub fn live_from(&self, boundary: usize, len: usize) -> usize {
        self.reach[boundary].map_or(0, |r| len.saturating_sub(r))
    }

    /// The boundary that is the input of `layer`; `n_layers` is the end.
    pub fn layer_input(&self, layer: usize) -> usize {
        self.layer_start[layer]
    }

    /// The step in which `layer` runs its attention or its MLP.
    pub fn step_of(&self, spec: &ModelSpec, layer: usize, wants_attn: bool) -> Option<usize> {
        let subs = &spec.blocks[layer].subs;
        let index = subs.iter().position(|s| matches!(s.op, Op::Attn(_)) == wants_attn)?;
        let steps = self.layer_start[layer]..self.layer_start[layer + 1];
        steps.into_iter().find(|s| self.steps[*s].subs.contains(&index))
    }

    /// The boundary at which a patch of `site` in `layer` becomes visible in the residual stream.
    pub fn entry_boundary(&self, spec: &ModelSpec, site: Site, layer: usize) -> Option<usize> {
        if !site.exists(spec, layer) {
            return None;
        }
        match site {
            Site::ResidPre => Some(self.layer_input(layer)),
            Site::ResidPost => Some(self.layer_input(layer + 1)),
            Site::ResidMid => Some(self.layer_input(layer) + 1),
            Site::MlpOut | Site::MlpPre | Site::MlpPost => self.step_of(spec, layer, false).map(|s| s + 1),
            _ => self.step_of(spec, layer, true).map(|s| s + 1),
        }
    }
}
