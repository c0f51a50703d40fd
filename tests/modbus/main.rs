//! The sources against devices that speak Modbus/TCP well, badly, late or not at all.

// clippy.toml allows it in test functions; here it is meant for what they call as well.
#![allow(clippy::unwrap_used)]

mod bus;
mod cases;
mod device;
mod peer;
mod plant;
mod pty;
mod serial;
mod sunspec;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use device::{Act, Asked, Device, Manner};
use meterseal::clock::Clock;
use meterseal::model::{Condition, MeterStatus, Number, PollReport, StoredReading};
use meterseal::sources::{BlockGrid, Config, PollFailed, poll_once, template};
use plant::{Plant, line, map, meter, registers, ten};
use tokio::time::Instant;

const OFTEN: Duration = Duration::from_millis(100);
const RARELY: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

/// `(address, value)` of a reading from `Device`, whose words say where they are from.
fn is_right(reading: &StoredReading, unit: u64) -> bool {
    reading.values.iter().all(|(place, number)| *number == Number::U64(unit * 1000 + u64::from(*place)))
}

fn values(report: &PollReport) -> BTreeMap<u16, Option<f64>> {
    report.values.iter().map(|polled| (polled.register, polled.value)).collect()
}

#[tokio::test]
async fn a_meter_is_read_and_its_readings_are_stored() {
    let device = Device::start(|_: &Asked| Act::Answer).await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![meter("m1", 1, &ten(), OFTEN)])]).await;
    let mut ready = Vec::new();
    for _ in 0..5 {
        let reading = plant.reading(&mut ready).await;
        assert_eq!((reading.layout.meter.as_str(), reading.values.len()), ("m1", 10));
        assert!(reading.layout.simulated && is_right(&reading, 1), "{reading:?}");
    }
    let known = plant.until_meter("m1", "an answering meter", |meter| meter.answers >= 5).await;
    assert_eq!((known.condition, known.problem, known.polls), (Condition::Answering, None, known.answers));
    plant.end().await;
    let asked = device.asked();
    assert!(asked.iter().all(|asked| (asked.function, asked.address, asked.count) == (4, 0, 10)));
    assert_eq!(device.connections(), 1);
}

#[tokio::test]
async fn a_late_answer_never_reaches_the_next_request() {
    // Unit 1 answers its third request after its time-out, when unit 2 is being asked.
    let device = Device::start(|asked: &Asked| match (asked.unit, asked.number) {
        (1, 4..8) => Act::Late(230 * MS),
        (2, 4..8) => Act::Late(60 * MS),
        _ => Act::Answer,
    })
    .await;
    let meters = vec![meter("m1", 1, &ten(), OFTEN), meter("m2", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    let status = plant
        .until("late answers and later ones in time", |status| {
            status.lines.values().any(|line| line.late_answers > 0)
                && status.meters.values().all(|meter| meter.answers > 20)
        })
        .await;
    assert_eq!(status.lines.values().map(|line| line.connects).collect::<Vec<_>>(), [1]);
    let readings = plant.end().await;
    assert!(readings.len() > 20);
    for reading in &readings {
        let unit = if reading.layout.meter.as_str() == "m1" { 1 } else { 2 };
        assert!(is_right(reading, unit), "{reading:?}");
    }
}

#[tokio::test]
async fn a_slow_unit_gets_its_time_out_back_after_it_was_shrunk() {
    // Answers in 170 ms, within the time-out of 200 ms, which some seconds of silence shrink to 50 ms.
    let away = Arc::new(AtomicBool::new(true));
    let is_away = away.clone();
    let device = Device::start(
        move |_: &Asked| {
            if is_away.load(Ordering::Relaxed) { Act::Silence } else { Act::Late(170 * MS) }
        },
    )
    .await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![meter("slow", 1, &ten(), OFTEN)])]).await;
    plant.until_meter("slow", "two time-outs", |meter| meter.timeouts >= 2).await;
    away.store(false, Ordering::Relaxed);
    plant.until_meter("slow", "answers again", |meter| meter.answers > 5).await;
    plant.end().await;
}

