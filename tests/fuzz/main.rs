//! The decoders of MQTT payloads and of InfluxDB's answers against inputs that nobody meant to send: real ones, cut up
//! and put together again; those of MQTT on one decoder after the other, with its memory of earlier messages.
//!
//! `cargo test --test fuzz` tries some 20 000 inputs for each decoder, always the same. `FUZZ=10000000` tries as many as
//! it says, `FUZZ_SEED` others; `-- shelly` only that decoder. `-- pace` tells what a byte costs in large payloads.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

mod influx;
mod mutate;
mod seeds;

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use meterseal::model::{ClockState, Number, Stamp, Timestamp};
use meterseal::sources::mqtt::formats::{Decoder, Message, Settled};
use mutate::Dice;
use seeds::Target;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if args.iter().any(|arg| arg == "pace") {
        seeds::targets().iter().for_each(pace);
        return ExitCode::SUCCESS;
    }
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (inputs, seed) = (number("FUZZ").unwrap_or(20_000), number("FUZZ_SEED").unwrap_or(1));
    // As the test harness is called, with a filter.
    let wanted = |name: &str| {
        args.is_empty() || args.iter().any(|arg| name.contains(arg.as_str()) || "fuzz".contains(arg.as_str()))
    };
    let mut code = ExitCode::SUCCESS;
    let mut tell = |told: Result<String, String>| match told {
        Ok(told) => println!("{told}"),
        Err(why) => {
            println!("{why}");
            code = ExitCode::FAILURE;
        }
    };
    seeds::targets().iter().filter(|target| wanted(target.name)).for_each(|target| tell(attack(target, inputs, seed)));
    influx::targets().iter().filter(|target| wanted(target.name)).for_each(|of| tell(influx::attack(of, inputs, seed)));
    code
}

/// Inputs that one decoder takes before the next begins.
const LIFE: u64 = 1_000;

/// 2026-11-21T09:30:00Z.
const NOON: i64 = 1_795_253_400_000;

fn attack(target: &Target, inputs: u64, seed: u64) -> Result<String, String> {
    let began = Instant::now();
    let mut dice = Dice::new(seed);
    let mut run = Run::new(target, 0);
    let (mut samples, mut faults) = (0_u64, 0_u64);
    for input in 0..inputs {
        if input % LIFE == 0 {
            run = Run::new(target, input / LIFE);
        }
        let (topic, payload) = mutate::message(target, &mut dice);
        let retained = dice.one_in(8);
        run.pass_time(&mut dice);
        let settled = catch_unwind(AssertUnwindSafe(|| run.take(input, &topic, &payload, retained, &mut dice)));
        let settled = settled.unwrap_or_else(|_| Err("a panic".to_owned())).map_err(|why| {
            let bytes = payload.escape_ascii();
            format!("{} input {input} of FUZZ_SEED={seed}: {why}\ntopic {topic:?}\npayload {bytes}", target.name)
        })?;
        samples += u64::from(settled.iter().any(|settled| !settled.samples.is_empty()));
        faults += u64::from(settled.iter().any(|settled| settled.fault.is_some()));
    }
    // Inputs that only ever fail, or never do, would test nothing behind the first check.
    if samples < inputs / 10 || faults < inputs / 20 {
        return Err(format!("{}: of {inputs} inputs only {samples} gave samples, {faults} faults", target.name));
    }
    let took = began.elapsed().as_secs_f64();
    let each = took * 1e6 / f64::from(u32::try_from(inputs).unwrap());
    Ok(format!(
        "{:8} {inputs} inputs, {samples} with samples, {faults} with faults, {took:.1} s, {each:.1} µs each",
        target.name
    ))
}

/// One decoder and what is known of the messages it holds.
struct Run {
    decoder: Decoder,
    at: Stamp,
    /// Whether the messages that are not settled yet are retained ones, by ticket.
    held: HashMap<u64, bool>,
}

