//! The self-signed certificate: made when the program first runs, and kept, since somebody may have compared its
//! fingerprint.
//!
//! Its dates are fixed and depend on no clock: that of a new gateway may stand at 1970 for as long as nobody sets it.
//! docs/decisions/0012-tls.md says why it is valid for so long.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::tz::TimeZone;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType, date_time_ymd,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tracing::warn;
use zeroize::Zeroizing;

use super::pair::Pair;
use crate::model::Timestamp;
use crate::web::host;

/// Before July 2019: Apple's systems hold later certificates to 825 days.
const FROM: (i32, u8, u8) = (2019, 1, 1);
/// The last day that the short form of a date in a certificate can name (RFC 5280 4.1.2.5).
const UNTIL: (i32, u8, u8) = (2049, 12, 31);
/// A new one is made so long before the end.
const RENEWAL: Duration = Duration::from_secs(366 * 86_400);

/// The certificate that is kept in `folder`, or else a new one. `now` is given where the clock can be believed. With it
/// comes why it cannot be kept, if so: the page must not wait for a disk.
pub fn open(folder: &Path, now: Option<Timestamp>) -> io::Result<(Pair, Option<String>)> {
    match kept(folder) {
        Ok(pair) if !is_due(&pair, now) => return Ok((pair, None)),
        Err(why) if folder.exists() => warn!("a new self-signed certificate is made: {why}"),
        _ => {}
    }
    let (pair, certificate, key) = make(now).map_err(io::Error::other)?;
    let trouble = keep(folder, &certificate, &key).err().map(|error| {
        format!(
            "the self-signed certificate of the page cannot be kept in {} ({error}): each start makes another one, and \
             browsers warn anew",
            folder.display()
        )
    });
    Ok((pair, trouble))
}

pub fn kept(folder: &Path) -> Result<Pair, String> {
    let [cert, key] = files(folder);
    Pair::read(&cert, &key)
}

pub fn files(folder: &Path) -> [PathBuf; 2] {
    [folder.join("cert.pem"), folder.join("key.pem")]
}

/// Whether the end is near, by a clock that is believed.
pub fn is_due(pair: &Pair, now: Option<Timestamp>) -> bool {
    now.is_some_and(|now| now.plus(RENEWAL) >= pair.until)
}

/// As fixed as [`FROM`], until that day itself is near.
fn until(now: Option<Timestamp>) -> (i32, u8, u8) {
    let year = now.and_then(|now| jiff::Timestamp::from_millisecond(now.as_millis()).ok());
    let year = year.map_or(0, |now| i32::from(now.to_zoned(TimeZone::UTC).year()));
    if year + 2 < UNTIL.0 { UNTIL } else { (year + 25, 12, 31) }
}

/// With its PEM and that of its key.
fn make(now: Option<Timestamp>) -> Result<(Pair, String, Zeroizing<String>), String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
    let mut params = CertificateParams::default();
    let date = |(year, month, day)| date_time_ymd(year, month, day);
    (params.not_before, params.not_after) = (date(FROM), date(until(now)));
    let names = host::machine();
    params.distinguished_name.push(DnType::OrganizationName, "meterseal");
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("localhost", String::as_str));
    let own_names = names.into_iter().chain(["localhost".to_owned()]);
    params.subject_alt_names = own_names.filter_map(|name| Some(SanType::DnsName(name.try_into().ok()?))).collect();
    params.subject_alt_names.extend(addresses().into_iter().map(SanType::IpAddress));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;

    let secret = Zeroizing::new(key.serialize_der());
    let text = Zeroizing::new(pem("PRIVATE KEY", &secret));
    let shown = pem("CERTIFICATE", certificate.der());
    let pair = Pair::of(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(secret.to_vec()).into())?;
    Ok((pair, shown, text))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|&byte| char::from(byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// The key first: a crash in between leaves a pair that does not fit, and then another is made before anybody saw it.
fn keep(folder: &Path, certificate: &str, key: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for (name, text, mode) in [("key.pem", key, 0o600), ("cert.pem", certificate, 0o644)] {
        let beside = folder.join(format!("{name}.new"));
        fs::remove_file(&beside)
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, folder.join(name))?;
    }
    fs::File::open(folder)?.sync_all()
}

