//! One request at a time on a serial line, near or behind a gateway.
//!
//! A frame has no number and no length of its own, and on the line lie noise, the echo of an adapter that hears itself,
//! halves of frames, and answers that nobody waits for any more. All that came is kept until the one answer is found in
//! it that bears the right check sum, unit, function and byte count. `frame` knows frames, and `unanswered` which
//! request an answer belongs to.

mod frame;
#[cfg(test)]
mod tests;
mod unanswered;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::frames::Late;
use super::link::Trouble;
use super::plan::Request;
use crate::model::Parity;
use crate::sources::Serial;
use crate::sources::template::Function;
#[cfg(test)]
pub use frame::with_sum;
use frame::{Ask, Content, Frame, LONGEST, REQUEST};
use unanswered::{Origin, Unanswered};

/// After something unexpected, the line is left alone until it has been quiet for this long. USB adapters hand their
/// bytes on in lumps, 16 ms apart, and gateways some ten.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_FAR: Duration = Duration::from_millis(150);

/// A frame is given up when no byte has come for this long. The 1.5 characters of the specification are what an adapter
/// sees at its end of the line, and not what comes out of its buffer.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_FAR: Duration = Duration::from_millis(300);

/// The silence between frames above 19200 Bd (Modbus over serial line 1.02, 2.5.1.1). Below, it is 3.5 characters.
const SHORTEST_SILENCE: Duration = Duration::from_micros(1750);

/// What lies behind a gateway may be as slow as this.
const SLOWEST_BAUD: u32 = 1200;

/// A unit that keeps silent about canaries is asked again when nothing was sent to it for this many time-outs and for
/// this long.
const REST_WAITS: u32 = 3;
const REST: Duration = Duration::from_secs(5);

/// A line that is not quiet for this long between two requests is not ours alone.
const NEVER_QUIET: Duration = Duration::from_secs(1);

/// More than the longest echo, stale frame and answer together; on a line that babbles, the oldest bytes go.
const MOST_BYTES: usize = 1024;

/// Fewer bytes than this beside no answer are what an adapter picks up when the line changes hands.
const NOISE: usize = 3;

/// How long things take on one line.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    character: Duration,
    /// Between any two frames.
    silence: Duration,
    settle: Duration,
    pause: Duration,
    /// From the first byte of an answer to its last.
    longest: Duration,
}

/// A line whose stream is open. After `Trouble::Broken` it must be dropped.
#[derive(Debug)]
pub struct Rtu<S> {
    stream: S,
    timing: Timing,
    gap: Duration,
    /// What has come and is not understood yet.
    came: Vec<u8>,
    /// When the last byte came or went.
    active: Instant,
    /// The last request ended otherwise than with its answer.
    unsettled: bool,
    /// The request that went out last, by which its echo is known.
    last: [u8; REQUEST],
    units: BTreeMap<u8, Unanswered>,
    late: Vec<Late>,
    damaged: u64,
    took: Duration,
    longest_wait: Duration,
}

/// The answers that may still come to requests of a connection that is closed.
#[derive(Debug, Default)]
pub struct Owed {
    units: BTreeMap<u8, Unanswered>,
    longest_wait: Duration,
}

/// Why an attempt gave nothing.
enum Failed {
    /// An answer came, and it cannot be used: worth a second request.
    Damaged(Trouble),
    Told(Trouble),
}

/// What came beside the awaited answer.
#[derive(Default)]
struct Beside {
    /// Another unit answered, which was not asked.
    stranger: Option<u8>,
    /// This unit was asked, and not by us.
    others_ask: Option<u8>,
    /// Bytes that belong to no frame.
    noise: Vec<u8>,
}

impl Timing {
    pub fn of(serial: &Serial) -> Self {
        let parity = if serial.parity == Parity::None { 0 } else { 1 };
        let bits = 1 + 8 + parity + u32::from(serial.stop_bits);
        let character = Duration::from_secs(1) * bits / serial.baud.max(1);
        Self {
            character,
            silence: (character * 7 / 2).max(SHORTEST_SILENCE),
            settle: SETTLE.max(character * 7 / 2),
            pause: PAUSE + character * 4,
            longest: character * LONGEST_WITH_ECHO + PAUSE,
        }
    }

    /// Behind a gateway, which keeps the silences of its line itself.
    pub fn far() -> Self {
        let character = Duration::from_secs(1) * 11 / SLOWEST_BAUD;
        Self {
            character: Duration::ZERO,
            silence: SHORTEST_SILENCE,
            settle: SETTLE_FAR,
            pause: PAUSE_FAR,
            longest: character * LONGEST_WITH_ECHO + PAUSE_FAR,
        }
    }
}

