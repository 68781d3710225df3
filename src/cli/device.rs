//! `--device` and `--dtype`: which backend a command runs on.

use super::usage;
use crate::Error;
use crate::backend::cuda::nvidia::{self, Nvidia, Unavailable};
use crate::backend::cuda::{DriverError, Precision};
use crate::sweep::{Limits, Needs};
use std::str::FromStr;

/// What `--device` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU that can be used, else the CPU.
    Auto,
    Cpu,
    /// The first GPU that can be used.
    Cuda,
    /// These GPUs, each named once.
    Gpus(Vec<u32>),
    /// Every GPU of the machine.
    AllGpus,
    /// The CUDA kernels on the CPU, as so many devices.
    Emulated(Emulated),
}

/// Emulated devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emulated {
    pub devices: usize,
    /// Of the Hopper generation, whose GEMM is a kernel of its own.
    pub hopper: bool,
}

const EXPECTED: &str = "expected auto, cpu, cuda, cuda:N or emulated; several GPUs are cuda:0,cuda:1 or cuda:all";

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: String| format!("--device {text}: {why}");
        let named = |name: &str| DeviceChoice::named(name.trim()).ok_or_else(|| EXPECTED.to_owned());
        let all = text.split(',').map(named).reduce(|all, next| all?.beside(next?));
        all.unwrap_or_else(|| Err(EXPECTED.to_owned())).map_err(refused)
    }
}

impl DeviceChoice {
    /// A single name.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            "cuda" => DeviceChoice::Cuda,
            "cuda:all" => DeviceChoice::AllGpus,
            "emulated" => DeviceChoice::Emulated(Emulated { devices: 1, hopper: false }),
            "emulated:hopper" => DeviceChoice::Emulated(Emulated { devices: 1, hopper: true }),
            _ => {
                let number = name.strip_prefix("cuda:").filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?;
                DeviceChoice::Gpus(vec![number.parse().ok()?])
            }
        })
    }

    /// These and the `next` of a list.
    fn beside(self, next: Self) -> Result<Self, String> {
        use DeviceChoice::{Cpu, Emulated, Gpus};
        let why = match (self, next) {
            (Emulated(all), Emulated(next)) if all.hopper == next.hopper => {
                return Ok(Emulated(self::Emulated { devices: all.devices + next.devices, ..all }));
            }
            (Gpus(all), Gpus(next)) => match next.iter().find(|n| all.contains(n)) {
                Some(twice) => return Err(format!("cuda:{twice} is named twice; it runs one wave at a time")),
                None => return Ok(Gpus([all, next].concat())),
            },
            (Cpu, _) | (_, Cpu) => {
                "the CPU is no device among several: it uses all its cores already, and its bits are not a GPU's"
            }
            (Emulated(_), _) | (_, Emulated(_)) => {
                "several devices are of one kind: cuda:0,cuda:1 or emulated,emulated"
            }
            _ => "of several GPUs each is named by its number (cuda:0,cuda:1), or all of them by cuda:all alone",
        };
        Err(why.to_owned())
    }

    /// Whether more than one may be meant.
    pub fn is_several(&self) -> bool {
        match self {
            DeviceChoice::Gpus(ordinals) => ordinals.len() > 1,
            DeviceChoice::Emulated(all) => all.devices > 1,
            DeviceChoice::AllGpus => true,
            DeviceChoice::Auto | DeviceChoice::Cpu | DeviceChoice::Cuda => false,
        }
    }
}

/// `--dtype` as the CUDA backend's precision.
///
/// # Errors
/// It is none.
pub fn precision(dtype: &str) -> Result<Precision, String> {
    match dtype {
        "float32" => Ok(Precision::Float32),
        "bf16x3" => Ok(Precision::Bf16x3),
        "bfloat16" => Ok(Precision::Bfloat16),
        other => Err(format!("--dtype {other}: expected float32, bf16x3 or bfloat16")),
    }
}

/// What to run on.
pub enum Chosen {
    /// With the reason, where it was chosen for want of a GPU.
    Cpu(Option<Unavailable>),
    /// One or several, which compute the same bits.
    Cuda(Vec<Nvidia>),
    #[cfg(feature = "emulator")]
    Emulated(Emulated),
}

