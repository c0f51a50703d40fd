//! The one who asks: over a connection of its own.

use std::io;
use std::time::{Duration, Instant};

use super::recognise::{Answer, Question};
use crate::sources::Wire;
use crate::sources::modbus::{CONNECT_AT_LEAST, Link, Request, Trouble};

/// The pause between two requests: polite, and enough for devices that need one.
const GAP: Duration = Duration::from_millis(20);

/// After a connection was lost: a device server needs a moment to take the next one.
const BEFORE_RECONNECTING: Duration = Duration::from_millis(200);

/// Answers in a row that make no sense, before anything did.
const MOST_NONSENSE: u32 = 3;

/// Connections in a row that were closed instead of answered, before anything was heard and after.
const MOST_CLOSED: u32 = 4;
const MOST_CLOSED_LATER: u32 = 40;

/// A device that is busy is asked again so often, after this pause.
const BUSY_TRIES: u32 = 3;
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// Why nothing more can be asked.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("cannot connect to {to}: {source}")]
    NoConnection { to: String, source: io::Error },
    #[error("{to} does not speak Modbus: {why}")]
    NotModbus { to: String, why: String },
    #[error("{to} closes the connection instead of answering: {why}")]
    Closes { to: String, why: String },
}

impl Ended {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoConnection { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => {
                    "Something is there, but not on this port: Modbus/TCP is on 502 as a rule, and may have to be switched on."
                }
                io::ErrorKind::NotFound => "`ls /dev/serial/by-id` names the adapters that are there.",
                io::ErrorKind::PermissionDenied => "Or run this as root.",
                _ => "Is the address right, the device on, and this machine in its network?",
            },
            Self::NotModbus { .. } => {
                "Is this port Modbus/TCP? A device server that hands RTU frames on needs --rtu (`rtu_over_tcp`)."
            }
            Self::Closes { .. } => {
                "Many devices take one connection only: end what else reads it. Some also have a list of allowed addresses."
            }
        }
    }
}

/// What came of one request.
pub struct Heard {
    pub answer: Answer,
    /// The gateway says that it cannot reach the unit.
    pub away: bool,
    pub took: Duration,
}

/// A connection that is opened when it is needed.
pub struct Asker {
    wire: Wire,
    link: Option<Link>,
    /// Something sensible came.
    heard: bool,
    nonsense: u32,
    closed: u32,
    pub requests: u32,
    /// Units whose answers came after their time-out, and after how long.
    late: Vec<(u8, Duration)>,
}

impl Asker {
    pub fn new(wire: Wire) -> Self {
        Self { wire, link: None, heard: false, nonsense: 0, closed: 0, requests: 0, late: Vec::new() }
    }

    /// Asks over this from now on.
    pub fn reopen(&mut self, wire: Wire) {
        *self = Self { requests: self.requests, ..Self::new(wire) };
    }

    /// Units whose answers came after their time-out since the last call, and after how long.
    pub fn take_late(&mut self) -> Vec<(u8, Duration)> {
        std::mem::take(&mut self.late)
    }

    /// Asks `unit`, and once more where noise or a busy device may have spoilt it.
    pub async fn ask(&mut self, unit: u8, question: &Question, wait: Duration) -> Result<Heard, Ended> {
        let mut tries = 0;
        loop {
            let from = Instant::now();
            let answer = self.read(unit, question, wait).await?;
            let took = from.elapsed().saturating_sub(GAP);
            tries += 1;
            let (answer, away) = match answer {
                Ok(words) => (Answer::Words(words), false),
                Err(Trouble::Exception(5 | 6)) if tries < BUSY_TRIES => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                    continue;
                }
                Err(Trouble::Exception(10 | 11)) => (Answer::Nothing, true),
                Err(Trouble::Exception(code)) => (Answer::Refused(code), false),
                Err(Trouble::Wrong(_)) if tries == 1 => continue,
                Err(_) => (Answer::Nothing, false),
            };
            return Ok(Heard { answer, away, took });
        }
    }

    async fn read(
        &mut self,
        unit: u8,
        question: &Question,
        wait: Duration,
    ) -> Result<Result<Vec<u16>, Trouble>, Ended> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.open().await?,
        };
        let Question { function, address, count } = *question;
        let request = Request { function, address, count, registers: 0..0 };
        self.requests += 1;
        let answer = link.read(unit, &request, wait).await;
        self.late.extend(link.late().into_iter().map(|late| (late.unit, late.after)));
        match &answer {
            Ok(_) | Err(Trouble::Exception(_)) => {
                self.heard = true;
                (self.nonsense, self.closed) = (0, 0);
                self.link = Some(link);
            }
            Err(Trouble::Silent(_) | Trouble::Noise(_) | Trouble::Wrong(_) | Trouble::Held) => self.link = Some(link),
            Err(Trouble::Nonsense(why)) => {
                self.nonsense += 1;
                if self.nonsense >= MOST_NONSENSE && !self.heard {
                    return Err(Ended::NotModbus { to: self.wire.to_string(), why: why.clone() });
                }
                self.lost(why)?;
            }
            Err(Trouble::Broken(why)) => self.lost(why)?,
        }
        Ok(answer)
    }

    fn lost(&mut self, why: &str) -> Result<(), Ended> {
        self.closed += 1;
        if self.closed >= if self.heard { MOST_CLOSED_LATER } else { MOST_CLOSED } {
            return Err(Ended::Closes { to: self.wire.to_string(), why: why.to_owned() });
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<Link, Ended> {
        if self.closed > 0 {
            tokio::time::sleep(BEFORE_RECONNECTING).await;
        }
        let opened = Link::open(&self.wire, CONNECT_AT_LEAST, GAP).await;
        opened.map_err(|source| Ended::NoConnection { to: self.wire.to_string(), source })
    }
}
