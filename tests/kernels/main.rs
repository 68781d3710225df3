//! Every kernel, through the CUDA backend on the emulated device, against float64 references: at odd sizes, under
//! several schedules and under the checker, which must have nothing to report.
//!
//! `cargo test --release --features emulator --test kernels`
#![cfg(feature = "emulator")]

mod attention;
mod emulator;
mod emulator_sm90;
mod epilogue;
mod gemm;
mod gemm_sm90;
mod metrics;
mod patches;
mod rows;
mod support;
