//! The bytes of readings: in arrival order for the tail, by column for a meter's chunk. Pure.
//!
//! Both forms begin with the first 8 bytes of the SHA-256 of the rest: SQLite has no checksum of its pages, and a
//! damaged value must never pass for a reading. Layouts are named by their number in the raw file.

use std::path::Path;

use super::StoreError;
use crate::model::{Border, Borders, Break, Digest, Interval, Label, Number, Ratio, Role, Timestamp, Values};

/// A reading as a raw file keeps it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: u64,
    /// As taken, ms.
    pub time: i64,
    pub since_boot_ms: u64,
    pub unsynchronised: bool,
    pub conflict: bool,
    /// Number of the layout in the file.
    pub layout: u32,
    pub values: Values,
}

/// The bytes are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn;

impl Torn {
    pub fn at(self, file: &Path) -> StoreError {
        StoreError::Damaged { file: file.to_owned(), what: "readings do not match their checksum".to_owned() }
    }
}

const CHECKSUM: usize = 8;
const VERSION: u8 = 1;

const UNSYNCHRONISED: u8 = 1;
const CONFLICT: u8 = 2;
/// The values fill the places 0, 1, 2 … of the layout: no list of places follows.
const DENSE: u8 = 4;
/// The shift of the type that all values of the reading share; 0 there means that each bears its own.
const SHARED_TYPE: u32 = 4;

/// Bytes being written.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn signed(&mut self, value: i64) {
        self.unsigned(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn len(&mut self, len: usize) {
        self.unsigned(len as u64);
    }

    fn number(&mut self, number: Number) {
        match number {
            Number::F32(value) => self.0.extend_from_slice(&value.to_le_bytes()),
            Number::F64(value) => self.0.extend_from_slice(&value.to_le_bytes()),
            Number::I64(value) => self.signed(value),
            Number::U64(value) => self.unsigned(value),
        }
    }
}

/// Bytes being read.
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn byte(&mut self) -> Result<u8, Torn> {
        let (first, rest) = self.0.split_first().ok_or(Torn)?;
        self.0 = rest;
        Ok(*first)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Torn> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Torn)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Torn> {
        self.bytes(N)?.try_into().map_err(|_| Torn)
    }

    fn unsigned(&mut self) -> Result<u64, Torn> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = self.byte()?;
            if shift > 63 {
                return Err(Torn);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    fn signed(&mut self) -> Result<i64, Torn> {
        let value = self.unsigned()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A count of things that take at least a bit each in what follows, or that the caller bounds.
    fn len(&mut self, at_most: usize) -> Result<usize, Torn> {
        let len = usize::try_from(self.unsigned()?).map_err(|_| Torn)?;
        if len > at_most { Err(Torn) } else { Ok(len) }
    }

    fn number(&mut self, kind: u8) -> Result<Number, Torn> {
        match kind {
            1 => Number::from_f32(f32::from_le_bytes(self.array()?)).ok_or(Torn),
            2 => Number::from_f64(f64::from_le_bytes(self.array()?)).ok_or(Torn),
            3 => Ok(Number::I64(self.signed()?)),
            4 => Ok(Number::U64(self.unsigned()?)),
            _ => Err(Torn),
        }
    }
}

pub fn kind(number: Number) -> u8 {
    match number {
        Number::F32(_) => 1,
        Number::F64(_) => 2,
        Number::I64(_) => 3,
        Number::U64(_) => 4,
    }
}

fn sealed(body: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(&body);
    let mut bytes = Vec::with_capacity(body.len() + CHECKSUM);
    bytes.extend_from_slice(&digest.as_bytes()[..CHECKSUM]);
    bytes.extend_from_slice(&body);
    bytes
}

fn opened(bytes: &[u8]) -> Result<&[u8], Torn> {
    let (checksum, body) = bytes.split_at_checked(CHECKSUM).ok_or(Torn)?;
    if Digest::of(body).as_bytes()[..CHECKSUM] != *checksum {
        return Err(Torn);
    }
    match body.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        _ => Err(Torn),
    }
}

