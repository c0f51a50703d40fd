//! Readings: the values of one answer of a meter, and how its raw numbers become quantities.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Category, Digest, MeterId, Number, Quantity, Ratio, Role, Span, Timestamp};

/// What a meter's values mean, fixed for as long as its config and template stay the same. Stored once and named by
/// each reading, so that a reading keeps the ratios under which it was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    pub meter: MeterId,
    pub category: Category,
    /// Polling interval in ms; `None` for a meter that publishes when it likes.
    pub interval_ms: Option<u32>,
    /// SHA-256 of the template that the registers come from.
    pub template: Option<Digest>,
    /// Made up by a simulator.
    pub simulated: bool,
    /// At most 255; a reading names its values by their place here.
    pub slots: Vec<Slot>,
}

/// One value of a layout. `raw × scale` is the value in the unit of `quantity`; direction (category, `invert`, sign
/// conventions of the device) is already in `quantity` and in the sign of `scale`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slot {
    pub quantity: Quantity,
    pub scale: Ratio,
    /// The raw number after which a cumulative register begins again at 0 (2^16, 2^24, 2^32, 100 000 000 …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolls_over_at: Option<u64>,
    /// The raw number is the energy of one interval; absent for a register, and for all that is no energy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// Energy that a source states interval by interval ("so many Wh in these 15 minutes"), and no register. The reading's
/// time is the label that the source gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    /// At most [`Interval::LONGEST_MS`].
    pub ms: u32,
    pub label: Label,
}

/// Which end of its interval a reading's time is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    Start,
    End,
}

impl Interval {
    /// A day. Energy of a longer stretch tells nothing of a block.
    pub const LONGEST_MS: u32 = 86_400_000;

    /// The interval of a reading labelled `time`; `None` for a length that is no interval's.
    pub fn labelled(self, time: Timestamp) -> Option<Span> {
        if self.ms > Self::LONGEST_MS {
            return None;
        }
        let ms = i64::from(self.ms);
        match self.label {
            Label::Start => Span::new(time, time.plus_millis(ms)),
            Label::End => Span::new(time.plus_millis(-ms), time),
        }
    }
}

impl Layout {
    /// The place of the value that has this role in the block rule.
    pub fn slot_of(&self, role: Role) -> Option<u8> {
        self.place(|slot| slot.quantity.role() == Some(role))
    }

    /// The place of `quantity`.
    pub fn slot_named(&self, quantity: &str) -> Option<u8> {
        self.place(|slot| slot.quantity.as_str() == quantity)
    }

    /// Whether any of its values is the energy of an interval.
    pub fn has_intervals(&self) -> bool {
        self.slots.iter().any(|slot| slot.interval.is_some())
    }

    fn place(&self, wanted: impl Fn(&Slot) -> bool) -> Option<u8> {
        self.slots.iter().position(wanted).and_then(|at| u8::try_from(at).ok())
    }
}

/// The values of one answer: `(place in the layout, raw number)`, by place. What was absent is not here.
pub type Values = Box<[(u8, Number)]>;

/// What is known of the clock when a reading was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClockState {
    Synchronised,
    Unsynchronised,
}

/// When something happened, by both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Wall time.
    pub time: Timestamp,
    /// Milliseconds since this boot, suspended time included (CLOCK_BOOTTIME).
    pub since_boot_ms: u64,
    pub clock: ClockState,
}

impl Stamp {
    /// The instant by a device's own clock, which it is trusted to have set: our clock says nothing of it.
    #[must_use]
    pub fn by_device(self, time: Timestamp) -> Self {
        Self { time, clock: ClockState::Synchronised, ..self }
    }
}

/// One answer of a meter, on its way into the store.
#[derive(Clone, Debug)]
pub struct Reading {
    pub layout: Arc<Layout>,
    /// When the answer was complete.
    pub taken: Stamp,
    pub values: Values,
}

/// A reading as the store holds it.
#[derive(Clone, Debug)]
pub struct StoredReading {
    /// Its number in the epoch, never used again.
    pub seq: u64,
    /// The effective time: as taken, or as re-dated.
    pub time: Timestamp,
    pub layout: Arc<Layout>,
    pub values: Values,
    pub clock: ClockState,
    /// Another value for the same quantity and time came first.
    pub conflict: bool,
}

impl StoredReading {
    /// The raw number with this role.
    pub fn raw(&self, role: Role) -> Option<Number> {
        self.at(self.layout.slot_of(role)?)
    }

    /// The raw number at a place of the layout.
    pub fn at(&self, place: u8) -> Option<Number> {
        let at = self.values.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(self.values[at].1)
    }
}

/// Readings of one boot that were taken by our clock before it was right are moved together; those that are marked as
/// synchronised among them, timed by their device, are not. Never an edit: a record that
/// is appended, and read with every reading of that range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redate {
    /// The kernel's boot id.
    pub boot: String,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Added to the time as taken.
    pub offset_ms: i64,
}
