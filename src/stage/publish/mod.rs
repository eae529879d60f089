//! Stage `publish`: the shards are put together, gates judge them, one manifest is committed.

mod commit;
mod gates;

pub use commit::{PublishRequest, Published, Verdicts, publish, refuse_other_tower};
pub use gates::Override;
