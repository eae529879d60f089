//! `scalingnote snapshot list|show|diff|verify|compare|copy|repair|rollback|gc`.

mod command;
mod compare;
mod copy;
mod inspect;
mod manage;
mod repair;
mod verify;

pub(super) use command::{SnapshotArgs, execute};
