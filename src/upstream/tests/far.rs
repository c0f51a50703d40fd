//! The other side, as tests want it: it keeps what it is sent, and does what a script says at each call.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::model::note::SignedCheckpoint;
use crate::model::{Position, Stream};
use crate::store::Identity;
use crate::upstream::receiver::{Answer, Batch, Fault, Opened, Receiver, Rejected, Rejection, Witness};
use crate::upstream::record::{Body, LineWriter};

/// What happens at one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    Fine,
    /// Cut before the other side took it.
    Before,
    /// Cut after the other side took it.
    After,
    /// Half of it is taken, and acknowledged.
    Half,
    Busy,
    TooLarge,
    /// The gateway dies before, or after the other side took it.
    DeathBefore,
    DeathAfter,
}

/// How it tells a record that it has.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Memory {
    /// By key.
    #[default]
    Keys,
    /// By how far it is, which it keeps with the records.
    Positions,
    /// Not at all.
    None,
}

/// How it says that it will not have a record.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Refusing {
    /// By name, in a batch that it takes else.
    #[default]
    Listed,
    /// By name, and it takes nothing of the batch.
    Aside,
    /// The batch, without a word which record it is.
    Whole,
}

pub type Key = (String, Stream, u64);

#[derive(Default)]
pub struct State {
    pub memory: Memory,
    pub refusing: Refusing,
    pub is_witness: bool,
    pub is_away: bool,
    /// It refuses us.
    pub stopped: Option<String>,
    /// It never answers.
    pub hangs: bool,
    /// It answers a batch when this is over.
    pub ponders: bool,
    /// It has another record under every key.
    pub contradicts: bool,
    pub most: usize,
    pub largest: usize,
    pub bad: BTreeSet<(Stream, u64)>,
    pub script: VecDeque<Trouble>,
    /// By epoch, stream and seq.
    pub records: BTreeMap<Key, String>,
    /// In the order in which they came, repetitions among them.
    pub came: Vec<(Stream, u64)>,
    pub twice: u64,
    pub held: BTreeMap<String, SignedCheckpoint>,
    pub positions: BTreeMap<(String, Stream), Position>,
    pub opened: u64,
    pub calls: u64,
    pub batches: u64,
    pub is_dead: bool,
}

/// A line to it.
#[derive(Clone, Default)]
pub struct Far(Arc<Mutex<State>>);

