//! Modbus/TCP lines: polls the units behind one gateway and turns their answers into readings.
//!
//! `plan`, `decode`, `asking` and `pace` are pure: what to ask, what it means, what a meter refuses, when to ask.
//! `frames` is the stream below tokio-modbus, `link` one connection, `poll` one poll over it, and `line` the task that
//! holds one gateway.

mod asking;
mod decode;
mod frames;
mod line;
mod link;
mod pace;
mod plan;
mod poll;

use std::sync::Arc;

pub use decode::number;
pub use line::{Outside, Report, run};

use super::{Line, MeterConfig, PollFailed, layout};
use crate::clock::Clock;
use crate::model::PollReport;
use asking::Asking;
use link::Link;
use poll::{Target, poll};

/// One poll over a connection of its own; nothing is stored.
pub async fn poll_once(line: &Line, meter: &MeterConfig, clock: &Clock) -> Result<PollReport, PollFailed> {
    let failed = |why: String| PollFailed::NoAnswer { meter: meter.id.clone(), why };
    let layout = Arc::new(layout(meter, line.simulated).map_err(|error| failed(error.to_string()))?);
    let opened = Link::open(&line.tcp, line.timeout.max(line::CONNECT_AT_LEAST), line.gap).await;
    let mut link = opened.map_err(|error| failed(format!("no connection to {}: {error}", line.tcp)))?;
    let mut asking = Asking::new(meter.template.clone());
    let target = Target {
        unit: meter.unit,
        layout: &layout,
        wait: line.timeout,
        clock,
        ingest: None,
        is_silent: false,
        told: true,
    };
    let outcome = poll(&mut link, &mut asking, &target).await;
    if !outcome.heard {
        return Err(failed(outcome.problem.unwrap_or_else(|| "it was asked nothing".to_owned())));
    }
    Ok(PollReport { meter: meter.id.clone(), time: clock.now(), values: outcome.told })
}
