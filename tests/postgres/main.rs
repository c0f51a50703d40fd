//! The PostgreSQL receiver against a real server, with what goes wrong between.

// clippy.toml allows it in test functions; here it is meant for what they call as well.
#![allow(clippy::unwrap_used)]

mod events;
mod faults;
#[path = "../peers/postgres.rs"]
mod postgres;
mod records;
mod views;

use meterseal::model::{BlockFlag, ClockState, Position, Stream, Unsent};
use meterseal::upstream::receiver::{Receiver as _, Rejection};
use postgres::{DATABASE, Postgres};
use records::{Gateway, T, block, config, event, kept, layout, line, reading, readings, sha256, taken};

#[test]
fn what_was_committed_outlives_a_kill_of_the_server() {
    let mut server = Postgres::start();
    server.psql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)");
    server.kill();
    assert!(server.try_psql(DATABASE, "SELECT 1").is_err());
    server.restart();
    assert_eq!(server.psql("SELECT n FROM kept"), "7");
    let secured = Postgres::start_with_tls();
    assert!(secured.ca().starts_with(b"-----BEGIN CERTIFICATE"));
    assert_eq!(secured.psql("SHOW ssl"), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_fills_its_table() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    let odd = reading(meterseal::model::TakenReading {
        clock: ClockState::Unsynchronised,
        conflict: true,
        ..taken(2, &layout("main"))
    });
    let sent = [readings([1]), vec![odd]].concat();
    gateway.delivered(Stream::Readings, sent.clone()).await;
    let told = server.psql("SELECT seq, extract(epoch FROM time) * 1000, meter, category, values->>'power_kw', flags, boot, since_boot_ms, encode(sha256, 'hex') FROM meterseal.readings ORDER BY seq");
    let rows = [
        format!("1|{}.000000|main|CONS|1.004||||{}", T + 1_000, sha256(&sent[0])),
        format!("2|{}.000000|main|CONS|2.004|{{clock,conflict}}|boot-1|5|{}", T + 2_000, sha256(&sent[1])),
    ];
    assert_eq!(told, rows.join("\n"));
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings_2026_11"), "2");

    let blocks = vec![block(1, "main", 1, 0, &[]), block(2, "main", 1, 1, &[BlockFlag::Late, BlockFlag::Gap])];
    gateway.delivered(Stream::Blocks, blocks.clone()).await;
    let told = server.psql("SELECT seq, kwh, kwh_import, demand_kw, avg_kw, max_kw, min_kw, coverage, method, is_peak_hour, flags, revision, zone, encode(sha256, 'hex') FROM meterseal.blocks ORDER BY seq");
    let rows = [
        format!("1|1.000000000|1.000000000|2|2|3||1|counter|f|{{}}|0|Asia/Kuala_Lumpur|{}", sha256(&blocks[0])),
        format!(
            "2|1.000000001|1.000000001|2.000000002|4.000000004|3||0.5|counter|f|{{gap,late}}|1|Asia/Kuala_Lumpur|{}",
            sha256(&blocks[1])
        ),
    ];
    assert_eq!(told, rows.join("\n"));
    // What the entry of the log commits to can be computed there.
    let commit = server.psql(
        "SELECT encode(sha256(salt || convert_to(record::text, 'UTF8')), 'hex') FROM meterseal.blocks WHERE seq = 1",
    );
    let record = line(&blocks[0]);
    let record = &record[record.find("\"record\":").unwrap() + 9..record.find(",\"salt\"").unwrap()];
    assert_eq!(commit, meterseal::model::Digest::of_parts(&[&[1; 32], record.as_bytes()]).to_string());

    let again = Gateway::opened(&config(&server), "a").await.open().await.positions;
    assert_eq!(again.len(), 2);
    assert_eq!(again[&Stream::Blocks], Position { live: 2, open: vec![] });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_tells_of_itself_fills_its_tables() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    for (stream, events) in events::told_by_a_store().await {
        // Columns that are written by other words than their members.
        let (columns, time): (&[&str], _) = match stream {
            Stream::Anchors => (&["anchor", "kind", "state", "chain_id", "size", "transaction"], "since"),
            Stream::Datasets => {
                (&["dataset", "kind", "connection", "query", "rows", "bytes", "manifest_sha256"], "time")
            }
            Stream::Alerts => (&["alert", "kind", "meter", "raised", "cleared", "text"], "time"),
            _ => (&["kind", "first_seq", "last_seq", "boot", "offset_ms", "reason"], "time"),
        };
        let sent: Vec<_> = events.iter().map(|told| event(told.seq, &told.line)).collect();
        gateway.delivered(stream, sent.clone()).await;
        // As dead letters they are the same rows.
        assert_eq!(gateway.delivered(stream, sent.iter().map(kept).collect()).await.repeated, sent.len() as u64);
        for told in events {
            let line: serde_json::Value = serde_json::from_str(&told.line).unwrap();
            let is_instant = |column: &str| matches!(column, "raised" | "cleared" | "time");
            for (column, member) in columns.iter().map(|name| (*name, *name)).chain([("time", time)]) {
                let ask = match is_instant(column) {
                    true => format!("(extract(epoch FROM {column}) * 1000)::bigint"),
                    false => column.to_owned(),
                };
                let wanted = match &line[member] {
                    serde_json::Value::Null => String::new(),
                    serde_json::Value::String(text) => text.replace('\0', "\u{fffd}"),
                    other => other.to_string(),
                };
                let found = server.psql(&format!("SELECT {ask} FROM meterseal.{stream} WHERE seq = {}", told.seq));
                assert_eq!(found, wanted, "{stream} {column}");
            }
            let ask = format!("SELECT record, encode(sha256, 'hex') FROM meterseal.{stream} WHERE seq = {}", told.seq);
            let digest = meterseal::model::Digest::of(told.line.as_bytes());
            assert_eq!(server.psql(&ask), format!("{}|{digest}", told.line), "{stream}");
        }
    }
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.anchors WHERE state = 'final'"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_gateway_was_last_seen_is_told() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    for act in ["delivers", "comes anew"] {
        server.psql("UPDATE meterseal.gateways SET first_seen = '2001-01-01', last_seen = '2001-01-01'");
        match act {
            "delivers" => drop(gateway.delivered(Stream::Readings, readings(1..=2)).await),
            _ => drop(gateway.open().await),
        }
        let seen = "SELECT first_seen < '2002-01-01', now() - last_seen < interval '1 hour' FROM meterseal.gateways";
        assert_eq!(server.psql(seen), "t|t", "{act}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_there_is_told_from_a_new_one_and_from_another() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    gateway.delivered(Stream::Readings, readings(1..=10)).await;
    // By the cursor, and by the keys alone where that was lost.
    for forgotten in [false, true] {
        if forgotten {
            server.psql("DELETE FROM meterseal.cursors");
            gateway.open().await;
        }
        let seqs = 1..=if forgotten { 30 } else { 20 };
        let answer = gateway.delivered(Stream::Readings, readings(seqs)).await;
        assert_eq!(answer.repeated, if forgotten { 20 } else { 10 });
    }
    assert_eq!(server.psql("SELECT count(*), count(DISTINCT seq) FROM meterseal.readings"), "30|30");
    // As dead letters are sent again.
    let again: Vec<_> = readings(25..=40).iter().map(kept).collect();
    assert_eq!(gateway.delivered(Stream::Readings, again).await.repeated, 6);

    // Another value under the same key, and another time, which the table itself would let in.
    let meters = layout("main");
    let mut other = taken(38, &meters);
    other.values[0].1 = meterseal::model::Number::U64(0);
    let mut moved = taken(39, &meters);
    moved.time = meterseal::model::Timestamp::from_millis(T - 40 * 86_400_000);
    let sent = [readings([37]), vec![reading(other), reading(moved)], readings([41])].concat();
    let answer = gateway.deliver(Stream::Readings, sent.clone()).await;
    assert_eq!((answer.taken, answer.fault), (0, None));
    let rejected: Vec<_> = answer.rejected.iter().map(|rejected| (rejected.seq, rejected.why)).collect();
    assert_eq!(rejected, [(38, Rejection::Conflict), (39, Rejection::Conflict)]);
    assert_eq!(server.psql("SELECT max(seq) FROM meterseal.readings"), "40");
    // The connection goes on.
    let rest = vec![sent[0].clone(), sent[3].clone()];
    assert_eq!(gateway.delivered(Stream::Readings, rest).await.repeated, 1);
    // The same seqs of another epoch are other records.
    let mut batch = gateway.batch(Stream::Readings, readings(1..=5));
    batch.epoch = "e000000000000002".to_owned();
    assert_eq!(gateway.receiver.deliver(&batch).await.taken, 5);
    let per_epoch = server.psql("SELECT g.epoch, count(*) FROM meterseal.readings r JOIN meterseal.gateways g ON g.id = r.gateway GROUP BY 1 ORDER BY 1");
    assert_eq!(per_epoch, "e000000000000001|41\ne000000000000002|5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_tells_of_open_ranges_and_only_of_its_epoch() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    let mut batch = gateway.batch(Stream::Readings, readings(90..=100));
    batch.after.open = vec![Unsent { first: 1, last: 50 }, Unsent { first: 60, last: 89 }];
    assert_eq!(gateway.receiver.deliver(&batch).await.taken, 11);
    assert_eq!(gateway.open().await.positions[&Stream::Readings], batch.after);
    // What the cursor leaves open is new.
    let mut backfill = gateway.batch(Stream::Readings, readings(60..=89));
    backfill.after = Position { live: 100, open: vec![Unsent { first: 1, last: 50 }] };
    let answer = gateway.receiver.deliver(&backfill).await;
    assert_eq!((answer.taken, answer.repeated), (30, 0));
    gateway.identity.epoch = "e000000000000002".to_owned();
    assert_eq!(gateway.open().await.positions.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_checkpoint_is_kept_and_never_lowered() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    assert_eq!(gateway.open().await.held, []);
    let sized = |held: Option<meterseal::model::note::SignedCheckpoint>| held.map(|held| held.checkpoint.size);
    assert_eq!(sized(gateway.witness(10, 0).await), Some(10));
    assert_eq!(sized(gateway.witness(20, 5).await), Some(10), "it holds another than the old one");
    assert_eq!(sized(gateway.witness(20, 10).await), Some(20));
    assert_eq!(sized(gateway.witness(10, 20).await), Some(20));
    assert_eq!(gateway.open().await.held, [gateway.checkpoint(20)]);
    gateway.identity.epoch = "e000000000000002".to_owned();
    assert_eq!(sized(gateway.witness(3, 0).await), Some(3));
    assert_eq!(gateway.open().await.held.len(), 2);
}
