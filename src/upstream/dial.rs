//! Opens the stream to the other side: TCP, and TLS where asked for.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::receiver::Fault;
use super::tls::{self, Tls};

/// A stream of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Where to, again and again.
pub struct Dial {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Also how long what was sent may stay unacknowledged by the other side's kernel (tcp(7), TCP_USER_TIMEOUT).
    timeout: Duration,
    /// The address, for a person.
    to: String,
}

impl Dial {
    /// Fails on certificates and keys that are none.
    pub fn new(host: &str, port: u16, tls: Option<&Tls>, timeout: Duration, to: String) -> Result<Self, String> {
        let tls = tls.map(|tls| {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| format!("{host} is no name that a certificate can bear"))?;
            Ok::<_, String>((TlsConnector::from(Arc::new(tls::client(tls)?)), name))
        });
        Ok(Self { host: host.to_owned(), port, tls: tls.transpose()?, timeout, to })
    }

    pub async fn open(&self) -> Result<Box<dyn Stream>, Fault> {
        match timeout(self.timeout, self.connect()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(broken(&self.to, &error)),
            Err(_) => Err(Fault::Away(format!("{} did not answer within {:?}", self.to, self.timeout))),
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        sockopt::set_tcp_user_timeout(&stream, u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX))?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
        })
    }
}

/// What an error of the stream to `to` means, at the dial or later: a client certificate that is not taken is told only
/// when the first bytes are read.
pub fn broken(to: &str, error: &io::Error) -> Fault {
    match tls::told(error) {
        Some(why) if tls::needs_a_person(error) => Fault::Stopped(format!("{to} {why}")),
        Some(why) => Fault::Away(format!("{to} {why}")),
        None => Fault::Away(match error.kind() {
            ErrorKind::ConnectionRefused => format!("nobody listens at {to}"),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                format!("{to} closed the connection")
            }
            _ => format!("{to} cannot be reached: {error}"),
        }),
    }
}
