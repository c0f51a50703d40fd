//! Where the database is, and who we are to it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tokio_postgres::config::Host;
use zeroize::Zeroizing;

use crate::upstream::tls::Tls;

const PORT: u16 = 5432;

/// A database, and who we are to it.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// Names or addresses, or folders of a socket; of several the first that may be written to is used.
    pub hosts: Vec<(String, u16)>,
    pub database: String,
    pub user: String,
    pub password: Option<Zeroizing<String>>,
    /// None where the line needs none, or somebody said so.
    pub tls: Option<Tls>,
    pub schema: String,
    pub connect_timeout: Duration,
    /// For the transaction of one batch.
    pub statement_timeout: Duration,
}

impl Config {
    pub const SCHEMA: &str = "meterseal";

    /// Of `postgres://user@host:port/database?sslmode=…`. The password stands elsewhere: addresses are shown and logged.
    pub fn from_url(
        url: &str,
        password: Option<Zeroizing<String>>,
        tls: Tls,
        schema: Option<String>,
    ) -> Result<Self, String> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        if !["postgres://", "postgresql://"].iter().any(|scheme| address.starts_with(scheme)) {
            return Err("not an address of PostgreSQL: it is written postgres://user@host:5432/database".to_owned());
        }
        // Nothing of the address is repeated where it is wrong: it may hold a password all the same.
        let bad = "not an address of PostgreSQL: it is written postgres://user@host:5432/database, and what is no \
                   letter, digit, `-`, `.` or `_` as % and two hex digits";
        let parsed: tokio_postgres::Config = address.parse().map_err(|_| bad.to_owned())?;
        if parsed.get_password().is_some() {
            return Err("the address holds a password, and addresses are shown: give it as `password`".to_owned());
        }
        let ports = parsed.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
        let host = |(at, host): (usize, &Host)| match host {
            Host::Tcp(name) => Some((name.clone(), port(at))),
            Host::Unix(folder) => Some((folder.to_str()?.to_owned(), port(at))),
        };
        let hosts: Option<Vec<_>> = parsed.get_hosts().iter().enumerate().map(host).collect();
        let hosts = hosts.filter(|hosts| hosts.iter().all(|(name, _)| !name.is_empty()) && !hosts.is_empty());
        let hosts = hosts.ok_or("the address names no host")?;
        let mode = mode(query)?;
        let has_files = tls.ca.is_some() || tls.identity.is_some();
        let is_near = hosts.iter().all(|(name, _)| is_loopback(name));
        let tls = match mode {
            Some(false) if has_files => {
                return Err("sslmode=disable, and certificates for TLS: leave one of them out".to_owned());
            }
            Some(false) => None,
            None if is_near && !has_files => None,
            _ => Some(tls),
        };
        let schema = schema.unwrap_or_else(|| Self::SCHEMA.to_owned());
        if schema.is_empty() || schema.len() > 63 || schema.contains(['"', '\0']) {
            return Err("`schema` is no name of 1 to 63 bytes".to_owned());
        }
        Ok(Self {
            database: parsed.get_dbname().or(parsed.get_user()).ok_or("the address names no database")?.to_owned(),
            user: parsed.get_user().ok_or("the address names no user")?.to_owned(),
            hosts,
            password,
            tls,
            schema,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
        })
    }

    /// Where it goes, without secrets.
    pub fn to(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(|(name, port)| format!("{name}:{port}")).collect();
        format!("postgres://{}@{}/{}", self.user, hosts.join(","), self.database)
    }
}

/// Without the password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        let mut out = f.debug_struct("Config");
        out.field("to", &self.to()).field("password", &password).field("tls", &self.tls);
        out.field("schema", &self.schema).field("connect_timeout", &self.connect_timeout);
        out.field("statement_timeout", &self.statement_timeout).finish()
    }
}

/// Whether TLS is asked for by name. It is always verified, so that the ways to leave that out are none.
fn mode(query: &str) -> Result<Option<bool>, String> {
    let mut mode = None;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        mode = match option {
            "sslmode=disable" => Some(false),
            "sslmode=require" | "sslmode=verify-full" => Some(true),
            other => {
                let name = other.split('=').next().unwrap_or_default();
                return Err(format!(
                    "the address has `{name}`: of the options of PostgreSQL only sslmode=disable, require and \
                     verify-full are known"
                ));
            }
        };
    }
    Ok(mode)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.starts_with('/') || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config, String> {
        Config::from_url(url, Some(Zeroizing::new("s3cret".to_owned())), Tls::default(), None)
    }

    #[test]
    fn an_address_is_read_whole() {
        let config = read("postgres://edge@db.example,db2.example:6432/plant").unwrap();
        assert_eq!(config.hosts, [("db.example".to_owned(), 5432), ("db2.example".to_owned(), 6432)]);
        assert_eq!((config.user.as_str(), config.database.as_str()), ("edge", "plant"));
        assert_eq!((config.schema.as_str(), config.tls.is_some()), ("meterseal", true));
        assert_eq!(config.to(), "postgres://edge@db.example:5432,db2.example:6432/plant");
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn only_a_near_line_goes_without_tls_unless_somebody_says_so() {
        for (url, has) in [
            ("postgresql://edge@localhost/plant", false),
            ("postgres://edge@127.0.0.1/plant", false),
            ("postgres://edge@[::1]/plant", false),
            ("postgres://edge@%2Fvar%2Frun%2Fpostgresql/plant", false),
            ("postgres://edge@localhost,10.0.0.1/plant", true),
            ("postgres://edge@localhost/plant?sslmode=verify-full", true),
            ("postgres://edge@10.0.0.1/plant?sslmode=disable", false),
        ] {
            assert_eq!(read(url).unwrap().tls.is_some(), has, "{url}");
        }
        let with_ca = Tls { ca: Some(vec![1]), identity: None };
        let near = |url| Config::from_url(url, None, with_ca.clone(), None);
        assert!(near("postgres://edge@localhost/plant").unwrap().tls.is_some());
        assert!(near("postgres://edge@localhost/plant?sslmode=disable").unwrap_err().contains("leave one"));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for (url, part) in [
            ("https://db.example/plant", "postgres://user@host"),
            ("postgres://edge:hunter2@db.example/plant", "`password`"),
            ("postgres://edge:hunter2@db.example:x/plant", "postgres://user@host"),
            ("postgres://edge@/plant", "no host"),
            ("postgres://db.example/plant", "no user"),
            ("postgres://edge@db.example/plant?sslmode=prefer", "sslmode"),
            ("postgres://edge@db.example/plant?password=hunter2", "`password`"),
        ] {
            let error = read(url).unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{url}: {error}");
        }
        let schema = |name: &str| {
            let name = Some(name.to_owned());
            Config::from_url("postgres://edge@localhost/plant", None, Tls::default(), name)
        };
        assert!(schema("Strom 7").is_ok() && schema("a\"b").is_err() && schema("").is_err());
    }
}
