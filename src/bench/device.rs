//! What a benchmark must know of a device beside its operations.

use super::numbers::{PERIOD, number};
use super::prepare::{W, X, gain};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::nvidia::Nvidia;
use crate::backend::cuda::nvidia::cublas::{self, CublasLt};
use crate::backend::cuda::{Cuda, Driver, Precision};
use crate::backend::{Backend, BackendError};
use std::time::Duration;

/// A backend that can be timed.
pub trait Benched: Backend {
    /// The `--dtype`s that it multiplies in, the most exact first.
    fn precisions(&self) -> &'static [&'static str];

    /// Weights that are packed from now on are multiplied in this one of [`Benched::precisions`].
    fn set_precision(&mut self, precision: &str);

    /// Bytes that a packed weight keeps of each number in the precision set.
    fn weight_bytes(&self) -> f64;

    /// Operations return before they have run.
    fn is_asynchronous(&self) -> bool;

    /// What the ceilings are measured with.
    fn yardstick(&self) -> Yardstick;

    /// The vendor's library for products: None on a device that has none, else why it cannot be used.
    fn rival(&self) -> Option<Result<Box<dyn Rival + '_>, String>>;
}

/// Sizes that keep a device busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Yardstick {
    /// Rows and columns of all three matrices of a large product.
    pub product: usize,
    /// Bytes of a large copy's source: more than any cache has.
    pub copy_bytes: usize,
    /// How long a sample lasts: long beside the wait for its end.
    pub sample: Duration,
}

/// Somebody else's products on the same device and the same stream.
pub trait Rival {
    /// Its name and version.
    fn name(&self) -> String;

    /// The product `[m, k]` · `[k, n]` of the same numbers as [`super::product::error`]'s; None where it has none of that
    /// precision.
    fn product(
        &self,
        precision: &str,
        sizes: (usize, usize, usize),
    ) -> Option<Result<Box<dyn RivalProduct + '_>, BackendError>>;
}

/// A product that can be issued any number of times.
pub trait RivalProduct {
    /// # Errors
    /// The library refuses it.
    fn issue(&mut self) -> Result<(), BackendError>;

    /// Row `r` of the result, `[n]`.
    ///
    /// # Errors
    /// The device failed.
    fn row(&self, r: usize) -> Result<Vec<f32>, BackendError>;
}

impl Benched for Cpu {
    fn precisions(&self) -> &'static [&'static str] {
        &["float32"]
    }

    fn set_precision(&mut self, _precision: &str) {}

    fn weight_bytes(&self) -> f64 {
        4.0
    }

    fn is_asynchronous(&self) -> bool {
        false
    }

    fn yardstick(&self) -> Yardstick {
        Yardstick { product: 2048, copy_bytes: 256 << 20, sample: Duration::from_millis(1) }
    }

    fn rival(&self) -> Option<Result<Box<dyn Rival + '_>, String>> {
        None
    }
}

const PRECISIONS: &[&str] = &["float32", "bf16x3", "bfloat16"];

fn set_precision<D: Driver>(cuda: &mut Cuda<D>, precision: &str) {
    cuda.set_precision(match precision {
        "bf16x3" => Precision::Bf16x3,
        "bfloat16" => Precision::Bfloat16,
        _ => Precision::Float32,
    });
}

/// Planes of two bytes each; `ffma` keeps float32.
fn weight_bytes(precision: Precision) -> f64 {
    match precision {
        Precision::Float32 => 6.0,
        Precision::Ffma | Precision::Bf16x3 => 4.0,
        Precision::Bfloat16 => 2.0,
    }
}

impl Benched for Cuda<Nvidia> {
    fn precisions(&self) -> &'static [&'static str] {
        PRECISIONS
    }

    fn set_precision(&mut self, precision: &str) {
        set_precision(self, precision);
    }

    fn weight_bytes(&self) -> f64 {
        weight_bytes(self.precision())
    }

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn yardstick(&self) -> Yardstick {
        Yardstick { product: 8192, copy_bytes: 1 << 30, sample: Duration::from_millis(5) }
    }

    fn rival(&self) -> Option<Result<Box<dyn Rival + '_>, String>> {
        let open = || -> Result<Box<dyn Rival + '_>, String> { Ok(Box::new(Lt(CublasLt::open(self.driver())?))) };
        Some(open())
    }
}

#[cfg(feature = "emulator")]
impl Benched for Cuda<crate::backend::cuda::emulated::Emulated> {
    fn precisions(&self) -> &'static [&'static str] {
        PRECISIONS
    }

    fn set_precision(&mut self, precision: &str) {
        set_precision(self, precision);
    }

    fn weight_bytes(&self) -> f64 {
        weight_bytes(self.precision())
    }

    fn is_asynchronous(&self) -> bool {
        false
    }

    /// An emulator's time says nothing of a device's; it only has to run.
    fn yardstick(&self) -> Yardstick {
        Yardstick { product: 64, copy_bytes: 1 << 18, sample: Duration::from_micros(100) }
    }

    fn rival(&self) -> Option<Result<Box<dyn Rival + '_>, String>> {
        None
    }
}

/// cuBLASLt on the backend's own stream.
struct Lt<'a>(CublasLt<'a>);

impl Rival for Lt<'_> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn product(
        &self,
        precision: &str,
        sizes: (usize, usize, usize),
    ) -> Option<Result<Box<dyn RivalProduct + '_>, BackendError>> {
        let numbers = match precision {
            "float32" => cublas::Numbers::Float32,
            "bfloat16" => cublas::Numbers::Bfloat16,
            _ => return None,
        };
        let scale = gain(sizes.2);
        let entries = (|i| number(X, i), |i| scale * number(W, i));
        let ready = self.0.product(numbers, sizes, PERIOD, entries);
        Some(ready.map(|p| Box::new(p) as Box<dyn RivalProduct + '_>).map_err(BackendError::from))
    }
}

impl RivalProduct for cublas::Product<'_> {
    fn issue(&mut self) -> Result<(), BackendError> {
        Ok(cublas::Product::issue(self)?)
    }

    fn row(&self, r: usize) -> Result<Vec<f32>, BackendError> {
        Ok(cublas::Product::row(self, r)?)
    }
}
