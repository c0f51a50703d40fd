//! What clients say: one JSON object in each text, told apart by `type`.

use serde_json::{Map, Value};

use crate::model::{Energy, Introduction, MeterId, Number, Ratio, SimulatedReading, Timestamp};

/// A simulator that gives no name is this one.
const DEVICE: &str = "EMS-SIMULATOR-001";
const NONAME: &str = "NONAME";
/// Characters of a simulator's name and of a telephone number.
const NAME: usize = 80;
const PHONE: usize = 32;
/// No meter reads more, kW and Hz.
const MOST_KW: f64 = 1_000_000.0;
const MOST_HZ: f64 = 1_000.0;
/// Readings further apart than the shortest block would leave blocks without any.
const INTERVAL_S: std::ops::RangeInclusive<f64> = 0.1..=900.0;
/// The greatest instant that a browser's clock can give, in ms.
const LATEST_MS: f64 = 8.64e15;
/// kWh of a block.
const MOST_KWH: f64 = 1e6;

/// A message that is understood.
#[derive(Debug, PartialEq)]
pub enum Said {
    Register {
        introduction: Introduction,
        called: String,
    },
    Handshake {
        is_auto: bool,
    },
    Reading {
        reading: SimulatedReading,
        echo: Value,
    },
    Dashboard,
    /// Anything else, which is passed over.
    Nothing,
}

/// A message that is not: the text for its sender, in the words that clients of this protocol know.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

/// What a text says.
pub fn read(text: &str) -> Result<Said, Fault> {
    let value: Value = serde_json::from_str(text).map_err(|error| Fault(format!("Invalid JSON: {error}")))?;
    let Value::Object(members) = value else { return Err(Fault("Invalid message: it is no JSON object".to_owned())) };
    Ok(match members.get("type").and_then(Value::as_str) {
        Some("simulator:register") => introduction(&members)?,
        Some("simulator:handshake") => {
            Said::Handshake { is_auto: members.get("source").and_then(Value::as_str) == Some("auto") }
        }
        Some("simulator:reading") => reading(&members)?,
        Some("dashboard:register") => Said::Dashboard,
        _ => Said::Nothing,
    })
}

fn introduction(members: &Map<String, Value>) -> Result<Said, Fault> {
    let id = device(members)?.unwrap_or(DEVICE).to_owned();
    let name = text(members, "simulatorName", NAME)?;
    let called = name.clone().unwrap_or_else(|| NONAME.to_owned());
    let phone = text(members, "whatsappNumber", PHONE)?;
    let introduction = Introduction { id: meter(&id)?, name, peak_target: target(members)?, phone };
    Ok(Said::Register { introduction, called })
}

fn reading(members: &Map<String, Value>) -> Result<Said, Fault> {
    let device = device(members)?.ok_or_else(|| fault("deviceName", "or \"deviceId\" is required"))?;
    let id = meter(device)?;
    let power_kw = number(members, "totalPowerKw", "must be a number")?;
    let power_kw = power_kw.ok_or_else(|| fault("totalPowerKw", "must be a number"))?;
    let time = number(members, "timestamp", "must be a number")?;
    let time = time.ok_or_else(|| fault("timestamp", "must be a number"))?;
    let frequency_hz = number(members, "frequency", "must be a number when provided")?;
    let interval = number(members, "readingInterval", "must be a number when provided")?;
    if power_kw.abs() > MOST_KW {
        return Err(fault("totalPowerKw", "is more than any meter reads"));
    }
    if frequency_hz.is_some_and(|hz| !(0.0..=MOST_HZ).contains(&hz)) {
        return Err(fault("frequency", "is no frequency of a grid"));
    }
    if interval.is_some_and(|seconds| !INTERVAL_S.contains(&seconds)) {
        return Err(fault("readingInterval", "must be from 0.1 to 900 seconds"));
    }
    let time = whole(time).ok_or_else(|| fault("timestamp", "must be milliseconds since 1970"))?;
    let interval_ms = interval.and_then(|seconds| whole((seconds * 1_000.0).round()));
    let echo = |name: &str| members.get(name).cloned().unwrap_or_default();
    Ok(Said::Reading {
        reading: SimulatedReading {
            id,
            time: Timestamp::from_millis(time),
            power_kw,
            frequency_hz,
            interval_ms: interval_ms.and_then(|ms| u32::try_from(ms).ok()),
            shows: false,
        },
        echo: serde_json::json!({"totalPowerKw": echo("totalPowerKw"), "timestamp": echo("timestamp")}),
    })
}

/// The name of the device: `deviceName` wins. An empty one is none.
fn device(members: &Map<String, Value>) -> Result<Option<&str>, Fault> {
    for name in ["deviceName", "deviceId"] {
        match members.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.trim().is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(text)),
            Some(_) => return Err(fault(name, "must be text")),
        }
    }
    Ok(None)
}

/// The meter of a device's name: blanks in it become `-`.
fn meter(device: &str) -> Result<MeterId, Fault> {
    let id = device.split_whitespace().collect::<Vec<_>>().join("-");
    id.parse().map_err(|_| fault("deviceName", "must be 1 to 64 of A-Z a-z 0-9 . _ -"))
}

fn text(members: &Map<String, Value>, name: &str, most: usize) -> Result<Option<String>, Fault> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= most && !text.chars().any(char::is_control) => {
            Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        }
        Some(_) => Err(fault(name, &format!("must be text of at most {most} characters when provided"))),
    }
}

fn number(members: &Map<String, Value>, name: &str, rule: &str) -> Result<Option<f64>, Fault> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => number.as_f64().map(Some).ok_or_else(|| fault(name, rule)),
        Some(_) => Err(fault(name, rule)),
    }
}

