//! The devices of the tests and matrices that lie askew in their buffers.

pub use crate::device::TestDevice;
use patchwave::backend::cuda::driver::Driver;
use patchwave::backend::cuda::emulated::{AsyncCopies, Emulated, Schedule};
use patchwave::backend::cuda::{Cuda, Device, Precision};
use patchwave::backend::{Backend, View, ViewMut};

pub type Gpu = Cuda<TestDevice>;
pub type Buf = Device<TestDevice>;

/// Schedules that bring a missing barrier or wait to light, the last two under the checker.
pub fn devices() -> Vec<Emulated> {
    vec![
        Emulated::new(Schedule::Forward, AsyncCopies::AtOnce, false),
        Emulated::new(Schedule::Reverse, AsyncCopies::Late, false),
        Emulated::new(Schedule::Random(1), AsyncCopies::Random, false),
        Emulated::new(Schedule::Random(2), AsyncCopies::Late, false),
        Emulated::new(Schedule::Random(3), AsyncCopies::Random, false),
        Emulated::new(Schedule::Forward, AsyncCopies::Late, true),
        Emulated::new(Schedule::Random(4), AsyncCopies::Random, true),
    ]
}

/// The same of the Hopper generation, which run `gemm_sm90.cu`.
pub fn hoppers() -> Vec<Emulated> {
    devices().into_iter().map(Emulated::hopper).collect()
}

/// Runs `f` under every schedule, or twice on a GPU; all must agree to the bit and report nothing.
pub fn everywhere(precision: Precision, f: impl Fn(&Gpu) -> Vec<f32>) -> Vec<f32> {
    among(devices(), precision, f)
}

/// The same on these devices, or on a GPU of their generation.
pub fn among(devices: Vec<Emulated>, precision: Precision, f: impl Fn(&Gpu) -> Vec<f32>) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for device in TestDevice::all(devices) {
        let name = format!("{device:?}");
        let gpu = Cuda::new(device, precision).expect("every kernel is there");
        let result = f(&gpu);
        gpu.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        match &first {
            None => first = Some(result),
            Some(expected) => {
                let differs = expected.iter().zip(&result).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(differs, None, "{name} differs from the first device");
            }
        }
    }
    first.expect("there are devices")
}

/// Reproducible numbers, about normal.
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// A matrix in a buffer that begins before it, with rows further apart than they are long.
pub struct Askew {
    pub rows: usize,
    pub cols: usize,
    offset: usize,
    stride: usize,
    buf: Buf,
}

impl Askew {
    pub fn new(gpu: &Gpu, numbers: &[f32], rows: usize, cols: usize) -> Self {
        Self::laid_out(gpu, numbers, (rows, cols), (3, cols + 5))
    }

    /// Askew, but at multiples of 16 bytes, as tensor copies want it.
    pub fn aligned(gpu: &Gpu, numbers: &[f32], rows: usize, cols: usize) -> Self {
        Self::laid_out(gpu, numbers, (rows, cols), (4, cols.next_multiple_of(4) + 8))
    }

    fn laid_out(gpu: &Gpu, numbers: &[f32], (rows, cols): (usize, usize), (offset, stride): (usize, usize)) -> Self {
        let mut padded = vec![7.5; offset + rows * stride];
        for r in 0..rows {
            padded[offset + r * stride..][..cols].copy_from_slice(&numbers[r * cols..][..cols]);
        }
        Askew { rows, cols, offset, stride, buf: gpu.upload(padded).expect("there is room") }
    }

    pub fn view(&self) -> View<'_, Buf> {
        View { buf: &self.buf, offset: self.offset, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, Buf> {
        let Askew { rows, cols, offset, stride, .. } = *self;
        ViewMut { buf: &mut self.buf, offset, rows, cols, stride }
    }

    /// The matrix. What lies around it must be untouched.
    pub fn read(&self, gpu: &Gpu) -> Vec<f32> {
        let all = gpu.download(View::packed(&self.buf, 1, self.buf.len()));
        let mut numbers = Vec::with_capacity(self.rows * self.cols);
        for (i, v) in all.iter().enumerate() {
            let inside = i >= self.offset && (i - self.offset) % self.stride < self.cols;
            if inside {
                numbers.push(*v);
            } else {
                assert!(*v == 7.5 || v.is_nan(), "number {i} outside the matrix was overwritten with {v}");
            }
        }
        numbers
    }
}

pub fn upload(gpu: &Gpu, numbers: &[f32]) -> Buf {
    gpu.upload(numbers.to_vec()).expect("there is room")
}

/// Largest |got − want| is at most `tolerance` times the largest |want|.
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().filter(|w| w.is_finite()).fold(1e-30f64, |a, w| a.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let same = *g as f64 == *w;
        let error = (*g as f64 - w).abs() / largest;
        assert!(same || error <= tolerance, "{what}: number {i} is {g}, not {w} (error {error:.2e})");
    }
}

pub fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|x| *x as f64).collect()
}

#[test]
fn a_device_says_what_it_is() {
    let device = Emulated::new(Schedule::Forward, AsyncCopies::AtOnce, true);
    assert!(device.device().starts_with("emulated GPU") && device.device().ends_with("checked"));
    let (a, b) = (device.record().expect("events"), device.record().expect("events"));
    assert!(device.elapsed(&a, &b).expect("a time").as_secs() < 10);
}
