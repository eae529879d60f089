//! Canary queries: what a search must find, recorded when an index is built and asked again before it is served.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A stored vector as a query, and what the index answered on the day it was built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Key of the stored vector that is the query.
    pub key: HexKey,
    /// The best hits, best first; the first is the vector itself or its equal.
    pub hits: Vec<CanaryHit>,
}

/// One expected hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryHit {
    /// Its key.
    pub key: HexKey,
    /// Its cosine, rounded to four digits.
    pub score: f64,
}

/// A vector's key as 16 hex digits: many JSON readers round integers above 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexKey(pub u64);

impl fmt::Display for HexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<HexKey> for String {
    fn from(key: HexKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for HexKey {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let digits =
            text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(&text, 16) {
            Ok(key) if digits => Ok(Self(key)),
            _ => Err(Error::corrupt("a key must be 16 lower-case hex digits")),
        }
    }
}

impl JsonSchema for HexKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HexKey".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]{16}$",
            "description": "A vector's key as 16 hex digits"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_json() {
        for key in [0, 7, u64::MAX, 0x27bb_3a27_797e_78e6] {
            let text = serde_json::to_string(&HexKey(key)).unwrap();
            assert_eq!(serde_json::from_str::<HexKey>(&text).unwrap(), HexKey(key));
        }
        for wrong in ["\"7\"", "\"+000000000000007\"", "\"00000000000000zz\"", "7"] {
            assert!(serde_json::from_str::<HexKey>(wrong).is_err(), "{wrong}");
        }
    }
}
