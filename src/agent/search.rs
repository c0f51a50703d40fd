//! Searches for meters: for a command.

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use tokio::signal;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config;
use crate::model::{Bus, ScanEvent, ScanOrder};
use crate::sources::scan;
use crate::sources::template::{self, Template};

/// Events on their way to who listens. When they are full, the search waits.
pub const EVENTS: usize = 64;

/// Looks through a bus for a command, until it is done or Ctrl-C is pressed. The config at `path`, if there is one, has
/// register maps of the plant's own.
pub async fn for_command(order: ScanOrder, path: &Path, mut told: impl FnMut(ScanEvent)) -> anyhow::Result<()> {
    let config = if path.exists() { config::load(path, Clock::system().now()).1.config } else { None };
    let own = config.map(|config| config.sources.templates).unwrap_or_default();
    let (tell, mut events) = mpsc::channel(EVENTS);
    let search = scan::scan(order, templates(&own)?, tell);
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
