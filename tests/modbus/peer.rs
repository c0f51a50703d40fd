//! The sources against pymodbus, which `tests/setup` installs.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::sources::poll_once;

use crate::plant::{Plant, line, map, meter};

/// Serves 100 registers from 0 on, each holding its address plus 7 (function 03 and 04), on a free port.
const SERVER: &str = r"
import asyncio
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

async def main():
    values = [SimData(0, values=[7 + at for at in range(100)], datatype=DataType.REGISTERS)]
    server = ModbusTcpServer(SimDevice(1, simdata=values), address=('127.0.0.1', 0))
    await server.serve_forever(background=True)
    print(server.transport.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
";

struct Peer {
    process: Child,
    address: String,
}

impl Peer {
    fn start() -> Self {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/venv/bin/python");
        assert!(python.exists(), "{} is missing: run tests/setup", python.display());
        let mut process = Command::new(python).args(["-c", SERVER]).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { process, address: format!("127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test]
async fn pymodbus_is_read_and_what_it_refuses_is_found() {
    let peer = tokio::task::spawn_blocking(Peer::start).await.unwrap();
    let template = map("type = \"u16\"\n\
         a_count = { address = 0, function = \"holding\" }\nb_count = { address = 1, function = \"holding\" }\n\
         c_count = { address = 98, function = \"input\" }\nd_count = { address = 99, function = \"input\" }\n\
         e_count = { address = 100, function = \"input\" }\n"
        .to_owned());
    let meter = meter("m", 1, &template, Duration::from_millis(200));
    let line = line("peer", &peer.address, vec![meter.clone()]);
    let report = poll_once(&line, &meter, &Clock::system()).await.unwrap();
    let seen: Vec<_> = report.values.iter().map(|polled| (polled.register, polled.value)).collect();
    assert_eq!(seen, [(0, Some(7.0)), (1, Some(8.0)), (98, Some(105.0)), (99, Some(106.0)), (100, None)]);
    assert_eq!(report.values[4].absent.as_deref(), Some("exception 2 (illegal data address)"));
    let mut plant = Plant::start(vec![line]).await;
    let known = plant.until_meter("m", "answers", |meter| meter.answers > 5).await;
    assert_eq!((known.refused_registers, known.timeouts, known.problem), (vec![100], 0, None));
    plant.end().await;
}
