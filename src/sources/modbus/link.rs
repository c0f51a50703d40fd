//! One connection to a gateway or a serial line, with one request under way at a time.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_modbus::client::{Client as _, Context, tcp};
use tokio_modbus::slave::{Slave, SlaveContext as _};
use tokio_modbus::{Error, ProtocolError};

use super::frames::{Frames, Late, Seen, look};
use super::plan::Request;
use super::rtu::{Owed, Rtu, Timing};
use super::serial::Port;
use crate::sources::Wire;
use crate::sources::template::Function;

/// Unacknowledged bytes, or a peer that is gone, end a connection after this long (tcp(7), TCP_USER_TIMEOUT).
const GONE_AFTER: Duration = Duration::from_secs(15);

/// Why a request gave no words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The connection stays good: an answer that comes late is known for what it is, and dropped.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// Nothing came that looks like an answer: a unit that is away on a line that is not quiet, or wrong settings.
    #[error("{0}")]
    Noise(String),
    /// Nothing was asked of the unit. The connection stays good.
    #[error("not asked yet: an older answer could be taken for this one")]
    Held,
    #[error("{}", exception(*.0))]
    Exception(u8),
    /// A whole answer, but not to what was asked; the connection stays good.
    #[error("{0}")]
    Wrong(String),
    /// What came is no answer, so that nobody knows where the next one begins. The connection is of no more use.
    #[error("{0}")]
    Nonsense(String),
    /// The connection is of no more use.
    #[error("{0}")]
    Broken(String),
}

/// An open connection. After `Trouble::Nonsense` or `Trouble::Broken` it must be dropped.
pub enum Link {
    Tcp(Numbered),
    RtuOverTcp(Rtu<TcpStream>),
    Serial(Rtu<Port>),
}

impl Link {
    /// Connects; `gap` is the pause kept between requests.
    pub async fn open(wire: &Wire, wait: Duration, gap: Duration) -> io::Result<Self> {
        let opening = async {
            Ok(match wire {
                Wire::Tcp(address) => Self::Tcp(Numbered::over(connect(address).await?, gap)),
                Wire::RtuOverTcp(address) => Self::RtuOverTcp(Rtu::new(connect(address).await?, Timing::far(), gap)),
                Wire::Serial(serial) => Self::Serial(Rtu::new(Port::open(serial).await?, Timing::of(serial), gap)),
            })
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {wait:?}"));
        timeout(wait, opening).await.map_err(late)?
    }

    /// Reads registers of `unit`: exactly as many words as were asked for.
    pub async fn read(&mut self, unit: u8, request: &Request, wait: Duration) -> Result<Vec<u16>, Trouble> {
        match self {
            Self::Tcp(numbered) => numbered.read(unit, request, wait).await,
            Self::RtuOverTcp(rtu) => rtu.read(unit, request, wait).await,
            Self::Serial(rtu) => rtu.read(unit, request, wait).await,
        }
    }

    /// What the connection after this one must know. Answers that bear numbers end with their connection.
    pub fn owed(self) -> Owed {
        match self {
            Self::Tcp(_) => Owed::default(),
            Self::RtuOverTcp(rtu) => rtu.owed(),
            Self::Serial(rtu) => rtu.owed(),
        }
    }

    /// Takes the place of a connection.
    pub fn expect(&mut self, owed: Owed) {
        match self {
            Self::Tcp(_) => {}
            Self::RtuOverTcp(rtu) => rtu.expect(owed),
            Self::Serial(rtu) => rtu.expect(owed),
        }
    }

    /// The late answers that were dropped since the last call.
    pub fn late(&mut self) -> Vec<Late> {
        match self {
            Self::Tcp(numbered) => numbered.late(),
            Self::RtuOverTcp(rtu) => rtu.late(),
            Self::Serial(rtu) => rtu.late(),
        }
    }

    /// How long the unit needed for the last answer that came in time, without the time that its bytes take.
    pub fn took(&self) -> Duration {
        match self {
            Self::Tcp(numbered) => numbered.took,
            Self::RtuOverTcp(rtu) => rtu.took(),
            Self::Serial(rtu) => rtu.took(),
        }
    }

    /// How many answers came damaged since the last call.
    pub fn damaged(&mut self) -> u64 {
        match self {
            Self::Tcp(_) => 0,
            Self::RtuOverTcp(rtu) => rtu.damaged(),
            Self::Serial(rtu) => rtu.damaged(),
        }
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, GONE_AFTER)?;
    sockopt::set_tcp_keepintvl(&stream, GONE_AFTER / 3)?;
    sockopt::set_tcp_user_timeout(&stream, u32::try_from(GONE_AFTER.as_millis()).unwrap_or(u32::MAX))?;
    Ok(stream)
}

/// Modbus/TCP, whose requests and answers bear numbers.
pub struct Numbered {
    context: Context,
    seen: Arc<Mutex<Seen>>,
    calls: u64,
    gap: Duration,
    free_at: Option<Instant>,
    took: Duration,
}

impl Numbered {
    fn over<S: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static>(stream: S, gap: Duration) -> Self {
        let (frames, seen) = Frames::new(stream);
        Self { context: tcp::attach(frames), seen, calls: 0, gap, free_at: None, took: Duration::ZERO }
    }