/// Consecutive readings in order of arrival: their seqs count up from that of the first.
pub fn encode_tail<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    let mut base = None;
    let mut one = Out::default();
    for entry in entries {
        let booted = entry.time.wrapping_sub(entry.since_boot_ms.cast_signed());
        let (base_time, base_boot) = *base.get_or_insert_with(|| {
            out.signed(entry.time);
            out.signed(booted);
            (entry.time, booted)
        });
        one.0.clear();
        one.unsigned(entry.layout.into());
        one.signed(entry.time.wrapping_sub(base_time));
        one.signed(booted.wrapping_sub(base_boot));
        let first_kind = entry.values.first().map_or(0, |(_, number)| kind(*number));
        let shared = entry.values.iter().all(|(_, number)| kind(*number) == first_kind);
        let dense = entry.values.iter().enumerate().all(|(at, (place, _))| usize::from(*place) == at);
        let dense_flag = if dense { DENSE } else { 0 };
        one.0.push(flags(entry) | dense_flag | if shared { first_kind << SHARED_TYPE } else { 0 });
        one.len(entry.values.len());
        if !dense {
            one.0.extend(entry.values.iter().map(|(place, _)| *place));
        }
        for (_, number) in &entry.values {
            if !shared {
                one.0.push(kind(*number));
            }
            one.number(*number);
        }
        // The length lets a search for one meter pass over the others.
        out.len(one.0.len());
        out.0.extend_from_slice(&one.0);
    }
    sealed(out.0)
}

/// A row of the tail, its checksum verified.
pub struct TailRow {
    bytes: Vec<u8>,
    first_seq: u64,
    base_time: i64,
    base_boot: i64,
    /// Where the first reading begins.
    start: usize,
}

/// Where a reading lies in its row.
#[derive(Clone, Copy)]
pub struct Place {
    pub layout: u32,
    nth: u32,
    start: u32,
}

impl TailRow {
    pub fn open(bytes: Vec<u8>, first_seq: u64) -> Result<Self, Torn> {
        let mut rest = In(opened(&bytes)?);
        let (base_time, base_boot) = (rest.signed()?, rest.signed()?);
        let start = bytes.len() - rest.0.len();
        Ok(Self { bytes, first_seq, base_time, base_boot, start })
    }

    /// Where each reading lies, in order of arrival.
    pub fn places(&self) -> Result<Vec<Place>, Torn> {
        let mut places = Vec::new();
        let mut rest = In(&self.bytes[self.start..]);
        while !rest.0.is_empty() {
            let len = rest.len(rest.0.len())?;
            let start = u32::try_from(self.bytes.len() - rest.0.len()).map_err(|_| Torn)?;
            let layout = u32::try_from(In(rest.bytes(len)?).unsigned()?).map_err(|_| Torn)?;
            places.push(Place { layout, nth: u32::try_from(places.len()).map_err(|_| Torn)?, start });
        }
        Ok(places)
    }

    pub fn entry(&self, place: Place) -> Result<Entry, Torn> {
        let mut one = In(self.bytes.get(usize::try_from(place.start).map_err(|_| Torn)?..).ok_or(Torn)?);
        let layout = u32::try_from(one.unsigned()?).map_err(|_| Torn)?;
        let time = self.base_time.wrapping_add(one.signed()?);
        let booted = self.base_boot.wrapping_add(one.signed()?);
        let flags = one.byte()?;
        let count = one.len(256)?;
        let places = if flags & DENSE == 0 { Some(one.bytes(count)?) } else { None };
        let shared = flags >> SHARED_TYPE;
        let mut values = Vec::with_capacity(count);
        for at in 0..count {
            let place = places.map_or(u8::try_from(at).ok(), |places| places.get(at).copied()).ok_or(Torn)?;
            let kind = if shared == 0 { one.byte()? } else { shared };
            values.push((place, one.number(kind)?));
        }
        Ok(Entry {
            seq: self.first_seq + u64::from(place.nth),
            time,
            since_boot_ms: time.wrapping_sub(booted).cast_unsigned(),
            unsynchronised: flags & UNSYNCHRONISED != 0,
            conflict: flags & CONFLICT != 0,
            layout,
            values: values.into(),
        })
    }
}

