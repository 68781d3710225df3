//! The MLP branch, with its patch points.

use super::Forward;
use crate::backend::{Backend, BackendError, View, ViewMut, WeightSlice};
use crate::engine::cache::Point;
use crate::engine::patch::PatchPoint;
use crate::engine::recorder::Recorder;
use crate::engine::segment::{Segment, n_rows};
use crate::engine::weights::{Model, SubWeights, mlp_width};
use crate::engine::workspace::Workspace;
use crate::model::spec::{MlpSpec, SubLayer};

impl<B: Backend> Forward<'_, B> {
    /// The MLP branch of the rows in `ws.x`. Leaves what is to be added in `ws.mlp_out`.
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
        let Workspace { x, h, wide, mlp_out, .. } = ws;
        let width = mlp_width(m);
        let input = self.branch_input(sub, x, h, n);
        let bias = Model::<B>::bias_row(up_bias.as_ref(), 0..width);
        let slice = WeightSlice { k: 0..d, n: 0..width };
        backend.gemm(input, up, slice, bias, ViewMut::packed(wide, n, width));
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
        if let Some(r) = recorder {
            r.point(backend, layer, Point::MlpPost, View::packed(&*wide, n, width).columns(0..m.d_mlp))?;
        }
        let post = ViewMut::packed(wide, n, width).columns(0..m.d_mlp);
        self.apply(patches, layer, Point::MlpPost, segments, post, m.d_mlp);
        self.mlp_down(layer, sub, m, weights, View::packed(&*wide, n, width).columns(0..m.d_mlp), mlp_out);
        if let Some(r) = recorder {
            r.point(backend, layer, Point::MlpOut, View::packed(&*mlp_out, n, d))?;
        }
        self.apply(patches, layer, Point::MlpOut, segments, ViewMut::packed(mlp_out, n, d), d);
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
        self.model.backend.gemm(post, down, slice, bias, ViewMut::packed(out, n, d));
        self.finish_branch(layer, sub, out, n);
    }
}
