//! What the daemon takes on a gateway: `cargo bench --bench gateway [-- MINUTES]`. The program itself reads 100
//! simulated meters of 1 s through ten connections and stores them; its memory, processor time and written bytes are
//! those that the kernel counts for it. Beside it, in the same run, the meters' own process, which stores nothing.
//! What is written must lie on a disk: the store is made in the folder from which this is started. METERSEAL_BIN names
//! another program to be measured, such as one that was released.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be set up fails")]
#![allow(clippy::cast_precision_loss, reason = "figures for a person")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const METERS: usize = 100;
const METERS_A_LINE: usize = 10;
/// Opening connections and the first commits belong to a start, not to the years after it.
const SETTLE: Duration = Duration::from_secs(20);
const DEFAULT_MINUTES: u64 = 5;
/// As proc(5) tells times, whatever the kernel's own tick (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    let minutes = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(DEFAULT_MINUTES);
    let folder = tempfile::tempdir_in(".").unwrap();
    let meters = Running::start(&["simulate", "--listen", "127.0.0.1:0", "--meters", &METERS.to_string()]);
    let (meters, config) = meters.config();
    let file = folder.path().join("meterseal.toml");
    std::fs::write(&file, plant(folder.path(), &config)).unwrap();

    let made = Command::new(program()).args(["init", "-c"]).arg(&file).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let token = made.split("token:").nth(1).unwrap().split_whitespace().next().unwrap();
    let daemon = Running::start(&["run", "-c", file.to_str().unwrap()]);
    let (daemon, page) = daemon.page();

    std::thread::sleep(SETTLE);
    let stored = || metric(&page, token, "meterseal_store_readings_total");
    let (began, before, meters_before, stored_before) = (Instant::now(), daemon.look(), meters.look(), stored());
    for minute in 1..=minutes {
        std::thread::sleep(Duration::from_secs(60 * minute).saturating_sub(began.elapsed()));
        let (now, past) = (daemon.look(), began.elapsed().as_secs_f64());
        println!(
            "after {minute:>3} min: resident {:.1} MiB (peak {:.1}; less than 40), {:.2} % of one core (less than 10), \
             {:.2} GB written a day; the meters themselves {:.2} %",
            now.resident as f64 / 1_048_576.0,
            now.peak as f64 / 1_048_576.0,
            share(&before, &now, past),
            now.written.saturating_sub(before.written) as f64 / past * 86_400.0 / 1e9,
            share(&meters_before, &meters.look(), past),
        );
    }
    let past = began.elapsed().as_secs_f64();
    println!(
        "{:.0} readings stored a second; the metric forecasts {:.2} GB written a day",
        (stored() - stored_before) / past,
        metric(&page, token, "meterseal_store_written_gigabytes_per_day"),
    );
}

fn program() -> std::ffi::OsString {
    std::env::var_os("METERSEAL_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_meterseal").into())
}

/// A config with the simulated meters, ten to a line, as meters like any other.
fn plant(folder: &Path, simulated: &str) -> String {
    let mut parts = simulated.split("[[modbus.meter]]");
    let address = parts.next().unwrap().lines().find(|line| line.starts_with("tcp = ")).unwrap();
    let meters: Vec<_> = parts.collect();
    assert_eq!(meters.len(), METERS);
    let store = folder.join("store");
    let mut text = format!(
        "[site]\nid = \"bench\"\ntimezone = \"UTC\"\n[store]\npath = \"{}\"\n[web]\nlisten = \"127.0.0.1:0\"\n",
        store.display()
    );
    for (number, of_line) in meters.chunks(METERS_A_LINE).enumerate() {
        text.push_str(&format!("[[modbus]]\nname = \"line-{number}\"\n{address}\n"));
        of_line.iter().for_each(|meter| text.push_str(&format!("[[modbus.meter]]{meter}")));
    }
    text
}

fn share(before: &Look, now: &Look, past: f64) -> f64 {
    now.ticks.saturating_sub(before.ticks) as f64 / TICKS_PER_SECOND / past * 100.0
}

/// What `/metrics` tells.
fn metric(page: &str, token: &str, name: &str) -> f64 {
    let mut stream = TcpStream::connect(page).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {page}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
}

/// What the kernel counts for a process (proc(5)).
struct Look {
    /// Bytes.
    resident: u64,
    /// Bytes.
    peak: u64,
    /// User and system time in clock ticks.
    ticks: u64,
    /// Bytes that it caused to be written to the device.
    written: u64,
}

struct Running {
    process: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        let mut process = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let lines: Box<dyn Iterator<Item = String>> = match arguments[0] {
            "run" => Box::new(BufReader::new(err).lines().map(Result::unwrap)),
            _ => Box::new(BufReader::new(out).lines().map(Result::unwrap)),
        };
        Self { process, lines }
    }

    /// What `simulate` prints: the config of its meters.
    fn config(mut self) -> (Self, String) {
        let (mut text, mut meters) = (String::new(), 0);
        while meters < METERS || !text.ends_with("\"1s\"\n") {
            let line = self.lines.next().expect("the meters ended");
            meters += usize::from(line == "[[modbus.meter]]");
            text.push_str(&line);
            text.push('\n');
        }
        (self, text)
    }

    /// Where the daemon says that its page is.
    fn page(mut self) -> (Self, String) {
        loop {
            let line = self.lines.next().expect("the daemon ended");
            let Some((_, page)) = line.split_once("http://") else { continue };
            let address = page.split(['/', '"', ' ']).next().unwrap().to_owned();
            return (self, address);
        }
    }

    fn look(&self) -> Look {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.process.id())).unwrap();
        let (status, io, stat) = (file("status"), file("io"), file("stat"));
        let number = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        // The name in the second field may hold spaces; user and system time are the 14th and 15th.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        Look {
            resident: number(&status, "VmRSS:") * 1_024,
            peak: number(&status, "VmHWM:") * 1_024,
            ticks: fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap(),
            written: number(&io, "write_bytes:"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
