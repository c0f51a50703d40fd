//! One batch: what goes into it, and what its answer comes to.

use std::time::Duration;

use super::sight::sight;
use super::{Conflict, Delivery, Ended, FIRST_PAUSE_MS, LIVE_EVERY_MS, Line, PATIENCE, full, room};
use crate::model::{NewDeadLetter, Stream};
use crate::upstream::position::{self, Lane, Stretch};
use crate::upstream::receiver::{Answer, Batch, Fault, Receiver, Rejection};
use crate::upstream::record::LineWriter;
use crate::upstream::status::Came;

impl<R: Receiver> Delivery<R> {
    /// The next batch of one lane, if there is any; whether anything moved.
    pub(super) async fn step(
        &mut self,
        line: &Line,
        (stream, lane): (Stream, Lane),
        head: u64,
        rest: &mut Duration,
    ) -> Result<bool, Ended> {
        let most = self.receiver.most(stream).max(1);
        let Some(flow) = self.flows.get_mut(&stream).filter(|_| stream != Stream::Checkpoints) else {
            return Ok(false);
        };
        let Some(stretch) = flow.stretch(lane, head) else { return Ok(false) };
        let is_live = (stream, lane) == (Stream::Readings, Lane::Live);
        let now_ms = self.parts.clock.since_boot_ms();
        if let Some(sent_ms) = self.live_ms.filter(|_| is_live && stretch.until - stretch.after < most as u64) {
            let wait = LIVE_EVERY_MS.saturating_sub(now_ms.saturating_sub(sent_ms));
            if wait > 0 {
                *rest = (*rest).min(Duration::from_millis(wait));
                return Ok(false);
            }
        }
        let size = flow.size(lane, most);
        let mut found = self.source.read(stream, stretch, size, (&line.identity, line.signed())).await?;
        if let Some(wait) = found.wait {
            *rest = (*rest).min(wait);
        }
        found.records.retain(|record| !flow.aside.contains(&record.seq));
        if found.records.is_empty() {
            if found.through > stretch.after {
                flow.settle(stretch, found.through);
            }
            return Ok(found.through > stretch.after);
        }
        if is_live {
            self.live_ms = Some(now_ms);
        }
        let mut after = flow.position.clone();
        position::settle(&mut after, stretch, found.through);
        let identity = (*line.identity).clone();
        let batch = Batch { identity, epoch: found.epoch, stream, records: found.records, after };
        let delivering = self.halt.during(self.receiver.deliver(&batch));
        let Some(answer) = sight!(self).during(delivering).await else {
            self.broken_off(&batch);
            return Err(Ended::Halted);
        };
        self.settle(line, &batch, (stretch, found.through), answer).await
    }

    /// What was under way may have arrived.
    pub(super) fn broken_off(&mut self, batch: &Batch) {
        if !self.receiver.knows_keys() {
            self.shown.came(batch.stream, Came { in_doubt: batch.records.len() as u64, ..Came::default() });
        }
    }

