//! What a unit is, judged by its answers alone: by what it says of itself, else by values that look like those of a
//! meter on the mains.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Candidate, Identity, RecognisedBy, Unit};
use crate::sources::modbus::{exception, number, said, tell_identity};
use crate::sources::template::{Expected, Form, Function, IdentityRegister, Item, Register, Template};
use crate::sources::{plausible, sunspec};

/// One read request. Templates that have the same register in common ask for it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub function: Function,
    pub address: u16,
    pub count: u16,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Words(Vec<u16>),
    /// By this exception.
    Refused(u8),
    /// Silence, or nothing of use.
    Nothing,
}

/// All that one unit was asked.
pub type Answers = BTreeMap<Question, Answer>;

/// What a unit is taken for.
#[derive(Debug, Default, PartialEq)]
pub struct Recognised {
    /// More than one where nothing that was asked tells them apart.
    pub candidates: Vec<Candidate>,
    pub identity: Identity,
}

/// So many registers that only some of the best templates have are asked for.
const MOST_DECIDING: usize = 24;

/// Lines about a unit that is not recognised.
const MOST_HEARD: usize = 6;

/// What to ask next; nothing once all is known that can be.
///
/// First the registers by which any known meter says what it is. Then values: of the templates that fit so far, and
/// only when none does, of all that are not ruled out. Then the rest of what the best one says of itself.
pub fn next(templates: &[Arc<Template>], answers: &Answers) -> Vec<Question> {
    let unasked = |questions: BTreeSet<Question>| -> Vec<Question> {
        questions.into_iter().filter(|question| !answers.contains_key(question)).collect()
    };
    let telling = templates.iter().flat_map(|template| &template.identity).filter(|register| !register.is.is_empty());
    let ask = unasked(telling.map(of_identity).collect());
    if !ask.is_empty() {
        return ask;
    }
    let values = |wanted: fn(&Claim) -> bool| -> Vec<Question> {
        let templates = templates.iter().filter(|template| wanted(&claim(template, answers)));
        unasked(templates.flat_map(|template| values(template)).map(of_register).collect())
    };
    let ask = values(|claim| claim.matched > 0 && !claim.contradicted);
    if !ask.is_empty() {
        return ask;
    }
    let fits_now = fits(templates, answers);
    if fits_now.first().is_none_or(|best| best.claim.matched == 0) {
        let ask = values(|claim| !claim.contradicted);
        if !ask.is_empty() {
            return ask;
        }
    }
    let ask = unasked(deciding(templates, &fits_now));
    if !ask.is_empty() {
        return ask;
    }
    let best = fits_now.first().map(|best| &templates[best.place]);
    unasked(best.into_iter().flat_map(|template| &template.identity).map(of_identity).collect())
}

/// The templates that fit these answers best.
pub fn recognise(templates: &[Arc<Template>], answers: &Answers) -> Recognised {
    let fits = fits(templates, answers);
    let identity = fits.first().map(|best| identity(&templates[best.place], answers)).unwrap_or_default();
    let candidates = best(&fits).iter().map(|fit| fit.told(&templates[fit.place])).collect();
    Recognised { candidates, identity }
}

/// The template of a SunSpec device, with its place: the one that bears the name of its maker, else the one for all.
pub fn of_device(templates: &[Arc<Template>], device: &sunspec::Device) -> Option<(usize, Candidate)> {
    let maker = device.identity.manufacturer.as_deref().unwrap_or_default().to_lowercase();
    let named =
        |name: &dyn Fn(&str) -> bool| templates.iter().position(|template| template.sunspec && name(&template.name));
    let place =
        named(&|name| !maker.is_empty() && maker.starts_with(name)).or_else(|| named(&|name| name == "sunspec"))?;
    let template = &templates[place];
    let models: Vec<String> = device.models.iter().map(|model| model.id.to_string()).collect();
    let Identity { manufacturer, model, .. } = &device.identity;
    let said: Vec<&str> = [manufacturer, model].into_iter().flatten().map(String::as_str).collect();
    let who = if said.is_empty() { String::new() } else { format!("{}; ", said.join(" ")) };
    let candidate = Candidate {
        template: template.name.clone(),
        title: if said.is_empty() { template.title.clone() } else { said.join(" ") },
        verified: template.verified,
        by: RecognisedBy::Sunspec,
        reason: format!("{who}models {}", models.join(", ")),
    };
    Some((place, candidate))
}

