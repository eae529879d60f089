//! What a key may look like. Every key that reaches a store went through [`check`].

use crate::error::{Error, Result};

/// Longest key in bytes: under every store's limit, with room for the root's own prefix.
pub const MAX_LENGTH: usize = 512;

/// Accepts a `/`-separated relative key of plain segments, so that no key, whatever wrote it into a
/// manifest or a receipt, leads out of its root or is spelled differently on disk and in a bucket.
///
/// # Errors
/// Corrupt, for an empty, absolute or overlong key, a segment that is empty, `.` or `..`, or a
/// character other than ASCII letters, digits and `-_.=+@`.
pub fn check(key: &str) -> Result<()> {
    let refuse = |why: &str| {
        let shown: String = key.chars().take(80).collect();
        Err(Error::corrupt(format!(
            "{shown:?} is not a legal key ({why}); whatever names it was altered or is not from this program"
        )))
    };
    if key.is_empty() {
        return refuse("it is empty");
    }
    if key.len() > MAX_LENGTH {
        return refuse("it is longer than 512 bytes");
    }
    if key.starts_with('/') {
        return refuse("it is absolute");
    }
    for segment in key.split('/') {
        match segment {
            "" => return refuse("it has an empty segment"),
            "." | ".." => return refuse("it leads out of the root"),
            _ => {}
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=+@".contains(&b)) {
            return refuse("only ASCII letters, digits and -_.=+@ may be in it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn hostile_keys_are_corrupt() {
        for key in [
            "",
            "/etc/passwd",
            "..",
            "../../etc/passwd",
            "snapshots/../../x",
            "a//b",
            "a/",
            "a/./b",
            "a\\..\\b",
            "a b",
            "a%2e%2e/b",
            "part#1",
            "caf\u{e9}",
            "a\0b",
            "C:/x",
        ] {
            assert_eq!(check(key).unwrap_err().kind(), ErrorKind::Corrupt, "{key:?}");
        }
        assert!(check(&"x".repeat(513)).is_err());
        assert!(check("a..b/c...d").is_ok(), "dots inside a name are no way out");
    }

    proptest! {
        #[test]
        fn a_legal_key_never_leaves_its_root(key in "[a-z./\\\\%~ ]{0,24}") {
            if check(&key).is_ok() {
                let joined = std::path::Path::new("/root").join(&key);
                prop_assert!(joined.starts_with("/root"));
                prop_assert!(joined.components().all(|part| part != std::path::Component::ParentDir));
            }
        }
    }
}
