//! Numbers of snapshots on the command line.

/// Parses the number of a snapshot.
pub(crate) fn snapshot(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        "expected a snapshot number, such as 12; `scalingnote snapshot list` shows them".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_wanted() {
        assert_eq!(snapshot("12"), Ok(12));
        for wrong in ["newest", "two", "-1", "1.0", "", "99999999999999999999999"] {
            assert!(snapshot(wrong).unwrap_err().contains("expected a snapshot number"), "{wrong}");
        }
    }
}
