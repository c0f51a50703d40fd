//! A search for meters on one bus: what is asked for, and what is told while it goes on and at its end.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Identity, LineName, MeterId};

/// Where to look, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ScanRequest", into = "ScanRequest")]
pub struct ScanOrder {
    pub bus: Bus,
    pub units: Units,
    /// How long a unit may take to answer.
    pub timeout_ms: u16,
}

/// One connection to look through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Modbus/TCP at `host:port`.
    Tcp(String),
    /// RTU frames at `host:port`.
    RtuOverTcp(String),
    /// A serial port of this machine; without settings the usual ones are tried.
    Serial { device: String, settings: Option<SerialSettings> },
}

/// A serial port's settings; data bits are 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialSettings {
    pub baud: u32,
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// Unit numbers to ask, in ascending order, each once. Written as `1-32,100`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units(Vec<u8>);

/// Why a search cannot be made as it was asked for; the text names the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct BadOrder {
    pub key: &'static str,
    pub why: String,
}

/// What is told while a search goes on; `End` or `Failed` is the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ScanEvent {
    /// How it is asked: with the settings that are taken for a serial port. `line` is the line of the running config
    /// that has this bus, between whose polls the questions go.
    Begun {
        #[serde(flatten)]
        #[schema(value_type = ScanRequest)]
        order: ScanOrder,
        line: Option<LineName>,
    },
    /// Something that a person should know.
    Note {
        text: String,
    },
    /// `unit` is asked next; of `of` units `asked` are done.
    Progress {
        unit: u8,
        asked: u16,
        of: u16,
        found: u16,
    },
    Unit(FoundUnit),
    End {
        found: u16,
        requests: u32,
        config: String,
    },
    Failed {
        why: String,
        hint: String,
    },
}

/// A unit that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FoundUnit {
    pub unit: u8,
    /// Which of several SunSpec devices behind this unit it is, from 1.
    pub device: Option<u8>,
    /// The template that fits best, or several that fit alike; none for a unit that was not recognised.
    pub candidates: Vec<Candidate>,
    pub identity: Identity,
    /// What it answered, for a person; of units that were not recognised.
    pub heard: Vec<String>,
    /// It answers so under every unit number.
    pub under_any_unit: bool,
    /// The meter of the running config that stands there.
    pub meter: Option<MeterId>,
    /// About how long one poll of it takes on this bus.
    pub poll_ms: u32,
}

/// A template that fits a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    pub template: String,
    pub title: String,
    pub verified: bool,
    pub by: RecognisedBy,
    /// For a person.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecognisedBy {
    /// It says what it is.
    Identity,
    Sunspec,
    /// Its values look like voltage and frequency.
    Plausibility,
}

impl ScanOrder {
    pub const TIMEOUT_MS: u16 = 300;
    pub const TIMEOUTS_MS: RangeInclusive<u16> = 20..=5_000;
}

impl SerialSettings {
    /// The rates that every port driver knows by name.
    pub const BAUDS: [u32; 14] =
        [300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115_200, 230_400, 460_800, 921_600];
}

/// Those above it are reserved on a serial line.
const LAST_UNIT: u8 = 247;

/// Modbus/TCP's own.
const PORT: u16 = 502;

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::RtuOverTcp(address) => write!(f, "{address} (RTU)"),
            Self::Serial { device, settings: None } => f.write_str(device),
            Self::Serial { device, settings: Some(settings) } => write!(f, "{device} ({settings})"),
        }
    }
}

/// As people write it: `9600 8N1`.
impl fmt::Display for SerialSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{} 8{parity}{}", self.baud, self.stop_bits)
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Even => "even",
            Self::Odd => "odd",
        })
    }
}

impl FromStr for Parity {
    type Err = BadOrder;

    fn from_str(text: &str) -> Result<Self, BadOrder> {
        match text {
            "none" => Ok(Self::None),
            "even" => Ok(Self::Even),
            "odd" => Ok(Self::Odd),
            _ => Err(BadOrder { key: "parity", why: "is none of none, even, odd".to_owned() }),
        }
    }
}

