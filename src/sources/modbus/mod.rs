//! Modbus lines: polls the units behind one gateway or on one serial line and turns their answers into readings.
//!
//! `plan`, `decode`, `asking` and `pace` are pure: what to ask, what it means, what a meter refuses, when to ask.
//! `session` is what is learned of one meter, `frames` the stream below tokio-modbus, `rtu` the framing of serial lines
//! over any stream, `serial` a serial port; `link` is one connection, `poll` one poll over it, and `line` the task that
//! holds one gateway or serial line.

mod asking;
mod decode;
mod frames;
mod line;
mod link;
mod pace;
mod plan;
mod poll;
mod rtu;
mod serial;
mod session;

pub use decode::{number, number_in};
pub(super) use line::CONNECT_AT_LEAST;
pub(super) use line::{AskNow, Asked};
pub use line::{Outside, Report, run};
pub(super) use link::{Link, Trouble, exception};
pub(super) use plan::{Limits, Request, plan};
pub(super) use rtu::Owed;
#[cfg(test)]
pub(super) use rtu::with_sum;
pub(super) use session::{said, tell as tell_identity};

use super::{Line, MeterConfig, PollFailed};
use crate::clock::Clock;
use crate::model::PollReport;
use poll::{Target, Unknown, poll};
use session::Session;

/// In so many places a unit may keep silent before `poll_once` gives it up.
const SILENT_PLACES: usize = 2;

/// Opens a line's port or its connection, and closes it.
pub async fn opens(line: &Line) -> Result<(), String> {
    let opened = Link::open(&line.wire, line.timeout.max(line::CONNECT_AT_LEAST), line.gap).await;
    opened.map(drop).map_err(|error| error.to_string())
}

/// One poll over a connection of its own; nothing is stored.
pub async fn poll_once(line: &Line, meter: &MeterConfig, clock: &Clock) -> Result<PollReport, PollFailed> {
    let failed = |why: String| PollFailed::NoAnswer { meter: meter.id.clone(), why };
    let mut session = Session::new(meter, line.simulated).map_err(|error| failed(error.to_string()))?;
    let opened = Link::open(&line.wire, line.timeout.max(line::CONNECT_AT_LEAST), line.gap).await;
    let mut link = opened.map_err(|error| failed(format!("no connection to {}: {error}", line.wire)))?;
    let target = Target { unit: meter.unit, wait: line.timeout, clock, ingest: None, is_silent: false, told: true };
    let mut outcome = poll(&mut link, &mut session, &target).await;
    // A walk along the models of a SunSpec unit ends, whatever the unit answers; where it looks for `SunS`, some units
    // keep silent.
    let mut silences = usize::from(!outcome.heard);
    while outcome.unknown == Some(Unknown::Walking) && outcome.broken.is_none() && silences <= SILENT_PLACES {
        let identity = outcome.identity.take();
        outcome = poll(&mut link, &mut session, &target).await;
        outcome.identity = outcome.identity.or(identity);
        silences += usize::from(!outcome.heard);
    }
    if let (Some(Unknown::NothingFound), Some(why)) = (outcome.unknown, &outcome.problem) {
        return Err(PollFailed::Unreadable { meter: meter.id.clone(), why: why.clone() });
    }
    if !outcome.heard {
        return Err(failed(outcome.problem.unwrap_or_else(|| "it was asked nothing".to_owned())));
    }
    Ok(outcome.report(meter.id.clone(), clock.now()))
}