/// What a unit answered that is not recognised, for a person.
pub fn heard(answers: &Answers) -> Vec<String> {
    let refusals: Vec<u8> = answers.values().filter_map(Answer::refused).collect();
    if refusals.len() == answers.len()
        && let Some(code) = refusals.first()
        && refusals.iter().all(|other| other == code)
    {
        return vec![format!("answers every request with {}", exception(*code))];
    }
    let mut lines = Vec::new();
    for (question, answer) in answers {
        if let Answer::Words(words) = answer {
            let shown: Vec<String> = words.iter().take(8).map(|word| format!("{word:04x}")).collect();
            let more = if words.len() > 8 { " …" } else { "" };
            lines.push(format!("{question}: {}{more}", shown.join(" ")));
        }
    }
    let left = lines.len().saturating_sub(MOST_HEARD);
    lines.truncate(MOST_HEARD);
    if left > 0 {
        lines.push(format!("and {left} more answers"));
    }
    let codes: BTreeSet<u8> = refusals.iter().copied().collect();
    for code in codes {
        let count = refusals.iter().filter(|other| **other == code).count();
        lines.push(format!("{count} requests refused with {}", exception(code)));
    }
    lines
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let function = match self.function {
            Function::Holding => "holding",
            Function::Input => "input",
        };
        match self.count {
            0 | 1 => write!(f, "{function} register {}", self.address),
            count => {
                write!(f, "{function} registers {} to {}", self.address, u32::from(self.address) + u32::from(count) - 1)
            }
        }
    }
}

impl Answer {
    fn words(&self) -> Option<&[u16]> {
        match self {
            Self::Words(words) => Some(words),
            Self::Refused(_) | Self::Nothing => None,
        }
    }

    fn refused(&self) -> Option<u8> {
        match self {
            Self::Refused(code) => Some(*code),
            Self::Words(_) | Self::Nothing => None,
        }
    }
}

fn of_identity(register: &IdentityRegister) -> Question {
    Question { function: register.function, address: register.address, count: register.width() }
}

fn of_register(register: &Register) -> Question {
    Question { function: register.function, address: register.address, count: register.kind.width() }
}

/// What a unit says of itself, held against a template.
#[derive(Default)]
struct Claim {
    matched: usize,
    contradicted: bool,
    said: Vec<String>,
}

fn claim(template: &Template, answers: &Answers) -> Claim {
    let mut claim = Claim::default();
    for register in template.identity.iter().filter(|register| !register.is.is_empty()) {
        let Some(words) = answers.get(&of_identity(register)).and_then(Answer::words) else { continue };
        if is_expected(register, words) {
            claim.matched += 1;
            let what = match register.item {
                Item::Manufacturer => "manufacturer",
                Item::Model => "model",
                Item::SerialNumber => "serial number",
                Item::Firmware => "firmware",
            };
            claim.said.extend(said(register, words).map(|said| format!("{what} {said}")));
        } else {
            claim.contradicted = true;
        }
    }
    claim
}

fn is_expected(register: &IdentityRegister, words: &[u16]) -> bool {
    let Some(said) = said(register, words) else { return false };
    register.is.iter().any(|expected| match (expected, register.form) {
        (Expected::Number(number), Form::Number(_)) => said.parse() == Ok(*number),
        (Expected::Text(text), Form::Text { .. }) => said.starts_with(text),
        _ => false,
    })
}

/// All that the unit says of itself in this template's registers.
fn identity(template: &Template, answers: &Answers) -> Identity {
    let mut identity = Identity::default();
    for register in &template.identity {
        if let Some(words) = answers.get(&of_identity(register)).and_then(Answer::words) {
            tell_identity(&mut identity, register, words);
        }
    }
    identity
}

/// The registers by which a map is tried: frequency, and voltage against neutral where there is one.
fn values(template: &Template) -> impl Iterator<Item = &Register> {
    let against_neutral = |register: &Register| {
        matches!(register.quantity.as_str(), "voltage_v" | "voltage_l1_v" | "voltage_l2_v" | "voltage_l3_v")
    };
    let any_neutral = template.registers.iter().any(against_neutral);
    let is_voltage = move |register: &Register| match any_neutral {
        true => against_neutral(register),
        false => register.quantity.unit() == Unit::Volts && register.quantity.as_str().starts_with("voltage"),
    };
    template.registers.iter().filter(move |register| is_frequency(register) || is_voltage(register)).take(MOST_VALUES)
}

