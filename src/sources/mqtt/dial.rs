//! Opens the stream to a broker: TCP, and TLS where asked for.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Tls;
use super::cut::{Cuts, Shortened};
use super::{Broker, Version};
use crate::model::{BadTls, TlsFile};

/// A stream of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Unacknowledged bytes, or a peer that is gone, end a connection after this long (tcp(7), TCP_USER_TIMEOUT).
const GONE_AFTER: Duration = Duration::from_secs(15);

/// What is needed to open a stream again and again.
#[derive(Clone)]
pub struct Dial {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    limit: usize,
    version: Version,
    pub cuts: Cuts,
}

impl Dial {
    /// Fails on certificates and keys that are none.
    pub fn new(broker: &Broker) -> Result<Self, String> {
        let tls = broker.tls.as_ref().map(|tls| {
            let name = ServerName::try_from(broker.host.clone())
                .map_err(|_| format!("{} is no name that a certificate can bear", broker.host))?;
            Ok::<_, String>((TlsConnector::from(Arc::new(config(tls)?)), name))
        });
        Ok(Self {
            host: broker.host.clone(),
            port: broker.port,
            tls: tls.transpose()?,
            limit: broker.max_packet,
            version: broker.version,
            cuts: Cuts::default(),
        })
    }

    pub async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        sockopt::set_tcp_user_timeout(&stream, u32::try_from(GONE_AFTER.as_millis()).unwrap_or(u32::MAX))?;
        let shorten = |stream| Shortened::new(stream, self.limit, self.version, self.cuts.clone());
        Ok(match &self.tls {
            None => Box::new(shorten(Box::new(stream) as Box<dyn Stream>)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                Box::new(shorten(Box::new(stream) as Box<dyn Stream>))
            }
        })
    }
}

/// TLS 1.2 and 1.3 by ring.
pub fn config(tls: &Tls) -> Result<ClientConfig, BadTls> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(pem) => {
            for certificate in certificates(pem, TlsFile::Ca, "the CA file")? {
                let unusable = |error| TlsFile::Ca.bad(format!("the CA file holds no usable certificate: {error}"));
                roots.add(certificate).map_err(unusable)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (usable, _) = roots.add_parsable_certificates(found.certs);
            if usable == 0 {
                return Err(TlsFile::Ca.bad(
                    "this system has no certificate authorities: install the package ca-certificates, or name the \
                     broker's with `ca`",
                ));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFile::Ca.bad(error.to_string()))?
        .with_root_certificates(roots);
    match &tls.client {
        None => Ok(builder.with_no_client_auth()),
        Some(client) => {
            let chain = certificates(&client.chain, TlsFile::ClientCert, "the client certificate")?;
            // The reason is left out: it may repeat what stands in the file.
            let key = PrivateKeyDer::from_pem_slice(&client.key).map_err(|_| {
                TlsFile::ClientKey.bad("the key of the client certificate is no private key in PEM without password")
            })?;
            let client = builder.with_client_auth_cert(chain, key);
            client.map_err(|error| {
                TlsFile::ClientCert.bad(format!("the client certificate and its key do not fit: {error}"))
            })
        }
    }
}

fn certificates(pem: &[u8], of: TlsFile, what: &str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(of.bad(format!("{what} holds no certificate in PEM"))),
        Err(error) => Err(of.bad(format!("{what} is not PEM: {error}"))),
    }
}

/// What went wrong at the dial, for a person.
pub fn told(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        _ => error.to_string(),
    }
}
