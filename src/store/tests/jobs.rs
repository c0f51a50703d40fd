//! Export jobs and what becomes of their bundles.

use super::*;
use crate::model::entry::EntryKind;
use crate::model::{Actor, Job, JobId, JobProgress, JobRequest, JobState};
use crate::store::{Dropped, JOBS, JobEnd, NoRoom, Opening};

fn request() -> JobRequest {
    let query = serde_json::json!({ "fields": [], "measurement": "energy", "name": "all", "tags": {} });
    JobRequest { connection: "plant".to_owned(), query, from_ns: i64::MIN, to_ns: i64::MAX }
}

impl House {
    async fn queued(&self) -> Job {
        self.store.ledger().queue_job(request(), Actor::here("first")).await.unwrap().unwrap()
    }

    /// What the log says, in its order: who did what, and the id of which job.
    async fn logged(&self) -> Vec<(String, String)> {
        let reader = self.store.reader();
        self.store.ledger().checkpoint().await.unwrap();
        let epoch = reader.epochs().await.unwrap().pop().unwrap();
        let openings = reader.openings(&epoch.identity.epoch, (1..epoch.size).collect()).await.unwrap();
        let told = |opening: &Opening| {
            let record: serde_json::Value = serde_json::from_slice(&opening.record).unwrap();
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            match opening.kind {
                EntryKind::Audit => {
                    (format!("{} by {}", text("action"), text("by")), record["detail"]["id"].to_string())
                }
                kind => (kind.to_string(), text("dataset")),
            }
        };
        openings.iter().map(told).collect()
    }

    async fn job(&self, id: JobId) -> Job {
        self.store.reader().job(id).await.unwrap().unwrap()
    }

    /// A job that is done, with a bundle of so many bytes.
    async fn done(&self, bytes: u64) -> JobId {
        let id = self.queued().await.id;
        let folder = self.store.reader().bundle_folder(id);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("manifest.json"), vec![b'x'; usize::try_from(bytes).unwrap()]).unwrap();
        assert!(self.store.ledger().begin_job(id).await.unwrap());
        assert!(self.store.ledger().end_job(id, done(bytes)).await.unwrap());
        id
    }

    fn is_there(&self, id: JobId) -> bool {
        self.store.reader().bundle_folder(id).exists()
    }
}

fn done(bytes: u64) -> JobEnd {
    let progress = JobProgress { rows: 7, bytes: 700, position_ns: Some(i64::MAX) };
    JobEnd::Done { manifest_sha256: Digest::of(b"manifest"), stored: bytes, progress }
}

#[tokio::test]
async fn a_job_goes_its_way_once_and_survives_restarts() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let mut changed = reader.jobs_changed();
    changed.borrow_and_update();
    let job = house.queued().await;
    assert!(changed.has_changed().unwrap());
    assert_eq!((job.state, &job.request, job.by.as_str()), (JobState::Queued, &request(), "first"));
    assert!(ledger.begin_job(job.id).await.unwrap());
    let progress = JobProgress { rows: 5, bytes: u64::MAX >> 1, position_ns: Some(-1) };
    assert!(ledger.job_is_at(job.id, progress, 10, "here".to_owned()).await.unwrap());
    drop((ledger, reader));
    let house = house.again().await;
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let found = reader.jobs_under_way().await.unwrap().remove(0);
    assert_eq!((found.id, found.state, found.progress), (job.id, JobState::Running, progress));
    assert_eq!(reader.resume_of(job.id).await.unwrap().as_deref(), Some("here"));
    house.clock.advance(Duration::from_secs(5));
    assert!(ledger.begin_job(job.id).await.unwrap(), "after a restart it runs on");
    assert_eq!(house.job(job.id).await.started, Some(Timestamp::from_millis(NOON)));

    assert!(ledger.end_job(job.id, done(10)).await.unwrap());
    let ended = house.job(job.id).await;
    assert_eq!(ended.state, JobState::Done);
    assert_eq!(ended.artifact.as_ref().map(|bundle| bundle.bytes), Some(10));
    assert!(!ledger.end_job(job.id, done(10)).await.unwrap(), "a job ends once");
    assert!(!ledger.end_job(job.id, JobEnd::Failed { error: "late".to_owned() }).await.unwrap());
    assert!(!ledger.begin_job(job.id).await.unwrap());
    assert!(!ledger.job_is_at(job.id, progress, 99, String::new()).await.unwrap());
    assert_eq!(house.job(job.id).await, ended);
    let logged = house.logged().await;
    let id = job.id.to_string();
    assert_eq!(logged, [("export by first".to_owned(), format!("{id:?}")), ("dataset".to_owned(), id)]);
    assert_eq!(reader.jobs_under_way().await.unwrap(), []);
    assert_eq!(reader.resume_of(job.id).await.unwrap(), None);
}

