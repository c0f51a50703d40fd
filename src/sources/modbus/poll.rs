//! One poll of one meter over an open connection: asks, decodes, hands the readings on.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::asking::Asking;
use super::decode;
use super::link::{Link, Trouble, exception};
use super::plan::Request;
use super::session::{self, Session};
use crate::clock::Clock;
use crate::model::{Identity, Layout, MeterId, PollReport, PolledValue, Ratio, Reading, Timestamp, Values};
use crate::sources::plausible::{self, Better};
use crate::sources::sunspec::Read;
use crate::sources::template::{Function, Register, Template, WordOrder};
use crate::store::Ingest;

/// At most this many halvings in one poll, so that a meter that refuses everything does not hold up its line.
const MOST_HALVINGS: u32 = 24;

/// Whom to ask, and where the readings go.
pub struct Target<'a> {
    pub unit: u8,
    pub wait: Duration,
    pub clock: &'a Clock,
    /// Without one the values are only told.
    pub ingest: Option<&'a Ingest>,
    /// The unit gave no answer the last time.
    pub is_silent: bool,
    /// Every register with its words is wanted for a person.
    pub told: bool,
}

/// What came of a poll.
#[derive(Debug, Default)]
pub struct Outcome {
    pub requests: u64,
    /// Requests that gave values.
    pub answers: u64,
    pub timeouts: u64,
    pub exceptions: u64,
    /// Answers that were none to what was asked.
    pub wrong: u64,
    /// The unit said something, be it an exception.
    pub heard: bool,
    /// The gateway said that the unit does not answer, or cannot be reached.
    pub away: bool,
    /// The unit asked to be asked later.
    pub busy: bool,
    /// The longest that an answer took.
    pub took: Duration,
    /// What went wrong, for a person: the first request that gave no values, or that none did.
    pub problem: Option<String>,
    /// It is not known yet which registers the meter has; whether that is being found out, in more polls than this.
    pub unknown: Option<Unknown>,
    /// What the meter said of itself, when it was asked now.
    pub identity: Option<Box<Identity>>,
    failed: Vec<Failure>,
    /// The connection is of no more use.
    pub broken: Option<String>,
    /// Readings that had to wait for the store, and why the last one was not taken.
    pub waits: u64,
    pub unstored: Option<String>,
    /// In the order of the template, when they were wanted.
    pub told: Vec<PolledValue>,
    /// How the values that were told would make sense, when they make none.
    pub advice: Option<String>,
}

impl Outcome {
    /// For a person.
    pub fn report(&self, meter: MeterId, time: Timestamp) -> PollReport {
        let identity = self.identity.as_deref().filter(|identity| **identity != Identity::default()).cloned();
        PollReport { meter, time, identity, values: self.told.clone(), advice: self.advice.clone() }
    }
}

/// A request that gave no values. One that was halved is left to its halves, as they tell more exactly.
#[derive(Debug)]
struct Failure {
    request: Request,
    why: String,
    halved: bool,
}

/// A SunSpec device of which no registers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The walk along its models goes on in the next poll, which is due at once.
    Walking,
    /// It found nothing to read, and is made again later.
    NothingFound,
}

