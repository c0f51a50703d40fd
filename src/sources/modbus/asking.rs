//! What is asked of one meter, and what has been learned of what it refuses. Pure: time is an argument.
//!
//! An "illegal address" or "illegal value" answer says that something in a request is not to be had, not what. The
//! request is halved until the one bad register is found; it is remembered, left out, and tried again rarely. When
//! all halves answer, the whole was refused for its length or for a gap inside, and stays cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::plan::{Limits, Request, covering, halves, plan};
use crate::sources::template::Template;

/// When a refused register is tried again: soon at first, as a meter that boots may refuse what it has.
const TRY_AGAIN: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3600)];

/// The longest that a request is left out which alone gets no answer, from a device that does not refuse but keeps
/// silent about what it does not have. The first time it is 1 s, and twice as long each time.
const LEFT_OUT: u64 = 600_000;

/// The requests of one meter.
#[derive(Debug)]
pub struct Asking {
    template: Arc<Template>,
    requests: Vec<Asked>,
    /// By place in the template.
    refused: BTreeMap<usize, Refused>,
    /// Places before which a request must begin: learned, and tried while halving.
    cuts: BTreeSet<usize>,
    tried_cuts: BTreeSet<usize>,
    /// A bad register was found since the requests were last planned.
    found_one: bool,
}

#[derive(Debug)]
struct Asked {
    request: Request,
    answered: bool,
    /// How often in turn it got no answer, and until when it is left out for that.
    silences: u32,
    again_ms: u64,
}

