//! What the primitives of gpu.cuh do: a kernel of conformance.cu or conformance_sm90.cu each, its inputs, and how near a GPU must come to what the
//! emulator wrote, which is recorded in `tests/fixtures/conformance.safetensors`.
//!
//! The emulator gives the recorded words under every schedule. On a GPU the same kernels come from
//! `PATCHWAVE_CONFORMANCE`, as images that tools/gpu-check makes. What CUDA documents of them is in `emulator.rs`.
//!
//! `PATCHWAVE_UPDATE_GOLDEN=1` records anew.

use crate::device::{TestDevice, capability, conformance_folder};
use crate::support::*;
use patchwave::backend::cuda::driver::{Arguments, Driver, DriverError, Launch, MapNumbers, MatrixMap};
use patchwave::backend::cuda::images::Capability;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::path::PathBuf;

/// One argument of a kernel.
enum Argument {
    /// Words that the kernel writes, all of them, and what they are compared by.
    Out(usize, Compare),
    In(Vec<u32>),
    Int(i32),
    /// The map of a matrix of bf16 in boxes of 64 x 64.
    Map(Matrix),
}

struct Matrix {
    numbers: Vec<u16>,
    height: usize,
    width: usize,
    /// Numbers from row to row.
    stride: usize,
}

#[derive(Clone, Copy)]
enum Compare {
    /// Movement, votes, rounding: every bit.
    Bits,
    /// float32 sums whose rounding is the card's own: this share of the largest.
    Close(f64),
}

/// Cards that have the instructions.
#[derive(Clone, Copy, PartialEq)]
enum Cards {
    All,
    /// Compute capability 9.0 alone.
    Hopper,
}

struct Primitive {
    /// Of the record.
    name: String,
    kernel: &'static str,
    cards: Cards,
    grid: u32,
    block: u32,
    /// Dynamic shared memory.
    shared_bytes: u32,
    arguments: Vec<Argument>,
}

impl Primitive {
    /// One block of one warp, on every card.
    fn warp(kernel: &'static str, arguments: Vec<Argument>) -> Self {
        let (name, cards) = (kernel.to_owned(), Cards::All);
        Primitive { name, kernel, cards, grid: 1, block: 32, shared_bytes: 0, arguments }
    }

    /// One block of four warps with three boxes of shared memory, on Hopper.
    fn hopper(kernel: &'static str, arguments: Vec<Argument>) -> Self {
        let (cards, shared_bytes) = (Cards::Hopper, 3 * 64 * 128);
        Primitive { cards, block: 128, shared_bytes, ..Primitive::warp(kernel, arguments) }
    }

    fn module(&self) -> &'static str {
        match self.cards {
            Cards::All => "conformance",
            Cards::Hopper => "conformance_sm90",
        }
    }
}

fn primitives() -> Vec<Primitive> {
    use Argument::*;
    use Compare::*;
    let floats = |seed, n| In(random(seed, n).iter().map(|x| x.to_bits()).collect());
    // Any bit pattern but those of NaN, whose payload nobody promises, and the borders of rounding.
    let rounded = || {
        let mixed = random(3, 2040).into_iter().zip(random(4, 2040)).map(|(a, b)| a.to_bits() ^ b.to_bits() << 7);
        let borders = [0, 0x8000_0000, 0x7f80_0000, 0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 1, 0x3f80_7fff];
        mixed.map(|x| if f32::from_bits(x).is_nan() { x & 0x3fff_ffff } else { x }).chain(borders).collect()
    };
    let (stages, turns) = (7, 9);
    // Sums of small integers are exact on whatever computes them.
    let integers = |seed, n| random(seed, n).into_iter().map(|x| (x * 2.0).round());
    let mut all = vec![
        Primitive::warp("conformance_warp", vec![Out(256, Bits)]),
        // 16 exact products, each added to 24 bits or more of the largest: 17 · 2^-23 of it in the worst case, and the
        // largest product is below the largest sum here.
        Primitive::warp("conformance_mma", vec![Out(256, Close(4e-6)), floats(1, 256), floats(2, 256)]),
        Primitive {
            grid: 16,
            block: 128,
            ..Primitive::warp("conformance_round", vec![Out(2048, Bits), Out(2048, Bits), In(rounded()), Int(2048)])
        },
        Primitive::warp(
            "conformance_async",
            vec![Out(stages * 128, Bits), In((1..=stages as u32 * 128).collect()), Int(stages as i32)],
        ),
        Primitive {
            block: 96,
            ..Primitive::hopper("conformance_mbarrier", vec![Out(2 * turns + 1, Bits), Int(turns as i32)])
        },
    ];
    // Boxes inside, across every border and outside.
    for (x, y) in [(0, 0), (64, 0), (37, 13), (-3, 60), (100, 0)] {
        let matrix = Matrix { numbers: (1..=70 * 104).collect(), height: 70, width: 100, stride: 104 };
        let arguments = vec![Out(64 * 64 / 2, Bits), Map(matrix), Int(x), Int(y)];
        let name = format!("conformance_tensor_copy_at_{x}_{y}");
        all.push(Primitive { name, ..Primitive::hopper("conformance_tensor_copy", arguments) });
    }
    for (kernel, width) in [("conformance_wgmma_64", 64), ("conformance_wgmma_128", 128)] {
        let a = integers(1, 64 * 64).map(f32::to_bits).collect();
        let numbers = integers(2, 64 * width).map(|x| half::bf16::from_f32(x).to_bits()).collect();
        let b = Matrix { numbers, height: 64, width, stride: width };
        all.push(Primitive::hopper(kernel, vec![Out(64 * width, Bits), In(a), Map(b)]));
    }
    all
}

