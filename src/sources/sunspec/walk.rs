//! The walk along the models of a unit: which registers to read next, and what the answers say. Pure, so that whoever
//! polls or scans decides when and how often a read is made.
//!
//! Nothing is believed but what was read: a model's length is its own, not that of its definition, and devices differ
//! even in model 1. Whatever a device answers, the walk ends: addresses only grow, and their number is limited.

use super::models::{self, COMMON, MODELS};
use super::scale::exponent;
use crate::model::Identity;
use crate::sources::template::text;

/// Where a chain may begin, the usual place first.
const BASES: [u16; 3] = [40_000, 0, 50_000];

/// `SunS`.
const MARK: [u16; 2] = [0x5375, 0x6E53];

/// The number of the block that ends the chain.
const END: u16 = 0xFFFF;

/// No device of this world has as many; a chain of empty blocks must end somewhere.
const MOST_MODELS: usize = 100;

/// One read is tried this often before the walk is given up.
const TRIES: u32 = 3;

/// Registers of model 1 that say what the device is, its manufacturer first.
const TEXTS: u16 = models::SERIAL_NUMBER.0 + models::SERIAL_NUMBER.1 - models::MANUFACTURER.0;

/// A device: what lies from one model 1 to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub identity: Identity,
    pub models: Vec<Found>,
}

/// A model as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: u16,
    /// Of its header: its number, then its length.
    pub address: u16,
    /// Registers behind the header.
    pub length: u16,
    /// What the scale factor of its accumulators was.
    pub accumulators: Option<i16>,
    /// How many parts it says to have.
    pub parts: Option<u16>,
}

/// A read to make: holding registers, function 03.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub address: u16,
    pub count: u16,
}

/// Why a walk gave no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    #[error("no SunSpec device: no `SunS` at registers 40000, 0 or 50000")]
    NoMark,
    #[error("no SunSpec model follows `SunS` at register {0}")]
    NoModel(u16),
    #[error("the walk along the SunSpec models broke off: no answer for register {0}")]
    BrokenOff(u16),
}

/// A walk under way.
#[derive(Clone, Debug)]
pub struct Walk {
    at: At,
    base: usize,
    devices: Vec<Device>,
    models: usize,
    tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Looking for the mark at the base.
    Mark,
    /// At a header, or where one should be.
    Header(u16),
    /// At the texts of the model 1 just found, before the header that follows it.
    Texts(Found),
    /// At what the model just found says of itself: the scale factor of its accumulators, the number of its parts.
    Facts(Found, Read),
    Ended(Option<NotFound>),
}

impl Walk {
    pub fn new() -> Self {
        Self { at: At::Mark, base: 0, devices: Vec::new(), models: 0, tries: 0 }
    }

    /// The read to make next; `None` at the end.
    pub fn next(&self) -> Option<Read> {
        Some(match self.at {
            At::Mark => Read { address: BASES[self.base], count: 2 },
            At::Header(address) => Read { address, count: 2 },
            At::Texts(found) => {
                Read { address: found.address + models::MANUFACTURER.0, count: found.length.min(TEXTS) }
            }
            At::Facts(_, read) => read,
            At::Ended(_) => return None,
        })
    }

    /// The read was answered with these words.
    pub fn answered(&mut self, words: &[u16]) {
        self.tries = 0;
        match (self.at, words) {
            (At::Mark, words) if *words == MARK => self.at = At::Header(BASES[self.base] + 2),
            (At::Mark, _) => self.look_elsewhere(),
            (At::Header(address), &[id, length]) => self.header(address, id, length),
            // Not what was asked for: nobody can go on from it.
            (At::Header(_), _) => self.end(),
            (At::Texts(found), words) => {
                let from = |(offset, length): (u16, u16)| {
                    let start = usize::from(offset - models::MANUFACTURER.0).min(words.len());
                    let end = (start + usize::from(length)).min(words.len());
                    text(&words[start..end])
                };
                let identity = Identity {
                    manufacturer: from(models::MANUFACTURER),
                    model: from(models::MODEL),
                    serial_number: from(models::SERIAL_NUMBER),
                    firmware: from(models::VERSION),
                    sunspec_models: Vec::new(),
                };
                if let Some(device) = self.devices.last_mut() {
                    device.identity =
                        Identity { sunspec_models: std::mem::take(&mut device.identity.sunspec_models), ..identity };
                }
                self.go_on(found);
            }
            (At::Facts(found, read), words) => {
                let word = |offset: u16| words.get(usize::from(found.address + offset - read.address)).copied();
                let (accumulators, parts) = places(found.id, found.length);
                if let Some(model) = self.devices.last_mut().and_then(|device| device.models.last_mut()) {
                    model.accumulators = accumulators.and_then(word).and_then(|word| exponent(word).ok());
                    // Not implemented is 0 for a count, and 0xFFFF for other numbers.
                    model.parts = parts.and_then(word).filter(|count| !matches!(count, 0 | 0xFFFF));
                }
                self.go_on(found);
            }
            (At::Ended(_), _) => {}
        }
    }

