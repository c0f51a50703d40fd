//! A plant over a real store with the clock set by hand: readings come, blocks are sealed by the block rule, and proofs
//! go to the verifiers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use meterseal::blocks;
use meterseal::clock::Clock;
use meterseal::evidence::dataset::manifest::{PointsQuery, Query, Server};
use meterseal::evidence::dataset::{Heading, Kind, Progress, Slice, Writer};
use meterseal::evidence::log::{Publisher, settle};
use meterseal::evidence::mark::Mark;
use meterseal::evidence::prove::{ProveError, Prover};
use meterseal::evidence::verify::{self, Lack, Report, Trusted, Verdict};
use meterseal::model::entry::Reason;
use meterseal::model::proof::{Claim, ProofForm};
use meterseal::model::{
    Anchor, AnchorState, Anchored, Category, Cause, Commissioning, Digest, FieldValue, JobId, JobProgress, JobRequest,
    Layout, Meter, Number, Origin, Ratio, Reading, Row, Setup, Slot, Stamp, Timestamp, jcs,
};
use meterseal::store::{self, JobEnd, Ledger, Reader, Store, Succession};
use serde_json::{Value, json};

use crate::chain::{Chain, Mined};

/// 2026-11-21T00:00:00Z
pub const T: i64 = 1_795_219_200_000;
pub const MINUTE: i64 = 60_000;
pub const HALF: i64 = 30 * MINUTE;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

pub struct Plant {
    folder: tempfile::TempDir,
    pub clock: Clock,
    store: Store,
    config: blocks::Config,
    layouts: BTreeMap<String, Arc<Layout>>,
    prover: Prover,
}

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(T + ms)
}

/// The meters `m` and `n`, read every minute, and the sum `total` of both.
pub fn plant() -> Plant {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(at(0));
    let limits = limits(folder.path());
    store::init(&limits, &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(limits, clock.clone(), None).unwrap();
    let sum = Origin::Sum { add: vec!["m".parse().unwrap(), "n".parse().unwrap()], subtract: Vec::new() };
    let modbus = |unit| Origin::Modbus { line: "msb".parse().unwrap(), unit, template: "t".into(), verified: true };
    let config = blocks::Config {
        timezone: "Asia/Kuala_Lumpur".into(),
        block_minutes: 30,
        clock_offset_ms: 0,
        peaks: Vec::new(),
        meters: vec![meter("m", modbus(1)), meter("n", modbus(2)), meter("total", sum)],
    };
    let layouts = ["m", "n"].into_iter().map(|id| (id.to_owned(), layout(id))).collect();
    let mark = Mark::at(folder.path().join("mark"));
    let prover = Prover { reader: store.reader(), publisher: Publisher::new(store.ledger(), mark), anchoring: None };
    Plant { folder, clock, store, config, layouts, prover }
}

fn limits(folder: &Path) -> store::Config {
    store::Config {
        path: folder.join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 0,
    }
}

fn meter(id: &str, origin: Origin) -> Meter {
    let is_sum = matches!(origin, Origin::Sum { .. });
    Meter {
        id: id.parse().unwrap(),
        name: id.to_owned(),
        category: Category::Cons,
        origin,
        interval_ms: (!is_sum).then_some(60_000),
        peak_target: None,
        simulated: false,
    }
}

fn layout(meter: &str) -> Arc<Layout> {
    let slot = |name: &str| Slot {
        quantity: name.parse().unwrap(),
        scale: Ratio::parse("0.001").unwrap(),
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: meter.parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(60_000),
        template: None,
        simulated: false,
        slots: vec![slot("power_kw"), slot("energy_import_kwh")],
    })
}

impl Plant {
    pub fn reader(&self) -> Reader {
        self.store.reader()
    }

