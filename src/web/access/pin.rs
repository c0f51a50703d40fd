//! PINs: which may be chosen, and how one is kept and checked. What is typed is wiped when it is dropped.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::store::{Access, Role};

/// 19 MiB, two passes, one lane: the least memory that OWASP advises for argon2id, since the smallest gateway has 256 MB.
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

const DIGITS: std::ops::RangeInclusive<usize> = 6..=12;

/// 6 to 12 digits, as somebody typed them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin(Zeroizing<String>);

/// Why digits are no PIN, or none to choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPin {
    #[error("a PIN has 6 to 12 digits, and nothing else")]
    NoPin,
    #[error("a PIN of one digit alone is guessed first: mix digits")]
    OneDigit,
    #[error("a PIN that counts up or down, such as 123456, is guessed first: mix digits")]
    Run,
}

impl Pin {
    /// Whether it may be chosen: what is tried first by whoever guesses may not.
    pub fn choosable(&self) -> Result<(), BadPin> {
        let digits = self.0.as_bytes();
        let all = |step: fn(u8) -> u8| digits.windows(2).all(|pair| (pair[1] - b'0') == step(pair[0] - b'0'));
        match () {
            () if all(|digit| digit) => Err(BadPin::OneDigit),
            () if all(|digit| (digit + 1) % 10) || all(|digit| (digit + 9) % 10) => Err(BadPin::Run),
            () => Ok(()),
        }
    }

    /// One that is drawn, for a demo.
    pub fn random() -> Result<Self, getrandom::Error> {
        loop {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes)?;
            let pin = Self(Zeroizing::new(format!("{:08}", u64::from_le_bytes(bytes) % 100_000_000)));
            if pin.choosable().is_ok() {
                return Ok(pin);
            }
        }
    }

    /// Its digits, for the one who must be told.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash to keep, with a new salt. Takes a CPU for a while.
    pub fn hashed(&self) -> Result<String, HashFailed> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| HashFailed(error.to_string()))?;
        let hash: Result<PasswordHash, _> = argon2().hash_password_with_salt(self.0.as_bytes(), &salt);
        Ok(hash.map_err(|error| HashFailed(error.to_string()))?.to_string())
    }

    /// Whose PIN this is. Both hashes are always checked, and one that is not there is stood in for, so that the time it
    /// takes tells nothing. Takes a CPU for a while.
    pub fn role(&self, access: &Access) -> Option<Role> {
        let is = |role: Role| {
            let kept = access.pin(role);
            let is_right = self.fits(kept.map_or(STAND_IN.as_str(), |pin| &pin.phc));
            kept.is_some() && is_right
        };
        let (admin, viewer) = (is(Role::Admin), is(Role::Viewer));
        if admin { Some(Role::Admin) } else { viewer.then_some(Role::Viewer) }
    }

    /// Whether this is the PIN with this hash. Compares in constant time.
    pub fn fits(&self, phc: &str) -> bool {
        let Ok(hash) = PasswordHash::new(phc) else { return false };
        argon2().verify_password(self.0.as_bytes(), &hash).is_ok()
    }
}

/// No PIN has this hash: what it was made of is no PIN.
static STAND_IN: LazyLock<String> =
    LazyLock::new(|| Pin(Zeroizing::new("none".to_owned())).hashed().unwrap_or_default());

#[derive(Debug, thiserror::Error)]
#[error("the PIN could not be hashed: {0}")]
pub struct HashFailed(String);

fn argon2() -> Argon2<'static> {
    // These parameters are within their bounds.
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

impl FromStr for Pin {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let is_pin = DIGITS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        is_pin.then(|| Self(Zeroizing::new(text.to_owned()))).ok_or(BadPin::NoPin)
    }
}

impl TryFrom<String> for Pin {
    type Error = BadPin;

    fn try_from(text: String) -> Result<Self, BadPin> {
        Zeroizing::new(text).parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.reveal().to_owned()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::store::KeptPin;
    use proptest::prelude::*;

    fn pin(text: &str) -> Pin {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn a_pin_is_6_to_12_digits(text in "[0-9]{0,14}|[0-9a ]{6,12}|\\PC{6,12}") {
            let is_pin = (6..=12).contains(&text.len()) && text.chars().all(|letter| letter.is_ascii_digit());
            prop_assert_eq!(text.parse::<Pin>().is_ok(), is_pin);
        }

        #[test]
        fn runs_and_single_digits_may_not_be_chosen(start in 0_usize..10, step in prop::sample::select(vec![0_usize, 1, 9]), len in 6_usize..=12) {
            let digit = |at| u32::try_from((start + at * step) % 10).ok().and_then(|digit| char::from_digit(digit, 10));
            let text: String = (0..len).filter_map(digit).collect();
            prop_assert!(pin(&text).choosable().is_err(), "{text}");
        }
    }

    #[test]
    fn other_pins_may_be_chosen() {
        for good in ["112233", "123457", "901244", "135791", "000001", "121212"] {
            assert_eq!(pin(good).choosable(), Ok(()), "{good}");
        }
        assert_eq!(pin("777777").choosable(), Err(BadPin::OneDigit));
        for run in ["123456", "654321", "890123", "210987654321"] {
            assert_eq!(pin(run).choosable(), Err(BadPin::Run), "{run}");
        }
        assert_eq!(format!("{:?}", pin("482915")), "***");
    }

    #[test]
    fn each_role_is_known_by_its_pin_and_nobody_by_another() {
        let kept = |text: &str| KeptPin { phc: pin(text).hashed().unwrap().into(), since: Timestamp::default() };
        let mut access = Access::default();
        assert_eq!(pin("482915").role(&access), None);
        access.pins.insert(Role::Admin, kept("482915"));
        access.pins.insert(Role::Viewer, kept("135790"));
        assert_eq!(pin("482915").role(&access), Some(Role::Admin));
        assert_eq!(pin("135790").role(&access), Some(Role::Viewer));
        assert_eq!(pin("482916").role(&access), None);
        let phc = &access.pins[&Role::Admin].phc;
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert_ne!(**phc, *pin("482915").hashed().unwrap(), "each hash has its own salt");
        assert!(!pin("482915").fits("") && !pin("482915").fits("$argon2id$v=19$m=19456,t=2,p=1$AAAA"));
    }
}
