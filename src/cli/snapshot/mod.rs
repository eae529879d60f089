//! `scalingnote snapshot list|show|diff|verify|repair|rollback|gc`.

mod command;
mod inspect;
mod manage;
mod repair;
mod verify;

pub(super) use command::{SnapshotArgs, execute};