    /// The meter at 12 kW, read once a minute in `[from, to]`.
    pub async fn run(&self, meter: &str, from: i64, to: i64) {
        let reading = |ms: i64| Reading {
            layout: self.layouts[meter].clone(),
            taken: Stamp { time: at(ms), ..self.clock.stamp() },
            values: Box::new([(0, Number::I64(12_000)), (1, Number::I64(1_000_000 + ms / 300))]),
        };
        let readings: Vec<Reading> = (from..=to).step_by(60_000).map(reading).collect();
        self.store.ingest().store(readings).await.unwrap();
    }

    /// Goes on to `ms` and seals what is due.
    pub async fn until(&self, ms: i64) {
        self.clock.advance_to(at(ms));
        blocks::seal_all_due(&self.config, &self.store.reader(), &self.store.ledger(), &self.clock).await.unwrap();
    }

    /// Both meters run from `from` to `to`, all of it sealed.
    pub async fn day(&self, from: i64, to: i64) {
        for meter in ["m", "n"] {
            self.run(meter, from, to).await;
        }
        self.until(to + 5 * MINUTE).await;
    }

    pub async fn commission(&self, meter: &str) {
        let setup = Setup {
            line: "msb".parse().unwrap(),
            wire: "192.0.2.10:502".into(),
            unit: 1,
            template: Some("t".into()),
            template_sha256: Digest::of(b"t"),
            ct_ratio: Ratio::parse("200/5").unwrap(),
            vt_ratio: Ratio::ONE,
            invert: false,
            category: Category::Cons,
        };
        let record = Commissioning {
            meter: meter.parse().unwrap(),
            since: self.clock.now(),
            setup,
            identity: None,
            cause: Cause::First,
            changes: Vec::new(),
        };
        self.store.ledger().commission(record).await.unwrap();
    }

    /// An export that gave so many rows.
    pub async fn export(&self, rows: i64) -> JobId {
        let (ledger, reader) = (self.store.ledger(), self.reader());
        let (from_ns, to_ns) = (T * 1_000_000, (T + DAY) * 1_000_000);
        let query = json!({"fields": [], "measurement": "energy", "name": "energy", "tags": {}});
        let request = JobRequest { connection: "historian".into(), query, from_ns, to_ns };
        let id = ledger.queue_job(request, meterseal::model::Actor::here("tests")).await.unwrap().unwrap().id;
        let (making, folder) = (reader.making_folder(id), reader.bundle_folder(id));
        let mut writer = Writer::open(&making, Progress::default()).unwrap();
        let mut slice = Slice::new(from_ns, to_ns);
        for n in 0..rows {
            let tags = [("größe".into(), "1\"".into())].into();
            let (measurement, field) = ("energy".into(), "power".into());
            let value = FieldValue::F64(f64::from(i32::try_from(n).unwrap()) / 8.0);
            slice.push(Row { time_ns: from_ns + n * 1_000, measurement, tags, field, value }).unwrap();
        }
        writer.append(&slice.sort().unwrap(), 1).unwrap();
        let connection =
            Server { kind: "influxdb".into(), name: "historian".into(), server_version: "1.6.7".into(), version: 1 };
        let points =
            PointsQuery { fields: vec![], measurement: "energy".into(), name: "energy".into(), tags: [].into() };
        let identity = self.store.identity();
        let heading = Heading {
            id,
            kind: Kind::Points,
            connection,
            query: Query::Points(points),
            from_ns,
            to_ns,
            gateway: identity.gateway.clone(),
            site: identity.site.clone(),
            program: "meterseal 0.1.0".into(),
        };
        let manifest = writer.finish(heading, &folder).unwrap();
        let progress = JobProgress { rows: manifest.rows, bytes: manifest.bytes, position_ns: Some(to_ns) };
        let end = JobEnd::Done { manifest_sha256: manifest.sha256().unwrap(), stored: 1, progress };
        assert!(ledger.end_job(id, end).await.unwrap());
        id
    }

    pub fn ledger(&self) -> Ledger {
        self.store.ledger()
    }