#[tokio::test]
async fn jobs_wait_in_order_and_one_too_many_is_refused() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(house.queued().await.id);
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "also within one millisecond: {ids:?}");
    assert_eq!(ledger.queue_job(request(), Actor::here("first")).await.unwrap(), None);
    assert!(ledger.begin_job(ids[0]).await.unwrap());
    assert_eq!(ledger.queue_job(request(), Actor::here("first")).await.unwrap(), None, "one that runs counts too");
    assert_eq!(ledger.drop_job(ids[0], Actor::here("second")).await.unwrap(), Dropped::Cancelled);
    assert_eq!(house.job(ids[0]).await.state, JobState::Cancelled);
    assert!(!ledger.end_job(ids[0], done(1)).await.unwrap(), "what was cancelled is not done");
    let under_way: Vec<_> = reader.jobs_under_way().await.unwrap().iter().map(|job| job.id).collect();
    assert_eq!(under_way[..2], ids[1..3], "the oldest first");
    house.queued().await;
    let newest: Vec<JobId> = reader.jobs(None, 3).await.unwrap().iter().map(|job| job.id).collect();
    assert!(newest[0] > ids[JOBS - 1] && newest[1..] == [ids[JOBS - 1], ids[JOBS - 2]], "{newest:?}");
    let older = reader.jobs(Some(ids[2]), 9).await.unwrap();
    assert_eq!(older.iter().map(|job| job.id).collect::<Vec<_>>(), [ids[1], ids[0]]);
    assert_eq!(ledger.drop_job(JobId::after(None, Timestamp::MIN, [0; 10]), Actor::here("nobody")).await.unwrap(), {
        Dropped::Unknown
    });
}

#[tokio::test]
async fn a_bundle_goes_when_somebody_says_so_but_not_while_it_is_read() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let id = house.done(100).await;
    let (folder, held) = reader.bundle(id).await.unwrap().unwrap();
    assert_eq!(folder, reader.bundle_folder(id));
    assert_eq!(ledger.drop_job(id, Actor::here("first")).await.unwrap(), Dropped::InUse);
    drop(held);
    assert_eq!(ledger.drop_job(id, Actor::here("first")).await.unwrap(), Dropped::Deleted);
    assert!(!house.is_there(id) && reader.bundle(id).await.unwrap().is_none());
    let job = house.job(id).await;
    assert_eq!(job.state, JobState::Done, "that it was made stays on record");
    assert_eq!(job.artifact.unwrap().manifest_sha256, Digest::of(b"manifest"));
    ledger.note_download(id, Actor::here("second")).await.unwrap();
    let told: Vec<String> = house.logged().await.into_iter().map(|(what, _)| what).collect();
    assert_eq!(told, ["export by first", "dataset", "export-delete by first", "download by second"]);
}

#[tokio::test]
async fn at_max_disk_bundles_that_may_go_go_before_raw_readings() {
    let house = house();
    let ledger = house.store.ledger();
    let (fresh, fetched, read) = (house.done(2 << 20).await, house.done(2 << 20).await, house.done(2 << 20).await);
    for id in [fetched, read] {
        assert!(ledger.downloaded(id).await.unwrap());
        assert!(!ledger.downloaded(id).await.unwrap(), "the first time counts");
    }
    let held = house.store.reader().bundle(read).await.unwrap().unwrap();
    let layout = wide_layout();
    let mut time = NOON;
    house.put(noisy(&layout, &mut time)).await;
    house.store.tidy().await;
    assert!(house.is_there(fetched), "there is room");
    house.store.reconfigure(&Config { max_disk: 1 << 20, ..config(&house.folder) });
    house.store.tidy().await;
    assert!(!house.is_there(fetched) && house.is_there(read) && house.is_there(fresh));
    drop(held);
    house.store.tidy().await;
    assert!(!house.is_there(read) && house.is_there(fresh), "nobody has the fresh one");
    house.clock.advance(Duration::from_secs(30 * 86_400));
    house.store.tidy().await;
    assert!(!house.is_there(fresh), "nobody fetched it in 30 days");
    assert!(!house.all("m1", i64::MIN, i64::MAX).await.is_empty(), "the file that is written stays");
}

