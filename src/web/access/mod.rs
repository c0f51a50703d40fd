//! Signing in: PINs, TOTP, the set-up code, sessions and what holds up whoever guesses. The rules are pure and lie in
//! `lockout`, `session`, `pin` and `totp`; what is to be kept is asked of `agent`.

mod lockout;
pub mod pin;
pub mod routes;
mod session;
pub mod tokens;
pub mod totp;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::ask::ask_at_once;
use super::problem::Problem;
use crate::clock::Clock;
use crate::model::{Actor, Digest};
use crate::store::{Access, AccessChange, AccessRefused, Lockout, Reader, Role, Second, StoreError, Token};
use lockout::Lockouts;
use pin::{HashFailed, Pin};
pub use routes::recovery_codes;
pub(super) use session::Session;
pub use session::random_token;
use session::{Pace, Sessions, Terms, Tries};
pub use tokens::token_name;

/// Somebody wants something that changes who may come in.
pub struct AccessNow {
    pub change: AccessChange,
    pub by: Actor,
    pub reply: oneshot::Sender<Result<Result<Option<Token>, AccessRefused>, StoreError>>,
}

/// Guesses that wait while one is checked; one more is told to come again. Each takes 19 MiB and a CPU for a while.
const WAITING: usize = 8;
/// When who found no place may come again.
const AGAIN_S: u32 = 2;

/// Who may come in, and who is in. Outlives the listener: a page that moves to another address ends no session.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    reader: Reader,
    clock: Clock,
    orders: mpsc::Sender<AccessNow>,
    idle_ms: AtomicU64,
    sessions: Mutex<Sessions>,
    lockouts: Mutex<Lockouts>,
    /// Of the viewer and the admin.
    paces: Mutex<[Pace; 2]>,
    /// Of each source, whatever comes of its guesses: those that are right cost a hash as well.
    tries: Mutex<Tries>,
    /// The newest TOTP step whose code was taken, also while the store does not know it yet.
    last_step: AtomicU64,
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    /// Counts sessions that somebody ended.
    ended: watch::Sender<u64>,
}

/// What somebody shows to come in.
pub struct Guess {
    pub pin: Pin,
    pub code: Option<Code>,
}

pub enum Code {
    Totp(String),
    Recovery(String),
}

/// What is guessed at.
enum What {
    Pin,
    SetupCode,
}

/// What a guess came to.
enum Verdict {
    WrongPin,
    WrongCode,
    /// The PIN is the admin's, and a code is needed too.
    NeedsCode,
    Right {
        role: Role,
        pin: Arc<str>,
        second: Second,
    },
}

