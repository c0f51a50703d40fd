//! Sessions: what is left of a sign-in. Held in memory alone, so that a restart ends them all; their tokens only as
//! digests. Pure but for the random bytes; the time by which they end is monotonic.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::model::{Digest, Stamp, Timestamp};
use crate::store::{Access, Role};

/// A session ends after so long, however busy.
pub const LONGEST_MS: u64 = 12 * 3_600_000;
/// Beyond, the one that was idle for longest goes.
const SESSIONS: usize = 64;
/// Sign-ins of one role in a row, and how long it takes until one more may follow. Each is an entry of the log, which a
/// script that signs in for every request must not fill.
const IN_A_ROW: u64 = 60;
const SIGN_IN_EVERY_MS: u64 = 60_000;
/// As many guesses of one source in a row, right or wrong, and how long it takes until one more may follow.
const TRY_EVERY_MS: u64 = 6_000;

/// 256 random bits, as they are sent.
pub fn random_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[derive(Clone)]
pub struct Session {
    /// Names it to an admin; opens nothing.
    pub id: String,
    pub role: Role,
    pub source: String,
    /// What an unsafe request that comes by cookie must bear.
    pub csrf: String,
    pub began: Timestamp,
    pub last_seen: Timestamp,
    token: Digest,
    /// The PIN it stands on: when that is not the role's any more, the session is over.
    pin: Arc<str>,
    /// The one that this session itself is about to set.
    next_pin: Option<Arc<str>>,
    began_ms: u64,
    last_ms: u64,
    /// A TOTP secret that waits for its first code.
    pub proposed: Option<Vec<u8>>,
}

impl Session {
    /// When it ends at the latest.
    pub fn expires(&self, now: Stamp) -> Timestamp {
        let left = (self.began_ms + LONGEST_MS).saturating_sub(now.since_boot_ms);
        now.time.plus_millis(i64::try_from(left).unwrap_or(0))
    }

    pub fn bears(&self, token: &Digest) -> bool {
        bool::from(self.token.as_bytes().ct_eq(token.as_bytes()))
    }

    fn lives(&self, access: &Access, idle_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.last_ms) < idle_ms
            && now_ms.saturating_sub(self.began_ms) < LONGEST_MS
            && access.pin(self.role).is_some_and(|pin| pin.phc == self.pin || Some(&pin.phc) == self.next_pin.as_ref())
    }
}

/// The sessions there are.
#[derive(Default)]
pub struct Sessions(Vec<Session>);

/// How long a session lives, and by what.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    pub access: &'a Access,
    pub idle_ms: u64,
    pub now: Stamp,
}

impl Sessions {
    /// Begins one, and gives it with its token.
    pub fn begin(
        &mut self,
        (role, pin): (Role, Arc<str>),
        source: &str,
        terms: Terms<'_>,
    ) -> Result<(Session, String), getrandom::Error> {
        self.sweep(terms);
        if self.0.len() >= SESSIONS {
            // Of one's own kind first: a viewer does not push an admin out.
            let own = self.0.iter().filter(|session| session.role == role).min_by_key(|session| session.last_ms);
            let oldest = own.or(self.0.iter().min_by_key(|session| session.last_ms)).map(|session| session.id.clone());
            self.0.retain(|session| Some(&session.id) != oldest.as_ref());
        }
        let (token, csrf, id) = (random_token()?, random_token()?, random_token()?);
        let Stamp { time, since_boot_ms, .. } = terms.now;
        let session = Session {
            id: id[..12].to_owned(),
            role,
            source: source.to_owned(),
            csrf,
            began: time,
            last_seen: time,
            token: Digest::of(token.as_bytes()),
            pin,
            next_pin: None,
            began_ms: since_boot_ms,
            last_ms: since_boot_ms,
            proposed: None,
        };
        self.0.push(session.clone());
        Ok((session, token))
    }

