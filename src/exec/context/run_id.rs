//! Names of runs: sortable by time, unique without a registry.

use rand::RngCore;

/// `20261123T075000Z-4f2a9c1e`: start in UTC, then 32 random bits.
pub fn new_run_id() -> String {
    let mut random = [0; 4];
    rand::rng().fill_bytes(&mut random);
    format!("{}-{}", chrono::Utc::now().format("%Y%m%dT%H%M%SZ"), hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_are_unique_path_segments() {
        let (a, b) = (new_run_id(), new_run_id());
        assert_ne!(a, b);
        assert_eq!(a.len(), 25);
        assert!(a.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    }
}
