//! The daemon starts where something is missing: the network, room on the disk, a part of the config. What it can do
//! without that, it does, and it says the rest.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use meterseal::agent::{Agent, LogLines, Setup};
use meterseal::clock::Clock;
use meterseal::config::Checked;
use meterseal::model::{ClockState, Timestamp};
use meterseal::store::Store;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::meter::FakeMeter;
use super::plant::{Daemon, PATIENCE, Plant, line, through_seq};
use super::pty::Pty;
use super::small_disk::Disk;

/// A meter on a serial line: each register of it is 0, and its answers are right.
fn answering(pty: Pty) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // All of it: the port hangs up when nobody holds it open.
        let mut pty = pty;
        let mut request = [0; 8];
        while pty.out.read_exact(&mut request).await.is_ok() {
            let words = u16::from_be_bytes([request[4], request[5]]);
            let mut answer = vec![request[0], request[1], u8::try_from(words * 2).unwrap()];
            answer.resize(3 + usize::from(words) * 2, 0);
            answer.extend(check_sum(&answer).to_le_bytes());
            pty.into.write_all(&answer).await.unwrap();
        }
    });
    tasks
}

/// Modbus over serial line V1.02, section 6.2.2.
fn check_sum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xA001 } else { sum >> 1 })
    })
}