    pub async fn succeed(&self, reason: Reason) {
        let wish = Succession { reason, site: None, last_outside: None, since_open: false };
        self.store.ledger().succeed(wish).await.unwrap();
    }

    /// A backup as it is now.
    pub async fn backup(&self, with_key: bool) -> Vec<u8> {
        let (mut backup, root) = (Vec::new(), limits(self.folder.path()).path);
        let still = self.store.ledger().hold_still().await.unwrap();
        store::write_backup(&root, &still.inventory, with_key, &mut backup, &mut |_, _| true).unwrap();
        backup
    }

    /// Goes on with a backup in the place of its store, as the daemon does at its start.
    pub async fn restored(self, backup: &[u8]) -> Self {
        let Self { folder, clock, store, config, layouts, prover } = self;
        drop(prover);
        store.close().await.unwrap();
        let limits = limits(folder.path());
        store::restore(&limits.path, backup, true, clock.now(), &mut |_, _| true).unwrap();
        let store = Store::open(limits, clock.clone(), None).unwrap();
        let (reader, mark) = (store.reader(), Mark::at(folder.path().join("mark")));
        let site = "plant-7".parse().unwrap();
        // A machine of which nothing is known is no other one.
        let settled = settle(&reader, &store.ledger(), &site, &mark, &folder.path().join("machine")).await.unwrap();
        assert_eq!(settled.succession.map(|succession| succession.reason), Some(Reason::Restore));
        assert!(settled.restored.is_some() && settled.unread.is_none());
        let prover = Prover { reader, publisher: Publisher::new(store.ledger(), mark), anchoring: None };
        Self { folder, clock, store, config, layouts, prover }
    }

    /// Signs and shows all that the log holds.
    pub async fn publish(&self) {
        self.prover.publisher.publish().await.unwrap();
    }

    pub fn prover(&self) -> &Prover {
        &self.prover
    }

    /// Signs what there is, and has it mined on a chain made by hand; the store then has it in this state.
    pub async fn anchor(&self, chain: &mut Chain, state: AnchorState) -> Mined {
        let signed = self.prover.publisher.publish().await.unwrap();
        let (mined, now) = (chain.mine(&signed, self.clock.now()), self.clock.now());
        let epoch = self.store.identity().epoch.clone();
        let what = Anchored::Checkpoint { epoch, size: signed.checkpoint.size, note: signed.note() };
        let anchor = Anchor::queued(what, chain.id, chain.account(), chain.contract, now);
        let id = self.ledger().add_anchor(anchor.clone()).await.unwrap();
        let is_mined = matches!(state, AnchorState::Included | AnchorState::Final | AnchorState::Reorganised);
        let anchor = Anchor {
            id,
            state,
            attempts: vec![mined.attempt.clone()],
            inclusion: is_mined.then(|| mined.inclusion.clone()),
            ..anchor
        };
        self.ledger().save_anchor(anchor, is_mined.then(|| mined.evidence.clone())).await.unwrap();
        mined
    }

    pub async fn try_prove(&self, claim: Claim, form: ProofForm) -> Result<Vec<u8>, ProveError> {
        self.prover.prove(&claim, form).await?.whole().await
    }

    pub async fn prove(&self, claim: Claim) -> Vec<u8> {
        self.try_prove(claim, ProofForm::Json).await.unwrap()
    }

    pub async fn prove_block(&self, meter: &str, start: i64) -> Vec<u8> {
        self.prove(Claim::Block { meter: meter.parse().unwrap(), start: at(start) }).await
    }

    pub async fn prove_period(&self, meter: &str, from: i64, to: i64) -> Vec<u8> {
        self.prove(Claim::Period { meter: meter.parse().unwrap(), from: at(from), to: at(to) }).await
    }

