//! The words all rooms share: plain values, no I/O, no tokio.

mod actor;
pub mod address;
mod alert;
mod anchor;
mod bad_tls;
mod block;
pub mod calendar;
mod causes;
mod commissioning;
pub mod decimal;
mod digest;
pub mod entry;
mod export;
mod id;
mod identity;
pub mod jcs;
mod job;
mod made;
pub mod merkle;
mod meter;
mod nearest;
pub mod note;
mod number;
pub mod proof;
mod quantity;
mod reading;
mod recompute;
pub mod record;
mod row;
mod scan;
mod simulator;
pub mod tar;
mod time;
mod told;
mod upstream;

pub use actor::Actor;
pub use alert::{Alert, AlertKind};
pub use anchor::{
    Anchor, AnchorOrder, AnchorRefused, AnchorState, AnchorStatus, Anchored, Attempt, ChainEvidence, Coverage, Failed,
    GivenUp, Inclusion, RpcStatus, WaitReason, Waiting,
};
pub use bad_tls::{BadTls, TlsFile};
pub use block::{Block, BlockFlag, BlockFlags, Border, Borders, Break, Method, OpenBlock};
pub use calendar::PeakWindow;
pub use causes::{causes, unreached};
pub use commissioning::{Cause, Change, Commissioning, Part, Setup};
pub use digest::{Digest, NotHex};
pub use export::{ExportEvent, ExportListed, ExportOrder, ExportRefused, instant_ns, written_ns};
pub use id::{BadId, LineName, MeterId, SiteId, UpstreamName};
pub use identity::Identity;
pub use job::{Artifact, Job, JobId, JobProgress, JobRequest, JobState, NotAJobId, RunningJob, RunningJobs};
pub use made::{Made, MadeKind};
pub use meter::{
    BrokerStatus, Category, Condition, LineStatus, MalformedMessage, Meter, MeterStatus, Origin, PollReport,
    PolledValue, Proposal, SourcesStatus,
};
pub use nearest::nearest;
pub use number::{Energy, Number, Power, Ratio};
pub use quantity::{BadQuantity, Quantity, Role, Unit};
pub use reading::{ClockState, Interval, Label, Layout, Reading, Redate, Slot, Stamp, StoredReading, Values};
pub use recompute::{
    BadReadings, FASTEST_UWH_PER_MS, JITTER_UWH, RawReading, Recomputed, Repeated, jitter_uwh, most_uwh, part_before,
    part_within,
};
pub use row::{Cell, FieldType, FieldValue, ResultRow, Row, Tags};
pub use scan::{
    BadOrder, Bus, Candidate, FoundUnit, Parity, RecognisedBy, ScanEvent, ScanOrder, ScanRequest, SerialSettings, Units,
};
pub use simulator::{Introduction, Roster, Simulated, SimulatedReading, Simulator, SimulatorRefused};
pub use time::{Span, Timestamp};
pub use told::told;
pub use upstream::{
    DeadLetter, Event, LoggedBlock, NewDeadLetter, Position, Stream, StreamStatus, TakenReading, Unsent, UpstreamOrder,
    UpstreamRefused, UpstreamState, UpstreamStatus, UpstreamsStatus,
};
