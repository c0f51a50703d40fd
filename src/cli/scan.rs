//! `meterseal scan`: what it says while it looks, and the config it prints at the end.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Done, Failed, complete, print};
use crate::agent::search;
use crate::config;
use crate::model::{FoundUnit, LineName, Parity, RecognisedBy, ScanEvent, ScanOrder, ScanRequest};
use crate::sources::scan;

#[derive(clap::Args)]
pub struct ScanArguments {
    /// A gateway or a meter, reached by Modbus/TCP; port 502 if it names none
    #[arg(value_name = "HOST[:PORT]", required_unless_present = "serial", conflicts_with = "serial")]
    host: Option<String>,
    /// The device server at HOST hands RTU frames on as they are
    #[arg(long, conflicts_with = "serial")]
    rtu: bool,
    /// A serial port of this machine
    #[arg(long, value_name = "DEV")]
    serial: Option<String>,
    /// Baud rate of the serial port; without it the usual settings are tried
    #[arg(long, requires = "serial")]
    baud: Option<u32>,
    /// none, even or odd
    #[arg(long, requires = "baud")]
    parity: Option<Parity>,
    /// 1 or 2
    #[arg(long, value_name = "N", requires = "baud")]
    stop_bits: Option<u8>,
    /// Unit numbers to ask, such as 1-32,100
    #[arg(long, value_name = "UNITS", default_value = "1-247")]
    units: String,
    /// How many milliseconds a unit may take to answer
    #[arg(long, value_name = "MS", default_value_t = ScanOrder::TIMEOUT_MS)]
    timeout: u16,
    /// The config, whose daemon asks between its polls if it reads the same bus; there need not be one
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Print each event as a line of JSON
    #[arg(long)]
    json: bool,
}

pub fn scan(arguments: ScanArguments) -> Done {
    let ScanArguments { host, rtu, serial, baud, parity, stop_bits, units, timeout, config, json } = arguments;
    let (tcp, rtu_over_tcp) = if rtu { (None, host) } else { (host, None) };
    let (units, timeout_ms) = (Some(units), Some(timeout));
    let request = ScanRequest { tcp, rtu_over_tcp, serial, baud, parity, stop_bits, units, timeout_ms };
    let order = ScanOrder::try_from(request).map_err(|bad| Failed::new(bad.to_string()))?;
    let mut seen = Seen { json, terminal: io::stderr().is_terminal(), ..Seen::new(order.clone()) };
    complete(search::for_command(order, &config, |event| seen.take(event)))??;
    seen.end()
}

/// What came so far.
struct Seen {
    json: bool,
    terminal: bool,
    order: ScanOrder,
    line: Option<LineName>,
    found: Vec<FoundUnit>,
    config: Option<String>,
    failed: Option<Failed>,
}

/// On what is no terminal, progress is told after so many units.
const STEP: u16 = 32;

impl Seen {
    fn new(order: ScanOrder) -> Self {
        Self { json: false, terminal: false, order, line: None, found: Vec::new(), config: None, failed: None }
    }

    fn take(&mut self, event: ScanEvent) {
        if self.json {
            print::json_line(&event);
        }
        match event {
            ScanEvent::Begun { order, line } => {
                let way = match &line {
                    Some(line) => format!(", between the polls of line {line}"),
                    None => String::new(),
                };
                self.say(&format!("looking for units {} on {}{way}", order.units, order.bus));
                (self.order, self.line) = (order, line);
            }
            ScanEvent::Note { text } => self.say(&text),
            ScanEvent::Progress { unit, asked, of, found } => {
                let text = format!("unit {unit}: {asked} of {of} asked, {found} found");
                if self.json {
                } else if self.terminal {
                    eprint!("\r\x1b[K{text}");
                } else if asked > 0 && asked % STEP == 0 {
                    eprintln!("{text}");
                }
            }
            ScanEvent::Unit(unit) => {
                self.say(&described(&unit));
                self.found.push(unit);
            }
            ScanEvent::End { config, requests, .. } => {
                self.say(&format!("{} found, {requests} requests", print::counted(self.found.len(), "unit")));
                self.config = Some(config);
            }
            ScanEvent::Failed { why, hint } => self.failed = Some(Failed::new(why).hint(hint)),
        }
    }

    /// A line for a person.
    fn say(&self, text: &str) {
        if !self.json {
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            eprintln!("{clear}{text}");
        }
    }

    fn end(mut self) -> Done {
        if self.terminal && !self.json {
            eprint!("\r\x1b[K");
        }
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let stopped = self.config.is_none();
        if self.found.is_empty() && !stopped {
            let why = format!("no unit of {} answers on {}", self.order.units, self.order.bus);
            return Err(Failed::new(why).hint(search::hint_for_nobody(&self.order.bus)));
        }
        if stopped {
            self.say("stopped; so far:");
        }
        if !self.json {
            let config = self.config.take();
            print::out(&config.unwrap_or_else(|| scan::config(&self.order, self.line.as_ref(), &self.found)));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One unit in one line.
fn described(unit: &FoundUnit) -> String {
    let device = unit.device.map(|device| format!(", device {device}")).unwrap_or_default();
    let number = if unit.under_any_unit { "every unit".to_owned() } else { format!("unit {}", unit.unit) } + &device;
    let Some((best, others)) = unit.candidates.split_first() else {
        return format!("{number}: not recognised; {}", unit.heard.first().map_or("", String::as_str));
    };
    let by = match best.by {
        RecognisedBy::Identity => "it says so itself",
        RecognisedBy::Sunspec => "SunSpec",
        RecognisedBy::Plausibility => "by its values",
    };
    let or: String = others.iter().map(|other| format!(" or {}", other.template)).collect();
    let serial = unit.identity.serial_number.as_ref().map(|number| format!(", serial number {number}"));
    let known = unit.meter.as_ref().map(|meter| format!(", which is meter {meter}"));
    let (serial, known) = (serial.unwrap_or_default(), known.unwrap_or_default());
    format!("{number}: {}{or} ({by}: {}){serial}{known}", best.template, best.reason)
}
