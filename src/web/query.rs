//! What a request asks for: times, ranges, resolutions. A wrong one is answered with its name and a remedy.

use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use jiff::civil;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::schema::AnyOf;
use utoipa::openapi::{KnownFormat, Object, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use crate::model::{Span, Timestamp};

/// The query of an address, with no parameter that the route does not know: a misspelt one must not be passed over.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(QueryRejection::FailedToDeserializeQueryString(bad)) => {
                let cause = std::error::Error::source(&bad).map_or_else(|| bad.body_text(), ToString::to_string);
                Err(Problem::BadRequest(format!("the query does not fit: {cause}")))
            }
            Err(other) => Err(Problem::BadRequest(other.body_text())),
        }
    }
}

/// A body in JSON, of at most so many bytes.
pub fn body_of<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>, longest: usize) -> Result<T, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLong(longest))?;
    serde_json::from_slice(&body).map_err(|fault| Problem::BadRequest(fault.to_string()))
}

/// The `{id}` of a route.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) =
            Path::from_request_parts(parts, state).await.map_err(|bad| Problem::BadRequest(bad.body_text()))?;
        Ok(Self(id))
    }
}

/// A route without parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A range in time, and in what steps.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RangeAsked {
    /// The first instant; as long before `to` as suits the resolution unless told.
    #[param(schema_with = instant_schema)]
    pub from: Option<String>,
    /// The end, which is not in it; now unless told.
    #[param(schema_with = instant_schema)]
    pub to: Option<String>,
    /// In the place of `from`.
    #[serde(rename = "startDate")]
    #[param(schema_with = instant_schema)]
    pub start_date: Option<String>,
    /// In the place of `to`; a date includes that day.
    #[serde(rename = "endDate")]
    #[param(schema_with = instant_schema)]
    pub end_date: Option<String>,
    #[param(value_type = Option<Resolution>, inline)]
    pub resolution: Option<String>,
    #[param(value_type = Option<Format>, inline)]
    pub format: Option<String>,
}

/// In what steps readings are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Resolution {
    Raw,
    Minute,
    Block,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Format {
    Json,
    Csv,
}

impl RangeAsked {
    pub fn resolution(&self) -> Result<Option<Resolution>, Problem> {
        const RESOLUTIONS: [(&str, Resolution); 8] = [
            ("raw", Resolution::Raw),
            ("minute", Resolution::Minute),
            ("block", Resolution::Block),
            ("hour", Resolution::Hour),
            ("day", Resolution::Day),
            ("week", Resolution::Week),
            ("month", Resolution::Month),
            ("year", Resolution::Year),
        ];
        one_of_these("resolution", self.resolution.as_deref(), &RESOLUTIONS)
    }

    pub fn format(&self) -> Result<Format, Problem> {
        let format = one_of_these("format", self.format.as_deref(), &[("json", Format::Json), ("csv", Format::Csv)])?;
        Ok(format.unwrap_or(Format::Json))
    }

    /// The range `[from, to)`: up to now when no end is given; without a start, as long as suits the resolution.
    /// A bare date as `endDate` includes that day, since that is what the name says; as `to` it ends where it begins.
    pub fn span(&self, resolution: Resolution, zone: &TimeZone, now: Timestamp) -> Result<Span, Problem> {
        let (start, start_name) = one_of(("from", &self.from), ("startDate", &self.start_date))?;
        let (end, end_name) = one_of(("to", &self.to), ("endDate", &self.end_date))?;
        let to = match end {
            Some(text) => instant(end_name, text, zone, end_name == "endDate")?,
            None => now,
        };
        let from = match start {
            Some(text) => instant(start_name, text, zone, false)?,
            None => usual_start(resolution, to, zone),
        };
        Span::new(from, to).ok_or_else(|| Problem::Parameter {
            name: start_name,
            what: format!("{from} is not before the end {to}: give an earlier start, or a later `{end_name}`"),
        })
    }
}

