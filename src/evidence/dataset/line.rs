//! Lines of a dataset read back: whether one is the canonical form of a row, and what it says.
//!
//! For a verifier that meets ten million of them: nothing is allocated, and texts stay in their escaped form. That form
//! is the only one of its text, so that two texts are equal if and only if their forms are.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::str;

use super::row::REPLACEMENT;
use crate::model::{FieldType, jcs};

/// A line that is not the canonical form of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical row: {want} was expected at byte {at}")]
pub struct NotARow {
    /// From 0, within the line.
    pub at: usize,
    pub want: &'static str,
}

/// A row as it stands in its line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    text: &'a str,
    places: Places,
}

/// Where the parts of a line lie in it.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    field: (usize, usize),
    measurement: (usize, usize),
    tags: (usize, usize),
    time_ns: i64,
    kind: Option<FieldType>,
}

/// A text in its escaped form, without the quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(&'a str);

/// The beginning of the rows of one series, up to their time: it need not be taken apart again.
#[derive(Clone, Debug)]
pub struct Series {
    beginning: Vec<u8>,
    places: Places,
}

impl Series {
    /// That of a row.
    pub fn of(row: &Line) -> Self {
        Self { beginning: row.beginning().to_vec(), places: row.places }
    }

    /// As [`parse`], of a line that begins as this series does; `None` for any other.
    pub fn parse<'a>(&self, line: &'a [u8]) -> Option<Result<Line<'a>, NotARow>> {
        line.starts_with(&self.beginning).then(|| {
            let mut scan = Scan { at: self.beginning.len(), ..Scan::over(line)? };
            let places = scan.time_and_value(self.places)?;
            Ok(Line { text: scan.text, places })
        })
    }
}

const BEFORE_TIME: &str = ",\"time\":\"";

/// Takes a line apart (without its line feed), if it is canonical to the byte.
pub fn parse(line: &[u8]) -> Result<Line<'_>, NotARow> {
    let mut scan = Scan::over(line)?;
    scan.expect("{\"field\":\"", "`{\"field\":\"`")?;
    let field = scan.text()?;
    scan.expect(",\"measurement\":\"", "`,\"measurement\":\"`")?;
    let measurement = scan.text()?;
    scan.expect(",\"tags\":{", "`,\"tags\":{`")?;
    let from = scan.at;
    let mut last: Option<Text<'_>> = None;
    while !scan.skip("}") {
        if last.is_some() {
            scan.expect(",", "`,` or `}`")?;
        }
        scan.expect("\"", "a tag")?;
        let (start, end) = scan.text()?;
        let tag = Text(&scan.text[start..end]);
        if last.is_some_and(|last| last.jcs_order(tag).is_ge()) {
            return Err(NotARow { at: start, want: "a tag that comes after the one before it" });
        }
        last = Some(tag);
        scan.expect(":\"", "`:\"`")?;
        let (start, end) = scan.text()?;
        if start == end {
            return Err(NotARow { at: start, want: "a tag's value that is not empty" });
        }
    }
    let tags = (from, scan.at - 1);
    scan.expect(BEFORE_TIME, "`,\"time\":\"`")?;
    let places = scan.time_and_value(Places { field, measurement, tags, ..Places::default() })?;
    Ok(Line { text: scan.text, places })
}

/// The index of a free query's row (a line without its line feed), if it is canonical to the byte.
pub fn parse_result(line: &[u8]) -> Result<u64, NotARow> {
    let mut scan = Scan::over(line)?;
    scan.expect("{\"columns\":{", "`{\"columns\":{`")?;
    let mut last: Option<Text<'_>> = None;
    while !scan.skip("}") {
        if last.is_some() {
            scan.expect(",", "`,` or `}`")?;
        }
        scan.expect("\"", "a column's name")?;
        let (start, end) = scan.text()?;
        let name = Text(&scan.text[start..end]);
        if last.is_some_and(|last| last.jcs_order(name).is_ge()) {
            return Err(NotARow { at: start, want: "a column that comes after the one before it" });
        }
        last = Some(name);
        scan.expect(":{", "`:{`")?;
        scan.typed()?;
        scan.expect("}", "`}`")?;
    }
    scan.expect(",\"row\":\"", "`,\"row\":\"`")?;
    let index = scan.whole()?;
    scan.expect("}", "`}`")?;
    scan.end()?;
    Ok(index)
}