#[tokio::test]
async fn wrong_units_and_lengths_are_told_and_cost_neither_the_connection_nor_the_others() {
    let device = Device::start(|asked: &Asked| match asked.unit {
        1 => Act::As(7),
        2 => Act::Words(vec![1, 2, 3]),
        3 => Act::Pdu(vec![3, 20, 0, 0]),
        _ => Act::Answer,
    })
    .await;
    let meters = (1..5).map(|unit| meter(&format!("m{unit}"), unit, &ten(), OFTEN));
    // Unit 3 answers with a count that does not fit, which leaves the connection in doubt: it is on its own line.
    let (other, meters): (Vec<_>, Vec<_>) = meters.partition(|meter| meter.unit == 3);
    let lines = vec![line("a", &device.address, meters), line("b", &device.address, other)];
    let mut plant = Plant::start(lines).await;
    let status = plant
        .until("all were asked", |status| {
            status.meters.values().all(|meter| meter.polls > 5 || meter.problem.is_some())
                && status.meters.values().any(|meter| meter.answers > 10)
        })
        .await;
    let known = |id: &str| &status.meters[&id.parse().unwrap()];
    let told = |id: &str| known(id).problem.clone().unwrap_or_default();
    assert_eq!(told("m1"), "registers 0 to 9: unit 7 answered in the place of unit 1");
    assert_eq!(told("m2"), "registers 0 to 9: 3 registers came where 10 were asked for");
    assert!(told("m3").contains("20 bytes of values follow, and 2 do"), "{}", told("m3"));
    assert_eq!((known("m1").condition, known("m1").answers), (Condition::Refusing, 0));
    assert_eq!((known("m4").condition, told("m4")), (Condition::Answering, String::new()));
    assert_eq!(status.lines[&"a".parse().unwrap()].connects, 1);
    plant.end().await;
}