    /// The one with this token, if it lives. Compares with all of them, in constant time. `seen` counts as activity.
    pub fn find(&mut self, token: &Digest, seen: bool, terms: Terms<'_>) -> Option<&mut Session> {
        self.sweep(terms);
        let mut found = None;
        for session in &mut self.0 {
            if session.bears(token) {
                found = Some(session);
            }
        }
        let session = found?;
        if seen {
            session.last_ms = terms.now.since_boot_ms;
            session.last_seen = terms.now.time;
        }
        Some(session)
    }

    /// Ends those for which this is so; the ones that were ended.
    pub fn end(&mut self, is_ended: impl Fn(&Session) -> bool) -> Vec<Session> {
        self.0.extract_if(.., |session| is_ended(session)).collect()
    }

    /// The one with this token goes on when its role's PIN becomes this one.
    pub fn keep(&mut self, token: &Digest, role: Role, pin: &Arc<str>) {
        let own = self.0.iter_mut().filter(|session| session.role == role && session.bears(token));
        own.for_each(|session| session.next_pin = Some(pin.clone()));
    }

    /// Those that live, the newest first.
    pub fn list(&mut self, terms: Terms<'_>) -> Vec<Session> {
        self.sweep(terms);
        self.0.iter().rev().cloned().collect()
    }

    fn sweep(&mut self, Terms { access, idle_ms, now }: Terms<'_>) {
        self.0.retain(|session| session.lives(access, idle_ms, now.since_boot_ms));
    }
}

/// How fast sources guess, rightly or not. Each guess takes a CPU for a while.
#[derive(Default)]
pub struct Tries(BTreeMap<String, Pace>);

/// Sources that are told apart; beyond, those that have rested go, and then all others share one pace.
const SOURCES: usize = 1_024;

impl Tries {
    /// Counts a guess, or says in how many ms there may be one.
    pub fn take(&mut self, source: &str, now_ms: u64) -> Result<(), u64> {
        if self.0.len() >= SOURCES && !self.0.contains_key(source) {
            self.0.retain(|_, pace| pace.paid_ms > now_ms);
        }
        let is_told_apart = self.0.len() < SOURCES || self.0.contains_key(source);
        let key = if is_told_apart { source } else { "" };
        self.0.entry(key.to_owned()).or_default().take(TRY_EVERY_MS, now_ms)
    }
}

/// How fast something is done that costs.
#[derive(Default)]
pub struct Pace {
    /// Up to this time what was done is paid for.
    paid_ms: u64,
}

impl Pace {
    /// Counts a sign-in, or says in how many ms there may be one.
    pub fn sign_in(&mut self, now_ms: u64) -> Result<(), u64> {
        self.take(SIGN_IN_EVERY_MS, now_ms)
    }

    fn take(&mut self, every_ms: u64, now_ms: u64) -> Result<(), u64> {
        let paid = self.paid_ms.max(now_ms) + every_ms;
        let latest = now_ms + IN_A_ROW * every_ms;
        if paid > latest {
            return Err(paid - latest);
        }
        self.paid_ms = paid;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClockState;
    use crate::store::KeptPin;
    use proptest::prelude::*;

    const IDLE: u64 = 900_000;

    fn stamp(since_boot_ms: u64) -> Stamp {
        Stamp { time: Timestamp::from_millis(1_000), since_boot_ms, clock: ClockState::Synchronised }
    }

    fn access(pins: &[(Role, &str)]) -> Access {
        let kept = |(role, phc): &(Role, &str)| (*role, KeptPin { phc: (*phc).into(), since: Timestamp::default() });
        let mut access = Access::default();
        access.pins.extend(pins.iter().map(kept));
        access
    }

    fn terms(access: &Access, now: u64) -> Terms<'_> {
        Terms { access, idle_ms: IDLE, now: stamp(now) }
    }

    proptest! {
        #[test]
        fn a_session_lives_while_it_is_used_and_no_longer_than_half_a_day(steps in proptest::collection::vec((1_u64..1_500_000, any::<bool>()), 1..80)) {
            let access = access(&[(Role::Admin, "a")]);
            let mut sessions = Sessions::default();
            let (_, token) = sessions.begin((Role::Admin, "a".into()), "here", terms(&access, 0)).unwrap();
            let (token, mut now, mut last, mut lives) = (Digest::of(token.as_bytes()), 0, 0, true);
            for (step, seen) in steps {
                now += step;
                lives = lives && now - last < IDLE && now < LONGEST_MS;
                prop_assert_eq!(sessions.find(&token, seen, terms(&access, now)).is_some(), lives);
                if seen && lives {
                    last = now;
                }
            }
        }
    }

