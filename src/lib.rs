//! patchwave: exact activation patching of open-weight transformers.
//!
//! A *sweep* patches every head, position or site of a model, one at a time, and measures what each does to a metric.
//! It costs far less than one forward pass per patch, because causality says what a patch cannot change:
//!
//! ```text
//! prompts   pairs of clean and corrupted prompts, their formats
//!    │
//!    ▼
//! model     config.json → ModelSpec (knobs); weights by memory map; tokenizer; one small file per family of names
//!    │
//!    ▼
//! engine    rows and segments, the forward pass, the activation cache, patch points     ─── over ───  backend
//!    │                                                                                    the operations, as one
//!    ▼                                                                                    trait: cpu/ cuda/
//! sweep     sites, cells, plan, the wave, the reference path, metrics, effects
//! capture   beside it: activations of whole runs to files, batch by batch
//! probe     on captures: what can be read from an activation, and in which direction
//! bench     over all of these: operations and whole waves against what the device can do
//!    │
//!    ▼
//! export    run folders, heat maps (SVG, PNG, HTML), tables
//! ```
//!
//! Data flows one way; nothing imports what stands below it in the picture. The backend knows nothing of what a patch
//! means, the engine nothing of the command line (`cli`), and nobody but `model/family` the name of a family.
//!
//! Four words, used everywhere in one sense (`docs/sites.md`):
//! a **cell** is one patched activation; a **row** is one token of one run; a **segment** is a run of rows of one
//! prompt; the **wave** is the matrix of all segments of all cells, which grows as it climbs through the layers.
//!
//! The way in is [`sweep::Sweep`]:
//!
//! ```
//! use patchwave::{backend::cpu::Cpu, demo, engine::{Model, Site}, prompts, sweep::*};
//! use std::{collections::HashMap, ops::ControlFlow, sync::Arc};
//!
//! # fn main() -> Result<(), patchwave::Error> {
//! let files = demo::model()?;
//! let spec = Arc::new(files.spec.clone());
//! let model = Model::load(spec.clone(), &*files.params, Cpu, &|_| ())?;
//! let options = prompts::LoadOptions {
//!     bos: prompts::BosPolicy::Auto,
//!     d_vocab: spec.d_vocab,
//!     n_ctx: spec.n_ctx,
//!     needs_wrong: true,
//!     needs_answer: true,
//!     needs_corrupted: true,
//! };
//! let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn prompts::Encode);
//! let set = prompts::parse("demo", demo::PAIRS.as_bytes(), tokenizer, &options)?;
//! let sweep = Sweep {
//!     model: &model,
//!     pairs: &set.pairs,
//!     sites: vec![SiteCells::new(&spec, Site::Z, By::Head, 0, &Selection::default())],
//!     columns: vec![],
//!     restricted: false,
//!     direction: Direction::Denoise,
//!     patch: PatchKind::Source,
//!     metric: Metric::LogitDiff,
//!     align: None,
//!     limits: Limits::default(),
//!     skip: true,
//! };
//! let outcome = sweep.run(&HashMap::new(), &mut |_, _| ControlFlow::Continue(()))?;
//! let effects = effect::effects(&outcome.metric, &outcome.clean, &outcome.corrupted, sweep.direction, 0.0);
//! assert_eq!(effects.effect.len(), spec.n_layers() * 8);
//! # Ok(())
//! # }
//! ```

pub mod backend;
pub mod bench;
pub mod capture;
pub mod cli;
pub mod demo;
pub mod engine;
pub mod error;
pub mod export;
mod hex;
pub mod model;
pub mod probe;
pub mod prompts;
mod quiet;
mod random;
pub mod sweep;

pub use error::Error;
