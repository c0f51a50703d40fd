//! Searches for meters: those that the page and commands ask the daemon for, and those of a command alone.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tokio::signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::admin;
use crate::clock::Clock;
use crate::config;
use crate::model::{Bus, ScanEvent, ScanOrder};
use crate::sources::template::{self, Template};
use crate::sources::{self, RunningLine, scan};
use crate::web::{AnotherRuns, ScanNow};

/// Events on their way to a command. When they are full, the search waits.
const EVENTS: usize = 64;

/// Searches that are asked for; who asks for one more waits until it is known whether another runs.
pub const ASKED: usize = 4;

/// Makes the searches that the page and commands ask the daemon for, one at a time.
pub async fn run(
    mut asked: mpsc::Receiver<ScanNow>,
    config: watch::Receiver<Arc<sources::Config>>,
    lines: watch::Receiver<Arc<Vec<RunningLine>>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            // One that has ended makes room before the next is looked at.
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(ended) = tasks.join_next() => ended.context("a search")?,
            now = asked.recv() => {
                let Some(ScanNow { order, tell, begun }) = now else {
                    // Nobody can ask any more: the program is stopping.
                    stop.cancelled().await;
                    return Ok(());
                };
                let another = if tasks.is_empty() { Ok(()) } else { Err(AnotherRuns) };
                if begun.send(another).is_err() || another.is_err() {
                    continue;
                }
                info!(bus = %order.bus, units = %order.units, "searching for meters");
                let (own, lines) = (config.borrow().templates.clone(), lines.borrow().clone());
                let search = scan::scan(order, templates(&own)?, lines, tell.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = search => {}
                        () = tell.closed() => {}
                    }
                });
            }
        }
    }
}

/// Looks through a bus for a command, until it is done or Ctrl-C is pressed: by the daemon that runs on the store of the
/// config at `path`, else over a connection of its own. There need be no config.
pub async fn for_command(order: ScanOrder, path: &Path, mut told: impl FnMut(ScanEvent)) -> anyhow::Result<()> {
    let checked = if path.exists() { Some(config::load(path, Clock::system().now()).1) } else { None };
    if let Some(checked) = &checked
        && let Some(socket) = admin::daemon_of(&checked.store)?
    {
        return tokio::select! {
            searched = admin::search(&socket, order, told) => searched,
            stopped = signal::ctrl_c() => Ok(stopped?),
        };
    }
    let own = checked.and_then(|checked| checked.config).map(|config| config.sources.templates).unwrap_or_default();
    let (tell, mut events) = mpsc::channel(EVENTS);
    let search = scan::scan(order, templates(&own)?, Arc::default(), tell);
    let listen = async {
        while let Some(event) = events.recv().await {
            told(event);
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(search, listen) } => {}
        stopped = signal::ctrl_c() => stopped?,
    }
    Ok(())
}

/// The templates that come with the program, and the plant's own.
fn templates(own: &[Arc<Template>]) -> anyhow::Result<Vec<Arc<Template>>> {
    let parse = |(name, text): &(&str, &str)| match template::parse(name, text) {
        Ok(template) => Ok(Arc::new(template)),
        Err(faults) => Err(anyhow!("template {name} is faulty: {faults:?}")),
    };
    let is_own = |name: &str| own.iter().any(|template| template.name == name);
    let shipped = template::shipped().iter().filter(|(name, _)| !is_own(name)).map(parse);
    shipped.chain(own.iter().cloned().map(Ok)).collect()
}

/// What is wrong most often where nobody answers.
pub fn hint_for_nobody(bus: &Bus) -> &'static str {
    match bus {
        Bus::Tcp(_) => {
            "Are the unit numbers right, and the meters behind the gateway on? A slow bus needs --timeout 1000; a device \
             server that hands RTU frames on needs --rtu."
        }
        Bus::RtuOverTcp(_) => {
            "Does the device server have the meters' baud rate and parity? If it speaks Modbus/TCP, leave --rtu out."
        }
        Bus::Serial { .. } => {
            "Are A and B the right way round, the meters on, and baud rate and parity those that are set on them? Is \
             another master on this bus?"
        }
    }
}
