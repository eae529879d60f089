//! `scalingnote snapshot list|show|diff|verify|rollback|gc`.

mod command;
mod inspect;
mod manage;
mod verify;

pub(super) use command::{SnapshotArgs, execute};
