//! Blocks: one meter's energy over one block period, sealed.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Category, Digest, Energy, Interval, MeterId, Number, Power, Ratio, Role, Span, Timestamp};

/// How a block's energy was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// From the cumulative register.
    Counter,
    /// From power held between readings.
    Power,
    /// From the energy of intervals, as the source states it.
    Interval,
    /// One direction or part in one of these ways, another in another.
    Mixed,
    /// From the blocks of other meters.
    Sum,
}

/// One thing worth knowing of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
pub enum BlockFlag {
    /// Some of the block has no reading near it.
    Gap = 1,
    /// A reading that came after sealing is in it.
    Late = 2,
    /// The register began anew (meter replaced or reset); energy across the reset is not booked.
    Reset = 4,
    /// The register passed its end and began at 0.
    Rollover = 8,
    /// A border value lies far from any reading: split in proportion to time.
    Estimated = 16,
    /// Cut by a zone change.
    Dst = 32,
    /// The clock was not synchronised, or leapt.
    Clock = 64,
    /// Two values came for one quantity and instant; the first counts.
    Conflict = 128,
    /// Made up by a simulator.
    Simulated = 256,
    /// A reading came that is older than the oldest raw kept: kept and counted, not booked.
    LateRejected = 512,
}

impl BlockFlag {
    /// In alphabetical order of their names, as records list them.
    pub const ALL: [Self; 10] = [
        Self::Clock,
        Self::Conflict,
        Self::Dst,
        Self::Estimated,
        Self::Gap,
        Self::Late,
        Self::LateRejected,
        Self::Reset,
        Self::Rollover,
        Self::Simulated,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Late => "late",
            Self::Reset => "reset",
            Self::Rollover => "rollover",
            Self::Estimated => "estimated",
            Self::Dst => "dst",
            Self::Clock => "clock",
            Self::Conflict => "conflict",
            Self::Simulated => "simulated",
            Self::LateRejected => "late_rejected",
        }
    }
}

/// A set of flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlockFlags(u16);

impl BlockFlags {
    pub const NONE: Self = Self(0);

    pub fn has(self, flag: BlockFlag) -> bool {
        self.0 & flag as u16 != 0
    }

    pub fn add(&mut self, flag: BlockFlag) {
        self.0 |= flag as u16;
    }

    #[must_use]
    pub fn with(mut self, flag: BlockFlag) -> Self {
        self.add(flag);
        self
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = BlockFlag> {
        BlockFlag::ALL.into_iter().filter(move |flag| self.has(*flag))
    }

    /// The names, in alphabetical order.
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(BlockFlag::as_str).collect()
    }

    pub fn bits(self) -> u16 {
        self.0
    }

    pub fn from_bits(bits: u16) -> Self {
        Self(bits & BlockFlag::ALL.into_iter().fold(0, |all, flag| all | flag as u16))
    }
}

impl FromIterator<BlockFlag> for BlockFlags {
    fn from_iter<I: IntoIterator<Item = BlockFlag>>(flags: I) -> Self {
        flags.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for BlockFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// One counted reading of one role, carried in the record with the scale it was taken under, so that the block stays
/// recomputable when raw readings are gone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Border {
    pub role: Role,
    pub time: Timestamp,
    pub seq: u64,
    pub raw: Number,
    /// `raw × scale` is the value in kWh or kW.
    pub scale: Ratio,
    /// As [`Slot::rolls_over_at`](super::Slot::rolls_over_at).
    pub rolls_over_at: Option<u64>,
    /// As [`Slot::interval`](super::Slot::interval).
    pub interval: Option<Interval>,
}

impl Border {
    /// What it tells of, where it is the energy of an interval.
    pub fn told(&self) -> Option<Span> {
        self.interval?.labelled(self.time)
    }
}

/// Two readings that follow one another, between which a register did not simply count on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Break {
    pub from: Border,
    pub to: Border,
    /// True: it passed its end, and the difference is energy. False: it began anew, or the source went over from a
    /// register to intervals, and nothing is booked between the two.
    pub rollover: bool,
}