fn usual_start(resolution: Resolution, to: Timestamp, zone: &TimeZone) -> Timestamp {
    let days = |days: i64| to.plus_millis(-days * 86_400_000);
    match resolution {
        Resolution::Raw => to.plus_millis(-3_600_000),
        Resolution::Minute => days(1),
        Resolution::Block => day_start(to.plus_millis(-1), zone).unwrap_or_else(|| days(1)),
        Resolution::Hour => days(7),
        Resolution::Day => days(31),
        Resolution::Week => days(12 * 7),
        Resolution::Month => days(365),
        Resolution::Year => days(5 * 365),
    }
}

/// What [`instant`] reads.
pub fn instant_schema() -> Schema {
    let text = || Object::builder().schema_type(Type::String);
    let local = text().pattern(Some(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?$"));
    AnyOf::builder()
        .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))))
        .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Date))).description(Some("Of the site.")))
        .item(local.description(Some("The site's time.")))
        .item(Object::builder().schema_type(Type::Integer).description(Some("Milliseconds since 1970.")))
        .into()
}

/// Reads a parameter that has a few words to choose from.
pub fn one_of_these<T: Copy>(
    name: &'static str,
    text: Option<&str>,
    choices: &[(&str, T)],
) -> Result<Option<T>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let choice = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
    choice.map(Some).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        Problem::Parameter { name, what: format!("`{}` is not known: give {}", beginning(text), words.join(" or ")) }
    })
}

/// Reads the parameter `before` of a list: the id of one of `what`, such as a job.
pub fn before<T: FromStr>(id: Option<&str>, what: &str) -> Result<Option<T>, Problem> {
    id.map(str::parse).transpose().map_err(|_| Problem::Parameter {
        name: "before",
        what: format!("give the id of {what}, such as the last one of the list before"),
    })
}

/// Reads a parameter that is a whole number within bounds.
pub fn count(name: &'static str, text: Option<&str>, bounds: RangeInclusive<usize>) -> Result<Option<usize>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let count = text.parse().ok().filter(|count| bounds.contains(count));
    count.map(Some).ok_or_else(|| {
        let (least, most) = bounds.into_inner();
        let what = format!("`{}` does not do: give a whole number from {least} to {most}", beginning(text));
        Problem::Parameter { name, what }
    })
}

/// As much of what was given as a message has room for.
fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}

type Given<'a> = (&'static str, &'a Option<String>);

fn one_of<'a>(first: Given<'a>, second: Given<'a>) -> Result<(Option<&'a str>, &'static str), Problem> {
    match (first.1, second.1) {
        (Some(_), Some(_)) => Err(Problem::Parameter {
            name: second.0,
            what: format!("`{}` says the same: give one of the two", first.0),
        }),
        (None, Some(text)) => Ok((Some(text), second.0)),
        (text, None) => Ok((text.as_deref(), first.0)),
    }
}

