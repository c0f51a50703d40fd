//! Every folder of `tests/meters/` is one meter: a template, the registers that it gives, and what comes of them.
//!
//! `template.toml` is the template; without one the folder's name begins with that of a shipped one. `registers.txt`
//! has the words from an address on, such as `input 0x34: 44FA 0000`; all others are refused with exception 2.
//! `input alone 0x0B: 0155` is what a register holds only when nothing else is asked for with it.
//! `meter.toml` may set `device`, `category`, `invert`, `ct_ratio` and `vt_ratio`. `expected.txt` is what a poll gives,
//! with its advice and what the meter says of itself if there is any, or `fault.txt` what is wrong with the template.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::Ratio;
use meterseal::sources::poll_once;
use meterseal::sources::template::{self, Fault, Template};

use crate::device::{Act, Asked, Device};
use crate::plant::{line, meter};

#[tokio::test]
async fn every_meter_reads_as_expected() {
    let mut cases: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meters"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let (file, got) = match template_of(case, name) {
            Err(faults) => ("fault.txt", told(&faults)),
            Ok(template) => ("expected.txt", polled(case, template).await),
        };
        let expected = fs::read_to_string(case.join(file)).unwrap_or_default();
        if got != expected {
            wrong.push(format!("{name}: {file} says\n{expected}and this came\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, _) in template::shipped() {
        let is_tested = |case: &PathBuf| case.file_name().unwrap().to_str().unwrap().starts_with(name);
        assert!(cases.iter().any(is_tested), "no case for {name}");
    }
}

fn template_of(case: &Path, name: &str) -> Result<Template, Vec<Fault>> {
    if let Ok(text) = fs::read_to_string(case.join("template.toml")) {
        return template::parse(name, &text);
    }
    let shipped = template::shipped().iter().filter(|(shipped, _)| name.starts_with(shipped));
    let (name, text) = shipped.max_by_key(|(shipped, _)| shipped.len()).expect("a template.toml, or a shipped name");
    template::parse(name, text)
}

fn told(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{}: {}; {}\n", fault.key, fault.why, fault.mend)).collect()
}

async fn polled(case: &Path, template: Template) -> String {
    let (registers, alone) = registers(&fs::read_to_string(case.join("registers.txt")).unwrap());
    let device = Device::start(move |asked: &Asked| {
        if let (1, Some(word)) = (asked.count, alone.get(&(asked.function, asked.address))) {
            return Act::Words(vec![*word]);
        }
        let wanted = asked.address..asked.address + asked.count;
        let words: Option<Vec<u16>> = wanted.map(|at| registers.get(&(asked.function, at)).copied()).collect();
        words.map_or(Act::Exception(2), Act::Words)
    })
    .await;
    let mut meter = meter("m", 1, &Arc::new(template), Duration::from_secs(1));
    let settings: toml::Table = fs::read_to_string(case.join("meter.toml")).unwrap_or_default().parse().unwrap();
    for (key, value) in &settings {
        let ratio = || Ratio::parse(value.as_str().unwrap()).unwrap();
        match key.as_str() {
            "device" => meter.device = u8::try_from(value.as_integer().unwrap()).unwrap(),
            "category" => meter.category = value.as_str().unwrap().parse().unwrap(),
            "invert" => meter.invert = value.as_bool().unwrap(),
            "ct_ratio" => meter.ct_ratio = ratio(),
            "vt_ratio" => meter.vt_ratio = ratio(),
            other => panic!("{}: unknown key {other}", case.display()),
        }
    }
    let report = poll_once(&line("x", &device.address, vec![meter.clone()]), &meter, &Clock::system()).await.unwrap();
    let lines = report.values.iter().map(|polled| match (polled.value, &polled.absent) {
        (Some(value), _) => format!("{} {value}\n", polled.quantity),
        (None, why) => format!("{} absent: {}\n", polled.quantity, why.as_deref().unwrap_or("")),
    });
    let advice = report.advice.iter().map(|advice| format!("advice: {advice}\n"));
    let identity = report.identity.clone().unwrap_or_default();
    let identity = [
        ("manufacturer", identity.manufacturer),
        ("model", identity.model),
        ("serial number", identity.serial_number),
        ("firmware", identity.firmware),
    ];
    let identity = identity.into_iter().filter_map(|(item, said)| Some(format!("{item}: {}\n", said?)));
    lines.chain(advice).chain(identity).collect()
}

type Registers = BTreeMap<(u8, u16), u16>;

/// By function and address: those that answer in any request, and those that answer alone.
pub fn registers(text: &str) -> (Registers, Registers) {
    let hex = |digits: &str| u16::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap();
    let (mut registers, mut alone) = (Registers::new(), Registers::new());
    for line in text.lines().map(|line| line.split('#').next().unwrap().trim()).filter(|line| !line.is_empty()) {
        let (place, words) = line.split_once(':').unwrap();
        let (function, address) = place.split_once(' ').unwrap();
        let function = if function == "input" { 4 } else { 3 };
        let (registers, address) = match address.strip_prefix("alone ") {
            Some(address) => (&mut alone, address),
            None => (&mut registers, address),
        };
        for (at, word) in (hex(address)..).zip(words.split_whitespace()) {
            registers.insert((function, at), hex(word));
        }
    }
    (registers, alone)
}
