//! A search for meters on one bus: asks each unit number politely, one request at a time, and says what stands there.
//!
//! `recognise` judges answers and `print` writes config; both are pure. `asker` asks, between the polls of a line that has
//! the bus already (`shared`) or over a connection of its own. Nothing is written to any device, and nothing is kept.

mod asker;
mod print;
mod recognise;
mod shared;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::modbus::{Limits, plan};
use super::sunspec;
use super::template::{Function, Register, Template};
use super::{RunningLine, Serial, Wire};
use crate::model::{Bus, FoundUnit, Identity, LineName, Parity, ScanEvent, ScanOrder, SerialSettings, Units};
use asker::{Asker, Ended};
use recognise::{Answer, Answers, Question};

pub use print::config;

/// Looks through the bus, and tells all of it: `End` or `Failed` comes last. Nobody who listens ends it; so does
/// dropping it.
pub async fn scan(
    order: ScanOrder,
    templates: Vec<Arc<Template>>,
    lines: Arc<Vec<RunningLine>>,
    tell: mpsc::Sender<ScanEvent>,
) {
    let line = shared::line_of(&order.bus, &lines).await;
    let order = match order.bus {
        Bus::Serial { device, settings } => {
            ScanOrder { bus: Bus::Serial { device: shared::stable_name(&device).await, settings }, ..order }
        }
        Bus::Tcp(_) | Bus::RtuOverTcp(_) => order,
    };
    let mut search = Search::new(order, templates, line, tell);
    let last = match search.all().await {
        Ok(()) => search.end(),
        Err(Over::Nobody) => return,
        Err(Over::Ended(ended)) if search.found.is_empty() => {
            ScanEvent::Failed { why: ended.to_string(), hint: ended.hint().to_owned() }
        }
        Err(Over::Ended(ended)) => {
            if search.note(format!("ended early: {ended}")).await.is_err() {
                return;
            }
            search.end()
        }
    };
    // Who has gone by now needs no end.
    search.tell.send(last).await.ok();
}

/// Requests that any device with something to say answers, be it with an exception: values of many meters, and the
/// place where SunSpec begins. Whoever is silent to both is taken for absent.
const PROBES: [Question; 2] = [
    Question { function: Function::Input, address: 0, count: 2 },
    Question { function: Function::Holding, address: 40_000, count: 2 },
];

/// A gateway that says by itself that a unit is away takes longer than a unit that is there. It is waited for so long,
/// until so many units were away.
const PATIENT: Duration = Duration::from_millis(1_500);
const LESSONS: u32 = 3;
const MOST_PATIENT: Duration = Duration::from_secs(3);

/// Questions to one unit that may stay without an answer.
const MOST_SILENCES: u32 = 20;

/// More than 247 units with all that can be asked of them.
const MOST_REQUESTS: u32 = 40_000;

/// Settings of serial ports, as common as they are; the first is that of most meters as they are delivered.
const USUAL_SETTINGS: [SerialSettings; 9] = [
    usual(9_600, Parity::None),
    usual(9_600, Parity::Even),
    usual(19_200, Parity::Even),
    usual(19_200, Parity::None),
    usual(38_400, Parity::None),
    usual(38_400, Parity::Even),
    usual(115_200, Parity::None),
    usual(4_800, Parity::None),
    usual(2_400, Parity::None),
];

const fn usual(baud: u32, parity: Parity) -> SerialSettings {
    SerialSettings { baud, parity, stop_bits: 1 }
}

/// So many units are tried with each of them: on a bus where all have the same settings, one that answers will do.
const SAMPLE: usize = 8;

/// Unit numbers that plants hardly ever use: a device that answers under all three does not look at the number.
const UNLIKELY_UNITS: [u8; 3] = [246, 203, 171];

/// Exceptions by which a meter says that it does not have what it is asked for.
const USUAL_REFUSALS: RangeInclusive<u8> = 1..=3;

/// Why a search ends before its end.
enum Over {
    /// Nobody listens any more.
    Nobody,
    Ended(Ended),
}

