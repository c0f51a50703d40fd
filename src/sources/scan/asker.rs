//! The one who asks: over a connection of its own, or between the polls of a line that runs.

use std::io;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::recognise::{Answer, Question};
use crate::model::LineName;
use crate::sources::modbus::{AskNow, Asked, CONNECT_AT_LEAST, Link, Owed, Request, Trouble};
use crate::sources::{RunningLine, Wire};

/// The pause between two requests: polite, and enough for devices that need one.
const GAP: Duration = Duration::from_millis(20);

/// After a connection was lost: a device server needs a moment to take the next one.
const BEFORE_RECONNECTING: Duration = Duration::from_millis(200);

/// An answer may be longer than the last one.
const LIKELY_MORE: Duration = Duration::from_millis(20);

/// After a line that runs lost its connection.
const BEFORE_ASKING_AGAIN: Duration = Duration::from_secs(1);

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
    #[error("line {line} of the daemon has no connection: {why}")]
    LineDown { line: LineName, why: String },
    #[error("line {line} of the daemon was changed or ended meanwhile")]
    LineGone { line: LineName },
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
                "Modbus/TCP is on port 502 as a rule. A device server that hands RTU frames on is searched as RTU over TCP (`--rtu`)."
            }
            Self::LineDown { .. } => "The daemon reads this bus, and cannot reach it either: mend that first.",
            Self::LineGone { .. } => "Search again.",
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

/// The way to the units.
enum Way {
    /// A connection that is opened when it is needed.
    Own {
        wire: Wire,
        link: Option<Box<Link>>,
        /// The answers that may still come to requests of the connection before.
        owed: Owed,
    },
    Line(RunningLine),
}

