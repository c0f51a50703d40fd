//! Which requests read which registers: the fewest that keep every limit.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::sources::template::{Function, Register};

/// One read request: a run of registers of the template, and the words it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub function: Function,
    pub address: u16,
    pub count: u16,
    /// The registers it covers, by their places in the template. Places inside that are left out have no value here.
    pub registers: Range<usize>,
}

/// What a request may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_registers: u16,
    /// A gap of up to this many unused registers is read along.
    pub max_hole: u16,
}

/// The fewest requests that read `registers` (sorted by function and address, none overlapping) without those in
/// `left_out`, and without any request across a cut: `cuts` holds the places before which a new request must begin.
///
/// Taking as much as fits, from the lowest address on, is optimal: a request that ends earlier only leaves more for
/// those behind it.
pub fn plan(
    registers: &[Register],
    limits: Limits,
    left_out: &BTreeSet<usize>,
    cuts: &BTreeSet<usize>,
) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for (place, register) in registers.iter().enumerate() {
        if left_out.contains(&place) {
            continue;
        }
        if let Some(open) = requests.last_mut()
            && open.function == register.function
            && is_near(&registers[place - 1], register, limits.max_hole)
            && cuts.range(open.registers.end..=place).next().is_none()
            && left_out.range(open.registers.end..place).next().is_none()
        {
            let joined = covering(open.registers.start..place + 1, registers);
            if joined.count <= limits.max_registers {
                *open = joined;
                continue;
            }
        }
        requests.push(covering(place..place + 1, registers));
    }
    requests
}

/// Whether one request may hold both: what lies between two registers of a map may be refused, while a SunSpec model
/// is one piece, and is read without its neighbours.
fn is_near(before: &Register, register: &Register, max_hole: u16) -> bool {
    match (before.in_model, register.in_model) {
        (None, None) => u32::from(register.address) - before.end() <= u32::from(max_hole),
        (one, other) => one.map(|model| model.header) == other.map(|model| model.header),
    }
}

/// The request in two halves; `None` when it reads one register only.
pub fn halves(request: &Request, registers: &[Register]) -> Option<[Request; 2]> {
    let Range { start, end } = request.registers;
    let middle = start + (end - start) / 2;
    (middle > start).then(|| [covering(start..middle, registers), covering(middle..end, registers)])
}

