//! A JSON message as a tree that keeps what a meter's message needs: whole numbers exactly, and names that come twice.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::plain;
use crate::model::Number;

/// One JSON value.
#[derive(Debug)]
pub enum Node<'a> {
    /// Also `NaN` and the infinities, which some devices write bare.
    Null,
    Bool,
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    /// In the order of the message.
    Map(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// What is not as a format says. The text follows the name of the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Odd {
    #[error("named twice")]
    Twice,
    #[error("neither a number nor a number as text")]
    NoNumber,
    #[error("not a text")]
    NoText,
}

/// The payload as strict JSON: without a byte order mark, and with bare `nan` and `inf` as `null`. Copied only where
/// one of these occurs.
pub fn cleaned(payload: &[u8]) -> Cow<'_, [u8]> {
    let payload = payload.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(payload);
    let mut out: Option<Vec<u8>> = None;
    let (mut at, mut copied, mut quoted) = (0, 0, false);
    while let Some(&byte) = payload.get(at) {
        match byte {
            b'\\' if quoted => at += 2,
            b'"' => {
                quoted = !quoted;
                at += 1;
            }
            b'-' | b'n' | b'N' | b'i' | b'I' if !quoted => {
                let from = if byte == b'-' { at + 1 } else { at };
                let rest = payload.get(from..).unwrap_or_default();
                let word = &rest[..rest.iter().take_while(|b| b.is_ascii_alphanumeric()).count()];
                at = from + word.len();
                if [&b"nan"[..], b"inf", b"infinity"].iter().any(|none| word.eq_ignore_ascii_case(none)) {
                    let out = out.get_or_insert_default();
                    out.extend_from_slice(&payload[copied..at - (word.len() + usize::from(byte == b'-'))]);
                    out.extend_from_slice(b"null");
                    copied = at;
                }
            }
            _ => at += 1,
        }
    }
    match out {
        None => Cow::Borrowed(payload),
        Some(mut out) => {
            out.extend_from_slice(&payload[copied..]);
            Cow::Owned(out)
        }
    }
}

/// The tree of a cleaned payload, or what is wrong with it, for a person.
pub fn parse(payload: &[u8]) -> Result<Node<'_>, String> {
    if payload.is_empty() {
        return Err("the payload is empty".to_owned());
    }
    serde_json::from_slice(payload).map_err(|error| format!("not JSON: {error}"))
}

impl<'a> Node<'a> {
    /// What an object holds under `name`: nothing, or nothing that can be told when it comes twice.
    pub fn member(&self, name: &str) -> Result<Option<&Node<'a>>, Odd> {
        let Self::Map(members) = self else { return Ok(None) };
        let mut found = members.iter().filter(|(key, _)| key == name);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((_, node)), None) => Ok(Some(node)),
            (Some(_), Some(_)) => Err(Odd::Twice),
        }
    }

    /// The number, as such or as text; `None` where the device says that it has none.
    pub fn number(&self) -> Result<Option<Number>, Odd> {
        match self {
            Self::Null => Ok(None),
            Self::Number(number) => Ok(Some(*number)),
            Self::Text(text) if plain::says_none(text) => Ok(None),
            Self::Text(text) => plain::number(text).map(Some).map_err(|_| Odd::NoNumber),
            Self::Bool | Self::List(_) | Self::Map(_) => Err(Odd::NoNumber),
        }
    }

    /// A name: a text, or the digits of a whole number; `None` for `null` and the empty text.
    pub fn name(&self) -> Result<Option<Cow<'_, str>>, Odd> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) if text.trim().is_empty() => Ok(None),
            Self::Text(text) => Ok(Some(Cow::Borrowed(text))),
            Self::Number(Number::I64(whole)) => Ok(Some(whole.to_string().into())),
            Self::Number(Number::U64(whole)) => Ok(Some(whole.to_string().into())),
            _ => Err(Odd::NoText),
        }
    }
}

