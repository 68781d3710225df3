//! Rows and segments, the forward pass (written once, over the backend's operations), the activation cache and the
//! patch points.

pub mod cache;
pub mod forward;
pub mod patch;
pub mod program;
pub mod rope;
pub mod run;
pub mod site;
pub mod weights;

pub use cache::{Cache, Keep, Point, PromptRows};
pub use forward::{Forward, RowCount, Segment, Workspace};
pub use patch::{PatchPoint, Value};
pub use program::Program;
pub use rope::RopeTables;
pub use run::Run;
pub use site::Site;
pub use weights::Model;
