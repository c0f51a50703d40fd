//! Alerts: what a person must know before it is too late.

use serde::{Deserialize, Serialize};

use super::{MeterId, Timestamp};

/// What an alert is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// The open block is about to pass its target.
    TargetAtRisk,
    /// A meter does not answer.
    MeterSilent,
    /// The configuration on disk is bad; the last good one runs.
    ConfigRefused,
    /// The disk is full or away, or the store cannot be written for another reason.
    StoreFull,
    /// The clock leapt; sealing waits.
    ClockUnsteady,
    /// The store went back in time, or lies on other hardware: the log began anew.
    LogBeganAnew,
    /// A meter is another one than before, or is read by another register map, and nobody announced it.
    MeterChanged,
    /// Nothing new is anchored, though it was due.
    AnchorOverdue,
    /// The account that pays for anchors has little left.
    AnchorFundsLow,
    /// Somebody else signs with the key of the anchors.
    AnchorNonceTaken,
    /// A final anchor is not on the chain any more.
    AnchorReorganised,
}

/// One alert, from its cause to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Given by the store; 0 before.
    pub id: i64,
    pub kind: AlertKind,
    pub meter: Option<MeterId>,
    /// Tells one occasion from another: the block's start for `target_at_risk`; the instant it began otherwise. One
    /// alert for each (kind, meter, occasion), whatever restarts.
    pub occasion: Timestamp,
    pub raised: Timestamp,
    pub cleared: Option<Timestamp>,
    /// What happened, where, and what to do: one or two plain sentences.
    pub text: String,
    /// When the webhook took it.
    pub delivered: Option<Timestamp>,
}
