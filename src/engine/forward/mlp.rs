//! The MLP branch, with its patch points.

use super::Forward;
use crate::backend::{Backend, BackendError, Epilogue, Then, View, ViewMut, WeightSlice};
use crate::engine::cache::Point;
use crate::engine::patch::PatchPoint;
use crate::engine::recorder::Recorder;
use crate::engine::segment::{Segment, n_rows};
use crate::engine::weights::{Model, SubWeights, mlp_width};
use crate::engine::workspace::Workspace;
use crate::model::spec::{Act, MlpSpec, SubLayer};

impl<B: Backend> Forward<'_, B> {
    /// The MLP branch of the rows in `ws.x` up to its hidden rows after the activation, which stay in `ws.wide`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn mlp(
        &self,
        layer: usize,
        sub: &SubLayer,
        m: &MlpSpec,
        weights: &SubWeights<B>,
        segments: &[Segment],
        ws: &mut Workspace<B>,
        patches: &[PatchPoint<'_, B>],
        recorder: &mut Option<Recorder<'_, B>>,
    ) -> Result<(), BackendError> {
        let SubWeights::Mlp { up, up_bias, xielu, .. } = weights else { unreachable!("weights follow the spec") };
        let (backend, d, n) = (&self.model.backend, self.model.spec.d_model, n_rows(segments));
        let Workspace { x, h, wide, .. } = ws;
        let width = mlp_width(m);
        let input = self.branch_input(sub, x, h, n);
        let bias = Model::<B>::bias_row(up_bias.as_ref(), 0..width);
        let slice = WeightSlice { k: 0..d, n: 0..width };
        // xIELU has learned numbers, which the epilogue does not take.
        let seen = m.act == Act::XIelu || Self::is_seen(layer, &[Point::MlpPre, Point::MlpUp], patches, recorder);
        let then = match (seen, m.gated) {
            (true, _) => Then::Write,
            (false, true) => Then::Gate(m.act),
            (false, false) => Then::Activate(m.act),
        };
        backend.gemm(input, up, slice, Epilogue { bias, then }, ViewMut::packed(wide, n, width));
        if seen {
            if let Some(r) = recorder {
                let hidden = View::packed(&*wide, n, width);
                r.point(backend, layer, Point::MlpPre, hidden.columns(0..m.d_mlp))?;
                if m.gated {
                    r.point(backend, layer, Point::MlpUp, hidden.columns(m.d_mlp..width))?;
                }
            }
            let pre = ViewMut::packed(wide, n, width).columns(0..m.d_mlp);
            self.apply(patches, layer, Point::MlpPre, segments, pre, m.d_mlp);
            backend.activation(ViewMut::packed(wide, n, width), m.act, *xielu, m.gated);
        }
        if let Some(r) = recorder {
            r.point(backend, layer, Point::MlpPost, View::packed(&*wide, n, width).columns(0..m.d_mlp))?;
        }
        let post = ViewMut::packed(wide, n, width).columns(0..m.d_mlp);
        self.apply(patches, layer, Point::MlpPost, segments, post, m.d_mlp);
        Ok(())
    }

    /// From `ws.wide` to what the MLP adds, in `ws.mlp_out`; with `add`, it is added to `ws.x`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn mlp_output(
        &self,
        layer: usize,
        sub: &SubLayer,
        m: &MlpSpec,
        weights: &SubWeights<B>,
        segments: &[Segment],
        ws: &mut Workspace<B>,
        patches: &[PatchPoint<'_, B>],
        recorder: &mut Option<Recorder<'_, B>>,
        add: bool,
    ) -> Result<(), BackendError> {
        let SubWeights::Mlp { down, down_bias, .. } = weights else { unreachable!("weights follow the spec") };
        let (backend, d, n) = (&self.model.backend, self.model.spec.d_model, n_rows(segments));
        let Workspace { x, wide, mlp_out, .. } = ws;
        let post = View::packed(&*wide, n, mlp_width(m)).columns(0..m.d_mlp);
        if add && sub.post_norm.is_none() && !Self::is_seen(layer, &[Point::MlpOut], patches, recorder) {
            self.add_product(layer, post, down, down_bias.as_ref(), x, mlp_out);
            return Ok(());
        }
        self.mlp_down(layer, sub, m, weights, post, mlp_out);
        if let Some(r) = recorder {
            r.point(backend, layer, Point::MlpOut, View::packed(&*mlp_out, n, d))?;
        }
        self.apply(patches, layer, Point::MlpOut, segments, ViewMut::packed(mlp_out, n, d), d);
        if add {
            backend.add(ViewMut::packed(x, n, d), View::packed(&*mlp_out, n, d), 1.0);
        }
        Ok(())
    }

    /// From the input of the down projection `[n, d_mlp]` to what the MLP adds.
    pub(crate) fn mlp_down(
        &self,
        layer: usize,
        sub: &SubLayer,
        m: &MlpSpec,
        weights: &SubWeights<B>,
        post: View<'_, B::Buf>,
        out: &mut B::Buf,
    ) {
        let SubWeights::Mlp { down, down_bias, .. } = weights else { unreachable!("weights follow the spec") };
        let (d, n) = (self.model.spec.d_model, post.rows);
        let bias = Model::<B>::bias_row(down_bias.as_ref(), 0..d);
        let slice = WeightSlice { k: 0..m.d_mlp, n: 0..d };
        self.model.backend.gemm(post, down, slice, Epilogue::bias(bias), ViewMut::packed(out, n, d));
        self.finish_branch(layer, sub, out, n);
    }
}
