//! Where a database is, and who asks. Names and passwords are the environment's alone.

use std::fmt;

use url::{Host, Url};

use crate::corpus::options::{TableFormat, TableOptions};
use crate::error::{Error, Result};

/// A server's database. It is printed without the user.
pub(super) struct Address {
    pub(super) scheme: &'static str,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) password: Option<String>,
    /// Whether the connection is encrypted, to a server that proves its name.
    pub(super) encrypted: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}/{}", self.scheme, self.host, self.port, self.database)
    }
}

impl Address {
    /// Of a table's `uri`, with the environment's user.
    ///
    /// # Errors
    /// Config where the `uri` is none of a database, or the environment names no user.
    pub(super) fn of(options: &TableOptions, format: TableFormat) -> Result<Self> {
        Self::with(options, format, |name| std::env::var(name).ok())
    }

    fn with(
        options: &TableOptions,
        format: TableFormat,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let shown = options.shown_uri();
        let (scheme, others, port, [user, password]) = match format {
            TableFormat::Postgres => {
                ("postgres", &["postgres", "postgresql"][..], 5432, ["PGUSER", "PGPASSWORD"])
            }
            _ => ("mysql", &["mysql", "mariadb"][..], 3306, ["MYSQL_USER", "MYSQL_PASSWORD"]),
        };
        let wrong = || {
            Error::config(format!("{shown} names no database; write {scheme}://host:port/database"))
        };
        let url = Url::parse(&options.uri).map_err(|e| wrong().with_source(e))?;
        if !others.contains(&url.scheme()) {
            return Err(wrong());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::config(format!(
                "{shown}: a uri must not hold credentials; set {user} and {password} in the environment"
            )));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let database = url.path().trim_matches('/');
        if database.is_empty() || database.contains('/') {
            return Err(wrong());
        }
        // Hosts of schemes that browsers do not know are not parsed.
        let is_here = match Host::parse(host) {
            Ok(Host::Domain(name)) => name == "localhost",
            Ok(Host::Ipv4(ip)) => ip.is_loopback(),
            Ok(Host::Ipv6(ip)) => ip.is_loopback(),
            Err(_) => false,
        };
        let mut encrypted = !is_here;
        for (name, value) in url.query_pairs() {
            match (&*name, &*value) {
                ("tls", "on") => encrypted = true,
                ("tls", "off") => encrypted = false,
                _ => {
                    return Err(Error::config(format!(
                        "{shown}: `{name}` is not known; a database's uri may end in `?tls=on` or `?tls=off`"
                    )));
                }
            }
        }
        let name = env(user).filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::config(format!(
                "{shown}: {user} is not set: the environment says who reads a database, and {password} proves it"
            ))
        })?;
        Ok(Self {
            scheme,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(port),
            database: database.to_owned(),
            user: name,
            password: env(password),
            encrypted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(uri: &str, format: TableFormat, user: Option<&str>) -> Result<Address> {
        let env = |name: &str| match name {
            "PGUSER" | "MYSQL_USER" => user.map(str::to_owned),
            _ => Some("hush".to_owned()),
        };
        Address::with(&TableOptions::new("notes", uri), format, env)
    }

    #[test]
    fn other_machines_are_reached_by_tls_unless_it_is_said() {
        let of = |uri: &str| address(uri, TableFormat::Postgres, Some("reader")).unwrap();
        for (uri, encrypted) in [
            ("postgres://localhost/blog", false),
            ("postgres://127.0.0.1:6000/blog", false),
            ("postgres://[::1]/blog", false),
            ("postgresql://db.example.org/blog", true),
            ("postgres://db.example.org/blog?tls=off", false),
            ("postgres://localhost/blog?tls=on", true),
        ] {
            assert_eq!(of(uri).encrypted, encrypted, "{uri}");
        }
        assert_eq!(of("postgres://db/blog").to_string(), "postgres://db:5432/blog");
        let mysql = address("mariadb://db/blog", TableFormat::Mysql, Some("reader")).unwrap();
        assert_eq!(mysql.to_string(), "mysql://db:3306/blog");
    }

    #[test]
    fn what_names_no_database_is_refused_without_its_secrets() {
        for (uri, user, says) in [
            ("postgres://me:hush@db/blog", Some("reader"), "PGPASSWORD"),
            ("postgres://db/", Some("reader"), "names no database"),
            ("postgres://db/blog/notes", Some("reader"), "names no database"),
            ("mysql://db/blog", Some("reader"), "names no database"),
            ("postgres://db/blog?sslmode=disable", Some("reader"), "`sslmode` is not known"),
            ("postgres://db/blog", None, "PGUSER is not set"),
        ] {
            let error = address(uri, TableFormat::Postgres, user).err().unwrap().to_string();
            assert!(error.contains(says) && !error.contains("hush"), "{uri}: {error}");
        }
    }
}