    /// Takes in what became of a batch.
    pub(super) async fn settle(
        &mut self,
        line: &Line,
        batch: &Batch,
        (stretch, through): (Stretch, u64),
        answer: Answer,
    ) -> Result<bool, Ended> {
        let (stream, sent) = (batch.stream, batch.records.len());
        let taken = answer.taken.min(sent);
        let Some(flow) = self.flows.get_mut(&stream) else { return Ok(false) };
        // Each with its place in the batch.
        let (mut letters, mut conflicts) = (Vec::new(), Vec::new());
        for rejected in &answer.rejected {
            let Ok(at) = batch.records.binary_search_by_key(&rejected.seq, |record| record.seq) else { continue };
            let letter = (at, letter(batch, at, &rejected.told));
            if rejected.why == Rejection::Conflict { conflicts.push(letter) } else { letters.push(letter) }
        }
        flow.took(stretch.lane, sent, taken);
        let mut is_smaller = false;
        let mut fault = match answer.fault {
            Some(Fault::TooLarge(told)) if taken < sent => {
                is_smaller = flow.too_large(stretch.lane, sent - taken);
                letters.extend((!is_smaller).then(|| (taken, letter(batch, taken, &told))));
                None
            }
            Some(Fault::Refused(told)) if taken < sent => {
                is_smaller = flow.refused(stretch.lane, sent - taken);
                letters.extend((!is_smaller).then(|| (taken, letter(batch, taken, &told))));
                None
            }
            fault => fault,
        };
        // From the first one on that there is no room for, nothing is settled.
        letters.sort_unstable_by_key(|(at, _)| *at);
        let room = room(self.letters, self.pending.len());
        let unkept = letters.get(room).map(|(at, _)| *at);
        let taken = unkept.map_or(taken, |at| taken.min(at));
        if taken > 0 {
            let through = if taken == sent { through } else { batch.records[taken - 1].seq };
            flow.settle(stretch, through);
        }
        let rejected = letters.len() + conflicts.len();
        let refused = letters.iter().chain(&conflicts).filter(|(at, _)| *at < taken).count();
        self.shown.came(
            stream,
            Came {
                sent: (taken - refused.min(taken)) as u64,
                repeated: answer.repeated,
                rejected: rejected as u64,
                in_doubt: answer.in_doubt,
                skipped: answer.skipped,
            },
        );
        if unkept.is_some() {
            letters.truncate(room);
            fault = Some(Fault::Stopped(full()));
        }
        for (at, letter) in letters {
            if at >= taken {
                flow.aside.insert(letter.seq);
            }
            self.pending.push(letter);
        }
        for run in conflicts.chunk_by(|(at, _), (next, _)| next - at == 1) {
            if let (Some((at, first)), Some((_, last))) = (run.first(), run.last())
                && *at < taken
            {
                flow.reopen(first.seq, last.seq);
            }
        }
        if !self.pending.is_empty() || !self.receiver.knows_keys() {
            self.keep().await?;
        }
        if !conflicts.is_empty() {
            let letters = conflicts.into_iter().map(|(_, letter)| letter).collect();
            let (epoch, note) = (batch.epoch.clone(), line.held.clone());
            return Err(Ended::Conflict(Conflict { epoch, stream, letters, note }));
        }
        match fault {
            None if taken == 0 && rejected == 0 && !is_smaller => {
                let told = format!("{} took none of {sent} records, and did not say why", self.upstream.kind.to());
                Err(Ended::Fault(Fault::Away(told)))
            }
            None => {
                if taken > 0 {
                    self.is_proven = true;
                    self.works().await;
                }
                Ok(true)
            }
            Some(Fault::Busy { wait, told }) if wait <= PATIENCE => {
                self.away(told);
                self.pause(wait.max(Duration::from_millis(FIRST_PAUSE_MS))).await;
                Ok(true)
            }
            Some(fault) => Err(Ended::Fault(fault)),
        }
    }

    /// The next dead letters that somebody wants sent again; whether there were any.
    pub(super) async fn send_again(&mut self, line: &Line) -> Result<bool, Ended> {
        let letters = self.replay.next(&self.parts.reader, &self.upstream.name).await?;
        let most = letters.first().map_or(0, |first| self.receiver.most(first.stream));
        let Some(again) = self.replay.batch(letters, most) else { return Ok(false) };
        let after = self.flows.get(&again.stream).map(|flow| flow.position.clone()).unwrap_or_default();
        let batch = Batch {
            identity: (*line.identity).clone(),
            epoch: again.epoch,
            stream: again.stream,
            records: again.records,
            after,
        };
        let Some(answer) = self.halt.during(self.receiver.deliver(&batch)).await else {
            self.broken_off(&batch);
            return Err(Ended::Halted);
        };
        let Answer { taken, repeated, in_doubt, skipped, .. } = answer;
        let came = Came { sent: taken as u64, repeated, rejected: 0, in_doubt, skipped };
        let settled = self.replay.settle(&again.sent, answer);
        let refused = settled.again.len() as u64;
        self.shown.came(batch.stream, Came { sent: came.sent.saturating_sub(refused), rejected: refused, ..came });
        if !settled.gone.is_empty() || !settled.again.is_empty() {
            let name = self.upstream.name.clone();
            self.parts.ledger.settle_dead_letters(name, settled.gone, settled.again).await?;
            self.count_letters().await?;
        }
        match settled.fault {
            None => Ok(true),
            Some(fault) => Err(Ended::Fault(fault)),
        }
    }
}

fn letter(batch: &Batch, at: usize, reason: &str) -> NewDeadLetter {
    let mut line = Vec::new();
    let record = &batch.records[at];
    LineWriter::default().push(&mut line, record);
    NewDeadLetter {
        stream: batch.stream,
        epoch: batch.epoch.clone(),
        seq: record.seq,
        line: String::from_utf8_lossy(&line).into_owned(),
        reason: reason.to_owned(),
    }
}
