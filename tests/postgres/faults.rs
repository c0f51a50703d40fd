//! What goes wrong between a gateway and its database, and how it goes on.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use meterseal::model::{Position, Stream};
use meterseal::upstream::postgres::Config;
use meterseal::upstream::receiver::{Fault, NOTES, Receiver as _, Rejection};
use meterseal::upstream::tls::Tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::postgres::{DATABASE, PASSWORD, Postgres, USER};
use crate::records::{Gateway, block, config, event, reading, readings, taken};

fn password() -> Option<Zeroizing<String>> {
    Some(Zeroizing::new(PASSWORD.to_owned()))
}

fn is_away(fault: &Option<Fault>) -> bool {
    matches!(fault, Some(Fault::Away(_)))
}

/// The database behind another port.
fn through(server: &Postgres, port: u16) -> Config {
    let mut config = config(server);
    config.hosts = vec![("localhost".to_owned(), port)];
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_has_whole_batches_and_says_how_far_they_go() {
    let mut server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    let mut next = 1;
    for _ in 0..3 {
        // Batches follow one another, and in one of them the server dies.
        let mut last = next - 1;
        let pid = server.pid().to_string();
        let killer = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(120));
            Command::new("kill").args(["-9", &pid]).status().unwrap();
        });
        let fault = loop {
            let answer = gateway.deliver(Stream::Readings, readings(next..next + 3_000)).await;
            if let Some(fault) = answer.fault {
                break fault;
            }
            last = next + 2_999;
            next += 3_000;
        };
        assert!(matches!(fault, Fault::Away(_)), "{fault}");
        killer.await.unwrap();
        server.kill();
        server.restart();
        let position = gateway.open().await.positions.get(&Stream::Readings).cloned().unwrap_or_default();
        // That of the batch in which it died may have been the last word that it could not tell.
        assert!(position.live == last || position.live == next + 2_999, "{position:?} after {last}");
        assert_eq!(
            server.psql("SELECT count(*), coalesce(max(seq), 0) FROM meterseal.readings"),
            format!("{0}|{0}", position.live)
        );
        next = position.live + 1;
    }
}

/// Hands bytes on both ways, until told to swallow the answers.
struct Line {
    port: u16,
    swallow: tokio::sync::watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Line {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (swallow, swallows) = tokio::sync::watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                lines.spawn(hand_on(near, far, swallows.clone()));
            }
        });
        Self { port: own, swallow, _task: task }
    }
}

