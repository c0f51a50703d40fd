//! TOTP (RFC 6238: SHA-1, 6 digits, 30 s) with codes of one step before and after, none of them twice; recovery codes;
//! and codes that people type. Pure but for the random bytes.

use qrcodegen::{QrCode, QrCodeEcc};
use totp_rs::{Builder, Totp};

use crate::model::{Digest, Timestamp};

const STEP_S: u64 = 30;
/// A clock may be off by so many steps.
const SKEW: u64 = 1;
const DIGITS: u8 = 6;
/// RFC 4226 section 4 advises 160 bits.
const SECRET: usize = 20;
pub const RECOVERY_CODES: usize = 10;
/// Letters and digits that nobody takes for one another.
const ALPHABET: &[u8] = b"23456789ABCDEFGHJKMNPQRSTVWXYZ";
const CODE: usize = 10;

pub fn random_secret() -> Result<Vec<u8>, getrandom::Error> {
    let mut secret = vec![0; SECRET];
    getrandom::fill(&mut secret)?;
    Ok(secret)
}

/// The step whose code this is, if it is none up to `last_step`: a code that was seen over a shoulder is worth nothing.
pub fn step_of(secret: &[u8], code: &str, now: Timestamp, last_step: u64) -> Option<u64> {
    let seconds = u64::try_from(now.as_millis() / 1_000).ok()?;
    let totp = totp(secret);
    let (step, code) = (seconds / STEP_S, code.trim().replace(' ', ""));
    let mut steps = step.saturating_sub(SKEW).max(last_step.saturating_add(1))..=step + SKEW;
    // Each step by itself, so that an older one of the same code does not stand in for it.
    steps.rfind(|step| totp.check(&code, step * STEP_S) == Some(*step))
}

fn totp(secret: &[u8]) -> Totp {
    let builder = Builder::new().with_digits(DIGITS).with_skew(0).with_step_duration(STEP_S);
    builder.with_secret(secret.to_vec()).build_noncompliant()
}

/// The secret as apps take it by hand.
pub fn base32(secret: &[u8]) -> String {
    totp_rs::Secret::from(secret.to_vec()).to_base32()
}

pub fn from_base32(text: &str) -> Option<Vec<u8>> {
    totp_rs::Secret::try_from_base32(text)
        .ok()
        .map(|secret| secret.as_ref().to_vec())
        .filter(|secret| secret.len() == SECRET)
}

/// What an app takes by camera. The site's id has no letter that would have to be written otherwise.
pub fn uri(secret: &[u8], site: &str) -> String {
    format!(
        "otpauth://totp/meterseal:{site}?secret={}&issuer=meterseal&algorithm=SHA1&digits={DIGITS}&period={STEP_S}",
        base32(secret)
    )
}

/// The margin of a QR code, which readers need.
const QUIET: i32 = 4;

/// A QR code as an image, dark on white also where the page is dark.
pub fn qr_svg(text: &str) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let size = code.size() + 2 * QUIET;
    let mut path = String::new();
    for (x, y) in (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (x, y))) {
        if code.get_module(x, y) {
            path += &format!("M{} {}h1v1h-1z", x + QUIET, y + QUIET);
        }
    }
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" shape-rendering=\"crispEdges\">\
         <path fill=\"#fff\" d=\"M0 0h{size}v{size}H0z\"/><path d=\"{path}\"/></svg>"
    ))
}

