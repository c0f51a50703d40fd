//! What is learned of one meter and kept between its polls: what to ask, what the answers mean, what it says it is.

use std::sync::Arc;
use std::time::Duration;

use super::asking::Asking;
use super::decode;
use super::plan::Request;
use crate::model::{Identity, Layout};
use crate::sources::sunspec::{self, Device, Walk};
use crate::sources::template::{Form, IdentityRegister, Item, Template, text};
use crate::sources::{MeterConfig, RatioTooFine, layout};

/// How often a meter is asked what it is: one that is exchanged is mostly away for a while, and then it is asked at
/// once.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// The pause after a question that was not answered; twice as long each time, up to `ASK_AGAIN`. Each costs its line a
/// whole time-out, and a bus may be full of meters that keep silent about what they do not have.
const AFTER_SILENCE: Duration = Duration::from_secs(60);

/// The pause after a walk along the models of a SunSpec unit that found nothing to read.
const WALK_AGAIN: Duration = Duration::from_secs(60);

/// One meter, as far as it is known.
#[derive(Debug)]
pub struct Session {
    pub asking: Asking,
    pub layout: Arc<Layout>,
    /// When the meter is asked what it is.
    identity_due_ms: u64,
    /// How often in turn it kept silent about that.
    identity_silences: u32,
    /// Of a SunSpec device.
    chain: Option<Box<Chain>>,
}

/// What is known of the models of a SunSpec unit. While nothing is, its meter has no registers.
#[derive(Debug)]
struct Chain {
    meter: MeterConfig,
    simulated: bool,
    walk: Option<Walk>,
    /// The next walk begins then.
    due_ms: u64,
    is_known: bool,
    /// Why nothing is known, for a person.
    problem: Option<String>,
}

impl Session {
    pub fn new(meter: &MeterConfig, simulated: bool) -> Result<Self, RatioTooFine> {
        let chain = || {
            let meter = meter.clone();
            Box::new(Chain { meter, simulated, walk: None, due_ms: 0, is_known: false, problem: None })
        };
        Ok(Self {
            asking: Asking::new(meter.template.clone()),
            layout: Arc::new(layout(meter, simulated)?),
            identity_due_ms: 0,
            identity_silences: 0,
            chain: meter.template.sunspec.then(chain),
        })
    }

    /// The unit was away and is back: it may be another one.
    pub fn was_away(&mut self) {
        self.asking.forget_silences();
        (self.identity_due_ms, self.identity_silences) = (0, 0);
        if let Some(chain) = &mut self.chain {
            chain.due_ms = 0;
            // What was seen before may be another device's. While nothing is known the walk goes on, as a unit that
            // keeps silent about the first places of `SunS` looks as if it had been away.
            chain.walk = chain.walk.take().filter(|_| !chain.is_known);
        }
    }

    /// The unit missed one poll: time enough to be exchanged, and too common to ask much for it. What was told within
    /// the last minute is believed.
    pub fn may_be_another(&mut self, now_ms: u64) {
        let sooner = |due_ms: u64| due_ms.min(now_ms.max(due_ms.saturating_sub(later(0, ASK_AGAIN - AFTER_SILENCE))));
        if self.identity_silences == 0 {
            self.identity_due_ms = sooner(self.identity_due_ms);
        }
        if let Some(chain) = self.chain.as_mut().filter(|chain| chain.is_known) {
            chain.due_ms = sooner(chain.due_ms);
        }
    }

    /// Whether it is known which registers the meter has.
    pub fn is_known(&self) -> bool {
        self.chain.as_ref().is_none_or(|chain| chain.is_known)
    }

    /// Why it is not known which registers the meter has, when no walk is under way to find out.
    pub fn problem(&self) -> Option<&str> {
        self.chain.as_ref()?.problem.as_deref()
    }

    /// The walk along the unit's models, when one is under way or due.
    pub fn walk(&mut self, now_ms: u64) -> Option<&mut Walk> {
        let chain = self.chain.as_mut()?;
        if chain.walk.is_none() && chain.due_ms > now_ms {
            return None;
        }
        chain.problem = None;
        Some(chain.walk.get_or_insert_with(Walk::new))
    }

