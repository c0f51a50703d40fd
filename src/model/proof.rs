//! What a proof is asked to show, and why there is none.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JobId, JobState, MeterId, Span, Timestamp};

/// What is to be shown to somebody who trusts nobody here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Claim {
    /// The bundle with this id is the one that was committed to.
    Dataset { id: JobId },
    /// This row is in that dataset.
    Row { dataset: JobId, row: u64 },
    /// The block that starts then, with its revisions.
    Block { meter: MeterId, start: Timestamp },
    /// Every entry of the meter: nothing was left out.
    Period { meter: MeterId, from: Timestamp, to: Timestamp },
}

/// How a proof is written.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProofForm {
    #[default]
    Json,
    /// C2SP tlog-proof: one entry, in the words of others.
    TlogProof,
}

impl ProofForm {
    /// The form of a file of this name.
    pub fn of_file(name: &str) -> Self {
        if name.ends_with(".tlog-proof") { Self::TlogProof } else { Self::Json }
    }

    /// How files of this form end.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Json => ".proof.json",
            Self::TlogProof => ".tlog-proof",
        }
    }
}

impl Claim {
    /// The meter that it is about.
    pub fn meter(&self) -> Option<&MeterId> {
        match self {
            Self::Block { meter, .. } | Self::Period { meter, .. } => Some(meter),
            Self::Dataset { .. } | Self::Row { .. } => None,
        }
    }

    /// What a file with this proof is called unless somebody says otherwise.
    pub fn file_name(&self, form: ProofForm) -> String {
        // ISO 8601 in its basic form: some file systems take no colons.
        let at = |at: &Timestamp| match jiff::Timestamp::from_millisecond(at.as_millis()) {
            Ok(at) => at.strftime("%Y%m%dT%H%M%SZ").to_string(),
            Err(_) => at.as_millis().to_string(),
        };
        let stem = match self {
            Self::Dataset { id } => id.to_string(),
            Self::Row { dataset, row } => format!("{dataset}-row-{row}"),
            Self::Block { meter, start } => format!("{meter}-{}", at(start)),
            Self::Period { meter, from, to } => format!("{meter}-{}-{}", at(from), at(to)),
        };
        stem + form.ending()
    }
}

/// What is told of a proof beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofTold {
    /// The verifier key that its newest section is signed by.
    pub key: String,
    /// What whoever asked should know.
    pub notes: Vec<String>,
    /// By whom, where all that is claimed is in a block of a chain: several, where account or chain changed meanwhile.
    pub anchored: Vec<AnchoredBy>,
}

/// Who anchored what is proven, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchoredBy {
    pub chain_id: u64,
    pub account: Address,
}

/// Why there is no proof of it, by what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error("meter {0} has no entry in the log: a meter has its first one when it was first heard")]
    NoMeter(MeterId),
    #[error("no block of meter {0} is sealed yet: the first one is, soon after it has ended")]
    NoneSealed(MeterId),
    #[error("no block of meter {meter} starts at {at}: the one that contains it starts at {}", within.start())]
    Within { meter: MeterId, at: Timestamp, within: Span },
    #[error("meter {meter} has no block at {at}: its first one starts at {first}")]
    NoBlock { meter: MeterId, at: Timestamp, first: Timestamp },
    /// `due` when a block of that meter is usually sealed.
    #[error(
        "the block of meter {meter} that contains {at} starts at {start} and is not sealed yet: it is due at {due}"
    )]
    NotSealed { meter: MeterId, at: Timestamp, start: Timestamp, due: Timestamp },
    #[error(
        "a simulator makes up the readings of {0}: its blocks are not in the log, and nothing of them can be proven"
    )]
    Simulated(MeterId),
    #[error("there is no dataset {0} in the log: `meterseal export` tells the id of what it has exported")]
    NoDataset(JobId),
    #[error("the export of dataset {dataset} is {}: a proof can be had when it is done", .state.as_str())]
    NotExported { dataset: JobId, state: JobState },
    #[error("dataset {dataset} has {rows} rows, counted from 0, and none with number {row}")]
    NoRow { dataset: JobId, row: u64, rows: u64 },
    #[error("{0}")]
    BadRequest(String),
    #[error(
        "the bundle of dataset {0} was deleted, by retention or by somebody: a proof of one of its rows needs the bundle \
         itself; whoever has it can prove all of it by the proof of the dataset"
    )]
    Gone(JobId),
    #[error(
        "the gateway was replaced at {at}, and its log begins anew there with another key: ask for what lies before and \
         for what lies after in a proof each"
    )]
    OtherGateway { at: Timestamp },
    #[error(
        "the log began anew under another site or gateway before it was signed that dataset {0} was exported: its bundle \
         names the one before, and cannot be proven. Export it anew"
    )]
    OtherOrigin(JobId),
    /// It is not the caller's fault; the text says what is wrong.
    #[error("{0}")]
    Broken(String),
}