/// Asks all that is to be asked of a meter now.
pub async fn poll(link: &mut Link, session: &mut Session, target: &Target<'_>) -> Outcome {
    if !session.is_known() {
        return find(link, session, target).await;
    }
    let Session { asking, layout, .. } = &mut *session;
    let told = if target.told { untold(asking, layout) } else { Vec::new() };
    let mut outcome = Outcome { told, ..Outcome::default() };
    let mut halvings = 0;
    if target.is_silent {
        asking.best_first();
    }
    // A unit whose every request is left out is still asked something, or it would never be found again.
    let mut next = asking.next(0, target.clock.since_boot_ms()).or_else(|| asking.any());
    while let Some((at, request)) = next {
        let read = read(link, &request, target, &mut outcome).await;
        let now_ms = target.clock.since_boot_ms();
        let mut from = at + 1;
        match read {
            Ok(words) if has_moved(&request, &words, asking) => {
                outcome.problem = Some(format!("{MOVED} at register {}", request.address));
                outcome.unknown = Some(Unknown::Walking);
                session.has_moved();
                break;
            }
            Ok(words) => {
                outcome.answers += 1;
                asking.answered(at);
                take(&request, &words, asking, layout, target, &mut outcome).await;
            }
            Err(Trouble::Exception(code @ 1..=3)) => {
                asking.was_refused(at, code, code == 1, now_ms);
                halvings += 1;
                from = at;
                if halvings > MOST_HALVINGS {
                    break;
                }
                if let Some(failure) = outcome.failed.last_mut() {
                    failure.halved = code != 1 && request.registers.len() > 1;
                }
            }
            Err(Trouble::Exception(10 | 11) | Trouble::Broken(_) | Trouble::Held) => break,
            Err(Trouble::Exception(_) | Trouble::Wrong(_)) => {}
            // The others must not suffer from a request that spoils the connection each time.
            Err(Trouble::Silent(_) | Trouble::Noise(_) | Trouble::Nonsense(_)) => {
                asking.was_silent(at, now_ms);
                break;
            }
        }
        next = asking.next(from, now_ms);
    }
    let asking = &mut session.asking;
    asking.settle();
    let now_ms = target.clock.since_boot_ms();
    if (outcome.heard || outcome.requests == 0)
        && outcome.timeouts == 0
        && outcome.broken.is_none()
        && !outcome.away
        && outcome.unknown.is_none()
        && let Some(request) = asking.to_try_again(now_ms)
    {
        let refused = match read(link, &request, target, &mut outcome).await {
            Ok(_) => None,
            Err(Trouble::Exception(code)) => Some(code),
            Err(_) => asking.refusal(request.registers.start),
        };
        asking.tried_again(&request, refused, now_ms);
    }
    outcome.problem = outcome.problem.take().or_else(|| problem(&outcome));
    tell_absences(asking, &mut outcome);
    outcome.advice = advice(asking.template(), &outcome.told);
    if outcome.answers > 0 && outcome.timeouts == 0 && outcome.broken.is_none() {
        identify(link, session, target, &mut outcome).await;
        if session.is_known() {
            walk(link, session, target, &mut outcome).await;
        }
    }
    outcome
}

const MOVED: &str = "the SunSpec models are no longer where they were found,";

/// Whether a model of a SunSpec device is not where it was found: then no word of the answer is what it was.
fn has_moved(request: &Request, words: &[u16], asking: &Asking) -> bool {
    let registers = request.registers.clone().filter_map(|place| asking.template().registers.get(place));
    !registers.into_iter().all(|register| decode::is_in_place(register, request.address, words))
}

/// A poll of a SunSpec device of which nothing is known yet.
async fn find(link: &mut Link, session: &mut Session, target: &Target<'_>) -> Outcome {
    let mut outcome = Outcome { unknown: Some(Unknown::Walking), ..Outcome::default() };
    walk(link, session, target, &mut outcome).await;
    match session.problem() {
        Some(why) => (outcome.unknown, outcome.problem) = (Some(Unknown::NothingFound), Some(why.to_owned())),
        None => outcome.problem = problem(&outcome),
    }
    outcome
}

/// So many reads of a walk are made in one poll, so that the other units of the line get their turn.
const WALK_READS: usize = 8;

