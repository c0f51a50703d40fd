//! When a store may not go on with its log, and a new epoch must be opened. Pure: who looks hands in what was found.

use crate::model::entry::Reason;
use crate::model::note::{Checkpoint, SignedCheckpoint};
use crate::model::{Digest, SiteId};
use crate::store::Succession;

/// What is known when a store was opened, before anything is added to its log.
#[derive(Debug)]
pub struct Found<'a> {
    /// The origin that the store goes on with.
    pub origin: &'a str,
    /// Origin and size of every epoch that the store knows, the current one among them.
    pub epochs: &'a [(String, u64)],
    /// The site of the origin, and the one that the config names.
    pub site: (&'a SiteId, &'a SiteId),
    /// The store was made on other hardware.
    pub other_hardware: bool,
    /// It was restored from a backup, and its log has not begun anew since.
    pub restored: bool,
    /// The newest checkpoint that somebody else holds for us.
    pub outside: Option<&'a SignedCheckpoint>,
    /// The store's own root at the size of `outside`, where its epoch goes as far.
    pub own_root: Option<Digest>,
}

/// Whether the log can go on. A copy on other hardware is a copy first, whatever else it is; one that was restored went
/// back in time as somebody wished; one that went back in time is told as that even when its site was changed as well.
pub fn successor(found: &Found<'_>) -> Option<Succession> {
    let rolled_back = found.outside.filter(|outside| !agrees(found, &outside.checkpoint));
    let last_outside = rolled_back.map(SignedCheckpoint::note);
    let (was, is) = found.site;
    let reason = if found.other_hardware {
        Reason::Clone
    } else if found.restored {
        Reason::Restore
    } else if rolled_back.is_some() {
        Reason::Rollback
    } else if was != is {
        Reason::Site
    } else {
        return None;
    };
    Some(Succession { reason, site: (was != is).then(|| is.clone()), last_outside, since_open: false })
}

/// Whether the store has all that `outside` has seen. A checkpoint of another gateway says nothing of this store.
fn agrees(found: &Found<'_>, outside: &Checkpoint) -> bool {
    if gateway(&outside.origin) != gateway(found.origin) {
        return true;
    }
    let known = found.epochs.iter().find(|(origin, _)| *origin == outside.origin);
    known.is_some_and(|(_, size)| outside.size <= *size && found.own_root == Some(outside.root))
}

/// `<site>/<gateway>/<epoch>`: what stays the same when the site's id or the epoch changes.
fn gateway(origin: &str) -> Option<&str> {
    origin.split('/').nth(1)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn checkpoint(origin: &str, size: u64, root: &[u8]) -> SignedCheckpoint {
        let checkpoint = Checkpoint { origin: origin.to_owned(), size, root: Digest::of(root) };
        SignedCheckpoint::sign(checkpoint, &[(origin, &SigningKey::from_bytes(&[1; 32]))])
    }

    /// What comes of a store with the epochs e1 (10 entries) and e2 (5 entries) when it meets this checkpoint.
    fn met(
        outside: Option<&SignedCheckpoint>,
        own_root: &[u8],
        other_hardware: bool,
        new_site: &str,
    ) -> Option<Reason> {
        let epochs = [("s/gw/e1".to_owned(), 10), ("s/gw/e2".to_owned(), 5)];
        let (site, new_site) = ("s".parse().unwrap(), new_site.parse().unwrap());
        let own_root = Some(Digest::of(own_root));
        let found = |restored| Found {
            origin: "s/gw/e2",
            epochs: &epochs,
            site: (&site, &new_site),
            other_hardware,
            restored,
            outside,
            own_root,
        };
        let succession = successor(&found(false));
        let shows_it = succession.as_ref().is_some_and(|succession| succession.reason == Reason::Rollback);
        let named = succession.as_ref().and_then(|succession| succession.last_outside.clone());
        assert_eq!(named.is_some(), shows_it, "only what shows a rollback is named");
        // Restored, it begins anew in any case, and names the same.
        let restored = successor(&found(true)).unwrap();
        assert_eq!(restored.reason, if other_hardware { Reason::Clone } else { Reason::Restore });
        assert_eq!(restored.last_outside, named);
        assert_eq!(restored.site, (site != new_site).then(|| new_site.clone()));
        let succession = succession?;
        assert_eq!(succession.site, (site != new_site).then_some(new_site));
        Some(succession.reason)
    }

    #[test]
    fn a_store_that_is_whole_goes_on() {
        assert_eq!(met(None, b"", false, "s"), None);
        for same in [checkpoint("s/gw/e2", 5, b"r"), checkpoint("s/gw/e2", 3, b"r"), checkpoint("s/gw/e1", 10, b"r")] {
            assert_eq!(met(Some(&same), b"r", false, "s"), None, "{same:?}");
        }
        // A mark of somebody else, left at this place.
        assert_eq!(met(Some(&checkpoint("s/other/e9", 99, b"x")), b"r", false, "s"), None);
    }

    #[test]
    fn a_store_that_is_behind_or_differs_opens_an_epoch() {
        let rollback = Some(Reason::Rollback);
        assert_eq!(met(Some(&checkpoint("s/gw/e2", 6, b"r")), b"r", false, "s"), rollback, "behind");
        assert_eq!(met(Some(&checkpoint("s/gw/e2", 5, b"x")), b"r", false, "s"), rollback, "another root");
        assert_eq!(met(Some(&checkpoint("s/gw/e3", 1, b"r")), b"r", false, "s"), rollback, "an epoch it never knew");
        assert_eq!(met(Some(&checkpoint("old/gw/e3", 1, b"r")), b"r", false, "s"), rollback);
        assert_eq!(met(Some(&checkpoint("s/gw/e2", 6, b"r")), b"r", false, "t"), rollback, "and a new site");
    }

    #[test]
    fn other_hardware_and_another_site_open_an_epoch() {
        assert_eq!(met(None, b"", true, "s"), Some(Reason::Clone));
        assert_eq!(met(None, b"", true, "t"), Some(Reason::Clone));
        assert_eq!(met(None, b"", false, "t"), Some(Reason::Site));
        assert_eq!(met(Some(&checkpoint("s/gw/e2", 5, b"r")), b"r", false, "t"), Some(Reason::Site));
    }
}