impl Run {
    fn new(target: &Target, life: u64) -> Self {
        let at = Stamp { time: Timestamp::from_millis(NOON), since_boot_ms: 0, clock: ClockState::Synchronised };
        let formats = &target.formats;
        let format = formats[usize::try_from(life).unwrap() % formats.len()].clone();
        Self { decoder: Decoder::new(format, target.filter), at, held: HashMap::new() }
    }

    /// Clocks go on, and the wall clock is set now and then.
    fn pass_time(&mut self, dice: &mut Dice) {
        self.at.since_boot_ms += dice.roll(300);
        if dice.one_in(200) {
            self.at.clock = if dice.one_in(2) { ClockState::Synchronised } else { ClockState::Unsynchronised };
            let times = [NOON, 0, i64::MIN, i64::MAX, NOON + 3_600_000];
            self.at.time = Timestamp::from_millis(*dice.pick(&times));
        }
    }

    fn take(
        &mut self,
        ticket: u64,
        topic: &str,
        payload: &[u8],
        retained: bool,
        dice: &mut Dice,
    ) -> Result<Vec<Settled>, String> {
        self.held.insert(ticket, retained);
        let mut settled = self.decoder.take(ticket, &Message { topic, payload, retained }, &self.at);
        if dice.one_in(16) {
            settled.extend(self.decoder.expire(self.at.since_boot_ms));
        }
        for settled in &settled {
            let retained = self.held.remove(&settled.ticket).ok_or("a message settled twice, or never taken")?;
            check(settled, retained)?;
        }
        if self.held.len() > 8 || self.held.is_empty() != self.decoder.next_expiry().is_none() {
            return Err(format!("{} messages are held", self.held.len()));
        }
        if dice.one_in(500) {
            self.decoder.drop_held();
            self.held.clear();
        }
        Ok(settled)
    }
}

/// What the decoders promise of every message.
fn check(settled: &Settled, retained: bool) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {settled:?}"));
    if settled.samples.len() > 256 {
        return wrong("too many samples");
    }
    for sample in &settled.samples {
        let quantities: HashSet<_> = sample.values.iter().map(|value| value.quantity.as_str()).collect();
        if quantities.len() != sample.values.len() || !(1..=255).contains(&sample.values.len()) {
            return wrong("no values, too many, or a quantity twice");
        }
        if !(1..=128).contains(&sample.meter.len()) || sample.meter.chars().any(char::is_control) {
            return wrong("a name that cannot be shown");
        }
        let years = 1_577_836_800_000..=4_102_444_800_000;
        if sample.time.map_or(retained, |time| !years.contains(&time.as_millis())) {
            return wrong("a time that cannot be");
        }
        for value in &sample.values {
            let finite = match value.number {
                Number::F32(number) => number.is_finite() && (number != 0.0 || number.is_sign_positive()),
                Number::F64(number) => number.is_finite() && (number != 0.0 || number.is_sign_positive()),
                Number::I64(_) | Number::U64(_) => true,
            };
            if !finite {
                return wrong("a number that is none");
            }
        }
    }
    match &settled.fault {
        Some(fault) if fault.beginning.len() > 4 * 64 + 3 || !fault.beginning.trim_end_matches('…').is_ascii() => {
            wrong("a beginning that cannot be shown")
        }
        Some(fault) if fault.to_string().len() > 200 => wrong("a reason without an end"),
        _ => Ok(()),
    }
}

/// What a byte costs in payloads of growing size: one that says the same again and again, and one that nests.
fn pace(target: &Target) {
    for size in [10_000, 100_000, 1_000_000] {
        let mut costs = Vec::new();
        for (topic, payload) in seeds::large(target, size) {
            let mut run = Run::new(target, 0);
            let message = Message { topic, payload: &payload, retained: false };
            let mut best = f64::MAX;
            for ticket in 0..5 {
                let began = Instant::now();
                let settled = run.decoder.take(ticket, &message, &run.at);
                best = best.min(began.elapsed().as_secs_f64());
                drop(settled);
            }
            costs.push(format!("{:.1}", best * 1e9 / f64::from(u32::try_from(payload.len()).unwrap())));
        }
        println!("{:8} {size:>8} bytes: {} ns a byte", target.name, costs.join(", "));
    }
}
