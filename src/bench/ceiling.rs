//! What the device can do at best, measured in the run that is compared with it.

use super::device::{Benched, Rival};
use super::numbers::matrix;
use super::product::{self, ProductError};
use super::timing::{Timing, measure};
use super::{Case, prepare};
use crate::backend::{BackendError, Combine, RowIndex, View, ViewMut};
use serde::Serialize;
use std::time::Duration;

/// The rates of a large copy and of large products.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes a second, read and written ones together, of a copy of `copy_bytes` bytes.
    pub copy: f64,
    pub copy_bytes: usize,
    pub products: Vec<ProductCeiling>,
}

/// FLOP/s of a product of square matrices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProductCeiling {
    pub precision: &'static str,
    pub size: usize,
    pub flops: f64,
    /// The vendor's library was faster, and this is its rate.
    pub of_rival: bool,
}

impl Ceilings {
    /// Measures the copy, and the product in each of `precisions`, each for about `budget`; with `max` bytes of memory, a
    /// smaller copy.
    ///
    /// # Errors
    /// The device failed, or has no room.
    pub fn measure<B: Benched>(
        backend: &mut B,
        precisions: &[&'static str],
        budget: Duration,
        max: Option<u64>,
    ) -> Result<Ceilings, BackendError> {
        const COLUMNS: usize = 1024;
        let yardstick = backend.yardstick();
        let most = max.map_or(usize::MAX, |m| usize::try_from(m / 4).unwrap_or(usize::MAX));
        let rows = (yardstick.copy_bytes.min(most) / (4 * COLUMNS)).max(1);
        let (from, mut to) = (matrix(backend, rows, COLUMNS, 1)?, backend.zeros(rows * COLUMNS)?);
        let copied = measure(backend, budget, yardstick.sample, &mut || {
            let (from, to) = (View::packed(&from, rows, COLUMNS), ViewMut::packed(&mut to, rows, COLUMNS));
            backend.copy_rows(from, RowIndex::All, to, RowIndex::All, Combine::Set, 1.0);
        })?;
        drop((from, to));
        let copy_bytes = 4 * rows * COLUMNS;
        let n = yardstick.product;
        let case = Case::product(n, n, n).expect("a size above zero");
        let flops = case.work(4.0).flops;
        let mut products = Vec::new();
        for precision in precisions {
            backend.set_precision(precision);
            let ours = measure(&*backend, budget, yardstick.sample, &mut *prepare(&*backend, &case)?)?;
            let theirs = match backend.rival() {
                Some(Ok(rival)) => rival_time(&*backend, &*rival, precision, (n, n, n), budget)?,
                _ => None,
            };
            let (ours, theirs) = (flops / ours.median, theirs.map_or(0.0, |(t, _)| flops / t.median));
            products.push(ProductCeiling { precision, size: n, flops: ours.max(theirs), of_rival: theirs > ours });
        }
        Ok(Ceilings { copy: 2.0 * copy_bytes as f64 / copied.median, copy_bytes, products })
    }

    /// FLOP/s of the large product in this precision; of the first where there is none in it.
    pub fn product(&self, precision: &str) -> f64 {
        let found = self.products.iter().find(|p| p.precision == precision).or(self.products.first());
        found.map_or(f64::NAN, |p| p.flops)
    }

    /// The least time in seconds that the two ceilings leave for this work.
    pub fn least_time(&self, precision: &str, work: &super::Work) -> f64 {
        (work.flops / self.product(precision)).max(work.bytes / self.copy)
    }
}

/// The time of the vendor's product and its error, where its library has one of that precision.
pub(super) fn rival_time<B: Benched>(
    backend: &B,
    rival: &dyn Rival,
    precision: &str,
    sizes: (usize, usize, usize),
    budget: Duration,
) -> Result<Option<(Timing, ProductError)>, BackendError> {
    let Some(product) = rival.product(precision, sizes) else { return Ok(None) };
    let mut product = product?;
    let mut failed = Ok(());
    let timing = measure(backend, budget, backend.yardstick().sample, &mut || {
        if failed.is_ok() {
            failed = product.issue();
        }
    })?;
    failed?;
    Ok(Some((timing, product::compare(sizes, |r| product.row(r))?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Work;

    #[test]
    fn the_slower_of_both_ceilings_is_the_limit() {
        let product = ProductCeiling { precision: "float32", size: 8, flops: 100.0, of_rival: false };
        let ceilings = Ceilings { copy: 10.0, copy_bytes: 8, products: vec![product] };
        assert_eq!(ceilings.least_time("float32", &Work { flops: 1000.0, bytes: 10.0 }), 10.0);
        assert_eq!(ceilings.least_time("float32", &Work { flops: 1000.0, bytes: 1000.0 }), 100.0);
    }
}
