//! Rows and segments, the forward pass (written once, over the backend's operations), the activation cache and the
//! patch points.

pub mod cache;
mod devices;
pub mod forward;
pub mod patch;
mod place;
pub mod program;
mod recorder;
pub mod rope;
pub mod run;
pub mod segment;
pub mod site;
pub mod weights;
pub mod workspace;

pub use cache::{Cache, Keep, Point, PromptRows};
pub(crate) use devices::on_each;
pub use forward::{Forward, RowCount};
pub use patch::{PatchPoint, Value};
pub use program::Program;
pub use rope::RopeTables;
pub use run::Run;
pub use segment::Segment;
pub use site::Site;
pub use weights::Model;
pub use workspace::Workspace;
