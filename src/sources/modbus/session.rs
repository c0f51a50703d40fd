//! What is learned of one meter and kept between its polls: what to ask, what the answers mean, what it says it is.

use std::sync::Arc;
use std::time::Duration;

use super::asking::Asking;
use super::decode;
use super::plan::Request;
use crate::model::{Identity, Layout};
use crate::sources::template::{Form, IdentityRegister, Item};
use crate::sources::{MeterConfig, RatioTooFine, layout};

/// How often a meter is asked what it is: one that is exchanged is mostly away for a while, and then it is asked at
/// once.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// The pause after a question that was not answered, so that a meter that keeps silent about itself costs little.
const AFTER_SILENCE: Duration = Duration::from_secs(60);

/// One meter, as far as it is known.
#[derive(Debug)]
pub struct Session {
    pub asking: Asking,
    pub layout: Arc<Layout>,
    /// When the meter is asked what it is.
    identity_due_ms: u64,
}

impl Session {
    pub fn new(meter: &MeterConfig, simulated: bool) -> Result<Self, RatioTooFine> {
        Ok(Self {
            asking: Asking::new(meter.template.clone()),
            layout: Arc::new(layout(meter, simulated)?),
            identity_due_ms: 0,
        })
    }

    /// The unit was away and is back: it may be another one.
    pub fn was_away(&mut self) {
        self.asking.forget_silences();
        self.identity_due_ms = 0;
    }

    /// The registers to ask now for the meter's identity; none while it is known, or was asked for in vain of late.
    pub fn identity_due(&self, now_ms: u64) -> Vec<IdentityRegister> {
        if self.identity_due_ms > now_ms { Vec::new() } else { self.asking.template().identity.clone() }
    }

    /// The meter has said what it is, or refused to.
    pub fn identified(&mut self, now_ms: u64) {
        self.identity_due_ms = later(now_ms, ASK_AGAIN);
    }

    /// It kept silent about a part of it.
    pub fn was_not_identified(&mut self, now_ms: u64) {
        self.identity_due_ms = later(now_ms, AFTER_SILENCE);
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

/// What the words of an identity register say: digits, or the text without its padding; `None` for an empty text.
pub fn said(register: &IdentityRegister, words: &[u16]) -> Option<String> {
    match register.form {
        Form::Number(_) => Some(decode::joined_in(register.order, words).to_string()),
        Form::Text { .. } => {
            // Some meters keep one character in each register, in its low byte.
            let skipped = usize::from(words.iter().all(|word| *word <= 0xFF));
            let bytes = words.iter().flat_map(|word| word.to_be_bytes().into_iter().skip(skipped));
            let bytes = bytes.take_while(|byte| *byte != 0);
            let shown = |byte: u8| if (0x20..0x7F).contains(&byte) { char::from(byte) } else { '?' };
            let text: String = bytes.map(shown).collect();
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        }
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
        session.identified(60_000);
        assert_eq!((due(&session, 3_659_999), due(&session, 3_660_000)), (0, 1));
        session.identified(100_000);
        session.was_away();
        assert_eq!(due(&session, 100_001), 1);
    }
}