fn flags(entry: &Entry) -> u8 {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    flag(entry.unsynchronised, UNSYNCHRONISED) | flag(entry.conflict, CONFLICT)
}

/// Readings of one meter under one layout, by column: what changes little compresses to little.
pub fn encode_chunk(entries: &[Entry]) -> Vec<u8> {
    let mut out = Out::default();
    out.len(entries.len());
    let mut last = 0_u64;
    for entry in entries {
        out.signed(entry.seq.wrapping_sub(last).cast_signed());
        last = entry.seq;
    }
    let (mut last, mut step) = (0_i64, 0_i64);
    for entry in entries {
        let this = entry.time.wrapping_sub(last);
        out.signed(this.wrapping_sub(step));
        (last, step) = (entry.time, this);
    }
    let mut last = 0_i64;
    for entry in entries {
        let booted = entry.time.wrapping_sub(entry.since_boot_ms.cast_signed());
        out.signed(booted.wrapping_sub(last));
        last = booted;
    }
    out.0.extend(entries.iter().map(flags));
    let places = entries.iter().filter_map(|entry| entry.values.last()).map(|(place, _)| usize::from(*place) + 1).max();
    let places = places.unwrap_or(0);
    out.len(places);
    let mut columns: Vec<Vec<(usize, Number)>> = vec![Vec::new(); places];
    for (row, entry) in entries.iter().enumerate() {
        for (place, number) in &entry.values {
            columns[usize::from(*place)].push((row, *number));
        }
    }
    for column in &columns {
        encode_column(column, entries.len(), &mut out);
    }
    let mut body = vec![VERSION];
    body.extend_from_slice(&lz4_flex::compress_prepend_size(&out.0));
    sealed(body)
}

/// Some rows have no value in this column: a bit for each row says which do.
const SPARSE: u8 = 0x80;
/// Each value bears its type.
const MIXED: u8 = 5;

fn encode_column(column: &[(usize, Number)], rows: usize, out: &mut Out) {
    let Some((_, first)) = column.first() else {
        out.0.push(0);
        return;
    };
    let shared = column.iter().all(|(_, number)| kind(*number) == kind(*first));
    let sparse = column.len() < rows;
    out.0.push(if shared { kind(*first) } else { MIXED } | if sparse { SPARSE } else { 0 });
    if sparse {
        let mut bits = vec![0_u8; rows.div_ceil(8)];
        for (row, _) in column {
            bits[row / 8] |= 1 << (row % 8);
        }
        out.0.extend_from_slice(&bits);
    }
    let mut last = 0_u64;
    if !shared {
        for (_, number) in column {
            out.0.push(kind(*number));
            out.number(*number);
        }
    } else if matches!(first, Number::F32(_) | Number::F64(_)) {
        // Bytes of equal weight side by side: sign, exponent and high fraction of neighbours are alike.
        let width = if matches!(first, Number::F32(_)) { 4 } else { 8 };
        let start = out.0.len();
        out.0.resize(start + width * column.len(), 0);
        for (at, (_, number)) in column.iter().enumerate() {
            let bits = bits(*number);
            for (weight, byte) in (bits ^ last).to_le_bytes()[..width].iter().enumerate() {
                out.0[start + weight * column.len() + at] = *byte;
            }
            last = bits;
        }
    } else {
        for (_, number) in column {
            let bits = bits(*number);
            out.signed(bits.wrapping_sub(last).cast_signed());
            last = bits;
        }
    }
}

pub fn bits(number: Number) -> u64 {
    match number {
        Number::F32(value) => value.to_bits().into(),
        Number::F64(value) => value.to_bits(),
        Number::I64(value) => value.cast_unsigned(),
        Number::U64(value) => value,
    }
}