/// What says that a transaction is at its end is lost, with the line; the transaction itself is not.
async fn hand_on(near: TcpStream, far: TcpStream, swallows: tokio::sync::watch::Receiver<bool>) {
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
    let mut up = JoinSet::new();
    up.spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await.ok() });
    let mut answer = vec![0; 65_536];
    while let Ok(n @ 1..) = far_in.read(&mut answer).await {
        let committed = answer[..n].windows(7).any(|word| word == b"COMMIT\0");
        if *swallows.borrow() && committed {
            return;
        }
        if near_out.write_all(&answer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_known_by_its_cursor() {
    let server = Postgres::start();
    let line = Line::to(server.port).await;
    let mut gateway = Gateway::opened(&through(&server, line.port), "a").await;
    gateway.delivered(Stream::Readings, readings(1..=10)).await;
    line.swallow.send_replace(true);
    let answer = gateway.deliver(Stream::Readings, readings(11..=20)).await;
    assert_eq!(answer.taken, 0);
    assert!(is_away(&answer.fault), "{:?}", answer.fault);
    // Nothing is sent on a connection of which nobody knows where it stands.
    assert!(is_away(&gateway.deliver(Stream::Readings, readings(11..=20)).await.fault));
    line.swallow.send_replace(false);
    assert_eq!(gateway.open().await.positions[&Stream::Readings], Position { live: 20, open: vec![] });
    assert_eq!(gateway.delivered(Stream::Readings, readings(11..=21)).await.repeated, 10);
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings"), "21");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_taken_away_is_made_anew_and_filled_from_the_start() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    gateway.delivered(Stream::Readings, readings(1..=10)).await;
    gateway.delivered(Stream::Blocks, vec![block(3, "main", 1, 0, &[])]).await;
    for (taken_away, blocks) in
        [("TABLE meterseal.readings", 3), ("TABLE meterseal.cursors", 0), ("SCHEMA meterseal", 0)]
    {
        server.psql(&format!("DROP {taken_away} CASCADE"));
        let answer = gateway.deliver(Stream::Readings, readings(11..=20)).await;
        assert!(is_away(&answer.fault), "{:?}", answer.fault);
        let positions = gateway.open().await.positions;
        assert_eq!(positions[&Stream::Readings], Position::default(), "{taken_away}");
        assert_eq!(positions[&Stream::Blocks].live, blocks, "{taken_away}");
        gateway.delivered(Stream::Readings, readings(1..=20)).await;
        gateway.delivered(Stream::Blocks, vec![block(3, "main", 1, 0, &[])]).await;
        assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings"), "20");
        assert_eq!(server.psql("SELECT count(*) FROM meterseal.blocks"), "1");
        assert_eq!(server.psql("SELECT power_kw FROM meterseal.live"), "20.004");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_somebody_else_changed_is_read_anew() {
    let server = Postgres::start();
    let (mut one, mut idle) =
        (Gateway::opened(&config(&server), "a").await, Gateway::opened(&config(&server), "b").await);
    for gateway in [&mut one, &mut idle] {
        gateway.delivered(Stream::Readings, readings(1..=10)).await;
    }
    // The one makes the table anew while the other has nothing to send.
    server.psql("DROP TABLE meterseal.readings CASCADE");
    assert!(is_away(&one.deliver(Stream::Readings, readings(11..=12)).await.fault));
    one.open().await;
    one.delivered(Stream::Readings, readings(1..=12)).await;
    let away = |fault: Option<Fault>| matches!(&fault, Some(Fault::Away(told)) if told.contains("somebody else"));
    assert!(away(idle.deliver(Stream::Readings, readings(11..=12)).await.fault));
    let of_b =
        "SELECT count(*) FROM meterseal.readings r JOIN meterseal.gateways g ON g.id = r.gateway WHERE g.gateway = 'b'";
    assert_eq!(server.psql(of_b), "0", "nothing of that batch is kept");
    assert!(is_away(&idle.deliver(Stream::Readings, readings(11..=12)).await.fault), "before it is asked");
    assert_eq!(idle.open().await.positions[&Stream::Readings], Position::default());
    idle.delivered(Stream::Readings, readings(1..=12)).await;
    assert_eq!(server.psql(of_b), "12");
    // So is one that came or went, and one that nobody can read is written over.
    server.psql("DELETE FROM meterseal.cursors");
    assert!(away(idle.deliver(Stream::Readings, readings(13..=13)).await.fault));
    assert_eq!(idle.open().await.positions[&Stream::Readings], Position::default());
    let mut second = Gateway::opened(&config(&server), "b").await;
    idle.delivered(Stream::Readings, readings(1..=13)).await;
    assert!(away(second.deliver(Stream::Readings, readings(1..=13)).await.fault));
    server.psql("UPDATE meterseal.cursors SET open = '\"none\"'");
    second.open().await;
    second.delivered(Stream::Readings, readings(1..=13)).await;
    assert_eq!(second.open().await.positions[&Stream::Readings].live, 13);
    assert_eq!(server.psql(of_b), "13");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_is_told_as_one_short_line() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    // A constraint of somebody's own, whose detail would hold the row.
    server.psql(&format!(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION E'no\\n{PASSWORD}\\x1b[31m' \
         USING ERRCODE = '23514', DETAIL = repeat('row ', 10000); END $$; \
         CREATE TRIGGER no BEFORE INSERT ON meterseal.alerts FOR EACH ROW EXECUTE FUNCTION no()"
    ));
    let answer = gateway.deliver(Stream::Alerts, vec![event(1, r#"{"seq":1,"time":5}"#)]).await;
    let Some(Fault::Refused(told)) = answer.fault else { panic!("{answer:?}") };
    assert!(told.contains("no *** [31m (row row") && told.len() < 500 && !told.contains(char::is_control), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_checkpoints_those_of_the_newest_epochs_are_read() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    let note = gateway.checkpoint(7).note().replace('\n', "\\n");
    server.psql(&format!(
        "WITH g AS (INSERT INTO meterseal.gateways (gateway, epoch, site, origin) \
         SELECT 'a', 'f' || n, 'plant-7', 'o' FROM generate_series(1, {NOTES}) n RETURNING id) \
         INSERT INTO meterseal.checkpoints SELECT id, 7, '', E'{note}', '' FROM g"
    ));
    gateway.identity.epoch = "e000000000000009".to_owned();
    gateway.open().await;
    gateway.witness(3, 0).await;
    let held = gateway.open().await.held;
    assert_eq!((held.len(), &held[0]), (NOTES, &gateway.checkpoint(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_stops_until_it_is_set_here() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    server.psql(&format!("ALTER ROLE {USER} PASSWORD 'another'"));
    let Err(Fault::Stopped(told)) = gateway.receiver.open(&gateway.identity).await else { panic!() };
    assert!(told.contains("`password`") && !told.contains(PASSWORD), "{told}");
    let Err(Fault::Stopped(told)) =
        Gateway::new(&Config { password: None, ..config(&server) }, "a").receiver.open(&gateway.identity).await
    else {
        panic!()
    };
    assert!(told.contains("set `password`"), "{told}");
    let nowhere = Config {
        database: "nowhere".to_owned(),
        password: Some(Zeroizing::new("another".to_owned())),
        ..config(&server)
    };
    let Err(Fault::Stopped(told)) = Gateway::new(&nowhere, "a").receiver.open(&gateway.identity).await else {
        panic!()
    };
    assert!(told.contains("no such database"), "{told}");
    server.psql(&format!("ALTER ROLE {USER} PASSWORD '{PASSWORD}'"));
    gateway.open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_nothing_is_waited_for() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    server.psql(&format!("ALTER DATABASE {DATABASE} SET default_transaction_read_only = on"));
    // As long as it only reads, it cannot even be told who comes.
    let Err(Fault::Away(told)) = gateway.receiver.open(&gateway.identity).await else { panic!() };
    assert!(told.contains("only reads"), "{told}");
    server.psql(&format!(
        "SET transaction_read_only = off; ALTER DATABASE {DATABASE} SET default_transaction_read_only = off"
    ));
    gateway.open().await;
    gateway.delivered(Stream::Readings, readings(1..=2)).await;
}

/// A disk of some size, where we may make one.
struct Disk(std::path::PathBuf);

impl Disk {
    fn at(path: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", options, "meterseal"]).arg(path).stderr(Stdio::null()).status();
        mount.is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }

    fn grow(&self, options: &str) {
        assert!(Command::new("mount").args(["-o", options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_waited_for() {
    let server = Postgres::start();
    let folder = server.folder().join("small");
    let Some(disk) = Disk::at(&folder, "size=20m") else {
        println!("no disk can be mounted here: this is for root");
        return;
    };
    server.give(&folder, 0o700);
    server.psql_in("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()));
    server.psql_in("postgres", &format!("CREATE DATABASE small OWNER {USER} TABLESPACE small"));
    let small = Config { database: "small".to_owned(), ..config(&server) };
    let mut gateway = Gateway::opened(&small, "a").await;
    let mut next = 1;
    let fault = loop {
        let answer = gateway.deliver(Stream::Readings, readings(next..next + 2_000)).await;
        if let Some(fault) = answer.fault {
            break fault;
        }
        next += 2_000;
        assert!(next < 1_000_000);
    };
    assert!(matches!(&fault, Fault::Away(told) if told.contains("is full")), "{fault}");
    let count = "SELECT count(*), max(seq) FROM meterseal.readings";
    assert_eq!(server.psql_in("small", count), format!("{0}|{0}", next - 1));
    disk.grow("remount,size=200m");
    assert_eq!(gateway.open().await.positions[&Stream::Readings].live, next - 1);
    gateway.delivered(Stream::Readings, readings(next..next + 2_000)).await;
    drop(server);
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_gateways_come_at_once_to_an_empty_database() {
    let server = Postgres::start();
    let config = config(&server);
    let mut gateways = JoinSet::new();
    for n in 0..12_u64 {
        let config = config.clone();
        gateways.spawn(async move {
            let mut gateway = Gateway::opened(&config, &format!("gateway-{n}")).await;
            let layout = crate::records::layout("main");
            for month in 0..6 {
                // Forward or back in time, so that all want other months at first.
                let month = if n % 2 == 0 { month } else { 5 - month };
                let record = |seq: u64| {
                    let mut taken = taken(seq, &layout);
                    taken.time = taken.time.plus_millis(i64::try_from(month).unwrap() * 31 * 86_400_000);
                    reading(taken)
                };
                let first = 1 + if n % 2 == 0 { month } else { 5 - month } * 100;
                gateway.delivered(Stream::Readings, (first..first + 100).map(record).collect()).await;
            }
        });
    }
    while let Some(done) = gateways.join_next().await {
        done.unwrap();
    }
    assert_eq!(server.psql("SELECT count(*), count(DISTINCT gateway) FROM meterseal.readings"), "7200|12");
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings_other"), "0");
    assert_eq!(server.psql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'meterseal.readings'::regclass"), "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_one_gateway_do_not_write_a_record_twice() {
    let server = Postgres::start();
    let config = config(&server);
    let mut both = JoinSet::new();
    for _ in 0..2 {
        let config = config.clone();
        both.spawn(async move {
            let mut gateway = Gateway::opened(&config, "a").await;
            for first in (1..5_000).step_by(500) {
                // Whoever comes second finds a cursor that he does not know.
                while let Some(fault) = gateway.deliver(Stream::Readings, readings(first..first + 500)).await.fault {
                    assert!(is_away(&Some(fault.clone())) && fault.to_string().contains("somebody else"), "{fault}");
                    gateway.open().await;
                }
            }
        });
    }
    while let Some(done) = both.join_next().await {
        done.unwrap();
    }
    assert_eq!(server.psql("SELECT count(*), count(DISTINCT seq) FROM meterseal.readings"), "5000|5000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_beyond_the_calendar_is_refused_and_any_other_is_taken() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    let layout = crate::records::layout("main");
    let at = |seq, ms| {
        let mut taken = taken(seq, &layout);
        taken.time = meterseal::model::Timestamp::from_millis(ms);
        reading(taken)
    };
    // 1970, 1999, 2100 lie where months have no part of their own.
    gateway.delivered(Stream::Readings, vec![at(1, 0), at(2, 946_684_799_999), at(3, 4_102_444_800_000)]).await;
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings_other"), "3");
    for beyond in [i64::MIN, -62_135_596_800_001, 253_402_300_800_000, i64::MAX] {
        let answer = gateway.deliver(Stream::Readings, vec![at(4, 5), at(5, beyond)]).await;
        let rejected: Vec<_> = answer.rejected.iter().map(|rejected| (rejected.seq, rejected.why)).collect();
        assert_eq!((answer.taken, answer.fault, &rejected[..]), (0, None, &[(5, Rejection::Invalid)][..]), "{beyond}");
    }
    // It is asked for the rest at once.
    gateway.delivered(Stream::Readings, vec![at(4, 5)]).await;
    // What is no record of its stream is found here.
    let sent = vec![event(1, r#"{"seq":1,"time":5}"#), event(2, "{}")];
    let answer = gateway.deliver(Stream::Blocks, sent).await;
    assert_eq!((answer.taken, answer.fault, answer.rejected.len()), (0, None, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_only_write_finds_what_an_administrator_made() {
    let server = Postgres::start();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/postgres/schema.sql");
    let Err(Fault::Stopped(told)) = ({
        server.psql("REVOKE CREATE ON DATABASE plant FROM PUBLIC; ALTER DATABASE plant OWNER TO postgres");
        let mut gateway = Gateway::new(&config(&server), "a");
        gateway.receiver.open(&gateway.identity.clone()).await
    }) else {
        panic!()
    };
    assert!(told.contains("schema.sql"), "{told}");
    server.psql(&fs::read_to_string(root).unwrap());
    let grant = "GRANT USAGE ON SCHEMA meterseal TO edge; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA meterseal TO edge";
    server.psql(grant);
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    // Without leave to add months, the default part takes all.
    gateway.delivered(Stream::Readings, readings(1..=10)).await;
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings_other"), "10");
    server.psql(
        "GRANT EXECUTE ON FUNCTION meterseal.add_month(text, date) TO edge; DELETE FROM meterseal.readings_other",
    );
    gateway.open().await;
    gateway.delivered(Stream::Readings, readings(11..=20)).await;
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings_2026_11"), "10");
    gateway.delivered(Stream::Blocks, vec![block(1, "main", 1, 0, &[])]).await;
    assert_eq!(gateway.witness(10, 0).await.unwrap().checkpoint.size, 10);
    assert_eq!(gateway.delivered(Stream::Readings, readings(11..=21)).await.repeated, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_verified() {
    let (server, other) = (Postgres::start_with_tls(), Postgres::start_with_tls());
    let with = |url: String, ca: Vec<u8>| {
        Config::from_url(&url, password(), Tls { ca: Some(ca), identity: None }, None).unwrap()
    };
    let mut gateway = Gateway::opened(&with(server.url(), server.ca()), "a").await;
    gateway.delivered(Stream::Readings, readings(1..=10)).await;
    let by = server
        .psql("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'edge'");
    assert_eq!(by, "1");
    let told = |fault: Result<_, Fault>| match fault {
        Err(Fault::Stopped(told)) => told,
        other => panic!("{other:?}"),
    };
    let mut fooled = Gateway::new(&with(server.url(), other.ca()), "a");
    assert!(told(fooled.receiver.open(&gateway.identity).await).contains("`ca`"));
    // A server without TLS, and one that demands it.
    let plain = Postgres::start();
    let mut gateway_of_plain = Gateway::new(&with(plain.url(), server.ca()), "a");
    let of_plain = told(gateway_of_plain.receiver.open(&gateway.identity).await);
    assert!(of_plain.contains("speaks no TLS") && !of_plain.contains("disable"), "{of_plain}");
    let mut without = Gateway::new(&config(&server), "a");
    assert!(told(without.receiver.open(&gateway.identity).await).contains("`sslmode`"));
}

/// A pooler in transaction mode, of one connection: each transaction may find another's traces.
struct Pgbouncer {
    port: u16,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Pgbouncer {
    fn start(server: &Postgres, size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (config, users) = (folder.path().join("pgbouncer.ini"), folder.path().join("users"));
        fs::write(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")).unwrap();
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {size}\nlogfile = {}/log\n",
            server.port,
            users.display(),
            folder.path().display()
        );
        fs::write(&config, text).unwrap();
        for path in [folder.path(), &config, &users] {
            server.give(path, 0o700);
        }
        let mut command = server.as_user("pgbouncer".as_ref());
        let process = command.arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.expect("pgbouncer is missing: run tests/setup");
        let pooler = Self { port, process, _folder: folder };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "pgbouncer does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        pooler
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_changes_connections_between_transactions_works() {
    let server = Postgres::start();
    let pooler = Pgbouncer::start(&server, 2);
    let config = through(&server, pooler.port);
    let mut gateways = JoinSet::new();
    for n in 0..6 {
        let config = config.clone();
        gateways.spawn(async move {
            let mut gateway = Gateway::opened(&config, &format!("gateway-{n}")).await;
            for first in (1..1_000).step_by(100) {
                gateway.delivered(Stream::Readings, readings(first..first + 100)).await;
                // Half of it comes again, through a temporary table.
                let again = gateway.delivered(Stream::Readings, readings(first + 50..first + 100)).await;
                assert_eq!(again.repeated, 50);
            }
            assert_eq!(gateway.witness(10, 0).await.unwrap().checkpoint.size, 10);
        });
    }
    while let Some(done) = gateways.join_next().await {
        done.unwrap();
    }
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings"), "6000");
    let left =
        server.psql("SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'edge'");
    assert_eq!(left, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_clock_decides_nothing() {
    let server = Postgres::start();
    let mut gateway = Gateway::opened(&config(&server), "a").await;
    // A clock that is wrong by a year is seen in what tells when somebody came, and nowhere else.
    let defaults = server.psql(
        "SELECT string_agg(table_name || '.' || column_name, ' ' ORDER BY 1) FROM (SELECT table_name::text, column_name::text \
         FROM information_schema.columns WHERE table_schema = 'meterseal' AND column_default LIKE '%now()%' ORDER BY 1, 2) d \
         (table_name, column_name)",
    );
    assert!(defaults.contains("gateways.first_seen") && defaults.contains("gateways.last_seen"), "{defaults}");
    assert!(
        !defaults.contains("readings") && !defaults.contains("blocks") && !defaults.contains("cursors"),
        "{defaults}"
    );
    gateway.delivered(Stream::Readings, readings(1..=3)).await;
    assert_eq!(server.psql("SELECT min(time) AT TIME ZONE 'UTC' FROM meterseal.readings"), "2026-11-21 00:00:01");
}