impl Gate {
    pub async fn open(
        reader: Reader,
        clock: Clock,
        orders: mpsc::Sender<AccessNow>,
        idle: Duration,
    ) -> Result<Self, StoreError> {
        let lockouts = Lockouts::restored(reader.lockouts().await?, clock.since_boot_ms());
        let gate = Self(Arc::new(Inner {
            reader,
            clock,
            orders,
            idle_ms: AtomicU64::new(0),
            sessions: Mutex::default(),
            lockouts: Mutex::new(lockouts),
            paces: Mutex::default(),
            tries: Mutex::default(),
            last_step: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(1 + WAITING)),
            turn: Arc::new(Semaphore::new(1)),
            ended: watch::Sender::new(0),
        }));
        gate.set_idle(idle);
        Ok(gate)
    }

    /// Sessions that are there are held to a changed idle time as well.
    pub fn set_idle(&self, idle: Duration) {
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        self.0.idle_ms.store(idle, Ordering::Relaxed);
    }

    /// What is to be kept by now of lock-outs: what the log is to tell, and at the end what is left to wait.
    pub fn to_keep(&self, at_end: bool) -> Option<AccessChange> {
        let change = self.0.lockouts_to_keep(false);
        let AccessChange::Lockouts { all, told } = &change else { return None };
        let is_news = told.is_some() || at_end && all.iter().any(|lockout| lockout.failures > 0);
        is_news.then_some(change)
    }

    pub fn ended(&self) -> watch::Receiver<u64> {
        self.0.ended.subscribe()
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.0.idle_ms.load(Ordering::Relaxed))
    }

    fn with_sessions<T>(&self, work: impl FnOnce(&mut Sessions, Terms<'_>) -> T) -> T {
        let access = self.0.reader.access();
        let idle_ms = self.0.idle_ms.load(Ordering::Relaxed);
        let terms = Terms { access: &access, idle_ms, now: self.0.clock.stamp() };
        work(&mut lock(&self.0.sessions), terms)
    }

    /// The session with this token, if it lives. `seen` counts as activity.
    pub fn session(&self, token: &Digest, seen: bool) -> Option<Session> {
        self.with_sessions(|sessions, terms| sessions.find(token, seen, terms).cloned())
    }

    /// Ends sessions; those that were ended.
    fn end(&self, is_ended: impl Fn(&Session) -> bool) -> Vec<Session> {
        let ended = lock(&self.0.sessions).end(is_ended);
        if !ended.is_empty() {
            self.0.ended.send_modify(|count| *count += 1);
        }
        ended
    }

    /// Checks a guess and begins a session.
    async fn sign_in(&self, source: &str, guess: Guess) -> Result<(Session, String), Problem> {
        match self.judge(source, guess).await? {
            Verdict::WrongPin => Err(Problem::WrongPin),
            Verdict::WrongCode => Err(Problem::WrongCode(self.0.clock.now())),
            Verdict::NeedsCode => Err(Problem::CodeNeeded),
            Verdict::Right { role, pin, second } => self.let_in(source, role, pin, second).await,
        }
    }

    async fn let_in(
        &self,
        source: &str,
        role: Role,
        pin: Arc<str>,
        second: Second,
    ) -> Result<(Session, String), Problem> {
        let paced = lock(&self.0.paces)[usize::from(role == Role::Admin)].sign_in(self.0.clock.since_boot_ms());
        paced.map_err(|ms| Problem::TooManySignIns { again: seconds(ms) })?;
        let actor = Actor { name: role.as_str().to_owned(), source: Some(source.to_owned()) };
        let is_recovery = matches!(second, Second::Recovery(_));
        match self.ask(AccessChange::SignIn { role, second }, actor).await {
            Ok(_) => {}
            Err(Problem::Access(AccessRefused::CodeUsed)) => return Err(Problem::WrongCode(self.0.clock.now())),
            // Somebody must be able to look why nothing can be stored. A recovery code would be good once more.
            Err(Problem::Store(cause)) if !is_recovery => {
                error!(error = &cause as &dyn std::error::Error, "a sign-in could not be put on record");
            }
            Err(problem) => return Err(problem),
        }
        info!(role = role.as_str(), source, "signed in");
        self.with_sessions(|sessions, terms| sessions.begin((role, pin), source, terms)).map_err(Problem::random)
    }

    /// Whether this is the admin's PIN, and the code if one is needed: for what a session alone does not suffice.
    async fn is_admin(&self, source: &str, guess: Guess, needs_code: bool) -> Result<(), Problem> {
        match self.judge(source, guess).await? {
            Verdict::Right { role: Role::Admin, .. } => Ok(()),
            Verdict::NeedsCode if !needs_code => Ok(()),
            Verdict::NeedsCode | Verdict::WrongCode => Err(Problem::NotTheCode),
            Verdict::WrongPin | Verdict::Right { .. } => Err(Problem::NotThePin),
        }
    }

    /// Checks one guess at a time, off the async threads. It counts before its answer is known to anybody.
    async fn judge(&self, source: &str, guess: Guess) -> Result<Verdict, Problem> {
        let permits = self.turn(source, &What::Pin).await?;
        let (inner, from) = (self.0.clone(), source.to_owned());
        // What has begun goes on to its end though the client goes away: otherwise its guess would not count.
        let judged = tokio::task::spawn_blocking(move || {
            let verdict = inner.verdict(&guess);
            let to_keep = inner.count(&verdict, &from);
            (verdict, to_keep, permits)
        });
        // The next one has its turn when this one is kept, so that what is kept is never older.
        let (verdict, to_keep, _permits) = judged.await.map_err(|_| Problem::Stopping)?;
        self.keep_count(to_keep).await?;
        Ok(verdict)
    }

    /// Waits for its turn, unless the source is locked out.
    async fn turn(&self, source: &str, what: &What) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Problem> {
        self.listens_to(source, what)?;
        let paced = lock(&self.0.tries).take(source, self.0.clock.since_boot_ms());
        paced.map_err(|ms| Problem::TooMany { again: seconds(ms) })?;
        let place = self.0.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Problem::SignInQueue { again: AGAIN_S })?;
        let turn = self.0.turn.clone().acquire_owned().await.map_err(|_| Problem::Stopping)?;
        // Those before it may have been wrong.
        self.listens_to(source, what)?;
        Ok((place, turn))
    }

    fn listens_to(&self, source: &str, what: &What) -> Result<(), Problem> {
        let (lockouts, now) = (lock(&self.0.lockouts), self.0.clock.since_boot_ms());
        let left = match what {
            What::Pin => lockouts.left(source, now),
            What::SetupCode => lockouts.left_of_its_own(source, now),
        };
        match left {
            Some(left) => Err(Problem::LockedOut { again: seconds(left) }),
            None => Ok(()),
        }
    }

    /// Has a wrong guess kept before it is answered. While nothing can be stored it counts in memory.
    async fn keep_count(&self, to_keep: Option<AccessChange>) -> Result<(), Problem> {
        let Some(change) = to_keep else { return Ok(()) };
        match self.ask(change, Actor::here("nobody")).await {
            Err(Problem::Store(cause)) => {
                error!(error = &cause as &dyn std::error::Error, "lock-outs could not be kept");
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Sets the first PIN by the set-up code, and signs in.
    async fn set_up(&self, source: &str, code: &str, pin: Pin) -> Result<(Session, String), Problem> {
        if self.0.reader.access().pin(Role::Admin).is_some() {
            return Err(AccessRefused::PinExists.into());
        }
        pin.choosable()?;
        let permits = self.turn(source, &What::SetupCode).await?;
        let (inner, from, code) = (self.0.clone(), source.to_owned(), totp::digest_of(code));
        let checked = tokio::task::spawn_blocking(move || {
            let wanted = inner.reader.access().setup_code;
            let is_right =
                wanted.zip(code).is_some_and(|(wanted, code)| bool::from(wanted.as_bytes().ct_eq(code.as_bytes())));
            let checked = if is_right { (Some(pin.hashed()), None) } else { (None, Some(inner.count_set_up(&from))) };
            (checked, permits)
        });
        let ((hash, to_keep), _permits) = checked.await.map_err(|_| Problem::Stopping)?;
        self.keep_count(to_keep).await?;
        let phc = hash.ok_or(Problem::WrongSetupCode)?.map_err(PinRefused::from)?;
        let actor = Actor { name: Role::Admin.as_str().to_owned(), source: Some(source.to_owned()) };
        self.ask(AccessChange::SetUp { phc: phc.clone() }, actor).await?;
        info!(source, "the admin's PIN was set with the set-up code");
        lock(&self.0.lockouts).admitted(source);
        self.keep_count(Some(self.0.lockouts_to_keep(true))).await?;
        self.let_in(source, Role::Admin, phc.into(), Second::Nothing).await
    }

    /// Hashes a PIN that somebody has chosen; refused where it is another role's.
    async fn hashed(&self, pin: Pin, role: Role) -> Result<String, Problem> {
        let turn = self.0.turn.clone().acquire_owned().await.map_err(|_| Problem::Stopping)?;
        let access = self.0.reader.access();
        let hashed = tokio::task::spawn_blocking(move || {
            let hashed = choose_pin(&pin, role, &access);
            drop(turn);
            hashed
        });
        hashed.await.map_err(|_| Problem::Stopping)?.map_err(Problem::from)
    }

    /// Asks `agent` for a change.
    async fn ask(&self, change: AccessChange, by: Actor) -> Result<Option<Token>, Problem> {
        let full = Problem::SignInQueue { again: AGAIN_S };
        Ok(ask_at_once(&self.0.orders, full, |reply| AccessNow { change, by, reply }).await???)
    }
}

impl Inner {
    fn verdict(&self, Guess { pin, code }: &Guess) -> Verdict {
        let access = self.reader.access();
        let Some(role) = pin.role(&access) else { return Verdict::WrongPin };
        let Some(kept) = access.pin(role) else { return Verdict::WrongPin };
        let right = |second| Verdict::Right { role, pin: kept.phc.clone(), second };
        if role != Role::Admin || access.totp.is_none() {
            return right(Second::Nothing);
        }
        match code {
            None => Verdict::NeedsCode,
            Some(Code::Totp(code)) => {
                self.totp(&access, code).map_or(Verdict::WrongCode, |step| right(Second::Step(step)))
            }
            Some(Code::Recovery(code)) => {
                let code = totp::digest_of(code).filter(|code| access.has_recovery(code));
                code.map_or(Verdict::WrongCode, |code| right(Second::Recovery(code)))
            }
        }
    }

    /// The step of a code, which is used up by that.
    fn totp(&self, access: &Access, code: &str) -> Option<u64> {
        let kept = access.totp.as_ref()?;
        let last = self.last_step.load(Ordering::Acquire).max(kept.last_step);
        let now = self.clock.now();
        let step = totp::step_of(&kept.secret, code, now, last)?;
        self.last_step.store(step, Ordering::Release);
        let off = i64::try_from(step).unwrap_or(0) - now.as_millis().div_euclid(30_000);
        if off != 0 {
            warn!(steps = off, "a TOTP code was off by a step of 30 s: is the clock of this gateway right?");
        }
        Some(step)
    }

    /// Counts a guess; what is to be kept of it.
    fn count(&self, verdict: &Verdict, source: &str) -> Option<AccessChange> {
        match verdict {
            Verdict::WrongPin | Verdict::WrongCode => {
                let begins = lock(&self.lockouts).refused(source, self.clock.since_boot_ms());
                if begins {
                    warn!(source, "locked out after wrong guesses");
                }
                Some(self.lockouts_to_keep(begins))
            }
            Verdict::Right { role: Role::Admin, .. } => {
                lock(&self.lockouts).admitted(source);
                Some(self.lockouts_to_keep(true))
            }
            Verdict::Right { .. } | Verdict::NeedsCode => None,
        }
    }

    /// Counts a wrong set-up code. Nobody guesses 49 bits: it holds up its source alone, or a stranger could keep the
    /// engineer from setting the first PIN.
    fn count_set_up(&self, source: &str) -> AccessChange {
        lock(&self.lockouts).refused_alone(source, self.clock.since_boot_ms());
        self.lockouts_to_keep(false)
    }

    fn lockouts_to_keep(&self, tell: bool) -> AccessChange {
        let now = self.clock.since_boot_ms();
        let mut lockouts = lock(&self.lockouts);
        let told = lockouts.take_untold(tell, now).map(|detail| ("sign-in-refused", detail));
        let all: Vec<Lockout> = lockouts.kept(now);
        AccessChange::Lockouts { all, told }
    }
}

/// Why a PIN may not be set.
#[derive(Debug, thiserror::Error)]
pub enum PinRefused {
    #[error(transparent)]
    Bad(#[from] pin::BadPin),
    #[error("this is the other role's PIN: nobody could tell who signs in with it")]
    OtherRole,
    #[error(transparent)]
    Hash(#[from] HashFailed),
}

/// The hash of a PIN that is chosen for this role. Takes a CPU for a while.
pub fn choose_pin(pin: &Pin, role: Role, access: &Access) -> Result<String, PinRefused> {
    pin.choosable()?;
    let others = Role::ALL.into_iter().filter(|other| *other != role);
    if others.filter_map(|other| access.pin(other)).any(|kept| pin.fits(&kept.phc)) {
        return Err(PinRefused::OtherRole);
    }
    Ok(pin.hashed()?)
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// Nothing is left half-changed under these locks by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