    /// The unit's models are not where they were found: nothing is believed until they are found again.
    pub fn has_moved(&mut self) {
        if let Some(chain) = &mut self.chain {
            (chain.is_known, chain.walk, chain.due_ms) = (false, None, 0);
        }
    }

    /// Ends a walk that has nothing more to read, and gives what the device says it is. A walk that found nothing
    /// changes nothing that is known already: each answer shows that the models are still there. `heard` is whether the
    /// unit said anything; one that is silent is asked again when its turn comes, anyway.
    pub fn walked(&mut self, heard: bool, now_ms: u64) -> Option<Identity> {
        let chain = self.chain.as_mut()?;
        let devices = chain.walk.take()?.devices();
        chain.due_ms = if heard { later(now_ms, WALK_AGAIN) } else { 0 };
        let found = devices.map_err(|why| why.to_string()).and_then(|devices| chain.found(&devices));
        match found {
            Ok((template, layout, identity)) => {
                let is_the_same = *self.layout == layout && self.asking.template() == &template;
                if !is_the_same {
                    self.asking = Asking::new(Arc::new(template));
                    self.layout = Arc::new(layout);
                }
                (chain.is_known, chain.problem) = (true, None);
                chain.due_ms = later(now_ms, ASK_AGAIN);
                Some(identity)
            }
            Err(why) => {
                chain.problem = Some(why).filter(|_| heard && !chain.is_known);
                None
            }
        }
    }

    /// The registers to ask now for the meter's identity; none while it is known, or was asked for in vain of late.
    pub fn identity_due(&self, now_ms: u64) -> Vec<IdentityRegister> {
        if self.identity_due_ms > now_ms { Vec::new() } else { self.asking.template().identity.clone() }
    }

    /// The meter has said what it is, or refused to.
    pub fn identified(&mut self, now_ms: u64) {
        (self.identity_due_ms, self.identity_silences) = (later(now_ms, ASK_AGAIN), 0);
    }

    /// It kept silent about a part of it.
    pub fn was_not_identified(&mut self, now_ms: u64) {
        let pause = AFTER_SILENCE.saturating_mul(1 << self.identity_silences.min(16)).min(ASK_AGAIN);
        self.identity_due_ms = later(now_ms, pause);
        self.identity_silences = self.identity_silences.saturating_add(1);
    }
}

impl Chain {
    /// The map of the meter's device among those of its unit.
    fn found(&self, devices: &[Device]) -> Result<(Template, Layout, Identity), String> {
        let (wanted, count) = (self.meter.device, devices.len());
        let at = usize::from(wanted).saturating_sub(1);
        let device = devices.get(at).ok_or_else(|| match count {
            1 => format!("the unit is one SunSpec device, and `device = {wanted}` is asked for"),
            _ => format!("the unit is {count} SunSpec devices, and `device = {wanted}` is asked for"),
        })?;
        let registers = sunspec::registers(device, &self.meter.template);
        if registers.is_empty() {
            let models: Vec<_> = device.models.iter().map(|model| model.id.to_string()).collect();
            return Err(format!("none of the SunSpec models of the device is known: {}", models.join(", ")));
        }
        let template = Arc::new(self.meter.template.found(registers));
        let meter = MeterConfig { template, ..self.meter.clone() };
        let layout = layout(&meter, self.simulated).map_err(|error| error.to_string())?;
        let template = Arc::unwrap_or_clone(meter.template);
        Ok((template, layout, device.identity.clone()))
    }
}

/// The request that reads an identity register alone: nothing is known of what lies around it.
pub fn request(register: &IdentityRegister) -> Request {
    Request { function: register.function, address: register.address, count: register.width(), registers: 0..0 }
}

/// Puts what an identity register holds where it belongs.
pub fn tell(identity: &mut Identity, register: &IdentityRegister, words: &[u16]) {
    let text = said(register, words);
    match register.item {
        Item::Manufacturer => identity.manufacturer = text,
        Item::Model => identity.model = text,
        Item::SerialNumber => identity.serial_number = text,
        Item::Firmware => identity.firmware = text,
    }
}