/// Runs a kernel: the words of its outputs, in the order of its parameters.
fn run(device: &TestDevice, primitive: &Primitive) -> Result<Vec<Vec<u32>>, DriverError> {
    let (mut arguments, mut memory, mut outputs) = (Arguments::new(), Vec::new(), Vec::new());
    let mut upload = |bytes: &[u8], len: usize| {
        let at = device.alloc(len)?;
        // SAFETY: the allocation is at least as long.
        unsafe { device.copy_to_device(at, bytes)? }
        memory.push(at);
        Ok::<_, DriverError>(at)
    };
    for argument in &primitive.arguments {
        arguments = match argument {
            Argument::Out(words, _) => {
                let at = upload(&[], 4 * words)?;
                outputs.push((at, vec![0u32; *words]));
                arguments.value(at)
            }
            Argument::In(words) => arguments.value(upload(bytemuck::cast_slice(words), 4 * words.len())?),
            Argument::Int(value) => arguments.value(*value),
            Argument::Map(Matrix { numbers, height, width, stride }) => {
                let base = upload(bytemuck::cast_slice(numbers), 2 * numbers.len())?;
                let (height, width, row_bytes, numbers) = (*height, *width, 2 * stride, MapNumbers::Bf16);
                let of = MatrixMap { base, width, height, row_bytes, numbers, box_height: 64 };
                arguments.value(device.tensor_map(&of)?)
            }
        };
    }
    let Primitive { kernel, grid, block, shared_bytes, .. } = *primitive;
    let function = device.function(primitive.module(), kernel)?;
    let launch = Launch { grid: [grid, 1, 1], block, shared_bytes };
    // SAFETY: the arguments are the kernel's, by the table above.
    unsafe { device.launch(&function, launch, arguments)? }
    for (at, words) in &mut outputs {
        // SAFETY: as long as the allocation.
        unsafe { device.copy_from_device(bytemuck::cast_slice_mut(words), *at)? }
    }
    for at in memory {
        // SAFETY: the downloads have waited for the kernel, and nothing else knows the address.
        unsafe { device.free(at) }
    }
    Ok(outputs.into_iter().map(|(_, words)| words).collect())
}

fn compares(primitive: &Primitive) -> impl Iterator<Item = Compare> {
    primitive.arguments.iter().filter_map(|a| match a {
        Argument::Out(_, compare) => Some(*compare),
        _ => None,
    })
}

/// Where `got` is not what was recorded; on the emulator to the bit, whatever a card is allowed.
fn differs(compare: Compare, got: &[u32], recorded: &[u32]) -> Option<String> {
    assert_eq!(got.len(), recorded.len());
    let float = |word: &u32| f32::from_bits(*word) as f64;
    let largest = recorded.iter().map(|w| float(w).abs()).fold(0.0, f64::max);
    let wrong = |(got, recorded): (&u32, &u32)| match compare {
        Compare::Bits => got != recorded,
        Compare::Close(share) => {
            let error = (float(got) - float(recorded)).abs();
            error.is_nan() || error > share * largest
        }
    };
    let at = got.iter().zip(recorded).position(wrong)?;
    let (got, recorded) = (got[at], recorded[at]);
    Some(match compare {
        Compare::Bits => format!("word {at} is {got:#010x}, recorded {recorded:#010x}"),
        Compare::Close(_) => format!("number {at} is {}, recorded {}", float(&got), float(&recorded)),
    })
}

