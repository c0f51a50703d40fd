//! The door to the other side: what every kind of receiver does, and what the engine does about what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::Record;
use crate::model::note::SignedCheckpoint;
use crate::model::{Digest, Position, Stream};
use crate::store::Identity;

/// The other side of one upstream. Dropping it gives up its connection.
pub trait Receiver: Send {
    /// Makes the connection anew and asks what the other side holds of this gateway. Nothing is sent on a connection
    /// before this is done and the engine agrees with what it was told.
    fn open(&mut self, identity: &Identity) -> impl Future<Output = Result<Opened, Fault>> + Send;

    /// Hands over a checkpoint; what the other side holds of its origin from then on. One that holds another than
    /// `old` says so and takes nothing: the engine proves the way from there.
    fn witness(&mut self, checkpoint: &Witness)
    -> impl Future<Output = Result<Option<SignedCheckpoint>, Fault>> + Send;

    /// Hands over records of one stream and epoch, in increasing order of seq.
    fn deliver(&mut self, batch: &Batch) -> impl Future<Output = Answer> + Send;

    /// Whether `open` asks the other side anything: else nothing is known of it before it has taken something.
    fn asks_at_opening(&self) -> bool {
        true
    }

    /// Records that one batch may have.
    fn most(&self, stream: Stream) -> usize;

    /// Whether it tells a record that it has from a new one. What such a one is sent twice is once in effect; of
    /// others the position is saved after each acknowledgement, before anything more is sent.
    fn knows_keys(&self) -> bool;
}

/// Checkpoints of one gateway that are read of the other side: one of each epoch.
pub const NOTES: usize = 1_000;

/// What the other side knows of this gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opened {
    /// The highest checkpoint of each origin of this gateway that it holds; none where it is no witness.
    pub held: Vec<SignedCheckpoint>,
    /// How far it is, where it keeps that itself (PostgreSQL): then it is right, and not the store. Of the current epoch.
    pub positions: BTreeMap<Stream, Position>,
}

/// A checkpoint, and the proof that it goes on from the one that the other side holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Witness {
    pub checkpoint: SignedCheckpoint,
    /// Size of the one of the same origin that the other side holds; 0 for none.
    pub old: u64,
    /// RFC 9162 section 2.1.4; empty where `old` is 0 or its own size.
    pub consistency: Vec<Digest>,
}

/// Records on their way.
#[derive(Clone, Debug)]
pub struct Batch {
    pub identity: Identity,
    /// Of these records; it may have ended.
    pub epoch: String,
    pub stream: Stream,
    /// Never empty; in order of seq.
    pub records: Vec<Record>,
    /// How far the stream is when all of them are acknowledged.
    pub after: Position,
}

/// What became of a batch. For a receiver that takes all or nothing, `taken` is one of these.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// So many of the first records are settled: acknowledged, or in `rejected`. They are never sent again.
    pub taken: usize,
    /// Which of the batch the other side will not have, as it said itself. Some may lie beyond `taken`: those are put
    /// aside, and the rest is sent again without them.
    pub rejected: Vec<Rejected>,
    /// Of those taken, how many it had already.
    pub repeated: u64,
    /// Of those not taken, how many may have arrived all the same, at a receiver that knows no key.
    pub in_doubt: u64,
    /// Of those taken, how many could not be said in its words.
    pub skipped: u64,
    /// Why not all were taken.
    pub fault: Option<Fault>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    pub seq: u64,
    pub why: Rejection,
    /// In the other side's words, for a person.
    pub told: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It has another record under this key.
    Conflict,
    Invalid,
}

/// Why records did not get through, by what the engine does about it. Each is a sentence for a person: what happened,
/// where, and what to do. None bears a secret.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// It does not answer, or broke off: tried again with growing pauses.
    #[error("{0}")]
    Away(String),
    /// It asks for time.
    #[error("{told}")]
    Busy { wait: Duration, told: String },
    /// It refuses us, and a person must act. Told once, and tried again every 15 minutes.
    #[error("{0}")]
    Stopped(String),
    /// The batch is too much at once: it is halved.
    #[error("{0}")]
    TooLarge(String),
    /// Something in the batch cannot be taken: it is halved until the record is found, which becomes a dead letter.
    #[error("{0}")]
    Refused(String),
}
