//! Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint), and the keys that sign them: Ed25519 (RFC 8032).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::Digest;

/// C2SP signed-note: the type of an Ed25519 signature.
const ED25519: u8 = 1;
/// Begins a signature line: em dash and blank.
const DASH: &str = "\u{2014} ";
/// More signature lines than this are refused.
const SIGNATURES: usize = 16;

/// Whom a signature is by: `name+<key id>+<key>`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

/// A text that is no verifier key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier key: it is written name+8 hex digits+base64, as `meterseal key show` prints it")]
pub struct BadKey;

impl VerifierKey {
    pub fn new(name: impl Into<String>, public: [u8; 32]) -> Self {
        Self { name: name.into(), public }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The first 4 bytes of SHA-256 of name, line feed, type and key.
    pub fn id(&self) -> [u8; 4] {
        let hash = Digest::of_parts(&[self.name.as_bytes(), b"\n", &[ED25519], &self.public]);
        let [a, b, c, d, ..] = *hash.as_bytes();
        [a, b, c, d]
    }

    /// Whether `signature` is this key's over `text`. Strict: one signature has one form, and weak keys are refused.
    fn signed(&self, text: &str, signature: &[u8; 64]) -> bool {
        let key = VerifyingKey::from_bytes(&self.public);
        key.is_ok_and(|key| key.verify_strict(text.as_bytes(), &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+", self.name)?;
        self.id().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "+{}", STANDARD.encode([&[ED25519][..], &self.public].concat()))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(BadKey) };
        let bytes = STANDARD.decode(key).map_err(|_| BadKey)?;
        let [ED25519, public @ ..] = bytes.as_slice() else { return Err(BadKey) };
        let public = public.try_into().map_err(|_| BadKey)?;
        let key = Self::new(name, public);
        // Written again it must be the same text: that checks the key id, and that there is no second spelling.
        (is_name(name) && key.to_string() == text).then_some(key).ok_or(BadKey)
    }
}

/// C2SP signed-note: no blank and no plus.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '+')
}

/// A log at one size: what is signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Digest,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))
    }
}

/// A checkpoint with its signature lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    pub checkpoint: Checkpoint,
    pub signatures: Vec<NoteSignature>,
}

/// One signature line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteSignature {
    pub name: String,
    pub key_id: [u8; 4],
    /// 64 bytes for Ed25519; other kinds have other lengths.
    pub signature: Vec<u8>,
}

/// A text that is no signed checkpoint, or whose signatures do not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNote {
    #[error("line {0} of the checkpoint is not as it must be: {1}")]
    Form(usize, &'static str),
    #[error("the checkpoint is of {found}, and the key of {key}")]
    Origin { found: String, key: String },
    #[error("no signature of the checkpoint is by {0}")]
    Unsigned(String),
    #[error("the signature of the checkpoint by {0} does not hold")]
    Signature(String),
    #[error("the checkpoint has a signature by {0}, which nobody asked for")]
    Stranger(String),
}

impl SignedCheckpoint {
    /// Signed by each of these keys, under its name.
    pub fn sign(checkpoint: Checkpoint, keys: &[(&str, &SigningKey)]) -> Self {
        let text = checkpoint.text();
        let sign = |(name, key): &(&str, &SigningKey)| NoteSignature {
            name: (*name).to_owned(),
            key_id: VerifierKey::new(*name, key.verifying_key().to_bytes()).id(),
            signature: key.sign(text.as_bytes()).to_bytes().to_vec(),
        };
        Self { signatures: keys.iter().map(sign).collect(), checkpoint }
    }

    /// The note. One that was [parsed](FromStr) gives the very same bytes.
    pub fn note(&self) -> String {
        let lines = self.signatures.iter().map(|line| {
            let bytes = [&line.key_id[..], &line.signature].concat();
            format!("{DASH}{} {}\n", line.name, STANDARD.encode(bytes))
        });
        self.checkpoint.text() + "\n" + &lines.collect::<String>()
    }

    /// Signed by exactly these keys, in this order, and by nobody else: the origin is the name of the first one.
    pub fn verify(&self, keys: &[&VerifierKey]) -> Result<(), BadNote> {
        self.verify_known(keys)?;
        let is_known = |line: &NoteSignature| keys.iter().any(|key| is_by(line, key));
        match self.signatures.iter().find(|line| !is_known(line)) {
            Some(stranger) => Err(BadNote::Stranger(stranger.name.clone())),
            None if self.signatures.len() != keys.len() => Err(BadNote::Form(5, "a signature stands there twice")),
            None => Ok(()),
        }
    }

    /// Signed by each of these keys; unknown signers are passed over, as C2SP signed-note says.
    pub fn verify_known(&self, keys: &[&VerifierKey]) -> Result<(), BadNote> {
        if let Some(first) = keys.first().filter(|key| key.name != self.checkpoint.origin) {
            return Err(BadNote::Origin { found: self.checkpoint.origin.clone(), key: first.name.clone() });
        }
        keys.iter().try_for_each(|key| self.verify_by(key))
    }

    /// Signed by this key, whoever else did.
    pub fn verify_by(&self, key: &VerifierKey) -> Result<(), BadNote> {
        let text = self.checkpoint.text();
        let mut by_it = self.signatures.iter().filter(|line| is_by(line, key)).peekable();
        if by_it.peek().is_none() {
            return Err(BadNote::Unsigned(key.name.clone()));
        }
        let holds = |line: &NoteSignature| {
            line.signature.as_slice().try_into().is_ok_and(|signature| key.signed(&text, signature))
        };
        // A known signer with a bad signature rejects the note, whatever else stands there.
        if by_it.all(holds) { Ok(()) } else { Err(BadNote::Signature(key.name.clone())) }
    }
}

