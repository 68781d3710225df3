//! Compiled kernels for a device: the images embedded in the library, in the order in which they should suit it, and
//! behind them the sources, which NVRTC compiles.
//!
//! `kernels/images.rs` chooses what is embedded. Everything here is a pure function of a device's compute capability and of
//! whether the driver takes an image, so it is tested without a GPU. Emulated, not yet run on hardware.

use super::nvidia::probe::CudaVersion;
use super::nvrtc::{Nvrtc, NvrtcError};
use std::borrow::Cow;

include!(concat!(env!("OUT_DIR"), "/cuda_images.rs"));

/// What instructions a card has: 9.0 for Hopper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    pub major: u32,
    pub minor: u32,
}

impl Capability {
    /// H100, H200, GH200: what files whose name ends in `_sm90` are for.
    pub const HOPPER: Capability = Capability { major: 9, minor: 0 };
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What an image was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Machine code for a capability and the later ones of the same major number, or (`exact`, as in `sm_90a`) for that
    /// one alone.
    MachineCode { capability: Capability, exact: bool },
    /// PTX, which the driver translates for any card from this capability on.
    Ptx { capability: Capability },
}

impl Target {
    /// From nvcc's names: `sm_80`, `sm_90a`, `compute_80`. The last digit is the minor number. None for any other.
    pub fn parse(name: &str) -> Option<Target> {
        let number = |digits: &str| {
            let number: u32 = digits.parse().ok().filter(|n| *n >= 10)?;
            Some(Capability { major: number / 10, minor: number % 10 })
        };
        if let Some(digits) = name.strip_prefix("compute_") {
            return Some(Target::Ptx { capability: number(digits)? });
        }
        let digits = name.strip_prefix("sm_")?;
        let base = digits.strip_suffix('a');
        Some(Target::MachineCode { capability: number(base.unwrap_or(digits))?, exact: base.is_some() })
    }

    /// NVRTC's target for a card. Hopper's has the instructions that only Hopper has.
    pub fn of_card(card: Capability) -> Target {
        Target::MachineCode { capability: card, exact: card == Capability::HOPPER }
    }

    /// How well it suits a card, the larger the better: machine code before PTX, a nearer capability before a farther
    /// one. None where it cannot run.
    fn rank(self, card: Capability) -> Option<(bool, bool, Capability)> {
        match self {
            Target::MachineCode { capability, exact } => {
                let runs = capability == card || !exact && capability.major == card.major && capability <= card;
                runs.then_some((true, exact, capability))
            }
            Target::Ptx { capability } => (capability <= card).then_some((false, false, capability)),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::MachineCode { capability: c, exact } => {
                write!(f, "sm_{}{}{}", c.major, c.minor, if *exact { "a" } else { "" })
            }
            Target::Ptx { capability: c } => write!(f, "compute_{}{}", c.major, c.minor),
        }
    }
}

/// An embedded image.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// As [`Target::parse`] reads it.
    pub target: &'static str,
    /// Compressed with zlib.
    pub packed: bool,
    pub bytes: &'static [u8],
}

impl Image {
    /// The image with a zero byte behind it, which ends PTX and does machine code no harm.
    ///
    /// # Errors
    /// It is damaged.
    pub fn unpack(&self) -> Result<Vec<u8>, String> {
        const LIMIT: usize = 64 << 20;
        let mut bytes: Cow<'_, [u8]> = Cow::Borrowed(self.bytes);
        if self.packed {
            let unpacked = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(self.bytes, LIMIT);
            bytes = Cow::Owned(unpacked.map_err(|e| format!("the embedded image is damaged ({e})"))?);
        }
        let mut bytes = bytes.into_owned();
        bytes.push(0);
        Ok(bytes)
    }
}

/// A kernel file with the images that are embedded of it.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// Of `kernels/{name}.cu`.
    pub name: &'static str,
    /// SHA-256 of `gpu.cuh` and the file.
    pub hash: &'static str,
    pub source: &'static str,
    pub images: &'static [Image],
}

impl Module {
    /// Whether it can run on `card` at all: files for Hopper alone say so in their name.
    pub fn is_for(&self, card: Capability) -> bool {
        !self.name.ends_with("_sm90") || card == Capability::HOPPER
    }

