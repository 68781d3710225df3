//! The driver for NVIDIA GPUs over a stand-in for libcuda (`libcuda_stand_in.c`): which functions it calls, in which
//! order, and what it makes of their answers. A real libcuda has not been at hand: not yet run on hardware.

mod stand_in;

use patchwave::backend::cuda::driver::{Arguments, DevicePtr, Driver, DriverError, Launch, MapNumbers, MatrixMap};
use patchwave::backend::cuda::nvidia::{Nvidia, Unavailable, probe};
use stand_in::over_the_stand_in;
use std::time::Duration;

#[test]
fn everything_a_sweep_asks_of_a_gpu() {
    over_the_stand_in("with_the_stand_in", &[]);
}

#[test]
fn without_pinned_memory_uploads_still_arrive() {
    over_the_stand_in("with_the_stand_in", &[("STAND_IN_UNPINNED", "1")]);
}

#[test]
#[ignore = "run by the tests above, as a process of its own"]
fn with_the_stand_in() {
    let devices = probe().unwrap();
    assert_eq!(devices[0].to_string(), "cuda:0 (Stand-in, compute capability 8.0, 8 GiB, driver for CUDA 12.4)");
    let gpu = match Nvidia::open(&devices[0]) {
        Ok(gpu) => gpu,
        Err(Unavailable::Kernels { error, .. }) => return println!("skipped: {error}"),
        Err(e) => panic!("{e}"),
    };
    assert!(gpu.device().contains("Stand-in") && gpu.kernels().contains("80"), "{}", gpu.device());
    assert_eq!(gpu.free_bytes(), Ok(6 << 30));

    // Several times both halves of the pinned buffer, in pieces of odd sizes, and from another thread.
    let numbers: Vec<u8> = (0..100_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let at = gpu.alloc(numbers.len()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut done = 0usize;
            for size in [1, 255, 257, 70_000, 33_000_000, 5, usize::MAX] {
                let piece = &numbers[done..numbers.len().min(done.saturating_add(size))];
                // SAFETY: inside the allocation.
                unsafe { gpu.copy_to_device(at.offset(done), piece) }.unwrap();
                done += piece.len();
            }
        });
    });
    assert!(download(&gpu, at, numbers.len()) == numbers, "what arrives is what was sent");

    // SAFETY: inside the allocation.
    unsafe { gpu.fill_zero(at.offset(4), 8) }.unwrap();
    let bytes = download(&gpu, at, 16);
    assert_eq!((&bytes[..4], &bytes[4..12], &bytes[12..]), (&numbers[..4], &[0; 8][..], &numbers[12..16]));

    // A kernel between an upload and a download, and the time it took.
    let function = gpu.function("norm", "norm_rows").unwrap();
    // SAFETY: three numbers inside the allocation; the stand-in's kernels take a pointer and a count.
    let launch = |block, shared_bytes| unsafe {
        let arguments = Arguments::new().value(at).value(2i32);
        gpu.launch(&function, Launch { grid: [2, 1, 1], block, shared_bytes }, arguments)
    };
    unsafe { gpu.copy_to_device(at, bytemuck::cast_slice(&[1f32, 2.0, 3.0])) }.unwrap();
    let before = gpu.record().unwrap();
    launch(256, 101_376 - 1024).unwrap();
    let after = gpu.record().unwrap();
    assert_eq!(gpu.elapsed(&before, &after), Ok(Duration::from_millis(1)));
    assert_eq!(bytemuck::cast_slice::<u8, f32>(&download(&gpu, at, 12)), [2.0, 3.0, 3.0]);
    gpu.synchronize().unwrap();

    // A matrix of 70 rows of 100 bf16, 104 apart, in boxes of 64 x 64, swizzled by 128 bytes, for Hopper's copy engine.
    let (base, numbers) = (DevicePtr(1 << 20), MapNumbers::Bf16);
    let of = MatrixMap { base, width: 100, height: 70, row_bytes: 208, numbers, box_height: 64 };
    let asked = gpu.tensor_map(&of).unwrap().0;
    assert_eq!(asked, [9, 2, 1 << 20, 100, 70, 208, 64, 64, 1, 1, 0, 3, 3, 0, 0, 0]);
    let floats = gpu.tensor_map(&MatrixMap { numbers: MapNumbers::F32, ..of }).unwrap().0;
    assert_eq!((floats[0], floats[6]), (7, 32), "a row of a box has 128 bytes");
    let askew = MatrixMap { base: DevicePtr(8), ..of };
    assert_eq!(gpu.tensor_map(&askew), Err(DriverError::TensorMap(askew)));
    assert_eq!((gpu.capability().to_string().as_str(), gpu.multiprocessors()), ("8.0", 132));

    // Failures, each as the backend knows it.
    let error = launch(256, 101_376).unwrap_err().to_string();
    assert!(error.contains("CUDA_ERROR_LAUNCH_FAILED") && error.contains("101376 bytes of shared memory"), "{error}");
    assert_eq!(gpu.alloc(2 << 30), Err(DriverError::OutOfMemory { bytes: 2 << 30 }));
    for (module, name) in [("norm", "nothing"), ("no_such_file", "norm_rows")] {
        assert_eq!(gpu.function(module, name).unwrap_err(), DriverError::NoSuchKernel { module, name });
    }
    // SAFETY: nothing uses it any more.
    unsafe { gpu.free(at) };
    drop(gpu);
    drop((before, after));
}

fn download(gpu: &Nvidia, at: DevicePtr, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: callers stay inside their allocation.
    unsafe { gpu.copy_from_device(&mut bytes, at) }.unwrap();
    bytes
}
