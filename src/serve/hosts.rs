//! Who may be asking: a web page of another site must not reach a service on this machine through its user's browser.
//!
//! A browser lets a page read what comes from the page's own name, and the page's owner decides which address that name
//! has: also 127.0.0.1 (DNS rebinding). The request then says the page's name as its `Host`.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, Uri, header};

use super::refusal::Refusal;

/// What the server may be called.
#[derive(Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
    loopback: bool,
}

impl Hosts {
    /// For a server on `address` that is also known by `names`.
    pub fn new(address: IpAddr, names: &[String]) -> Self {
        let names = names.iter().map(|name| plain(name)).collect();
        Self { names, loopback: address.is_loopback() }
    }

    /// Refuses a request for a name that is not the server's, and one that a page of another site makes.
    ///
    /// A server that can be reached from elsewhere, and was not told what it is called, answers everybody.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        if !self.loopback && self.names.is_empty() {
            return Ok(());
        }
        let headers = request.headers();
        // Old clients say no host; browsers always do.
        let said = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        let target = request.uri().authority().map(Authority::as_str);
        if let Some(host) = said.chain(target).find(|host| !self.is_own(host)) {
            return Err(Refusal::misdirected(host));
        }
        match self.is_foreign(headers) {
            true => Err(Refusal::foreign()),
            false => Ok(()),
        }
    }

    fn is_foreign(&self, headers: &HeaderMap) -> bool {
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
            let host = origin.as_ref().and_then(Uri::authority).map(Authority::as_str);
            return !host.is_some_and(|host| self.is_own(host));
        }
        // Pictures and links come without an origin.
        headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
    }

    fn is_own(&self, host: &str) -> bool {
        let Some(host) = host.parse::<Authority>().ok().filter(|_| !host.contains('@')) else {
            return false;
        };
        let host = plain(host.host());
        // An address is not looked up, so nobody else can make it mean this server.
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => !self.loopback || address.is_loopback(),
            Err(_) => host == "localhost" || self.names.contains(&host),
        }
    }
}

/// A name as it is compared: `Search.Example.` is `search.example`.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(hosts: &Hosts, headers: &[(&str, &str)]) -> u16 {
        let request = headers
            .iter()
            .fold(Request::get("/search"), |request, (name, value)| request.header(*name, *value));
        let checked = hosts.check(&request.body(()).unwrap());
        checked.map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
    }

    fn host(hosts: &Hosts, host: &str) -> u16 {
        status(hosts, &[("host", host)])
    }

    #[test]
    fn on_a_loopback_address_only_its_own_names_count() {
        let hosts = Hosts::new([127, 0, 0, 1].into(), &["Search.Example".to_owned()]);
        for own in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.:1",
            "127.0.0.1:8080",
            "127.8.8.8",
            "[::1]:8080",
            "[::1]",
            "search.example",
            "SEARCH.example.:443",
        ] {
            assert_eq!(host(&hosts, own), 200, "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "evil.example@localhost",
            "localhost@evil.example",
            "",
            "a b",
            "[::2]",
            "xsearch.example",
            "::1",
        ] {
            assert_eq!(host(&hosts, other), 421, "{other}");
        }
        assert_eq!(status(&hosts, &[]), 200, "not a browser");
        assert_eq!(status(&hosts, &[("host", "localhost"), ("host", "evil.example")]), 421);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let hosts = Hosts::new([127, 0, 0, 1].into(), &["search.example".to_owned()]);
        let own = ("host", "127.0.0.1:8080");
        for origin in ["http://localhost:3000", "http://127.0.0.1", "https://search.example"] {
            assert_eq!(status(&hosts, &[own, ("origin", origin)]), 200, "{origin}");
        }
        for origin in ["null", "https://evil.example", "http://localhost.evil.example:80", "", "x"]
        {
            assert_eq!(status(&hosts, &[own, ("origin", origin)]), 403, "{origin}");
        }
        assert_eq!(status(&hosts, &[own, ("sec-fetch-site", "cross-site")]), 403);
        assert_eq!(status(&hosts, &[own, ("sec-fetch-site", "none")]), 200);
    }

    #[test]
    fn elsewhere_names_count_where_there_are_any() {
        let any = Hosts::new([0, 0, 0, 0].into(), &[]);
        let anybody = [("host", "evil.example"), ("origin", "https://evil.example")];
        assert_eq!(status(&any, &anybody), 200);
        let named = Hosts::new([0, 0, 0, 0].into(), &["search.example".to_owned()]);
        assert_eq!(host(&named, "evil.example"), 421);
        assert_eq!(host(&named, "search.example:8080"), 200);
        assert_eq!(host(&named, "10.0.0.7:8080"), 200, "a probe asks by address");
        assert_eq!(host(&named, "localhost"), 200);
    }
}
