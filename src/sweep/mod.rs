//! From pairs and a model to the metric of every patched run: sites and cells, the plan, the wave, metrics, effects.

pub mod cells;
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
pub use run::{Block, Item, Outcome, Progress, Sweep, SweepError, SweepStats, Verification, prefers_answer};
