//! Where a web server may send us on to.
//!
//! A root's files are trusted because its host was named, so they come from no other host: anyone who can make that
//! server redirect (an open redirect, a taken-over path) could else serve another root, or have this machine ask
//! addresses that only it reaches. A table's file may come from another host, as downloads do. Nobody is told where we
//! come from: the address may hold a signature.

use std::fmt;
use std::time::Duration;

use object_store::client::HttpClient;
use reqwest::redirect::{Attempt, Policy};
use url::Url;

/// In the text of the error that a root gets.
pub const ELSEWHERE: &str = "redirects to another host";

/// Redirects in a row.
const MOST: usize = 10;

/// A client of a web server.
#[derive(Debug, Clone, Copy)]
pub struct Browser {
    /// Longest time for one request.
    pub timeout: Duration,
    /// Whether HTTP without TLS is allowed.
    pub plain: bool,
    /// Whether another host may send the answer.
    pub roams: bool,
}

impl Browser {
    pub fn connect(self) -> object_store::Result<HttpClient> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("scalingnote/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .timeout(self.timeout)
            .https_only(!self.plain)
            .http1_only()
            .referer(false)
            .redirect(Policy::custom(move |attempt| follow(attempt, self.roams)));
        let client = builder.build().map_err(|cause| object_store::Error::Generic {
            store: "HTTP",
            source: Box::new(cause),
        })?;
        Ok(HttpClient::new(client))
    }
}

fn follow(attempt: Attempt<'_>, roams: bool) -> reqwest::redirect::Action {
    let Some(first) = attempt.previous().first() else { return attempt.follow() };
    if attempt.previous().len() > MOST {
        return attempt.error("the server redirects in a loop");
    }
    if roams || is_same_host(first, attempt.url()) {
        return attempt.follow();
    }
    let elsewhere = Elsewhere { from: host(first), to: host(attempt.url()) };
    attempt.error(elsewhere)
}

/// The same server, or the same host with TLS.
fn is_same_host(from: &Url, to: &Url) -> bool {
    let ports = (from.port_or_known_default(), to.port_or_known_default());
    let upgraded =
        (from.scheme(), to.scheme()) == ("http", "https") && ports == (Some(80), Some(443));
    from.host() == to.host() && ((from.scheme() == to.scheme() && ports.0 == ports.1) || upgraded)
}

/// Host and port: the rest of an address may be a secret.
fn host(url: &Url) -> String {
    url[url::Position::BeforeHost..url::Position::AfterPort].to_owned()
}

#[derive(Debug)]
struct Elsewhere {
    from: String,
    to: String,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {ELSEWHERE}, {}", self.from, self.to)
    }
}

impl std::error::Error for Elsewhere {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_server_or_its_tls_is_the_same_host() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (from, to, same) in [
            ("http://a.example/x", "http://a.example/y", true),
            ("http://a.example/x", "https://a.example/x", true),
            ("http://a.example:80/x", "http://a.example/x", true),
            ("https://a.example/x", "http://a.example/x", false),
            ("http://a.example/x", "http://a.example:6379/x", false),
            ("http://a.example/x", "http://b.example/x", false),
            ("http://a.example/x", "http://a.example.evil/x", false),
            ("http://127.0.0.1:81/", "http://169.254.169.254:81/", false),
        ] {
            assert_eq!(is_same_host(&url(from), &url(to)), same, "{from} -> {to}");
        }
        let elsewhere = Elsewhere {
            from: host(&url("https://a.example/x?sig=secret")),
            to: host(&url("http://b.example:81/y?sig=secret")),
        };
        let told = elsewhere.to_string();
        assert_eq!(told, format!("a.example {ELSEWHERE}, b.example:81"));
    }
}