/// What the words of an identity register say: digits, or the text without its padding; `None` for an empty text, and
/// for a number of which no bit or every bit is set, as meters give where they have none.
pub fn said(register: &IdentityRegister, words: &[u16]) -> Option<String> {
    match register.form {
        Form::Number(_) => {
            let is_told = [0, u16::MAX].iter().all(|blank| words.iter().any(|word| word != blank));
            is_told.then(|| decode::joined_in(register.order, words).to_string())
        }
        Form::Text { .. } => text(words),
    }
}

fn later(now_ms: u64, pause: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::template::{self, Kind, WordOrder};

    fn register(form: Form) -> IdentityRegister {
        let function = template::Function::Holding;
        IdentityRegister { item: Item::Model, function, address: 0, form, order: WordOrder::HighFirst, is: Vec::new() }
    }

    #[test]
    fn a_number_is_told_in_digits_and_a_text_without_its_padding() {
        let number = register(Form::Number(Kind::U32));
        assert_eq!(said(&number, &[2, 1]).as_deref(), Some("131073"));
        assert_eq!(said(&number, &[0, u16::MAX]).as_deref(), Some("65535"));
        assert_eq!((said(&number, &[0, 0]), said(&number, &[u16::MAX; 2])), (None, None), "it has none");
        let text = register(Form::Text { registers: 3 });
        assert_eq!(said(&text, &[0x6945, 0x4D33, 0x3000]).as_deref(), Some("iEM30"));
        assert_eq!(said(&text, &[0x2020, 0, 0]), None);
        assert_eq!(said(&text, &[0x41FF, 0x0A42, 0]).as_deref(), Some("A??B"));
        assert_eq!(said(&text, &[0x41, 0x42, 0]).as_deref(), Some("AB"), "one character a register");
    }

    #[test]
    fn a_meter_is_asked_what_it_is_at_first_every_hour_and_when_it_is_back() {
        let text = "title = \"T\"\nevidence = \"made up\"\n[identity]\nserial_number = { address = 9, type = \"u32\", \
                    function = \"holding\" }\n[registers]\npower_kw = { address = 0, type = \"u16\", function = \"input\" }";
        let meter = crate::sources::MeterConfig {
            id: "m".parse().unwrap(),
            unit: 1,
            device: 1,
            template: Arc::new(template::parse("t", text).unwrap()),
            category: crate::model::Category::Cons,
            interval: Duration::from_secs(1),
            ct_ratio: crate::model::Ratio::ONE,
            vt_ratio: crate::model::Ratio::ONE,
            invert: false,
        };
        let mut session = Session::new(&meter, false).unwrap();
        let due = |session: &Session, now_ms| session.identity_due(now_ms).len();
        assert_eq!(due(&session, 0), 1);
        session.was_not_identified(0);
        assert_eq!((due(&session, 59_999), due(&session, 60_000)), (0, 1));
        session.was_not_identified(0);
        assert_eq!((due(&session, 119_999), due(&session, 120_000)), (0, 1));
        (0..40).for_each(|_| session.was_not_identified(0));
        assert_eq!((due(&session, 3_599_999), due(&session, 3_600_000)), (0, 1));
        session.identified(60_000);
        assert_eq!((due(&session, 3_659_999), due(&session, 3_660_000)), (0, 1));
        session.identified(100_000);
        session.was_away();
        assert_eq!(due(&session, 100_001), 1);
        session.was_not_identified(100_001);
        assert_eq!((due(&session, 160_000), due(&session, 160_001)), (0, 1), "it may be another one");
        session.may_be_another(150_000);
        assert_eq!(due(&session, 150_000), 0, "it was asked in vain");
        session.identified(200_000);
        session.may_be_another(210_000);
        assert_eq!((due(&session, 259_999), due(&session, 260_000)), (0, 1), "what it said of late is believed");
        session.identified(260_000);
        session.may_be_another(1_000_000);
        assert_eq!(due(&session, 1_000_000), 1);
    }
}
