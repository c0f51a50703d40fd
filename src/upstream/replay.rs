//! Dead letters that somebody wants sent again, one batch after the other. Bounded: their numbers, and no lines.

use std::collections::BTreeSet;

use super::receiver::{Answer, Fault};
use super::record::{Body, Record};
use crate::model::{DeadLetter, Stream, Timestamp};
use crate::store::{Reader, StoreError};

/// Dead letters that are read at once.
const PAGE: usize = 200;

/// What is still to be sent again. It lasts as long as the process.
#[derive(Default)]
pub struct Replay {
    /// All that are older than this one.
    below: Option<u64>,
    /// And these; no more than there are dead letters.
    ids: BTreeSet<u64>,
    /// One in the last batch is refused: one after the other.
    one_by_one: bool,
    /// So often in a row the line broke at them.
    broken: u32,
}

/// With so many the rest stays a dead letter: one at which the other side breaks down must not hold up all else for ever.
const BROKEN: u32 = 3;

/// Dead letters of one stream and epoch.
pub struct Again {
    pub stream: Stream,
    pub epoch: String,
    /// In order of seq.
    pub records: Vec<Record>,
    /// Of each record.
    pub sent: Vec<Sent>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    pub id: u64,
    pub seq: u64,
}

/// What became of them.
#[derive(Debug, Default, PartialEq)]
pub struct Settled {
    /// They were taken.
    pub gone: Vec<u64>,
    /// They were refused once more, and why.
    pub again: Vec<(u64, String)>,
    /// Why the others were neither.
    pub fault: Option<Fault>,
}

impl Replay {
    /// These, or all.
    pub fn want(&mut self, ids: Option<Vec<u64>>) {
        match ids {
            Some(ids) => self.ids.extend(ids),
            None => self.below = Some(u64::MAX),
        }
    }

    /// The next ones, at most some hundred; none when all were sent or are gone.
    pub async fn next(&mut self, reader: &Reader, upstream: &str) -> Result<Vec<DeadLetter>, StoreError> {
        loop {
            let mut letters = Vec::new();
            if self.ids.is_empty() {
                let Some(below) = self.below else { return Ok(letters) };
                letters = reader.dead_letters(upstream, Some(below), PAGE).await?;
                self.below = letters.last().map(|oldest| oldest.id);
                self.ids = letters.iter().map(|letter| letter.id).collect();
            } else {
                for id in self.ids.iter().copied().take(PAGE).collect::<Vec<_>>() {
                    let found = reader.dead_letters(upstream, id.checked_add(1), 1).await?.pop();
                    match found.filter(|letter| letter.id == id) {
                        Some(letter) => letters.push(letter),
                        // Discarded meanwhile.
                        None => drop(self.ids.remove(&id)),
                    }
                }
            }
            if !letters.is_empty() {
                return Ok(letters);
            }
        }
    }

    /// A batch of them, of one stream and epoch: that of the first one, and at most `most`.
    pub fn batch(&self, letters: Vec<DeadLetter>, most: usize) -> Option<Again> {
        of_one_epoch(letters, if self.one_by_one { 1 } else { most.max(1) })
    }

    /// What became of these letters.
    pub fn settle(&mut self, sent: &[Sent], answer: Answer) -> Settled {
        let Answer { taken, rejected, fault, .. } = answer;
        let mut settled = Settled { fault, ..Settled::default() };
        let (taken, left) = sent.split_at(taken.min(sent.len()));
        let told =
            |one: &Sent| rejected.iter().find(|rejected| rejected.seq == one.seq).map(|found| found.told.clone());
        settled.again.extend(taken.iter().chain(left).filter_map(|one| Some((one.id, told(one)?))));
        settled.gone.extend(taken.iter().filter(|one| told(one).is_none()).map(|one| one.id));
        if let Some(Fault::TooLarge(why) | Fault::Refused(why)) = &settled.fault {
            match left {
                [one] if told(one).is_none() => settled.again.push((one.id, why.clone())),
                _ => self.one_by_one = true,
            }
            settled.fault = None;
        } else if settled.fault.is_none() && settled.gone.is_empty() && settled.again.is_empty() {
            settled.fault = Some(Fault::Away("it took none of the dead letters, and did not say why".to_owned()));
        }
        if settled.fault.is_some() {
            self.broken += 1;
            if self.broken >= BROKEN {
                *self = Self::default();
            }
        } else {
            self.broken = 0;
        }
        for id in settled.gone.iter().chain(settled.again.iter().map(|(id, _)| id)) {
            self.ids.remove(id);
        }
        self.one_by_one &= !self.ids.is_empty();
        settled
    }
}

