//! Alerts: what a person must know before it is too late.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MeterId, Timestamp};

/// What an alert is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
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
    /// An upstream refuses us, and a person must act.
    UpstreamStopped,
    /// Readings went before every upstream had them.
    ReadingsLost,
}

impl AlertKind {
    pub const ALL: [Self; 13] = [
        Self::TargetAtRisk,
        Self::MeterSilent,
        Self::MeterChanged,
        Self::UpstreamStopped,
        Self::ReadingsLost,
        Self::AnchorOverdue,
        Self::AnchorFundsLow,
        Self::AnchorNonceTaken,
        Self::AnchorReorganised,
        Self::ConfigRefused,
        Self::ClockUnsteady,
        Self::StoreFull,
        Self::LogBeganAnew,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::TargetAtRisk => "target_at_risk",
            Self::MeterSilent => "meter_silent",
            Self::ConfigRefused => "config_refused",
            Self::StoreFull => "store_full",
            Self::ClockUnsteady => "clock_unsteady",
            Self::LogBeganAnew => "log_began_anew",
            Self::MeterChanged => "meter_changed",
            Self::AnchorOverdue => "anchor_overdue",
            Self::AnchorFundsLow => "anchor_funds_low",
            Self::AnchorNonceTaken => "anchor_nonce_taken",
            Self::AnchorReorganised => "anchor_reorganised",
            Self::UpstreamStopped => "upstream_stopped",
            Self::ReadingsLost => "readings_lost",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether it may be switched off. What tells that readings or evidence are lost, or soon will be, may not.
    pub fn may_be_off(self) -> bool {
        !matches!(self, Self::StoreFull | Self::LogBeganAnew | Self::ReadingsLost)
    }
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
    /// When somebody said that it is seen to, and who.
    #[serde(default)]
    pub acknowledged: Option<Timestamp>,
    #[serde(default)]
    pub acknowledged_by: Option<String>,
}

impl Alert {
    /// One that is to be raised now.
    pub fn new(kind: AlertKind, meter: Option<MeterId>, occasion: Timestamp, now: Timestamp, text: String) -> Self {
        Self {
            id: 0,
            kind,
            meter,
            occasion,
            raised: now,
            cleared: None,
            text,
            delivered: None,
            acknowledged: None,
            acknowledged_by: None,
        }
    }
}
