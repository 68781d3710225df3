//! Which compiled kernels the library carries: those that nvcc makes now, else the committed ones, else none.
//!
//! Every kernel's source is embedded in any case, so that NVRTC can compile it where no image fits. Nothing here can fail
//! a build: without nvcc, with one that does not work, or after an edit to a kernel, fewer images are embedded, and a
//! warning says so where somebody should know.
//!
//! `PATCHWAVE_NVCC` names the nvcc to use, or is `off`; otherwise it is looked for in `CUDA_HOME`, `CUDA_PATH`, `PATH` and
//! `/usr/local/cuda`.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// What nvcc is asked for, if it knows the architecture. Machine code runs on every later card of its generation; a card
/// of a later generation translates the PTX.
const TARGETS: [&str; 5] = ["sm_80", "sm_90a", "sm_100", "sm_120", "compute_80"];

/// A kernel file.
struct Source {
    name: String,
    path: PathBuf,
    /// Of `gpu.cuh`, a zero byte, and the file; `kernels/check` computes the same.
    hash: String,
}

/// An image to embed: its target, where it lies, and whether it is compressed.
struct Image {
    target: String,
    path: PathBuf,
    packed: bool,
}

/// Writes `$OUT_DIR/cuda_images.rs`, which `src/backend/cuda/images.rs` includes.
pub fn embed() {
    let kernels = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    for path in ["kernels/images.rs", "kernels/gpu.cuh", "kernels/prebuilt", "kernels"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["PATCHWAVE_NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let header = kernels.join("gpu.cuh");
    let sources = sources(&kernels, &header);

    let (origin, images) = match nvcc() {
        Some(nvcc) => match compile(&nvcc, &kernels, &sources, &out) {
            Ok(images) => (format!("compiled by {}", nvcc.display()), images),
            Err(reason) => {
                println!(
                    "cargo:warning={} does not compile the kernels ({reason}); PATCHWAVE_NVCC=off silences this",
                    nvcc.display()
                );
                prebuilt(&kernels, &sources)
            }
        },
        None => prebuilt(&kernels, &sources),
    };

    let mut text = format!("pub static GPU_CUH: &str = include_str!({header:?});\n");
    let _ = writeln!(text, "pub static ORIGIN: &str = {origin:?};\npub static MODULES: &[Module] = &[");
    for (source, images) in sources.iter().zip(images) {
        let Source { name, path, hash } = source;
        let _ = write!(text, "Module {{ name: {name:?}, hash: {hash:?}, source: include_str!({path:?}), images: &[");
        for Image { target, path, packed } in images {
            let _ = write!(text, "Image {{ target: {target:?}, packed: {packed}, bytes: include_bytes!({path:?}) }}, ");
        }
        text.push_str("] },\n");
    }
    text.push_str("];\n");
    fs::write(out.join("cuda_images.rs"), text).expect("OUT_DIR can be written");
}

fn sources(kernels: &Path, header: &Path) -> Vec<Source> {
    let header = fs::read(header).expect("kernels/gpu.cuh is in the repository");
    let entries = fs::read_dir(kernels).expect("kernels/ is in the repository");
    let mut sources: Vec<Source> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "cu"))
        .map(|path| {
            println!("cargo:rerun-if-changed={}", path.display());
            let mut hash = Sha256::new();
            hash.update(&header);
            hash.update([0]);
            hash.update(fs::read(&path).expect("it has just been listed"));
            let hash = hash.finalize().iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            let name = path.file_stem().expect("it has an extension").to_string_lossy().into_owned();
            Source { name, path, hash }
        })
        .collect();
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources
}

/// The committed images of every source whose hash is the one they were made from.
fn prebuilt(kernels: &Path, sources: &[Source]) -> (String, Vec<Vec<Image>>) {
    let folder = kernels.join("prebuilt");
    let manifest = fs::read_to_string(folder.join("SOURCES")).unwrap_or_default();
    let mut edited = Vec::new();
    let images = sources
        .iter()
        .map(|source| {
            let current = manifest.lines().any(|l| l.split_once("  ") == Some((&source.hash, &source.name)));
            if !current {
                edited.push(source.name.as_str());
                return Vec::new();
            }
            TARGETS
                .iter()
                .map(|target| Image {
                    target: (*target).to_owned(),
                    path: folder.join(format!("{}.{target}.zz", source.name)),
                    packed: true,
                })
                .filter(|image| image.path.is_file())
                .collect()
        })
        .collect();
    let origin = if edited.is_empty() {
        "prebuilt".to_owned()
    } else if manifest.is_empty() {
        "not built: kernels/prebuilt is empty".to_owned()
    } else {
        let edited = edited.join(", ");
        println!("cargo:warning=kernels/prebuilt is older than {edited}: without nvcc, a GPU needs NVRTC for them");
        format!("prebuilt, but for {edited}, edited since")
    };
    (origin, images)
}

/// The nvcc to use, if there is one.
fn nvcc() -> Option<PathBuf> {
    match env::var("PATCHWAVE_NVCC") {
        Ok(v) if v == "off" => return None,
        Ok(v) if !v.is_empty() => return Some(PathBuf::from(v)),
        _ => {}
    }
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = homes.chain(env::split_paths(&path)).chain([PathBuf::from("/usr/local/cuda/bin")]);
    folders.map(|f| f.join(&name)).find(|f| f.is_file())
}

