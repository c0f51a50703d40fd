//! The only reader of wall time: the system's clock, or one set by hand in tests and in the demo's history.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::model::{ClockState, Stamp, Timestamp};

/// Wall time, monotonic time and the kernel's word on synchronisation. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Kind>);

enum Kind {
    System { boot: String, kernel: Option<Kernel> },
    Manual(watch::Sender<Manual>),
}

/// A clock's state when it is set by hand.
#[derive(Clone)]
struct Manual {
    boot: u32,
    time: Timestamp,
    since_boot_ms: u64,
    clock: ClockState,
}

/// The kernel's word on synchronisation, asked anew each second at most: asking takes a lock that all of the kernel's
/// timekeeping shares, and with a thousand meters it was a twentieth of all work.
#[derive(Default)]
struct Kernel {
    /// When it was last asked, ms since boot, times two; the lowest bit is its answer. 0 before the first time.
    seen: AtomicU64,
}

impl Kernel {
    const FRESH_MS: u64 = 1_000;

    fn state(&self, since_boot_ms: u64) -> ClockState {
        let seen = self.seen.load(Ordering::Relaxed);
        if seen != 0 && since_boot_ms.wrapping_sub(seen >> 1) < Self::FRESH_MS {
            return if seen & 1 == 1 { ClockState::Synchronised } else { ClockState::Unsynchronised };
        }
        let state = kernel_state();
        let answer = u64::from(state == ClockState::Synchronised);
        self.seen.store(since_boot_ms << 1 | answer, Ordering::Relaxed);
        state
    }
}

/// What the kernel says of its clock (Linux, adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelClock {
    pub state: ClockState,
    /// The greatest error that it may have, in µs: 16 s where nobody sets it.
    pub greatest_error_us: i64,
}

/// What the kernel says now; `None` when it refuses to tell.
pub fn kernel_clock() -> Option<KernelClock> {
    let greatest_error_us = greatest_error_us()?;
    let is_synchronised = greatest_error_us < GREATEST_ERROR_US;
    let state = if is_synchronised { ClockState::Synchronised } else { ClockState::Unsynchronised };
    Some(KernelClock { state, greatest_error_us })
}

/// The wait between two looks at the system's wall clock: bounds how late a step of the clock is noticed.
const LOOK: Duration = Duration::from_secs(1);

impl Clock {
    /// The system's clock, as far as the kernel says that it is synchronised.
    pub fn system() -> Self {
        Self(Arc::new(Kind::System { boot: boot_id(), kernel: Some(Kernel::default()) }))
    }

    /// The system's clock, taken for synchronised: for simulated data, which proves nothing.
    pub fn trusted() -> Self {
        Self(Arc::new(Kind::System { boot: boot_id(), kernel: None }))
    }

    /// A clock that stands at `time`, synchronised, 1 s after a boot, until it is moved by hand.
    pub fn manual(time: Timestamp) -> Self {
        let state = Manual { boot: 1, time, since_boot_ms: 1_000, clock: ClockState::Synchronised };
        Self(Arc::new(Kind::Manual(watch::Sender::new(state))))
    }

    /// Wall time.
    pub fn now(&self) -> Timestamp {
        match &*self.0 {
            Kind::System { .. } => wall(),
            Kind::Manual(state) => state.borrow().time,
        }
    }

    /// Both clocks at one instant.
    pub fn stamp(&self) -> Stamp {
        match &*self.0 {
            Kind::System { kernel, .. } => {
                let (time, since_boot_ms) = (wall(), since_boot_ms());
                Stamp { time, since_boot_ms, clock: state(kernel.as_ref(), since_boot_ms) }
            }
            Kind::Manual(state) => {
                let state = state.borrow();
                Stamp { time: state.time, since_boot_ms: state.since_boot_ms, clock: state.clock }
            }
        }
    }

    /// Milliseconds since this boot, suspended time included.
    pub fn since_boot_ms(&self) -> u64 {
        match &*self.0 {
            Kind::System { .. } => since_boot_ms(),
            Kind::Manual(state) => state.borrow().since_boot_ms,
        }
    }

    /// Whether the kernel takes the clock for synchronised; a change is seen within a second.
    pub fn state(&self) -> ClockState {
        match &*self.0 {
            Kind::System { kernel, .. } => state(kernel.as_ref(), since_boot_ms()),
            Kind::Manual(state) => state.borrow().clock,
        }
    }

    /// Names this boot: readings of one boot can be re-dated together.
    pub fn boot(&self) -> String {
        match &*self.0 {
            Kind::System { boot, .. } => boot.clone(),
            Kind::Manual(state) => format!("manual-{}", state.borrow().boot),
        }
    }