/// The target, a number or numeric text. Empty text and 0 say nothing.
fn target(members: &Map<String, Value>) -> Result<Option<Energy>, Fault> {
    let bad = || fault("targetPeakKwh", "must be a number when provided");
    let kwh = match members.get("targetPeakKwh") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => text.trim().parse::<f64>().map_err(|_| bad())?,
        Some(Value::Number(number)) => number.as_f64().ok_or_else(bad)?,
        Some(_) => return Err(bad()),
    };
    if !(0.0..=MOST_KWH).contains(&kwh) {
        return Err(fault("targetPeakKwh", "must be from 0 to 1000000"));
    }
    let uwh = Number::from_f64(kwh).and_then(|kwh| kwh.scaled(Ratio::ONE, Energy::KWH_DECIMALS));
    Ok(uwh.filter(|uwh| *uwh > 0).map(Energy::from_uwh))
}

/// Whole milliseconds.
fn whole(ms: f64) -> Option<i64> {
    let known = ms.abs() <= LATEST_MS;
    known.then(|| Number::from_f64(ms.trunc())?.scaled(Ratio::ONE, 0)).flatten()
}

fn fault(member: &str, rule: &str) -> Fault {
    Fault(format!("Invalid simulator payload: \"{member}\" {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn faults_are_told_in_the_words_of_the_protocol() {
        let reading = |rest: &str| format!(r#"{{"type":"simulator:reading"{rest}}}"#);
        let said = |rest: &str| told(&reading(rest));
        assert_eq!(
            said(r#","deviceId":"S","totalPowerKw":"12","timestamp":1"#),
            r#"Invalid simulator payload: "totalPowerKw" must be a number"#
        );
        let payload = "Invalid simulator payload: ";
        for (rest, fault) in [
            (r#","totalPowerKw":1,"timestamp":1"#, "\"deviceName\" or \"deviceId\" is required"),
            (r#","deviceId":7,"totalPowerKw":1,"timestamp":1"#, "\"deviceId\" must be text"),
            (r#","deviceId":"a/b","totalPowerKw":1,"timestamp":1"#, "\"deviceName\" must be 1 to 64"),
            (r#","deviceId":"S","totalPowerKw":1"#, "\"timestamp\" must be a number"),
            (r#","deviceId":"S","totalPowerKw":1e7,"timestamp":1"#, "\"totalPowerKw\" is more"),
            (r#","deviceId":"S","totalPowerKw":1,"timestamp":1e300"#, "\"timestamp\" must be milliseconds"),
            (
                r#","deviceId":"S","totalPowerKw":1,"timestamp":1,"frequency":"50""#,
                "\"frequency\" must be a number when",
            ),
            (
                r#","deviceId":"S","totalPowerKw":1,"timestamp":1,"readingInterval":0"#,
                "\"readingInterval\" must be from",
            ),
            (
                r#","deviceId":"S","totalPowerKw":1,"timestamp":1,"readingInterval":901"#,
                "\"readingInterval\" must be from",
            ),
        ] {
            let told = said(rest);
            assert!(told.strip_prefix(payload).is_some_and(|told| told.starts_with(fault)), "{rest}: {told}");
        }
        assert!(told("{").starts_with("Invalid JSON: "));
        assert_eq!(told("[]"), "Invalid message: it is no JSON object");
        for passed in [r#"{"type":"meter:read"}"#, r#"{"type":7}"#, "{}"] {
            assert_eq!(read(passed), Ok(Said::Nothing));
        }
    }

    #[test]
    fn a_simulator_is_taken_as_it_introduces_itself() {
        let said = |rest: &str| match read(&format!(r#"{{"type":"simulator:register"{rest}}}"#)).unwrap() {
            Said::Register { introduction, called } => {
                let target = introduction.peak_target.map(Energy::as_uwh);
                (introduction.id.to_string(), called, target, introduction.phone)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(said(""), (DEVICE.to_owned(), NONAME.to_owned(), None, None));
        let all = r#","deviceName":" EMS  SIM 2 ","deviceId":"x","simulatorName":" ABC ","targetPeakKwh":"200.5","whatsappNumber":"+49 1""#;
        let known = ("EMS-SIM-2".to_owned(), "ABC".to_owned(), Some(200_500_000_000), Some("+49 1".to_owned()));
        assert_eq!(said(all), known);
        assert_eq!(said(r#","deviceName":"","deviceId":"x","targetPeakKwh":200"#).2, Some(200_000_000_000));
        assert_eq!(said(r#","targetPeakKwh":"""#).2, None);
        for bad in
            [r#""targetPeakKwh":"much""#, r#""targetPeakKwh":-1"#, r#""targetPeakKwh":"NaN""#, r#""whatsappNumber":1"#]
        {
            assert!(told(&format!(r#"{{"type":"simulator:register",{bad}}}"#)).contains("must be"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "\\PC*", members in proptest::collection::vec("[\"{}:,a-zA-Z0-9.]{0,12}", 0..8)) {
            read(&text).ok();
            read(&format!("{{\"type\":\"simulator:reading\",{}}}", members.join(","))).ok();
        }

        #[test]
        fn an_instant_is_taken_to_the_millisecond(ms in -8_000_000_000_000_000_i64..8_000_000_000_000_000) {
            let text = format!(r#"{{"type":"simulator:reading","deviceId":"S","totalPowerKw":1.5,"timestamp":{ms}}}"#);
            let Ok(Said::Reading { reading, .. }) = read(&text) else { panic!() };
            prop_assert_eq!(reading.time.as_millis(), ms);
        }
    }
}
