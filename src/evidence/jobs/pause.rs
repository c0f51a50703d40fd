//! How long to wait before a server is asked again.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Grows with each failure in a row; never above a minute, so that an export goes on soon after the server is back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pauses(u32);

impl Pauses {
    /// The pause after one more failure: between half of it and the whole by chance, so that the gateways of a site do
    /// not come back at one moment, and as long as the server asks for.
    pub fn next(&mut self, asked_for: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.0.min(6)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        let mut random = [0; 4];
        // Without randomness there is only less spread.
        getrandom::fill(&mut random).ok();
        let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
        (whole / 2 + (whole / 2).mul_f64(share)).max(asked_for.unwrap_or_default()).min(LONGEST)
    }

    /// Failures in a row.
    pub fn count(&self) -> u32 {
        self.0
    }

    pub fn end(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew() {
        let mut pauses = Pauses::default();
        let waited: Vec<Duration> = (0..9).map(|_| pauses.next(None)).collect();
        assert!(waited[0] >= FIRST / 2 && waited[0] <= FIRST, "{waited:?}");
        assert!(waited[7..].iter().all(|pause| *pause >= LONGEST / 2 && *pause <= LONGEST), "{waited:?}");
        pauses.end();
        assert!(pauses.next(None) <= FIRST);
        assert!(pauses.next(Some(Duration::from_secs(20))) >= Duration::from_secs(20));
        assert_eq!(pauses.next(Some(Duration::from_secs(900))), LONGEST);
    }
}
