//! The emulator itself: known answers, planted bugs, refused launches.

use crate::support::*;
use patchwave::backend::cuda::DriverError;
use patchwave::backend::cuda::driver::{Arguments, DevicePtr, Driver, Launch};
use patchwave::backend::cuda::emulated::{AsyncCopies, Emulated, Schedule};

/// Memory of a device, given back when it goes.
pub struct Memory<'a>(&'a Emulated, pub DevicePtr, usize);

impl<'a> Memory<'a> {
    pub fn new(device: &'a Emulated, bytes: usize) -> Self {
        Memory(device, device.alloc(bytes).expect("there is room"), bytes)
    }

    pub fn of<T: bytemuck::NoUninit>(device: &'a Emulated, values: &[T]) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let memory = Memory::new(device, bytes.len());
        // SAFETY: as long as the allocation.
        unsafe { device.copy_to_device(memory.1, bytes) }.expect("a copy");
        memory
    }

    pub fn read<T: bytemuck::Pod>(&self) -> Vec<T> {
        let mut values = vec![T::zeroed(); self.2 / size_of::<T>()];
        // SAFETY: as long as the allocation.
        unsafe { self.0.copy_from_device(bytemuck::cast_slice_mut(&mut values), self.1) }.expect("a copy");
        values
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: nothing else knows the address.
        unsafe { self.0.free(self.1) }
    }
}

fn launch(
    device: &Emulated,
    name: &'static str,
    grid: u32,
    block: u32,
    arguments: Arguments,
) -> Result<(), DriverError> {
    let function = device.function("emulator", name)?;
    let launch = Launch { grid: [grid, 1, 1], block, shared_bytes: 0 };
    // SAFETY: the emulator checks the arguments; memory outlives the launch.
    unsafe { device.launch(&function, launch, arguments) }
}

#[test]
fn shuffles_and_votes_give_what_cuda_documents() {
    for device in devices() {
        let out = Memory::new(&device, 256 * 4);
        launch(&device, "conformance_warp", 1, 32, Arguments::new().value(out.1)).expect("no report");
        let got = out.read::<u32>();
        for l in 0..32u32 {
            let odd = if l % 2 == 1 { 0xaaaa_aaaau32 } else { 0x5555_5555 };
            let want = [
                15,
                l ^ 9,
                if l + 3 < 32 { l + 3 } else { l },
                if l >= 3 { l - 3 } else { l },
                0x4924_9249,
                1,
                l ^ 1,
                odd & 0xfffe_0000,
            ];
            for (i, w) in want.iter().enumerate() {
                assert_eq!(got[i * 32 + l as usize], *w, "operation {i}, lane {l}, {device:?}");
            }
        }
    }
}

#[test]
fn tensor_cores_multiply_bf16() {
    let round = |x: f32| half::bf16::from_f32(x).to_f64();
    let (a, b) = (random(1, 256), random(2, 256));
    for device in devices() {
        let (c, a_mem, b_mem) = (Memory::new(&device, 1024), Memory::of(&device, &a), Memory::of(&device, &b));
        let arguments = Arguments::new().value(c.1).value(a_mem.1).value(b_mem.1);
        launch(&device, "conformance_mma", 1, 32, arguments).expect("no report");
        let want: Vec<f64> =
            (0..256).map(|i| (0..16).map(|k| round(a[i / 16 * 16 + k]) * round(b[k * 16 + i % 16])).sum()).collect();
        assert_close(&c.read::<f32>(), &want, 1e-6, "mma");
    }
}

#[test]
fn bf16_rounds_to_nearest_even() {
    let n = 100_000;
    let mut x: Vec<u32> = random(3, n).iter().zip(random(4, n)).map(|(a, b)| a.to_bits() ^ b.to_bits() << 7).collect();
    x.extend([0, 0x8000_0000, 0x7f80_0000, 0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 1, 0x3f80_7fff]);
    let device = Emulated::default();
    let bytes = x.len() * 4;
    let (alone, paired, from) = (Memory::new(&device, bytes), Memory::new(&device, bytes), Memory::of(&device, &x));
    let arguments = Arguments::new().value(alone.1).value(paired.1).value(from.1).int("n", x.len());
    launch(&device, "conformance_round", x.len().div_ceil(128) as u32, 128, arguments).expect("no report");
    for ((x, alone), paired) in x.iter().zip(alone.read::<u32>()).zip(paired.read::<u32>()) {
        let f = f32::from_bits(*x);
        if f.is_nan() {
            continue;
        }
        let want = half::bf16::from_f32(f).to_bits() as u32;
        assert_eq!(alone, want, "{f:e}");
        assert_eq!(paired, want | (want ^ 0x8000) << 16, "{f:e}");
    }
}

#[test]
fn asynchronous_copies_arrive_with_zeroed_tails() {
    let stages = 7;
    let from: Vec<u32> = (1..=stages as u32 * 128).collect();
    for device in devices() {
        let (out, from_mem) = (Memory::new(&device, from.len() * 4), Memory::of(&device, &from));
        let arguments = Arguments::new().value(out.1).value(from_mem.1).int("stages", stages);
        launch(&device, "conformance_async", 1, 32, arguments).unwrap_or_else(|e| panic!("{device:?}: {e}"));
        let got = out.read::<u32>();
        for (i, got) in got.iter().enumerate() {
            let (stage, lane, word) = (i / 128, 31 - i / 4 % 32, i % 4);
            let copied = stage % 3 == 1 || word < lane % 5;
            let want = if copied { from[stage * 128 + lane * 4 + word] } else { 0 };
            assert_eq!(*got, want, "stage {stage} lane {lane} word {word}, {device:?}");
        }
    }
}

