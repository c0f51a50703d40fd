//! Figures as a person reads them.

use crate::model::Timestamp;

/// A length of time: `12 s`, `5 min`, `3 h`, `9 days`.
pub fn lasting(millis: i64) -> String {
    let seconds = millis.max(0) / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long ago: a clock that was set back makes nothing lie ahead.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", lasting(now.millis_since(at)))
}

/// For how long it has been so.
pub fn lasted(since: Timestamp, now: Timestamp) -> String {
    lasting(now.millis_since(since))
}

/// `950 kB`, `1.2 GB`.
pub fn bytes(count: u64) -> String {
    let of = |unit: u64, name: &str| {
        let tenths = u128::from(count) * 10 / u128::from(unit);
        if tenths < 100 { format!("{}.{} {name}", tenths / 10, tenths % 10) } else { format!("{} {name}", tenths / 10) }
    };
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => of(1_000, "kB"),
        1_000_000..1_000_000_000 => of(1_000_000, "MB"),
        1_000_000_000..1_000_000_000_000 => of(1_000_000_000, "GB"),
        _ => of(1_000_000_000_000, "TB"),
    }
}

/// `1 meter`, `3 meters`.
pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// At this pace, bytes in a day.
pub fn per_day(bytes: u64, millis: u64) -> Option<u64> {
    let day = u128::from(bytes) * 86_400_000 / u128::from(millis).max(1);
    (millis > 0).then(|| u64::try_from(day).unwrap_or(u64::MAX))
}

/// The first letters of a problem that another sentence goes on with.
pub fn why(problem: Option<&str>) -> String {
    problem.map_or_else(String::new, |problem| format!(": {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let told: Vec<_> = [5, 119, 120, 7_199, 7_200, 172_799, 172_800, -5].map(|s| lasting(s * 1_000)).into();
        assert_eq!(told, ["5 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days", "0 s"]);
        let told: Vec<_> = [999, 1_000, 9_990, 12_345_678, 1_250_000_000, 4_000_000_000_000].map(bytes).into();
        assert_eq!(told, ["999 B", "1.0 kB", "9.9 kB", "12 MB", "1.2 GB", "4.0 TB"]);
        assert_eq!(per_day(10, 43_200_000), Some(20));
        assert_eq!(per_day(10, 0), None);
    }
}