    /// The read was refused with this exception: the unit has no such registers, or cannot answer now.
    pub fn refused(&mut self, code: u8) {
        let is_final = (1..=3).contains(&code);
        let is_busy = matches!(code, 5 | 6);
        match self.at {
            At::Mark if is_busy && self.tries + 1 < TRIES => self.tries += 1,
            At::Mark if is_final => self.look_elsewhere(),
            // Some units have no block that ends the chain, and refuse what lies behind it.
            At::Header(_) if is_final => self.end(),
            At::Texts(found) | At::Facts(found, _) if is_final => self.go_on(found),
            _ => self.failed(),
        }
    }

    /// The read got no answer.
    pub fn failed(&mut self) {
        self.tries += 1;
        match self.at {
            // Some units keep silent about registers that they do not have.
            At::Mark => self.look_elsewhere(),
            _ if self.tries < TRIES => {}
            At::Header(address) => self.at = At::Ended(Some(NotFound::BrokenOff(address))),
            At::Texts(found) | At::Facts(found, _) => {
                self.at = At::Ended(Some(NotFound::BrokenOff(found.address)));
            }
            At::Ended(_) => {}
        }
    }

    /// The devices in the order of their addresses, once there is nothing more to read; never an empty list.
    pub fn devices(self) -> Result<Vec<Device>, NotFound> {
        match self.at {
            At::Ended(None) => Ok(self.devices),
            At::Ended(Some(why)) => Err(why),
            At::Mark => Err(NotFound::NoMark),
            At::Header(address) | At::Facts(Found { address, .. }, _) | At::Texts(Found { address, .. }) => {
                Err(NotFound::BrokenOff(address))
            }
        }
    }

    fn look_elsewhere(&mut self) {
        self.tries = 0;
        if self.base + 1 < BASES.len() {
            self.base += 1;
        } else {
            self.at = At::Ended(Some(NotFound::NoMark));
        }
    }

    fn header(&mut self, address: u16, id: u16, length: u16) {
        // Number 0 is none: unused memory behind a chain without an end.
        if id == END || id == 0 || self.models == MOST_MODELS || next_header(address, length).is_none() {
            return self.end();
        }
        self.models += 1;
        if id == COMMON || self.devices.is_empty() {
            self.devices.push(Device::default());
        }
        let found = Found { id, address, length, accumulators: None, parts: None };
        if let Some(device) = self.devices.last_mut() {
            device.models.push(found);
            device.identity.sunspec_models.push(id);
        }
        let places = places(id, length);
        let facts = || places.0.into_iter().chain(places.1);
        match (facts().min(), facts().max()) {
            _ if id == COMMON && length > 0 => self.at = At::Texts(found),
            (Some(first), Some(last)) => {
                self.at = At::Facts(found, Read { address: address + first, count: last - first + 1 });
            }
            _ => self.go_on(found),
        }
    }

    fn go_on(&mut self, found: Found) {
        self.tries = 0;
        match next_header(found.address, found.length) {
            Some(address) => self.at = At::Header(address),
            None => self.end(),
        }
    }

    fn end(&mut self) {
        let nothing = self.devices.is_empty();
        self.at = At::Ended(nothing.then_some(NotFound::NoModel(BASES[self.base])));
    }
}

