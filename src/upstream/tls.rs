//! TLS to the other side, whatever is spoken over it: by what authorities it is known, and we to it. What goes wrong is
//! told so that a person knows whose certificate it is and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use zeroize::Zeroizing;

use crate::model::{BadTls, TlsFile};

/// By what the other side is known, and we to it.
#[derive(Clone, Default, PartialEq)]
pub struct Tls {
    /// PEM of the authorities that are believed; the system's without them.
    pub ca: Option<Vec<u8>>,
    /// Our certificate (with those between it and its authority) and its key, both PEM; for one that asks for them.
    pub identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.as_ref().map(|_| "***");
        f.debug_struct("Tls").field("ca", &self.ca.as_ref().map(Vec::len)).field("identity", &identity).finish()
    }
}

/// TLS 1.2 and 1.3 by ring. Fails on certificates and keys that are none.
pub fn client(tls: &Tls) -> Result<ClientConfig, BadTls> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFile::Ca.bad(error.to_string()))?
        .with_root_certificates(roots(tls)?);
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let chain = certificates(chain, TlsFile::ClientCert, "the client certificate")?;
            // The reason is left out: it may repeat what stands in the file.
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
                TlsFile::ClientKey.bad("the key of the client certificate is no private key in PEM without password")
            })?;
            let client = builder.with_client_auth_cert(chain, key);
            client.map_err(|error| {
                TlsFile::ClientCert.bad(format!("the client certificate and its key do not fit: {error}"))
            })
        }
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore, BadTls> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(pem) => {
            for certificate in certificates(pem, TlsFile::Ca, "the CA file")? {
                let unusable = |error| TlsFile::Ca.bad(format!("the CA file holds no usable certificate: {error}"));
                roots.add(certificate).map_err(unusable)?;
            }
        }
        None => {
            let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if usable == 0 {
                return Err(TlsFile::Ca.bad(
                    "this system has no certificate authorities: install the package ca-certificates, or name the \
                     other side's with `ca`",
                ));
            }
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8], of: TlsFile, what: &str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(of.bad(format!("{what} holds no certificate in PEM"))),
        Err(error) => Err(of.bad(format!("{what} is not PEM: {error}"))),
    }
}

/// What TLS says of a connection, to follow the other side's name; `None` when it is not TLS that failed.
pub fn told(error: &(dyn Error + 'static)) -> Option<String> {
    cause(error).map(words)
}

/// Whether it lasts until a person does something, as far as can be told. A certificate that is not valid yet becomes so
/// when a clock that is behind is set.
pub fn needs_a_person(error: &(dyn Error + 'static)) -> bool {
    match cause(error) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            !matches!(why, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })
        }
        Some(rustls::Error::AlertReceived(why)) => matches!(
            why,
            AlertDescription::CertificateExpired
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
        ),
        _ => false,
    }
}

/// The TLS error among the causes. What an [`io::Error`] wraps is none of its causes, and is looked into as well.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.and_then(|inner| cause(inner)).or_else(|| cause(error.source()?))
}

fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => of_theirs(why),
        rustls::Error::AlertReceived(why) => of_ours(*why),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "speaks no TLS at this port: are port and scheme of the address right?".to_owned()
        }
        other => format!("cannot agree with us on TLS: {other}"),
    }
}

/// Their certificate, by our judgement.
fn of_theirs(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "shows a certificate that has expired: have it renewed over there, and look whether this gateway's clock is \
             right"
                .to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "shows a certificate that is not valid yet: look whether this gateway's clock is right".to_owned()
        }
        // The latter by an authority that has the name of a known one, and another key: as when it was made anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "shows a certificate of an authority that is not known here: name its CA file \
                                            with `ca`, unless somebody sits in between"
            .to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "shows a certificate of another name: give the address under the name that it bears".to_owned()
        }
        // rustls hands on what webpki says, of which it has no word of its own.
        CertificateError::Other(why) if why.0.to_string() == "CaUsedAsEndEntity" => {
            "shows a certificate that is an authority's own, and none of a server: have one made over there that the \
             authority signs, without CA:TRUE"
                .to_owned()
        }
        other => format!("shows a certificate that is not accepted: {other}"),
    }
}

/// Our certificate, by their judgement, as far as TLS has words for it.
fn of_ours(why: AlertDescription) -> String {
    match why {
        AlertDescription::CertificateExpired => "says that our client certificate has expired: renew it".to_owned(),
        AlertDescription::CertificateRequired => {
            "asks for a client certificate: set `client_cert` and `client_key`".to_owned()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => {
            format!("does not accept our client certificate ({why:?}): is it one that it knows?")
        }
        // What servers of TLS 1.2 say that miss a certificate, besides much else.
        AlertDescription::HandshakeFailure => "ends the TLS handshake: does it ask for a client certificate \
                                               (`client_cert`, `client_key`), or speak only TLS before 1.2?"
            .to_owned(),
        AlertDescription::ProtocolVersion => "speaks only TLS before 1.2, which is not safe: update it".to_owned(),
        other => format!("ends the TLS connection: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_told_by_its_place() {
        let with = |ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>| Tls {
            ca: ca.map(<[u8]>::to_vec),
            identity: identity.map(|(chain, key)| (chain.to_vec(), Zeroizing::new(key.to_vec()))),
        };
        for (tls, part) in [
            (with(Some(b"nothing"), None), "the CA file holds no certificate"),
            (
                with(Some(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), None),
                "the CA file is not PEM",
            ),
            (with(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None), "no usable"),
            (with(None, Some((b"x", b"secret-key"))), "the client certificate holds no certificate"),
            (
                with(None, Some((b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"secret-key"))),
                "no private key in PEM",
            ),
        ] {
            let error = client(&tls).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
            assert!(!format!("{tls:?}").contains("115"), "{tls:?}");
        }
        client(&with(None, None)).unwrap();
    }

    #[test]
    fn an_error_is_found_however_deep_it_lies() {
        let tls = || rustls::Error::InvalidCertificate(CertificateError::Expired);
        let once = io::Error::new(io::ErrorKind::InvalidData, tls());
        let twice = io::Error::other(io::Error::other(tls()));
        for error in [&once, &twice] {
            assert!(told(error).unwrap().starts_with("shows a certificate that has expired"));
        }
        assert_eq!(told(&io::Error::other("no TLS")), None);
    }

    #[test]
    fn whose_certificate_it_is_and_what_to_do_is_told() {
        for (error, part) in [
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), "with `ca`"),
            (rustls::Error::AlertReceived(AlertDescription::CertificateRequired), "`client_cert`"),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "our client certificate"),
            (rustls::Error::AlertReceived(AlertDescription::CertificateExpired), "renew it"),
            (rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType), "speaks no TLS"),
        ] {
            let text = told(&error).unwrap();
            assert!(text.contains(part), "{text}");
            assert_eq!(needs_a_person(&error), part != "speaks no TLS", "{text}");
        }
        assert!(!needs_a_person(&rustls::Error::InvalidCertificate(CertificateError::NotValidYet)));
    }
}