impl Units {
    /// Those that a device may have (Modbus over serial line 1.02, 2.2).
    pub fn all() -> Self {
        Self((1..=LAST_UNIT).collect())
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Units {
    fn from(units: &[u8]) -> Self {
        let mut units = units.to_vec();
        units.sort_unstable();
        units.dedup();
        Self(units)
    }
}

impl FromStr for Units {
    type Err = BadOrder;

    fn from_str(text: &str) -> Result<Self, BadOrder> {
        let bad = |part: &str| {
            let part = part.chars().take(20).collect::<String>();
            BadOrder {
                key: "units",
                why: format!("`{}` is no unit, nor a range of units, from 1 to 255", part.escape_debug()),
            }
        };
        let mut units = Vec::new();
        for part in text.split(',').map(str::trim) {
            let number = |text: &str| text.trim().parse::<u8>().ok().filter(|unit| *unit > 0);
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            match (number(from), number(to)) {
                (Some(from), Some(to)) if from <= to => units.extend(from..=to),
                _ => return Err(bad(part)),
            }
        }
        Ok(Self::from(units.as_slice()))
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, run) in self.0.chunk_by(|one, next| one + 1 == *next).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// An order as it is written: in the API, on the command line, and to the daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScanRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtu_over_tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baud: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_bits: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u16>,
}

impl TryFrom<ScanRequest> for ScanOrder {
    type Error = BadOrder;

    fn try_from(request: ScanRequest) -> Result<Self, BadOrder> {
        let ScanRequest { tcp, rtu_over_tcp, serial, baud, parity, stop_bits, units, timeout_ms } = request;
        let bad = |key: &'static str, why: &str| Err(BadOrder { key, why: why.to_owned() });
        let settings = match (baud, parity, stop_bits) {
            (None, None, None) => None,
            (None, ..) => return bad("baud", "is missing beside parity or stop_bits"),
            (Some(baud), ..) if !SerialSettings::BAUDS.contains(&baud) => {
                return bad("baud", "is none of 300, 600, 1200, 1800, 2400, 4800, 9600, 19200 … 921600");
            }
            (.., Some(0 | 3..)) => return bad("stop_bits", "is neither 1 nor 2"),
            (Some(baud), parity, stop_bits) => {
                Some(SerialSettings { baud, parity: parity.unwrap_or(Parity::None), stop_bits: stop_bits.unwrap_or(1) })
            }
        };
        let bus = match (tcp, rtu_over_tcp, serial) {
            (Some(_), None, None) | (None, Some(_), None) if settings.is_some() => {
                return bad("baud", "is of a serial port only");
            }
            (Some(address), None, None) => Bus::Tcp(host_and_port("tcp", &address)?),
            (None, Some(address), None) => Bus::RtuOverTcp(host_and_port("rtu_over_tcp", &address)?),
            (None, None, Some(device)) => {
                if !device.starts_with('/') || device.len() > 255 || device.chars().any(char::is_control) {
                    return bad("serial", "is no device such as /dev/ttyUSB0");
                }
                Bus::Serial { device, settings }
            }
            _ => return bad("tcp", "give one of tcp, rtu_over_tcp and serial"),
        };
        let timeout_ms = timeout_ms.unwrap_or(Self::TIMEOUT_MS);
        if !Self::TIMEOUTS_MS.contains(&timeout_ms) {
            return bad("timeout_ms", "is not 20 to 5000");
        }
        let units: Units = units.map_or_else(|| Ok(Units::all()), |units| units.parse())?;
        if !matches!(bus, Bus::Tcp(_))
            && let Some(beyond) = units.0.iter().find(|unit| **unit > LAST_UNIT)
        {
            return bad("units", &format!("{beyond} is no unit on a serial line: units there are 1 to {LAST_UNIT}"));
        }
        Ok(Self { bus, units, timeout_ms })
    }
}

impl From<ScanOrder> for ScanRequest {
    fn from(order: ScanOrder) -> Self {
        let common =
            Self { units: Some(order.units.to_string()), timeout_ms: Some(order.timeout_ms), ..Self::default() };
        match order.bus {
            Bus::Tcp(address) => Self { tcp: Some(address), ..common },
            Bus::RtuOverTcp(address) => Self { rtu_over_tcp: Some(address), ..common },
            Bus::Serial { device, settings } => Self {
                serial: Some(device),
                baud: settings.map(|settings| settings.baud),
                parity: settings.map(|settings| settings.parity),
                stop_bits: settings.map(|settings| settings.stop_bits),
                ..common
            },
        }
    }
}

/// `text` as `host:port`, with Modbus's own port where it names none.
fn host_and_port(key: &'static str, text: &str) -> Result<String, BadOrder> {
    let bad = || BadOrder { key, why: format!("`{}` is no HOST or HOST:PORT", text.escape_debug()) };
    let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        _ if is_v6(text) => (format!("[{text}]"), PORT),
        Some((host, port)) if !text.ends_with(']') => (host.to_owned(), port.parse().map_err(|_| bad())?),
        _ => (text.to_owned(), PORT),
    };
    let formed = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => is_v6(v6),
        None => {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            (1..=253).contains(&host.len()) && host.bytes().all(allowed)
        }
    };
    if formed && port != 0 { Ok(format!("{host}:{port}")) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn order(value: serde_json::Value) -> Result<ScanOrder, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn units_are_written_as_ranges() {
        let units: Units = "100, 1-32,5,247".parse().unwrap();
        assert_eq!((units.as_slice().len(), units.to_string().as_str()), (34, "1-32,100,247"));
        assert_eq!(Units::all().to_string(), "1-247");
        for bad in ["", "0", "256", "5-1", "a", "1-", "1,,2", "1-2-3"] {
            assert!(bad.parse::<Units>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_order_survives_being_written() {
        for value in [
            json!({ "tcp": "192.0.2.10" }),
            json!({ "rtu_over_tcp": "[2001:db8::1]:4001", "units": "1-3" }),
            json!({ "serial": "/dev/ttyUSB0" }),
            json!({ "tcp": "192.0.2.10:502", "units": "1,255" }),
            json!({ "serial": "/dev/ttyUSB0", "baud": 19200, "parity": "even", "timeout_ms": 1000 }),
        ] {
            let read = order(value).unwrap();
            let written = serde_json::to_value(&read).unwrap();
            assert_eq!(order(written), Ok(read));
        }
    }

    #[test]
    fn a_wrong_order_is_refused_with_its_key() {
        for (value, key) in [
            (json!({}), "tcp"),
            (json!({ "tcp": "a", "serial": "/dev/x" }), "tcp"),
            (json!({ "tcp": "a b" }), "tcp"),
            (json!({ "tcp": "a:0" }), "tcp"),
            (json!({ "tcp": "a:70000" }), "tcp"),
            (json!({ "rtu_over_tcp": "" }), "rtu_over_tcp"),
            (json!({ "serial": "ttyUSB0" }), "serial"),
            (json!({ "serial": "/dev/x", "baud": 1 }), "baud"),
            (json!({ "serial": "/dev/x", "parity": "even" }), "baud"),
            (json!({ "serial": "/dev/x", "baud": 9600, "stop_bits": 3 }), "stop_bits"),
            (json!({ "tcp": "a", "baud": 9600 }), "baud"),
            (json!({ "tcp": "a", "units": "0-3" }), "units"),
            (json!({ "serial": "/dev/x", "units": "240-250" }), "units"),
            (json!({ "rtu_over_tcp": "a", "units": "248" }), "units"),
            (json!({ "tcp": "a", "timeout_ms": 1 }), "timeout_ms"),
            (json!({ "tcp": "a", "host": "b" }), "host"),
        ] {
            let refused = order(value.clone()).unwrap_err();
            assert!(refused.contains(key), "{value}: {refused}");
        }
    }

    #[test]
    fn an_address_without_a_port_gets_modbus_own() {
        let of = |text: &str| host_and_port("tcp", text).unwrap();
        assert_eq!((of("plc"), of("plc:1502")), ("plc:502".into(), "plc:1502".into()));
        assert_eq!(
            (of("::1"), of("[::1]"), of("[::1]:5020")),
            ("[::1]:502".into(), "[::1]:502".into(), "[::1]:5020".into())
        );
    }
}