/// Every source for every target that this nvcc knows, several at a time.
fn compile(nvcc: &Path, kernels: &Path, sources: &[Source], out: &Path) -> Result<Vec<Vec<Image>>, String> {
    let mut known = output(Command::new(nvcc).arg("--list-gpu-code"))?;
    known.push_str(&output(Command::new(nvcc).arg("--list-gpu-arch"))?);
    let known: Vec<&str> = known.split_whitespace().collect();
    // sm_90a is not listed by every nvcc that has it.
    let listed = |target: &str| known.contains(&target) || known.contains(&target.trim_end_matches('a'));
    let jobs: Vec<(usize, &str)> = (0..sources.len())
        .flat_map(|s| targets(&sources[s].name).iter().map(move |t| (s, *t)))
        .filter(|(_, target)| listed(target))
        .collect();
    if jobs.is_empty() {
        return Err("it knows no architecture that the kernels are for".to_owned());
    }
    let next = Mutex::new(jobs.iter());
    let done = Mutex::new(Vec::new());
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, 64);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let job = next.lock().ok().and_then(|mut jobs| jobs.next().copied());
                    let Some((s, target)) = job else { return };
                    let result = compile_one(nvcc, kernels, &sources[s], target, out);
                    if let Ok(mut done) = done.lock() {
                        done.push((s, target, result));
                    }
                }
            });
        }
    });
    let mut images: Vec<Vec<Image>> = sources.iter().map(|_| Vec::new()).collect();
    let mut done = done.into_inner().map_err(|_| "a thread failed")?;
    done.sort_by_key(|(s, target, _)| (*s, TARGETS.iter().position(|t| t == target)));
    for (s, target, result) in done {
        images[s].push(Image { target: target.to_owned(), path: result?, packed: false });
    }
    Ok(images)
}

/// A file whose name ends in `_sm90` is for Hopper alone; `kernels/check` has the same rule.
fn targets(name: &str) -> &'static [&'static str] {
    if name.ends_with("_sm90") { &["sm_90a"] } else { &TARGETS }
}

fn compile_one(nvcc: &Path, kernels: &Path, source: &Source, target: &str, out: &Path) -> Result<PathBuf, String> {
    let image = out.join(format!("{}.{target}.{}", source.name, &source.hash[..16]));
    if image.is_file() {
        return Ok(image);
    }
    let virtual_target = target.replace("sm_", "compute_");
    let kind = if target == virtual_target { "-ptx" } else { "-cubin" };
    let unfinished = image.with_extension("tmp");
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", kind, "-gencode", &format!("arch={virtual_target},code={target}"), "-I"]);
    output(command.arg(kernels).arg("-o").arg(&unfinished).arg(&source.path))?;
    fs::rename(&unfinished, &image).map_err(|e| e.to_string())?;
    Ok(image)
}

/// What a command prints, or its first line about an error.
fn output(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|e| e.to_string())?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = [done.stderr, done.stdout].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().find(|l| l.contains("error") || l.contains("fatal")).or_else(|| said.lines().next());
    Err(line.unwrap_or("no message").trim().to_owned())
}

// A build script has no tests of its own; tests/cuda_loading.rs includes this file.
#[cfg(test)]
mod tests {
    use super::*;

    /// kernels/ with `gpu.cuh` and one kernel.
    fn kernels(folder: &Path) -> PathBuf {
        fs::create_dir_all(folder.join("prebuilt")).unwrap();
        fs::write(folder.join("gpu.cuh"), "// header").unwrap();
        fs::write(folder.join("norm.cu"), "// kernel").unwrap();
        folder.join("gpu.cuh")
    }

    #[test]
    fn committed_images_are_embedded_as_long_as_the_sources_are_those_they_were_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, header) = (folder.path(), kernels(folder.path()));
        let embedded = || {
            let (origin, images) = prebuilt(folder, &sources(folder, &header));
            let targets: Vec<String> = images.into_iter().flatten().map(|i| i.target).collect();
            (origin, targets)
        };
        assert_eq!(embedded().1, Vec::<String>::new());

        fs::write(folder.join("prebuilt/norm.sm_80.zz"), "").unwrap();
        fs::write(folder.join("prebuilt/norm.compute_80.zz"), "").unwrap();
        let hash = sources(folder, &header)[0].hash.clone();
        fs::write(folder.join("prebuilt/SOURCES"), format!("{hash}  norm\n")).unwrap();
        assert_eq!(embedded(), ("prebuilt".to_owned(), vec!["sm_80".to_owned(), "compute_80".to_owned()]));

        fs::write(folder.join("gpu.cuh"), "// another header").unwrap();
        let (origin, targets) = embedded();
        assert!(targets.is_empty() && origin.contains("norm, edited since"), "{origin}");
    }

    #[test]
    #[cfg(unix)]
    fn nvcc_is_asked_for_what_it_knows_and_its_failure_is_one_line() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (folder, header) = (folder.path(), kernels(folder.path()));
        let sources = sources(folder, &header);
        let script = |name: &str, compiles: &str| {
            let path = folder.join(name);
            let text = format!(
                "#!/bin/sh\ncase \"$1\" in\n--list-gpu-code) echo sm_80; echo sm_90;;\n--list-gpu-arch) echo compute_80;;\n\
                 *) {compiles};;\nesac\n"
            );
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let broken = script("broken", "echo 'norm.cu(1): error: no'; exit 1");
        let Err(reason) = compile(&broken, folder, &sources, folder) else { panic!("it does not compile") };
        assert_eq!(reason, "norm.cu(1): error: no");

        let works = script("works", "while [ $# -gt 1 ]; do [ \"$1\" = -o ] && echo code > \"$2\"; shift; done");
        let images = compile(&works, folder, &sources, folder).unwrap();
        let targets: Vec<&str> = images[0].iter().map(|i| i.target.as_str()).collect();
        assert_eq!(targets, ["sm_80", "sm_90a", "compute_80"]);
        assert!(images[0].iter().all(|i| i.path.is_file() && !i.packed));
        assert!(compile(&broken, folder, &sources, folder).is_ok(), "what is there is not compiled again");
    }
}