impl Far {
    pub fn new(memory: Memory) -> Self {
        let far = Self::default();
        let mut state = far.state();
        (state.memory, state.is_witness) = (memory, memory != Memory::None);
        (state.most, state.largest) = (50, usize::MAX);
        drop(state);
        far
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What it has.
    pub fn records(&self) -> BTreeMap<Key, String> {
        self.state().records.clone()
    }

    /// The seqs that it has of a stream.
    pub fn seqs(&self, wanted: Stream) -> Vec<u64> {
        let mut seqs: Vec<u64> =
            self.state().records.keys().filter(|(_, stream, _)| *stream == wanted).map(|(.., seq)| *seq).collect();
        seqs.sort_unstable();
        seqs
    }

    /// The next trouble; it never comes back from a death.
    async fn next(&self) -> Result<Trouble, Fault> {
        let trouble = {
            let mut state = self.state();
            state.calls += 1;
            if state.is_away {
                return Err(Fault::Away("no route".to_owned()));
            }
            if let Some(why) = &state.stopped {
                return Err(Fault::Stopped(why.clone()));
            }
            let trouble = state.script.pop_front().unwrap_or(Trouble::Fine);
            state.is_dead |= trouble == Trouble::DeathBefore;
            if state.hangs { Trouble::DeathBefore } else { trouble }
        };
        match trouble {
            Trouble::DeathBefore => std::future::pending().await,
            Trouble::Before => Err(Fault::Away("cut".to_owned())),
            Trouble::Busy => Err(Fault::Busy { wait: Duration::from_secs(3), told: "busy".to_owned() }),
            trouble => Ok(trouble),
        }
    }

    /// What comes after it was taken.
    async fn past(&self, trouble: Trouble) -> Result<(), Fault> {
        match trouble {
            Trouble::DeathAfter => {
                self.state().is_dead = true;
                std::future::pending().await
            }
            Trouble::After => Err(Fault::Away("cut".to_owned())),
            _ => Ok(()),
        }
    }

    /// Takes records as its memory lets it.
    fn take(&self, batch: &Batch, count: usize) -> Answer {
        let mut answer = Answer { taken: count, ..Answer::default() };
        let mut state = self.state();
        let mut lines = LineWriter::default();
        for record in &batch.records[..count] {
            let mut line = Vec::new();
            lines.push(&mut line, record);
            let line = String::from_utf8(line).unwrap();
            if let (Body::Block(block), true) = (&record.body, state.is_witness) {
                let held = state.held.get(&batch.identity.origin()).map_or(0, |held| held.checkpoint.size);
                let is_covered = batch.epoch != batch.identity.epoch || block.index < held;
                assert!(is_covered, "block {} of index {} before its checkpoint ({held})", record.seq, block.index);
            }
            let key = (batch.epoch.clone(), batch.stream, record.seq);
            let bad = state.bad.contains(&(batch.stream, record.seq));
            let told = |why| Rejected { seq: record.seq, why, told: "not like this".to_owned() };
            match state.records.get(&key) {
                _ if state.contradicts => answer.rejected.push(told(Rejection::Conflict)),
                _ if bad => answer.rejected.push(told(Rejection::Invalid)),
                Some(known) if *known == line => {
                    state.twice += 1;
                    answer.repeated += 1;
                    assert!(state.memory != Memory::Positions, "{key:?} came twice, though its position was kept");
                }
                Some(_) => answer.rejected.push(told(Rejection::Conflict)),
                None => {
                    state.records.insert(key, line);
                }
            }
            state.came.push((batch.stream, record.seq));
        }
        if state.memory == Memory::Positions && count == batch.records.len() {
            state.positions.insert((batch.epoch.clone(), batch.stream), batch.after.clone());
        }
        answer
    }

    async fn deliver(&self, batch: &Batch) -> Answer {
        let refused = |fault| Answer { fault: Some(fault), ..Answer::default() };
        let trouble = match self.next().await {
            Ok(trouble) => trouble,
            Err(fault) => return refused(fault),
        };
        let count = batch.records.len();
        let (largest, refusing, memory) = {
            let mut state = self.state();
            state.batches += 1;
            (state.largest, state.refusing, state.memory)
        };
        while self.state().ponders {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(count > 0 && batch.records.is_sorted_by(|a, b| a.seq < b.seq), "batches are in order");
        let is_kept = batch.records.iter().any(|record| matches!(record.body, Body::Kept(_)));
        if count > largest || (trouble == Trouble::TooLarge && count > 1) {
            return refused(Fault::TooLarge(format!("{count} are too many")));
        }
        // All or nothing, for the one that keeps how far it is; nothing at all of what it will not have.
        let bad: Vec<Rejected> = {
            let state = self.state();
            let is_bad = |seq: u64| state.bad.contains(&(batch.stream, seq));
            let told = |seq| Rejected { seq, why: Rejection::Invalid, told: "not like this".to_owned() };
            batch.records.iter().filter(|record| is_bad(record.seq)).map(|record| told(record.seq)).collect()
        };
        if !bad.is_empty() && !is_kept {
            match refusing {
                Refusing::Listed => {}
                Refusing::Aside => return Answer { rejected: bad, ..Answer::default() },
                Refusing::Whole => return refused(Fault::Refused("one of them".to_owned())),
            }
        }
        let part = match trouble {
            Trouble::Half if memory != Memory::Positions => count / 2,
            _ => count,
        };
        let mut answer = self.take(batch, part);
        if let Err(fault) = self.past(trouble).await {
            let in_doubt = if memory == Memory::None { part as u64 } else { 0 };
            return Answer { in_doubt, ..refused(fault) };
        }
        if part < count {
            answer.fault = Some(Fault::Away("cut in the middle".to_owned()));
        }
        answer
    }
}

impl Receiver for Far {
    async fn open(&mut self, identity: &Identity) -> Result<Opened, Fault> {
        self.state().opened += 1;
        let trouble = self.next().await?;
        self.past(trouble).await?;
        let state = self.state();
        let held = state.held.values().filter(|note| note.checkpoint.origin.contains(&identity.gateway));
        let positions = state.positions.iter().filter(|((epoch, _), _)| *epoch == identity.epoch);
        Ok(Opened {
            held: held.cloned().collect(),
            positions: positions.map(|((_, stream), position)| (*stream, position.clone())).collect(),
        })
    }

    async fn witness(&mut self, sent: &Witness) -> Result<Option<SignedCheckpoint>, Fault> {
        let trouble = self.next().await?;
        if !self.state().is_witness {
            return Ok(None);
        }
        let note = &sent.checkpoint.checkpoint;
        let held = self.state().held.get(&note.origin).cloned();
        if held.as_ref().map_or(0, |held| held.checkpoint.size) != sent.old {
            return Ok(held);
        }
        if let Some(held) = &held {
            let (old, new) = ((sent.old, &held.checkpoint.root), (note.size, &note.root));
            let proven = crate::model::merkle::verify_consistency(old, new, &sent.consistency);
            proven.expect("a checkpoint goes on from the one before");
        }
        self.state().held.insert(note.origin.clone(), sent.checkpoint.clone());
        self.past(trouble).await?;
        Ok(Some(sent.checkpoint.clone()))
    }

    async fn deliver(&mut self, batch: &Batch) -> Answer {
        Far::deliver(self, batch).await
    }

    fn most(&self, _: Stream) -> usize {
        self.state().most
    }

    fn knows_keys(&self) -> bool {
        self.state().memory != Memory::None
    }
}
