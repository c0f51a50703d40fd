//! Durations, sizes and times of day as people write them in a config. Pure.

use std::time::Duration;

/// `"100ms"`, `"1s"`, `"15m"` (or `"15min"`), `"6h"`, `"90d"`; also several in a row, such as `"1h30m"`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(count.checked_mul(unit_ms)?))?;
        rest = rest[letters..].trim_start();
    }
    (!text.trim().is_empty()).then_some(total)
}

/// As [`duration`], in ms, with a sign: `"-2s"`.
pub fn signed_duration_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    Some(sign * i64::try_from(duration(rest)?.as_millis()).ok()?)
}

/// Bytes: `"500MB"`, `"2GB"` are powers of 1000, `"64MiB"` of 1024.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim_start() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    count.checked_mul(unit)
}

/// `"14:00"` as minutes since midnight; `"24:00"` is the end of the day.
pub fn time_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 || !text.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= 24 * 60).then_some(minutes)
}

/// A duration as it is written in the config.
pub fn written(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")] {
        if ms >= unit && ms.is_multiple_of(unit) {
            return format!("{}{name}", ms / unit);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_sizes_and_times_of_day_read_as_people_write_them() {
        for (text, ms) in [("100ms", 100), ("1s", 1_000), ("15m", 900_000), ("15min", 900_000), ("1h30m", 5_400_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "1", "s", "1 sec", "1.5s", "-1s", "1h x", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(signed_duration_ms("-2s"), Some(-2_000));
        assert_eq!(signed_duration_ms("--2s"), None);
        assert_eq!(
            (size("500MB"), size("64 MiB"), size("1GB")),
            (Some(500_000_000), Some(64 << 20), Some(1_000_000_000))
        );
        assert_eq!((size("500"), size("MB"), size("1.5GB"), size("99999999999TB")), (None, None, None, None));
        assert_eq!(
            (time_of_day("14:00"), time_of_day("24:00"), time_of_day("00:30")),
            (Some(840), Some(1440), Some(30))
        );
        for bad in ["24:30", "14:60", "7:00", "1400", "+1:00", "14:00:00"] {
            assert_eq!(time_of_day(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 1..1_000_000_000_u64) {
            prop_assert_eq!(duration(&written(Duration::from_millis(ms))), Some(Duration::from_millis(ms)));
        }

        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,12}") {
            prop_assert!(duration(&text).is_none() || text.bytes().any(|b| b.is_ascii_digit()));
            prop_assert!(size(&text).is_none() || text.bytes().any(|b| b.is_ascii_digit()));
            prop_assert!(time_of_day(&text).is_none() || text.len() == 5);
        }
    }
}