/// Goes on along the models of a SunSpec unit, when a walk is under way or due.
async fn walk(link: &mut Link, session: &mut Session, target: &Target<'_>, outcome: &mut Outcome) {
    let now_ms = target.clock.since_boot_ms();
    let Some(walk) = session.walk(now_ms) else { return };
    for _ in 0..WALK_READS {
        let Some(Read { address, count }) = walk.next() else { break };
        let request = Request { function: Function::Holding, address, count, registers: 0..0 };
        match read(link, &request, target, outcome).await {
            Ok(words) => walk.answered(&words),
            Err(Trouble::Exception(code)) => {
                // No failure: `SunS` stands in one of three places, and the unit refuses the others.
                outcome.failed.pop();
                walk.refused(code);
            }
            Err(_) => walk.failed(),
        }
        if outcome.timeouts > 0 || outcome.broken.is_some() || outcome.away || outcome.busy {
            break;
        }
    }
    if walk.next().is_none() {
        let identity = session.walked(outcome.heard, target.clock.since_boot_ms());
        outcome.identity = identity.map(Box::new);
    }
}

/// Asks the meter what it is, when that is due or a person wants to know. Whatever comes of it, the values are taken
/// already.
async fn identify(link: &mut Link, session: &mut Session, target: &Target<'_>, outcome: &mut Outcome) {
    let registers = if target.told {
        session.asking.template().identity.clone()
    } else {
        session.identity_due(target.clock.since_boot_ms())
    };
    if registers.is_empty() {
        return;
    }
    let mut identity = Identity::default();
    for register in &registers {
        outcome.requests += 1;
        match link.read(target.unit, &session::request(register), target.wait).await {
            Ok(words) => session::tell(&mut identity, register, &words),
            // This meter does not have it: what it does not say is absent.
            Err(Trouble::Exception(code @ 1..=3)) => {
                debug!(unit = target.unit, register = register.address, code, "identity");
            }
            Err(trouble) => {
                debug!(unit = target.unit, register = register.address, %trouble, "identity");
                if let Trouble::Nonsense(why) | Trouble::Broken(why) = trouble {
                    outcome.broken = Some(why);
                }
                return session.was_not_identified(target.clock.since_boot_ms());
            }
        }
    }
    session.identified(target.clock.since_boot_ms());
    outcome.identity = Some(Box::new(identity));
}

/// One request, with what it says of the unit.
async fn read(
    link: &mut Link,
    request: &Request,
    target: &Target<'_>,
    outcome: &mut Outcome,
) -> Result<Vec<u16>, Trouble> {
    outcome.requests += 1;
    let answer = link.read(target.unit, request, target.wait).await;
    match &answer {
        Ok(_) | Err(Trouble::Exception(_) | Trouble::Wrong(_)) => outcome.took = outcome.took.max(link.took()),
        Err(_) => {}
    }
    match &answer {
        Ok(_) => outcome.heard = true,
        Err(trouble) => {
            match trouble {
                Trouble::Exception(code) => {
                    outcome.exceptions += 1;
                    outcome.away |= matches!(code, 10 | 11);
                    outcome.busy |= matches!(code, 5 | 6);
                    outcome.heard |= !outcome.away;
                }
                Trouble::Wrong(_) => outcome.wrong += 1,
                Trouble::Silent(_) | Trouble::Noise(_) => outcome.timeouts += 1,
                Trouble::Held => {}
                Trouble::Nonsense(why) => {
                    outcome.wrong += 1;
                    outcome.broken = Some(why.clone());
                }
                Trouble::Broken(why) => outcome.broken = Some(why.clone()),
            }
            let (request, why) = (request.clone(), trouble.to_string());
            outcome.failed.push(Failure { request, why, halved: false });
        }
    }
    answer
}