#[tokio::test]
async fn a_unit_that_spoils_the_connection_each_time_backs_off_alone() {
    let device =
        Device::start(|asked: &Asked| if asked.unit == 1 { Act::Pdu(vec![4, 20, 0, 0]) } else { Act::Answer }).await;
    let meters = vec![meter("bad", 1, &ten(), OFTEN), meter("good", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    plant.until_meter("good", "answers", |meter| meter.answers > 40).await;
    let known = plant.until_meter("bad", "nonsense", |meter| meter.bad_answers > 0).await;
    assert_eq!((known.condition, known.polls), (Condition::Refusing, known.bad_answers));
    assert!(known.polls <= 6, "{} polls in some 4 s", known.polls);
    plant.end().await;
}

#[tokio::test]
async fn a_unit_slower_than_its_time_out_is_told() {
    let device = Device::start(|asked: &Asked| if asked.unit == 1 { Act::Late(260 * MS) } else { Act::Answer }).await;
    let meters = vec![meter("slow", 1, &ten(), OFTEN), meter("quick", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    let known = plant
        .until_meter("slow", "a remedy", |meter| {
            meter.problem.as_ref().is_some_and(|why| why.contains("raise `timeout`"))
        })
        .await;
    assert_eq!((known.condition, known.answers), (Condition::Silent, 0));
    plant.until_meter("quick", "answers", |meter| meter.answers > 20).await;
    plant.end().await;
}

#[tokio::test]
async fn a_port_that_is_no_modbus_is_told() {
    let clock = Clock::system();
    let problem = async |act: fn() -> Act| {
        let device = Device::start(move |_: &Asked| act()).await;
        let meter = meter("m", 1, &ten(), OFTEN);
        match poll_once(&line("x", &device.address, vec![meter.clone()]), &meter, &clock).await {
            Err(PollFailed::NoAnswer { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    };
    let web = problem(|| Act::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n<html>".to_vec())).await;
    assert!(web.contains("web server") && web.contains("not that of Modbus/TCP"), "{web}");
    let garbage = problem(|| Act::Raw((100..200).collect())).await;
    assert!(garbage.contains("no Modbus/TCP frame"), "{garbage}");
    let half = problem(|| Act::Half).await;
    assert!(half.contains("closed the connection in the middle of an answer"), "{half}");
    let closed = problem(|| Act::Close).await;
    assert!(closed.contains("closed the connection without an answer"), "{closed}");
    let silent = problem(|| Act::Silence).await;
    assert!(silent.contains("no answer within 200ms"), "{silent}");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told_and_found_when_somebody_does() {
    let device = Device::start(|_: &Asked| Act::Answer).await;
    let address = device.end().await;
    let mut plant = Plant::start(vec![line("msb", &address, vec![meter("m", 1, &ten(), OFTEN)])]).await;
    let known = plant.until_meter("m", "a problem", |meter| meter.problem.is_some()).await;
    assert_eq!(known.condition, Condition::Silent);
    let why = known.problem.unwrap();
    assert!(why.starts_with(&format!("no connection to {address}: ")) && why.contains("refused"), "{why}");
    assert!(matches!(plant.poll("m").await, Err(PollFailed::NoAnswer { why, .. }) if why.contains("refused")));
    let _device = Device::start_at(&address, Manner::default(), |_: &Asked| Act::Answer).await;
    let known = plant.until_meter("m", "answers", |meter| meter.answers > 3).await;
    assert_eq!((known.condition, known.problem), (Condition::Answering, None));
    plant.end().await;
}

#[tokio::test]
async fn answers_in_single_bytes_are_answers() {
    let device = Device::start(|_: &Asked| Act::Bytewise).await;
    let meter = meter("m", 9, &ten(), OFTEN);
    let report = poll_once(&line("x", &device.address, vec![meter.clone()]), &meter, &Clock::system()).await.unwrap();
    let wanted: BTreeMap<u16, Option<f64>> = (0..10).map(|at| (at, Some(9000.0 + f64::from(at)))).collect();
    assert_eq!(values(&report), wanted);
    assert!(report.values.iter().all(|polled| polled.words == [9000 + polled.register]));
}

#[tokio::test]
async fn a_connection_that_closes_in_mid_frame_now_and_then_is_opened_again() {
    let device = Device::start(|asked: &Asked| if asked.number % 10 == 9 { Act::Half } else { Act::Answer }).await;
    let meters = vec![meter("m1", 1, &ten(), OFTEN), meter("m2", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    let status = plant.until("answers", |status| status.meters.values().all(|meter| meter.answers > 25)).await;
    assert!(status.lines.values().all(|line| line.connects > 2 && line.connected));
    assert!(plant.end().await.iter().all(|reading| is_right(reading, 1) || is_right(reading, 2)));
}

#[tokio::test]
async fn one_refused_register_is_found_and_left_out_and_the_connection_stays() {
    let refuses = |asked: &Asked| asked.unit == 1 && (asked.address..asked.address + asked.count).contains(&6);
    let device = Device::start(move |asked: &Asked| if refuses(asked) { Act::Exception(2) } else { Act::Answer }).await;
    let meters = vec![meter("m1", 1, &ten(), OFTEN), meter("m2", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    let known = plant.until_meter("m1", "answers", |meter| meter.answers > 10).await;
    assert_eq!((known.refused_registers, known.condition), (vec![6], Condition::Answering));
    assert!(known.exceptions <= 10, "{} exceptions", known.exceptions);
    let report = plant.poll("m1").await.unwrap();
    let wanted = (0..10).map(|at| (at, (at != 6).then(|| 1000.0 + f64::from(at)))).collect();
    assert_eq!(values(&report), wanted);
    assert_eq!(report.values[6].absent.as_deref(), Some("exception 2 (illegal data address)"));
    assert_eq!((plant.poll("m2").await.unwrap().values.len(), device.connections()), (10, 1));
    plant.end().await;
}

#[tokio::test]
async fn a_meter_that_refuses_everything_says_so() {
    let device = Device::start(|_: &Asked| Act::Exception(1)).await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![meter("m", 1, &ten(), OFTEN)])]).await;
    let known = plant.until_meter("m", "a refusal", |meter| meter.condition == Condition::Refusing).await;
    assert_eq!(known.refused_registers, (0..10).collect::<Vec<_>>());
    let problem = known.problem.unwrap();
    assert!(problem.contains("exception 1 (illegal function)") || problem == "the meter refuses every register");
    let report = plant.poll("m").await.unwrap();
    assert!(report.values.iter().all(|polled| polled.absent.as_deref() == Some("exception 1 (illegal function)")));
    plant.end().await;
}

#[tokio::test]
async fn each_value_tells_why_its_own_request_failed() {
    let cut =
        map("function = \"input\"\ntype = \"u16\"\n".to_owned() + &registers(0..3) + "z_count = { address = 9 }\n");
    let device = Device::start(|asked: &Asked| match (asked.unit, asked.address) {
        (1, 0) => Act::Exception(4),
        (1, _) => Act::Exception(6),
        _ => Act::Exception(4),
    })
    .await;
    let meters = vec![meter("m1", 1, &cut, OFTEN), meter("m2", 2, &cut, OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    let known = plant.until_meter("m1", "a refusal", |meter| meter.condition == Condition::Refusing).await;
    assert_eq!(known.problem.as_deref(), Some("registers 0 to 2: exception 4 (server device failure)"));
    let known = plant.until_meter("m2", "a refusal", |meter| meter.condition == Condition::Refusing).await;
    assert_eq!(known.problem.as_deref(), Some("all requests: exception 4 (server device failure)"));
    let report = plant.poll("m1").await.unwrap();
    let absent: Vec<_> = report.values.iter().map(|polled| polled.absent.as_deref().unwrap()).collect();
    let failure = "exception 4 (server device failure)";
    assert_eq!(absent, [failure, failure, failure, "exception 6 (server device busy)"]);
    plant.end().await;
}

#[tokio::test]
async fn a_busy_meter_is_asked_later_and_nothing_is_left_out() {
    let device = Device::start(|asked: &Asked| match asked.number % 3 {
        0 => Act::Exception(6),
        1 => Act::Exception(5),
        _ => Act::Answer,
    })
    .await;
    let rarely = vec![meter("m", 1, &ten(), RARELY)];
    let mut plant = Plant::start(vec![line("msb", &device.address, rarely)]).await;
    let known = plant.until_meter("m", "an answer", |meter| meter.answers == 1).await;
    assert_eq!((known.exceptions, known.refused_registers, known.timeouts), (2, vec![], 0));
    assert_eq!(device.connections(), 1);
    plant.end().await;
}

#[tokio::test]
async fn a_unit_behind_a_gateway_that_does_not_answer_backs_off_alone() {
    let device = Device::start(|asked: &Asked| if asked.unit == 1 { Act::Exception(11) } else { Act::Answer }).await;
    let meters = vec![meter("away", 1, &ten(), OFTEN), meter("there", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    plant.until_meter("there", "answers", |meter| meter.answers > 40).await;
    let known = plant.until_meter("away", "silence", |meter| meter.condition == Condition::Silent).await;
    assert!(known.polls <= 5, "{} polls in some 4 s", known.polls);
    assert!(known.problem.unwrap().contains("exception 11"));
    assert_eq!(device.connections(), 1);
    plant.end().await;
}

#[tokio::test]
async fn two_dead_units_of_thirty_two_leave_the_healthy_their_polls() {
    let manner = Manner { bus: Some(20 * MS), ..Manner::default() };
    let device =
        Device::start_at(
            "127.0.0.1:0",
            manner,
            |asked: &Asked| {
                if asked.unit.is_multiple_of(16) { Act::Silence } else { Act::Answer }
            },
        )
        .await;
    let second = Duration::from_secs(1);
    let meters = (1..=32).map(|unit| meter(&format!("m{unit}"), unit, &ten(), second)).collect();
    let mut gateway = line("gateway", &device.address, meters);
    gateway.timeout = second;
    let mut plant = Plant::start(vec![gateway]).await;
    // The first rounds find out who is dead; from then on they cost at most one healthy poll in twenty.
    plant.until_meter("m16", "some time-outs", |meter| meter.timeouts >= 3).await;
    let from = tokio::time::Instant::now();
    let before = plant.status.borrow().meters[&"m1".parse().unwrap()].answers;
    plant.until_meter("m1", "polls for some seconds", |meter| meter.answers >= before + 8).await;
    plant.end().await;
    let asked: Vec<_> =
        device.asked().iter().filter(|asked| asked.at > from).map(|asked| (asked.unit, asked.at)).collect();
    let (polls, missed, widest) = missed_for_the_dead(&asked, second);
    assert!(polls >= 6 * 30 && missed * 20 <= polls, "{missed} polls beside {polls} were missed");
    assert!(widest < 1500 * MS, "{widest:?} between two polls of one unit");
}

/// Of the healthy ones of 32 units, of which each 16th is dead: polls that came, polls that were missed while a dead one
/// was asked, and the widest such gap. What a machine with other things to do misses by itself does not count.
fn missed_for_the_dead(asked: &[(u8, Instant)], interval: Duration) -> (usize, usize, Duration) {
    let is_dead = |unit: u8| unit.is_multiple_of(16);
    let (mut polls, mut missed, mut widest) = (0, 0, Duration::ZERO);
    for unit in (1..=32).filter(|unit| !is_dead(*unit)) {
        let own: Vec<_> = (0..asked.len()).filter(|at| asked[*at].0 == unit).collect();
        polls += own.len();
        for pair in own.windows(2) {
            if asked[pair[0]..pair[1]].iter().any(|(unit, _)| is_dead(*unit)) {
                let gap = asked[pair[1]].1 - asked[pair[0]].1;
                missed += usize::try_from(((gap + interval / 2).as_millis() / interval.as_millis()).saturating_sub(1))
                    .unwrap();
                widest = widest.max(gap);
            }
        }
    }
    (polls, missed, widest)
}

#[tokio::test]
async fn a_unit_that_returns_is_found() {
    let away = Arc::new(AtomicBool::new(true));
    let is_away = away.clone();
    let device =
        Device::start(
            move |asked: &Asked| {
                if asked.unit == 1 && is_away.load(Ordering::Relaxed) { Act::Silence } else { Act::Answer }
            },
        )
        .await;
    let meters = vec![meter("m1", 1, &ten(), RARELY), meter("m2", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    plant.until_meter("m1", "time-outs", |meter| meter.timeouts >= 4).await;
    away.store(false, Ordering::Relaxed);
    let back = tokio::time::Instant::now();
    let known = plant.until_meter("m1", "an answer", |meter| meter.answers > 0).await;
    assert!(back.elapsed() < Duration::from_secs(30) && known.condition == Condition::Answering);
    assert_eq!(plant.status.borrow().lines.values().next().unwrap().connects, 1, "others answered all the time");
    plant.end().await;
}

#[tokio::test]
async fn a_meter_is_asked_what_it_is_once_and_again_when_it_is_back() {
    let (away, serial) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU16::new(7)));
    let (is_away, number) = (away.clone(), serial.clone());
    let device = Device::start(move |asked: &Asked| match asked.address {
        _ if is_away.load(Ordering::Relaxed) => Act::Silence,
        100 => Act::Words(vec![0, number.load(Ordering::Relaxed)]),
        102 => Act::Exception(2),
        _ => Act::Answer,
    })
    .await;
    let text = "title = \"T\"\nevidence = \"made up\"\n[identity]\nfunction = \"holding\"\n\
                serial_number = { address = 100, type = \"u32\" }\nmodel = { address = 102, type = \"u16\" }\n\
                [registers]\na_count = { address = 0, type = \"u16\", function = \"input\" }\n";
    let template = Arc::new(template::parse("t", text).unwrap());
    let mut plant =
        Plant::start(vec![line("msb", &device.address, ["m", "part"].map(|id| meter(id, 1, &template, OFTEN)).into())])
            .await;
    let says = |number: &'static str| {
        move |meter: &MeterStatus| {
            meter.identity.as_ref().is_some_and(|identity| identity.serial_number.as_deref() == Some(number))
        }
    };
    let told = plant.until_meter("m", "the serial number", says("7")).await;
    assert_eq!(told.identity.unwrap().model, None, "what a meter refuses is absent");
    assert!(told.problem.is_none() && told.exceptions == 0, "it is no trouble of the meter");
    plant.until_meter("part", "the serial number", says("7")).await;
    away.store(true, Ordering::Relaxed);
    serial.store(8, Ordering::Relaxed);
    plant.until_meter("m", "silence", |meter| meter.condition == Condition::Silent && meter.timeouts > 1).await;
    assert_eq!(device.asked().iter().filter(|asked| asked.address == 100).count(), 2, "not at each poll");
    away.store(false, Ordering::Relaxed);
    for id in ["m", "part"] {
        plant.until_meter(id, "the other serial number", says("8")).await;
    }
    plant.end().await;
}

#[tokio::test]
async fn a_line_on_which_nobody_answers_is_connected_anew() {
    // A half-open socket: the first connection takes requests and never answers, as after a gateway's reboot.
    let device = Device::start(|asked: &Asked| if asked.connection == 0 { Act::Silence } else { Act::Answer }).await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![meter("m", 1, &ten(), OFTEN)])]).await;
    let from = tokio::time::Instant::now();
    plant.until_meter("m", "answers", |meter| meter.answers > 3).await;
    assert!(from.elapsed() >= Duration::from_secs(10), "not before 10 s of silence");
    assert_eq!(device.connections(), 2);
    plant.end().await;
}

#[tokio::test]
async fn a_gateway_that_reboots_is_found_again() {
    let device = Device::start(|_: &Asked| Act::Answer).await;
    let meters = vec![meter("m1", 1, &ten(), OFTEN), meter("m2", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    plant
        .until("answers", |status| status.meters.len() == 2 && status.meters.values().all(|meter| meter.answers > 3))
        .await;
    let address = device.end().await;
    plant.until("a line that is down", |status| status.lines.values().all(|line| !line.connected)).await;
    let _device = Device::start_at(&address, Manner::default(), |_: &Asked| Act::Answer).await;
    let status = plant
        .until("answers again", |status| {
            status.lines.values().all(|line| line.connected && line.problem.is_none())
                && status.meters.values().all(|meter| meter.condition == Condition::Answering)
        })
        .await;
    assert!(status.lines.values().all(|line| line.connects == 2));
    plant.end().await;
}

#[tokio::test]
async fn a_second_connection_that_is_refused_or_never_served_costs_no_meter() {
    for manner in [Manner { most: 1, ..Manner::default() }, Manner { serves_first_only: true, ..Manner::default() }] {
        let device = Device::start_at("127.0.0.1:0", manner, |_: &Asked| Act::Answer).await;
        let meters = (1..5).map(|unit| meter(&format!("m{unit}"), unit, &ten(), OFTEN)).collect();
        let mut both = line("both", &device.address, meters);
        both.parallel = 2;
        let mut plant = Plant::start(vec![both]).await;
        let status = plant
            .until("answers of all", |status| {
                status.meters.len() == 4 && status.meters.values().all(|meter| meter.answers > 15)
            })
            .await;
        assert!(status.meters.values().all(|meter| meter.condition == Condition::Answering));
        plant.end().await;
    }
}

#[tokio::test]
async fn two_connections_share_the_meters() {
    let device = Device::start(|_: &Asked| Act::Late(50 * MS)).await;
    let meters = (1..5).map(|unit| meter(&format!("m{unit}"), unit, &ten(), OFTEN)).collect();
    let mut both = line("both", &device.address, meters);
    both.parallel = 2;
    let mut plant = Plant::start(vec![both]).await;
    plant
        .until("answers of all", |status| {
            status.meters.len() == 4 && status.meters.values().all(|meter| meter.answers > 5)
        })
        .await;
    plant.end().await;
    let asked = device.asked();
    let on = |connection| asked.iter().filter(|asked| asked.connection == connection).count();
    assert!(on(0) > 5 && on(1) > 5, "{} and {} requests", on(0), on(1));
}

#[tokio::test]
async fn whoever_asks_for_a_poll_gets_a_whole_one() {
    let device = Device::start(|_: &Asked| Act::Late(90 * MS)).await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![meter("m", 1, &ten(), OFTEN)])]).await;
    plant.until_meter("m", "an answer", |meter| meter.answers > 0).await;
    for _ in 0..5 {
        let (one, two, three) = tokio::join!(plant.poll("m"), plant.poll("m"), plant.poll("m"));
        for report in [one, two, three] {
            let report = report.unwrap();
            assert!(report.values.len() == 10 && report.values.iter().all(|polled| polled.words.len() == 1));
        }
    }
    plant.end().await;
}

#[tokio::test]
async fn a_request_that_alone_gets_no_answer_costs_the_others_nothing() {
    let two = map("function = \"input\"\ntype = \"u16\"\nmax_registers = 5\n".to_owned() + &registers(0..10));
    let device = Device::start(|asked: &Asked| if asked.address == 0 { Act::Silence } else { Act::Answer }).await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![meter("m", 1, &two, OFTEN)])]).await;
    let known = plant.until_meter("m", "answers", |meter| meter.answers > 30).await;
    assert!(known.timeouts < 8, "{} time-outs", known.timeouts);
    plant.end().await;
}

#[tokio::test]
async fn polls_of_a_line_are_spread_and_none_is_made_up_for() {
    let device = Device::start(|_: &Asked| Act::Answer).await;
    let second = Duration::from_secs(1);
    let meters = (1..=10).map(|unit| meter(&format!("m{unit}"), unit, &ten(), second)).collect();
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    plant.until_meter("m10", "three answers", |meter| meter.answers >= 3).await;
    plant.end().await;
    let asked = device.asked();
    let closest = asked.windows(2).map(|pair| pair[1].at - pair[0].at).min().unwrap();
    assert!(closest > 40 * MS, "two polls {closest:?} apart, and 100 ms would be even");
    let unit: Vec<&Asked> = asked.iter().filter(|asked| asked.unit == 3).collect();
    assert!(unit.windows(2).all(|pair| (pair[1].at - pair[0].at).abs_diff(second) < 60 * MS));
}

#[tokio::test]
async fn a_long_interval_has_a_poll_beside_each_block_border() {
    let device = Device::start(|_: &Asked| Act::Answer).await;
    let lines = vec![line("msb", &device.address, vec![meter("m", 1, &ten(), RARELY)])];
    let block = BlockGrid { every_ms: 2_000, offset_ms: 700 };
    let mut plant = Plant::start_with(Config { lines, block, ..Config::default() }).await;
    let mut ready = Vec::new();
    plant.reading(&mut ready).await; // the first one comes when the line begins
    for _ in 0..3 {
        let after = (plant.reading(&mut ready).await.time.as_millis() - 700).rem_euclid(2_000);
        assert!(after < 300, "{after} ms after the border");
    }
    plant.end().await;
}

#[tokio::test]
async fn a_changed_line_begins_anew_and_the_others_go_on() {
    let device = Device::start(|_: &Asked| Act::Answer).await;
    let other = Device::start(|_: &Asked| Act::Answer).await;
    let kept = line("kept", &device.address, vec![meter("k", 1, &ten(), OFTEN)]);
    let changed = line("changed", &other.address, vec![meter("c", 1, &ten(), OFTEN)]);
    let mut plant = Plant::start(vec![kept.clone(), changed.clone()]).await;
    plant
        .until("answers", |status| status.meters.len() == 2 && status.meters.values().all(|meter| meter.answers > 3))
        .await;
    let mut again = changed;
    again.meters.push(meter("d", 2, &ten(), OFTEN));
    let lines = vec![kept.clone(), again];
    plant.config.send_replace(Arc::new(Config { lines, ..Config::default() }));
    let status = plant
        .until("three meters answer", |status| {
            status.meters.len() == 3 && status.meters.values().all(|meter| meter.answers > 3)
        })
        .await;
    let connects = |name: &str| status.lines[&name.parse().unwrap()].connects;
    assert_eq!((connects("kept"), device.connections(), other.connections()), (1, 1, 2));
    plant.config.send_replace(Arc::new(Config { lines: vec![kept], ..Config::default() }));
    let before = status.attempts;
    let status = plant.until("one meter is left", |status| status.meters.len() == 1).await;
    assert!(status.attempts >= before, "the count never goes back");
    assert!(matches!(plant.poll("c").await, Err(PollFailed::Unknown(_))));
    plant.end().await;
}
