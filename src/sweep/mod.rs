//! From pairs and a model to the metric of every patched run: sites and cells, the plan, the wave, metrics, effects.
//!
//! Several devices share a sweep ([`Sweep::run_with`]). Each has the weights and makes the base and source runs of a group
//! of pairs by itself; the group's waves lie in one queue, from which every device takes the next when it is free. A row's
//! result depends neither on the wave that it is in nor on the device, so the metrics have the same bits as from one.

pub mod cells;
mod deal;
pub mod effect;
mod entry;
mod group;
pub mod intervention;
mod joint;
pub mod limits;
mod mean;
pub mod metric;
pub mod node;
mod plan;
pub mod select;
pub mod statistics;
mod wave;

pub use cells::{By, Cell, Column, Direction, Selection, SiteCells};
pub use intervention::{Directions, Draws, Edges, Intervention, InterventionError, PatchKind};
pub use joint::{Joint, JointOutcome, Target};
pub use limits::{Limits, Needs};
pub use metric::Metric;
pub use node::{Node, NodeError};

mod run;
mod verify;
pub use run::{Block, Item, Outcome, Progress, Sweep, SweepError, SweepStats, prefers_answer};
pub use verify::Verification;
