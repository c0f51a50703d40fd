//! Export jobs: what was asked, and how far it is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Digest, Timestamp};

/// A job's name, and its bundle's: a ULID, whose order is that of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
pub struct JobId(u128);

/// Crockford's base32, without I, L, O and U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 26;
/// Below the 48 bits of milliseconds.
const RANDOM_BITS: u32 = 80;

/// Not 26 digits of Crockford's base32 in upper case, or more than 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a job: 26 characters such as 01ARZ3NDEKTSV4RRFFQ69G5FAV")]
pub struct NotAJobId;

impl JobId {
    /// An id made at `now`. It comes after `last` also when that was made in the same millisecond, or by a clock that
    /// has stepped back since.
    pub fn after(last: Option<Self>, now: Timestamp, random: [u8; 10]) -> Self {
        let millis = u128::from(u64::try_from(now.as_millis()).unwrap_or(0) & 0xffff_ffff_ffff);
        let mut bytes = [0; 16];
        bytes[6..].copy_from_slice(&random);
        let fresh = Self(millis << RANDOM_BITS | u128::from_be_bytes(bytes));
        match last {
            Some(last) if last.0 >> RANDOM_BITS >= millis => Self(last.0.wrapping_add(1)),
            _ => fresh,
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = DIGITS[usize::from((rest & 31) as u8)];
            rest >>= 5;
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = NotAJobId;

    fn from_str(text: &str) -> Result<Self, NotAJobId> {
        // 26 digits of 5 bits are 130: the first one has only 3.
        if text.len() != LENGTH || text.as_bytes()[0] > b'7' {
            return Err(NotAJobId);
        }
        text.bytes().try_fold(Self(0), |Self(id), digit| {
            let at = DIGITS.iter().position(|known| *known == digit).ok_or(NotAJobId)?;
            Ok(Self(id << 5 | at as u128))
        })
    }
}

impl TryFrom<String> for JobId {
    type Error = NotAJobId;

    fn try_from(text: String) -> Result<Self, NotAJobId> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

/// What is to be exported: the query whole, so that a later change of the config does not touch the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRequest {
    /// The connection's name in the config, where its address and its token stay.
    pub connection: String,
    /// As the manifest has it.
    pub query: serde_json::Value,
    /// The period `[from, to)` in ns since 1970.
    pub from_ns: i64,
    pub to_ns: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Nothing of it will change any more but its artifact.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    pub rows: u64,
    /// Of the rows as canonical text.
    pub bytes: u64,
    /// All before it is read, ns.
    pub position_ns: Option<i64>,
}

/// An export job as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub request: JobRequest,
    /// The name of the token, or of the user, that asked.
    pub by: String,
    pub state: JobState,
    pub progress: JobProgress,
    /// Why it failed, with the remedy.
    pub error: Option<String>,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub artifact: Option<Artifact>,
}

/// The bundle that a job has made.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    pub manifest_sha256: Digest,
    /// On disk.
    pub bytes: u64,
    /// When somebody first had all of it.
    pub downloaded: Option<Timestamp>,
    /// When it went, by retention or because somebody said so.
    pub deleted: Option<Timestamp>,
}

/// What is told of the jobs that are not over, between two looks at the store.
pub type RunningJobs = BTreeMap<JobId, RunningJob>;

/// How far one is, and why it does not go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunningJob {
    pub progress: JobProgress,
    pub rows_per_s: f64,
    pub seconds_left: Option<u64>,
    /// What it waits for, and what would help.
    pub waiting: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_a_ulid() {
        let id = JobId::after(None, Timestamp::from_millis(1_469_918_176_385), [0xff; 10]);
        assert_eq!(id.to_string(), "01ARYZ6S41ZZZZZZZZZZZZZZZZ");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("7ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse(), Ok(JobId(u128::MAX)));
        for bad in [
            "",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "01aryz6s41zzzzzzzzzzzzzzzz",
            "01ARYZ6S41ZZZZZZZZZZZZZZZU",
            "01ARYZ6S41ZZZZZZZZZZZZZZZ",
            "01ARYZ6S41ZZZZZZZZZZZZZZZZZ",
            "../../../../../../../../..",
        ] {
            assert_eq!(bad.parse::<JobId>(), Err(NotAJobId), "{bad}");
        }
    }

    #[test]
    fn ids_grow_within_a_millisecond_and_when_the_clock_steps_back() {
        let at = |millis: i64| Timestamp::from_millis(millis);
        let first = JobId::after(None, at(1_000), [0xff; 10]);
        let second = JobId::after(Some(first), at(1_000), [0; 10]);
        let third = JobId::after(Some(second), at(10), [0; 10]);
        let fourth = JobId::after(Some(third), at(5_000), [0; 10]);
        let texts = [first, second, third, fourth].map(|id| id.to_string());
        assert!(texts.is_sorted_by(|a, b| a < b), "{texts:?}");
    }

    #[test]
    fn states_read_back() {
        assert!(JobState::ALL.into_iter().all(|state| JobState::named(state.as_str()) == Some(state)));
    }
}
