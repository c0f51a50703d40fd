//! Which request an answer belongs to, on a line whose frames bear no number. Pure: time is an argument.
//!
//! A unit that was too slow once may give its answer at any later time, and it looks like that to a request for other
//! registers as long as both ask for equally many. What holds is that a unit answers in order, and each request once at
//! most. So an answer that only one request can have called for tells that nothing older will come any more; where
//! several can have, it is the values of those registers only if all of them asked for the same.
//!
//! Two things are given away. A late answer to a request for the very same registers passes for the answer to its
//! repetition: its values are older by the time between the two at most. And where a unit keeps silent about
//! everything that would be a proof, it is taken for granted, not proven, that nothing older comes once nothing was
//! sent to it for three time-outs, and for five seconds at least.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::frame::{Ask, Content, Frame};
use crate::sources::template::Function;

/// Requests of one unit that are remembered. Between that many lie minutes, as a silent unit is asked rarely.
const REMEMBERED: usize = 16;

/// What is asked in order to learn that nothing older will come: few registers, then another function, to which a
/// device that does not have it answers with an exception.
const CANARIES: [(bool, u16); 3] = [(true, 2), (true, 1), (false, 2)];

/// The requests to one unit whose answers may still come.
#[derive(Debug, Default)]
pub struct Unanswered {
    /// In the order in which they went out.
    sent: VecDeque<Sent>,
    /// Canaries to which this unit kept silent.
    mute: Vec<Shape>,
    /// Nothing is to be asked until nothing older can come. Else requests that cannot be mistaken would go on and on, and
    /// those that can would never have their turn.
    rests: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    ask: Ask,
    at: Instant,
}

/// By this alone answers differ.
type Shape = (Function, u16);

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What was asked for, where no other request can have called for this answer.
    pub ask: Option<Ask>,
    /// When the oldest request went out that can have called for it.
    pub sent: Instant,
}

impl Unanswered {
    pub fn sent(&mut self, ask: Ask, now: Instant) {
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { ask, at: now });
    }

    /// The origin of an answer; `None` if no request can have called for it.
    pub fn answered(&mut self, answer: &Frame) -> Option<Origin> {
        let called_for = |ask: &Ask| ask.fits(answer.unit, answer);
        let first = self.sent.iter().position(|sent| called_for(&sent.ask))?;
        let Sent { ask, at } = self.sent[first];
        let is_certain = self.sent.iter().all(|other| !called_for(&other.ask) || other.ask == ask);
        // It is the answer to this request or to a later one, so that all before this one are done with.
        self.sent.drain(..=first);
        if let Content::Values(_) = answer.content {
            self.mute.retain(|shape| *shape != shape_of(&ask));
        }
        Some(Origin { ask: is_certain.then_some(ask), sent: at })
    }

    /// An older answer could be taken for the values that are asked for.
    pub fn mistakable(&self, ask: &Ask) -> bool {
        self.sent.iter().any(|sent| shape_of(&sent.ask) == shape_of(ask) && sent.ask.address != ask.address)
    }

    /// A request whose answer cannot be taken for an older one, and which this unit is not known to keep silent about.
    pub fn canary(&self, ask: &Ask) -> Option<Ask> {
        let canaries = CANARIES.map(|(same, count)| {
            let other = if ask.function == Function::Input { Function::Holding } else { Function::Input };
            Ask { function: if same { ask.function } else { other }, address: ask.address, count }
        });
        canaries.into_iter().find(|canary| {
            let shape = shape_of(canary);
            !self.mute.contains(&shape) && self.sent.iter().all(|sent| shape_of(&sent.ask) != shape)
        })
    }

    /// The unit kept silent about a canary.
    pub fn is_mute_about(&mut self, canary: &Ask) {
        self.mute.push(shape_of(canary));
    }

    pub fn was_asked(&self, ask: &Ask) -> bool {
        self.sent.iter().any(|sent| sent.ask == *ask)
    }

    pub fn is_resting(&self) -> bool {
        self.rests && !self.sent.is_empty()
    }

    /// Whether nothing was sent to the unit for `rest`, so that nothing older will come any more. If not, it rests.
    pub fn has_rested(&mut self, rest: Duration, now: Instant) -> bool {
        self.rests = self.sent.back().is_some_and(|sent| now - sent.at < rest);
        if !self.rests {
            self.sent.clear();
        }
        !self.rests
    }

    /// The unit keeps silent about everything, and not about canaries alone.
    pub fn is_away(&mut self) {
        self.mute.clear();
    }
}

fn shape_of(ask: &Ask) -> Shape {
    (ask.function, ask.count)
}
