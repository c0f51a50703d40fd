//! Under which names the page is asked for. A page elsewhere whose own name is made to resolve to this machine (DNS
//! rebinding) still sends that name as the host, and is refused by it. An address is nobody's name, so every one will do.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::http::{HeaderValue, Request, header};
use tokio::sync::watch;

use super::problem::Problem;
use super::tls::CertificateStatus;

/// The names of this machine and of its certificate. Cheap to clone.
#[derive(Clone)]
pub struct Hosts {
    machine: Arc<[String]>,
    /// Of the config.
    other: Arc<[String]>,
    certificate: watch::Receiver<CertificateStatus>,
}

impl Hosts {
    pub fn new(certificate: watch::Receiver<CertificateStatus>, other: &[String]) -> Self {
        Self { machine: machine().into(), other: other.into(), certificate }
    }

    /// Whether the config names this host, so that pages come from there though a proxy asks for them under another name.
    pub fn has_page(&self, host: &str) -> bool {
        self.other.contains(&name_of(host))
    }

    /// The host that a request names, if it is this machine.
    pub fn of<'r, B>(&self, request: &'r Request<B>) -> Result<&'r str, Problem> {
        let named = request.uri().authority().map(|authority| authority.as_str());
        let header = || request.headers().get(header::HOST).map(HeaderValue::to_str);
        let Some(Ok(host)) = named.map(Ok).or_else(header) else {
            return Err(Problem::BadRequest("the request names no host".into()));
        };
        if self.allows(host) { Ok(host) } else { Err(Problem::Host(host.chars().take(80).collect())) }
    }

    fn allows(&self, host: &str) -> bool {
        let name = name_of(host);
        if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().is_ok();
        }
        name.parse::<Ipv4Addr>().is_ok()
            || name == "localhost"
            || self.machine.contains(&name)
            || self.other.contains(&name)
            || self.certificate.borrow().names.iter().any(|certified| fits(certified, &name))
    }
}

/// A host without its port, in lower case.
fn name_of(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether a name of a certificate is this one; `*` stands for one label (RFC 9525 6.3).
fn fits(certified: &str, name: &str) -> bool {
    match certified.strip_prefix("*.") {
        Some(domain) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        None => certified == name,
    }
}

/// The machine's own names in lower case: its host name, alone, under `.local` (mDNS) and under the domains in which it
/// looks names up.
pub fn machine() -> Vec<String> {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    of_machine(&name, &fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn of_machine(name: &str, resolver: &str) -> Vec<String> {
    let name = name.trim_matches('.').to_ascii_lowercase();
    let Some(first) = name.split('.').next().filter(|first| !first.is_empty() && *first != "localhost") else {
        return Vec::new();
    };
    let domains = resolver.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    let domains = domains.flatten().map(|domain| domain.trim_matches('.').to_ascii_lowercase());
    let mut names = vec![name.clone(), first.to_owned(), format!("{first}.local")];
    names.extend(domains.filter(|domain| !domain.is_empty()).map(|domain| format!("{first}.{domain}")));
    let mut seen = Vec::new();
    names.retain(|name| {
        let is_new = !seen.contains(name);
        seen.push(name.clone());
        is_new
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(certified: &[&str]) -> Hosts {
        let names = certified.iter().map(|&name| name.to_owned()).collect();
        let status = watch::Sender::new(CertificateStatus { names, ..CertificateStatus::default() });
        Hosts {
            machine: of_machine("Gateway-7", "search plant.example\n").into(),
            other: ["proxy.example".to_owned()].into(),
            certificate: status.subscribe(),
        }
    }

    #[test]
    fn addresses_and_names_of_this_machine_are_hosts() {
        let hosts = hosts(&["energy.example", "*.gateways.example"]);
        for host in [
            "localhost",
            "LOCALHOST:3001",
            "127.0.0.1:3001",
            "192.0.2.1:3001",
            "[::1]",
            "[2001:db8::1]:3001",
            "gateway-7",
            "GATEWAY-7.local.:3001",
            "gateway-7.plant.example",
            "energy.example:3001",
            "seven.gateways.example",
            "Proxy.example:8443",
        ] {
            assert!(hosts.allows(host), "{host}");
        }
        for host in [
            "",
            "plant.example",
            "127.0.0.1.example:3001",
            "localhost.example",
            "gateway-7.example",
            "gateway-8",
            "other.energy.example",
            "gateways.example",
            "a.b.gateways.example",
            ".gateways.example",
            "[gateway-7]",
            "gateway-7:x",
        ] {
            assert!(!hosts.allows(host), "{host}");
        }
    }

    #[test]
    fn a_machine_has_its_name_in_several_domains() {
        let resolver = "# a comment\nnameserver 192.0.2.53\nsearch plant.example. local\ndomain lan\n";
        assert_eq!(of_machine("gw", resolver), ["gw", "gw.local", "gw.plant.example", "gw.lan"]);
        assert_eq!(of_machine("gw.site.example", ""), ["gw.site.example", "gw", "gw.local"]);
        assert_eq!(of_machine("localhost", "search lan"), Vec::<String>::new());
        assert_eq!(of_machine("", ""), Vec::<String>::new());
    }
}