fn record_path() -> PathBuf {
    match conformance_folder() {
        Some(folder) => folder.join("recorded.safetensors"),
        None => std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/conformance.safetensors"),
    }
}

/// The words of an output, `NAME.N`.
fn recorded(file: &SafeTensors<'_>, name: &str, output: usize) -> Vec<u32> {
    let tensor = file.tensor(&format!("{name}.{output}")).unwrap_or_else(|e| panic!("{name}: {e}"));
    tensor.data().chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("four bytes"))).collect()
}

#[test]
fn the_emulator_gives_what_was_recorded() {
    if std::env::var_os("PATCHWAVE_UPDATE_GOLDEN").is_some() {
        let device = TestDevice::Emulated(Default::default());
        let mut tensors = Vec::new();
        for primitive in primitives() {
            for (i, words) in run(&device, &primitive).expect("it runs").into_iter().enumerate() {
                tensors.push((format!("{}.{i}", primitive.name), words));
            }
        }
        let views = tensors.iter().map(|(name, words)| {
            let view = TensorView::new(Dtype::U32, vec![words.len()], bytemuck::cast_slice(words));
            (name, view.expect("a tensor"))
        });
        std::fs::write(record_path(), serialize(views, None).expect("a file")).expect("it can be written");
    }
    let bytes = std::fs::read(record_path()).expect("a record");
    let file = SafeTensors::deserialize(&bytes).expect("a record");
    let mut outputs = 0;
    for primitive in primitives() {
        for device in hoppers().into_iter().map(TestDevice::Emulated) {
            let got = run(&device, &primitive).unwrap_or_else(|e| panic!("{}: {e}", primitive.name));
            for (i, got) in got.iter().enumerate() {
                let wrong = differs(Compare::Bits, got, &recorded(&file, &primitive.name, i));
                assert_eq!(wrong, None, "{}, output {i}, {device:?}", primitive.name);
            }
        }
        outputs += compares(&primitive).count();
    }
    assert_eq!(outputs, file.len(), "a record of a kernel that is gone");
}

/// Says which device it is; tools/gpu-check reads the line.
#[test]
fn the_device_opens() {
    let device = TestDevice::default().hopper();
    println!("device: {}, compute capability {}", device.device(), device.capability());
    assert!(device.multiprocessors() > 0);
}

/// On the device of the tests; says a line of each kernel.
#[test]
fn primitives_give_what_was_recorded() {
    let bytes = std::fs::read(record_path()).expect("a record");
    let file = SafeTensors::deserialize(&bytes).expect("a record");
    let mut failures = Vec::new();
    for primitive in primitives() {
        let name = &primitive.name;
        if primitive.cards == Cards::Hopper && capability().is_some_and(|card| card != Capability::HOPPER) {
            println!("{name}: not for this card");
            continue;
        }
        let device = TestDevice::default().hopper();
        let wrong = match run(&device, &primitive) {
            Err(e) => Some(e.to_string()),
            Ok(got) => {
                let outputs = got.iter().zip(compares(&primitive)).enumerate();
                outputs.filter_map(|(i, (got, compare))| differs(compare, got, &recorded(&file, name, i))).next()
            }
        };
        println!("{name}: {}", wrong.as_deref().unwrap_or("ok"));
        failures.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_wrong_word_is_noticed() {
    let word = |x: f32| x.to_bits();
    assert_eq!(differs(Compare::Bits, &[1, 2], &[1, 2]), None);
    assert!(differs(Compare::Bits, &[1, 3], &[1, 2]).is_some_and(|said| said.starts_with("word 1 is 0x00000003")));
    let recorded = [word(1.0), word(-8.0)];
    assert_eq!(differs(Compare::Close(1e-6), &[word(1.000004), word(-8.0)], &recorded), None);
    assert!(differs(Compare::Close(1e-6), &[word(1.0001), word(-8.0)], &recorded).is_some());
    assert!(differs(Compare::Close(1e-6), &[word(f32::NAN), word(-8.0)], &recorded).is_some());
}
