//! What a look at the gateway gathers, before anybody judges it. No secret is among it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{Anchor, AnchorStatus, ClockState, Condition, Timestamp, UpstreamsStatus};

/// All that is known when the findings are made.
#[derive(Debug)]
pub struct Facts {
    pub now: Timestamp,
    /// Of this program.
    pub version: String,
    pub daemon: Daemon,
    pub unit: Option<Unit>,
    pub config: ConfigFacts,
    /// Of the config that runs, or would; absent where there is none.
    pub setup: Option<Setup>,
    pub kept: Kept,
    pub upstreams: UpstreamsStatus,
    pub anchors: Anchors,
    pub machine: Machine,
}

/// Who has the store open.
#[derive(Debug)]
pub enum Daemon {
    Running(Box<Live>),
    /// Somebody holds the store, and cannot be asked.
    Mute {
        pid: u32,
        why: String,
    },
    Down,
}

impl Daemon {
    pub fn live(&self) -> Option<&Live> {
        match self {
            Self::Running(live) => Some(live),
            Self::Mute { .. } | Self::Down => None,
        }
    }
}

/// What systemd says of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    pub main_pid: u32,
    /// `active`, `failed`, `inactive` …
    pub active: String,
    /// Of the last end: `success`, `watchdog`, `exit-code`, `signal`, `oom-kill` …
    pub result: String,
    /// The program's exit code at its last end.
    pub exit_code: i32,
    pub restarts: u32,
}

#[derive(Debug, Default)]
pub struct ConfigFacts {
    pub path: PathBuf,
    pub faults: Vec<FaultFacts>,
    /// How many warnings `check` has.
    pub warnings: usize,
    /// While no daemon runs: the store holds a last good config.
    pub last_good: bool,
}

#[derive(Debug, Clone)]
pub struct FaultFacts {
    /// File, line and key.
    pub place: String,
    pub why: String,
    pub mend: String,
}

/// What the daemon tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    pub live: Live,
    pub setup: Setup,
    pub kept: Kept,
    pub upstreams: UpstreamsStatus,
    pub anchors: Anchors,
}

/// What only a running daemon knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Live {
    pub version: String,
    pub pid: u32,
    pub started: Timestamp,
    /// For how long it runs, by the clock that does not leap.
    pub uptime_ms: u64,
    pub clock: ClockState,
    /// One sentence each, with what to do.
    pub problems: Vec<String>,
    pub page: String,
    pub certificate: Option<CertificateFacts>,
    pub meters: Vec<MeterFacts>,
    pub lines: Vec<LineFacts>,
    pub brokers: Vec<LineFacts>,
    /// Bytes that it had written to the device since its start.
    pub written: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateFacts {
    pub self_signed: bool,
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeterFacts {
    pub id: String,
    /// The line or the broker.
    pub on: String,
    /// The unit on a line; none where it publishes by itself.
    pub unit: Option<u8>,
    pub interval_ms: Option<u32>,
    pub condition: Condition,
    pub since: Timestamp,
    pub last_answer: Option<Timestamp>,
    /// The time of its newest value, by its own clock where it has one.
    pub newest: Option<Timestamp>,
    pub problem: Option<String>,
    pub refused: Vec<u16>,
    pub polls: u64,
    pub timeouts: u64,
}

/// A line or a broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LineFacts {
    pub name: String,
    pub connected: bool,
    pub since: Timestamp,
    /// What is wrong; of a broker that is connected and silent as well.
    pub problem: Option<String>,
}

/// What the config says, as far as findings need it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    pub site: String,
    pub timezone: String,
    pub store: PathBuf,
    pub mark: PathBuf,
    pub keep_raw_ms: u64,
    pub max_disk: u64,
    pub reserve: u64,
    pub commit_every_ms: u64,
    pub listen: String,
    /// Of the page; false on loopback without.
    pub tls: bool,
    pub lines: Vec<LineSetup>,
    /// Parts that are turned off, one sentence each.
    pub off: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LineSetup {
    pub name: String,
    /// Of a serial line.
    pub device: Option<PathBuf>,
    /// `HOST:PORT` of any other.
    pub address: Option<String>,
    pub meters: usize,
}