/// Name, threads, and what the report must say.
const BUGS: [(&str, u32, &str); 17] = [
    ("bug_missing_barrier", 256, "race: "),
    ("bug_write_after_read", 256, "race: write after unsynchronised read"),
    ("bug_missing_syncwarp", 64, "race: read after unsynchronised write"),
    ("bug_shuffle_as_barrier", 32, "race: read after unsynchronised write"),
    ("bug_missing_wait", 32, "read before cp.async has been waited for"),
    ("bug_wait_without_barrier", 32, "race: read after unsynchronised write"),
    ("bug_write_over_copy", 32, "write over a cp.async under way"),
    ("bug_divergent_barrier", 64, "deadlock|leaves the kernel while|have left the kernel"),
    ("bug_divergent_shuffle", 32, "different collectives"),
    ("bug_wrong_mask", 32, "not in its own mask"),
    ("bug_exit_before_barrier", 64, "leaves the kernel while|have left the kernel"),
    ("bug_device_out_of_bounds", 64, "device memory read out of bounds"),
    ("bug_shared_out_of_bounds", 32, "shared memory write out of bounds"),
    ("bug_uninitialised_shared", 32, "read of uninitialised shared memory"),
    ("bug_uninitialised_device", 32, "read of uninitialised device memory"),
    ("bug_race_between_blocks", 32, "race between blocks"),
    ("bug_misaligned", 32, "misaligned access"),
];

#[test]
fn the_checker_names_every_planted_bug() {
    for (name, threads, says) in BUGS {
        for schedule in [Schedule::Forward, Schedule::Reverse, Schedule::Random(1), Schedule::Random(2)] {
            let device = Emulated::new(schedule, AsyncCopies::AtOnce, true);
            let (out, from) = (Memory::new(&device, 1024), Memory::of(&device, &random(5, 3 * 256)));
            let result = launch(&device, name, 3, threads, Arguments::new().value(out.1).value(from.1));
            let message = result.expect_err(name).to_string();
            assert!(says.split('|').any(|s| message.contains(s)), "{name}, {schedule:?}: {message}");
            assert!(message.contains(name), "{name}: {message}");
        }
    }
}

/// Reports tell the file and the line, where `addr2line` is installed.
#[test]
fn a_report_points_at_the_source() {
    if std::process::Command::new("addr2line").arg("--version").output().is_err() {
        return;
    }
    let device = Emulated::new(Schedule::Forward, AsyncCopies::AtOnce, true);
    let (out, from) = (Memory::new(&device, 1024), Memory::of(&device, &random(5, 3 * 256)));
    let arguments = Arguments::new().value(out.1).value(from.1);
    let error = launch(&device, "bug_missing_syncwarp", 1, 64, arguments).expect_err("a race").to_string();
    assert!(error.contains("planted_bugs.cu:"), "{error}");
}

/// Schedules alone, without the checker, show some bugs as wrong results: late copies read what was there before.
#[test]
fn a_late_copy_shows_a_missing_wait() {
    let run = |copies| {
        let device = Emulated::new(Schedule::Forward, copies, false);
        let (out, from) = (Memory::new(&device, 128), Memory::of(&device, &random(5, 3 * 256)));
        launch(&device, "bug_missing_wait", 1, 32, Arguments::new().value(out.1).value(from.1)).expect("it runs");
        out.read::<f32>()
    };
    assert!(run(AsyncCopies::AtOnce).iter().all(|x| x.is_finite()));
    assert!(run(AsyncCopies::Late).iter().all(|x| x.is_nan()));
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let device = Emulated::default();
    let memory = Memory::new(&device, 1024);
    let two = || Arguments::new().value(memory.1).value(memory.1);
    let message = |r: Result<(), DriverError>| r.expect_err("refused").to_string();
    let missing = message(launch(&device, "no_such_kernel", 1, 32, two()));
    assert_eq!(missing, "there is no kernel no_such_kernel in kernels/emulator.cu for this device");
    assert!(message(launch(&device, "bug_misaligned", 1, 33, two())).contains("33 threads in a block"));
    assert!(message(launch(&device, "bug_misaligned", 0, 32, two())).contains("a grid that no device allows"));
    let one = Arguments::new().value(memory.1);
    assert!(message(launch(&device, "bug_misaligned", 1, 32, one)).contains("takes 2 arguments, not 1"));
    let narrow = Arguments::new().value(memory.1).value(1i32);
    assert!(message(launch(&device, "bug_misaligned", 1, 32, narrow)).contains("argument 1 has 4 bytes, not 8"));
    let huge = two().int("rows", 1 << 40);
    assert!(message(launch(&device, "bug_misaligned", 1, 32, huge)).contains("rows is too large for a kernel"));
}

#[test]
fn one_device_sees_no_memory_of_another() {
    let (a, b) = (
        Emulated::new(Schedule::Forward, AsyncCopies::AtOnce, true),
        Emulated::new(Schedule::Forward, AsyncCopies::AtOnce, true),
    );
    let (out, from) = (Memory::new(&a, 1024), Memory::of(&b, &random(5, 3 * 256)));
    let result = launch(&a, "bug_missing_syncwarp", 1, 64, Arguments::new().value(out.1).value(from.1));
    assert!(result.expect_err("foreign memory").to_string().contains("device memory read out of bounds"));
}

#[test]
fn copies_outside_memory_fail() {
    let device = Emulated::default();
    let memory = Memory::new(&device, 16);
    let inside = unsafe { device.copy_to_device(memory.1, &[0; 16]) };
    assert_eq!(inside, Ok(()));
    let outside = unsafe { device.copy_to_device(memory.1.offset(8), &[0; 16]) };
    assert_eq!(outside, Err(DriverError::Copy { bytes: 16 }));
    assert!(matches!(device.alloc(usize::MAX / 2), Err(DriverError::OutOfMemory { .. })));
}