impl<'a> Line<'a> {
    /// All up to the opening quote of its time.
    pub fn beginning(&self) -> &'a [u8] {
        // Behind the tags stands a brace first.
        &self.text.as_bytes()[..self.places.tags.1 + 1 + BEFORE_TIME.len()]
    }

    pub fn time_ns(&self) -> i64 {
        self.places.time_ns
    }

    /// What kind of value it has.
    pub fn kind(&self) -> FieldType {
        self.places.kind.unwrap_or(FieldType::F64)
    }

    pub fn field(&self) -> Text<'a> {
        self.part(self.places.field)
    }

    pub fn measurement(&self) -> Text<'a> {
        self.part(self.places.measurement)
    }

    /// Tags and their values, as they stand in the line.
    pub fn tags(&self) -> impl Iterator<Item = (Text<'a>, Text<'a>)> + use<'a> {
        let mut rest = self.part(self.places.tags).0;
        std::iter::from_fn(move || {
            // Each of them is `"tag":"value"` and maybe a comma; the line was checked when it was parsed.
            let tag = split_text(&mut rest)?;
            let value = split_text(&mut rest)?;
            Some((tag, value))
        })
    }

    /// The order of datasets.
    pub fn order(&self, other: &Line<'_>) -> Ordering {
        (self.places.time_ns.cmp(&other.places.time_ns))
            .then_with(|| self.measurement().order(other.measurement()))
            .then_with(|| self.order_of_tags(other))
            .then_with(|| self.field().order(other.field()))
    }

    fn order_of_tags(&self, other: &Line<'_>) -> Ordering {
        let (a, b) = (self.part(self.places.tags).0, other.part(other.places.tags).0);
        if a == b {
            return Ordering::Equal;
        }
        // JCS order and that of bytes are the same but for characters beyond U+FFFF.
        if !a.bytes().chain(b.bytes()).any(|byte| byte >= 0xf0) {
            return self.tags().map(Pair).cmp(other.tags().map(Pair));
        }
        let sorted = |line: &Line<'_>| {
            let mut tags: Vec<_> =
                line.tags().map(|(tag, value)| (tag.plain().into_owned(), value.plain().into_owned())).collect();
            tags.sort();
            tags
        };
        sorted(self).cmp(&sorted(other))
    }

    fn part(&self, (start, end): (usize, usize)) -> Text<'a> {
        Text(&self.text[start..end])
    }
}

/// A tag and its value, to be compared as plain texts.
#[derive(PartialEq, Eq)]
struct Pair<'a>((Text<'a>, Text<'a>));

impl Ord for Pair<'_> {
    fn cmp(&self, Pair((tag, value)): &Self) -> Ordering {
        self.0.0.order(*tag).then_with(|| self.0.1.order(*value))
    }
}

impl PartialOrd for Pair<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Takes the next quoted text out of the members of an object.
fn split_text<'a>(rest: &mut &'a str) -> Option<Text<'a>> {
    let (_, from_quote) = rest.split_once('"')?;
    let mut escaped = false;
    let end = from_quote.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    let (text, behind) = from_quote.split_at(end);
    *rest = &behind[1..];
    Some(Text(text))
}

impl<'a> Text<'a> {
    /// The form as it stands in the line.
    pub fn escaped(&self) -> &'a str {
        self.0
    }

    /// The text itself.
    pub fn plain(&self) -> Cow<'a, str> {
        if !self.0.contains('\\') {
            return Cow::Borrowed(self.0);
        }
        Cow::Owned(String::from_utf8_lossy(&self.plain_bytes().collect::<Vec<_>>()).into_owned())
    }

    /// By the UTF-8 bytes of the texts.
    pub fn order(self, other: Text<'_>) -> Ordering {
        if self.0 == other.0 {
            Ordering::Equal
        } else if self.0.contains('\\') || other.0.contains('\\') {
            self.plain_bytes().cmp(other.plain_bytes())
        } else {
            self.0.cmp(other.0)
        }
    }

    /// By the UTF-16 code units of the texts.
    fn jcs_order(self, other: Text<'_>) -> Ordering {
        if self.0.bytes().chain(other.0.bytes()).any(|byte| byte >= 0xf0) {
            self.plain().encode_utf16().cmp(other.plain().encode_utf16())
        } else {
            self.order(other)
        }
    }

    fn plain_bytes(self) -> impl Iterator<Item = u8> + use<'a> {
        let mut rest = self.0.as_bytes();
        std::iter::from_fn(move || {
            let (byte, used) = match rest {
                [b'\\', b'u', _, _, high, low, ..] => (hex(*high) << 4 | hex(*low), 6),
                [b'\\', b'b', ..] => (0x08, 2),
                [b'\\', b't', ..] => (b'\t', 2),
                [b'\\', b'n', ..] => (b'\n', 2),
                [b'\\', b'f', ..] => (0x0c, 2),
                [b'\\', b'r', ..] => (b'\r', 2),
                [b'\\', plain, ..] => (*plain, 2),
                [plain, ..] => (*plain, 1),
                [] => return None,
            };
            rest = &rest[used..];
            Some(byte)
        })
    }
}

