//! The emulator's mbarriers, tensor copies and wgmma: known answers, planted bugs, refused maps.

use crate::emulator::Memory;
use crate::support::*;
use patchwave::backend::cuda::DriverError;
use patchwave::backend::cuda::driver::{Arguments, DevicePtr, Driver, Launch, MapNumbers, MatrixMap, TensorMap};
use patchwave::backend::cuda::emulated::{AsyncCopies, Emulated, Schedule};

/// A box of 64 x 64 numbers of two bytes.
const BOX_BYTES: u32 = 64 * 128;

fn launch(device: &Emulated, name: &'static str, block: u32, arguments: Arguments) -> Result<(), DriverError> {
    let function = device.function("emulator", name)?;
    let launch = Launch { grid: [1, 1, 1], block, shared_bytes: 3 * BOX_BYTES };
    // SAFETY: the emulator checks the arguments; memory outlives the launch.
    unsafe { device.launch(&function, launch, arguments) }
}

/// The map of a matrix `[height, width]` of bf16 in boxes of 64 x 64.
fn map(device: &Emulated, base: DevicePtr, (height, width): (usize, usize), stride: usize) -> TensorMap {
    let numbers = MapNumbers::Bf16;
    let of = MatrixMap { base, width, height, row_bytes: 2 * stride, numbers, box_height: 64 };
    device.tensor_map(&of).expect("a map that a GPU would take")
}

#[test]
fn tensor_copies_swizzle_and_put_zeros_outside() {
    let (height, width, stride) = (70, 100, 104);
    let numbers: Vec<u16> = (1..=(height * stride) as u16).collect();
    for device in hoppers() {
        let (out, from) = (Memory::new(&device, BOX_BYTES as usize), Memory::of(&device, &numbers));
        let map = map(&device, from.1, (height, width), stride);
        for (x, y) in [(0, 0), (64, 0), (37, 13), (-3, 60), (100, 0)] {
            let arguments = Arguments::new().value(out.1).value(map).value(x).value(y);
            launch(&device, "conformance_tensor_copy", 128, arguments).unwrap_or_else(|e| panic!("{device:?}: {e}"));
            let got = out.read::<u16>();
            for row in 0..64usize {
                for col in 0..64usize {
                    let (r, c) = (y as i64 + row as i64, x as i64 + col as i64);
                    let inside = (0..height as i64).contains(&r) && (0..width as i64).contains(&c);
                    let want = if inside { numbers[r as usize * stride + c as usize] } else { 0 };
                    // Pieces of 16 bytes change places by the row's number modulo 8.
                    let at = row * 64 + ((col / 8) ^ (row % 8)) * 8 + col % 8;
                    assert_eq!(got[at], want, "row {row} column {col} of the box at ({x}, {y}), {device:?}");
                }
            }
        }
    }
}

#[test]
fn warpgroups_multiply_bf16() {
    let integers = |seed, n| -> Vec<f32> { random(seed, n).iter().map(|x| (x * 2.0).round()).collect() };
    for (name, n) in [("conformance_wgmma_64", 64), ("conformance_wgmma_128", 128)] {
        let (a, b) = (integers(1, 64 * 64), integers(2, 64 * n));
        let bits: Vec<u16> = b.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect();
        for device in hoppers() {
            let (out, a_mem) = (Memory::new(&device, 64 * n * 4), Memory::of(&device, &a));
            let b_mem = Memory::of(&device, &bits);
            let map = map(&device, b_mem.1, (64, n), n);
            let arguments = Arguments::new().value(out.1).value(a_mem.1).value(map);
            launch(&device, name, 128, arguments).unwrap_or_else(|e| panic!("{device:?}: {e}"));
            for (i, got) in out.read::<f32>().iter().enumerate() {
                let want: f32 = (0..64).map(|k| a[i / n * 64 + k] * b[k * n + i % n]).sum();
                assert_eq!(*got, want, "row {} column {} of {n}, {device:?}", i / n, i % n);
            }
        }
    }
}

#[test]
fn mbarriers_pass_a_ring_from_hand_to_hand() {
    let turns = 9;
    for device in hoppers() {
        let out = Memory::new(&device, 4 * (2 * turns + 1));
        let arguments = Arguments::new().value(out.1).int("turns", turns);
        launch(&device, "conformance_mbarrier", 96, arguments).unwrap_or_else(|e| panic!("{device:?}: {e}"));
        let seen: Vec<u32> = (0..turns as u32).flat_map(|t| [t * t + 1; 2]).collect();
        let sums = seen.iter().sum();
        assert_eq!(out.read::<u32>(), [seen, vec![sums]].concat(), "{device:?}");
    }
}

