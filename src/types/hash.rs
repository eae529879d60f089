//! SHA-256 digests as values: hex on the outside, 32 bytes inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, ResultExt};

/// A SHA-256 digest; serialised as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest256(pub [u8; 32]);

/// Hash of one rendered text: with the embedding space it decides whether a vector can be reused.
pub type TextHash = Digest256;

impl Digest256 {
    /// Digest of one byte string.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// All 64 hex digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 16 hex digits: enough to name a file (64 bits), short enough to read.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..8])
    }
}

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl FromStr for Digest256 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|cause| {
            Error::corrupt("a SHA-256 digest must be 64 hex digits").with_source(cause)
        })?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Digest256 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest256".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "SHA-256 as 64 lower-case hex digits"
        })
    }
}

/// Incremental SHA-256 over length-prefixed fields, so that no two field lists share a digest.
#[derive(Clone, Default)]
pub struct Hasher256(Sha256);

impl Hasher256 {
    /// An empty hasher.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one field, prefixed with its length as a little-endian u64.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds raw bytes without a prefix: for hashing a file piece by piece.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.update(bytes.as_ref());
        self
    }

    /// The digest of what was added.
    pub fn finish(self) -> Digest256 {
        Digest256(self.0.finalize().into())
    }
}

/// Digest of a value's JSON with every object's keys sorted: equal values hash equally whatever
/// the field order in the source.
pub fn hash_json<T: Serialize>(value: &T) -> Result<Digest256> {
    let mut value = serde_json::to_value(value).context(|| "value cannot be written as JSON")?;
    value.sort_all_objects();
    Ok(Digest256::of(value.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_borders_count() {
        let digest = |fields: &[&str]| {
            let mut hasher = Hasher256::new();
            for field in fields {
                hasher.field(field);
            }
            hasher.finish()
        };
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
    }

    #[test]
    fn json_hash_ignores_key_order() {
        let a = serde_json::json!({"a": 1, "b": {"x": [1, 2], "y": null}});
        let b = serde_json::json!({"b": {"y": null, "x": [1, 2]}, "a": 1});
        assert_eq!(hash_json(&a).unwrap(), hash_json(&b).unwrap());
    }

    #[test]
    fn hex_round_trip() {
        let digest = Digest256::of(b"note");
        assert_eq!(digest.to_hex().parse::<Digest256>().unwrap(), digest);
        assert!("xyz".parse::<Digest256>().is_err());
    }
}
