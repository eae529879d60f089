//! `scalingnote snapshot list|show|diff|verify|copy|repair|rollback|gc`.

mod command;
mod copy;
mod inspect;
mod manage;
mod repair;
mod verify;

pub(super) use command::{SnapshotArgs, execute};
