//! What is shown of an upstream's lanes, also while a request is under way: a receiver that hangs must not look as if
//! nothing waited for it.

use std::collections::BTreeMap;
use std::pin::pin;

use super::{LOOK, OLDEST_EVERY_MS};
use crate::model::{Stream, Timestamp};
use crate::store::StoreError;
use crate::upstream::lane::Flow;
use crate::upstream::source::Source;
use crate::upstream::status::Shown;
use crate::upstream::{Parts, minutes, position};

/// What it takes to show them.
pub struct Sight<'a> {
    pub parts: &'a Parts,
    pub source: &'a Source,
    pub flows: &'a BTreeMap<Stream, Flow>,
    /// Of each stream the lowest seq that is not settled, when that came to be, and when it was looked up.
    pub oldest: &'a mut BTreeMap<Stream, (u64, Option<Timestamp>, u64)>,
    pub shown: &'a mut Shown,
}

/// That of a delivery, beside what else is borrowed of it.
macro_rules! sight {
    ($of:expr) => {
        $crate::upstream::delivery::sight::Sight {
            parts: &$of.parts,
            source: &$of.source,
            flows: &$of.flows,
            oldest: &mut $of.oldest,
            shown: &mut $of.shown,
        }
    };
}
pub(super) use sight;

impl Sight<'_> {
    /// What comes of `work`, while which it is shown now and then what waits.
    pub async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                () = self.parts.clock.sleep(LOOK) => {}
            }
            if let Ok(mut heads) = self.parts.reader.heads().await {
                heads.insert(Stream::Minutes, minutes::head(self.parts.clock.now()));
                self.show(&heads).await.ok(); // shown another time
            }
        }
    }

    pub async fn show(&mut self, heads: &BTreeMap<Stream, u64>) -> Result<(), StoreError> {
        let now_ms = self.parts.clock.since_boot_ms();
        let unused = self.parts.reader.unused_seqs();
        for (stream, flow) in self.flows {
            let head = heads.get(stream).copied().unwrap_or(0);
            let known = self.oldest.get(stream).copied();
            let oldest = match position::lowest(&flow.position, head) {
                None => None,
                Some(lowest) => match known {
                    Some((seq, time, at)) if seq == lowest || now_ms.saturating_sub(at) < OLDEST_EVERY_MS => time,
                    _ => {
                        let time = self.source.time_of(*stream, lowest - 1, head).await?;
                        self.oldest.insert(*stream, (lowest, time, now_ms));
                        time
                    }
                },
            };
            self.shown.stands(*stream, flow, (head, &unused), oldest);
        }
        self.shown.tell();
        Ok(())
    }
}
