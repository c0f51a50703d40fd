//! Keeps a record of which meter stands behind each id and how it is set up, and tells a person when that changes
//! without anybody having said so.
//!
//! A record is made durable before its alert. A crash between the two loses no alert: the record says that it is a
//! change nobody announced, and an alert of each such record is raised once, whatever restarts.

mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::model::{
    Alert, AlertKind, Cause, ClockState, Commissioning, Meter, MeterId, MeterStatus, SourcesStatus, Stamp, Timestamp,
};
use crate::store::{Ledger, Reader, StoreError};
use rule::Told;

/// What the records are made from.
pub struct Views {
    pub meters: watch::Receiver<Arc<Vec<Meter>>>,
    pub sources: watch::Receiver<Arc<SourcesStatus>>,
}

/// While the clock is not synchronised, records wait for so long. One that bears the time of a clock that stands years
/// behind, as after a power cut, would be an old story once the clock is right, and its alert over as soon as raised.
const PATIENCE_MS: u64 = 5 * 60_000;
/// The pause between looks when nothing changes.
const LOOK: Duration = Duration::from_secs(60);
/// So many records of each meter are judged; older ones stay in the store.
const RECORDS: usize = 32;
/// Alerts that stand, at most.
const STANDING: usize = 10_000;

/// Looks whenever the sources tell something, until stopped.
pub async fn run(
    mut views: Views,
    reader: Reader,
    ledger: Ledger,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let mut records = Records::new(reader, ledger, clock.clone());
    let mut has_failed = false;
    let begun_ms = clock.since_boot_ms();
    loop {
        let (meters, sources) = (views.meters.borrow().clone(), views.sources.borrow_and_update().clone());
        match records.look_in_time(&meters, &sources, begun_ms).await {
            Ok(()) => has_failed = false,
            // The store tells of its trouble itself; what could not be kept is found again at the next look.
            Err(error) if error.may_pass() => {
                if !std::mem::replace(&mut has_failed, true) {
                    warn!(%error, "a commissioning record waits until the store can be used again");
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Ok(()) = views.sources.changed() => {}
            () = clock.sleep(LOOK) => {}
        }
    }
}

struct Records {
    reader: Reader,
    ledger: Ledger,
    clock: Clock,
    /// The newest records of each meter that was seen, the oldest first.
    known: BTreeMap<MeterId, Vec<Commissioning>>,
    /// The changes that the store has an alert for already, over or not.
    told: BTreeSet<(MeterId, Timestamp)>,
    /// This room's alerts that are not over; `None` until they are read.
    open: Option<Vec<Alert>>,
    /// It was said that records wait for the clock.
    waits: bool,
}

impl Records {
    fn new(reader: Reader, ledger: Ledger, clock: Clock) -> Self {
        Self { reader, ledger, clock, known: BTreeMap::new(), told: BTreeSet::new(), open: None, waits: false }
    }

    /// Looks, once the clock can be believed or has been waited for long enough.
    async fn look_in_time(
        &mut self,
        meters: &[Meter],
        sources: &SourcesStatus,
        begun_ms: u64,
    ) -> Result<(), StoreError> {
        let Stamp { since_boot_ms, clock, .. } = self.clock.stamp();
        if clock != ClockState::Synchronised && since_boot_ms.saturating_sub(begun_ms) < PATIENCE_MS {
            let are_due = sources.meters.values().any(|meter| meter.setup.is_some());
            if are_due && !std::mem::replace(&mut self.waits, true) {
                let minutes = PATIENCE_MS / 60_000;
                info!(
                    "the clock is not synchronised: commissioning records of meters wait for it, {minutes} min at most"
                );
            }
            return Ok(());
        }
        self.look(meters, sources).await
    }

    /// Makes the records that are due, and tells of those that a person must hear of.
    async fn look(&mut self, meters: &[Meter], sources: &SourcesStatus) -> Result<(), StoreError> {
        for (meter, status) in &sources.meters {
            self.record(meter, status).await?;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let mut open = self.reader.alerts(true, STANDING).await?;
                open.retain(|alert| alert.kind == AlertKind::MeterChanged);
                open
            }
        };
        // Where the store fails, what stands is read from it again.
        self.open = Some(self.tell(meters, open).await?);
        Ok(())
    }

    /// Makes a meter's next record, if there is something new to be said of it.
    async fn record(&mut self, meter: &MeterId, status: &MeterStatus) -> Result<(), StoreError> {
        let Some(setup) = status.setup.as_deref() else { return Ok(()) };
        let records = match self.known.get_mut(meter) {
            Some(records) => records,
            None => {
                let stored = self.reader.commissionings(meter, RECORDS).await?;
                self.known.entry(meter.clone()).or_insert(stored)
            }
        };
        let told = Told { meter, setup, heard: status.last_answer.is_some(), identity: status.identity.as_ref() };
        let Some(record) = rule::next(records, &told, self.clock.now()) else { return Ok(()) };
        self.ledger.commission(record.clone()).await?;
        let changes: Vec<_> = record.changes.iter().map(|change| change.what.to_string()).collect();
        if record.cause == Cause::Changed {
            warn!(%meter, ?changes, "the meter changed, and nobody said so");
        } else {
            info!(%meter, cause = ?record.cause, ?changes, "commissioning record");
        }
        records.push(record);
        if records.len() > RECORDS {
            records.remove(0);
        }
        Ok(())
    }

    /// Raises what stands and clears what is over.
    async fn tell(&mut self, meters: &[Meter], mut open: Vec<Alert>) -> Result<Vec<Alert>, StoreError> {
        let now = self.clock.now();
        for (meter, records) in &self.known {
            let name = meters.iter().find(|known| known.id == *meter).map_or(meter.as_str(), |known| &known.name);
            for alert in rule::alerts(records, name, now) {
                let change = (meter.clone(), alert.occasion);
                if !self.told.contains(&change) {
                    let id = self.ledger.raise(alert.clone()).await?;
                    self.told.insert(change);
                    open.extend(id.map(|id| Alert { id, ..alert }));
                }
            }
        }
        let mut standing = Vec::new();
        for alert in open {
            let records = alert.meter.as_ref().and_then(|meter| self.known.get(meter));
            // Of a meter that no source tells of only the time tells that it is over.
            let over = rule::is_over(&alert, records.map_or(&[], Vec::as_slice), now);
            if over && (records.is_some() || rule::is_old(&alert, now)) {
                self.ledger.clear_alert(alert.id, now).await?;
            } else {
                standing.push(alert);
            }
        }
        Ok(standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Category, Condition, Digest, Identity, Ratio, Setup};
    use crate::store::{self, Store};
    use tempfile::TempDir;

    const DAY_MS: i64 = 86_400_000;

    struct Plant {
        store: Store,
        config: store::Config,
        clock: Clock,
        records: Records,
        _folder: TempDir,
    }

    impl Plant {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = store::Config {
                path: folder.path().join("store"),
                commit_every: Duration::from_millis(1),
                keep_raw: Duration::from_secs(90 * 86_400),
                max_disk: 1 << 30,
                reserve: 1 << 20,
            };
            let clock = Clock::manual(Timestamp::from_millis(1_795_219_200_000));
            store::init(&config, &"plant-7".parse().unwrap(), &clock).unwrap();
            Self::open(config, clock, folder)
        }

        fn open(config: store::Config, clock: Clock, _folder: TempDir) -> Self {
            let store = Store::open(config.clone(), clock.clone(), None).unwrap();
            let records = Records::new(store.reader(), store.ledger(), clock.clone());
            Self { store, config, clock, records, _folder }
        }

        async fn again(self) -> Self {
            self.store.close().await.unwrap();
            Self::open(self.config, self.clock, self._folder)
        }

        /// The meter says that it bears this serial number, a minute after what it said last.
        async fn says(&mut self, number: &str) {
            self.clock.advance(Duration::from_secs(60));
            self.records.look(&[], &sources(number)).await.unwrap();
        }

        async fn alerts(&self, open_only: bool) -> Vec<Alert> {
            self.store.reader().alerts(open_only, 100).await.unwrap()
        }
    }

    fn sources(number: &str) -> SourcesStatus {
        let setup = Setup {
            line: "msb".parse().unwrap(),
            wire: "192.0.2.10:502".to_owned(),
            unit: 3,
            template: Some("acme".to_owned()),
            template_sha256: Digest::of(b"acme"),
            ct_ratio: Ratio::ONE,
            vt_ratio: Ratio::ONE,
            invert: false,
            category: Category::Cons,
        };
        let status = MeterStatus {
            condition: Condition::Answering,
            since: Timestamp::from_millis(0),
            last_answer: Some(Timestamp::from_millis(0)),
            setup: Some(Arc::new(setup)),
            identity: Some(Identity { serial_number: Some(number.to_owned()), ..Identity::default() }),
            problem: None,
            refused_registers: Vec::new(),
            polls: 1,
            answers: 1,
            timeouts: 0,
            exceptions: 0,
            bad_answers: 0,
        };
        SourcesStatus { meters: [("main".parse().unwrap(), status)].into(), ..SourcesStatus::default() }
    }

    #[tokio::test]
    async fn an_exchange_is_told_once_over_any_restart_and_ends_when_it_is_taken_back() {
        let mut plant = Plant::new();
        plant.says("7").await;
        plant.says("8").await;
        plant.says("8").await;
        for _ in 0..2 {
            let alerts = plant.alerts(false).await;
            assert_eq!(alerts.len(), 1, "{alerts:?}");
            assert!(alerts[0].cleared.is_none() && alerts[0].text.contains("serial number was 7 and is 8"));
            plant = plant.again().await;
            plant.says("8").await;
        }
        plant.says("7").await;
        assert_eq!(plant.alerts(true).await, []);
        let records = plant.store.reader().commissionings(&"main".parse().unwrap(), 9).await.unwrap();
        let causes: Vec<_> = records.iter().map(|record| record.cause).collect();
        assert_eq!(causes, [Cause::First, Cause::Changed, Cause::Restored]);
    }

    #[tokio::test]
    async fn a_crash_between_a_record_and_its_alert_loses_no_alert() {
        let mut plant = Plant::new();
        plant.says("7").await;
        // The record that a change leaves behind, and nothing after it.
        let sources = sources("8");
        let (meter, status) = sources.meters.first_key_value().unwrap();
        plant.clock.advance(Duration::from_secs(60));
        plant.records.record(meter, status).await.unwrap();
        assert_eq!(plant.alerts(false).await, []);
        let mut plant = plant.again().await;
        plant.says("8").await;
        assert_eq!(plant.alerts(true).await.len(), 1);
        // The same before the end of an alert.
        let sources = self::sources("7");
        let (meter, status) = sources.meters.first_key_value().unwrap();
        plant.records.record(meter, status).await.unwrap();
        assert_eq!(plant.alerts(true).await.len(), 1);
        let mut plant = plant.again().await;
        plant.says("7").await;
        assert_eq!(plant.alerts(true).await, []);
    }

    #[tokio::test]
    async fn an_exchange_during_a_power_cut_is_told_by_the_right_time() {
        let mut plant = Plant::new();
        plant.says("7").await;
        let now = plant.clock.now();
        // A gateway without a battery for its clock boots years back.
        plant.clock.reboot();
        plant.clock.step_to(now.plus_millis(-700 * DAY_MS));
        plant.clock.set_state(ClockState::Unsynchronised);
        let begun = plant.clock.since_boot_ms();
        plant.records.look_in_time(&[], &sources("8"), begun).await.unwrap();
        assert_eq!(plant.alerts(false).await, []);
        plant.clock.step_to(now);
        plant.clock.set_state(ClockState::Synchronised);
        for _ in 0..2 {
            plant.records.look_in_time(&[], &sources("8"), begun).await.unwrap();
            let alerts = plant.alerts(true).await;
            assert_eq!(alerts.iter().map(|alert| alert.occasion).collect::<Vec<_>>(), [now]);
        }
        // Where no time comes, it is told all the same.
        plant.clock.set_state(ClockState::Unsynchronised);
        plant.clock.advance(Duration::from_millis(PATIENCE_MS));
        plant.records.look_in_time(&[], &sources("9"), begun).await.unwrap();
        assert_eq!(plant.alerts(true).await.len(), 2);
    }

    #[tokio::test]
    async fn it_is_told_once_that_records_wait_for_the_clock() {
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        let writer = tracing_subscriber::fmt().with_writer(std::sync::Mutex::new(Shared(log.clone()))).finish();
        let _guard = tracing::subscriber::set_default(writer);
        let mut plant = Plant::new();
        plant.clock.set_state(ClockState::Unsynchronised);
        let begun = plant.clock.since_boot_ms();
        plant.records.look_in_time(&[], &SourcesStatus::default(), begun).await.unwrap();
        assert!(log.lock().unwrap().is_empty(), "nothing is due");
        for _ in 0..2 {
            plant.records.look_in_time(&[], &sources("7"), begun).await.unwrap();
        }
        let said = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        assert_eq!(said.matches("commissioning records of meters wait for it, 5 min at most").count(), 1, "{said}");
    }

    /// What was logged.
    struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_alert_ends_after_a_week_also_of_a_meter_that_is_gone() {
        let mut plant = Plant::new();
        plant.says("7").await;
        plant.says("8").await;
        let mut plant = plant.again().await;
        plant.records.look(&[], &SourcesStatus::default()).await.unwrap();
        assert_eq!(plant.alerts(true).await.len(), 1);
        plant.clock.step_to(plant.clock.now().plus_millis(7 * DAY_MS));
        plant.records.look(&[], &SourcesStatus::default()).await.unwrap();
        assert_eq!(plant.alerts(true).await, []);
        plant.says("8").await;
        assert_eq!(plant.alerts(false).await.len(), 1);
    }
}