    /// Closes the store and leaves its folder, with a config beside it.
    pub async fn close(self) -> tempfile::TempDir {
        let (folder, store) = (self.folder, self.store);
        let config = format!(
            "[site]\nid = \"plant-7\"\ntimezone = \"Asia/Kuala_Lumpur\"\n[web]\nlisten = \"127.0.0.1:0\"\n\
             [store]\npath = \"{}\"\nreserve = \"1MB\"\n\
             [[modbus]]\nname = \"msb\"\ntcp = \"127.0.0.1:1\"\n[[modbus.meter]]\nid = \"m\"\nunit = 1\n\
             template = \"eastron-sdm630\"\ncategory = \"CONS\"\n",
            folder.path().join("store").display()
        );
        std::fs::write(folder.path().join("meterseal.toml"), config).unwrap();
        store.close().await.unwrap();
        folder
    }

    /// The key of the current epoch.
    pub async fn key(&self) -> String {
        self.reader().epochs().await.unwrap().last().unwrap().key.to_string()
    }

    /// The proof holds: all but that nothing is anchored yet.
    #[track_caller]
    pub fn accepted(&self, bytes: &[u8], key: Option<&str>) {
        let path = self.written("it.proof.json", bytes);
        accepted_file(&path, key);
    }

    /// As [`Self::accepted`], by the verifier of this program alone, which is the quicker one.
    #[track_caller]
    pub fn accepted_by_one(&self, bytes: &[u8], key: Option<&str>) {
        let report = verified(&self.written("it.proof.json", bytes), key);
        assert!(report.refused.is_none(), "{:?}", report.refused);
    }

    #[track_caller]
    pub fn refused(&self, bytes: &[u8], key: Option<&str>) {
        self.refused_by_one(bytes, key);
        let (code, words) = by_python(&self.written("it.proof.json", bytes), key);
        assert_eq!(code, 1, "{words}");
        assert!(words.contains("it.proof.json"), "{words}");
    }

    /// As [`Self::refused`], by the verifier of this program alone, which is the quicker one.
    #[track_caller]
    pub fn refused_by_one(&self, bytes: &[u8], key: Option<&str>) {
        let report = verified(&self.written("it.proof.json", bytes), key);
        assert_eq!(report.verdict(), Verdict::Invalid, "{:?}", report.links);
    }

    pub fn written(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Both verifiers say that it holds, signed by the key that is given; nothing is anchored yet.
#[track_caller]
pub fn accepted_file(path: &Path, key: Option<&str>) {
    let report = verified(path, key);
    let lacks: Vec<&str> = report.lacks.iter().map(|lack| lack.as_str()).collect();
    assert!(report.refused.is_none(), "{:?}", report.refused);
    assert_eq!(report.verdict().exit_code(), 3, "{lacks:?}");
    assert_eq!(report.lacks.contains(&Lack::NoKey), key.is_none(), "{lacks:?}");
    let (code, words) = by_python(path, key);
    assert_eq!(code, 3, "{words}");
    assert_eq!(words.contains("the key you gave"), key.is_some(), "{words}");
}

fn verified(path: &Path, key: Option<&str>) -> Report {
    let trusted = Trusted { key: key.map(|key| key.parse().unwrap()), ..Trusted::default() };
    verified_by(path, &trusted)
}

pub fn verified_by(path: &Path, trusted: &Trusted) -> Report {
    verify::verify(path, trusted, &mut |_| {})
}

fn by_python(path: &Path, key: Option<&str>) -> (i32, String) {
    by_python_with(path, &key.map_or_else(Vec::new, |key| vec!["--key".to_owned(), key.to_owned()]))
}

/// What `tools/verify.py` says of a file, with these options.
pub fn by_python_with(path: &Path, options: &[String]) -> (i32, String) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools/verify.py");
    let said = Command::new("python3").arg(script).arg(path).args(options).output().unwrap();
    let words = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    (said.status.code().unwrap(), words)
}

/// The proof with something changed, written as JCS again.
pub fn changed(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut proof: Value = serde_json::from_slice(bytes).unwrap();
    change(&mut proof);
    jcs::to_vec(&proof).unwrap()
}
