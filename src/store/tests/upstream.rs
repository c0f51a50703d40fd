//! What is sent upstream: positions, dead letters, heads, events, readings as taken, and their epochs.

use super::*;
use crate::model::{
    AnchorState, DeadLetter, Event, JobProgress, JobRequest, LoggedBlock, NewDeadLetter, Position, Stream, Unsent,
};
use crate::store::log::cuts::Image;
use crate::store::log::tests::{block, seal, wish};
use crate::store::{JobEnd, upstream as store};
use entry::Reason;

/// A store becomes one of version 5.
pub const WITHOUT_UPSTREAM: &str = "
    DROP TABLE objects; ALTER TABLE alerts DROP COLUMN acknowledged_by; ALTER TABLE alerts DROP COLUMN acknowledged;
    DROP TABLE upstreams; DROP TABLE upstream_positions; DROP TABLE dead_letters; DROP TABLE reading_epochs;
    DROP TABLE lost_files; DROP TABLE events; DROP INDEX blocks_to_send;
    DELETE FROM meta WHERE name = 'dead_letters'; PRAGMA user_version = 5;
";

fn position(live: u64, open: &[(u64, u64)]) -> Position {
    Position { live, open: open.iter().map(|(first, last)| Unsent { first: *first, last: *last }).collect() }
}

fn letter(stream: Stream, seq: u64, reason: &str) -> NewDeadLetter {
    let (epoch, line) = ("0123456789abcdef".to_owned(), format!("{{\"seq\":{seq}}}"));
    NewDeadLetter { stream, epoch, seq, line, reason: reason.to_owned() }
}