pub fn number(kind: u8, bits: u64) -> Result<Number, Torn> {
    match kind {
        1 => Number::from_f32(f32::from_bits(u32::try_from(bits).map_err(|_| Torn)?)).ok_or(Torn),
        2 => Number::from_f64(f64::from_bits(bits)).ok_or(Torn),
        3 => Ok(Number::I64(bits.cast_signed())),
        4 => Ok(Number::U64(bits)),
        _ => Err(Torn),
    }
}

/// More than any chunk unpacks to: a damaged length must not ask for the whole memory.
const LARGEST_CHUNK: usize = 64 << 20;

fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, Torn> {
    let body = opened(bytes)?;
    let (size, _) = lz4_flex::block::uncompressed_size(body).map_err(|_| Torn)?;
    if size > LARGEST_CHUNK {
        return Err(Torn);
    }
    lz4_flex::decompress_size_prepended(body).map_err(|_| Torn)
}

fn decode_seqs(bytes: &mut In<'_>) -> Result<Vec<u64>, Torn> {
    let rows = bytes.len(bytes.0.len())?;
    let mut last = 0_u64;
    (0..rows)
        .map(|_| {
            last = last.wrapping_add(bytes.signed()?.cast_unsigned());
            Ok(last)
        })
        .collect()
}

/// Only the seqs of a chunk.
pub fn chunk_seqs(bytes: &[u8]) -> Result<Vec<u64>, Torn> {
    decode_seqs(&mut In(&unpacked(bytes)?))
}

/// The readings of a chunk, in the order they were given.
pub fn decode_chunk(bytes: &[u8], layout: u32) -> Result<Vec<Entry>, Torn> {
    let body = unpacked(bytes)?;
    let mut bytes = In(&body);
    let seqs = decode_seqs(&mut bytes)?;
    let rows = seqs.len();
    let mut times = Vec::with_capacity(rows);
    let (mut last, mut step) = (0_i64, 0_i64);
    for _ in 0..rows {
        step = step.wrapping_add(bytes.signed()?);
        last = last.wrapping_add(step);
        times.push(last);
    }
    let mut uptimes = Vec::with_capacity(rows);
    let mut booted = 0_i64;
    for time in &times {
        booted = booted.wrapping_add(bytes.signed()?);
        uptimes.push(time.wrapping_sub(booted).cast_unsigned());
    }
    let flags = bytes.bytes(rows)?;
    let places = bytes.len(256)?;
    let mut values: Vec<Vec<(u8, Number)>> = vec![Vec::with_capacity(places); rows];
    for place in 0..places {
        let place = u8::try_from(place).map_err(|_| Torn)?;
        decode_column(&mut bytes, place, &mut values)?;
    }
    let columns = seqs.into_iter().zip(times).zip(uptimes).zip(flags).zip(values);
    Ok(columns
        .map(|((((seq, time), since_boot_ms), flags), values)| Entry {
            seq,
            time,
            since_boot_ms,
            unsynchronised: flags & UNSYNCHRONISED != 0,
            conflict: flags & CONFLICT != 0,
            layout,
            values: values.into(),
        })
        .collect())
}

fn decode_column(bytes: &mut In<'_>, place: u8, values: &mut [Vec<(u8, Number)>]) -> Result<(), Torn> {
    let head = bytes.byte()?;
    let shared = head & !SPARSE;
    if shared == 0 {
        return Ok(());
    }
    let rows = values.len();
    let present = if head & SPARSE != 0 { Some(bytes.bytes(rows.div_ceil(8))?) } else { None };
    let has = |row: usize| present.is_none_or(|bits| bits[row / 8] & 1 << (row % 8) != 0);
    let count = (0..rows).filter(|row| has(*row)).count();
    let rows = (0..rows).filter(|row| has(*row));
    match shared {
        1 | 2 => {
            let width = if shared == 1 { 4 } else { 8 };
            let planes = bytes.bytes(width * count)?;
            let mut last = 0_u64;
            for (at, row) in rows.enumerate() {
                let mut word = [0; 8];
                for (weight, byte) in word[..width].iter_mut().enumerate() {
                    *byte = planes[weight * count + at];
                }
                last ^= u64::from_le_bytes(word);
                values[row].push((place, number(shared, last)?));
            }
        }
        3 | 4 => {
            let mut last = 0_u64;
            for row in rows {
                last = last.wrapping_add(bytes.signed()?.cast_unsigned());
                values[row].push((place, number(shared, last)?));
            }
        }
        MIXED => {
            for row in rows {
                let kind = bytes.byte()?;
                values[row].push((place, bytes.number(kind)?));
            }
        }
        _ => return Err(Torn),
    }
    Ok(())
}