/// Finds and opens the devices; `named` is how the user named them.
///
/// # Errors
/// Exit code 2: a GPU is asked for and cannot be used, or not beside another; the CPU is to compute in another precision
/// than float32; the emulator is asked for and not built in.
pub fn choose(named: &str, dtype: &str) -> Result<Chosen, Error> {
    let choice: DeviceChoice = named.parse().map_err(usage)?;
    let precision = precision(dtype).map_err(usage)?;
    let open = |ordinal| Ok(vec![Nvidia::open(nvidia::select(&nvidia::probe()?, ordinal)?)?]);
    let open_each = |ordinals: Option<&[u32]>| {
        nvidia::select_several(&nvidia::probe()?, ordinals)?.into_iter().map(Nvidia::open).collect()
    };
    let cpu = |reason| match precision {
        Precision::Float32 => Ok(Chosen::Cpu(reason)),
        _ => Err(usage(format!("--dtype {dtype}: the CPU computes in float32; leave --dtype out"))),
    };
    let cuda = |opened: Result<Vec<Nvidia>, Unavailable>| match opened {
        Ok(gpus) => Ok(Chosen::Cuda(gpus)),
        Err(reason) => Err(usage(format!("--device {named}: {reason}"))),
    };
    match choice {
        DeviceChoice::Cpu => cpu(None),
        DeviceChoice::Auto => match open(None) {
            Ok(gpus) => Ok(Chosen::Cuda(gpus)),
            Err(reason) => cpu(Some(reason)),
        },
        DeviceChoice::Cuda => cuda(open(None)),
        DeviceChoice::Gpus(ordinals) => cuda(open_each(Some(&ordinals))),
        DeviceChoice::AllGpus => cuda(open_each(None)),
        #[cfg(feature = "emulator")]
        DeviceChoice::Emulated(all) => Ok(Chosen::Emulated(all)),
        #[cfg(not(feature = "emulator"))]
        DeviceChoice::Emulated(_) => Err(usage(format!(
            "--device {named}: the emulator is not built in; build with --features emulator, or use --device cpu"
        ))),
    }
}

/// Why the CPU was taken, short: what is wrong without what would help.
pub fn short_reason(reason: &Unavailable) -> String {
    let line = reason.to_string();
    line.split(';').next().unwrap_or_default().to_owned()
}

/// Bounds of a sweep on a GPU with `free` bytes of memory, of which `--max-memory` may leave less. Waves are as tall as
/// they can be up to [`MAX_ROWS`]: a GPU is busy only with many rows.
///
/// # Errors
/// The sweep does not fit.
pub fn gpu_limits(
    needs: &Needs,
    precision: Precision,
    ordinal: u32,
    free: u64,
    max_memory: Option<u64>,
    longest: usize,
) -> Result<Limits, Unavailable> {
    // The driver's own needs grow with what is launched.
    let usable = free - free / 20;
    let budget = max_memory.map_or(usable, |max| max.min(usable));
    let fixed = weight_bytes(needs.weights, precision).saturating_add(needs.fixed);
    let least = fixed.saturating_add(needs.per_pair).saturating_add(needs.per_row.saturating_mul(longest as u64));
    if budget < least {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(Unavailable::TooLittleMemory { ordinal, free: budget >> 20, needed: mib(least) });
    }
    let spare = budget - fixed;
    let rows = ((spare - needs.per_pair) / 2 / needs.per_row.max(1)).min(MAX_ROWS).max(longest as u64);
    let cache = spare.saturating_sub(rows.saturating_mul(needs.per_row)).max(needs.per_pair);
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Ok(Limits { max_rows: size(rows), cache_bytes: size(cache) })
}

/// Token rows of a wave on a GPU. 32 times those that keep a CPU busy.
pub const MAX_ROWS: u64 = 1 << 16;

/// What weights of `float32_bytes` take on a GPU: planes of bfloat16, or float32 where they are looked up by row.
fn weight_bytes(float32_bytes: u64, precision: Precision) -> u64 {
    match precision {
        // Three planes of two bytes instead of one number of four.
        Precision::Float32 => float32_bytes.saturating_mul(3) / 2,
        Precision::Ffma | Precision::Bf16x3 | Precision::Bfloat16 => float32_bytes,
    }
}

