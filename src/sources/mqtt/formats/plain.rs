//! `plain`: the payload is one number.

use super::topic::Filter;
use super::{Decoded, Message, Sample, Value, meter_name};
use crate::model::{Number, Quantity, Ratio};

/// The one quantity that a topic carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    pub quantity: Quantity,
    pub scale: Ratio,
}

/// Why a text is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNumber {
    #[error("the payload is empty")]
    Empty,
    #[error("not a number in digits, such as 12.5 or -1e3")]
    Form,
    #[error("a number beyond all doubles")]
    TooLarge,
}

impl Plain {
    pub(super) fn decode(&self, message: &Message<'_>, filter: &Filter) -> Decoded {
        let text = std::str::from_utf8(message.payload).map_err(|_| NoNumber::Form);
        let number = match text.and_then(number) {
            Ok(number) => number,
            Err(error) => return Decoded::fault(error.to_string()),
        };
        let Some(meter) = meter_name(&filter.name(message.topic)) else {
            return Decoded::fault("the topic gives no name of 1 to 128 bytes");
        };
        let value = Value { quantity: self.quantity.clone(), number, scale: self.scale };
        Decoded { samples: vec![Sample { meter, time: None, values: vec![value] }], reason: None }
    }
}

/// More characters than any device writes, and few enough to be read at once.
const LONGEST: usize = 64;

/// A number `[+-]digits[.digits][e[+-]digits]` between blanks. Whole ones stay whole where they fit.
pub fn number(text: &str) -> Result<Number, NoNumber> {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if text.is_empty() {
        return Err(NoNumber::Empty);
    }
    if text.len() > LONGEST || !is_formed(text) {
        return Err(NoNumber::Form);
    }
    if let Ok(whole) = text.parse() {
        return Ok(Number::I64(whole));
    }
    if let Ok(whole) = text.parse() {
        return Ok(Number::U64(whole));
    }
    let value = text.parse().map_err(|_| NoNumber::Form)?;
    Number::from_f64(value).ok_or(NoNumber::TooLarge)
}

fn is_formed(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) =
        text.split_once(['e', 'E']).map_or((text, None), |(mantissa, exponent)| (mantissa, Some(unsigned(exponent))));
    let (whole, part) =
        unsigned(mantissa).split_once('.').map_or((unsigned(mantissa), None), |(whole, part)| (whole, Some(part)));
    digits(whole) && part.is_none_or(digits) && exponent.is_none_or(digits)
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['+', '-']).unwrap_or(text)
}

/// The words by which programs say, in a place for a number, that they have none.
pub fn says_none(text: &str) -> bool {
    const WORDS: [&str; 9] = ["", "null", "none", "nan", "-nan", "inf", "-inf", "unavailable", "unknown"];
    let text = text.trim();
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tree;
    use super::*;

    #[test]
    fn numbers_in_digits_are_read_and_whole_ones_stay_whole() {
        assert_eq!(number(" 10533.1\r\n"), Ok(Number::F64(10_533.1)));
        assert_eq!(number("-5"), Ok(Number::I64(-5)));
        assert_eq!(number("+0042"), Ok(Number::I64(42)));
        assert_eq!(number("18446744073709551615"), Ok(Number::U64(u64::MAX)));
        assert_eq!(number("1e3"), Ok(Number::F64(1000.0)));
        assert_eq!(number("2.5E-1"), Ok(Number::F64(0.25)));
        assert!(matches!(number("-0.0"), Ok(Number::F64(zero)) if zero.is_sign_positive()));
    }

    #[test]
    fn all_else_is_refused() {
        let long = "1".repeat(65);
        for bad in [
            "nan",
            "inf",
            "unavailable",
            "1,5",
            ".5",
            "5.",
            "1.2.3",
            "0x10",
            "1e",
            "--1",
            "1_0",
            "1 2",
            "1\0",
            "١",
            &long,
        ] {
            assert_eq!(number(bad), Err(NoNumber::Form), "{bad}");
        }
        assert_eq!(number(" "), Err(NoNumber::Empty));
        assert_eq!(number("-1e999"), Err(NoNumber::TooLarge));
        assert_eq!(number("1e-999"), Ok(Number::F64(0.0)));
    }

    proptest! {
        #[test]
        fn a_number_comes_back_from_its_text(float in any::<f64>(), whole in any::<i64>(), large in any::<u64>()) {
            prop_assert_eq!(number(&whole.to_string()), Ok(Number::I64(whole)));
            prop_assert_eq!(number(&large.to_string()), Ok(tree::whole(large)));
            if let Some(exact) = Number::from_f64(float) {
                let read = number(&format!("{float:e}")).map(|read| read.to_display().to_bits());
                prop_assert_eq!(read, Ok(exact.to_display().to_bits()));
            }
        }

        #[test]
        fn no_text_is_read_that_the_grammar_does_not_know(text in "[-+0-9.eE ]{0,12}") {
            let trimmed = text.trim_matches(' ').to_owned();
            let mut rest = trimmed.strip_prefix(['+', '-']).unwrap_or(&trimmed);
            let mut digits = |after: &str| {
                let count = rest.bytes().take_while(u8::is_ascii_digit).count();
                let had = count > 0;
                rest = &rest[count..];
                let next = !after.is_empty() && rest.starts_with(|c| after.contains(c));
                if next {
                    rest = &rest[1..];
                    if after == "eE" {
                        rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
                    }
                }
                (had, next)
            };
            let (mut formed, fraction) = digits(".");
            let mut exponent = false;
            if fraction {
                let (had, next) = digits("eE");
                (formed, exponent) = (formed && had, next);
            } else if formed {
                let (had, next) = digits("eE");
                exponent = !had && next;
            }
            if exponent {
                formed = digits("").0 && formed;
            }
            let formed = formed && rest.is_empty();
            prop_assert_eq!(formed, !matches!(number(&text), Err(NoNumber::Form | NoNumber::Empty)), "{}", text);
        }
    }
}