    /// Resolves when wall time has reached `at`, also when the clock is stepped meanwhile.
    pub async fn until(&self, at: Timestamp) {
        match &*self.0 {
            Kind::System { .. } => loop {
                let left = at.millis_since(wall());
                let Ok(left) = u64::try_from(left) else { return };
                if left == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(left).min(LOOK)).await;
            },
            Kind::Manual(state) => {
                let mut state = state.subscribe();
                // The sender lives in `self`, so the wait cannot fail.
                state.wait_for(|state| state.time >= at).await.ok();
            }
        }
    }

    /// Resolves after `duration` of monotonic time.
    pub async fn sleep(&self, duration: Duration) {
        match &*self.0 {
            Kind::System { .. } => tokio::time::sleep(duration).await,
            Kind::Manual(state) => {
                let mut state = state.subscribe();
                let now = state.borrow().since_boot_ms;
                let at = now.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
                state.wait_for(|state| state.since_boot_ms >= at).await.ok();
            }
        }
    }

    /// Moves a manual clock: both clocks go on together. Nothing happens to the system's clock.
    pub fn advance(&self, by: Duration) {
        self.change(|state| {
            state.time = state.time.plus(by);
            state.since_boot_ms += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        });
    }

    /// Moves a manual clock on to `time`, both clocks together; back only the wall clock goes, as a step.
    pub fn advance_to(&self, time: Timestamp) {
        self.change(|state| {
            state.since_boot_ms += u64::try_from(time.millis_since(state.time)).unwrap_or(0);
            state.time = time;
        });
    }

    /// Steps the wall clock alone of a manual clock.
    pub fn step_to(&self, time: Timestamp) {
        self.change(|state| state.time = time);
    }

    /// Says whether a manual clock is synchronised.
    pub fn set_state(&self, clock: ClockState) {
        self.change(|state| state.clock = clock);
    }

    /// A manual clock boots anew: monotonic time begins at 0, wall time goes on.
    pub fn reboot(&self) {
        self.change(|state| {
            state.boot += 1;
            state.since_boot_ms = 0;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Manual)) {
        if let Kind::Manual(state) = &*self.0 {
            state.send_modify(change);
        }
    }
}

fn state(kernel: Option<&Kernel>, since_boot_ms: u64) -> ClockState {
    kernel.map_or(ClockState::Synchronised, |kernel| kernel.state(since_boot_ms))
}

fn millis(time: rustix::time::Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}

fn wall() -> Timestamp {
    Timestamp::from_millis(millis(clock_gettime(ClockId::Realtime)))
}

fn since_boot_ms() -> u64 {
    u64::try_from(millis(clock_gettime(ClockId::Boottime))).unwrap_or(0)
}

/// The kernel's random id of this boot (Linux, random(4)).
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Synchronised while the kernel's estimate of the greatest error is below 16 s: it grows by 500 ppm without a time
/// service, and stands at 16 s after boot (Linux, adjtimex(2)).
const GREATEST_ERROR_US: i64 = 16_000_000;

/// A kernel that refuses to tell is not believed.
fn kernel_state() -> ClockState {
    kernel_clock().map_or(ClockState::Unsynchronised, |kernel| kernel.state)
}

#[allow(unsafe_code)]
fn greatest_error_us() -> Option<i64> {
    // SAFETY: `timex` is plain integers for which zero is valid; `modes` 0 reads and changes nothing.
    let (outcome, state) = unsafe {
        let mut state: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut state), state)
    };
    #[allow(clippy::useless_conversion)] // c_long is 32 bits wide on armv7
    (outcome >= 0).then(|| i64::from(state.maxerror))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_as_told() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        clock.advance(Duration::from_secs(5));
        assert_eq!((clock.now().as_millis(), clock.since_boot_ms()), (1_005_000, 6_000));
        clock.step_to(Timestamp::from_millis(0));
        assert_eq!((clock.now().as_millis(), clock.since_boot_ms()), (0, 6_000));
        let boot = clock.boot();
        clock.reboot();
        assert_ne!(boot, clock.boot());
        assert_eq!(clock.since_boot_ms(), 0);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_hand_has_moved_far_enough() {
        let clock = Clock::manual(Timestamp::from_millis(0));
        let wait = clock.until(Timestamp::from_millis(10_000));
        let moved = async {
            for _ in 0..10 {
                clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(wait, moved);
        assert_eq!(clock.now().as_millis(), 10_000);
    }

    #[test]
    fn the_kernel_is_asked_again_after_a_second() {
        let kernel = Kernel::default();
        let said = kernel.state(5_000);
        let other = u64::from(said != ClockState::Synchronised);
        kernel.seen.store(5_000 << 1 | other, Ordering::Relaxed);
        assert_ne!(kernel.state(5_999), said, "within a second the answer of before holds");
        assert_eq!(kernel.state(6_000), said);
        kernel.seen.store(6_000 << 1 | other, Ordering::Relaxed);
        assert_eq!(kernel.state(5_000), said, "a time before the last one is no second after it");
    }

    #[test]
    fn the_system_clock_runs() {
        let clock = Clock::system();
        assert!(clock.now().as_millis() > 1_700_000_000_000);
        assert!(clock.since_boot_ms() > 0 && !clock.boot().is_empty());
    }
}
