//! Devices on the command line: `cpu`, `cpu:4`, `cuda:0`.

use crate::tower::DeviceSpec;

/// Parses a device; `cpu` means all of its threads.
pub(crate) fn parse(text: &str) -> Result<DeviceSpec, String> {
    text.parse().map_err(|error: crate::error::Error| error.message().to_owned())
}

/// A device by its name, as [`crate::stage::EncodeOptions::devices`] has it.
pub(crate) fn name(text: &str) -> Result<String, String> {
    parse(text).map(|_| text.to_owned())
}
