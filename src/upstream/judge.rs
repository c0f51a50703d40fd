//! What it means that others hold these checkpoints of this gateway: that all is well, or that the store went back in
//! time. Pure: whoever asks hands in the store's own roots.

use std::collections::BTreeSet;

use crate::model::note::{SignedCheckpoint, VerifierKey};
use crate::model::{Digest, Timestamp};
use crate::store::Epoch;

/// A checkpoint that no key of this store signed is believed so often by one upstream: its word alone, which anybody
/// could have made up, must not have the log begin anew again and again.
const BELIEVED_EVERY_MS: i64 = 86_400_000;

/// What the store knows of itself.
pub struct Own<'a> {
    /// The oldest first; the last one is the current one.
    pub epochs: &'a [Epoch],
    /// Origins of epochs that it never had, after which its log began anew already.
    pub met: &'a BTreeSet<String>,
    /// When this upstream was last believed what no key here has signed.
    pub believed: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The store has all that the other side has seen. The one that it holds of the current epoch.
    Agrees(Option<SignedCheckpoint>),
    /// The other side knows more than the store, or something else.
    WentBack(Shows),
    /// It is not believed: why, and what to do, for a person.
    Distrusted(String),
}

/// What shows that the store went back in time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shows {
    /// The checkpoint; none where positions or records show it.
    pub note: Option<SignedCheckpoint>,
    /// No key of this store signed it.
    pub on_its_word: bool,
    /// Origins of this gateway that the other side holds and the store never had: they are met with this, all of them.
    pub unknown: Vec<String>,
}

/// Judges what the other side holds; each with the store's own root at its size, where its epoch is the current one and
/// goes as far.
pub fn judge(held: &[(SignedCheckpoint, Option<Digest>)], own: &Own<'_>, now: Timestamp) -> Verdict {
    let Some(current) = own.epochs.last() else { return Verdict::Agrees(None) };
    let origin = current.identity.origin();
    let is_ours = |epoch: &Epoch, note: &SignedCheckpoint| {
        let key = VerifierKey::new(&*note.checkpoint.origin, *epoch.key.public());
        note.verify_known(&[&key]).is_ok()
    };
    let (mut agreed, mut shown, mut strange) = (None, None, None);
    let mut unknown = Vec::new();
    for (note, own_root) in held {
        let of = &note.checkpoint;
        if of.origin == origin {
            if !is_ours(current, note) {
                strange = Some(note);
            } else if *own_root == Some(of.root) {
                agreed = Some(note.clone());
            } else {
                shown = Some(note);
            }
            continue;
        }
        // Another gateway's says nothing of this store, and a former epoch's is over.
        let is_former = own.epochs.iter().any(|epoch| epoch.identity.origin() == of.origin);
        if gateway(&of.origin) != gateway(&origin) || is_former || own.met.contains(&of.origin) {
            continue;
        }
        unknown.push(of.origin.clone());
        if own.epochs.iter().any(|epoch| is_ours(epoch, note)) {
            shown = shown.or(Some(note));
        } else {
            strange = strange.or(Some(note));
        }
    }
    match (shown, strange) {
        (Some(note), _) => Verdict::WentBack(Shows { note: Some(note.clone()), on_its_word: false, unknown }),
        (None, Some(note)) if is_believed_again(own.believed, now) => {
            Verdict::WentBack(Shows { note: Some(note.clone()), on_its_word: true, unknown })
        }
        (None, Some(note)) => Verdict::Distrusted(format!(
            "it holds a checkpoint of {} that no key of this gateway has signed, and it was believed such a one within the last \
             24 hours: find out who writes there under this gateway's name, and have that checkpoint removed",
            note.checkpoint.origin
        )),
        (None, None) => Verdict::Agrees(agreed),
    }
}

/// Whether an upstream is believed, on its word alone, that the store went back, when it last was so at `believed`.
pub fn is_believed_again(believed: Option<Timestamp>, now: Timestamp) -> bool {
    believed.is_none_or(|at| now.millis_since(at).saturating_abs() >= BELIEVED_EVERY_MS)
}