/// Borders of which each bears an interval, or says that it has none.
const WITH_INTERVALS: u8 = 2;

/// The readings that a block's energy stands on. Those of registers and power alone are written as they always were.
pub fn encode_borders(borders: &Borders) -> Vec<u8> {
    let lists = [&borders.before, &borders.first, &borders.last, &borders.after, &borders.pending];
    let mut all = lists.into_iter().flatten().chain(borders.breaks.iter().flat_map(|step| [&step.from, &step.to]));
    let intervals = all.any(|border| border.interval.is_some());
    let mut out = Out(vec![if intervals { WITH_INTERVALS } else { VERSION }]);
    for list in lists {
        out.len(list.len());
        list.iter().for_each(|border| encode_border(border, intervals, &mut out));
    }
    out.len(borders.breaks.len());
    for step in &borders.breaks {
        encode_border(&step.from, intervals, &mut out);
        encode_border(&step.to, intervals, &mut out);
        out.0.push(step.rollover.into());
    }
    out.0
}

fn encode_border(border: &Border, intervals: bool, out: &mut Out) {
    out.0.push(match border.role {
        Role::Import => 0,
        Role::Export => 1,
        Role::Power => 2,
    });
    out.signed(border.time.as_millis());
    out.unsigned(border.seq);
    out.0.push(kind(border.raw));
    out.number(border.raw);
    let (over, under) = border.scale.into();
    out.signed(over);
    out.signed(under);
    // A register does not roll over at 0.
    out.unsigned(border.rolls_over_at.unwrap_or(0));
    if intervals {
        // No interval lasts 0 ms; its label is the lowest bit.
        let of = |interval: Interval| u64::from(interval.ms) << 1 | u64::from(interval.label == Label::End);
        out.unsigned(border.interval.map_or(0, of));
    }
}

pub fn decode_borders(bytes: &[u8]) -> Result<Borders, Torn> {
    let mut rest = In(bytes);
    let intervals = match rest.byte()? {
        VERSION => false,
        WITH_INTERVALS => true,
        _ => return Err(Torn),
    };
    let mut borders = Borders::default();
    for list in [&mut borders.before, &mut borders.first, &mut borders.last, &mut borders.after, &mut borders.pending] {
        for _ in 0..rest.len(rest.0.len())? {
            list.push(decode_border(&mut rest, intervals)?);
        }
    }
    for _ in 0..rest.len(rest.0.len())? {
        let (from, to) = (decode_border(&mut rest, intervals)?, decode_border(&mut rest, intervals)?);
        borders.breaks.push(Break { from, to, rollover: rest.byte()? != 0 });
    }
    if rest.0.is_empty() { Ok(borders) } else { Err(Torn) }
}

