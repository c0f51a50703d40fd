//! The sources on serial lines where everything happens that happens on serial lines.

use std::collections::BTreeMap;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::Condition;
use meterseal::sources::{Line, PollFailed, poll_once};

use crate::bus::{Asked, Bus, Said};
use crate::plant::{Plant, map, meter, on_serial, registers, ten};
use crate::pty::Pty;
use crate::{MS, OFTEN, is_right, missed_for_the_dead};

/// At once, in one piece.
fn now(bytes: Vec<u8>) -> Said {
    vec![(Duration::ZERO, bytes)]
}

/// What a bad line makes of a request: each in turn, the harmless ones more often. `withheld` are answers that are still
/// to come, by unit.
fn troubles(asked: &Asked, withheld: &mut BTreeMap<u8, Vec<u8>>) -> Said {
    let right = asked.answer();
    let half = right.len() / 2;
    let mut said = match asked.number * 7 % 31 {
        _ if withheld.contains_key(&asked.unit) => now([withheld.remove(&asked.unit).unwrap(), right].concat()),
        // Noise before, within and after the answer.
        0 => now([&[0xFF, 0, asked.unit, 4], &right[..]].concat()),
        1 => now([&right[..half], &[0x55], &right[half..]].concat()),
        2 => now([&right[..], &[0, 0, asked.unit]].concat()),
        // Halves of it, alone and before the whole.
        3 => now(right[..half].to_vec()),
        4 => now([&right[..half], &right].concat()),
        // Two speak at once.
        5 => now(right.iter().enumerate().map(|(at, byte)| byte & u8::try_from(at * 37 % 256).unwrap()).collect()),
        6 => now([asked.answer(), asked.exception(6)].concat().into_iter().step_by(2).collect()),
        // Late, later, and too late.
        7 => vec![(120 * MS, right)],
        8 => vec![(260 * MS, right)],
        9 => vec![(450 * MS, right)],
        10 => vec![(1300 * MS, right)],
        // Nothing, and with the next answer in one piece; and behind that of a unit that nobody asked.
        11 | 12 => {
            withheld.insert(asked.unit, right);
            Vec::new()
        }
        13 => now([Asked { unit: 9, ..*asked }.answer(), right].concat()),
        14 => now(asked.exception(6)),
        // In lumps, as from a USB adapter.
        15 => right.chunks(3).zip(1..).map(|(lump, at)| (16 * MS * at, lump.to_vec())).collect(),
        _ => now(right),
    };
    // Another adapter hears itself, on every second day.
    if asked.number / 100 % 2 == 1 {
        said.insert(0, (Duration::ZERO, asked.frame.to_vec()));
    }
    said
}

#[tokio::test]
async fn on_a_bad_line_no_value_is_wrong_and_all_meters_are_read() {
    let mut withheld = BTreeMap::new();
    let bus = Bus::start(move |asked| troubles(asked, &mut withheld));
    // Two requests of one length each, so that one could pass for the other.
    let halves = map("function = \"input\"\ntype = \"u16\"\nmax_registers = 5\n".to_owned() + &registers(0..10));
    let meters = (1..5).map(|unit| meter(&format!("m{unit}"), unit, &halves, OFTEN)).collect();
    let mut plant = Plant::start(vec![on_serial("bad", &bus.port, meters)]).await;
    let (mut ready, mut counted) = (Vec::new(), BTreeMap::new());
    while counted.len() < 4 || counted.values().any(|readings| *readings < 15) {
        let reading = plant.reading(&mut ready).await;
        let unit = reading.layout.meter.as_str()[1..].parse().unwrap();
        assert!(is_right(&reading, unit), "{reading:?}");
        *counted.entry(unit).or_insert(0) += 1;
    }
    let status = plant.status.borrow().clone();
    let line = status.lines.values().next().unwrap();
    assert!(line.late_answers > 3 && line.damaged_answers > 10, "{line:?}");
    assert_eq!(line.connects, 1, "nothing of it costs the connection");
    plant.end().await;
}

