//! The quantisation scale once it is frozen: one for each space and index options.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::index::{Calibration, IndexOptions};
use crate::store::receipt::{self, Receipt};
use crate::store::{Root, layout};
use crate::types::SpaceId;

/// What a calibration decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrateReceipt {
    /// Task id.
    pub id: String,
    /// The frozen scale.
    pub calibration: Calibration,
}

impl Receipt for CalibrateReceipt {}

/// The frozen scale; an error where the calibration has not run.
pub(crate) async fn frozen(
    root: &Root,
    options: &IndexOptions,
    space: &SpaceId,
) -> Result<Calibration> {
    let key = layout::calibration(&options.id()?, space);
    match receipt::read::<CalibrateReceipt>(root, &key).await? {
        Some(receipt) => Ok(receipt.calibration),
        None => Err(Error::transient(format!(
            "{key} is not there yet: the calibrate task comes before every build task"
        ))),
    }
}