fn decode_border(rest: &mut In<'_>, intervals: bool) -> Result<Border, Torn> {
    let role = match rest.byte()? {
        0 => Role::Import,
        1 => Role::Export,
        2 => Role::Power,
        _ => return Err(Torn),
    };
    let time = Timestamp::from_millis(rest.signed()?);
    let seq = rest.unsigned()?;
    let kind = rest.byte()?;
    let raw = rest.number(kind)?;
    let scale = Ratio::new(rest.signed()?, rest.signed()?).ok_or(Torn)?;
    let rolls_over_at = Some(rest.unsigned()?).filter(|at| *at != 0);
    let interval = match if intervals { rest.unsigned()? } else { 0 } {
        0 => None,
        bits => {
            let label = if bits & 1 == 1 { Label::End } else { Label::Start };
            Some(Interval { ms: u32::try_from(bits >> 1).map_err(|_| Torn)?, label })
        }
    };
    Ok(Border { role, time, seq, raw, scale, rolls_over_at, interval })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers() -> impl Strategy<Value = Number> {
        prop_oneof![
            any::<f32>().prop_filter_map("finite", Number::from_f32),
            any::<f64>().prop_filter_map("finite", Number::from_f64),
            any::<i64>().prop_map(Number::I64),
            any::<u64>().prop_map(Number::U64),
        ]
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let values = proptest::collection::btree_map(0_u8..20, numbers(), 0..8);
        let entry = (any::<i64>(), any::<u64>(), any::<bool>(), any::<bool>(), values);
        proptest::collection::vec(entry, 1..40).prop_map(|rows| {
            let entry = |(seq, (time, since_boot_ms, unsynchronised, conflict, values))| Entry {
                seq,
                time,
                since_boot_ms,
                unsynchronised,
                conflict,
                layout: 3,
                values: std::collections::BTreeMap::into_iter(values).collect(),
            };
            (7_u64..).zip(rows).map(entry).collect()
        })
    }

    proptest! {
        #[test]
        fn a_tail_row_reads_back(entries in entries()) {
            let row = TailRow::open(encode_tail(entries.iter()), 7).unwrap();
            let places = row.places().unwrap();
            prop_assert!(places.iter().all(|place| place.layout == 3));
            let back: Vec<Entry> = places.into_iter().map(|place| row.entry(place).unwrap()).collect();
            prop_assert_eq!(format!("{entries:?}"), format!("{back:?}"));
        }

        #[test]
        fn a_chunk_reads_back(mut entries in entries(), rotate in 0_usize..40) {
            let turn = rotate % entries.len();
            entries.rotate_left(turn);
            let bytes = encode_chunk(&entries);
            prop_assert_eq!(format!("{entries:?}"), format!("{:?}", decode_chunk(&bytes, 3).unwrap()));
            let seqs: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
            prop_assert_eq!(chunk_seqs(&bytes).unwrap(), seqs);
        }

        #[test]
        fn a_changed_bit_is_noticed(entries in entries(), place in any::<prop::sample::Index>(), bit in 0..8) {
            for mut bytes in [encode_tail(entries.iter()), encode_chunk(&entries)] {
                let at = place.index(bytes.len());
                bytes[at] ^= 1_u8 << bit;
                prop_assert!(decode_chunk(&bytes, 3).is_err() && TailRow::open(bytes, 7).is_err());
            }
        }
    }

    #[test]
    fn borders_read_back() {
        let border = |role, raw, rolls_over_at| Border {
            role,
            time: Timestamp::from_millis(-5),
            seq: 1 << 40,
            raw,
            scale: Ratio::new(-40, 3).unwrap(),
            rolls_over_at,
            interval: None,
        };
        let a = border(Role::Import, Number::from_f32(12.5).unwrap(), None);
        let b = border(Role::Export, Number::I64(-3), Some(1 << 32));
        let c = border(Role::Power, Number::U64(u64::MAX), None);
        let borders = Borders {
            before: vec![a, b, c],
            first: vec![a],
            last: vec![b],
            after: vec![],
            breaks: vec![Break { from: a, to: b, rollover: true }],
            pending: vec![c],
        };
        let bytes = encode_borders(&borders);
        assert_eq!(decode_borders(&bytes), Ok(borders));
        assert_eq!(decode_borders(&bytes[..bytes.len() - 1]), Err(Torn));
        assert_eq!(bytes[0], VERSION, "what older programs wrote and read");
        for label in [Label::Start, Label::End] {
            let interval = Some(Interval { ms: 900_000, label });
            let borders = Borders { after: vec![Border { interval, ..a }, b], ..decode_borders(&bytes).unwrap() };
            assert_eq!(decode_borders(&encode_borders(&borders)), Ok(borders));
        }
    }
}
