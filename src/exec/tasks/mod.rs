//! Tasks run by this process: all of a plan's, a scheduler's share of them, or those of a list of texts.

pub(super) mod local;
pub(super) mod memory;
pub(super) mod receipts;
mod share;
mod speed;
mod texts;

pub(super) use share::share_of_plan;
pub use share::{Share, ShareDone, TaskStage, execute_task};
pub(super) use speed::measure_speed;
pub use texts::encode_texts;
