//! Every kernel, through the CUDA backend on the emulated device, against float64 references: at odd sizes, under
//! several schedules and under the checker, which must have nothing to report. All but `emulator` run on a GPU as well:
//! `PATCHWAVE_TEST_DEVICE=cuda:0`.
//!
//! `cargo test --release --features emulator --test kernels`
#![cfg(feature = "emulator")]

#[path = "../activations/mod.rs"]
mod activations;
mod attention;
mod conformance;
#[path = "../device/mod.rs"]
mod device;
mod emulator;
mod emulator_sm90;
mod epilogue;
mod gemm;
mod gemm_sm90;
mod metrics;
mod patches;
mod rows;
mod support;
