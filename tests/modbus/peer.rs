//! The sources against pymodbus, which `tests/setup` installs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::Condition;
use meterseal::sources::{Line, MeterConfig, Wire, poll_once};
use tokio::task::JoinSet;

use crate::is_right;
use crate::plant::{Plant, line, map, meter, on_serial, ten};
use crate::pty::{Pty, cable};
use crate::sunspec::{self, words_of};

/// Serves units 1 to 3 with 100 registers each from 0 on (function 03 and 04), each holding `unit × 1000 + address`: by
/// Modbus/TCP on a free port, by RTU over TCP on a free port, or by RTU on the port named. It says where, once it does.
/// Over TCP it may also serve a unit 4, with the words of its last argument from the address before it on.
const SERVER: &str = r"
import asyncio, json, sys
from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

def device(unit):
    values = [1000 * unit + at for at in range(100)]
    return SimDevice(unit, simdata=[SimData(0, values=values, datatype=DataType.REGISTERS)])

async def main():
    devices = [device(unit) for unit in range(1, 4)]
    if sys.argv[1] == 'serial':
        server = ModbusSerialServer(devices, framer=FramerType.RTU, port=sys.argv[2], baudrate=9600)
        await server.serve_forever(background=True)
        print(sys.argv[2], flush=True)
    else:
        if len(sys.argv) > 3:
            words = SimData(int(sys.argv[2]), values=json.loads(sys.argv[3]), datatype=DataType.REGISTERS)
            devices.append(SimDevice(4, simdata=[words]))
        framer = FramerType.RTU if sys.argv[1] == 'rtu' else FramerType.SOCKET
        server = ModbusTcpServer(devices, framer=framer, address=('127.0.0.1', 0))
        await server.serve_forever(background=True)
        print('127.0.0.1:%d' % server.transport.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
";

struct Peer {
    process: Child,
    address: String,
}

impl Peer {
    async fn start(how: &'static [&str]) -> Self {
        Self::with(how.iter().map(|word| (*word).to_owned()).collect()).await
    }

    async fn with(how: Vec<String>) -> Self {
        tokio::task::spawn_blocking(move || {
            let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/venv/bin/python");
            assert!(python.exists(), "{} is missing: run tests/setup", python.display());
            let mut python = Command::new(python);
            let mut process = python.args(["-c", SERVER]).args(how).stdout(Stdio::piped()).spawn().unwrap();
            let mut address = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
            Self { process, address: address.trim().to_owned() }
        })
        .await
        .unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Reads a map that the peer refuses a part of, once and then again and again.
async fn is_read(mut line: Line) {
    let template = map("type = \"u16\"\n\
         a_count = { address = 0, function = \"holding\" }\nb_count = { address = 1, function = \"holding\" }\n\
         c_count = { address = 98, function = \"input\" }\nd_count = { address = 99, function = \"input\" }\n\
         e_count = { address = 100, function = \"input\" }\n"
        .to_owned());
    let meter = meter("m", 1, &template, Duration::from_millis(200));
    line.meters = vec![meter.clone()];
    let report = poll_once(&line, &meter, &Clock::system()).await.unwrap();
    let seen: Vec<_> = report.values.iter().map(|polled| (polled.register, polled.value)).collect();
    assert_eq!(seen, [(0, Some(1000.0)), (1, Some(1001.0)), (98, Some(1098.0)), (99, Some(1099.0)), (100, None)]);
    assert_eq!(report.values[4].absent.as_deref(), Some("exception 2 (illegal data address)"));
    let mut plant = Plant::start(vec![line]).await;
    let known = plant.until_meter("m", "answers", |meter| meter.answers > 5).await;
    assert_eq!((known.refused_registers, known.timeouts, known.problem), (vec![100], 0, None));
    plant.end().await;
}

#[tokio::test]
async fn pymodbus_is_read_and_what_it_refuses_is_found() {
    let peer = Peer::start(&["tcp"]).await;
    is_read(line("peer", &peer.address, Vec::new())).await;
}

#[tokio::test]
async fn pymodbus_is_read_by_rtu_over_tcp() {
    let peer = Peer::start(&["rtu"]).await;
    is_read(Line { wire: Wire::RtuOverTcp(peer.address.clone()), ..line("peer", "", Vec::new()) }).await;
}

#[tokio::test]
async fn pymodbus_is_walked_as_a_unit_of_several_sunspec_devices() {
    let image = words_of("solaredge-meter");
    let (first, words) = (image.keys().next().unwrap().to_string(), image.values().collect::<Vec<_>>());
    for how in ["tcp", "rtu"] {
        let peer = Peer::with(vec![how.to_owned(), first.clone(), format!("{words:?}")]).await;
        let wire = if how == "tcp" { Wire::Tcp(peer.address.clone()) } else { Wire::RtuOverTcp(peer.address.clone()) };
        let template = sunspec::shipped("solaredge");
        let meter = MeterConfig { device: 2, ..meter("m", 4, &template, Duration::from_secs(1)) };
        let line = Line { wire, ..line("peer", "", vec![meter.clone()]) };
        let report = poll_once(&line, &meter, &Clock::system()).await.unwrap();
        let value =
            |quantity: &str| report.values.iter().find(|polled| polled.quantity.as_str() == quantity).unwrap().value;
        assert_eq!(report.values.len(), 43);
        // As in the case folder; this is CONS, and the meter has -1500 W for what it imports.
        assert_eq!((value("power_kw"), value("power_l3_kw")), (Some(1.5), Some(0.5)));
        assert_eq!(value("voltage_v"), Some(-109.1));
    }
}

#[tokio::test]
async fn pymodbus_is_read_on_a_serial_line() {
    let (near, far) = (Pty::new(), Pty::new());
    let (port, peer) = (near.port.clone(), Peer::with(vec!["serial".to_owned(), far.port.display().to_string()]));
    let mut tasks = JoinSet::new();
    tasks.spawn(cable(near, far));
    let _peer = peer.await;
    is_read(on_serial("peer", &port, Vec::new())).await;
}

#[tokio::test]
async fn two_serial_lines_with_three_units_each_are_read_at_once() {
    let mut tasks = JoinSet::new();
    let (mut peers, mut lines) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let (near, far) = (Pty::new(), Pty::new());
        let meters = (1..4).map(|unit| meter(&format!("{name}{unit}"), unit, &ten(), Duration::from_millis(100)));
        lines.push(on_serial(name, &near.port, meters.collect()));
        let peer = Peer::with(vec!["serial".to_owned(), far.port.display().to_string()]);
        tasks.spawn(cable(near, far));
        peers.push(peer.await);
    }
    let mut plant = Plant::start(lines).await;
    let status = plant
        .until("answers of all", |status| {
            status.meters.len() == 6 && status.meters.values().all(|meter| meter.answers > 10)
        })
        .await;
    for (id, meter) in &status.meters {
        assert_eq!((meter.condition, meter.timeouts, &meter.problem), (Condition::Answering, 0, &None), "{id}");
    }
    let mut counted = BTreeMap::new();
    for reading in plant.end().await {
        let meter = reading.layout.meter.to_string();
        assert!(is_right(&reading, meter[1..].parse().unwrap()), "{reading:?}");
        *counted.entry(meter).or_insert(0) += 1;
    }
    assert!(counted.len() == 6 && counted.values().all(|readings| *readings > 5), "{counted:?}");
}