/// `<site>/<gateway>/<epoch>`: what stays the same when the site's id or the epoch changes.
fn gateway(origin: &str) -> Option<&str> {
    origin.split('/').nth(1)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::model::entry::Reason;
    use crate::model::note::Checkpoint;
    use crate::store::Identity;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn epoch(name: &str, seed: u8, size: u64) -> Epoch {
        let identity = Identity { site: "s".parse().unwrap(), gateway: "gw".to_owned(), epoch: name.to_owned() };
        let key = VerifierKey::new(identity.origin(), key(seed).verifying_key().to_bytes());
        Epoch { identity, key, opened: NOW, reason: Reason::Init, size }
    }

    fn note(origin: &str, size: u64, root: &[u8], seed: u8) -> SignedCheckpoint {
        let checkpoint = Checkpoint { origin: origin.to_owned(), size, root: Digest::of(root) };
        SignedCheckpoint::sign(checkpoint, &[(origin, &key(seed))])
    }

    /// Judged by a store with the epochs e1 (10 entries, key 1) and e2 (5 entries, key 2), whose roots are all of `r`.
    fn judged(held: &[SignedCheckpoint], met: &[&str], believed: Option<i64>) -> Verdict {
        let epochs = [epoch("e1", 1, 10), epoch("e2", 2, 5)];
        let met = met.iter().map(|origin| (*origin).to_owned()).collect();
        let own =
            Own { epochs: &epochs, met: &met, believed: believed.map(|hours| NOW.plus_millis(-hours * 3_600_000)) };
        let root = |note: &SignedCheckpoint| (note.checkpoint.size <= 5).then(|| Digest::of(b"r"));
        let held: Vec<_> = held.iter().map(|note| (note.clone(), root(note))).collect();
        judge(&held, &own, NOW)
    }

    fn went_back(held: &[SignedCheckpoint]) -> Option<bool> {
        match judged(held, &[], None) {
            Verdict::WentBack(shown) => shown.note.filter(|note| held.contains(note)).map(|_| shown.on_its_word),
            _ => None,
        }
    }

    #[test]
    fn one_that_knows_no_more_than_the_store_agrees() {
        assert_eq!(judged(&[], &[], None), Verdict::Agrees(None));
        let held = note("s/gw/e2", 5, b"r", 2);
        assert_eq!(judged(std::slice::from_ref(&held), &[], None), Verdict::Agrees(Some(held.clone())));
        let others = [note("s/gw/e1", 99, b"x", 1), note("s/other/e9", 99, b"x", 9), held.clone()];
        assert_eq!(
            judged(&others, &[], None),
            Verdict::Agrees(Some(held)),
            "former epochs and other gateways say nothing"
        );
        assert_eq!(judged(&others[..2], &[], None), Verdict::Agrees(None));
    }

    #[test]
    fn one_that_knows_more_or_else_shows_that_the_store_went_back() {
        assert_eq!(went_back(&[note("s/gw/e2", 6, b"r", 2)]), Some(false), "larger");
        assert_eq!(went_back(&[note("s/gw/e2", 5, b"x", 2)]), Some(false), "another root");
        assert_eq!(went_back(&[note("s/gw/e3", 1, b"r", 2)]), Some(false), "an epoch that it never had");
        assert_eq!(went_back(&[note("old/gw/e3", 1, b"r", 1)]), Some(false), "under a former id of the site");
        assert_eq!(went_back(&[note("s/gw/e2", 5, b"r", 2), note("s/gw/e3", 1, b"r", 2)]), Some(false));
        assert_eq!(went_back(&[note("s/gw/e3", 1, b"r", 7)]), Some(true), "of a key that came with a rotation");
        let both = [note("s/gw/e3", 1, b"r", 7), note("s/gw/e4", 1, b"r", 2)];
        let Verdict::WentBack(shown) = judged(&both, &[], None) else { panic!("it went back") };
        assert_eq!((shown.note.as_ref(), shown.on_its_word), (Some(&both[1]), false));
        assert_eq!(shown.unknown, ["s/gw/e3", "s/gw/e4"], "both are met with it");
    }

    #[test]
    fn an_epoch_is_met_once() {
        assert_eq!(judged(&[note("s/gw/e3", 8, b"r", 2)], &["s/gw/e3"], None), Verdict::Agrees(None));
        assert_eq!(judged(&[note("s/gw/e3", 8, b"r", 7)], &["s/gw/e3"], Some(1)), Verdict::Agrees(None));
        let held = [note("s/gw/e3", 8, b"r", 2), note("s/gw/e4", 8, b"r", 2)];
        assert!(
            matches!(judged(&held, &["s/gw/e3"], None), Verdict::WentBack(shown) if shown.note.as_ref() == Some(&held[1]))
        );
        let Verdict::WentBack(shown) = judged(&[held.to_vec(), vec![note("s/gw/e2", 6, b"r", 2)]].concat(), &[], None)
        else {
            panic!("it went back")
        };
        let met: Vec<&str> = shown.unknown.iter().map(String::as_str).collect();
        assert_eq!(judged(&held, &met, None), Verdict::Agrees(None), "one rollback makes one epoch");
    }

    #[test]
    fn what_no_key_here_signed_is_believed_once_a_day() {
        let strange = [note("s/gw/e3", 1, b"r", 7)];
        assert!(matches!(judged(&strange, &[], Some(23)), Verdict::Distrusted(why) if why.contains("s/gw/e3")));
        assert!(matches!(judged(&strange, &[], Some(24)), Verdict::WentBack(shown) if shown.on_its_word));
        assert!(matches!(judged(&strange, &[], Some(-24)), Verdict::WentBack(_)), "the clock was ahead then");
        // Nor is a checkpoint of the current epoch that somebody else signed.
        assert!(matches!(judged(&[note("s/gw/e2", 3, b"r", 7)], &[], Some(1)), Verdict::Distrusted(_)));
        let mut forged = note("s/gw/e2", 3, b"r", 2);
        forged.checkpoint.size = 9;
        assert!(matches!(judged(&[forged], &[], Some(1)), Verdict::Distrusted(_)));
        // What our own keys show needs nobody's word.
        let both = [note("s/gw/e3", 1, b"r", 7), note("s/gw/e2", 6, b"r", 2)];
        assert!(matches!(judged(&both, &[], Some(1)), Verdict::WentBack(shown) if !shown.on_its_word));
    }
}