    async fn read(&mut self, unit: u8, request: &Request, wait: Duration) -> Result<Vec<u16>, Trouble> {
        if let Some(free_at) = self.free_at.take() {
            sleep_until(free_at).await;
        }
        let call = match request.function {
            Function::Holding => tokio_modbus::Request::ReadHoldingRegisters(request.address, request.count),
            Function::Input => tokio_modbus::Request::ReadInputRegisters(request.address, request.count),
        };
        self.context.set_slave(Slave(unit));
        self.calls += 1;
        let asked = Instant::now();
        let answer = timeout(wait, self.context.call(call)).await;
        self.took = asked.elapsed();
        if !self.gap.is_zero() {
            self.free_at = Some(Instant::now() + self.gap);
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if look(&self.seen).written == self.calls => return Err(Trouble::Silent(wait)),
            // The rest of the request would go out before the next one.
            Err(_) => return Err(Trouble::Broken(format!("the request could not be sent within {wait:?}"))),
        };
        let words = match answer {
            Ok(Ok(
                tokio_modbus::Response::ReadHoldingRegisters(words) | tokio_modbus::Response::ReadInputRegisters(words),
            )) => words,
            Ok(Ok(_)) => return Err(Trouble::Wrong("the answer is to another function".to_owned())),
            Ok(Err(code)) => return Err(Trouble::Exception(code.into())),
            Err(Error::Protocol(ProtocolError::HeaderMismatch { .. })) => {
                let answered_as = look(&self.seen).answered_as;
                return Err(Trouble::Wrong(format!("unit {answered_as} answered in the place of unit {unit}")));
            }
            Err(Error::Protocol(ProtocolError::FunctionCodeMismatch { .. })) => {
                return Err(Trouble::Wrong("the answer is to another function".to_owned()));
            }
            Err(Error::Transport(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Trouble::Nonsense(error.to_string()));
            }
            Err(Error::Transport(error)) => return Err(Trouble::Broken(error.to_string())),
        };
        if words.len() != usize::from(request.count) {
            let text = format!("{} registers came where {} were asked for", words.len(), request.count);
            return Err(Trouble::Wrong(text));
        }
        Ok(words)
    }

    fn late(&self) -> Vec<Late> {
        std::mem::take(&mut look(&self.seen).late)
    }
}

/// An exception by its number and the name that the Modbus application protocol (1.1b3, 7) gives it.
pub fn exception(code: u8) -> String {
    let name = match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "server device failure",
        5 => "acknowledge: still at work",
        6 => "server device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "the gateway got no answer from the unit",
        _ => "unknown",
    };
    format!("exception {code} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const WAIT: Duration = Duration::from_millis(200);

    fn request(address: u16) -> Request {
        Request { function: Function::Input, address, count: 1, registers: 0..1 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_half_a_request_in_it_is_not_used_again() {
        let (near, _far) = duplex(5);
        let mut link = Numbered::over(near, Duration::ZERO);
        let trouble = link.read(1, &request(0), WAIT).await.unwrap_err();
        assert_eq!(trouble, Trouble::Broken("the request could not be sent within 200ms".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_time_out_the_next_request_gets_its_own_answer() {
        let (near, mut far) = duplex(1000);
        let mut link = Numbered::over(near, Duration::ZERO);
        assert_eq!(link.read(1, &request(0), WAIT).await, Err(Trouble::Silent(WAIT)));
        let device = async {
            let mut asked = [0; 24];
            far.read_exact(&mut asked).await.unwrap();
            for request in asked.chunks(12) {
                let answer = [&request[..2], &[0, 0, 0, 5, request[6], 4, 2, 0, request[9]]].concat();
                far.write_all(&answer).await.unwrap();
            }
        };
        let asked = request(42);
        let (words, ()) = tokio::join!(link.read(2, &asked, WAIT), device);
        assert_eq!(words, Ok(vec![42]));
        assert_eq!(link.late().iter().map(|late| late.unit).collect::<Vec<_>>(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_keep_their_distance() {
        let (near, _far) = duplex(1000);
        let mut link = Numbered::over(near, Duration::from_secs(3));
        let from = Instant::now();
        for _ in 0..2 {
            assert_eq!(link.read(1, &request(0), WAIT).await, Err(Trouble::Silent(WAIT)));
        }
        assert_eq!(from.elapsed(), Duration::from_secs(3) + WAIT * 2);
    }
}
