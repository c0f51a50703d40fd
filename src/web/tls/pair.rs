//! A certificate and its key, read from PEM and found to fit.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::{self, Ticketer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use zeroize::Zeroizing;

use crate::model::{Digest, Timestamp};

pub struct Pair {
    /// Shows it. Sessions are resumed with the one they began under only, so that a replaced key is done with.
    pub server: Arc<ServerConfig>,
    /// SHA-256 of the certificate, as `AB:CD:…`.
    pub fingerprint: String,
    /// Its names in lower case, which may begin with `*.`; without addresses.
    pub names: Vec<String>,
    pub until: Timestamp,
}

impl Pair {
    pub fn read(cert: &Path, key: &Path) -> Result<Self, String> {
        let read = |path: &Path| fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()));
        let (chain, secret) = (read(cert)?, Zeroizing::new(read(key)?));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
        let chain = match chain {
            Ok(chain) if !chain.is_empty() => chain,
            Ok(_) => return Err(format!("{} holds no certificate in PEM", cert.display())),
            Err(error) => return Err(format!("{} is not PEM: {error}", cert.display())),
        };
        // The reason is left out: it may repeat what stands in the file.
        let secret = PrivateKeyDer::from_pem_slice(&secret)
            .map_err(|_| format!("{} holds no private key in PEM without password", key.display()))?;
        Self::of(chain, secret).map_err(|why| format!("{} and {}: {why}", cert.display(), key.display()))
    }

    /// The certificate comes first, and those between it and its authority behind it.
    pub fn of(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, String> {
        let first = chain.first().ok_or("there is no certificate")?;
        let parsed = Certificate::from_der(first).map_err(|error| format!("this is no certificate: {error}"))?;
        let parsed = parsed.tbs_certificate;
        let until = parsed.validity.not_after.to_unix_duration().as_millis();
        let names = match parsed.get::<SubjectAltName>() {
            Ok(Some((_, names))) => names.0.iter().filter_map(dns_name).collect(),
            _ => Vec::new(),
        };
        let fingerprint = fingerprint(first);
        Ok(Self {
            server: Arc::new(server(chain, key)?),
            fingerprint,
            names,
            until: Timestamp::from_millis(i64::try_from(until).unwrap_or(i64::MAX)),
        })
    }
}

fn dns_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        _ => None,
    }
}

/// As browsers and `openssl x509 -fingerprint -sha256` show it.
fn fingerprint(certificate: &[u8]) -> String {
    let bytes: Vec<_> = Digest::of(certificate).as_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// TLS 1.2 and 1.3 by ring.
fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "this is not the key of this certificate".to_owned(),
            error => error.to_string(),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Without it a phone that comes back does a whole handshake each time.
    config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
    Ok(config)
}