/// A backend's failure before anything has run, which is a matter of the machine and not of the run.
pub fn not_usable(choice: &str, error: &DriverError) -> Error {
    usage(format!("--device {choice}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DeviceChoice, String> {
        text.parse()
    }

    #[test]
    fn device_names() {
        assert_eq!(parse("auto"), Ok(DeviceChoice::Auto));
        assert_eq!(parse("cpu"), Ok(DeviceChoice::Cpu));
        assert_eq!(parse("cuda"), Ok(DeviceChoice::Cuda));
        assert_eq!(parse("cuda:3"), Ok(DeviceChoice::Gpus(vec![3])));
        let emulated = |devices, hopper| Ok(DeviceChoice::Emulated(Emulated { devices, hopper }));
        assert_eq!(parse("emulated"), emulated(1, false));
        assert_eq!(parse("emulated:hopper"), emulated(1, true));
        for wrong in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:99999999999", "cpu:0"] {
            let message = parse(wrong).unwrap_err();
            assert!(message.contains("auto, cpu, cuda, cuda:N or emulated"), "{message}");
        }
    }

    #[test]
    fn several_devices() {
        assert_eq!(parse("cuda:1,cuda:0, cuda:7"), Ok(DeviceChoice::Gpus(vec![1, 0, 7])));
        assert_eq!(parse("cuda:all"), Ok(DeviceChoice::AllGpus));
        let emulated = |devices, hopper| Ok(DeviceChoice::Emulated(Emulated { devices, hopper }));
        assert_eq!(parse("emulated,emulated,emulated"), emulated(3, false));
        assert_eq!(parse("emulated:hopper,emulated:hopper"), emulated(2, true));
        for several in ["cuda:0,cuda:1", "cuda:all", "emulated,emulated"] {
            assert!(parse(several).unwrap().is_several());
        }
        for one in ["auto", "cpu", "cuda", "cuda:5", "emulated"] {
            assert!(!parse(one).unwrap().is_several());
        }
    }

    #[test]
    fn devices_that_do_not_go_together() {
        let refusals = [
            ("cuda:0,cuda:1,cuda:0", "cuda:0 is named twice"),
            ("cpu,cuda:0", "the CPU is no device among several"),
            ("cuda:0,cpu", "the CPU is no device among several"),
            ("cpu,cpu", "the CPU is no device among several"),
            ("emulated,cpu", "the CPU is no device among several"),
            ("cuda:0,emulated", "of one kind"),
            ("emulated,emulated:hopper", "of one kind"),
            ("cuda:all,cuda:0", "by cuda:all alone"),
            ("cuda,cuda:1", "named by its number"),
            ("auto,cuda:1", "named by its number"),
            ("cuda:0,", "expected auto"),
            (",", "expected auto"),
        ];
        for (text, why) in refusals {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(&format!("--device {text}: ")) && message.contains(why), "{message}");
        }
    }

    #[test]
    fn dtype_names() {
        assert_eq!(precision("bf16x3"), Ok(Precision::Bf16x3));
        assert!(precision("float16").unwrap_err().contains("float32, bf16x3 or bfloat16"));
    }

    #[test]
    fn the_cpu_computes_in_float32_alone() {
        let Err(error) = choose("cpu", "bfloat16") else { panic!("the CPU took bfloat16") };
        assert!(error.to_string().contains("the CPU computes in float32"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    const NEEDS: Needs = Needs { weights: 4000 << 20, per_row: 1 << 20, per_pair: 10 << 20, fixed: 100 << 20 };

    #[test]
    fn a_sweep_that_does_not_fit_on_the_gpu_says_what_it_needs() {
        let error = gpu_limits(&NEEDS, Precision::Float32, 1, 4 << 30, None, 16).unwrap_err().to_string();
        assert!(error.contains("cuda:1") && error.contains("6126 MiB"), "{error}");
        assert!(gpu_limits(&NEEDS, Precision::Bfloat16, 1, 5 << 30, None, 16).is_ok(), "fewer planes, less memory");
        assert!(gpu_limits(&NEEDS, Precision::Bfloat16, 1, 80 << 30, Some(1 << 30), 16).is_err());
    }

    #[test]
    fn waves_on_a_gpu_are_as_tall_as_its_memory_lets_them() {
        let limits = |free: u64, max| gpu_limits(&NEEDS, Precision::Float32, 0, free, max, 16).unwrap();
        let (small, large) = (limits(16 << 30, None), limits(141 << 30, None));
        assert!(Limits::default().max_rows < small.max_rows && small.max_rows < large.max_rows);
        assert_eq!(limits(10 << 40, None).max_rows as u64, MAX_ROWS);
        let bounded = limits(141 << 30, Some(16 << 30));
        assert!(bounded.max_rows < large.max_rows);
        let used = NEEDS.weights * 3 / 2 + NEEDS.fixed + bounded.max_rows as u64 * NEEDS.per_row;
        assert!(used + bounded.cache_bytes as u64 <= 16 << 30);
    }
}