    /// The images that can run on `card`, the best first. For a card that came after them all, their PTX is left.
    pub fn images_for(&self, card: Capability) -> Vec<(Target, &'static Image)> {
        let mut ranked: Vec<_> = self
            .images
            .iter()
            .filter_map(|image| {
                let target = Target::parse(image.target)?;
                Some((target.rank(card)?, target, image))
            })
            .collect();
        ranked.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        ranked.into_iter().map(|(_, target, image)| (target, image)).collect()
    }
}

/// Where a loaded module's code came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Embedded(Target),
    Nvrtc(Target),
}

/// No code for a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernels/{module}.cu has no code for compute capability {card}: {reasons}")]
pub struct LoadError {
    pub module: &'static str,
    pub card: Capability,
    /// What was tried and what came of it, in one line.
    pub reasons: String,
}

/// Loads a module on a card: embedded machine code, else embedded PTX, else what NVRTC compiles. `accept` asks the driver
/// to take an image, which ends in a zero byte, and gives its reason where it does not. NVRTC is looked for where it is
/// needed, and once: `nvrtc` keeps what was found.
///
/// # Errors
/// Nothing suits the card, and NVRTC is not found or fails.
pub fn load<M>(
    module: &Module,
    card: Capability,
    driver: CudaVersion,
    nvrtc: &mut Option<Result<Nvrtc, NvrtcError>>,
    accept: &mut dyn FnMut(&[u8]) -> Result<M, String>,
) -> Result<(M, Origin), LoadError> {
    let mut reasons = Vec::new();
    for (target, image) in module.images_for(card) {
        match image.unpack().and_then(|bytes| accept(&bytes)) {
            Ok(loaded) => return Ok((loaded, Origin::Embedded(target))),
            Err(reason) => reasons.push(format!("{target}: {reason}")),
        }
    }
    if module.images.is_empty() {
        reasons.push(format!("no image is embedded ({ORIGIN})"));
    } else if reasons.is_empty() {
        reasons.push("no embedded image is for it".to_owned());
    }
    let compiled = match nvrtc.get_or_insert_with(|| Nvrtc::find(driver)) {
        Ok(nvrtc) => nvrtc.compile_once(module.name, module.source, module.hash, card),
        Err(e) => Err(e.clone()),
    };
    match compiled.map_err(|e| e.to_string()).and_then(|(target, bytes)| Ok((accept(&bytes)?, target))) {
        Ok((loaded, target)) => Ok((loaded, Origin::Nvrtc(target))),
        Err(reason) => {
            reasons.push(reason);
            Err(LoadError { module: module.name, card, reasons: reasons.join("; ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPPER: Capability = Capability::HOPPER;

    fn image(target: &'static str) -> Image {
        Image { target, packed: false, bytes: b"code" }
    }

    fn module(targets: &[&'static str]) -> Module {
        let images = targets.iter().map(|t| image(t)).collect::<Vec<_>>().leak();
        Module { name: "norm", hash: "", source: "", images }
    }

    fn chosen(targets: &[&'static str], major: u32, minor: u32) -> Vec<String> {
        let images = module(targets).images_for(Capability { major, minor });
        images.into_iter().map(|(target, _)| target.to_string()).collect()
    }

    const PREBUILT: [&str; 5] = ["sm_80", "sm_90a", "sm_100", "sm_120", "compute_80"];

    #[test]
    fn machine_code_runs_on_later_cards_of_its_generation() {
        assert_eq!(chosen(&PREBUILT, 8, 0), ["sm_80", "compute_80"]);
        assert_eq!(chosen(&PREBUILT, 8, 9), ["sm_80", "compute_80"]);
        assert_eq!(chosen(&PREBUILT, 9, 0), ["sm_90a", "compute_80"]);
        assert_eq!(chosen(&PREBUILT, 10, 3), ["sm_100", "compute_80"]);
        assert_eq!(chosen(&PREBUILT, 12, 1), ["sm_120", "compute_80"]);
        assert_eq!(chosen(&["sm_80", "sm_86", "sm_89"], 8, 6), ["sm_86", "sm_80"], "the nearest first");
    }

    #[test]
    fn a_card_that_nobody_foresaw_takes_ptx() {
        assert_eq!(chosen(&PREBUILT, 13, 0), ["compute_80"]);
        assert_eq!(chosen(&PREBUILT, 11, 0), ["compute_80"]);
        assert_eq!(chosen(&["sm_90a", "compute_80", "compute_90"], 9, 1), ["compute_90", "compute_80"]);
    }

    #[test]
    fn an_old_card_takes_nothing() {
        assert!(chosen(&PREBUILT, 7, 5).is_empty());
        assert!(chosen(&["sm_86"], 8, 0).is_empty(), "code for a later card of the generation");
    }

    #[test]
    fn target_names() {
        for name in ["sm_80", "sm_90a", "sm_120", "compute_80"] {
            assert_eq!(Target::parse(name).map(|t| t.to_string()).as_deref(), Some(name));
        }
        for name in ["", "sm_", "sm_9", "sm_x0", "compute_", "sm_100f", "lto_80"] {
            assert_eq!(Target::parse(name), None, "{name}");
        }
        assert_eq!(Target::of_card(HOPPER).to_string(), "sm_90a");
        assert_eq!(Target::of_card(Capability { major: 12, minor: 0 }).to_string(), "sm_120");
    }

    #[test]
    fn a_file_for_hopper_is_for_hopper_alone() {
        let hopper = Module { name: "gemm_sm90", ..module(&[]) };
        assert!(hopper.is_for(HOPPER));
        assert!(!hopper.is_for(Capability { major: 10, minor: 0 }));
        assert!(module(&[]).is_for(Capability { major: 10, minor: 0 }));
    }

    #[test]
    fn what_the_driver_refuses_is_passed_over() {
        let mut tried = 0;
        let mut accept = |_: &[u8]| {
            tried += 1;
            if tried == 2 { Ok("loaded") } else { Err("too new".to_owned()) }
        };
        let driver = CudaVersion { major: 12, minor: 0 };
        let (_, origin) = load(&module(&PREBUILT), HOPPER, driver, &mut None, &mut accept).unwrap();
        assert_eq!(origin, Origin::Embedded(Target::Ptx { capability: Capability { major: 8, minor: 0 } }));
    }

    #[test]
    fn a_failure_names_all_that_was_tried_in_one_line() {
        let mut nvrtc = Some(Err(NvrtcError::NotFound));
        let driver = CudaVersion { major: 12, minor: 0 };
        let mut refuse = |_: &[u8]| Err::<(), _>("too new".to_owned());
        let message = load(&module(&PREBUILT), HOPPER, driver, &mut nvrtc, &mut refuse).unwrap_err().to_string();
        assert!(message.contains("kernels/norm.cu") && message.contains("9.0"), "{message}");
        assert!(message.contains("sm_90a: too new; compute_80: too new"), "{message}");
        assert!(message.contains("PATCHWAVE_NVRTC") && !message.contains('\n'), "{message}");
    }

    #[test]
    fn a_damaged_image_is_passed_over() {
        let packed = Image { target: "sm_80", packed: true, bytes: b"no zlib stream" };
        assert!(packed.unpack().unwrap_err().contains("damaged"));
        let good = miniz_oxide::deflate::compress_to_vec_zlib(b"code", 6).leak();
        assert_eq!(Image { bytes: good, ..packed }.unpack().unwrap(), b"code\0");
    }

    #[test]
    fn every_embedded_image_can_be_read() {
        assert!(MODULES.iter().any(|m| m.name == "gemm_sm80"));
        for module in MODULES {
            assert!(module.source.contains("#include \"gpu.cuh\""), "{}", module.name);
            assert_eq!(module.hash.len(), 64);
            for image in module.images {
                let target = Target::parse(image.target).expect(image.target);
                let bytes = image.unpack().unwrap();
                match target {
                    Target::MachineCode { .. } => assert_eq!(&bytes[..4], b"\x7fELF", "{}", module.name),
                    Target::Ptx { .. } => {
                        let text = bytes.trim_ascii_start();
                        assert!(text.starts_with(b".version") || text.starts_with(b"//"), "{}", module.name);
                    }
                }
            }
        }
    }
}
