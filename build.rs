//! Compiles the CUDA kernels and their CPU emulator with the C++ compiler, where the feature `emulator` asks for it.
//! Without the feature no C++ compiler is looked for. `kernels/images.rs` chooses the GPU's images of the kernels.

#[path = "kernels/images.rs"]
mod images;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    images::embed();
    #[cfg(feature = "emulator")]
    emulator::build();
}

#[cfg(feature = "emulator")]
mod emulator {
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    pub fn build() {
        println!("cargo:rerun-if-changed=kernels");
        let kernels = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("kernels");
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));

        let mut runtime = compiler();
        runtime.opt_level(2).files(files_with("cpp", &kernels.join("emulator")));
        compile(runtime, "emulator", &out);

        // Every kernel twice: once fast, once with its loads and stores reported to the checker. The sanitizers' run-time
        // libraries are not linked; the emulator is what their calls reach (kernels/emulator/instrument.cpp).
        let mut fast = compiler();
        fast.opt_level(2);
        let mut checked = compiler();
        checked
            .opt_level(1)
            .flag("-g")
            .flag("-fsanitize=thread")
            .flag("-fsanitize=alignment")
            .define("EMU_CHECK", None);
        // The emulator's own tests are kernels, too: known answers and planted bugs.
        for kernel in [files_with("cu", &kernels), files_with("cu", &kernels.join("emulator"))].concat() {
            let name = kernel.file_stem().expect("found by its extension").to_string_lossy().into_owned();
            for (build, mode) in [(&mut fast, "fast"), (&mut checked, "checked")] {
                let source = out.join(format!("{name}_{mode}.cpp"));
                fs::write(&source, format!("#include \"{}\"\n", kernel.display())).expect("OUT_DIR can be written");
                build.file(source);
            }
        }
        compile(fast, "kernels_fast", &out);
        compile(checked, "kernels_checked", &out);
        println!("cargo:rustc-link-lib=dylib=stdc++");
    }

    /// The emulator is for the machine that builds it, so it may use all of its instructions; `PATCHWAVE_MARCH` names those
    /// of another, where tools/gpu-check takes the tests. Nothing is contracted to a fused multiply-add but what a kernel
    /// writes as `fmaf`: a row's bits must not depend on how a loop was unrolled.
    fn compiler() -> cc::Build {
        println!("cargo:rerun-if-env-changed=PATCHWAVE_MARCH");
        let machine = env::var("PATCHWAVE_MARCH").unwrap_or_else(|_| "native".to_owned());
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").flag("-ffp-contract=off").flag_if_supported(format!("-march={machine}"));
        build.flag("-Wno-unknown-pragmas").flag("-Wno-unused-function").flag("-Wno-unused-variable");
        build.cargo_metadata(false);
        build
    }

    /// Whole: kernels register themselves in initialisers that nothing refers to.
    fn compile(build: cc::Build, name: &str, out: &Path) {
        build.compile(name);
        println!("cargo:rustc-link-search=native={}", out.display());
        println!("cargo:rustc-link-lib=static:+whole-archive={name}");
    }

    fn files_with(extension: &str, folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("the kernels are in the repository");
        let mut files: Vec<PathBuf> =
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
        files.sort();
        files
    }
}