impl From<Ended> for Over {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// A serial port that says no settings is begun with the first that are usual.
fn wire(bus: &Bus) -> Wire {
    match bus {
        Bus::Tcp(address) => Wire::Tcp(address.clone()),
        Bus::RtuOverTcp(address) => Wire::RtuOverTcp(address.clone()),
        Bus::Serial { device, settings } => {
            let SerialSettings { baud, parity, stop_bits } = settings.unwrap_or(USUAL_SETTINGS[0]);
            Wire::Serial(Serial { device: device.into(), baud, parity, stop_bits })
        }
    }
}

struct Search {
    order: ScanOrder,
    templates: Vec<Arc<Template>>,
    asker: Asker,
    /// The line that has the bus already.
    line: Option<RunningLine>,
    tell: mpsc::Sender<ScanEvent>,
    wait: Duration,
    /// Units still to be away before `wait` is taken for long enough.
    lessons: u32,
    found: Vec<FoundUnit>,
    /// Units whose answer came too late, to be asked again.
    late: BTreeSet<u8>,
    /// What the gateway says in the place of units that are not there.
    of_nobody: Option<u8>,
    /// A device was found, and whether it answers under every number is known.
    knows_numbers: bool,
}

/// What is known of a unit.
#[derive(Default)]
struct Known {
    answers: Answers,
    /// Time and number of its answers.
    took: (Duration, u32),
    silences: u32,
}

impl Search {
    fn new(
        order: ScanOrder,
        templates: Vec<Arc<Template>>,
        line: Option<RunningLine>,
        tell: mpsc::Sender<ScanEvent>,
    ) -> Self {
        let (order, asker) = match &line {
            Some(line) => (shared::on_line(order, line), Asker::on_line(line.clone())),
            None => {
                let asker = Asker::new(wire(&order.bus));
                (order, asker)
            }
        };
        Self {
            wait: Duration::from_millis(order.timeout_ms.into()),
            lessons: if line.is_none() && matches!(order.bus, Bus::Tcp(_)) { LESSONS } else { 0 },
            asker,
            line,
            order,
            templates,
            tell,
            found: Vec::new(),
            late: BTreeSet::new(),
            of_nobody: None,
            knows_numbers: false,
        }
    }

    async fn all(&mut self) -> Result<(), Over> {
        if let Bus::Serial { device, settings: None } = &self.order.bus {
            let device = device.clone();
            self.try_settings(&device).await?;
        }
        let begun = ScanEvent::Begun { order: self.order.clone(), line: self.line_name().cloned() };
        self.say(begun).await?;
        let units = self.order.units.as_slice().to_vec();
        let of = u16::try_from(units.len()).unwrap_or(u16::MAX);
        for (asked, unit) in (0..).zip(&units) {
            let found = u16::try_from(self.found.len()).unwrap_or(u16::MAX);
            self.say(ScanEvent::Progress { unit: *unit, asked, of, found }).await?;
            if self.unit(*unit).await? || self.asker.requests > MOST_REQUESTS {
                return Ok(());
            }
        }
        let found: Vec<u8> = self.found.iter().map(|unit| unit.unit).collect();
        for unit in std::mem::take(&mut self.late) {
            if units.contains(&unit) && !found.contains(&unit) {
                self.unit(unit).await?;
            }
        }
        Ok(())
    }

    /// Finds the settings of a serial port by asking some units with each that is usual.
    async fn try_settings(&mut self, device: &str) -> Result<(), Over> {
        let sample: Vec<u8> = self.order.units.as_slice().iter().copied().take(SAMPLE).collect();
        for settings in USUAL_SETTINGS {
            self.take(device, settings);
            self.note(format!("trying {settings} on units {}", Units::from(sample.as_slice()))).await?;
            for unit in &sample {
                if self.answers(*unit, &mut Known::default()).await? {
                    self.note(format!("unit {unit} answers at {settings}")).await?;
                    return Ok(());
                }
            }
        }
        let [first, ..] = USUAL_SETTINGS;
        self.take(device, first);
        self.note(format!("none of them answers; asking all units at {first}")).await
    }

    fn take(&mut self, device: &str, settings: SerialSettings) {
        self.order.bus = Bus::Serial { device: device.to_owned(), settings: Some(settings) };
        self.asker.reopen(wire(&self.order.bus));
    }