/// Decodes the words of one answer and hands the reading on.
async fn take(
    request: &Request,
    words: &[u16],
    asking: &Asking,
    layout: &Arc<Layout>,
    target: &Target<'_>,
    outcome: &mut Outcome,
) {
    let taken = target.clock.stamp();
    let mut values = Vec::with_capacity(request.registers.len());
    for place in request.registers.clone() {
        let Some(register) = asking.template().registers.get(place) else { continue };
        let from = usize::from(register.address - request.address);
        let number = decode::value(register, request.address, words);
        if let Some(told) = outcome.told.get_mut(place) {
            told.words = words.iter().skip(from).take(usize::from(register.kind.width())).copied().collect();
            told.scale_factor = decode::scale_factor(register, request.address, words);
            told.value = number.as_ref().ok().map(|number| layout.slots[place].scale.display(*number));
            told.absent = number.as_ref().err().map(ToString::to_string);
            told.by_order = by_order(register, &told.words, layout.slots[place].scale);
        }
        if let (Ok(number), Ok(place)) = (number, u8::try_from(place)) {
            values.push((place, number));
        }
    }
    if let Some(ingest) = target.ingest
        && !values.is_empty()
    {
        let reading = Reading { layout: layout.clone(), taken, values: Values::from(values) };
        let mut offer = pin!(ingest.offer(reading));
        let mut waited = false;
        let taken = poll_fn(|cx| {
            let taken = offer.as_mut().poll(cx);
            waited |= taken.is_pending();
            taken
        });
        if let Err(error) = taken.await {
            outcome.unstored = Some(error.to_string());
        }
        outcome.waits += u64::from(waited);
    }
}

const NOT_ASKED: &str = "not asked";

/// What words say in each order, for a person who looks for the right one; one word has no order, and those of SunSpec
/// have only one.
fn by_order(register: &Register, words: &[u16], scale: Ratio) -> BTreeMap<String, Option<f64>> {
    if words.len() < 2 || register.in_model.is_some() {
        return BTreeMap::new();
    }
    let value = |order| decode::number_in(order, register, words).ok().map(|number| scale.display(number));
    WordOrder::ALL.into_iter().map(|order| (order.name().to_owned(), value(order))).collect()
}

fn untold(asking: &Asking, layout: &Layout) -> Vec<PolledValue> {
    let registers = asking.template().registers.iter().zip(&layout.slots);
    registers
        .map(|(register, slot)| PolledValue {
            quantity: slot.quantity.clone(),
            value: None,
            register: register.address,
            words: Vec::new(),
            scale_factor: None,
            absent: Some(NOT_ASKED.to_owned()),
            by_order: BTreeMap::new(),
        })
        .collect()
}

/// Names the order of words in which the values would make sense, and one of them.
fn advice(template: &Template, told: &[PolledValue]) -> Option<String> {
    if template.sunspec {
        return None;
    }
    let words: Vec<&[u16]> = told.iter().map(|told| told.words.as_slice()).collect();
    let Better { order, place } = plausible::better_order(template, &words)?;
    let told = &told[place];
    let value = told.by_order.get(order.name()).copied().flatten()?;
    let (name, quantity, unit) = (order.name(), &told.quantity, told.quantity.unit().symbol());
    Some(format!("the values make no sense: with order = \"{name}\" {quantity} would read {value} {unit}"))
}

/// The first request that failed; all of them, where none gave values and all for one reason.
fn problem(outcome: &Outcome) -> Option<String> {
    if outcome.requests == 0 {
        return Some("the meter refuses every register".to_owned());
    }
    let first = outcome.failed.iter().find(|failure| !failure.halved)?;
    if outcome.answers == 0 && outcome.requests > 1 && outcome.failed.iter().all(|other| other.why == first.why) {
        return Some(format!("all requests: {}", first.why));
    }
    let Request { address, count, .. } = first.request;
    let last = u32::from(address) + u32::from(count) - 1;
    Some(format!("registers {address} to {last}: {}", first.why))
}

/// Why registers have no value that no answer told: each for the reason of its own request.
fn tell_absences(asking: &Asking, outcome: &mut Outcome) {
    let Outcome { told, failed, problem, .. } = outcome;
    for (place, told) in told.iter_mut().enumerate() {
        if let Some(code) = asking.refusal(place) {
            told.absent = Some(exception(code));
        } else if told.absent.as_deref() == Some(NOT_ASKED) {
            let own = failed.iter().rev().find(|failure| failure.request.registers.contains(&place));
            let earlier = || problem.as_ref().map(|problem| format!("{NOT_ASKED} after {problem}"));
            told.absent = own.map(|failure| failure.why.clone()).or_else(earlier).or(told.absent.take());
        }
    }
}