const MOST_VALUES: usize = 4;

fn is_frequency(register: &Register) -> bool {
    register.quantity.as_str() == "frequency_hz"
}

/// How the values of a unit look when read by a template.
#[derive(Default)]
struct Look {
    hertz: Option<f64>,
    volts: Vec<f64>,
    /// Values that did not come.
    silent: usize,
    /// Registers of the template that were asked for and refused, or not answered.
    missing: usize,
    /// A register answers with what no mains has.
    odd: bool,
}

fn look(template: &Template, answers: &Answers) -> Look {
    let has_no_words = |register: &&Register| answers.get(&of_register(register)).is_some_and(|a| a.words().is_none());
    let missing = template.registers.iter().filter(has_no_words).count();
    let mut look = Look { missing, ..Look::default() };
    for register in values(template) {
        let Some(words) = answers.get(&of_register(register)).and_then(Answer::words) else {
            look.silent += 1;
            continue;
        };
        // A phase that is not connected has no value, or reads 0, which says nothing.
        let Ok(value) = number(register, words) else { continue };
        let value = register.scale.display(value);
        match plausible::judge(register, value) {
            Some(true) if is_frequency(register) => look.hertz = Some(value),
            Some(true) => look.volts.push(value),
            Some(false) => look.odd = true,
            None => {}
        }
    }
    look
}

impl Look {
    fn is_plausible(&self, template: &Template) -> bool {
        let frequency = self.hertz.is_some() || !template.registers.iter().any(is_frequency);
        frequency && !self.volts.is_empty() && !self.odd
    }

    fn told(&self) -> String {
        let volts: Vec<String> = self.volts.iter().map(|volts| format!("{volts:.1}")).collect();
        let hertz = self.hertz.map(|hertz| format!("{hertz:.2} Hz and ")).unwrap_or_default();
        format!("{hertz}{} V at its addresses", volts.join(", "))
    }
}

/// A template that fits.
struct Fit {
    place: usize,
    claim: Claim,
    look: Look,
    plausible: bool,
}

impl Fit {
    /// What it says of itself counts for more than how its values look.
    fn rank(&self) -> impl Ord + use<> {
        let agree = usize::from(self.look.hertz.is_some()) + self.look.volts.len();
        (Reverse(self.claim.matched), Reverse(agree), self.look.missing)
    }

    fn told(&self, template: &Template) -> Candidate {
        let mut reason = self.claim.said.clone();
        if self.plausible {
            reason.push(self.look.told());
        }
        let by = if self.claim.matched > 0 { RecognisedBy::Identity } else { RecognisedBy::Plausibility };
        Candidate {
            template: template.name.clone(),
            title: template.title.clone(),
            verified: template.verified,
            by,
            reason: reason.join("; "),
        }
    }
}

/// Those that fit as well as the first.
fn best(fits: &[Fit]) -> &[Fit] {
    let alike = fits.iter().take_while(|fit| fit.rank() == fits[0].rank()).count();
    &fits[..alike]
}

/// Registers that some of the best templates have and others have not.
fn deciding(templates: &[Arc<Template>], fits: &[Fit]) -> BTreeSet<Question> {
    let sets: Vec<BTreeSet<Question>> =
        best(fits).iter().map(|fit| templates[fit.place].registers.iter().map(of_register).collect()).collect();
    let all = sets.iter().flatten().copied();
    let (mut deciding, of_all) = (BTreeSet::new(), |question: &Question| sets.iter().all(|set| set.contains(question)));
    deciding.extend(all.filter(|question| !of_all(question)));
    deciding.into_iter().take(MOST_DECIDING).collect()
}