/// Where a model of this length has the scale factor of its accumulators and the number of its parts.
fn places(id: u16, length: u16) -> (Option<u16>, Option<u16>) {
    let known = MODELS.iter().find(|model| model.ids.contains(&id));
    let within = |offset: &u16| offset - 2 < length;
    let parts = known.and_then(|model| model.parts.as_ref());
    (known.and_then(|model| model.accumulators).filter(within), parts.map(|parts| parts.count).filter(within))
}

/// Where the header behind a model begins; `None` when there is no room for one.
fn next_header(address: u16, length: u16) -> Option<u16> {
    let next = u32::from(address) + 2 + u32::from(length);
    // A header takes two registers, and 65 535 is the last.
    u16::try_from(next).ok().filter(|next| *next < u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Memory = BTreeMap<u16, u16>;

    /// What a unit does about a read.
    enum Says {
        Words(Vec<u16>),
        Exception(u8),
        Nothing,
    }

    /// Walks to the end; gives all reads as well.
    fn walked(mut unit: impl FnMut(Read) -> Says) -> (Result<Vec<Device>, NotFound>, Vec<Read>) {
        let (mut walk, mut reads) = (Walk::new(), Vec::new());
        while let Some(read) = walk.next() {
            reads.push(read);
            assert!(reads.len() <= 1000, "the walk does not end");
            match unit(read) {
                Says::Words(words) => walk.answered(&words),
                Says::Exception(code) => walk.refused(code),
                Says::Nothing => walk.failed(),
            }
        }
        (walk.devices(), reads)
    }

    /// A unit that has these registers and refuses all others.
    fn with(memory: &Memory) -> impl FnMut(Read) -> Says {
        |read| {
            let words: Option<Vec<u16>> =
                (0..read.count).map(|at| memory.get(&read.address.checked_add(at)?).copied()).collect();
            words.map_or(Says::Exception(2), Says::Words)
        }
    }

    /// `SunS` and the models, each as long as is said and filled with a text; without the end block.
    fn chain(base: u16, models: &[(u16, u16)]) -> (Memory, u16) {
        let mut memory = Memory::from([(base, MARK[0]), (base + 1, MARK[1])]);
        let mut at = base + 2;
        for (id, length) in models {
            memory.extend([(at, *id), (at + 1, *length)]);
            memory.extend((0..*length).map(|word| (at + 2 + word, 0x4142)));
            at += 2 + length;
        }
        (memory, at)
    }

    fn found(devices: &[Device]) -> Vec<Vec<(u16, u16)>> {
        devices.iter().map(|device| device.models.iter().map(|model| (model.id, model.length)).collect()).collect()
    }

    proptest! {
        #[test]
        fn every_chain_is_walked_by_the_lengths_that_are_read(
            base in prop::sample::select(BASES.to_vec()),
            models in prop::collection::vec((prop::sample::select(vec![1, 101, 103, 120, 160, 203, 64_001]), 0..200_u16), 0..20),
            ends in any::<bool>(),
        ) {
            let models: Vec<_> = std::iter::once((1, 66)).chain(models).collect();
            let (mut memory, end) = chain(base, &models);
            if ends {
                memory.extend([(end, END), (end + 1, 0)]);
            }
            let (devices, reads) = walked(with(&memory));
            let devices = devices.unwrap();
            prop_assert_eq!(found(&devices).concat(), models);
            for device in &devices {
                prop_assert_eq!(device.models[0].id, COMMON);
                prop_assert!(device.models[1..].iter().all(|model| model.id != COMMON));
                let ids: Vec<u16> = device.models.iter().map(|model| model.id).collect();
                prop_assert_eq!(&device.identity.sunspec_models, &ids);
                let addresses = device.models.iter().map(|model| [memory[&model.address], memory[&(model.address + 1)]]);
                prop_assert_eq!(addresses.collect::<Vec<_>>(), device.models.iter().map(|m| [m.id, m.length]).collect::<Vec<_>>());
            }
            prop_assert!(reads.len() <= 3 + 2 * (devices.iter().map(|device| device.models.len()).sum::<usize>() + 1));
        }

        #[test]
        fn whatever_a_unit_says_the_walk_ends_and_asks_for_nothing_beyond_the_last_register(
            says in prop::collection::vec((0..6_u8, any::<u16>(), any::<u16>()), 1..300),
        ) {
            let mut turn = says.into_iter().cycle();
            let (_, reads) = walked(|read| match turn.next().unwrap() {
                (0, ..) => Says::Nothing,
                (1, code, _) => Says::Exception(u8::try_from(code % 12).unwrap()),
                (2, first, second) => Says::Words(vec![first, second % 300]),
                (3, first, second) => Says::Words(vec![first, second]),
                _ if read.count == 2 && BASES.contains(&read.address) => Says::Words(MARK.to_vec()),
                (_, first, _) => Says::Words(vec![first % 3 + 101, first % 5]),
            });
            for read in reads {
                prop_assert!((1..=125).contains(&read.count));
                prop_assert!(u32::from(read.address) + u32::from(read.count) <= 65_536);
            }
        }
    }

    #[test]
    fn a_device_runs_from_one_model_1_to_the_next() {
        let models = [(1, 65), (103, 50), (1, 65), (203, 105), (1, 66), (204, 105)];
        let (mut memory, end) = chain(40_000, &models);
        memory.extend([(end, END), (end + 1, 0)]);
        let text = |memory: &mut Memory, at: u16, text: &str| {
            let bytes = [text.as_bytes(), &[0; 32]].concat();
            for (word, pair) in (at..).zip(bytes.chunks(2).take(8)) {
                memory.insert(word, u16::from_be_bytes([pair[0], pair[1]]));
            }
        };
        let second = 40_002 + 67 + 52;
        for (offset, what) in [(2, "SolarEdge "), (18, "SE-MTR"), (42, "75"), (50, "606A8C52")] {
            memory.extend((0..16).map(|word| (second + offset + word, 0)));
            text(&mut memory, second + offset, what);
        }
        let devices = walked(with(&memory)).0.unwrap();
        assert_eq!(found(&devices), [&models[..2], &models[2..4], &models[4..]]);
        let meter = &devices[1].identity;
        assert_eq!(meter.manufacturer.as_deref(), Some("SolarEdge"));
        assert_eq!((meter.model.as_deref(), meter.firmware.as_deref()), (Some("SE-MTR"), Some("75")));
        assert_eq!((meter.serial_number.as_deref(), &meter.sunspec_models[..]), (Some("606A8C52"), &[1, 203][..]));
    }

    #[test]
    fn a_short_model_1_says_what_fits_it() {
        let (memory, _) = chain(0, &[(1, 20), (103, 50)]);
        let device = walked(with(&memory)).0.unwrap().remove(0);
        assert_eq!(found(std::slice::from_ref(&device)), [[(1, 20), (103, 50)]]);
        assert!(device.identity.manufacturer.is_some() && device.identity.serial_number.is_none());
        let (memory, _) = chain(0, &[(1, 0), (103, 50)]);
        assert_eq!(walked(with(&memory)).0.unwrap()[0].models.len(), 2);
    }

    #[test]
    fn hostile_lengths_end_the_walk() {
        let (mut memory, end) = chain(50_000, &[(1, 66), (103, 50)]);
        for length in [u16::MAX, 65_534, 20_000] {
            memory.extend([(end, 160), (end + 1, length)]);
            assert_eq!(found(&walked(with(&memory)).0.unwrap()), [[(1, 66), (103, 50)]], "length {length}");
        }
        // Empty blocks for ever.
        let endless = |read: Read| match read.address {
            40_000 => Says::Words(MARK.to_vec()),
            _ => Says::Words(vec![7, 0]),
        };
        let (devices, reads) = walked(endless);
        assert_eq!((devices.unwrap()[0].models.len(), reads.len()), (MOST_MODELS, MOST_MODELS + 2));
        // Memory full of zeros behind a chain that has no end.
        memory.extend((end..end + 10).map(|at| (at, 0)));
        assert_eq!(found(&walked(with(&memory)).0.unwrap()), [[(1, 66), (103, 50)]]);
    }

    #[test]
    fn what_is_no_chain_is_told() {
        assert_eq!(walked(with(&Memory::new())).0, Err(NotFound::NoMark));
        assert_eq!(walked(|_| Says::Nothing).0, Err(NotFound::NoMark));
        assert_eq!(walked(|_| Says::Words(vec![0, 0])).0, Err(NotFound::NoMark));
        assert_eq!(walked(with(&chain(40_000, &[]).0)).0, Err(NotFound::NoModel(40_000)));
        let (mut memory, _) = chain(0, &[]);
        memory.extend([(2, END), (3, 0)]);
        assert_eq!(walked(with(&memory)).0, Err(NotFound::NoModel(0)));
    }

    #[test]
    fn a_unit_that_keeps_silent_about_the_first_place_is_found_in_the_next() {
        let (memory, _) = chain(0, &[(1, 66), (802, 62)]);
        let mut rest = with(&memory);
        let unit = |read: Read| if read.address == 40_000 { Says::Nothing } else { rest(read) };
        assert_eq!(found(&walked(unit).0.unwrap()), [[(1, 66), (802, 62)]]);
    }

    #[test]
    fn a_read_that_fails_is_made_again_and_not_taken_for_the_end() {
        let (memory, _) = chain(40_000, &[(1, 66), (103, 50)]);
        let second = 40_002 + 68;
        for busy in [false, true] {
            for times in 1..=3_u32 {
                let (mut rest, mut left) = (with(&memory), times);
                let (devices, reads) = walked(|read| {
                    if read.address == second && left > 0 {
                        left -= 1;
                        return if busy { Says::Exception(6) } else { Says::Nothing };
                    }
                    rest(read)
                });
                if times < TRIES {
                    assert_eq!(found(&devices.unwrap()), [[(1, 66), (103, 50)]]);
                } else {
                    assert_eq!(devices, Err(NotFound::BrokenOff(second)));
                    assert_eq!(reads.last(), Some(&Read { address: second, count: 2 }));
                }
            }
        }
    }

    #[test]
    fn a_unit_that_is_busy_is_not_looked_for_elsewhere() {
        let (memory, _) = chain(40_000, &[(1, 66), (103, 50)]);
        let (mut rest, mut left) = (with(&memory), 2);
        let (devices, reads) = walked(|read| {
            if left > 0 {
                left -= 1;
                return Says::Exception(6);
            }
            rest(read)
        });
        assert_eq!(devices.unwrap().len(), 1);
        assert!(reads[..3].iter().all(|read| read.address == 40_000));
        assert_eq!(walked(|_| Says::Exception(6)).0, Err(NotFound::NoMark));
    }

    #[test]
    fn the_scale_factor_of_the_accumulators_is_read_where_there_is_one() {
        let (mut memory, _) = chain(40_000, &[(1, 66), (203, 105), (103, 50), (111, 60), (102, 20)]);
        let meter = 40_002 + 68;
        memory.insert(meter + 54, 0xFFFF);
        memory.insert(meter + 107 + 26, 0x8000);
        let factors: Vec<_> =
            walked(with(&memory)).0.unwrap()[0].models.iter().map(|model| model.accumulators).collect();
        assert_eq!(factors, [None, Some(-1), None, None, None]);
    }

    #[test]
    fn the_number_of_parts_is_read_where_there_is_one() {
        let (mut memory, _) = chain(40_000, &[(1, 66), (160, 48), (714, 43), (160, 8), (160, 4), (160, 5)]);
        let inputs = 40_002 + 68;
        memory.extend([(inputs + 5, 0xFFFE), (inputs + 8, 2), (inputs + 50 + 4, 1), (inputs + 95 + 8, 0)]);
        let (devices, reads) = walked(with(&memory));
        let facts: Vec<_> = devices.unwrap()[0].models.iter().map(|model| (model.accumulators, model.parts)).collect();
        assert_eq!(
            facts,
            [(None, None), (Some(-2), Some(2)), (None, Some(1)), (None, None), (None, None), (None, None)]
        );
        assert!(reads.contains(&Read { address: inputs + 5, count: 4 }), "both at once: {reads:?}");
    }
}
