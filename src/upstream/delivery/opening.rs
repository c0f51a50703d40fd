//! What comes first on a connection: what the other side holds is judged, how far it is is taken over, and our checkpoint
//! is handed to it.

use std::collections::BTreeMap;

use super::{Delivery, Ended, Line, Outside, at_opening};
use crate::model::note::SignedCheckpoint;
use crate::model::{Position, Stream};
use crate::store::Identity;
use crate::upstream::judge::{self, Own, Shows, Verdict};
use crate::upstream::position;
use crate::upstream::receiver::{Fault, Receiver, Witness};
use crate::upstream::status::Came;

impl<R: Receiver> Delivery<R> {
    /// The store agrees with what the other side holds; its checkpoint of the current epoch.
    pub(super) async fn judge(
        &mut self,
        identity: &Identity,
        held: Vec<SignedCheckpoint>,
    ) -> Result<Option<SignedCheckpoint>, Ended> {
        let reader = &self.parts.reader;
        let (epochs, outside) = (reader.epochs().await?, Outside::read(reader).await?);
        let origin = identity.origin();
        let mut rooted = Vec::new();
        for note in held {
            let own_root = match note.checkpoint.origin == origin {
                true => reader.root_at(&identity.epoch, note.checkpoint.size).await?,
                false => None,
            };
            rooted.push((note, own_root));
        }
        let believed = outside.believed.get(&self.upstream.name).copied();
        let own = Own { epochs: &epochs, met: &outside.met, believed };
        match judge::judge(&rooted, &own, self.parts.clock.now()) {
            Verdict::Agrees(held) => Ok(held),
            Verdict::WentBack(shown) => Err(Ended::WentBack(shown)),
            Verdict::Distrusted(why) => Err(Ended::Fault(Fault::Stopped(why))),
        }
    }

    /// Where the other side keeps how far it is, that is right. Beyond what the store has, it went back in time.
    pub(super) async fn adopt(&mut self, positions: BTreeMap<Stream, Position>, line: &Line) -> Result<(), Ended> {
        let given = self.parts.reader.given_out().await?;
        for (stream, mut theirs) in positions {
            let Some(flow) = self.flows.get_mut(&stream) else { continue };
            if matches!(stream, Stream::Checkpoints | Stream::Minutes) {
                continue;
            }
            position::tidy(&mut theirs);
            let given = given.get(&stream).copied().unwrap_or(0);
            if theirs.live > given {
                let outside = Outside::read(&self.parts.reader).await?;
                let believed = outside.believed.get(&self.upstream.name).copied();
                if judge::is_believed_again(believed, self.parts.clock.now()) {
                    let shown = Shows { note: line.held.clone(), on_its_word: true, unknown: Vec::new() };
                    return Err(Ended::WentBack(shown));
                }
                return Err(Ended::Fault(Fault::Stopped(format!(
                    "it has {stream} up to {}, and this gateway none beyond {given}; the log began anew for that within the last \
                     24 hours: find out who writes there under this gateway's name",
                    theirs.live,
                ))));
            }
            if flow.position != theirs {
                flow.position = theirs;
                flow.is_unsaved = true;
            }
        }
        Ok(())
    }

    /// Hands over the newest checkpoint, unless the other side has it.
    pub(super) async fn witness(&mut self, line: &mut Line) -> Result<(), Ended> {
        let newest = self.parts.checkpoint.borrow_and_update().clone();
        let Some(newest) = newest.filter(|newest| newest.checkpoint.origin == line.identity.origin()) else {
            return Ok(());
        };
        let size = newest.checkpoint.size;
        for _ in 0..4 {
            let old = line.held.as_ref().map_or(0, |held| held.checkpoint.size);
            if !line.is_witness || old >= size {
                self.witnessed(old.max(size));
                return Ok(());
            }
            let proof = match old {
                0 => Some(Vec::new()),
                _ => self.parts.reader.consistency(&line.identity.epoch, old, size).await?,
            };
            let Some(consistency) = proof else {
                return Err(Ended::Fault(Fault::Away(format!(
                    "the way from size {old} to {size} of the log is not known"
                ))));
            };
            let sent = Witness { checkpoint: (*newest).clone(), old, consistency };
            match self.halt.during(self.receiver.witness(&sent)).await.ok_or(Ended::Halted)?.map_err(at_opening)? {
                Some(held) if held.checkpoint == newest.checkpoint => {
                    self.shown.came(Stream::Checkpoints, Came { sent: 1, ..Came::default() });
                    line.held = Some(held);
                }
                Some(other) => line.held = self.judge(&line.identity, vec![other]).await?,
                // It holds none: of what it was said to hold, or of anybody.
                None if old > 0 => line.held = None,
                None => line.is_witness = false,
            }
        }
        let told = "each time it holds another checkpoint than it was told to";
        Err(Ended::Fault(Fault::Away(format!("{}: {told}", self.upstream.kind.to()))))
    }

    pub(super) fn witnessed(&mut self, size: u64) {
        if let Some(flow) = self.flows.get_mut(&Stream::Checkpoints).filter(|flow| flow.position.live != size) {
            flow.position = Position { live: size, open: Vec::new() };
            flow.is_unsaved = true;
        }
    }
}