/// The templates that fit, the best first. One that the unit names must not have all its values refused: a number of
/// one register is soon hit by chance.
fn fits(templates: &[Arc<Template>], answers: &Answers) -> Vec<Fit> {
    let mut fits: Vec<Fit> = Vec::new();
    for (place, template) in templates.iter().enumerate() {
        let (claim, look) = (claim(template, answers), look(template, answers));
        let plausible = look.is_plausible(template);
        let asked = values(template).count();
        let named = claim.matched > 0 && (asked == 0 || look.silent < asked);
        if !claim.contradicted && (named || plausible) {
            fits.push(Fit { place, claim, look, plausible });
        }
    }
    if fits.iter().any(|fit| fit.claim.matched > 0) {
        fits.retain(|fit| fit.claim.matched > 0);
    }
    fits.sort_by_key(|fit| (fit.rank(), Reverse(templates[fit.place].verified), fit.place));
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::template::{self, Kind, WordOrder};

    fn parsed(name: &str, text: &str) -> Arc<Template> {
        Arc::new(template::parse(name, text).unwrap())
    }

    fn template(name: &str, identity: &str, registers: &str) -> Arc<Template> {
        let text = format!(
            "title = \"{name}\"\nevidence = \"made up\"\n{identity}\n[registers]\nfunction = \"input\"\ntype = \"f32\"\n{registers}"
        );
        parsed(name, &text)
    }

    /// Asks all that there is to ask of a unit, and says what it is taken for.
    fn judged(templates: &[Arc<Template>], unit: impl Fn(&Question) -> Answer) -> (Recognised, usize) {
        let mut answers = Answers::new();
        loop {
            let questions = next(templates, &answers);
            if questions.is_empty() {
                return (recognise(templates, &answers), answers.len());
            }
            for question in questions {
                let again = answers.insert(question, unit(&question));
                assert_eq!(again, None, "{question} was asked before");
            }
        }
    }

    fn names(recognised: &Recognised) -> Vec<&str> {
        recognised.candidates.iter().map(|candidate| candidate.template.as_str()).collect()
    }

    fn float(value: f32) -> Answer {
        let [a, b, c, d] = value.to_be_bytes();
        Answer::Words(vec![u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
    }

    const ONE_PHASE: &str = "voltage_v = { address = 0 }\nfrequency_hz = { address = 70 }";
    const THREE_PHASES: &str = "voltage_l1_v = { address = 0 }\nvoltage_l2_v = { address = 2 }\n\
                                voltage_l3_v = { address = 4 }\nfrequency_hz = { address = 70 }";
    const CODE: &str = "[identity]\nfunction = \"holding\"\nmodel = { address = 9, type = \"u16\", is = [112] }\n\
                        serial_number = { address = 10, type = \"u32\" }";

    #[test]
    fn the_map_whose_values_all_make_sense_fits_best() {
        let templates = [template("one", "", ONE_PHASE), template("three", "", THREE_PHASES)];
        let phases = |phases: u16| {
            move |question: &Question| match (question.function, question.address) {
                (Function::Input, 70) => float(60.01),
                (Function::Input, address) if address < 2 * phases => float(120.2),
                _ => Answer::Refused(2),
            }
        };
        assert_eq!(names(&judged(&templates, phases(3)).0), ["three"]);
        assert_eq!(names(&judged(&templates, phases(1)).0), ["one"]);
        assert!(names(&judged(&templates, |_| Answer::Refused(2)).0).is_empty());
        assert!(names(&judged(&templates, |_| float(0.0)).0).is_empty());
        assert!(names(&judged(&templates, |_| Answer::Nothing).0).is_empty());
    }

    #[test]
    fn what_a_unit_says_of_itself_counts_before_its_values_and_against_a_template() {
        let templates = [template("three", "", THREE_PHASES), template("coded", CODE, ONE_PHASE)];
        let unit = |code: u16| {
            move |question: &Question| match (question.function, question.address) {
                (Function::Holding, 9) => Answer::Words(vec![code]),
                (Function::Holding, 10) => Answer::Words(vec![1, 2]),
                (Function::Input, 70) => float(50.01),
                (Function::Input, 0 | 2 | 4) => float(230.2),
                _ => Answer::Refused(2),
            }
        };
        let (recognised, asked) = judged(&templates, unit(112));
        assert_eq!((names(&recognised), recognised.candidates[0].by), (vec!["coded"], RecognisedBy::Identity));
        assert_eq!(recognised.candidates[0].reason, "model 112; 50.01 Hz and 230.2 V at its addresses");
        assert_eq!((recognised.identity.serial_number.as_deref(), asked), (Some("65538"), 4));
        let (recognised, _) = judged(&templates, unit(113));
        assert_eq!((names(&recognised), recognised.candidates[0].by), (vec!["three"], RecognisedBy::Plausibility));
        let alone = [templates[1].clone()];
        assert!(names(&judged(&alone, unit(113)).0).is_empty(), "it says that it is something else");
    }

    #[test]
    fn a_code_that_is_hit_by_chance_needs_one_value_at_least() {
        let templates = [template("three", "", THREE_PHASES), template("coded", CODE, "voltage_v = { address = 900 }")];
        let (recognised, _) = judged(&templates, |question| match (question.function, question.address) {
            (Function::Holding, 9) => Answer::Words(vec![112]),
            (Function::Input, 70) => float(49.99),
            (Function::Input, 0 | 2 | 4) => float(231.0),
            _ => Answer::Refused(2),
        });
        assert_eq!(names(&recognised), ["three"]);
    }

    #[test]
    fn templates_that_fit_alike_are_told_apart_by_what_only_one_of_them_has() {
        let more = format!("{ONE_PHASE}\nenergy_import_kwh = {{ address = 72 }}");
        let other = format!("{ONE_PHASE}\nenergy_import_kwh = {{ address = 300 }}");
        let templates = [template("a", "", &other), template("b", "", &more), template("c", "", &more)];
        let (recognised, _) = judged(&templates, |question| match (question.function, question.address) {
            (Function::Input, 70) => float(50.0),
            (Function::Input, 0) => float(230.0),
            (Function::Input, 72) => float(4711.0),
            _ => Answer::Refused(2),
        });
        assert_eq!(names(&recognised), ["b", "c"], "nothing tells these two apart");
    }

    /// A meter of this template on the mains, 50.02 Hz and 231.4 V against neutral; all else reads 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small numbers
    fn meter_of(template: &Template, question: &Question) -> Answer {
        let said = template.identity.iter().find(|register| of_identity(register) == *question);
        if let Some(register) = said {
            let mut words = vec![0; usize::from(register.width())];
            match register.is.first() {
                Some(Expected::Number(number)) => {
                    let at = if register.order == WordOrder::LowFirst { 0 } else { words.len() - 1 };
                    words[at] = u16::try_from(*number).unwrap();
                }
                Some(Expected::Text(text)) => {
                    for (word, pair) in words.iter_mut().zip(text.as_bytes().chunks(2)) {
                        *word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
                    }
                }
                None => {}
            }
            return Answer::Words(words);
        }
        let Some(register) = template.registers.iter().find(|register| of_register(register) == *question) else {
            return Answer::Refused(2);
        };
        let value = match register.quantity.unit() {
            Unit::Hertz => 50.02,
            Unit::Volts if register.quantity.as_str().matches("_l").count() > 1 => 400.8,
            Unit::Volts => 231.4,
            _ => 0.0,
        } / register.scale.to_display();
        let bits: Vec<u8> = match register.kind {
            Kind::F32 => (value as f32).to_be_bytes().into(),
            Kind::F64 => value.to_be_bytes().into(),
            Kind::U16 | Kind::I16 => (value.round() as u16).to_be_bytes().into(),
            Kind::U32 | Kind::I32 => (value.round() as u32).to_be_bytes().into(),
            Kind::U64 | Kind::I64 => (value.round() as u64).to_be_bytes().into(),
        };
        let mut words: Vec<u16> = bits.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        if register.order == WordOrder::LowFirst {
            words.reverse();
        }
        Answer::Words(words)
    }

    #[test]
    fn every_shipped_template_is_among_those_that_its_meter_fits_and_alone_where_the_meter_says_so() {
        let all: Vec<_> = template::shipped().iter().map(|(name, text)| parsed(name, text)).collect();
        for template in all.iter().filter(|template| !template.registers.is_empty()) {
            let (recognised, asked) = judged(&all, |question| meter_of(template, question));
            let found = names(&recognised);
            assert!(found.contains(&template.name.as_str()), "{}: {found:?}", template.name);
            assert!(asked < 120, "{}: {asked} questions", template.name);
            if template.identity.iter().any(|register| !register.is.is_empty()) {
                assert_eq!(found, [template.name.as_str()]);
            }
        }
    }
}
