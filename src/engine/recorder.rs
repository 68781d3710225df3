//! Keeping activations of a run as it passes.

use super::cache::{Cache, Keep, Point};
use crate::backend::{Backend, BackendError, Combine, RowIndex, View, ViewMut};

/// Keeps activations of a run whose rows are exactly the cache's.
pub struct Recorder<'a, B: Backend> {
    pub keep: &'a Keep,
    pub cache: &'a mut Cache<B>,
}

impl<B: Backend> Recorder<'_, B> {
    pub(super) fn wants(&self, layer: usize, point: Point) -> bool {
        self.keep.points.contains(&(layer, point))
    }

    pub(super) fn point(
        &mut self,
        backend: &B,
        layer: usize,
        point: Point,
        x: View<'_, B::Buf>,
    ) -> Result<(), BackendError> {
        if self.wants(layer, point) {
            let copy = copy_of(backend, x)?;
            self.cache.insert_point(layer, point, copy);
        }
        Ok(())
    }
}

/// A packed copy of a view.
pub(crate) fn copy_of<B: Backend>(backend: &B, x: View<'_, B::Buf>) -> Result<B::Buf, BackendError> {
    let mut copy = backend.zeros(x.rows * x.cols)?;
    let to = ViewMut::packed(&mut copy, x.rows, x.cols);
    backend.copy_rows(x, RowIndex::All, to, RowIndex::All, Combine::Set, 1.0);
    Ok(copy)
}
