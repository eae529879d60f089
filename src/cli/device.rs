//! Devices on the command line: `cpu`, `cuda:0`.

use crate::tower::DeviceSpec;

/// Parses a device; `cpu` means all of its threads.
pub(super) fn parse(text: &str) -> Result<DeviceSpec, String> {
    if text == "cpu" {
        return Ok(DeviceSpec::Cpu { threads: 0 });
    }
    let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    number.map(DeviceSpec::Cuda).ok_or_else(|| "write cpu or cuda:<number>, e.g. cuda:0".to_owned())
}

/// A device by its name, as [`crate::stage::EncodeOptions::devices`] has it.
pub(super) fn name(text: &str) -> Result<String, String> {
    parse(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_or_say_how() {
        assert_eq!(parse("cpu"), Ok(DeviceSpec::Cpu { threads: 0 }));
        assert_eq!(parse("cuda:3"), Ok(DeviceSpec::Cuda(3)));
        for wrong in ["", "gpu", "cuda", "cuda:", "cuda:-1", "CPU"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
