//! Stage `encode`: texts become vectors on a worker's device, and what is compared before and afterwards.

mod device;
mod drift;
mod self_test;
mod shard;
mod verify;

pub use device::help;
pub use drift::{measure_drift, refuse_drift};
pub use self_test::{encode_sample, self_test};
pub(super) use shard::encode;
pub use shard::{EncodeReceipt, receipt};
pub use verify::{SampleCheck, verify_sample};