/// A whole number that fits is an i64 wherever it comes from, so that a repeat in another notation is the same value.
pub fn whole(value: u64) -> Number {
    i64::try_from(value).map_or(Number::U64(value), Number::I64)
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Node::Number(Number::I64(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Node::Number(whole(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = Vec::new();
        while let Some((Key(key), node)) = entries.next_entry()? {
            map.push((key, node));
        }
        Ok(Node::Map(map))
    }
}

/// A member's name, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Node::deserialize(deserializer)? {
            Node::Text(key) => Ok(Self(key)),
            _ => Err(serde::de::Error::custom("a name that is no text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<Option<Number>, Odd> {
        parse(&cleaned(text.as_bytes())).unwrap().number()
    }

    #[test]
    fn whole_numbers_stay_whole_and_fractions_stay_the_nearest_double() {
        assert_eq!(number("9007199254740993"), Ok(Some(Number::I64(9_007_199_254_740_993))));
        assert_eq!(number("18446744073709551615"), Ok(Some(Number::U64(u64::MAX))));
        assert_eq!(number("\"9007199254740993\""), number("9007199254740993"));
        assert_eq!(number("-9223372036854775808"), Ok(Some(Number::I64(i64::MIN))));
        assert_eq!(number("381.701"), Ok(Some(Number::F64(381.701))));
        assert!(matches!(number("-0"), Ok(Some(Number::F64(zero))) if zero.is_sign_positive()));
    }

    #[test]
    fn what_a_device_says_for_no_value_is_absent() {
        for none in
            ["null", "nan", "-nan", "NaN", "Infinity", "-inf", "\"\"", "\" nan\"", "\"unavailable\"", "\"None\""]
        {
            assert_eq!(number(none), Ok(None), "{none}");
        }
        for odd in ["true", "[1]", "{}", "\"12,5\"", "\"12 kWh\""] {
            assert_eq!(number(odd), Err(Odd::NoNumber), "{odd}");
        }
    }

    #[test]
    fn bare_words_are_mended_only_where_they_stand_for_a_number() {
        let clean = |text: &str| String::from_utf8(cleaned(text.as_bytes()).into_owned()).unwrap();
        assert_eq!(clean(r#"{"nan":nan,"a":[-NAN,inf ,-5],"b":"\" nan","c":null}"#), {
            r#"{"nan":null,"a":[null,null ,-5],"b":"\" nan","c":null}"#
        });
        assert_eq!(clean("\u{feff}1"), "1");
        assert_eq!(clean("nano"), "nano");
        assert_eq!(clean("\"\\"), "\"\\");
        assert!(matches!(cleaned(br#"{"a":-1.5}"#), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        let why = |payload: &[u8]| parse(&cleaned(payload)).unwrap_err();
        assert_eq!(why(b""), "the payload is empty");
        assert_eq!(why(b"\xEF\xBB\xBF"), "the payload is empty");
        assert_eq!(why(b"1 2"), "not JSON: trailing characters at line 1 column 3");
        assert_eq!(why(b"1e999"), "not JSON: number out of range at line 1 column 5");
        assert!(why(b"\"\xff\"").contains("invalid unicode"));
        assert!(why("[".repeat(10_000).as_bytes()).contains("recursion limit"));
        assert!(why(b"{\"a\":1,}").starts_with("not JSON: trailing comma"));
    }

    #[test]
    fn a_name_that_comes_twice_is_ambiguous_only_where_it_is_asked_for() {
        let tree = parse(br#"{"a":1,"b":2,"\u0061":3,"b\u00e9":4}"#).unwrap();
        assert_eq!(tree.member("a").unwrap_err(), Odd::Twice);
        assert!(matches!(tree.member("b"), Ok(Some(Node::Number(Number::I64(2))))));
        assert!(matches!(tree.member("bé"), Ok(Some(Node::Number(Number::I64(4))))));
        assert!(matches!(tree.member("c"), Ok(None)));
    }
}