    /// Looks at one unit; true when there is no use in looking at others.
    async fn unit(&mut self, unit: u8) -> Result<bool, Over> {
        let mut known = Known::default();
        if !self.answers(unit, &mut known).await? {
            return Ok(false);
        }
        let devices = self.sunspec(unit, &mut known).await?;
        if devices.is_empty() {
            self.question(unit, &mut known).await?;
        }
        let under_any = if self.knows_numbers { false } else { self.answers_under_any(unit, &known).await? };
        self.knows_numbers = true;
        if devices.is_empty() {
            let found = self.judged(unit, &known, under_any);
            self.tell_unit(found).await?;
        }
        for (device, number) in devices.iter().zip(1..) {
            let number = (devices.len() > 1).then_some(number);
            let found = FoundUnit { device: number, under_any_unit: under_any, ..self.of_device(unit, device, &known) };
            self.tell_unit(found).await?;
        }
        // Real units may stand behind a gateway that refuses in the name of those that are not there.
        Ok(under_any && self.of_nobody.is_none())
    }

    /// Whether somebody is there.
    async fn answers(&mut self, unit: u8, known: &mut Known) -> Result<bool, Over> {
        for probe in PROBES {
            let patient = self.lessons > 0;
            let wait = if patient { self.wait.max(PATIENT) } else { self.wait };
            let heard = self.asker.ask(unit, &probe, wait).await?;
            for (unit, after) in self.asker.take_late() {
                self.late.insert(unit);
                self.needs(after);
            }
            if heard.away || heard.answer != Answer::Nothing {
                self.needs(heard.took);
            }
            if heard.away {
                self.lessons = self.lessons.saturating_sub(1);
                return Ok(false);
            }
            match heard.answer {
                Answer::Nothing => self.lessons = self.lessons.saturating_sub(1),
                Answer::Refused(code) if self.of_nobody == Some(code) => {}
                answer => {
                    known.took = (heard.took, 1);
                    known.answers.insert(probe, answer);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// An answer took so long: those that follow may too.
    fn needs(&mut self, took: Duration) {
        if took > self.wait {
            self.wait = (took * 5 / 4 + Duration::from_millis(50)).min(MOST_PATIENT);
        }
    }

    /// The SunSpec devices behind a unit; none where it is no such unit.
    async fn sunspec(&mut self, unit: u8, known: &mut Known) -> Result<Vec<sunspec::Device>, Over> {
        let mut walk = sunspec::Walk::new();
        while let Some(read) = walk.next() {
            let question = Question { function: Function::Holding, address: read.address, count: read.count };
            match self.answer(unit, question, known).await? {
                Answer::Words(words) => walk.answered(&words),
                Answer::Refused(code) => walk.refused(code),
                // Asked once, it is not asked again.
                Answer::Nothing => walk.failed(),
            }
        }
        Ok(walk.devices().unwrap_or_default())
    }

    /// Asks all that may tell what the unit is.
    async fn question(&mut self, unit: u8, known: &mut Known) -> Result<(), Over> {
        loop {
            let questions = recognise::next(&self.templates, &known.answers);
            if questions.is_empty() {
                return Ok(());
            }
            for question in questions {
                self.answer(unit, question, known).await?;
            }
        }
    }

    /// What a unit answers to a question, which it is asked once. One that keeps silent too often is asked no more.
    async fn answer(&mut self, unit: u8, question: Question, known: &mut Known) -> Result<Answer, Over> {
        if let Some(answer) = known.answers.get(&question) {
            return Ok(answer.clone());
        }
        let mut answer = Answer::Nothing;
        if known.silences < MOST_SILENCES {
            let heard = self.asker.ask(unit, &question, self.wait).await?;
            answer = heard.answer;
            if answer == Answer::Nothing {
                known.silences += 1;
            } else {
                known.took = (known.took.0 + heard.took, known.took.1 + 1);
            }
        }
        known.answers.insert(question, answer.clone());
        Ok(answer)
    }

    /// Whether a device that was found as `unit` says the same under numbers that nobody uses. Also learns what is said
    /// in the name of those that are not there.
    async fn answers_under_any(&mut self, unit: u8, known: &Known) -> Result<bool, Over> {
        let identity = recognise::next(&self.templates, &Answers::new());
        let said = || known.answers.iter().filter(|(_, answer)| **answer != Answer::Nothing);
        let words = || said().filter(|(_, answer)| matches!(answer, Answer::Words(_)));
        let steady = words().find(|(question, _)| identity.contains(question));
        let Some((question, own)) = steady.or_else(|| words().next()).or_else(|| said().next()) else {
            return Ok(false);
        };
        let mut others = Vec::new();
        for other in UNLIKELY_UNITS.into_iter().filter(|other| *other != unit) {
            let answer = self.asker.ask(other, question, self.wait).await?.answer;
            if answer == Answer::Nothing {
                return Ok(false);
            }
            others.push(answer);
        }
        let same = |other: &Answer| match (other, own) {
            (Answer::Words(words), Answer::Words(own)) => steady.is_none() || words == own,
            (other, own) => other == own,
        };
        let under_any = others.iter().all(same);
        if let Some(Answer::Refused(code)) = others.first()
            && others.iter().all(|other| other == &Answer::Refused(*code))
            && (under_any || !USUAL_REFUSALS.contains(code))
        {
            self.of_nobody = Some(*code);
        }
        Ok(under_any)
    }

    /// A unit by its answers.
    fn judged(&self, unit: u8, known: &Known, under_any_unit: bool) -> FoundUnit {
        let recognised = recognise::recognise(&self.templates, &known.answers);
        let heard = if recognised.candidates.is_empty() { recognise::heard(&known.answers) } else { Vec::new() };
        let best = recognised.candidates.first().map(|best| best.template.as_str());
        let template = self.templates.iter().find(|template| Some(template.name.as_str()) == best);
        FoundUnit {
            unit,
            device: None,
            candidates: recognised.candidates,
            identity: recognised.identity,
            heard,
            under_any_unit,
            meter: None,
            poll_ms: template.map_or(0, |template| self.poll_ms(template, &template.registers, known)),
        }
    }

    /// A SunSpec device by its models.
    fn of_device(&self, unit: u8, device: &sunspec::Device, known: &Known) -> FoundUnit {
        let candidate = recognise::of_device(&self.templates, device);
        let template = candidate.as_ref().and_then(|(place, _)| self.templates.get(*place));
        let poll_ms =
            template.map_or(0, |template| self.poll_ms(template, &sunspec::registers(device, template), known));
        let models = device.models.iter().map(|model| model.id).collect();
        FoundUnit {
            unit,
            device: None,
            candidates: candidate.into_iter().map(|(_, candidate)| candidate).collect(),
            identity: Identity { sunspec_models: models, ..device.identity.clone() },
            heard: Vec::new(),
            under_any_unit: false,
            meter: None,
            poll_ms,
        }
    }

    fn line_name(&self) -> Option<&LineName> {
        self.line.as_ref().map(|running| &running.line.name)
    }

    async fn tell_unit(&mut self, found: FoundUnit) -> Result<(), Over> {
        let meter = self.line.as_ref().and_then(|line| shared::meter_of(line, &found));
        let found = FoundUnit { meter, ..found };
        self.found.push(found.clone());
        self.say(ScanEvent::Unit(found)).await
    }

    /// About how long one poll takes: as many requests as the template needs, each as long as this unit took for a
    /// short one, and the time of the longer answers on the wire.
    fn poll_ms(&self, template: &Template, registers: &[Register], known: &Known) -> u32 {
        let limits = Limits { max_registers: template.max_registers, max_hole: template.max_hole };
        let requests = plan(registers, limits, &BTreeSet::new(), &BTreeSet::new());
        let each = known.took.0.as_secs_f64() * 1_000.0 / f64::from(known.took.1.max(1));
        // An answer that takes so long has come over a serial line somewhere; 9600 baud is the usual one.
        let baud = match &self.order.bus {
            Bus::Serial { settings: Some(settings), .. } => Some(settings.baud),
            Bus::Serial { settings: None, .. } | Bus::RtuOverTcp(_) => Some(9_600),
            Bus::Tcp(_) => (each > 15.0).then_some(9_600),
        };
        let of_register = baud.map_or(0.0, |baud| 22_000.0 / f64::from(baud));
        let all: f64 = requests.iter().map(|request| each + f64::from(request.count) * of_register).sum();
        Duration::try_from_secs_f64(all / 1_000.0)
            .map_or(u32::MAX, |all| u32::try_from(all.as_millis()).unwrap_or(u32::MAX))
    }

    fn end(&self) -> ScanEvent {
        ScanEvent::End {
            found: u16::try_from(self.found.len()).unwrap_or(u16::MAX),
            requests: self.asker.requests,
            config: print::config(&self.order, self.line_name(), &self.found),
        }
    }

    async fn note(&mut self, text: String) -> Result<(), Over> {
        self.say(ScanEvent::Note { text }).await
    }

    async fn say(&mut self, event: ScanEvent) -> Result<(), Over> {
        self.tell.send(event).await.map_err(|_| Over::Nobody)
    }
}