#[tokio::test]
async fn positions_and_dead_letters_are_kept_by_the_name_of_their_upstream() {
    let mut house = house();
    let positions =
        [(Stream::Readings, position(90, &[(3, 5), (8, 40)])), (Stream::Blocks, position(u64::from(u32::MAX), &[]))];
    let ledger = house.store.ledger();
    ledger.set_upstreams(vec![("hq".to_owned(), vec![Stream::Blocks, Stream::Readings])]).await.unwrap();
    let letters = vec![letter(Stream::Readings, 4, "no such meter"), letter(Stream::Readings, 6, "too old")];
    ledger.save_upstream("hq".to_owned(), positions.to_vec(), letters).await.unwrap();
    ledger.save_upstream("other".to_owned(), vec![(Stream::Alerts, position(1, &[]))], vec![]).await.unwrap();
    house.clock.advance(Duration::from_secs(5));
    let again = vec![letter(Stream::Readings, 4, "still none"), letter(Stream::Blocks, 4, "torn")];
    ledger.save_upstream("hq".to_owned(), vec![], again).await.unwrap();
    ledger.set_upstreams(vec![("other".to_owned(), vec![Stream::Alerts])]).await.unwrap();
    drop(ledger);
    house = house.again().await;
    let reader = house.store.reader();
    assert_eq!(
        reader.positions("hq").await.unwrap(),
        positions.into_iter().collect(),
        "also while it is not configured"
    );
    assert_eq!(reader.positions("nobody").await.unwrap(), BTreeMap::new());
    let found = reader.dead_letters("hq", None, 9).await.unwrap();
    let told = |l: &DeadLetter| (l.id, l.stream, l.seq, l.reason.clone(), l.at.as_millis() - NOON, l.attempts);
    let expected = [
        (3, Stream::Blocks, 4, "torn".to_owned(), 5_000, 1),
        (2, Stream::Readings, 6, "too old".to_owned(), 0, 1),
        (1, Stream::Readings, 4, "still none".to_owned(), 5_000, 2),
    ];
    assert_eq!(found.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(reader.dead_letters("hq", Some(3), 1).await.unwrap(), found[1..2]);
    assert_eq!(reader.dead_letters("other", None, 9).await.unwrap(), []);
    let ledger = house.store.ledger();
    ledger.settle_dead_letters("other".to_owned(), vec![1, 2, 3], vec![]).await.unwrap();
    ledger.settle_dead_letters("hq".to_owned(), vec![3, 77], vec![(2, "older".to_owned())]).await.unwrap();
    let found = reader.dead_letters("hq", None, 9).await.unwrap();
    let left: Vec<_> = found.iter().map(|l| (l.id, l.reason.as_str(), l.attempts)).collect();
    assert_eq!(left, [(2, "older", 2), (1, "still none", 2)]);
    assert_eq!(reader.dead_letter_count("hq").await.unwrap(), 2);
    // An id is never given again.
    ledger.save_upstream("hq".to_owned(), vec![], vec![letter(Stream::Blocks, 4, "torn")]).await.unwrap();
    assert_eq!(reader.dead_letters("hq", None, 1).await.unwrap()[0].id, 4);
}

#[tokio::test]
async fn readings_come_in_order_of_seq_as_they_were_taken() {
    let house = house();
    let simulated = Arc::new(Layout { simulated: true, ..(*layout("sim")).clone() });
    let layout = layout("m1");
    let mut cursor = house.store.reader().taken();
    for turn in 0..3_i64 {
        let at = NOON + turn * 100_000;
        let mut group: Vec<Reading> = (0..4).map(|n| reading(&layout, at - n * 1_000, &[(0, turn), (1, n)])).collect();
        group[1].taken.clock = ClockState::Unsynchronised;
        group.insert(2, reading(&simulated, at, &[(0, 1)]));
        house.put(group).await;
        if turn < 2 {
            house.store.tidy().await;
        }
    }
    let redates = vec![Redate { boot: "manual-1".to_owned(), first_seq: 1, last_seq: 9, offset_ms: 500 }];
    house.store.ledger().seal(Sealing { redates, ..Sealing::default() }).await.unwrap();
    let all = cursor.next(0, u64::MAX, 100).await.unwrap();
    let seqs: Vec<u64> = all.iter().map(|reading| reading.seq).collect();
    assert_eq!(seqs, [1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15]);
    let second = &all[1];
    assert_eq!((second.time.as_millis(), second.since_boot_ms), (NOON - 1_000, 999_000));
    assert_eq!((second.clock, &*second.boot), (ClockState::Unsynchronised, &*house.clock.boot()));
    assert!(second.layout == layout && *second.values == [(0, Number::I64(0)), (1, Number::I64(1))]);
    assert_eq!(all[0].clock, ClockState::Synchronised);
    // By pieces, from anywhere, and no further than is wanted.
    for limit in 1..5 {
        let mut after = 0;
        let mut pieces = Vec::new();
        while let Some(last) = {
            let piece = cursor.next(after, 14, limit).await.unwrap();
            assert!(piece.len() <= limit);
            pieces.extend(piece.iter().map(|reading| reading.seq));
            piece.last().map(|reading| reading.seq)
        } {
            after = last;
        }
        assert_eq!(pieces, seqs[..11]);
    }
    assert_eq!(cursor.next(4, 6, 100).await.unwrap().iter().map(|r| r.seq).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(cursor.next(15, u64::MAX, 100).await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_ordinary_succession_parts_readings_at_the_last_committed_one() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let first = house.store.identity().epoch.clone();
    assert_eq!(reader.epochs_of_readings(1, 100).await.unwrap(), [(1, first.clone())]);
    house.put((0..4).map(|n| reading(&layout("m1"), NOON + n, &[(0, n)])).collect()).await;
    let next = ledger.succeed(wish(Reason::KeyRotation)).await.unwrap();
    let second = next.epoch.clone();
    assert_eq!(reader.epochs_of_readings(1, 9).await.unwrap(), [(1, first.clone()), (5, second.clone())]);
    assert_eq!(reader.epochs_of_readings(2, 4).await.unwrap(), [(2, first.clone())]);
    assert_eq!(reader.epochs_of_readings(7, 9).await.unwrap(), [(7, second.clone())]);
    ledger.rekey([2, 3, 1, 77].map(|seq| (Stream::Readings, seq)).to_vec()).await.unwrap();
    let parted = [(1, second.clone()), (4, first), (5, second)];
    assert_eq!(reader.epochs_of_readings(1, 9).await.unwrap(), parted);
}

/// Lines of a stream, in order, each as JSON.
async fn lines(reader: &Reader, stream: Stream) -> Vec<serde_json::Value> {
    let events = reader.events(stream, 0, u64::MAX, 10_000).await.unwrap();
    assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64), "seqs have no hole");
    let read = |event: &Event| -> serde_json::Value {
        let line: serde_json::Value = serde_json::from_str(&event.line).unwrap();
        assert_eq!(crate::model::jcs::to_vec(&line).unwrap(), event.line.as_bytes());
        assert_eq!(line["seq"], event.seq);
        line
    };
    events.iter().map(read).collect()
}

fn alert(kind: AlertKind, occasion: i64) -> Alert {
    let at = Timestamp::from_millis(NOON + occasion);
    let (meter, text) = (Some(meter("m1")), "m1 is silent".to_owned());
    Alert::new(kind, meter, at, at, text)
}

/// All that is told as events, once.
async fn tell_all(house: &House) {
    let ledger = house.store.ledger();
    let id = ledger.raise(alert(AlertKind::MeterSilent, 1)).await.unwrap().unwrap();
    assert_eq!(ledger.raise(alert(AlertKind::MeterSilent, 1)).await.unwrap(), None);
    ledger.clear_alert(id, Timestamp::from_millis(NOON + 9)).await.unwrap();
    ledger.clear_alert(id, Timestamp::from_millis(NOON + 10)).await.unwrap();
    let query = serde_json::json!({"name": "energy", "text": "SELECT 1"});
    let request = JobRequest { connection: "historian".to_owned(), query, from_ns: 1, to_ns: i64::MAX };
    let job = ledger.queue_job(request, crate::model::Actor::here("first")).await.unwrap().unwrap();
    let progress = JobProgress { rows: 7, bytes: 700, position_ns: None };
    let end = JobEnd::Done { manifest_sha256: Digest::of(b"m"), stored: 900, progress };
    ledger.end_job(job.id, end).await.unwrap();
    let id = ledger.add_anchor(super::anchors::checkpoint("0123456789abcdef", 5)).await.unwrap();
    let queued = house.store.reader().anchor(id).await.unwrap().unwrap();
    let sent = super::anchors::at_state(queued.clone(), AnchorState::Sent, 4, 8);
    ledger.save_anchor(sent.clone(), None).await.unwrap();
    ledger.save_anchor(sent.clone(), None).await.unwrap();
    let last = super::anchors::at_state(queued, AnchorState::Final, 4, 8);
    ledger.save_anchor(last, Some(super::anchors::evidence(3))).await.unwrap();
    let redates = vec![Redate { boot: "b".to_owned(), first_seq: 5, last_seq: 9, offset_ms: 3_600_000 }];
    ledger.seal(Sealing { redates, ..Sealing::default() }).await.unwrap();
}

#[tokio::test]
async fn what_happens_is_told_in_its_own_transaction_as_a_line() {
    let house = house();
    let mut sendable = house.store.reader().sendable();
    sendable.borrow_and_update();
    tell_all(&house).await;
    assert!(sendable.has_changed().unwrap());
    let reader = house.store.reader();
    let alerts = reader.events(Stream::Alerts, 0, 9, 9).await.unwrap();
    assert_eq!(
        alerts[1].line,
        format!(
            concat!(
                r#"{{"alert":1,"cleared":{},"kind":"meter_silent","meter":"m1","occasion":{},"raised":{},"seq":2,"#,
                r#""text":"m1 is silent","time":{}}}"#
            ),
            NOON + 9,
            NOON + 1,
            NOON + 1,
            NOON + 9
        )
    );
    assert_eq!((alerts.len(), &alerts[0].epoch), (2, &house.store.identity().epoch));
    let states: Vec<_> = lines(&reader, Stream::Anchors).await.iter().map(|line| line["state"].clone()).collect();
    assert_eq!(states, ["queued", "sent", "final"]);
    let last = &lines(&reader, Stream::Anchors).await[2];
    assert_eq!(last["evidence"], serde_json::to_value(super::anchors::evidence(3)).unwrap());
    assert_eq!((last["block"]["height"].as_u64(), last["chain_id"].as_u64()), (Some(8), Some(137)));
    let dataset = &lines(&reader, Stream::Datasets).await[0];
    assert_eq!((dataset["kind"].as_str(), dataset["to"].as_str()), (Some("result"), Some("9223372036854775807")));
    let place = reader.epochs().await.unwrap().pop().unwrap();
    assert_eq!(dataset["index"], place.size - 1);
    let notice = &reader.events(Stream::Notices, 0, 9, 9).await.unwrap()[0];
    let line = r#"{"boot":"b","first_seq":5,"kind":"redate","last_seq":9,"offset_ms":3600000,"seq":1,"time":"#;
    assert_eq!(notice.line, format!("{line}{NOON}}}"));
    let heads = reader.heads().await.unwrap();
    assert_eq!([Stream::Anchors, Stream::Datasets, Stream::Alerts, Stream::Notices].map(|s| heads[&s]), [3, 1, 2, 1]);
    assert_eq!(reader.events(Stream::Anchors, 1, 2, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn blocks_may_be_sent_when_their_entries_are_signed() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let mut made_up = block("m1", 3, 0);
    made_up.flags = [crate::model::BlockFlag::Simulated].into_iter().collect();
    seal(&ledger, vec![block("m1", 1, 0), block("m2", 1, 0), made_up]).await;
    assert_eq!(reader.heads().await.unwrap().get(&Stream::Blocks), None);
    assert_eq!(reader.blocks_to_send(0, 9, 9).await.unwrap(), []);
    let note = ledger.checkpoint().await.unwrap();
    seal(&ledger, vec![block("m1", 1, 1), block("m1", 4, 0)]).await;
    let heads = reader.heads().await.unwrap();
    assert_eq!((heads[&Stream::Blocks], heads[&Stream::Checkpoints]), (3, note.checkpoint.size));
    let seqs = |blocks: &[LoggedBlock]| blocks.iter().map(|block| block.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&reader.blocks_to_send(0, 9, 9).await.unwrap()), [1, 2]);
    ledger.checkpoint().await.unwrap();
    assert_eq!(reader.heads().await.unwrap()[&Stream::Blocks], 5);
    let all = reader.blocks_to_send(0, 9, 9).await.unwrap();
    assert_eq!(seqs(&all), [1, 2, 4, 5]);
    assert_eq!(seqs(&reader.blocks_to_send(1, 4, 9).await.unwrap()), [2, 4]);
    assert_eq!(seqs(&reader.blocks_to_send(1, 9, 1).await.unwrap()), [2]);
    let epoch = house.store.identity().epoch.clone();
    let opened = reader.openings(&epoch, all.iter().map(|block| block.index).collect()).await.unwrap();
    for (sent, opening) in all.iter().zip(opened) {
        let LoggedBlock { index, kind, time, record, salt, meter, meter_salt, .. } = sent.clone();
        assert!(opening == Opening { index, kind, time, record, salt, meter: Some((meter, meter_salt)) });
    }
    // An old one is logged again: the head falls back until that is signed, and others wait behind it.
    let next = ledger.succeed(wish(Reason::KeyRotation)).await.unwrap();
    ledger
        .rekey(vec![(Stream::Blocks, 2), (Stream::Blocks, 2), (Stream::Blocks, 3), (Stream::Blocks, 99)])
        .await
        .unwrap();
    assert_eq!(reader.heads().await.unwrap()[&Stream::Blocks], 1);
    assert_eq!(seqs(&reader.blocks_to_send(0, 9, 9).await.unwrap()), [1]);
    ledger.checkpoint().await.unwrap();
    let epochs: Vec<_> = reader.blocks_to_send(0, 9, 9).await.unwrap().into_iter().map(|b| b.epoch).collect();
    assert_eq!(epochs, [&epoch, &next.epoch, &epoch, &epoch].map(String::as_str));
    let size = reader.epochs().await.unwrap().pop().unwrap().size;
    ledger.rekey(vec![(Stream::Blocks, 2)]).await.unwrap();
    assert_eq!(reader.epochs().await.unwrap().pop().unwrap().size, size, "it is there already");
}

#[tokio::test]
async fn what_came_since_the_store_was_opened_goes_into_the_new_epoch_when_others_contradict() {
    let house = house();
    let ledger = house.store.ledger();
    seal(&ledger, vec![block("m1", 1, 0), block("m2", 1, 0)]).await;
    ledger.checkpoint().await.unwrap();
    house.put((0..3).map(|n| reading(&layout("m1"), NOON + n, &[(0, n)])).collect()).await;
    ledger.raise(alert(AlertKind::MeterSilent, 1)).await.unwrap();
    drop(ledger);
    let house = house.again().await;
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let first = house.store.identity().epoch.clone();
    let query = serde_json::json!({"name": "energy"});
    let request = JobRequest { connection: "historian".to_owned(), query, from_ns: 1, to_ns: 2 };
    let job = ledger.queue_job(request, crate::model::Actor::here("first")).await.unwrap().unwrap();
    let progress = JobProgress { rows: 7, bytes: 700, position_ns: None };
    let end = JobEnd::Done { manifest_sha256: Digest::of(b"m"), stored: 900, progress };
    ledger.end_job(job.id, end).await.unwrap();
    seal(&ledger, vec![block("m1", 2, 0)]).await;
    ledger.checkpoint().await.unwrap();
    // An ordinary succession between: its readings, and what was signed before it, are of this run as well.
    house.put((0..2).map(|n| reading(&layout("m1"), NOON + 10 + n, &[(0, n)])).collect()).await;
    let second = ledger.succeed(wish(Reason::KeyRotation)).await.unwrap().epoch.clone();
    // Logged twice since then, and yet carried over once.
    ledger.rekey(vec![(Stream::Blocks, 3)]).await.unwrap();
    seal(&ledger, vec![block("m1", 3, 0)]).await;
    house.put((0..2).map(|n| reading(&layout("m1"), NOON + 20 + n, &[(0, n)])).collect()).await;
    ledger.raise(alert(AlertKind::MeterSilent, 2)).await.unwrap();
    ledger.checkpoint().await.unwrap();
    seal(&ledger, vec![block("m1", 4, 0)]).await;
    let parted = reader.epochs_of_readings(1, 99).await.unwrap();
    assert_eq!(parted, [(1, first.clone()), (6, second.clone())]);

    let rollback = Succession { since_open: true, ..wish(Reason::Rollback) };
    let third = ledger.succeed(rollback.clone()).await.unwrap().epoch.clone();
    assert_eq!(reader.epochs_of_readings(1, 99).await.unwrap(), [(1, first.clone()), (4, third.clone())]);
    ledger.checkpoint().await.unwrap();
    let blocks = reader.blocks_to_send(0, 99, 99).await.unwrap();
    let epochs: Vec<&str> = blocks.iter().map(|block| block.epoch.as_str()).collect();
    assert_eq!(epochs, [&*first, &first, &third, &third, &third]);
    assert!(blocks[2..].is_sorted_by(|a, b| a.index < b.index));
    let of = async |stream| -> Vec<String> {
        let events = reader.events(stream, 0, 99, 99).await.unwrap();
        events.into_iter().map(|event| event.epoch).collect()
    };
    assert_eq!(of(Stream::Alerts).await, [first.clone(), third.clone()]);
    let dataset = lines(&reader, Stream::Datasets).await.pop().unwrap();
    assert_eq!((dataset["epoch"].as_str(), of(Stream::Datasets).await.pop().as_ref()), (Some(&*third), Some(&third)));
    let opening = reader.openings(&third, vec![dataset["index"].as_u64().unwrap()]).await.unwrap().remove(0);
    assert_eq!(opening.kind, entry::EntryKind::Dataset);
    // Each entry of this run once: what is there a second time is not carried over again.
    let size = reader.epochs().await.unwrap().pop().unwrap().size;
    assert_eq!(size, 1 + 2 + 3, "the succession, an order and a dataset, and three blocks");
    let fourth = ledger.succeed(rollback).await.unwrap().epoch.clone();
    assert_eq!(reader.epochs().await.unwrap().pop().unwrap().size, 1, "all of the third is ours alone, and signed");
    let parted = [(1, first), (4, third), (8, fourth)];
    assert_eq!(reader.epochs_of_readings(1, 99).await.unwrap(), parted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn epochs_of_readings_are_those_of_a_plain_list(
        steps in proptest::collection::vec((0_u64..40, proptest::option::of(0_u64..12), 1_i64..4), 1..20)
    ) {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE reading_epochs (first_seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL)").unwrap();
        connection.execute("INSERT INTO reading_epochs VALUES (0, 1)", []).unwrap();
        let mut plain = [1_i64; 60];
        for (first, len, epoch) in steps {
            let last = len.map(|len| first + len);
            store::set_epoch_of_readings(&connection, (first, last), epoch).unwrap();
            let end = last.map_or(60, |last| usize::try_from(last).unwrap() + 1);
            plain[usize::try_from(first).unwrap()..end].fill(epoch);
        }
        let mut statement = connection.prepare("SELECT first_seq, epoch FROM reading_epochs ORDER BY first_seq").unwrap();
        let rows: Vec<(i64, i64)> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<rusqlite::Result<_>>().unwrap();
        let turns = (0..60).filter(|at| *at == 0 || plain[at - 1] != plain[*at]);
        let expected: Vec<(i64, i64)> = turns.map(|at| (i64::try_from(at).unwrap(), plain[at])).collect();
        prop_assert_eq!(rows, expected);
    }
}

/// Five files of 500 readings each, one a day, the newest still open.
async fn five_files(house: &House) -> Vec<(u64, u64)> {
    let layout = wide_layout();
    let mut files = Vec::new();
    for day in 0..5 {
        let mut time = NOON + day * 86_400_000;
        let receipt = house.put(noisy(&layout, &mut time)).await;
        files.push((receipt.first_seq, receipt.last_seq));
        house.store.tidy().await;
        house.clock.advance(Duration::from_secs(86_400));
    }
    files
}

async fn first_seqs(house: &House) -> Vec<u64> {
    let mut cursor = house.store.reader().taken();
    let all = cursor.next(0, u64::MAX, 100_000).await.unwrap();
    let mut seqs: Vec<u64> = all.iter().map(|reading| reading.seq).filter(|seq| seq % 1_000 == 1).collect();
    seqs.dedup();
    seqs
}

#[tokio::test]
async fn at_max_disk_files_that_all_have_go_first_and_what_is_lost_of_others_is_told() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let files = five_files(&house).await;
    assert_eq!(files, [(1, 1_000), (1_001, 2_000), (2_001, 3_000), (3_001, 4_000), (4_001, 5_000)]);
    let streams = vec![Stream::Blocks, Stream::Readings];
    ledger
        .set_upstreams(vec![("hq".to_owned(), streams.clone()), ("blocks-only".to_owned(), vec![Stream::Blocks])])
        .await
        .unwrap();
    // It has the third and the fourth file, and some of the second.
    let at = position(4_200, &[(1, 1_500), (1_800, 2_000)]);
    ledger.save_upstream("hq".to_owned(), vec![(Stream::Readings, at)], vec![]).await.unwrap();
    let one = reader.health().raw_bytes / 5;
    let room_for = async |files: u64| {
        house.store.reconfigure(&Config { max_disk: one * files + one / 2, ..config(&house.folder) });
        house.store.tidy().await;
    };
    room_for(3).await;
    assert_eq!(first_seqs(&house).await, [1, 1_001, 4_001]);
    let start = reader.health().oldest_raw.unwrap().as_millis();
    assert!(start > NOON + 4 * 86_400_000, "before the hole not all is there");
    assert_eq!((reader.health().lost, lines(&reader, Stream::Notices).await.len()), (0, 0));
    let mut sendable = reader.sendable();
    sendable.borrow_and_update();
    room_for(1).await;
    assert_eq!(first_seqs(&house).await, [4_001]);
    assert!(sendable.has_changed().unwrap());
    assert_eq!(reader.health().lost, 1_000 + 500 + 201);
    let notices = lines(&reader, Stream::Notices).await;
    let ranges: Vec<_> =
        notices.iter().map(|line| (line["first_seq"].as_u64().unwrap(), line["last_seq"].as_u64().unwrap())).collect();
    assert_eq!(ranges, [(1, 1_000), (1_001, 1_500), (1_800, 2_000)]);
    assert!(notices.iter().all(|line| line["kind"] == "lost" && line["reason"] == "max_disk"));
    let alerts = reader.alerts(true, 9).await.unwrap();
    assert!(matches!(&alerts[..], [one] if one.kind == AlertKind::ReadingsLost), "one stands for all");
    assert!(
        alerts[0].text.starts_with("Readings that upstream hq does not have (seq 1 to 1000) were deleted"),
        "{}",
        alerts[0].text
    );
    assert_eq!(lost_in_the_log(&house.store).await, [(1, 1_000), (1_001, 2_000)]);
    house.clock.advance(Duration::from_secs(86_400));
    house.store.tidy().await;
    assert_eq!(reader.alerts(true, 9).await.unwrap(), []);
    drop((ledger, reader));
    let house = house.again().await;
    let start = house.store.reader().health().oldest_raw.unwrap().as_millis();
    assert!(start > NOON + 4 * 86_400_000);
}

/// The ranges that the log says are lost.
async fn lost_in_the_log(store: &Store) -> Vec<(u64, u64)> {
    store.ledger().checkpoint().await.unwrap();
    let reader = store.reader();
    let epoch = reader.epochs().await.unwrap().pop().unwrap();
    let openings = reader.openings(&epoch.identity.epoch, (1..epoch.size).collect()).await.unwrap();
    let records = openings.iter().map(|opening| serde_json::from_slice::<serde_json::Value>(&opening.record).unwrap());
    let lost = records.filter(|record| record["action"] == "readings-lost");
    lost.map(|record| (record["detail"]["first_seq"].as_u64().unwrap(), record["detail"]["last_seq"].as_u64().unwrap()))
        .collect()
}

#[tokio::test]
async fn readings_that_are_only_wanted_as_minutes_are_kept_until_those_are_acknowledged() {
    let house = house();
    let ledger = house.store.ledger();
    let files = five_files(&house).await;
    ledger.set_upstreams(vec![("ems".to_owned(), vec![Stream::Minutes])]).await.unwrap();
    // All minutes of the first two days, and of the fourth but for one.
    let minute = |day: i64, minute: i64| u64::try_from((NOON + day * 86_400_000) / 60_000 + minute).unwrap() * 4_096;
    let through = Position { live: minute(1, 600), open: vec![] };
    ledger.save_upstream("ems".to_owned(), vec![(Stream::Minutes, through)], vec![]).await.unwrap();
    let one = house.store.reader().health().raw_bytes / 5;
    house.store.reconfigure(&Config { max_disk: one * 2 + one / 2, ..config(&house.folder) });
    house.store.tidy().await;
    assert_eq!(first_seqs(&house).await, [files[3].0, files[4].0]);
    assert_eq!(house.store.reader().health().lost, 1_000, "the third");
    assert_eq!(lines(&house.store.reader(), Stream::Notices).await.len(), 0, "it is sent no readings, so no notices");
    assert_eq!(lost_in_the_log(&house.store).await, [files[2]]);
}

#[tokio::test]
async fn what_is_told_to_be_lost_goes_whatever_interrupts_it_and_is_told_once() {
    let house = house();
    let files = five_files(&house).await;
    let ledger = house.store.ledger();
    ledger.set_upstreams(vec![("hq".to_owned(), vec![Stream::Readings])]).await.unwrap();
    let shared = house.store.shared.clone();
    let going =
        |at: usize| lost::Going { first_seq: files[at].0, last_seq: files[at].1, latest: NOON, leaves_a_hole: false };
    // Told, and then the power goes.
    shared.give_up(&going(0), lost::Cause::MaxDisk).unwrap();
    shared.give_up(&going(0), lost::Cause::MaxDisk).unwrap();
    shared.give_up(&going(1), lost::Cause::Damaged).unwrap();
    drop((shared, ledger));
    let mut house = house.again().await;
    for _ in 0..2 {
        assert_eq!(first_seqs(&house).await, files[2..].iter().map(|file| file.0).collect::<Vec<_>>());
        let reasons: Vec<_> =
            lines(&house.store.reader(), Stream::Notices).await.iter().map(|line| line["reason"].clone()).collect();
        assert_eq!(reasons, ["max_disk", "damaged"]);
        assert_eq!(house.store.reader().health().quarantined.len(), 1);
        house = house.again().await;
    }
    // Damage that is found as the store is opened, and again after a cut before the file was set aside.
    let path = config(&house.folder).path.join(format!("raw/{:020}.db", files[2].0));
    let House { folder, clock, store, created } = house;
    store.close().await.unwrap();
    overwrite(&path, 0, &[0x55; 2048]);
    let damaged = std::fs::read(&path).unwrap();
    let open = || Store::open(config(&folder), clock.clone(), None).unwrap();
    open().close().await.unwrap();
    std::fs::write(&path, damaged).unwrap();
    let house = House { store: open(), folder, clock, created };
    let last = lines(&house.store.reader(), Stream::Notices).await.pop().unwrap();
    assert_eq!((last["first_seq"].as_u64(), last["last_seq"].as_u64()), (Some(files[2].0), Some(files[2].1)));
    assert_eq!(lines(&house.store.reader(), Stream::Notices).await.len(), 3);
}

#[tokio::test]
async fn a_cut_at_any_write_leaves_what_happened_with_its_event_and_a_save_whole() {
    let house = house().again().await;
    let root = config(&house.folder).path;
    let ledger = house.store.ledger();
    ledger.set_upstreams(vec![("hq".to_owned(), vec![Stream::Readings])]).await.unwrap();
    tell_all(&house).await;
    for n in 1..9_u64 {
        // Lines of some pages, so that a save is many writes.
        let line = |seq| NewDeadLetter { line: "x".repeat(6_000), ..letter(Stream::Readings, seq, "no") };
        let positions = vec![(Stream::Readings, position(n, &[])), (Stream::Blocks, position(n, &[(n, n)]))];
        ledger.save_upstream("hq".to_owned(), positions, vec![line(n), line(100 + n)]).await.unwrap();
        let file = lost::Going { first_seq: n * 10, last_seq: n * 10 + 9, latest: NOON, leaves_a_hole: false };
        house.store.shared.give_up(&file, lost::Cause::MaxDisk).unwrap();
    }
    let image = Image::of(&root);
    let (mut opened, mut saves) = (0, std::collections::BTreeSet::new());
    for cut in image.cuts() {
        let (folder, clock) = image.cut(cut);
        let store = Store::open(config(&folder), clock, None).unwrap();
        let reader = store.reader();
        let positions = reader.positions("hq").await.unwrap();
        let saved = positions.get(&Stream::Readings).map_or(0, |position| position.live);
        assert_eq!(positions.get(&Stream::Blocks).map_or(0, |position| position.live), saved, "cut at {cut}");
        assert_eq!(reader.dead_letter_count("hq").await.unwrap(), 2 * saved);
        saves.insert(saved);
        let alerts = reader.alerts(false, 99).await.unwrap();
        let changes: usize = alerts.iter().map(|alert| 1 + usize::from(alert.cleared.is_some())).sum();
        assert_eq!(lines(&reader, Stream::Alerts).await.len(), changes, "cut at {cut}");
        let states = lines(&reader, Stream::Anchors).await;
        let anchor = reader.anchor(1).await.unwrap();
        assert_eq!(states.last().and_then(|line| line["state"].as_str()), anchor.map(|anchor| anchor.state.as_str()));
        let done = reader.jobs(None, 9).await.unwrap().iter().filter(|job| job.artifact.is_some()).count();
        assert_eq!(lines(&reader, Stream::Datasets).await.len(), done);
        let redates = reader.redates().await.unwrap().len();
        let notices = lines(&reader, Stream::Notices).await;
        let told = lost_in_the_log(&store).await;
        assert_eq!(notices.len(), redates + told.len(), "cut at {cut}");
        assert_eq!(alerts.iter().any(|alert| alert.kind == AlertKind::ReadingsLost), !told.is_empty());
        opened += 1;
    }
    assert!(opened > 100 && saves.len() == 9, "{opened} cuts, {saves:?}");
}

#[tokio::test]
async fn a_store_of_version_5_is_brought_up_wherever_that_is_cut_and_tells_what_it_holds() {
    let house = house();
    house.put((0..3).map(|n| reading(&layout("m1"), NOON + n, &[(0, n)])).collect()).await;
    tell_all(&house).await;
    let ledger = house.store.ledger();
    seal(&ledger, (0..30).map(|at| block("m1", at, 0)).collect()).await;
    let note = ledger.checkpoint().await.unwrap();
    drop(ledger);
    let House { folder, store, .. } = house;
    let epoch = store.identity().epoch.clone();
    store.close().await.unwrap();
    let root = config(&folder).path;
    let new = super::anchors::schema(&root);
    let connection = rusqlite::Connection::open(root.join("evidence.db")).unwrap();
    connection.execute_batch(super::access::WITHOUT_ACCESS).unwrap();
    connection.execute_batch(WITHOUT_UPSTREAM).unwrap();
    sqlite::settle(&connection).unwrap();
    drop(connection);
    assert_eq!(evidence::version(&root).unwrap(), 5);
    let whole = Image::of(&root);
    // The step of the schema, and then all that is taken up.
    let (cut, clock) = whole.cut(0);
    let cut_root = config(&cut).path;
    let connection = sqlite::open(&cut_root.join("evidence.db")).unwrap();
    for (schema, version) in [(store::SCHEMA, 6), (crate::store::objects::SCHEMA, 7)] {
        connection.execute_batch(&format!("BEGIN; {schema} PRAGMA user_version = {version}; COMMIT;")).unwrap();
    }
    events::take_up(&connection, clock.now()).unwrap();
    let image = Image::of(&cut_root);
    let mut opened = 0;
    for at in image.cuts() {
        let (folder, clock) = image.cut(at);
        let mut again = Some(Store::open(config(&folder), clock.clone(), None).unwrap());
        for _ in 0..2 {
            let store = again.take().unwrap();
            let reader = store.reader();
            assert_eq!(store.ledger().checkpoint().await.unwrap(), note, "the log is as it was");
            assert_eq!(reader.epochs_of_readings(1, 9).await.unwrap(), [(1, epoch.clone())]);
            assert_eq!(reader.heads().await.unwrap()[&Stream::Blocks], 30);
            let anchors = lines(&reader, Stream::Anchors).await;
            assert_eq!((anchors.len(), anchors[0]["state"].as_str()), (1, Some("final")));
            assert!(anchors[0]["evidence"].is_object());
            assert_eq!(lines(&reader, Stream::Alerts).await[0]["cleared"].as_i64(), Some(NOON + 9));
            assert_eq!(lines(&reader, Stream::Datasets).await[0]["rows"], 7);
            assert_eq!(lines(&reader, Stream::Notices).await.len(), 1);
            store.close().await.unwrap();
            again = Some(Store::open(config(&folder), clock.clone(), None).unwrap());
        }
        drop(again);
        let root = config(&folder).path;
        assert_eq!((evidence::version(&root).unwrap(), &super::anchors::schema(&root)), (8, &new));
        opened += 1;
    }
    assert!(opened > 15, "{opened} cuts");
}

/// Readings are packed, files begin and end, and an epoch begins, while two cursors follow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_follows_neither_loses_nor_repeats_a_reading() {
    const READINGS: u64 = 6_000;
    let house = house();
    let (ingest, clock) = (house.store.ingest(), house.clock.clone());
    let mut tasks = tokio::task::JoinSet::new();
    for limit in [1, 97, 5_000] {
        let reader = house.store.reader();
        tasks.spawn(async move {
            let (mut cursor, mut committed) = (reader.taken(), reader.committed());
            let mut after = 0;
            while after < READINGS {
                let head = *committed.borrow_and_update();
                let found = cursor.next(after, head, limit).await.unwrap();
                for reading in &found {
                    assert_eq!(reading.seq, after + 1, "with {limit} at a time");
                    assert_eq!(*reading.values, [(0, Number::I64(i64::try_from(reading.seq).unwrap()))]);
                    after = reading.seq;
                }
                if found.is_empty() {
                    assert_eq!(after, head);
                    committed.changed().await.unwrap();
                }
            }
        });
    }
    let layouts = [layout("m1"), layout("m2"), layout("m3")];
    let mut seq = 0;
    while seq < READINGS {
        let group = (0..(seq % 7 + 1) * 3).map(|_| {
            seq += 1;
            let number = i64::try_from(seq).unwrap();
            // Times go to and fro, so that chunks are not in order of seq.
            let time = NOON + number * 1_000 - (number % 11) * 3_000;
            reading(&layouts[usize::try_from(seq % 3).unwrap()], time, &[(0, number)])
        });
        let receipt = ingest.store(group.collect()).await.unwrap();
        assert_eq!(receipt.last_seq, seq, "all of them are new");
        if seq % 5 == 0 {
            house.store.tidy().await;
        }
        if seq % 31 == 0 {
            clock.advance(Duration::from_secs(86_400));
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Whoever sees a reading committed and asks then for its epoch is told the one that it stays in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reading_is_shown_in_one_epoch_and_belongs_to_another() {
    const SUCCESSIONS: usize = 12;
    let house = house();
    let (reader, ledger, ingest) = (house.store.reader(), house.store.ledger(), house.store.ingest());
    // Each epoch takes these over, unsigned as they are, so that readings are committed while it begins.
    ledger.append((0..400).map(log::tests::audit).collect()).await.unwrap();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    let over = is_over.clone();
    tasks.spawn(async move {
        let layout = layout("m1");
        let mut number = 0;
        while !over.load(Ordering::Acquire) {
            number += 1;
            ingest.store(vec![reading(&layout, NOON + number, &[(0, number)])]).await.unwrap();
        }
        Vec::new()
    });
    let (over, follower) = (is_over.clone(), reader.clone());
    tasks.spawn(async move {
        let (mut after, mut seen) = (0, Vec::new());
        let mut committed = follower.committed();
        while !over.load(Ordering::Acquire) {
            let head = *committed.borrow_and_update();
            if head > after {
                seen.extend(told(&follower.epochs_of_readings(after + 1, head).await.unwrap(), head));
                after = head;
            } else {
                committed.changed().await.unwrap();
            }
        }
        seen
    });
    for _ in 0..SUCCESSIONS {
        ledger.succeed(wish(Reason::Rollback)).await.unwrap();
        let mut committed = reader.committed();
        let shown = *committed.borrow();
        committed.wait_for(|seq| *seq > shown + 2).await.unwrap();
    }
    is_over.store(true, Ordering::Release);
    // One more, for the follower to wake up and see it.
    house.put(vec![reading(&layout("m2"), NOON, &[(0, 1)])]).await;
    let mut seen = Vec::new();
    while let Some(done) = tasks.join_next().await {
        seen.extend(done.unwrap());
    }
    assert!(seen.len() > SUCCESSIONS);
    let last = u64::try_from(seen.len()).unwrap();
    assert_eq!(seen, told(&reader.epochs_of_readings(1, last).await.unwrap(), last));
}

/// The epoch of each seq up to `last`.
fn told(turns: &[(u64, String)], last: u64) -> Vec<String> {
    let ends = turns[1..].iter().map(|(next, _)| *next).chain([last + 1]);
    turns.iter().zip(ends).flat_map(|((first, epoch), end)| (*first..end).map(move |_| epoch.clone())).collect()
}

#[tokio::test]
async fn seqs_that_were_never_used_are_known() {
    let house = house();
    let taken = |second: i64| reading(&layout("m"), NOON + second * 1_000, &[(0, second)]);
    house.put(vec![taken(0), taken(1)]).await;
    let (reader, copy) = (house.store.reader(), tempfile::tempdir().unwrap());
    assert!(reader.unused_seqs().is_empty());
    assert_eq!(reader.given_out().await.unwrap()[&Stream::Readings], 2);
    // As the power leaves it.
    let root = copy.path().join("store");
    let copied =
        std::process::Command::new("cp").arg("-r").arg(house.folder.path().join("store")).arg(&root).status().unwrap();
    assert!(copied.success());
    let again = Store::open(config(&copy), house.clock.clone(), None).unwrap();
    let gaps = again.reader().unused_seqs().to_vec();
    let [Unsent { first: 3, last }] = gaps[..] else { panic!("{gaps:?}") };
    assert_eq!(again.reader().given_out().await.unwrap()[&Stream::Readings], last, "nobody knows how far it went");
    let receipt = again.ingest().store(vec![taken(2)]).await.unwrap();
    assert_eq!(receipt.first_seq, last + 1);
    again.close().await.unwrap();
    let ended = Store::open(config(&copy), house.clock.clone(), None).unwrap();
    assert_eq!(ended.reader().unused_seqs().to_vec(), gaps, "an end in order leaves none");
}