#[tokio::test]
async fn an_adapter_that_is_plugged_in_again_is_found_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("usb-adapter");
    let bus = Bus::named(&name, |asked| now(asked.answer()));
    let mut plant = Plant::start(vec![on_serial("a", &name, vec![meter("m1", 1, &ten(), OFTEN)])]).await;
    plant.until_meter("m1", "answers", |meter| meter.answers > 3).await;
    drop(bus);
    std::fs::remove_file(&name).unwrap();
    let known = plant
        .until_meter("m1", "a problem", |meter| meter.problem.as_ref().is_some_and(|why| why.contains("plugged in")))
        .await;
    let why =
        format!("no connection to {} (115200 8N1): there is no such port: is the adapter plugged in?", name.display());
    assert_eq!((known.condition, known.problem), (Condition::Silent, Some(why)));
    // Another port of the system, under the same name.
    let _other = Pty::new();
    let bus = Bus::named(&name, |asked| now(asked.answer()));
    let before = known.answers;
    let known = plant.until_meter("m1", "answers again", |meter| meter.answers > before + 3).await;
    assert_eq!((known.condition, known.problem), (Condition::Answering, None));
    assert!(bus.asked().len() > 3);
    let readings = plant.end().await;
    assert!(readings.iter().all(|reading| is_right(reading, 1)));
}

#[tokio::test]
async fn a_port_that_cannot_be_opened_says_why() {
    let bus = Bus::start(|asked| now(asked.answer()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let meter = meter("m", 1, &ten(), OFTEN);
    let told = async |line: &Line| match poll_once(line, &meter, &Clock::system()).await {
        Err(PollFailed::NoAnswer { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let why = told(&on_serial("x", &folder.path().join("none"), vec![])).await;
    assert!(why.ends_with("there is no such port: is the adapter plugged in?"), "{why}");
    let why = told(&on_serial("x", &file, vec![])).await;
    assert!(why.ends_with("this is no serial port"), "{why}");
    let line = on_serial("x", &bus.port, vec![meter.clone()]);
    assert_eq!(poll_once(&line, &meter, &Clock::system()).await.unwrap().values.len(), 10);
    let mut plant = Plant::start(vec![line.clone()]).await;
    plant.until_meter("m", "answers", |meter| meter.answers > 0).await;
    let why = told(&line).await;
    assert!(why.ends_with("another program has this port open"), "{why}");
    plant.end().await;
    assert_eq!(poll_once(&line, &meter, &Clock::system()).await.unwrap().values.len(), 10);
}

#[tokio::test]
async fn two_dead_units_of_thirty_two_on_a_serial_line_leave_the_healthy_their_polls() {
    // Each answer takes 20 ms, so that the line is used by two thirds.
    let bus =
        Bus::start(|asked| if asked.unit.is_multiple_of(16) { Vec::new() } else { vec![(18 * MS, asked.answer())] });
    let second = Duration::from_secs(1);
    let meters = (1..=32).map(|unit| meter(&format!("m{unit}"), unit, &ten(), second)).collect();
    let mut line = on_serial("bus", &bus.port, meters);
    line.timeout = second;
    let mut plant = Plant::start(vec![line]).await;
    // The first rounds find out who is dead; from then on they cost at most one healthy poll in twenty.
    plant.until_meter("m16", "some time-outs", |meter| meter.timeouts >= 3).await;
    let from = tokio::time::Instant::now();
    let before = plant.status.borrow().meters[&"m1".parse().unwrap()].answers;
    plant.until_meter("m1", "polls for some seconds", |meter| meter.answers >= before + 8).await;
    plant.end().await;
    let asked: Vec<_> =
        bus.asked().iter().filter(|asked| asked.at > from).map(|asked| (asked.unit, asked.at)).collect();
    let (polls, missed, _) = missed_for_the_dead(&asked, second);
    assert!(polls >= 6 * 30 && missed * 20 <= polls, "{missed} polls beside {polls} were missed");
}