const LONGEST_WITH_ECHO: u32 = 264;
const _: () = assert!(LONGEST + REQUEST == LONGEST_WITH_ECHO as usize);

impl<S: AsyncRead + AsyncWrite + Unpin> Rtu<S> {
    pub fn new(stream: S, timing: Timing, gap: Duration) -> Self {
        Self {
            stream,
            timing,
            gap,
            came: Vec::with_capacity(MOST_BYTES),
            active: Instant::now(),
            unsettled: true,
            last: [0; REQUEST],
            units: BTreeMap::new(),
            late: Vec::new(),
            damaged: 0,
            took: Duration::ZERO,
            longest_wait: Duration::ZERO,
        }
    }

    /// Reads registers of `unit`: exactly as many words as are asked for, and never those of another request. `wait` is
    /// the time until the answer begins.
    pub async fn read(&mut self, unit: u8, request: &Request, wait: Duration) -> Result<Vec<u16>, Trouble> {
        self.longest_wait = self.longest_wait.max(wait);
        let ask = Ask::from(request);
        let proof = self.prove(unit, &ask, wait).await?;
        let mut answer = self.ask(unit, &ask, wait, None).await;
        // Noise passes, and the second request is the very same: whichever answer comes is right. Once only, as what
        // damages two in turn will damage the third.
        if let Err(Failed::Damaged(_)) = answer {
            answer = self.ask(unit, &ask, wait, None).await;
        }
        if let (Proof::Rest, Err(Failed::Told(Trouble::Silent(_)))) = (proof, &answer) {
            self.units.entry(unit).or_default().is_away();
        }
        answer.map_err(Trouble::from)
    }

    /// What the connection that takes the place of this one must know: a unit, or the gateway before it, keeps an answer
    /// for longer than a socket or a port stays closed.
    pub fn owed(self) -> Owed {
        Owed { units: self.units, longest_wait: self.longest_wait }
    }

    /// Takes the place of a connection.
    pub fn expect(&mut self, owed: Owed) {
        (self.units, self.longest_wait) = (owed.units, owed.longest_wait);
    }

    /// The answers that came when nobody waited for them any more, since the last call.
    pub fn late(&mut self) -> Vec<Late> {
        std::mem::take(&mut self.late)
    }

    /// How long the last answer let wait for itself.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Answers that came damaged, since the last call.
    pub fn damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// Makes sure that no older answer of `unit` can be taken for that to `ask`: asks for something whose answer looks
    /// otherwise, as a unit answers in order.
    async fn prove(&mut self, unit: u8, ask: &Ask, wait: Duration) -> Result<Proof, Trouble> {
        let is_free = |units: &BTreeMap<u8, Unanswered>| {
            units.get(&unit).is_none_or(|known| !known.mistakable(ask) && !known.is_resting())
        };
        if is_free(&self.units) {
            return Ok(Proof::Order);
        }
        // What lies on the line already may be what was missing.
        self.quieten().await?;
        if is_free(&self.units) {
            return Ok(Proof::Order);
        }
        let known = self.units.entry(unit).or_default();
        let canary = if known.is_resting() { None } else { known.canary(ask) };
        let Some(canary) = canary else {
            let rest = (self.longest_wait * REST_WAITS).max(REST);
            return if known.has_rested(rest, Instant::now()) { Ok(Proof::Rest) } else { Err(Trouble::Held) };
        };
        let answer = self.ask(unit, &canary, wait, Some(ask)).await;
        if !self.is_mistakable(unit, ask) {
            return Ok(Proof::Order);
        }
        if let Err(Failed::Told(Trouble::Silent(_))) = answer {
            self.units.entry(unit).or_default().is_mute_about(&canary);
        }
        // An exception may have been an older answer.
        Err(match answer {
            Err(Failed::Told(Trouble::Exception(_))) | Ok(_) => Trouble::Silent(wait),
            Err(failed) => failed.into(),
        })
    }

    fn is_mistakable(&self, unit: u8, ask: &Ask) -> bool {
        self.units.get(&unit).is_some_and(|known| known.mistakable(ask))
    }

