//! The options of object stores.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to reach an object store. Credentials are not here: they come from the environment
/// (`AWS_*`, `AZURE_*`, `GOOGLE_*`), as the tools of each cloud read them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StorageOptions {
    /// URL of an S3-, Azure- or GCS-compatible server, e.g. `http://localhost:9000`; for Azure with the account
    /// in its path where the server wants it there.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket.
    pub region: Option<String>,
    /// S3: `true` addresses `endpoint/bucket/key`, `false` `bucket.endpoint/key`. Default: path style.
    pub path_style: Option<bool>,
    /// Allows an unencrypted `http://` endpoint. Default: only where `endpoint` itself starts with `http://`.
    pub allow_http: Option<bool>,
    /// Seconds that one request may take, its body included. Default: 30. No request carries more than 8 MiB,
    /// so that this also suits a slow line; a web server that gives no ranges gets twenty times as long.
    pub request_timeout_seconds: Option<u64>,
    /// How often a request with a transient failure is repeated, with growing pauses, or as long as the store asks for
    /// (`Retry-After`); three minutes in all. Default: 10.
    pub max_retries: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_storage_options_are_refused() {
        assert!(serde_json::from_str::<StorageOptions>(r#"{"regoin":"x"}"#).is_err());
    }
}
