//! Searches on serial lines, played by pseudo terminals.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use meterseal::sources::template::Function;
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::tcgetattr;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::pty::{Pty, cable};
use crate::{NOON, pasted, search, shipped, simulation};

/// Meters that have nothing in two places, as registers of a server are what they are however they are read.
const MIXED: [&str; 10] = [
    "eastron-sdm630",
    "schneider-iem3000",
    "abb-b23",
    "abb-a43",
    "janitza-umg604",
    "siemens-7kt1665",
    "socomec-diris-a10",
    "schneider-pm5000",
    "eastron-sdm120",
    "socomec-countis-e24",
];

/// Serves `{unit: [holding registers, input registers]}`, each as `{address: word}`: by RTU on the port named, or by RTU
/// over TCP on a free port, where it answers exception 4 for units that it does not have. It says where, once it does.
const SERVER: &str = r"
import asyncio, json, sys
from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

def blocks(words):
    runs = []
    for address in sorted(int(address) for address in words):
        if runs and runs[-1][0] + len(runs[-1][1]) == address:
            runs[-1][1].append(words[str(address)])
        else:
            runs.append((address, [words[str(address)]]))
    none = [] if runs else [(65000, [0])]
    return [SimData(at, values=values, datatype=DataType.REGISTERS) for at, values in runs + none]

def device(unit, holding, read):
    bits = [SimData(0, values=False, datatype=DataType.BITS)]
    return SimDevice(unit, simdata=(bits, bits, blocks(holding), blocks(read)))

async def main():
    devices = [device(int(unit), *kinds) for unit, kinds in json.loads(sys.argv[1]).items()]
    if len(sys.argv) > 2:
        server = ModbusSerialServer(devices, framer=FramerType.RTU, port=sys.argv[2], baudrate=9600,
                                    ignore_missing_devices=True)
        await server.serve_forever(background=True)
        print(sys.argv[2], flush=True)
    else:
        server = ModbusTcpServer(devices, framer=FramerType.RTU, address=('127.0.0.1', 0))
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
    async fn start(port: Option<String>) -> Self {
        let registers = registers().await.to_string();
        tokio::task::spawn_blocking(move || {
            let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/venv/bin/python");
            assert!(python.exists(), "{} is missing: run tests/setup", python.display());
            let mut python = Command::new(python);
            let python = python.args(["-c", SERVER, &registers]).args(port).stdout(Stdio::piped());
            let mut process = python.spawn().unwrap();
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

/// What simulated meters with these templates hold at noon.
async fn registers() -> serde_json::Value {
    let meters = simulation(MIXED.map(shipped).into()).await.meters();
    let mut units = BTreeMap::new();
    for (index, name) in MIXED.into_iter().enumerate() {
        let mut kinds = [BTreeMap::new(), BTreeMap::new()];
        let template = shipped(name);
        let identity = template.identity.iter().map(|register| (register.function, register.address, register.width()));
        let values =
            template.registers.iter().map(|register| (register.function, register.address, register.kind.width()));
        for (function, address, width) in identity.chain(values) {
            let words = meters.read(index, function, address, width, NOON).unwrap();
            kinds[usize::from(function == Function::Input)].extend((address..).zip(words));
        }
        units.insert(index + 1, kinds);
    }
    json!(units)
}

fn assert_all_found(told: &crate::Told) {
    assert!(told.failed.is_none(), "{told:#?}");
    assert_eq!(told.units.iter().map(|unit| unit.unit).collect::<Vec<_>>(), (1..=10).collect::<Vec<u8>>());
    for (unit, name) in (1..).zip(MIXED) {
        let found = told.unit(unit);
        assert!(found.candidates.iter().any(|candidate| candidate.template == name), "{name}: {found:#?}");
    }
    assert_eq!(pasted(told).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_mixed_meters_are_found_on_a_serial_line() {
    let (near, far) = (Pty::new(), Pty::new());
    let (port, peer) = (near.port.display().to_string(), Peer::start(Some(far.port.display().to_string())));
    let mut tasks = JoinSet::new();
    tasks.spawn(cable(near, far));
    let _peer = peer.await;
    let told = search(json!({ "serial": port, "units": "1-12", "timeout_ms": 200 })).await;
    assert_all_found(&told);
    assert!(told.notes.iter().any(|note| note == "unit 1 answers at 9600 8N1"), "{:?}", told.notes);
    let config = told.config.as_ref().unwrap();
    assert!(
        config.contains(&format!("serial = \"{port}\"\nbaud = 9600\nparity = \"none\"\nstop_bits = 1\n")),
        "{config}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_mixed_meters_are_found_behind_a_device_server_that_hands_rtu_on() {
    let peer = Peer::start(None).await;
    let told = search(json!({ "rtu_over_tcp": peer.address, "units": "1-12", "timeout_ms": 200 })).await;
    assert_all_found(&told);
}

/// A unit that hears only what comes at 38400 Bd, and refuses everything. Pseudo terminals know no parity.
async fn unit_at_38400(pty: Pty, unit: u8) {
    let port = open(&pty.port, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let Pty { mut out, mut into, .. } = pty;
    let mut request = [0; 8];
    while out.read_exact(&mut request).await.is_ok() {
        if tcgetattr(&port).unwrap().output_speed() == 38_400 && request[0] == unit {
            let mut answer = vec![unit, request[1] | 0x80, 2];
            answer.extend(crc(&answer).to_le_bytes());
            into.write_all(&answer).await.unwrap();
        }
    }
}

/// Modbus over serial line 1.02, 6.2.2.
fn crc(bytes: &[u8]) -> u16 {
    let shifted = |crc: u16| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
    bytes.iter().fold(0xFFFF, |crc, byte| (0..8).fold(crc ^ u16::from(*byte), |crc, _| shifted(crc)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_a_serial_line_are_found() {
    let pty = Pty::new();
    let port = pty.port.display().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(unit_at_38400(pty, 3));
    let told = search(json!({ "serial": port, "units": "2-4", "timeout_ms": 60 })).await;
    assert_eq!(told.units.iter().map(|unit| unit.unit).collect::<Vec<_>>(), [3], "{told:#?}");
    assert!(told.notes.contains(&"unit 3 answers at 38400 8N1".to_owned()), "{:?}", told.notes);
    assert_eq!(told.units[0].heard, ["answers every request with exception 2 (illegal data address)"]);
}

#[tokio::test]
async fn a_port_that_is_not_there_is_told_with_what_to_do() {
    let told = search(json!({ "serial": "/dev/no-such-port" })).await;
    let (why, hint) = told.failed.unwrap();
    assert!(why.contains("/dev/no-such-port") && why.contains("is the adapter plugged in"), "{why}");
    assert!(hint.contains("/dev/serial/by-id"), "{hint}");
}