    /// One request and its answer; for a canary, `canary_for` says what older answers shall not be taken for.
    async fn ask(&mut self, unit: u8, ask: &Ask, wait: Duration, canary_for: Option<&Ask>) -> Result<Vec<u16>, Failed> {
        self.quieten().await?;
        self.send(unit, ask, wait).await?;
        let sent = self.active;
        let first_by = sent + wait;
        let last_by = first_by + self.timing.longest;
        let mut beside = Beside::default();
        while Instant::now() < last_by {
            while let Some(answer) = self.next_answer(unit, &mut beside) {
                let Some(origin) = answer.origin else {
                    return Err(Failed::Told(Trouble::Wrong(unasked(ask, &answer))));
                };
                if beside.others_ask == Some(unit) {
                    continue;
                }
                if origin.ask != Some(*ask) {
                    self.late.push(Late { unit, after: origin.sent.elapsed() });
                    // Any exception may be that to a canary; values that are older are not, and it still comes.
                    let is_over = canary_for.is_some_and(|wanted| !self.is_mistakable(unit, wanted));
                    if !is_over || matches!(answer.content, Told::Words(_)) {
                        continue;
                    }
                }
                // Of two that look alike, and only one of them asked for, one is an older answer given twice.
                let is_doubled = Frame::first(&self.came, |other| ask.fits(unit, other)).is_some()
                    && self.units.get(&unit).is_some_and(|known| !known.was_asked(ask));
                if canary_for.is_none() && is_doubled {
                    self.damaged += 1;
                    let why = "two answers came to one request".to_owned();
                    return Err(Failed::Damaged(Trouble::Wrong(why)));
                }
                self.unsettled = !self.came.is_empty();
                // The first byte may have been that of an echo or of noise, and so the time is counted back from the last.
                self.took = sent.elapsed().saturating_sub(self.timing.character * answer.length);
                return match answer.content {
                    Told::Words(words) => Ok(words),
                    Told::Exception(code) => Err(Failed::Told(Trouble::Exception(code))),
                };
            }
            let until = self.patience(unit, ask, first_by).min(last_by);
            match timeout_at(until, self.receive()).await {
                Ok(received) => received?,
                Err(_) => break,
            }
        }
        let came = std::mem::take(&mut self.came);
        self.set_aside(&came, &mut beside);
        Err(self.nothing(unit, ask, wait, &beside))
    }