fn of_one_epoch(letters: Vec<DeadLetter>, size: usize) -> Option<Again> {
    let first = letters.first()?;
    let (stream, epoch) = (first.stream, first.epoch.clone());
    let mut same: Vec<_> = letters.into_iter().filter(|one| one.stream == stream && one.epoch == epoch).collect();
    same.sort_by_key(|letter| letter.seq);
    same.truncate(size);
    let sent = same.iter().map(|letter| Sent { id: letter.id, seq: letter.seq }).collect();
    let records = same.into_iter().map(|one| Record { seq: one.seq, time: time_of(&one), body: Body::Kept(one.line) });
    Some(Again { stream, epoch, records: records.collect(), sent })
}

/// The record's own time; else when it was refused.
fn time_of(letter: &DeadLetter) -> Timestamp {
    #[derive(serde::Deserialize)]
    struct Timed {
        time: i64,
    }
    let own = serde_json::from_str::<Timed>(&letter.line);
    own.map_or(letter.at, |timed| Timestamp::from_millis(timed.time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::receiver::{Rejected, Rejection};

    fn sent(ids: &[u64]) -> Vec<Sent> {
        ids.iter().map(|id| Sent { id: *id, seq: 100 + id }).collect()
    }

    #[test]
    fn what_is_refused_again_stays_and_the_rest_is_gone() {
        let mut replay = Replay::default();
        replay.want(Some(vec![1, 2, 3]));
        let rejected = vec![Rejected { seq: 102, why: Rejection::Conflict, told: "another".to_owned() }];
        let settled = replay.settle(&sent(&[1, 2, 3]), Answer { taken: 3, rejected, ..Answer::default() });
        assert_eq!(settled, Settled { gone: vec![1, 3], again: vec![(2, "another".to_owned())], fault: None });
        assert!(replay.ids.is_empty());
    }

    #[test]
    fn a_batch_that_is_refused_goes_one_by_one() {
        let mut replay = Replay::default();
        replay.want(Some(vec![1, 2]));
        let refused = || Answer { fault: Some(Fault::Refused("no".to_owned())), ..Answer::default() };
        assert_eq!(replay.settle(&sent(&[1, 2]), refused()), Settled::default());
        assert!(replay.one_by_one);
        assert_eq!(replay.settle(&sent(&[1]), refused()).again, [(1, "no".to_owned())]);
        assert_eq!(replay.settle(&sent(&[2]), Answer { taken: 1, ..Answer::default() }).gone, [2]);
        assert!(!replay.one_by_one && replay.ids.is_empty());
        assert!(matches!(replay.settle(&sent(&[2]), Answer::default()).fault, Some(Fault::Away(_))), "no endless loop");
    }

    #[test]
    fn a_letter_at_which_the_other_side_breaks_down_is_left_after_some_tries() {
        let mut replay = Replay::default();
        replay.want(Some(vec![1, 2]));
        let down = || Answer { fault: Some(Fault::Away("500".to_owned())), ..Answer::default() };
        for left in [2, 2, 0] {
            assert!(replay.settle(&sent(&[1, 2]), down()).fault.is_some());
            assert_eq!(replay.ids.len(), left);
        }
        replay.want(None);
        replay.settle(&sent(&[1]), down());
        replay.settle(&sent(&[1]), Answer { taken: 1, ..Answer::default() });
        assert_eq!((replay.broken, replay.below), (0, Some(u64::MAX)), "in a row only");
    }
}
