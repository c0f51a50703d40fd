//! How a line is reached.

use std::fmt;
use std::path::PathBuf;

use crate::model::{Parity, SerialSettings};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Modbus/TCP at `host:port`.
    Tcp(String),
    /// A serial line behind a gateway that hands its frames on as they are, at `host:port`.
    RtuOverTcp(String),
    Serial(Serial),
}

/// A serial port of this machine, with 8 data bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial {
    pub device: PathBuf,
    /// One of [`Serial::BAUDS`].
    pub baud: u32,
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl Serial {
    pub const BAUDS: [u32; 14] = SerialSettings::BAUDS;

    pub fn settings(&self) -> SerialSettings {
        SerialSettings { baud: self.baud, parity: self.parity, stop_bits: self.stop_bits }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::RtuOverTcp(address) => write!(f, "{address} (RTU)"),
            Self::Serial(serial) => write!(f, "{} ({serial})", serial.device.display()),
        }
    }
}

/// As people write it: `9600 8N1`.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings().fmt(f)
    }
}
