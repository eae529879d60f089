//! Stored JSON that a newer release wrote is told apart from damaged JSON.

use std::fmt::Display;

use super::Error;

/// What to do about something that this program is too old for.
pub(crate) const UPGRADE: &str = concat!(
    "a newer scalingnote wrote this; upgrade this program (this is ",
    env!("CARGO_PKG_VERSION"),
    ")"
);

/// The error of stored JSON that does not parse: Unsupported where it has a field or a value that this program does
/// not know, which only a newer release writes, and Corrupt with `damaged` otherwise.
pub(crate) fn unreadable(
    cause: serde_json::Error,
    what: impl Display,
    damaged: impl Display,
) -> Error {
    let said = cause.to_string();
    let is_unknown = said.starts_with("unknown field `") || said.starts_with("unknown variant `");
    let error = match cause.is_data() && is_unknown {
        true => Error::unsupported(format!(
            "{what} cannot be read: {UPGRADE}; if none has run here, {damaged}"
        )),
        false => Error::corrupt(damaged.to_string()),
    };
    error.with_source(cause)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::error::ErrorKind;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Old,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Stored {
        #[allow(dead_code)]
        kind: Kind,
    }

    #[test]
    fn what_a_newer_release_wrote_is_not_called_damaged() {
        let cases = [
            (r#"{"kind": "old", "steps_left": 1}"#, ErrorKind::Unsupported),
            (r#"{"kind": "new"}"#, ErrorKind::Unsupported),
            (r#"{"kind": 1}"#, ErrorKind::Corrupt),
            (r#"{"kind": "old""#, ErrorKind::Corrupt),
            ("{}", ErrorKind::Corrupt),
        ];
        for (text, kind) in cases {
            let error = serde_json::from_str::<Stored>(text).unwrap_err();
            let error = unreadable(error, "receipt x", "receipt x is damaged");
            assert_eq!(error.kind(), kind, "{text}: {error}");
            let says_upgrade = error.to_string().contains("upgrade this program (this is ");
            assert_eq!(says_upgrade, kind == ErrorKind::Unsupported, "{error}");
        }
        // From a value, too, where the error has no line.
        let value = serde_json::json!({"kind": "old", "more": true});
        let error = serde_json::from_value::<Stored>(value).unwrap_err();
        assert_eq!(unreadable(error, "", "").kind(), ErrorKind::Unsupported);
    }
}