    async fn send(&mut self, unit: u8, ask: &Ask, wait: Duration) -> Result<(), Trouble> {
        // Noted before it goes out, so that a call which is given up midway is not forgotten.
        self.units.entry(unit).or_default().sent(*ask, Instant::now());
        self.unsettled = true;
        self.last = ask.frame(unit);
        let sending = async {
            self.stream.write_all(&self.last).await?;
            self.stream.flush().await
        };
        match timeout(wait, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Trouble::Broken(error.to_string())),
            Err(_) => return Err(Trouble::Broken(format!("the request could not be sent within {wait:?}"))),
        }
        // The driver has taken it; it is on the line for as long as its characters take.
        self.active = Instant::now() + self.timing.character * 8;
        Ok(())
    }

    /// Waits until the line is quiet, and understands what lies on it.
    async fn quieten(&mut self) -> Result<(), Trouble> {
        let from = Instant::now();
        let mut beside = Beside::default();
        loop {
            let silence = if self.unsettled { self.timing.settle } else { self.timing.silence };
            match timeout_at(self.active + silence.max(self.gap), self.receive()).await {
                Ok(received) => received?,
                Err(_) => break,
            }
            self.unsettled = true;
            if from.elapsed() > NEVER_QUIET + self.timing.longest {
                let came = std::mem::take(&mut self.came);
                self.set_aside(&came, &mut beside);
                let who = match beside.others_ask {
                    Some(unit) => format!("another master asks on this line (unit {unit}), and only one may"),
                    None => "the line is never quiet: is it terminated, and is nothing else talking on it?".to_owned(),
                };
                return Err(Trouble::Wrong(who));
            }
        }
        let came = std::mem::take(&mut self.came);
        self.set_aside(&came, &mut beside);
        self.unsettled = false;
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), Trouble> {
        let mut bytes = [0; LONGEST];
        match self.stream.read(&mut bytes).await {
            Ok(0) => Err(Trouble::Broken("the other side closed the connection".to_owned())),
            Ok(came) => {
                self.active = self.active.max(Instant::now());
                if self.came.len() + came > MOST_BYTES {
                    self.came.drain(..came);
                }
                self.came.extend_from_slice(&bytes[..came]);
                Ok(())
            }
            Err(error) => Err(Trouble::Broken(error.to_string())),
        }
    }

    /// The next answer of `unit` in what has come, with the request it belongs to. It is not ours where another master
    /// asked that unit before.
    fn next_answer(&mut self, unit: u8, beside: &mut Beside) -> Option<Answer> {
        let (_, place) = Frame::first(&self.came, |frame| frame.unit == unit && frame.is_answer())?;
        let rest = self.came.split_off(place.end);
        let came = std::mem::replace(&mut self.came, rest);
        self.set_aside(&came[..place.start], beside);
        let (frame, _) = Frame::at(&came[place.start..])?;
        let content = match frame.content {
            Content::Values(bytes) => {
                Told::Words(bytes.as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
            }
            Content::Exception(code) => Told::Exception(code),
            Content::Request(_) => return None,
        };
        let origin = self.units.entry(unit).or_default().answered(&frame);
        let length = u32::try_from(place.len()).unwrap_or(0);
        Some(Answer { function: frame.function, content, length, origin })
    }

    /// Until when to wait for the next byte.
    fn patience(&self, unit: u8, ask: &Ask, first_by: Instant) -> Instant {
        let mut rest = self.came.as_slice();
        while let Some((_, place)) = Frame::first(rest, |_| true) {
            rest = &rest[place.end..];
        }
        if rest.is_empty() {
            return first_by;
        }
        let paused = self.active + self.timing.pause;
        // An echo that is not whole yet is no answer that has begun.
        let begun = begins_answer(rest, unit, ask) && !self.last.starts_with(rest);
        if begun { paused } else { paused.max(first_by) }
    }

    /// Understands bytes among which the awaited answer is not.
    fn set_aside(&mut self, bytes: &[u8], beside: &mut Beside) {
        let mut rest = bytes;
        while let Some((frame, place)) = Frame::first(rest, |_| true) {
            beside.noise.extend_from_slice(&rest[..place.start]);
            if let Content::Request(asked) = frame.content {
                let ours = self.units.get(&frame.unit).is_some_and(|known| known.was_asked(&asked));
                if !ours && rest[place.clone()] != self.last {
                    beside.others_ask = Some(frame.unit);
                }
            } else if let Some(origin) = self.units.get_mut(&frame.unit).and_then(|known| known.answered(&frame)) {
                self.late.push(Late { unit: frame.unit, after: origin.sent.elapsed() });
            } else {
                beside.stranger = Some(frame.unit);
            }
            rest = &rest[place.end..];
        }
        beside.noise.extend_from_slice(rest);
    }

    /// Why there is no answer.
    fn nothing(&mut self, unit: u8, ask: &Ask, wait: Duration, beside: &Beside) -> Failed {
        if let Some(asked) = beside.others_ask {
            let why = format!("another master asks on this line (unit {asked}), and only one may");
            return Failed::Told(Trouble::Wrong(why));
        }
        if let Some(stranger) = beside.stranger {
            let why = format!("unit {stranger} answered in the place of unit {unit}");
            return Failed::Told(Trouble::Wrong(why));
        }
        let noise = beside.noise.as_slice();
        if noise.len() < NOISE || self.last.starts_with(noise) {
            return Failed::Told(Trouble::Silent(wait));
        }
        let (came, due) = (noise.len(), ask.answer_length());
        if begins_answer(noise, unit, ask) {
            self.damaged += 1;
            return Failed::Damaged(Trouble::Wrong(if came < due {
                format!("the answer broke off after {came} of {due} bytes")
            } else {
                "the answer came damaged: its check sum is wrong".to_owned()
            }));
        }
        let first = &noise[..came.min(12)];
        let hex = first.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let trouble =
            Trouble::Noise(format!("what came is no answer ({came} bytes: {hex}): are baud rate and parity right?"));
        // An answer whose first bytes were hit is about as long as one. A silent unit on a line that crackles is not
        // worth two requests each time.
        if came + NOISE < due {
            return Failed::Told(trouble);
        }
        self.damaged += 1;
        Failed::Damaged(trouble)
    }
}

/// Why no older answer can be taken for the next one.
enum Proof {
    /// By what was asked and answered.
    Order,
    /// Nothing was sent to the unit for so long that it has given up what it was at.
    Rest,
}

struct Answer {
    function: Function,
    content: Told,
    /// In characters on the line.
    length: u32,
    /// Nothing, where no request can have called for it.
    origin: Option<Origin>,
}

enum Told {
    Words(Vec<u16>),
    Exception(u8),
}

/// What is wrong with an answer that no request called for.
fn unasked(ask: &Ask, answer: &Answer) -> String {
    match &answer.content {
        Told::Words(words) if answer.function == ask.function => {
            format!("{} registers came where {} were asked for", words.len(), ask.count)
        }
        _ => "the answer is to another function".to_owned(),
    }
}

/// The awaited answer begins somewhere in `bytes`, and is not whole or not right.
fn begins_answer(bytes: &[u8], unit: u8, ask: &Ask) -> bool {
    let function = frame::code(ask.function);
    bytes.windows(2).any(|pair| pair[0] == unit && pair[1] & 0x7F == function)
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Told(trouble)
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Damaged(trouble) | Failed::Told(trouble) => trouble,
        }
    }
}