#[tokio::test]
async fn what_a_crash_leaves_is_swept_away() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    ledger.sweep_bundles().await.unwrap();
    let (kept, gone) = (house.done(10).await, house.done(10).await);
    let (running, cancelled) = (house.queued().await.id, house.queued().await.id);
    let make = |path: PathBuf| {
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("data-00000.jsonl.zst"), "x").unwrap();
        path
    };
    assert_eq!(ledger.drop_job(cancelled, Actor::here("nobody")).await.unwrap(), Dropped::Cancelled);
    assert_eq!(ledger.drop_job(gone, Actor::here("nobody")).await.unwrap(), Dropped::Deleted);
    let root = reader.bundle_folder(kept).parent().unwrap().to_owned();
    let unknown = make(root.join(JobId::after(None, Timestamp::from_millis(7), [1; 10]).to_string()));
    let stay =
        [reader.bundle_folder(kept), make(reader.making_folder(running)), make(reader.bundle_folder(running)), unknown];
    let go =
        [make(reader.bundle_folder(gone)), make(reader.making_folder(cancelled)), make(reader.making_folder(kept))];
    ledger.sweep_bundles().await.unwrap();
    assert!(stay.iter().all(|path| path.exists()), "{stay:?}");
    assert!(!go.iter().any(|path| path.exists()), "{go:?}");
}

#[tokio::test]
async fn exports_leave_room_for_readings() {
    let house = house();
    let ledger = house.store.ledger();
    house.store.reconfigure(&Config { max_disk: 20 << 20, ..config(&house.folder) });
    let running = house.queued().await.id;
    assert!(ledger.begin_job(running).await.unwrap());
    assert_eq!(ledger.room_for_export(running, 9 << 20).unwrap(), Ok(()));
    let (fetched, fresh) = (house.done(4 << 20).await, house.done(4 << 20).await);
    assert!(ledger.downloaded(fetched).await.unwrap());
    assert!(ledger.job_is_at(running, JobProgress::default(), 1 << 20, String::new()).await.unwrap());
    assert_eq!(ledger.room_for_export(running, 1 << 20).unwrap(), Ok(()));
    assert_eq!(ledger.room_for_export(running, 3 << 20).unwrap(), Ok(()));
    assert!(!house.is_there(fetched) && house.is_there(fresh), "one that somebody has makes room");
    let told = ledger.room_for_export(running, 6 << 20).unwrap().unwrap_err();
    assert_eq!(told, NoRoom::Share { limit: 10 << 20 });
    assert!(house.is_there(fresh));
    assert_eq!(ledger.drop_job(fresh, Actor::here("nobody")).await.unwrap(), Dropped::Deleted);
    assert_eq!(ledger.room_for_export(running, 6 << 20).unwrap(), Ok(()));
}

#[tokio::test]
async fn an_export_stops_before_the_reserve_is_touched() {
    let Some(disk) = Tmpfs::new(64) else {
        println!("not run: mounting a small file system needs root");
        return;
    };
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let config = Config { path: disk.0.path().join("store"), reserve: 4 << 20, ..config(&disk.0) };
    init(&config, &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(config, clock, None).unwrap();
    let ledger = store.ledger();
    let id = ledger.queue_job(request(), Actor::here("nobody")).await.unwrap().unwrap().id;
    assert_eq!(ledger.room_for_export(id, 0).unwrap(), Ok(()));
    std::fs::write(disk.0.path().join("filler"), vec![1; 30 << 20]).unwrap();
    let told = ledger.room_for_export(id, 0).unwrap().unwrap_err();
    assert!(matches!(told, NoRoom::Disk { .. }) && told.to_string().starts_with("disk full"), "{told}");
    assert!(!store.reader().health().reserve_used);
    std::fs::remove_file(disk.0.path().join("filler")).unwrap();
    assert_eq!(ledger.room_for_export(id, 0).unwrap(), Ok(()));
}