/// Name, and what the report must say.
const BUGS: [(&str, &str); 9] = [
    ("bug_read_before_tensor_copy", "read before the tensor copy has been waited for|unsynchronised write"),
    ("bug_tensor_copy_over_unread", "race: write after unsynchronised read|deadlock: "),
    ("bug_mbarrier_without_fence", "that the copy engine does not know"),
    ("bug_expects_too_much", "deadlock: 128 threads at an mbarrier"),
    ("bug_wgmma_reads_stores", "wgmma reads what no tensor copy has brought"),
    ("bug_wgmma_without_fence", "wgmma without wgmma.fence"),
    ("bug_wgmma_without_wait", "without having waited for its wgmma"),
    ("bug_wgmma_of_two_warps", "needs all four warps"),
    (
        "bug_two_barriers_of_one_number",
        "a named barrier for 64 threads and for 128|a named barrier for 128 threads and for 64|deadlock: ",
    ),
];

#[test]
fn the_checker_names_every_planted_bug() {
    for (name, says) in BUGS {
        for schedule in [Schedule::Forward, Schedule::Reverse, Schedule::Random(1), Schedule::Random(2)] {
            for copies in [AsyncCopies::AtOnce, AsyncCopies::Late] {
                let device = Emulated::new(schedule, copies, true).hopper();
                let (out, from) = (Memory::new(&device, 512), Memory::of(&device, &[0u16; 64 * 64]));
                let map = map(&device, from.1, (64, 64), 64);
                let result = launch(&device, name, 128, Arguments::new().value(out.1).value(map));
                let message = result.expect_err(name).to_string();
                assert!(says.split('|').any(|s| message.contains(s)), "{name}, {schedule:?}, {copies:?}: {message}");
            }
        }
    }
}

#[test]
fn maps_that_a_gpu_would_refuse() {
    let device = Emulated::default().hopper();
    let memory = Memory::new(&device, 1 << 16);
    let good =
        MatrixMap { base: memory.1, width: 60, height: 40, row_bytes: 128, numbers: MapNumbers::Bf16, box_height: 64 };
    assert!(device.tensor_map(&good).is_ok());
    let bad = [
        MatrixMap { base: memory.1.offset(8), ..good },
        MatrixMap { row_bytes: 120, ..good },
        MatrixMap { row_bytes: 136, ..good },
        MatrixMap { width: 0, ..good },
        MatrixMap { height: 0, ..good },
        MatrixMap { box_height: 257, ..good },
        MatrixMap { width: 65, ..good },
    ];
    for of in bad {
        assert_eq!(device.tensor_map(&of), Err(DriverError::TensorMap(of)));
    }
}

/// What no map describes is no map.
#[test]
fn a_copy_by_a_map_that_nobody_made() {
    let device = Emulated::default().hopper();
    let out = Memory::new(&device, BOX_BYTES as usize);
    let arguments = Arguments::new().value(out.1).value(TensorMap([7; 16])).value(0i32).value(0i32);
    let error = launch(&device, "conformance_tensor_copy", 128, arguments).expect_err("garbage").to_string();
    assert!(error.contains("a map that nobody has made"), "{error}");
}

#[test]
fn only_kernels_for_hopper_get_all_of_its_shared_memory() {
    let device = Emulated::default().hopper();
    let memory = Memory::new(&device, 1024);
    let run = |name, shared_bytes, arguments| {
        let function = device.function("emulator", name).expect("it is there");
        // SAFETY: the emulator checks the arguments.
        unsafe { device.launch(&function, Launch { grid: [1, 1, 1], block: 32, shared_bytes }, arguments) }
    };
    let two = || Arguments::new().value(memory.1).int("turns", 3);
    let refused = |r: Result<(), DriverError>| r.is_err_and(|e| e.to_string().contains("dynamic shared memory"));
    assert!(refused(run("conformance_mbarrier", 228 << 10, two())));
    assert!(refused(run("conformance_warp", 100 << 10, Arguments::new().value(memory.1))));
}
