//! JSON that stands there in its one form (RFC 8785), its members by name, and files read up to a bound.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use alloy_primitives::hex;
use serde_json::{Map, Number, Value};

use super::report::{Cause, Refused};
use crate::model::{Digest, jcs};

/// The JSON value of canonical bytes; otherwise why it is none. serde_json refuses what nests deeper than 128.
pub fn value(bytes: &[u8]) -> Result<Value, String> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
    as_doubles(&mut value);
    let canonical = jcs::to_vec(&value).map_err(|error| error.to_string())?;
    same(&canonical, bytes, 0)?;
    Ok(value)
}

/// A whole number beyond 2^53 that stands in JSON is a double, written as ECMAScript writes it: written again, it is the
/// same only if it is that. Where a whole number belongs, [`Members`] refuses it.
fn as_doubles(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let wide = number.as_i64().map_or(number.is_u64(), |whole| whole.unsigned_abs() > 1 << 53);
            if let Some(double) = number.as_f64().filter(|_| wide).and_then(Number::from_f64) {
                *number = double;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(as_doubles),
        Value::Object(members) => members.values_mut().for_each(as_doubles),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Whether what stands there, from byte `from` on, is the canonical form; otherwise where it first is another.
pub fn same(canonical: &[u8], found: &[u8], from: usize) -> Result<(), String> {
    if canonical == found {
        return Ok(());
    }
    let at = canonical.iter().zip(found).take_while(|(a, b)| a == b).count();
    let excerpt = |bytes: &[u8]| match bytes.get(at..) {
        Some(rest) if !rest.is_empty() => {
            format!("`{}`", String::from_utf8_lossy(&rest[..rest.len().min(24)]).escape_debug())
        }
        _ => "the end".to_owned(),
    };
    Err(format!("not canonical JSON: at byte {} found {}, expected {}", from + at, excerpt(found), excerpt(canonical)))
}

/// The members of an object: exactly those that are asked for.
pub struct Members<'a>(&'a Map<String, Value>);

impl<'a> Members<'a> {
    /// `None` where it is no object.
    pub fn of(value: &'a Value) -> Result<Self, String> {
        value.as_object().map(Self).ok_or_else(|| "not an object".to_owned())
    }

    /// With these members and no others.
    pub fn exactly(value: &'a Value, names: &[&str]) -> Result<Self, String> {
        let members = Self::of(value)?;
        if let Some(unknown) = members.0.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("has a member `{}`, which is not known", unknown.escape_debug()));
        }
        match names.iter().find(|name| !members.0.contains_key(**name)) {
            Some(missing) => Err(format!("has no member `{missing}`")),
            None => Ok(members),
        }
    }

    pub fn get(&self, name: &str) -> Result<&'a Value, String> {
        self.0.get(name).ok_or_else(|| format!("has no member `{name}`"))
    }

    pub fn read<T>(&self, name: &str, what: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<T, String> {
        let value = self.get(name)?;
        read(value).ok_or_else(|| format!("member `{name}`: found {}, expected {what}", short(value)))
    }

    /// What `read` makes of each item of an array.
    pub fn list<T>(&self, name: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Vec<T>, String> {
        self.read(name, what, |value| value.as_array()?.iter().map(&read).collect())
    }

    pub fn text(&self, name: &str) -> Result<&'a str, String> {
        self.read(name, "a string", Value::as_str)
    }

    /// A time in ms: a whole number within ±2^53.
    pub fn time(&self, name: &str) -> Result<i64, String> {
        self.read(name, "a time in ms", Value::as_i64)
    }

    pub fn digest(&self, name: &str) -> Result<Digest, String> {
        self.read(name, "64 hex digits", |value| value.as_str()?.parse().ok())
    }

    pub fn parsed<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<T, String> {
        self.read(name, what, |value| value.as_str()?.parse().ok())
    }

    /// What `read` makes of it, or null.
    pub fn or_null<T>(
        &self,
        name: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        self.read(name, what, |value| if value.is_null() { Some(None) } else { read(value).map(Some) })
    }

    pub fn object(&self, name: &str) -> Result<&'a Map<String, Value>, String> {
        self.read(name, "an object", Value::as_object)
    }
}

/// A value in so many letters as fit a line.
pub fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The bytes of lower-case hex without prefix.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|bytes| hex::encode(bytes) == text)
}

/// A decimal number without sign and without leading zero, so that there is one form of it.
pub fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

/// Whether a JSON text says that it is of this format. One that says that it is of another version is not wrong: it
/// cannot be read here.
pub fn check_format(bytes: &[u8], file: &str, wanted: &str) -> Result<(), Refused> {
    #[derive(serde::Deserialize)]
    struct Format<'a> {
        #[serde(borrow)]
        format: std::borrow::Cow<'a, str>,
    }
    let found: Format =
        serde_json::from_slice(bytes).map_err(|error| Refused::new(file, "", format!("found no format: {error}")))?;
    if found.format == wanted {
        return Ok(());
    }
    let (family, _) = wanted.rsplit_once('-').unwrap_or((wanted, ""));
    let other_version = found.format.starts_with(family);
    let found: String = found.format.chars().take(40).collect();
    let refused = Refused::other(file, "member `format`", format!("`{}`", found.escape_debug()), format!("`{wanted}`"));
    Err(if other_version { refused.because(Cause::Unreadable) } else { refused })
}

/// A file of at most `limit` bytes.
pub fn read_file(path: &Path, name: &str, limit: u64) -> Result<Vec<u8>, Refused> {
    let (file, length) = open_file(path, name)?;
    if length > limit {
        return Err(Refused::unreadable(name, format!("it has {length} bytes, and more than {limit} are not read")));
    }
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(name, &error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(Refused::unreadable(name, format!("more than {limit} bytes are not read")));
    }
    Ok(bytes)
}

/// A regular file, not a link to one, with its length.
pub fn open_file(path: &Path, name: &str) -> Result<(File, u64), Refused> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(name, &error))?;
    if !metadata.is_file() {
        return Err(Refused::unreadable(name, "it is no file"));
    }
    let file = File::open(path).map_err(|error| unreadable(name, &error))?;
    Ok((file, metadata.len()))
}

pub fn unreadable(name: &str, error: &std::io::Error) -> Refused {
    Refused::unreadable(name, format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_read() {
        for good in [r#"{"a":1,"b":[true,null,"é\n"]}"#, "1e+21", "9007199254740994", "-9007199254740994", "0.1", "{}"]
        {
            assert!(value(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            r#"{"b":1,"a":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a": 1}"#,
            "{}\n",
            "1.0",
            "-0",
            "1E21",
            "1e400",
            "9007199254740993",
            "18446744073709551617",
            r#""\u0041""#,
            r#""\/""#,
            r#""\ud800""#,
            "\"\u{1}\"",
            "[1,]",
            "",
            &"[".repeat(100_000),
        ] {
            assert!(value(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(value(&[b'"', 0xff, b'"']).is_err());
    }

    #[test]
    fn members_are_exactly_those_that_are_asked_for() {
        let object = value(br#"{"a":9007199254740994,"b":"x"}"#).unwrap();
        assert!(
            Members::exactly(&object, &["a", "b"]).unwrap().time("a").is_err(),
            "beyond 2^53 it is no whole number"
        );
        assert_eq!(Members::exactly(&object, &["a"]).err().unwrap(), "has a member `b`, which is not known");
        assert_eq!(Members::exactly(&object, &["a", "b", "c"]).err().unwrap(), "has no member `c`");
    }
}