    #[test]
    fn a_session_ends_with_the_pin_it_stands_on() {
        let before = access(&[(Role::Admin, "a"), (Role::Viewer, "v")]);
        let mut sessions = Sessions::default();
        let mut begin = |role, pin: &str| {
            let (_, token) = sessions.begin((role, pin.into()), "here", terms(&before, 0)).unwrap();
            Digest::of(token.as_bytes())
        };
        let (mine, other, viewer) = (begin(Role::Admin, "a"), begin(Role::Admin, "a"), begin(Role::Viewer, "v"));
        sessions.keep(&mine, Role::Admin, &"b".into());
        let after = access(&[(Role::Admin, "b"), (Role::Viewer, "v")]);
        let mut lives = |token: &Digest| sessions.find(token, true, terms(&after, 1)).is_some();
        assert_eq!((lives(&mine), lives(&other), lives(&viewer)), (true, false, true));
        assert!(sessions.find(&viewer, true, terms(&access(&[]), 2)).is_none());
    }

    #[test]
    fn beyond_the_limit_the_one_that_was_idle_for_longest_goes_of_its_own_kind() {
        let access = access(&[(Role::Admin, "a"), (Role::Viewer, "v")]);
        let mut sessions = Sessions::default();
        let mut begin = |role: Role, pin: &str, now| {
            let (session, token) = sessions.begin((role, pin.into()), "here", terms(&access, now)).unwrap();
            (session.id, Digest::of(token.as_bytes()))
        };
        let (admin, _) = begin(Role::Admin, "a", 0);
        let (first, first_token) = begin(Role::Viewer, "v", 1);
        let (second, _) = begin(Role::Viewer, "v", 2);
        for at in 3..64 {
            begin(Role::Viewer, "v", at);
        }
        sessions.find(&first_token, true, terms(&access, 70)).unwrap();
        sessions.begin((Role::Viewer, "v".into()), "here", terms(&access, 71)).unwrap();
        let ids: Vec<String> = sessions.list(terms(&access, 72)).into_iter().map(|session| session.id).collect();
        assert_eq!(ids.len(), SESSIONS);
        assert!(ids.contains(&admin) && ids.contains(&first) && !ids.contains(&second));
    }

    #[test]
    fn a_script_that_signs_in_for_every_request_is_slowed_down() {
        let (mut pace, mut now, mut taken) = (Pace::default(), 5, 0);
        while now < 3_600_000 {
            taken += u64::from(pace.sign_in(now).is_ok());
            now += 1_000;
        }
        assert!((IN_A_ROW + 58..=IN_A_ROW + 60).contains(&taken), "{taken}");
        let wait = pace.sign_in(now).and_then(|()| pace.sign_in(now)).unwrap_err();
        assert!(pace.sign_in(now + wait).is_ok());
    }

    #[test]
    fn a_source_guesses_so_often_and_holds_up_no_other() {
        let mut tries = Tries::default();
        let row = (0..1_000).take_while(|_| tries.take("192.0.2.1", 5).is_ok()).count();
        assert_eq!(row as u64, IN_A_ROW);
        assert_eq!(tries.take("192.0.2.1", 5), Err(TRY_EVERY_MS));
        assert!(tries.take("192.0.2.1", 5 + TRY_EVERY_MS).is_ok() && tries.take("192.0.2.2", 5).is_ok());
        for source in 0..2 * SOURCES {
            tries.take(&source.to_string(), 5).ok();
        }
        assert!(tries.0.len() <= SOURCES + 1, "{}", tries.0.len());
        // Those that have rested make room.
        assert!(tries.take("192.0.2.3", 5 + 2 * IN_A_ROW * TRY_EVERY_MS).is_ok());
        assert!(tries.0.len() < 3, "{}", tries.0.len());
    }
}