/// The readings that a block's energy stands on. Each list is by role, in the order import, export, power.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Borders {
    /// The last counted reading before the start, and each interval labelled before it that reaches into the block.
    pub before: Vec<Border>,
    /// The first counted reading in the block: registers and intervals only.
    pub first: Vec<Border>,
    /// The last counted reading in the block, and each interval labelled in it that reaches past the end.
    pub last: Vec<Border>,
    /// The first counted reading at or after the end; of intervals, those that reach back into the block.
    pub after: Vec<Border>,
    /// Roll-overs and resets that the block has a part in, by time.
    pub breaks: Vec<Break>,
    /// Readings at the end that do not fit the register and are not yet believed.
    pub pending: Vec<Border>,
}

/// One meter's energy over one span, sealed. Nothing of it is ever overwritten: a change is the next revision.
///
/// `kwh: null` of the API is `import` and `export` both absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub meter: MeterId,
    /// One block period; more than one for a silence longer than a day.
    pub span: Span,
    /// The period's nominal length in ms: what `demand_kw` divides by.
    pub nominal_ms: u32,
    /// 0, then 1, 2 … as readings come late.
    pub revision: u32,
    pub category: Category,
    /// By the import register, or by power in that direction.
    pub import: Option<Energy>,
    pub export: Option<Energy>,
    pub max_power: Option<Power>,
    pub min_power: Option<Power>,
    /// Milliseconds of the span within reach of a next reading.
    pub covered_ms: i64,
    /// Share of the span that is covered, in 1/10 000.
    pub coverage: u16,
    pub method: Method,
    pub is_peak_hour: bool,
    pub flags: BlockFlags,
    pub readings_sha256: Digest,
    /// The readings committed to are those with `seq` up to this one.
    pub through_seq: u64,
    pub borders: Borders,
    /// The zone that gave the borders, an IANA name.
    pub zone: String,
    /// The interval that coverage was judged by, ms.
    pub interval_ms: u32,
    pub template: Option<Digest>,
    /// When it was sealed.
    pub sealed: Timestamp,
}

impl Block {
    /// Import − export for CONS and STOR, export − import for PROD and INJ; a direction that the meter does not have
    /// counts as nothing, `None` when there is no energy at all.
    pub fn net(&self) -> Option<Energy> {
        net(self.category, self.import, self.export)
    }

    /// `kwh_import` ÷ nominal hours, in kW.
    pub fn demand_kw(&self) -> Option<f64> {
        self.import.map(|energy| energy.to_kwh() * 3_600_000.0 / f64::from(self.nominal_ms))
    }

    /// `kwh` ÷ covered hours, in kW; `None` when nothing is covered.
    #[allow(clippy::cast_precision_loss)]
    pub fn avg_kw(&self) -> Option<f64> {
        (self.covered_ms > 0).then_some(())?;
        self.net().map(|energy| energy.to_kwh() * 3_600_000.0 / self.covered_ms as f64)
    }
}

fn net(category: Category, import: Option<Energy>, export: Option<Energy>) -> Option<Energy> {
    if import.is_none() && export.is_none() {
        return None;
    }
    let (import, export) = (import.unwrap_or_default(), export.unwrap_or_default());
    if category.counts_import() { import.checked_sub(export) } else { export.checked_sub(import) }
}

/// The block that is running: what is known of it at `at`.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenBlock {
    pub meter: MeterId,
    pub span: Span,
    pub nominal_ms: u32,
    pub at: Timestamp,
    pub category: Category,
    /// So far.
    pub import: Option<Energy>,
    pub export: Option<Energy>,
    pub max_power: Option<Power>,
    pub min_power: Option<Power>,
    pub covered_ms: i64,
    /// Share of the time that has passed, in 1/10 000.
    pub coverage: u16,
    pub method: Method,
    pub is_peak_hour: bool,
    pub flags: BlockFlags,
    /// Net energy at the end if power stays as it is.
    pub projected: Option<Energy>,
    pub remaining_ms: i64,
    pub peak_target: Option<Energy>,
    /// The load that must go for the rest of the block to meet the target; 0 when none must, `None` without target
    /// or projection.
    pub shed: Option<Power>,
}

impl OpenBlock {
    /// As [`Block::net`].
    pub fn net(&self) -> Option<Energy> {
        net(self.category, self.import, self.export)
    }
}
