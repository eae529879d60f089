//! Which cluster a run is executed on: names only, so that this exists in every build.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;

/// Where a run's tasks go instead of this process's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The scheduler.
    pub scheduler: SchedulerAddress,
    /// How long all executors may be silent before a job is given up and submitted again.
    pub patience: Duration,
}

impl ClusterOptions {
    /// [`ClusterOptions::patience`] unless told.
    pub const PATIENCE: Duration = Duration::from_secs(120);
}

/// `HOST:PORT` of a scheduler; `df://` before it is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerAddress {
    host: String,
    port: u16,
}

impl SchedulerAddress {
    /// What gRPC clients connect to.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }
}

impl FromStr for SchedulerAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::usage(format!(
                "`{text}` is not a scheduler; write HOST:PORT, e.g. df://127.0.0.1:50050"
            ))
        };
        let address = text.strip_prefix("df://").unwrap_or(text);
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if host.is_empty() || !(plain || bracketed) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for SchedulerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "df://{}:{}", self.host, self.port)
    }
}

/// What is said where a cluster is asked of a program that was built without it: Usage.
#[cfg(not(feature = "cluster"))]
pub fn not_built() -> Error {
    Error::usage(
        "this program was built without clusters; build it with `cargo build --release --features cluster`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn addresses_parse_or_say_how() {
        for text in ["df://node-1:50050", "node-1:50050"] {
            let address: SchedulerAddress = text.parse().unwrap();
            assert_eq!(address.url(), "http://node-1:50050");
            assert_eq!(address.to_string(), "df://node-1:50050");
        }
        assert_eq!("[::1]:7".parse::<SchedulerAddress>().unwrap().url(), "http://[::1]:7");
        for wrong in
            ["", "node", "node:", ":1", "node:0", "node:99999", "http://node:1", "a b:1", "::1:7"]
        {
            let error = wrong.parse::<SchedulerAddress>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{wrong}");
        }
    }
}
