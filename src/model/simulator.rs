//! Simulators: programs that make up a meter's readings, and hand them in by themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Energy, MeterId, OpenBlock, Timestamp};

/// What is known of one simulator. It is a meter of its own, and never one of the config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Simulator {
    pub id: MeterId,
    /// What it calls itself for people.
    pub name: Option<String>,
    /// How far apart its readings are, as it says.
    pub interval_ms: u32,
    /// The energy that one block shall not exceed, in µWh.
    pub peak_target_uwh: Option<i64>,
    /// Kept for those who show it; nothing is sent there.
    pub phone: Option<String>,
    pub created: Timestamp,
    /// When any of this changed.
    pub updated: Timestamp,
    /// When it last handed in anything.
    pub heard: Timestamp,
}

impl Simulator {
    pub fn peak_target(&self) -> Option<Energy> {
        self.peak_target_uwh.map(Energy::from_uwh)
    }
}

/// The simulators, and the number of every meter, which others keep it by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roster {
    pub simulators: BTreeMap<MeterId, Simulator>,
    pub numbers: BTreeMap<MeterId, i64>,
}

/// What a simulator says of itself. Absent is what it does not say: that stays as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Introduction {
    pub id: MeterId,
    pub name: Option<String>,
    pub peak_target: Option<Energy>,
    pub phone: Option<String>,
}

/// One reading of a simulator.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedReading {
    pub id: MeterId,
    pub time: Timestamp,
    pub power_kw: f64,
    pub frequency_hz: Option<f64>,
    /// Until the next reading; as before where it is not told.
    pub interval_ms: Option<u32>,
    /// Somebody looks on, and wants to see the block.
    pub shows: bool,
}

/// A reading that is durable.
#[derive(Clone, Debug)]
pub struct Simulated {
    pub simulator: Simulator,
    /// The number of the reading that is stored for this instant; absent when nobody looks.
    pub seq: Option<u64>,
    /// The block that it lies in, with it, and how many readings there are in it.
    pub block: Option<(OpenBlock, u64)>,
}

/// Why a simulator was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulatorRefused {
    #[error("Invalid simulator payload: \"deviceName\" `{0}` is a meter of this plant: choose another name")]
    IsMeter(MeterId),
    #[error("{0} simulators are known here, and all were heard within ten minutes: stop one, or use its name")]
    Full(usize),
    #[error("Invalid simulator payload: \"timestamp\" {0}")]
    Time(&'static str),
    #[error("The reading could not be stored: {0}")]
    Store(String),
}