/// What the store holds, by the daemon or by a look of our own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Kept {
    Known(Box<KeptFacts>),
    /// It is not there: nothing can be stored until it is.
    Missing(String),
    /// The daemon takes something up at its next start, and until then nobody looks into it: what.
    Due(String),
    /// It cannot be opened: why, and what to do if that is not for the disk to say.
    Closed {
        why: String,
        mend: Option<String>,
    },
    /// Nobody was asked: no config names it, or who holds it does not answer.
    Unknown,
}

impl Kept {
    pub fn facts(&self) -> Option<&KeptFacts> {
        match self {
            Self::Known(facts) => Some(facts),
            Self::Missing(_) | Self::Due(_) | Self::Closed { .. } | Self::Unknown => None,
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct KeptFacts {
    pub origin: String,
    /// Entries of the log that are signed.
    pub signed: u64,
    pub quick_check: QuickCheck,
    pub quarantined: Vec<String>,
    /// Folders of stores that a restore has set aside.
    pub replaced: Vec<String>,
    pub lost: u64,
    pub raw_bytes: u64,
    pub evidence_bytes: u64,
    pub oldest_raw: Option<Timestamp>,
    pub unwritable: Option<String>,
    pub reserve_used: bool,
    pub open_alerts: u32,
    pub unacknowledged: u32,
    /// The newest of those that are open.
    pub alerts: Vec<String>,
    pub has_pin: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum QuickCheck {
    Good,
    Damaged(String),
    /// The file is too large to read it all while somebody waits.
    #[default]
    TooLarge,
}

/// How anchoring does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Anchors {
    /// The config has no part for it.
    Absent,
    /// It is turned off, and why.
    Off(String),
    Known(Box<AnchorFacts>),
    /// It could not be asked for.
    Unknown(String),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AnchorFacts {
    pub status: AnchorStatus,
    /// What the account holds, in the chain's coin.
    pub balance: Option<String>,
    /// The newest first.
    pub anchors: Vec<Anchor>,
}

/// What the machine says of itself.
#[derive(Debug, Default)]
pub struct Machine {
    /// What the kernel says of the clock, and the greatest error in µs.
    pub clock: Option<(ClockState, i64)>,
    pub has_rtc: bool,
    pub time_service: TimeService,
    pub uptime_ms: u64,
    pub disk: Option<Disk>,
    pub mark: Option<MarkFacts>,
    pub device: Option<Device>,
    pub ports: Vec<PortFacts>,
    pub gateways: Vec<GatewayFacts>,
}

/// What sets the clock here, by what is installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeService {
    Chrony,
    Timesyncd,
    Ntpd,
    #[default]
    None,
}

/// The file system of `store.path`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    pub mounted_at: String,
    pub kind: String,
    pub size: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
    pub read_only: bool,
    /// The length of the file that is set aside.
    pub reserve: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkFacts {
    pub path: PathBuf,
    pub same_disk: bool,
    /// When it was last written: at each new checkpoint.
    pub written: Option<Timestamp>,
}

/// What the store lies on, as far as the kernel tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub bytes: u64,
    /// Written by all programs since the machine started.
    pub written: u64,
    /// An eMMC's own estimates of its two kinds of cells, in tenths of its life: 0x01 is up to 10 % used, 0x0b all of it.
    pub life: Option<[u8; 2]>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortFacts {
    pub line: String,
    pub device: PathBuf,
    pub is_there: bool,
    pub is_port: bool,
    /// The group that may open it.
    pub group: String,
    /// The user that runs the daemon, and whether it may open the port.
    pub user: String,
    pub may_open: bool,
    /// Other programs that have it open: `pid (name)`.
    pub used_by: Vec<String>,
    /// Its name that stays with the adapter.
    pub by_id: Option<PathBuf>,
    /// The adapters that are plugged in.
    pub plugged: Vec<PathBuf>,
    /// What came of opening it, while no daemon runs.
    pub opened: Option<Result<(), String>>,
}

/// What came of connecting to a gateway, while no daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayFacts {
    pub line: String,
    pub address: String,
    pub connected: Result<(), String>,
}