/// A QR code for a terminal, two modules in each letter. Light modules are drawn, since terminals are dark.
pub fn qr_text(text: &str) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let is_light = |x, y| !code.get_module(x, y);
    let mut out = String::new();
    let ends = code.size() + QUIET / 2;
    for y in (-QUIET / 2..ends).step_by(2) {
        for x in -QUIET / 2..ends {
            out.push(match (is_light(x, y), is_light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        out.push('\n');
    }
    Some(out)
}

/// A code for a person to type, as `XXXXX-XXXXX`: 49 random bits.
pub fn random_code() -> Result<String, getrandom::Error> {
    let mut code = String::with_capacity(CODE + 1);
    while code.len() <= CODE {
        if code.len() == CODE / 2 {
            code.push('-');
        }
        let mut byte = [0];
        getrandom::fill(&mut byte)?;
        // Bytes beyond a whole number of alphabets would make the first letters likelier.
        let byte = usize::from(byte[0]);
        if byte < 256 / ALPHABET.len() * ALPHABET.len() {
            code.push(char::from(ALPHABET[byte % ALPHABET.len()]));
        }
    }
    Ok(code)
}

/// The digest by which a code is kept, however it is typed; `None` for what is no code.
pub fn digest_of(code: &str) -> Option<Digest> {
    let plain: String =
        code.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect::<String>().to_ascii_uppercase();
    let is_code = plain.len() == CODE && plain.bytes().all(|letter| ALPHABET.contains(&letter));
    is_code.then(|| Digest::of(plain.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RFC_SECRET: &[u8; 20] = b"12345678901234567890";

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(i64::try_from(seconds).unwrap() * 1_000)
    }

    /// RFC 6238, appendix B, SHA-1; of its 8 digits the last 6 are ours.
    #[test]
    fn the_vectors_of_the_rfc_hold() {
        for (seconds, code) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            let step = seconds / STEP_S;
            assert_eq!(step_of(RFC_SECRET, &code[2..], at(seconds), 0), Some(step), "{seconds}");
            assert_eq!(step_of(RFC_SECRET, code, at(seconds), 0), None, "8 digits are no code here");
            assert_eq!(step_of(&[7; 20], &code[2..], at(seconds), 0), None);
        }
    }

    fn code_of(step: u64) -> String {
        totp(RFC_SECRET).generate(step * STEP_S).to_string()
    }

    proptest! {
        #[test]
        fn a_code_counts_one_step_around_its_own_and_once(step in 10_u64..1 << 40, ahead in -4_i64..=4, within in 0_u64..30) {
            let code = code_of(step);
            let now = at(step.checked_add_signed(ahead).unwrap() * STEP_S + within);
            let found = step_of(RFC_SECRET, &code, now, 0);
            // Six digits are another step's as well, once in a million.
            let twins = (step - 5..=step + 5).filter(|other| *other != step).any(|other| code_of(other) == code);
            prop_assume!(!twins);
            prop_assert_eq!(found, (ahead.abs() <= 1).then_some(step));
            for last in [step, step + 1, u64::MAX] {
                prop_assert_eq!(step_of(RFC_SECRET, &code, now, last), None, "not twice");
            }
            let before = step_of(RFC_SECRET, &code, now, step - 1);
            prop_assert_eq!(before, found);
        }

        #[test]
        fn what_is_no_code_is_refused(text in "\\PC{0,9}", seconds in 0_u64..1 << 40) {
            prop_assume!(text.trim().replace(' ', "").parse::<u32>().is_err());
            prop_assert_eq!(step_of(RFC_SECRET, &text, at(seconds), 0), None);
        }
    }

    #[test]
    fn a_code_may_be_typed_with_a_gap_and_before_1970_there_is_none() {
        let code = code_of(1_000);
        let typed = format!(" {} {} ", &code[..3], &code[3..]);
        assert_eq!(step_of(RFC_SECRET, &typed, at(30_000), 0), Some(1_000));
        assert_eq!(step_of(RFC_SECRET, &code, Timestamp::from_millis(-5), 0), None);
    }

    #[test]
    fn secrets_and_codes_read_back() {
        let secret = random_secret().unwrap();
        assert_eq!(from_base32(&base32(&secret)), Some(secret.clone()));
        assert_eq!(from_base32("AAAA"), None);
        let uri = uri(&secret, "plant-7");
        assert!(uri.starts_with("otpauth://totp/meterseal:plant-7?secret=") && uri.contains(&base32(&secret)));
        let code = random_code().unwrap();
        assert_eq!((code.len(), code.find('-')), (11, Some(5)), "{code}");
        let typed = code.to_lowercase().replace('-', " ");
        assert!(digest_of(&code).is_some() && digest_of(&code) == digest_of(&typed));
        for bad in ["", "ABCDE", "ABCDE-FGHJ0", "ABCDE-FGHJKM", "ABCDE-FGHJ\u{130}"] {
            assert_eq!(digest_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_qr_code_is_drawn_with_its_margin() {
        let uri = uri(RFC_SECRET, "plant-7");
        let svg = qr_svg(&uri).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>") && !svg.contains("style"));
        let text = qr_text(&uri).unwrap();
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]) && widths[0] <= 2 * widths.len());
        assert!(text.lines().next().unwrap().chars().all(|letter| letter == '█'), "the margin is light");
    }
}