impl Asked {
    fn new(request: Request) -> Self {
        Self { request, answered: false, silences: 0, again_ms: 0 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    code: u8,
    times: usize,
    again_ms: u64,
}

impl Asking {
    pub fn new(template: Arc<Template>) -> Self {
        let mut asking = Self {
            template,
            requests: Vec::new(),
            refused: BTreeMap::new(),
            cuts: BTreeSet::new(),
            tried_cuts: BTreeSet::new(),
            found_one: false,
        };
        asking.plan_again();
        asking
    }

    pub fn template(&self) -> &Template {
        &self.template
    }

    /// The first place from `at` on whose request is to be asked now, and the request; `None` at the end of the poll.
    pub fn next(&self, at: usize, now_ms: u64) -> Option<(usize, Request)> {
        let mut rest = self.requests.iter().enumerate().skip(at);
        let found = rest.find(|(_, asked)| asked.again_ms <= now_ms);
        found.map(|(at, asked)| (at, asked.request.clone()))
    }

    /// The request that has been left out the longest, for a poll in which none is due: a unit must not be given up.
    pub fn any(&self) -> Option<(usize, Request)> {
        let soonest = self.requests.iter().enumerate().min_by_key(|(_, asked)| asked.again_ms);
        soonest.map(|(at, asked)| (at, asked.request.clone()))
    }

    /// One refused register to try again now, if there is one; told by `tried_again` what came of it.
    pub fn to_try_again(&self, now_ms: u64) -> Option<Request> {
        let (place, _) = self.refused.iter().find(|(_, refused)| refused.again_ms <= now_ms)?;
        Some(covering(*place..*place + 1, &self.template.registers))
    }

    /// The request at this place was answered with values.
    pub fn answered(&mut self, at: usize) {
        if let Some(asked) = self.requests.get_mut(at) {
            *asked = Asked { answered: true, ..Asked::new(asked.request.clone()) };
        }
    }

    /// The request at this place got no answer: it is left out for a while, so that those behind it get their turn.
    pub fn was_silent(&mut self, at: usize, now_ms: u64) {
        if let Some(asked) = self.requests.get_mut(at) {
            let pause = 1_000_u64.checked_shl(asked.silences).unwrap_or(LEFT_OUT).min(LEFT_OUT);
            asked.silences = (asked.silences + 1).min(16);
            asked.again_ms = now_ms.saturating_add(pause);
        }
    }

    /// For a unit that is silent: what has been answered of late is asked first, as what it keeps silent about may be
    /// the first of its requests only.
    pub fn best_first(&mut self) {
        self.requests.sort_by_key(|asked| asked.silences);
    }

    /// The unit was away and is back: no request is to blame for its silence.
    pub fn forget_silences(&mut self) {
        for asked in &mut self.requests {
            (asked.silences, asked.again_ms) = (0, 0);
        }
    }

    /// Called after a poll: when every request has been answered since the last halving, what was learned is kept.
    pub fn settle(&mut self) {
        let learned_nothing = !self.found_one && self.tried_cuts.is_empty();
        if learned_nothing || !self.requests.iter().all(|asked| asked.answered) {
            return;
        }
        if self.found_one {
            // The cuts around a bad register may be needless: the parts are joined again, and cut again if refused.
            self.found_one = false;
            self.tried_cuts.clear();
            self.plan_again();
        } else {
            self.cuts.append(&mut self.tried_cuts);
        }
    }

    /// The request at this place was refused: it is replaced by its halves, to be asked in its stead from the same
    /// place on, or its one register is left out. `whole` refuses all of its registers at once, as for an unknown
    /// function.
    pub fn was_refused(&mut self, at: usize, code: u8, whole: bool, now_ms: u64) {
        let Some(Asked { request, .. }) = self.requests.get(at) else { return };
        let parts = if whole { None } else { halves(request, &self.template.registers) };
        let Some(parts) = parts else {
            for place in request.registers.clone() {
                self.refused.insert(place, Refused { code, times: 0, again_ms: again_at(0, now_ms) });
            }
            self.found_one = true;
            self.requests.remove(at);
            return;
        };
        self.tried_cuts.insert(parts[1].registers.start);
        self.requests.splice(at..=at, parts.map(Asked::new));
    }

    /// A refused register was tried again: `refused` is the exception it gave, or `None` when it gave a value.
    pub fn tried_again(&mut self, request: &Request, refused: Option<u8>, now_ms: u64) {
        let place = request.registers.start;
        match refused {
            Some(code) => {
                let times = self.refused.get(&place).map_or(0, |refused| refused.times + 1);
                self.refused.insert(place, Refused { code, times, again_ms: again_at(times, now_ms) });
            }
            None => {
                self.refused.remove(&place);
                // What refused one and gives it now may give the others too.
                self.refused.values_mut().for_each(|refused| refused.again_ms = now_ms);
                self.tried_cuts.clear();
                self.plan_again();
            }
        }
    }

    /// The exception with which the register at this place of the template is refused.
    pub fn refusal(&self, place: usize) -> Option<u8> {
        self.refused.get(&place).map(|refused| refused.code)
    }

    /// Addresses of the refused registers.
    pub fn refused_registers(&self) -> Vec<u16> {
        self.refused.keys().map(|place| self.template.registers[*place].address).collect()
    }

    fn plan_again(&mut self) {
        let limits = Limits { max_registers: self.template.max_registers, max_hole: self.template.max_hole };
        let left_out = self.refused.keys().copied().collect();
        let requests = plan(&self.template.registers, limits, &left_out, &self.cuts);
        self.requests = requests.into_iter().map(Asked::new).collect();
    }
}

fn again_at(times: usize, now_ms: u64) -> u64 {
    let pause = TRY_AGAIN[times.min(TRY_AGAIN.len() - 1)];
    now_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::template;
    use proptest::prelude::*;

    const LETTERS: usize = 26;

    fn a_map(registers: usize, max_hole: u16) -> Arc<Template> {
        use std::fmt::Write as _;
        let mut text = format!("function = \"input\"\ntype = \"u16\"\nmax_hole = {max_hole}\n");
        for at in 0..registers {
            let letter = |n: usize| char::from(b'a' + u8::try_from(n).unwrap());
            let name = format!("{}{}_count", letter(at / LETTERS), letter(at % LETTERS));
            writeln!(text, "{name} = {{ address = {at} }}").unwrap();
        }
        Arc::new(template::from_value("own", &text.parse().unwrap()).unwrap())
    }

    /// A meter that refuses what `refuses` says; one poll of it. Gives the addresses that were read.
    fn poll(asking: &mut Asking, refuses: impl Fn(&Request) -> bool, now_ms: u64) -> (Vec<u16>, usize) {
        let (mut read, mut asked, mut at) = (Vec::new(), 0, 0);
        while let Some((next, request)) = asking.next(at, now_ms) {
            asked += 1;
            at = next;
            if refuses(&request) {
                asking.was_refused(at, 2, false, now_ms);
            } else {
                read.extend(request.address..request.address + request.count);
                asking.answered(at);
                at += 1;
            }
        }
        asking.settle();
        if let Some(request) = asking.to_try_again(now_ms) {
            asked += 1;
            let refused = refuses(&request).then_some(2);
            asking.tried_again(&request, refused, now_ms);
        }
        (read, asked)
    }

    fn names(request: &Request, bad: &BTreeSet<u16>) -> bool {
        bad.range(request.address..request.address + request.count).next().is_some()
    }

    proptest! {
        #[test]
        fn the_bad_registers_are_found_in_one_poll_and_all_others_are_read(
            bad in prop::collection::btree_set(0..60_u16, 0..8),
        ) {
            let mut asking = Asking::new(a_map(60, 0));
            let (read, _) = poll(&mut asking, |request| names(request, &bad), 0);
            let good: Vec<u16> = (0..60).filter(|at| !bad.contains(at)).collect();
            prop_assert_eq!(read, good);
            prop_assert_eq!(asking.refused_registers(), bad.iter().copied().collect::<Vec<_>>());
            // From then on only the fewest requests are asked: one for each run between two bad registers.
            let (_, asked) = poll(&mut asking, |request| names(request, &bad), 0);
            let runs = (0..60).filter(|at| !bad.contains(at) && (*at == 0 || bad.contains(&(at - 1)))).count();
            prop_assert_eq!(asked, runs);
        }

        #[test]
        fn a_meter_that_answers_short_requests_only_gets_short_ones_and_loses_nothing(longest in 1..60_u16) {
            let mut asking = Asking::new(a_map(60, 0));
            for _ in 0..3 {
                let (read, _) = poll(&mut asking, |request| request.count > longest, 0);
                prop_assert_eq!(read, (0..60).collect::<Vec<_>>());
            }
            prop_assert!(asking.refused_registers().is_empty());
            let asked = asking.requests.len();
            prop_assert_eq!(poll(&mut asking, |request| request.count > longest, 0).1, asked, "nothing is tried anew");
        }
    }

    #[test]
    fn one_bad_register_of_sixty_costs_few_requests_once() {
        let bad = BTreeSet::from([17]);
        let mut asking = Asking::new(a_map(60, 0));
        let (_, asked) = poll(&mut asking, |request| names(request, &bad), 0);
        assert!(asked <= 13, "{asked} requests");
    }

    #[test]
    fn a_refused_register_is_tried_again_rarely_and_taken_back_when_it_answers() {
        let bad = BTreeSet::from([3]);
        let mut asking = Asking::new(a_map(10, 0));
        let mut tries = Vec::new();
        for second in 0..9_000_u64 {
            let mut tried = false;
            let usual = asking.requests.len();
            let (_, asked) = poll(&mut asking, |request| names(request, &bad), second * 1000);
            tried |= second > 1 && asked > usual;
            if tried {
                tries.push(second);
            }
        }
        assert_eq!(tries, [60, 660, 4260, 7860]);
        poll(&mut asking, |_| false, 20_000_000);
        assert!(asking.refused_registers().is_empty());
        assert_eq!(poll(&mut asking, |_| false, 20_000_001).1, 1);
    }

    #[test]
    fn a_meter_that_refused_all_while_it_booted_is_read_whole_a_minute_later() {
        let mut asking = Asking::new(a_map(20, 0));
        assert_eq!(poll(&mut asking, |_| true, 0).0, [] as [u16; 0]);
        assert_eq!(asking.refused_registers().len(), 20);
        for second in 60..85 {
            poll(&mut asking, |_| false, second * 1000);
        }
        assert_eq!(poll(&mut asking, |_| false, 90_000), ((0..20).collect(), 1));
    }

    #[test]
    fn a_gap_that_may_not_be_read_across_is_cut_and_stays_cut() {
        let table = "function = \"input\"\ntype = \"u16\"\nmax_hole = 10\na_count = { address = 0 }\n\
                     b_count = { address = 1 }\nc_count = { address = 5 }\nd_count = { address = 6 }";
        let map = template::from_value("own", &table.parse().unwrap()).unwrap();
        let mut asking = Asking::new(Arc::new(map));
        let gap = BTreeSet::from([3]);
        assert_eq!(poll(&mut asking, |request| names(request, &gap), 0), (vec![0, 1, 5, 6], 3));
        assert_eq!(poll(&mut asking, |request| names(request, &gap), 0), (vec![0, 1, 5, 6], 2));
    }

    #[test]
    fn an_unknown_function_is_refused_whole() {
        let mut asking = Asking::new(a_map(10, 0));
        asking.was_refused(0, 1, true, 0);
        assert_eq!((asking.refused_registers().len(), asking.next(0, 0)), (10, None));
    }

    #[test]
    fn a_request_that_alone_gets_no_answer_does_not_hold_up_the_others() {
        let cut = "function = \"input\"\ntype = \"u16\"\na_count = { address = 0 }\nb_count = { address = 5 }";
        let mut asking = Asking::new(Arc::new(template::from_value("own", &cut.parse().unwrap()).unwrap()));
        asking.was_silent(0, 0);
        assert_eq!(asking.next(0, 999).map(|(at, _)| at), Some(1));
        assert_eq!(asking.next(0, 1_000).map(|(at, _)| at), Some(0));
        for _ in 0..40 {
            asking.was_silent(0, 0);
        }
        assert_eq!(asking.next(0, 599_999).map(|(at, _)| at), Some(1));
        assert_eq!(asking.next(0, 600_000).map(|(at, _)| at), Some(0));
        asking.was_silent(1, 0);
        assert_eq!((asking.next(0, 500), asking.any().map(|(at, _)| at)), (None, Some(1)));
        asking.best_first();
        assert_eq!(asking.next(0, u64::MAX).map(|(_, request)| request.address), Some(5));
        asking.forget_silences();
        assert_eq!(asking.next(0, 0).map(|(at, _)| at), Some(0));
    }
}