fn is_by(line: &NoteSignature, key: &VerifierKey) -> bool {
    line.name == key.name && line.key_id == key.id()
}

impl FromStr for SignedCheckpoint {
    type Err = BadNote;

    fn from_str(text: &str) -> Result<Self, BadNote> {
        if let Some(at) = text.lines().position(|line| line.contains(char::is_control)) {
            return Err(BadNote::Form(at + 1, "it has a control character"));
        }
        let mut lines = text.split('\n');
        let origin = lines.next().filter(|origin| is_name(origin)).ok_or(BadNote::Form(1, "it is no origin"))?;
        let size = lines.next().and_then(decimal).ok_or(BadNote::Form(2, "it is no size"))?;
        let root = lines.next().and_then(|line| STANDARD.decode(line).ok()?.try_into().ok());
        let root = Digest::from_bytes(root.ok_or(BadNote::Form(3, "it is no root in base64"))?);
        if lines.next() != Some("") {
            return Err(BadNote::Form(4, "an empty line follows the root"));
        }
        let mut signatures = Vec::new();
        let mut ended = false;
        for (at, line) in lines.enumerate() {
            if ended || signatures.len() > SIGNATURES {
                return Err(BadNote::Form(at + 5, "nothing follows the signatures"));
            }
            if line.is_empty() {
                ended = true;
                continue;
            }
            signatures.push(signature_line(line).ok_or(BadNote::Form(at + 5, "it is no signature line"))?);
        }
        if !ended || signatures.is_empty() {
            return Err(BadNote::Form(5, "signature lines end the note, each with a line feed"));
        }
        Ok(Self { checkpoint: Checkpoint { origin: origin.to_owned(), size, root }, signatures })
    }
}

fn signature_line(line: &str) -> Option<NoteSignature> {
    let (name, bytes) = line.strip_prefix(DASH)?.split_once(' ')?;
    let bytes = STANDARD.decode(bytes).ok()?;
    let (key_id, signature) = bytes.split_first_chunk::<4>()?;
    (is_name(name) && !signature.is_empty()).then(|| NoteSignature {
        name: name.to_owned(),
        key_id: *key_id,
        signature: signature.to_vec(),
    })
}

/// A whole number as it is written: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn verifier(name: &str, key: &SigningKey) -> VerifierKey {
        VerifierKey::new(name, key.verifying_key().to_bytes())
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "plant-7/00ff/1122".to_owned(), size: 12, root: Digest::of(b"root") }
    }

    #[test]
    fn the_example_key_of_signed_note_reads() {
        // The key of Go's sum database, in the form that C2SP signed-note took over.
        let text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        let key: VerifierKey = text.parse().unwrap();
        assert_eq!((key.name(), key.id()), ("sum.golang.org", [0x03, 0x3d, 0xe0, 0xae]));
        assert_eq!(key.to_string(), text);
        for bad in [
            "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "sum.golang.org+033DE0AE+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "sum.golang.orG+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "sum.golang.org+033de0ae",
        ] {
            assert_eq!(bad.parse::<VerifierKey>(), Err(BadKey), "{bad}");
        }
    }

    #[test]
    fn a_signed_checkpoint_reads_back_and_holds() {
        let (key, other) = (key(1), key(2));
        let origin = checkpoint().origin;
        let signed = SignedCheckpoint::sign(checkpoint(), &[(&origin, &key)]);
        let read: SignedCheckpoint = signed.note().parse().unwrap();
        assert_eq!(read, signed);
        assert_eq!(read.verify(&[&verifier(&origin, &key)]), Ok(()));
        assert_eq!(read.verify(&[&verifier(&origin, &other)]), Err(BadNote::Unsigned(origin.clone())));
        assert!(matches!(read.verify(&[&verifier("elsewhere", &key)]), Err(BadNote::Origin { .. })));

        let both = SignedCheckpoint::sign(checkpoint(), &[(&origin, &key), ("next", &other)]);
        assert_eq!(both.verify(&[&verifier(&origin, &key), &verifier("next", &other)]), Ok(()));
        assert_eq!(both.verify(&[&verifier(&origin, &key)]), Err(BadNote::Stranger("next".to_owned())));
        assert_eq!(both.verify_known(&[&verifier(&origin, &key)]), Ok(()));
        let mut forged = both.clone();
        forged.signatures[1].signature[3] ^= 1;
        assert_eq!(
            forged.verify_known(&[&verifier(&origin, &key), &verifier("next", &other)]),
            Err(BadNote::Signature("next".to_owned()))
        );
    }

    #[test]
    fn no_bit_of_a_note_can_change() {
        let key = key(1);
        let origin = checkpoint().origin;
        let (good, verifier) =
            (SignedCheckpoint::sign(checkpoint(), &[(&origin, &key)]).note(), verifier(&origin, &key));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let holds = text.parse::<SignedCheckpoint>().and_then(|note| note.verify(&[&verifier]));
            assert!(holds.is_err(), "bit {bit}: {text}");
        }
        for bad in
            ["", "\n", "a\n1\n", &good[1..], &good[..good.len() - 1], &format!("{good}\n"), &format!("{good}x\n")]
        {
            let holds = bad.parse::<SignedCheckpoint>().and_then(|note| note.verify(&[&verifier]));
            assert!(holds.is_err(), "{bad:?}");
        }
    }
}
