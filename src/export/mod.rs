//! What a finished sweep leaves behind: a run folder, a heat map, a table for the terminal.
//!
//! [`RunResult`] is the whole of it in memory. [`run::write()`] turns it into a folder that numpy, a spreadsheet and a
//! browser can open, [`run::read()`] takes such a folder back, [`heatmap::render`] draws it and [`top_cells`] lists its
//! strongest cells.

mod cells_csv;
pub mod diff;
pub mod error;
pub mod folder;
mod font;
pub mod heatmap;
pub mod journal;
pub mod node;
pub mod roofline;
pub mod run;
pub mod table;

pub use diff::{Diff, compare};
pub use error::ExportError;
pub use heatmap::{Format, Heatmap, Options, ScaleBy, Style};
pub use node::node_name;
pub use roofline::Roofline;
pub use run::{Axis, Direction, RunResult, SiteEffects, Written};
pub use table::top_cells;