/// The value of a lower-case hex digit.
fn hex(digit: u8) -> u8 {
    if digit.is_ascii_digit() { digit - b'0' } else { digit.wrapping_sub(b'a').wrapping_add(10) }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn over(line: &'a [u8]) -> Result<Self, NotARow> {
        let text = str::from_utf8(line).map_err(|error| NotARow { at: error.valid_up_to(), want: "UTF-8" })?;
        if !text.is_ascii()
            && let Some(at) = text.find(REPLACEMENT)
        {
            return Err(NotARow { at, want: "text without U+FFFD" });
        }
        Ok(Self { text, at: 0 })
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn missing(&self, want: &'static str) -> NotARow {
        NotARow { at: self.at, want }
    }

    fn skip(&mut self, word: &str) -> bool {
        let is_there = self.rest().starts_with(word.as_bytes());
        if is_there {
            self.at += word.len();
        }
        is_there
    }

    fn expect(&mut self, word: &str, want: &'static str) -> Result<(), NotARow> {
        if self.skip(word) { Ok(()) } else { Err(self.missing(want)) }
    }

    fn end(&self) -> Result<(), NotARow> {
        if self.at == self.text.len() { Ok(()) } else { Err(self.missing("the end of the line")) }
    }

    /// The places of a text whose opening quote was taken; takes the closing one.
    fn text(&mut self) -> Result<(usize, usize), NotARow> {
        let start = self.at;
        loop {
            match self.rest() {
                [b'"', ..] => {
                    self.at += 1;
                    return Ok((start, self.at - 1));
                }
                [b'\\', escape, behind @ ..] => {
                    self.at += match (escape, behind) {
                        (b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r', _) => 2,
                        (b'u', [b'0', b'0', high @ b'0'..=b'1', low @ (b'0'..=b'9' | b'a'..=b'f'), ..])
                            if !matches!(hex(*high) << 4 | hex(*low), 0x08..=0x0a | 0x0c | 0x0d) =>
                        {
                            6
                        }
                        _ => return Err(self.missing("an escape of RFC 8785")),
                    };
                }
                [plain, ..] if *plain >= 0x20 => self.at += 1,
                _ => return Err(self.missing("text up to its closing quote")),
            }
        }
    }

    /// A whole number within its type, whose opening quote was taken; takes the closing one.
    fn whole<T: str::FromStr>(&mut self) -> Result<T, NotARow> {
        let start = self.at;
        let is_negative = self.skip("-");
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let is_canonical = match self.rest() {
            [b'0', ..] => digits == 1 && !is_negative,
            _ => digits > 0,
        };
        self.at += digits;
        match self.text[start..self.at].parse() {
            Ok(value) if is_canonical => {
                self.expect("\"", "`\"` behind the number")?;
                Ok(value)
            }
            _ => Err(NotARow { at: start, want: "a whole number within its type" }),
        }
    }

    /// All of a row behind the opening quote of its time.
    fn time_and_value(&mut self, places: Places) -> Result<Places, NotARow> {
        let time_ns = self.whole()?;
        self.expect(",", "`,`")?;
        let kind = self.typed()?.ok_or_else(|| self.missing("a type of a field"))?;
        self.expect("}", "`}`")?;
        self.end()?;
        Ok(Places { time_ns, kind: Some(kind), ..places })
    }

    /// `"type":…,"value":…`. The type; `None` is a time.
    fn typed(&mut self) -> Result<Option<FieldType>, NotARow> {
        self.expect("\"type\":\"", "`\"type\":\"`")?;
        if self.skip("f64\",\"value\":") {
            self.double()?;
            return Ok(Some(FieldType::F64));
        }
        if self.skip("i64\",\"value\":\"") {
            self.whole::<i64>()?;
            return Ok(Some(FieldType::I64));
        }
        if self.skip("u64\",\"value\":\"") {
            self.whole::<u64>()?;
            return Ok(Some(FieldType::U64));
        }
        if self.skip("bool\",\"value\":") {
            if !self.skip("true") {
                self.expect("false", "`true` or `false`")?;
            }
            return Ok(Some(FieldType::Bool));
        }
        if self.skip("str\",\"value\":\"") {
            let (start, end) = self.text()?;
            if start == end {
                return Err(NotARow { at: start, want: "a text that is not empty" });
            }
            return Ok(Some(FieldType::Str));
        }
        if self.skip("time\",\"value\":\"") {
            self.whole::<i64>()?;
            return Ok(None);
        }
        Err(self.missing("a type and its value"))
    }

    /// A finite double as ECMAScript writes it.
    fn double(&mut self) -> Result<(), NotARow> {
        let number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e');
        let length = self.rest().iter().take_while(number).count();
        if !jcs::is_f64(&self.text[self.at..self.at + length]) {
            return Err(self.missing("a number as ECMAScript writes it"));
        }
        self.at += length;
        Ok(())
    }
}