/// What a page on this machine's own address says of its health, in the network of a process.
fn health(network_of: u32, page: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args(["-t", &network_of.to_string(), "-n", "curl", "-sS", "-m", "20"]).arg(format!("{page}api/health"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a network of its own can be made here; else the reason is printed.
fn may_unshare() -> bool {
    let told = Command::new("unshare").args(["-n", "-m", "true"]).output();
    if told.as_ref().is_ok_and(|told| told.status.success()) {
        return true;
    }
    println!("left out, as no network can be made here: {told:?}");
    false
}

/// With `dark`, a name that is looked up takes as long as it can.
async fn starts_without_network(dark: bool) {
    let pty = Pty::new();
    let serial = line("rs485", pty.port.display(), &[("here", 1)]).replace("tcp = ", "serial = ");
    let _meter = answering(pty);
    let lines = serial
        + &line("far", "gateway.plant.example:502", &[("far", 1)])
        + "[[mqtt]]\nname = \"broker\"\nurl = \"mqtt://broker.plant.example\"\n\
           [[mqtt.subscribe]]\ntopic = \"a/#\"\nformat = \"acrel-adw\"\ncategory = \"CONS\"\n\
           [[upstream]]\nname = \"cloud\"\nkind = \"https\"\nurl = \"https://backend.example/v1/sync\"\n\
           [alerts]\nwebhook = { url = \"https://hook.example/\", body = '{\"text\":\"{{text}}\"}' }\n";
    let (plant, _) = Plant::new(&lines);
    let systemd = plant.store().parent().unwrap().join("notify");
    let ready = UnixDatagram::bind(&systemd).unwrap();
    ready.set_read_timeout(Some(PATIENCE)).unwrap();
    let run = plant.command(&["run"]);
    let mut command = Command::new("unshare");
    // A server that takes each question and answers none, for as long as this process holds its standard input.
    let names = plant.store().parent().unwrap().join("resolv.conf");
    std::fs::write(&names, "nameserver 127.0.0.1\n").unwrap();
    let server = "import os, socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                  s.bind((\"127.0.0.1\", 53)); os.fork() or sys.stdin.read()";
    let server =
        format!("mount --bind {} /etc/resolv.conf && python3 -c '{server}' 2>/dev/null || exit 9;", names.display());
    let script = format!("ip link set lo up; {} exec \"$@\"", if dark { &server } else { "" });
    command.args(["-n", "-m", "sh", "-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
    command.stdin(Stdio::piped());
    command.env("NOTIFY_SOCKET", &systemd).env_remove("RUNTIME_DIRECTORY").env_remove("WATCHDOG_USEC");
    let mut daemon = Daemon::start(command, plant.socket());
    let mut told = [0; 256];
    let size = ready.recv(&mut told).unwrap();
    assert!(told[..size].starts_with(b"READY=1"), "{}", String::from_utf8_lossy(&told[..size]));
    let here = |status: &Value| status["sources"]["meters"]["here"]["condition"] == "answering";
    let status = daemon.status(|status| through_seq(status) > 3 && here(status)).await;
    assert_eq!(status["sources"]["lines"]["far"]["connected"], false);
    let page = status["page"].as_str().unwrap();
    assert!(health(daemon.child.id(), page).contains("\"status\":\"degraded\""));
    // What hangs in a name that is looked up holds up the end no more than the start.
    daemon.signal(Signal::TERM);
    let (ended, said) = daemon.ended();
    assert!(ended.success() && !said.contains("panic"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_network_serial_meters_are_read_and_the_page_answers() {
    if may_unshare() {
        starts_without_network(false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_answers_for_hold_up_neither_start_nor_end() {
    if may_unshare() {
        starts_without_network(true).await;
    }
}

/// A meter, and a daemon that has stored readings of it on this disk.
pub async fn storing_on(disk: &Disk) -> (FakeMeter, Plant, Daemon) {
    let meter = FakeMeter::start().await;
    let plant = Plant::at(disk.path().join("store"), &line("a", meter.address, &[("one", 1)]));
    plant.init();
    let mut daemon = plant.daemon();
    daemon.status(|status| through_seq(status) > 0).await;
    (meter, plant, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_it_starts_says_so_and_goes_on_when_there_is_room() {
    let Some(disk) = Disk::mount(24) else { return };
    let (_meter, plant, daemon) = storing_on(&disk).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    disk.fill();
    let mut daemon = plant.daemon();
    let full = |status: &Value| status["store"]["reserve_used"] == true || !status["store"]["unwritable"].is_null();
    let status = daemon.status(full).await;
    let told = plant.output(&["health"]);
    let said = String::from_utf8([told.stdout, told.stderr].concat()).unwrap();
    assert!(said.contains("the disk") && said.contains("full"), "{said}");
    let text = health(daemon.child.id(), status["page"].as_str().unwrap());
    assert!(text.contains("\"degraded\"") || text.contains("\"failing\""), "{text}");
    disk.make_room();
    let well = |status: &Value| status["store"]["unwritable"].is_null() && status["store"]["reserve_used"] == false;
    let before = through_seq(&daemon.status(well).await);
    daemon.status(|status| through_seq(status) > before).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());

    // A former version left the lock empty: with no room for a name in it, commands find the daemon all the same, and it is
    // written down once there is room.
    let lock = plant.store().join("lock");
    std::fs::File::options().write(true).open(&lock).unwrap().set_len(0).unwrap();
    disk.fill();
    let mut daemon = plant.daemon();
    daemon.status(full).await;
    let keys = plant.output(&["key", "show"]);
    assert!(keys.status.success(), "{}", String::from_utf8_lossy(&keys.stderr));
    disk.make_room();
    let before = through_seq(&daemon.status(well).await);
    daemon.status(|status| through_seq(status) > before).await;
    let named = format!("{{\"pid\":{},", daemon.child.id());
    assert!(std::fs::read_to_string(&lock).unwrap().starts_with(&named));
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(std::fs::read_to_string(&lock).unwrap().trim(), "");
    assert_ne!(lock.metadata().unwrap().len(), 0, "the next one has no place for its name on a full disk");

    // With no reserve left there is not even room to open it: it says so, and systemd tries it again.
    std::fs::remove_file(plant.store().join("reserve")).unwrap();
    disk.fill();
    let refused = plant.output(&["run"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("is full: make room, and writing goes on by itself"), "{said}");
    disk.make_room();
    plant.daemon().status(|status| through_seq(status) > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_part_is_off_and_told_and_the_rest_runs() {
    let meter = FakeMeter::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (cert, key) = (file("cert.pem", "no certificate"), file("key.pem", "no key"));
    let upstream = |name: &str, more: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\nkind = \"https\"\nurl = \"https://{}:9/\"\n{more}\n",
            Ipv4Addr::LOCALHOST
        )
    };
    let lines = line("a", meter.address, &[("one", 1)])
        + &line("c", "/dev/serial/by-id/none", &[("gone", 1)]).replace("tcp = ", "serial = ")
        + &upstream("no-credential", "token = { credential = \"none\" }");
    let (plant, token) = Plant::new(&lines);
    let with_tls = std::fs::read_to_string(plant.config()).unwrap().replace(
        "listen = \"127.0.0.1:0\"",
        &format!("listen = \"127.0.0.1:0\"\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}"),
    );
    std::fs::write(plant.config(), with_tls).unwrap();
    let mut daemon = plant.daemon();
    let gone = |status: &Value| status["sources"]["lines"]["c"]["problem"].is_string();
    let status = daemon.status(|status| through_seq(status) > 2 && gone(status)).await;
    let problems = status["problems"].to_string();
    assert!(problems.contains("\"line c is down: "), "{problems}");
    assert!(problems.contains("no-credential") && problems.contains("self-signed"), "{problems}");
    assert!(status["sources"]["lines"]["c"]["problem"].as_str().unwrap().contains("plugged in"), "{status}");
    let page = status["page"].as_str().unwrap();
    let bearer = format!("Authorization: Bearer {token}");
    let meters = format!("{page}api/meters");
    let output = Command::new("curl").args(["-sSk", "-H", &bearer, &meters]).output().unwrap();
    assert!(
        String::from_utf8(output.stdout).unwrap().contains("\"one\""),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_in_1970_is_stored_at_once_and_dated_when_the_clock_is_right() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1)]));
    let Checked { config, kept, .. } = plant.load();
    let (config, clock) = (config.unwrap(), Clock::manual(Timestamp::from_millis(5_000)));
    clock.set_state(ClockState::Unsynchronised);
    let store = Store::open(config.store.clone(), clock.clone(), Some(plant.socket())).unwrap();
    let (path, log) = (Some(plant.config()), LogLines::default());
    let setup = Setup { config, kept, path, clock: clock.clone(), refused: Vec::new(), log };
    let agent = Agent::start(setup, store).await.unwrap();
    let reader = agent.reader().clone();
    let committed = reader.committed();
    let moved = |by: u64| clock.advance(Duration::from_millis(by));
    super::until(async || {
        moved(100);
        *committed.borrow() > 5
    })
    .await;
    assert!(clock.now().as_millis() < 86_400_000, "it is 1970 still");
    assert!(reader.sealed_through().await.unwrap().is_empty());

    let right = Timestamp::from_millis(1_795_219_200_000);
    let before = clock.now();
    clock.step_to(right);
    clock.set_state(ClockState::Synchronised);
    super::until(async || {
        moved(1_000);
        !reader.redates().await.unwrap().is_empty()
    })
    .await;
    let redates = reader.redates().await.unwrap();
    let step = right.millis_since(before);
    assert!(redates.iter().all(|redate| redate.offset_ms == step), "{redates:?} are not moved by {step}");
    agent.stop().await.unwrap();
}