/// No certificate names more of them: a gateway with many containers has hundreds.
const MOST_ADDRESSES: usize = 32;

/// Loopback and the addresses of the interfaces. They are read from /proc, since the service may open no netlink socket.
fn addresses() -> Vec<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut all = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    all.extend(own_v4(&read("/proc/net/fib_trie")).into_iter().map(IpAddr::V4));
    all.extend(own_v6(&read("/proc/net/if_inet6")).into_iter().map(IpAddr::V6));
    all.truncate(MOST_ADDRESSES);
    all
}

/// In the kernel's table of routes each own address is a leaf `|-- 192.0.2.7` with a line `/32 host LOCAL` below it.
fn own_v4(routes: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in routes.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if let (Some(address), "/32 host LOCAL") = (leaf, line)
            && !address.is_loopback()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Each line begins with an address in 32 hexadecimal digits. Link-local ones stand in no address bar.
fn own_v6(interfaces: &str) -> Vec<Ipv6Addr> {
    let digits = interfaces.lines().filter_map(|line| u128::from_str_radix(line.split(' ').next()?, 16).ok());
    digits.map(Ipv6Addr::from_bits).filter(|it| !it.is_loopback() && !it.is_unicast_link_local()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ROUTES: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n        \
        |-- 127.0.0.1\n           /32 host LOCAL\n     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.7\n        \
        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\nLocal:\n     |-- 192.0.2.7\n        /32 host LOCAL\n";
    const INTERFACES: &str = "00000000000000000000000000000001 01 80 10 80       lo\n\
        20010db8000000000000000000000007 02 40 00 80     eth0\nfe80000000000000020000fffe000001 02 40 20 80     eth0\n";

    #[test]
    fn own_addresses_are_those_that_others_can_use() {
        assert_eq!(own_v4(ROUTES), ["192.0.2.7".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!(own_v6(INTERFACES), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!((own_v4("nonsense"), own_v6("nonsense\n\nzz 1")), (vec![], vec![]));
    }

    #[test]
    fn it_is_made_once_and_its_key_is_for_the_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("tls");
        let (first, trouble) = open(&folder, None).unwrap();
        assert_eq!(trouble, None);
        assert!(first.names.contains(&"localhost".to_owned()), "{:?}", first.names);
        assert_eq!(first.until.to_string(), "2049-12-31T00:00:00.000Z");
        let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key.pem"), mode("")), (0o600, 0o700));
        let (again, _) = open(&folder, None).unwrap();
        assert_eq!(again.fingerprint, first.fingerprint);
        fs::remove_dir_all(&folder).unwrap();
        assert_ne!(open(&folder, None).unwrap().0.fingerprint, first.fingerprint);
    }

    #[test]
    fn a_torn_pair_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let (first, _) = open(place.path(), None).unwrap();
        let other = make(None).unwrap();
        fs::write(place.path().join("key.pem"), &*other.2).unwrap();
        let (second, trouble) = open(place.path(), None).unwrap();
        assert_ne!(second.fingerprint, first.fingerprint);
        assert_eq!((trouble, kept(place.path()).unwrap().fingerprint), (None, second.fingerprint));
    }

    #[test]
    fn it_is_renewed_a_year_before_its_end_by_a_clock_that_is_believed() {
        let place = tempfile::tempdir().unwrap();
        let (first, _) = open(place.path(), None).unwrap();
        let at = |text: &str| Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        for now in [None, Some(at("1970-01-01T00:00:10Z")), Some(at("2048-12-01T00:00:00Z"))] {
            assert_eq!(open(place.path(), now).unwrap().0.fingerprint, first.fingerprint, "{now:?}");
        }
        let (renewed, _) = open(place.path(), Some(at("2048-12-31T00:00:00Z"))).unwrap();
        assert_ne!(renewed.fingerprint, first.fingerprint);
        assert_eq!(open(place.path(), Some(at("2049-01-30T00:00:00Z"))).unwrap().0.fingerprint, renewed.fingerprint);
        assert_eq!(renewed.until.to_string(), "2073-12-31T00:00:00.000Z");
    }

    #[test]
    fn what_cannot_be_kept_is_shown_all_the_same() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let (_, trouble) = open(&file.join("tls"), None).unwrap();
        assert!(trouble.unwrap().contains("cannot be kept"));
    }
}