/// Reads RFC 3339, milliseconds since 1970, or a date or time of day without a zone, which is the site's.
pub fn instant(name: &'static str, text: &str, zone: &TimeZone, whole_day: bool) -> Result<Timestamp, Problem> {
    let wrong = |what: String| Problem::Parameter { name, what };
    let number = text.strip_prefix('-').unwrap_or(text);
    if !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()) {
        let millis = text.parse().ok().filter(|at| jiff::Timestamp::from_millisecond(*at).is_ok());
        let millis: i64 = millis.ok_or_else(|| wrong(format!("{text} ms lies beyond the year 9999")))?;
        // Seconds of our days, taken for milliseconds, would be some day in January 1970.
        if (100_000_000..100_000_000_000).contains(&millis) {
            return Err(wrong(format!("{text} looks like seconds since 1970: give milliseconds, {text}000")));
        }
        return Ok(Timestamp::from_millis(millis));
    }
    // A `+` that was not escaped in the address arrives as a blank.
    let mended = text.rsplit_once(' ').filter(|(front, back)| front.contains('T') && back.contains(':'));
    let mended = mended.map(|(front, back)| format!("{front}+{back}"));
    let text = mended.as_deref().unwrap_or(text);
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp::from_millis(at.as_millisecond()));
    }
    let local = if text.len() == 10 {
        let date = text.parse::<civil::Date>().ok();
        date.and_then(|date| if whole_day { date.tomorrow().ok() } else { Some(date) }).map(|date| date.at(0, 0, 0, 0))
    } else {
        text.parse::<civil::DateTime>().ok()
    };
    let at = local.and_then(|local| local.to_zoned(zone.clone()).ok()).ok_or_else(|| {
        wrong(format!(
            "`{}` is no time: give 2026-11-21T08:00:00Z, 2026-11-21T08:00 or 2026-11-21 (the site's time), or \
             milliseconds since 1970",
            beginning(text)
        ))
    })?;
    Ok(Timestamp::from_millis(at.timestamp().as_millisecond()))
}

/// The first instant of the local day that `at` is in.
pub fn day_start(at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let local = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?.to_zoned(zone.clone());
    Some(Timestamp::from_millis(local.start_of_day().ok()?.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    #[test]
    fn times_come_in_four_forms() {
        let read = |text: &str| instant("from", text, &berlin(), false).unwrap();
        let eight = at("2026-11-21T07:00:00Z");
        for text in
            ["2026-11-21T07:00:00Z", "2026-11-21T08:00:00+01:00", "2026-11-21T08:00:00 01:00", "2026-11-21T08:00"]
        {
            assert_eq!(read(text), eight, "{text}");
        }
        assert_eq!(read(&eight.as_millis().to_string()), eight);
        assert_eq!(read("2026-11-21"), at("2026-11-20T23:00:00Z"));
        assert_eq!(read("0").as_millis(), 0);
        assert_eq!(read("2026-03-29T02:30"), at("2026-03-29T01:30:00Z"), "a time that the change of clocks left out");
    }

    #[test]
    fn a_wrong_time_names_its_parameter_and_a_remedy() {
        for text in ["", "yesterday", "2026-13-01", "1763688600", "99999999999999999", "2026-11-21T25:00"] {
            let problem = instant("to", text, &berlin(), false).unwrap_err();
            assert!(matches!(problem, Problem::Parameter { name: "to", .. }), "{text}");
        }
        let told = instant("to", "1763688600", &berlin(), false).unwrap_err().to_string();
        assert!(told.contains("1763688600000"), "{told}");
    }

    #[test]
    fn an_end_date_includes_its_day_and_a_range_must_go_forward() {
        let now = at("2026-11-21T12:00:00Z");
        let asked = |from: &str, to: &str, dates: bool| {
            let (from, to) = (Some(from.to_owned()), Some(to.to_owned()));
            if dates {
                RangeAsked { start_date: from, end_date: to, ..RangeAsked::default() }
            } else {
                RangeAsked { from, to, ..RangeAsked::default() }
            }
        };
        let span = asked("2026-11-01", "2026-11-02", true).span(Resolution::Raw, &berlin(), now).unwrap();
        assert_eq!(span.millis(), 2 * 86_400_000);
        let span = asked("2026-11-01", "2026-11-02", false).span(Resolution::Raw, &berlin(), now).unwrap();
        assert_eq!(span.millis(), 86_400_000);
        assert!(asked("2026-11-02", "2026-11-02", false).span(Resolution::Raw, &berlin(), now).is_err());
        let both = RangeAsked { from: Some("0".into()), start_date: Some("0".into()), ..RangeAsked::default() };
        assert!(both.span(Resolution::Raw, &berlin(), now).is_err());
        let today = RangeAsked::default();
        assert_eq!(today.span(Resolution::Block, &berlin(), now).unwrap().start(), at("2026-11-20T23:00:00Z"));
    }
}
