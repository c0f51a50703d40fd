//! Whether a line that runs has the bus already: a second connection would be refused by many gateways, and on a serial
//! line two masters would disturb one another.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::model::{Bus, FoundUnit, MeterId, ScanOrder, SerialSettings};
use crate::sources::{RunningLine, Serial, Wire};

/// A name server that does not answer must not hold up a search.
const RESOLVING: Duration = Duration::from_secs(2);

/// Where the system names serial ports by their adapter.
const STABLE_NAMES: &str = "/dev/serial/by-id";

/// The line that has this bus.
pub async fn line_of(bus: &Bus, lines: &[RunningLine]) -> Option<RunningLine> {
    for line in lines {
        let same = match (bus, &line.line.wire) {
            (Bus::Tcp(one) | Bus::RtuOverTcp(one), Wire::Tcp(other) | Wire::RtuOverTcp(other)) => {
                is_same_place(one, other).await
            }
            (Bus::Serial { device, .. }, Wire::Serial(serial)) => {
                let one = canonical(device.into()).await;
                one == canonical(serial.device.clone()).await
            }
            _ => false,
        };
        if same {
            return Some(line.clone());
        }
    }
    None
}

/// The order as it is carried out on a line that runs: its wire, and its patience where a gateway needs it.
pub fn on_line(order: ScanOrder, line: &RunningLine) -> ScanOrder {
    let line_ms = u16::try_from(line.line.timeout.as_millis()).unwrap_or(u16::MAX).min(*ScanOrder::TIMEOUTS_MS.end());
    match &line.line.wire {
        Wire::Tcp(address) => {
            ScanOrder { bus: Bus::Tcp(address.clone()), timeout_ms: order.timeout_ms.max(line_ms), ..order }
        }
        Wire::RtuOverTcp(address) => ScanOrder { bus: Bus::RtuOverTcp(address.clone()), ..order },
        Wire::Serial(serial) => {
            let Serial { device, .. } = serial;
            let settings: SerialSettings = serial.settings();
            let device = device.to_string_lossy().into_owned();
            ScanOrder { bus: Bus::Serial { device, settings: Some(settings) }, ..order }
        }
    }
}

/// The meter of the line that was found again.
pub fn meter_of(line: &RunningLine, found: &FoundUnit) -> Option<MeterId> {
    let is_it = |unit: u8, device: u8| unit == found.unit && found.device.is_none_or(|found| found == device);
    let meters = &line.line.meters;
    meters.iter().find(|meter| is_it(meter.unit, meter.device)).map(|meter| meter.id.clone())
}

async fn is_same_place(one: &str, other: &str) -> bool {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    if port(one) != port(other) {
        return false;
    }
    if one.eq_ignore_ascii_case(other) {
        return true;
    }
    let (one, other) = tokio::join!(resolved(one), resolved(other));
    !one.is_disjoint(&other)
}

async fn resolved(address: &str) -> BTreeSet<SocketAddr> {
    match timeout(RESOLVING, lookup_host(address)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(_)) | Err(_) => BTreeSet::new(),
    }
}

/// The name of a serial port that stays the same when the adapter is plugged in again elsewhere; the given one, where the
/// system has no such name.
pub async fn stable_name(device: &str) -> String {
    let port = canonical(device.into()).await;
    let Ok(mut names) = tokio::fs::read_dir(STABLE_NAMES).await else { return device.to_owned() };
    while let Ok(Some(name)) = names.next_entry().await {
        if canonical(name.path()).await == port
            && let Ok(name) = name.path().into_os_string().into_string()
        {
            return name;
        }
    }
    device.to_owned()
}

/// The port behind the links by which `/dev/serial` names it.
async fn canonical(device: PathBuf) -> PathBuf {
    tokio::fs::canonicalize(&device).await.unwrap_or(device)
}
