//! From pairs and a model to the metric of every patched run: sites and cells, the plan, the wave, metrics, effects.

pub mod cells;
pub mod effect;
mod entry;
mod group;
pub mod limits;
mod mean;
pub mod metric;
mod plan;
mod reference;
pub mod select;
pub mod statistics;
mod wave;

pub use cells::{By, Cell, Column, Direction, PatchKind, Selection, SiteCells};
pub use limits::{Limits, Needs};
pub use metric::Metric;

mod run;
pub use run::{Block, Item, Outcome, Progress, Sweep, SweepError, SweepStats, Verification, prefers_answer};
