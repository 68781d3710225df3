//! The built program as its users meet it: what it prints, what it writes, what it refuses, and how it goes on after
//! being stopped. Everything runs in temporary folders on the tiny models of `tests/fixtures/hf`.

mod bad_checkpoints;
mod bad_configs;
mod bad_options;
mod bad_prompts;
mod bench;
mod capture;
mod not_finite;
mod patch;
mod probe;
mod resume;
mod run_folder;
mod scene;
mod selections;
mod tasks;
mod transcripts;