/// One request for a run of registers with all that must be read with them, whatever lies between.
pub fn covering(places: Range<usize>, registers: &[Register]) -> Request {
    let reaches = registers[places.clone()].iter().map(Register::reach);
    let (address, end) = reaches.fold((u16::MAX, 0), |(start, end), (from, to)| (start.min(from), end.max(to)));
    // A run over all 65 536 registers has no count, and no limit allows it.
    let count = u16::try_from(end - u32::from(address)).unwrap_or(u16::MAX);
    Request { function: registers[places.start].function, address, count, registers: places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ratio;
    use crate::sources::template::{InModel, Kind, Positive, ScaleFactor, WordOrder};
    use proptest::prelude::*;

    fn end(request: &Request) -> u32 {
        u32::from(request.address) + u32::from(request.count)
    }

    fn register(function: Function, address: u16, kind: Kind) -> Register {
        Register {
            quantity: "power_kw".parse().unwrap(),
            function,
            address,
            kind,
            order: WordOrder::HighFirst,
            scale: Ratio::ONE,
            absent: Vec::new(),
            rolls_over_at: None,
            ct: false,
            vt: false,
            positive: Positive::Import,
            in_model: None,
        }
    }

    /// `(function 3 or 4, gap before, kind)` laid out one behind the other.
    fn laid_out(parts: &[(bool, u16, Kind)]) -> Vec<Register> {
        let mut registers = Vec::new();
        for function in [Function::Holding, Function::Input] {
            let mut at = 0;
            for (_, gap, kind) in parts.iter().filter(|(input, _, _)| *input == (function == Function::Input)) {
                at += gap;
                registers.push(register(function, at, *kind));
                at += kind.width();
            }
        }
        registers
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop::sample::select(vec![Kind::U16, Kind::F32, Kind::U64])
    }

    fn any_map() -> impl Strategy<Value = Vec<Register>> {
        prop::collection::vec((any::<bool>(), 0..12_u16, kinds()), 1..60).prop_map(|parts| laid_out(&parts))
    }

    fn may_join(
        registers: &[Register],
        places: Range<usize>,
        limits: Limits,
        out: &BTreeSet<usize>,
        cuts: &BTreeSet<usize>,
    ) -> bool {
        let inside = &registers[places.clone()];
        let (first, last) = (&inside[0], &inside[inside.len() - 1]);
        first.function == last.function
            && last.end() - u32::from(first.address) <= u32::from(limits.max_registers)
            && inside.windows(2).all(|pair| u32::from(pair[1].address) - pair[0].end() <= u32::from(limits.max_hole))
            && places.clone().all(|place| !out.contains(&place))
            && places.skip(1).all(|place| !cuts.contains(&place))
    }

    /// Models behind one another, each with points of one register at these offsets and a scale factor at the last or
    /// right behind the header.
    fn models(parts: &[(Vec<u16>, bool)]) -> Vec<Register> {
        let (mut registers, mut header) = (Vec::new(), 40_002_u16);
        for (gaps, at_end) in parts {
            let last = header + 3 + gaps.iter().map(|gap| gap + 1).sum::<u16>();
            let address = if *at_end { last } else { header + 2 };
            let factor = ScaleFactor { address, missing_is_zero: false, found: None };
            let length = last - header - 1;
            let in_model = Some(InModel { header, id: 103, length, scale_factor: Some(factor) });
            let mut at = header + 3;
            for gap in gaps {
                at += gap;
                registers.push(Register { in_model, ..register(Function::Holding, at, Kind::U16) });
                at += 1;
            }
            header = last + 1;
        }
        registers
    }

    proptest! {
        #[test]
        fn a_point_is_read_with_its_scale_factor_and_its_header_and_without_other_models(
            parts in prop::collection::vec((prop::collection::vec(0..9_u16, 1..12), any::<bool>()), 1..6),
            out in prop::collection::btree_set(0..60_usize, 0..4),
        ) {
            let registers = models(&parts);
            let limits = Limits { max_registers: 125, max_hole: 0 };
            let requests = plan(&registers, limits, &out, &BTreeSet::new());
            let split = requests.iter().filter_map(|request| halves(request, &registers)).flatten();
            for request in requests.iter().cloned().chain(split) {
                prop_assert!(request.count <= 125);
                for register in &registers[request.registers.clone()] {
                    let model = register.in_model.unwrap();
                    prop_assert_eq!(request.address, model.header);
                    prop_assert!(end(&request) <= u32::from(model.header) + 2 + u32::from(model.length));
                    prop_assert!(register.end() <= end(&request));
                    prop_assert!(u32::from(model.scale_factor.unwrap().address) < end(&request));
                }
            }
            let asked: Vec<usize> = requests.iter().flat_map(|request| request.registers.clone()).collect();
            prop_assert_eq!(asked, (0..registers.len()).filter(|place| !out.contains(place)).collect::<Vec<_>>());
            if out.is_empty() {
                prop_assert_eq!(requests.len(), parts.len());
            }
        }

        #[test]
        fn every_register_is_asked_once_within_all_limits_in_the_fewest_requests(
            registers in any_map(),
            max_registers in 4..=125_u16,
            max_hole in 0..20_u16,
            out in prop::collection::btree_set(0..60_usize, 0..6),
            cuts in prop::collection::btree_set(0..60_usize, 0..6),
        ) {
            let limits = Limits { max_registers, max_hole };
            let requests = plan(&registers, limits, &out, &cuts);
            let mut asked = Vec::new();
            for request in &requests {
                prop_assert!(may_join(&registers, request.registers.clone(), limits, &out, &cuts));
                prop_assert!(request.count <= max_registers);
                prop_assert_eq!(request.address, registers[request.registers.start].address);
                prop_assert_eq!(end(request), registers[request.registers.end - 1].end());
                asked.extend(request.registers.clone());
            }
            let wanted: Vec<usize> = (0..registers.len()).filter(|place| !out.contains(place)).collect();
            prop_assert_eq!(&asked, &wanted);
            // The least number by looking at every way to split: fewest[n] reads the first n wanted registers.
            let mut fewest = vec![0_usize];
            for end in 1..=wanted.len() {
                let best = (0..end)
                    .filter(|start| wanted[end - 1] - wanted[*start] == end - 1 - start)
                    .filter(|start| may_join(&registers, wanted[*start]..wanted[end - 1] + 1, limits, &out, &cuts))
                    .map(|start| fewest[start] + 1)
                    .min();
                fewest.push(best.unwrap());
            }
            prop_assert_eq!(requests.len(), fewest[wanted.len()]);
        }

        #[test]
        fn halves_cover_what_the_whole_covered(registers in any_map()) {
            let limits = Limits { max_registers: 125, max_hole: 20 };
            for request in plan(&registers, limits, &BTreeSet::new(), &BTreeSet::new()) {
                match halves(&request, &registers) {
                    None => prop_assert_eq!(request.registers.len(), 1),
                    Some([left, right]) => {
                        prop_assert_eq!(left.registers.start, request.registers.start);
                        prop_assert_eq!(left.registers.end, right.registers.start);
                        prop_assert_eq!(right.registers.end, request.registers.end);
                        prop_assert!(end(&left) <= u32::from(right.address));
                        prop_assert_eq!(end(&right), end(&request));
                    }
                }
            }
        }
    }

    #[test]
    fn a_gap_is_read_along_only_when_it_is_small_and_nothing_in_it_was_refused() {
        let registers: Vec<Register> = [0, 2, 6].map(|at| register(Function::Input, at, Kind::F32)).into();
        let asked = |max_hole, out: &[usize]| {
            let limits = Limits { max_registers: 80, max_hole };
            let requests = plan(&registers, limits, &out.iter().copied().collect(), &BTreeSet::new());
            requests.iter().map(|request| (request.address, request.count)).collect::<Vec<_>>()
        };
        assert_eq!(asked(0, &[]), [(0, 4), (6, 2)]);
        assert_eq!(asked(2, &[]), [(0, 8)]);
        assert_eq!(asked(20, &[1]), [(0, 2), (6, 2)]);
    }

    #[test]
    fn the_last_register_of_all_can_be_asked_for() {
        let registers = [register(Function::Holding, 65_532, Kind::U64)];
        let requests = plan(&registers, Limits { max_registers: 125, max_hole: 0 }, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!((requests[0].address, requests[0].count), (65_532, 4));
    }
}
