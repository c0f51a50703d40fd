//! One poll of one meter over an open connection: asks, decodes, hands the readings on.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::asking::Asking;
use super::decode;
use super::link::{Link, Trouble, exception};
use super::plan::Request;
use super::session::{self, Session};
use crate::clock::Clock;
use crate::model::{Identity, Layout, PolledValue, Ratio, Reading, Values};
use crate::sources::plausible::{self, Better};
use crate::sources::template::{Register, Template, WordOrder};
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

/// A request that gave no values. One that was halved is left to its halves, as they tell more exactly.
#[derive(Debug)]
struct Failure {
    request: Request,
    why: String,
    halved: bool,
}

/// Asks all that is to be asked of a meter now.
pub async fn poll(link: &mut Link, session: &mut Session, target: &Target<'_>) -> Outcome {
    let Session { asking, layout, .. } = session;
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
            Err(Trouble::Silent(_) | Trouble::Nonsense(_)) => {
                asking.was_silent(at, now_ms);
                break;
            }
        }
        next = asking.next(from, now_ms);
    }
    asking.settle();
    let now_ms = target.clock.since_boot_ms();
    if (outcome.heard || outcome.requests == 0)
        && outcome.timeouts == 0
        && outcome.broken.is_none()
        && !outcome.away
        && let Some(request) = asking.to_try_again(now_ms)
    {
        let refused = match read(link, &request, target, &mut outcome).await {
            Ok(_) => None,
            Err(Trouble::Exception(code)) => Some(code),
            Err(_) => asking.refusal(request.registers.start),
        };
        asking.tried_again(&request, refused, now_ms);
    }
    outcome.problem = problem(&outcome);
    tell_absences(asking, &mut outcome);
    outcome.advice = advice(asking.template(), &outcome.told);
    if outcome.answers > 0 && outcome.timeouts == 0 && outcome.broken.is_none() {
        identify(link, session, target, &mut outcome).await;
    }
    outcome
}

/// Asks the meter what it is, when that is due. Whatever comes of it, the values are taken already.
async fn identify(link: &mut Link, session: &mut Session, target: &Target<'_>, outcome: &mut Outcome) {
    let registers = session.identity_due(target.clock.since_boot_ms());
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
    let asked = Instant::now();
    outcome.requests += 1;
    let answer = link.read(target.unit, request, target.wait).await;
    match &answer {
        Ok(_) | Err(Trouble::Exception(_) | Trouble::Wrong(_)) => outcome.took = outcome.took.max(asked.elapsed()),
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
                Trouble::Silent(_) => outcome.timeouts += 1,
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
        let number = decode::number(register, words.get(from..).unwrap_or(&[]));
        if let Some(told) = outcome.told.get_mut(place) {
            told.words = words.iter().skip(from).take(usize::from(register.kind.width())).copied().collect();
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

/// What words say in each order, for a person who looks for the right one; one word has no order.
fn by_order(register: &Register, words: &[u16], scale: Ratio) -> BTreeMap<String, Option<f64>> {
    if words.len() < 2 {
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
            absent: Some(NOT_ASKED.to_owned()),
            by_order: BTreeMap::new(),
        })
        .collect()
}

/// Names the order of words in which the values would make sense, and one of them.
fn advice(template: &Template, told: &[PolledValue]) -> Option<String> {
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