pub struct Asker {
    way: Way,
    /// The unit that answered the last request on a line, and how long it took.
    last: Option<(u8, Duration)>,
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
        Self::by(Way::Own { wire, link: None, owed: Owed::default() })
    }

    /// Between the polls of a line.
    pub fn on_line(line: RunningLine) -> Self {
        Self::by(Way::Line(line))
    }

    fn by(way: Way) -> Self {
        Self { way, last: None, heard: false, nonsense: 0, closed: 0, requests: 0, late: Vec::new() }
    }

    /// Asks over this from now on: the same bus, with other settings. What was asked at the settings before is owed no
    /// more, since an answer to it would be noise at these.
    pub fn reopen(&mut self, wire: Wire) {
        let requests = self.requests;
        *self = Self::new(wire);
        self.requests = requests;
    }

    /// Units whose answers came after their time-out since the last call, and after how long.
    pub fn take_late(&mut self) -> Vec<(u8, Duration)> {
        std::mem::take(&mut self.late)
    }

    /// Asks `unit`, and once more where noise or a busy device may have spoilt it.
    pub async fn ask(&mut self, unit: u8, question: &Question, wait: Duration) -> Result<Heard, Ended> {
        let mut tries = 0;
        loop {
            let (answer, took) = self.read(unit, question, wait).await?;
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
    ) -> Result<(Result<Vec<u16>, Trouble>, Duration), Ended> {
        let Question { function, address, count } = *question;
        let request = Request { function, address, count, registers: 0..0 };
        self.requests += 1;
        let (own, wire, owed) = match &mut self.way {
            Way::Own { wire, link, owed } => (link.take(), wire.clone(), std::mem::take(owed)),
            Way::Line(line) => {
                let line = line.clone();
                return self.read_on(line, unit, request, wait).await;
            }
        };
        let mut link = match own {
            Some(link) => link,
            None => {
                let mut link = self.open(&wire).await?;
                link.expect(owed);
                link
            }
        };
        let from = Instant::now();
        let answer = link.read(unit, &request, wait).await;
        let took = from.elapsed().saturating_sub(GAP);
        self.late.extend(link.late().into_iter().map(|late| (late.unit, late.after)));
        let (mut kept, mut owed) = (Some(link), Owed::default());
        match &answer {
            Ok(_) | Err(Trouble::Exception(_)) => {
                self.heard = true;
                (self.nonsense, self.closed) = (0, 0);
            }
            Err(Trouble::Silent(_) | Trouble::Noise(_) | Trouble::Wrong(_) | Trouble::Held) => {}
            Err(Trouble::Nonsense(why) | Trouble::Broken(why)) => {
                owed = kept.take().map_or(owed, |link| link.owed());
                self.nonsense += u32::from(matches!(answer, Err(Trouble::Nonsense(_))));
                if self.nonsense >= MOST_NONSENSE && !self.heard {
                    return Err(Ended::NotModbus { to: wire.to_string(), why: why.clone() });
                }
                self.closed += 1;
                if self.closed >= if self.heard { MOST_CLOSED_LATER } else { MOST_CLOSED } {
                    return Err(Ended::Closes { to: wire.to_string(), why: why.clone() });
                }
            }
        }
        self.way = Way::Own { wire, link: kept, owed };
        Ok((answer, took))
    }

    async fn open(&mut self, wire: &Wire) -> Result<Box<Link>, Ended> {
        if self.closed > 0 {
            tokio::time::sleep(BEFORE_RECONNECTING).await;
        }
        match Link::open(wire, CONNECT_AT_LEAST, GAP).await {
            Ok(link) => Ok(Box::new(link)),
            Err(source) => Err(Ended::NoConnection { to: wire.to_string(), source }),
        }
    }

    /// A line that lost its connection makes a new one by itself.
    async fn read_on(
        &mut self,
        line: RunningLine,
        unit: u8,
        request: Request,
        wait: Duration,
    ) -> Result<(Result<Vec<u16>, Trouble>, Duration), Ended> {
        let (reply, answer) = oneshot::channel();
        let gone = || Ended::LineGone { line: line.line.name.clone() };
        let likely = self.last.filter(|(last, _)| *last == unit).map_or(wait, |(_, took)| took * 2 + LIKELY_MORE);
        line.asks.send(AskNow { unit, request, wait, likely, reply }).await.map_err(|_| gone())?;
        let Asked { answer, took } = answer.await.map_err(|_| gone())?;
        self.last = matches!(answer, Ok(_) | Err(Trouble::Exception(_))).then_some((unit, took));
        match &answer {
            Err(Trouble::Nonsense(why) | Trouble::Broken(why)) => {
                self.closed += 1;
                if self.closed >= MOST_CLOSED {
                    return Err(Ended::LineDown { line: line.line.name.clone(), why: why.clone() });
                }
                tokio::time::sleep(BEFORE_ASKING_AGAIN).await;
            }
            _ => self.closed = 0,
        }
        Ok((answer, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::modbus::with_sum;
    use crate::sources::template::Function;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const WAIT: Duration = Duration::from_millis(200);

    fn question(address: u16) -> Question {
        Question { function: Function::Input, address, count: 4 }
    }

    /// The next request, and its answer: registers hold their address.
    async fn answer_to_next(line: &mut TcpStream) -> Vec<u8> {
        let mut asked = [0; 8];
        line.read_exact(&mut asked).await.unwrap();
        let [unit, function, high, low, _, count, ..] = asked;
        let address = u16::from_be_bytes([high, low]);
        let mut answer = vec![unit, function, count * 2];
        answer.extend((address..address + u16::from(count)).flat_map(u16::to_be_bytes));
        with_sum(&answer)
    }

    #[tokio::test]
    async fn an_answer_that_outlives_its_connection_is_not_taken_for_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut asker = Asker::new(Wire::RtuOverTcp(listener.local_addr().unwrap().to_string()));
        let device = async {
            let (mut line, _) = listener.accept().await.unwrap();
            let withheld = answer_to_next(&mut line).await;
            // A gateway ends the connection, and what lies behind it gives its answer to the next one.
            answer_to_next(&mut line).await;
            drop(line);
            let (mut line, _) = listener.accept().await.unwrap();
            let first = answer_to_next(&mut line).await;
            line.write_all(&withheld).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            line.write_all(&first).await.unwrap();
            loop {
                let answer = answer_to_next(&mut line).await;
                line.write_all(&answer).await.unwrap();
            }
        };
        let search = async {
            assert_eq!(asker.ask(1, &question(5), WAIT).await.unwrap().answer, Answer::Nothing);
            assert_eq!(asker.ask(1, &question(5), WAIT).await.unwrap().answer, Answer::Nothing);
            asker.ask(1, &question(25), WAIT).await.unwrap().answer
        };
        let answer = tokio::select! {
            answer = search => answer,
            () = device => unreachable!(),
        };
        assert_eq!(answer, Answer::Words(vec![25, 26, 27, 28]));
    }
}
