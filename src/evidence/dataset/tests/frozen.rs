//! Bytes that may never change: what was proven with them would be proven no more. A failure here is mended in the
//! program, never in tests/frozen/dataset-v1.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::bundle::{Heading, Progress, Writer};
use super::super::manifest::{self, Kind, Manifest, PointsQuery, Query, ResultQuery};
use super::super::slice::{Absent, Slice};
use super::super::tar::Archive;
use super::super::{line, part};
use super::bundle::{heading, raw};
use crate::model::{Cell, FieldType, FieldValue, ResultRow, Row, merkle};

const POINTS: &str = "01KAJ0000000000000000000P0";
const RESULT: &str = "01KAJ0000000000000000000R0";
const ROOT_OF_POINTS: &str = "14c70cbb728499f2066f9c83d53913d7aaf548972ba6c82dcf6c7af1055af22a";
const ROOT_OF_RESULT: &str = "b8ab120c9d5d77dbb8fde72f66e3ee2607fb7a12ac38de90eb0772d10ad381a7";
const FROM: i64 = -1_000;
const TO: i64 = 1_767_225_600_000_000_001;

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen/dataset-v1")
}

/// All types, the ends of their ranges, and texts that are awkward to escape or to order; in no order.
fn rows() -> Vec<Row> {
    let row = |time_ns, tags: &[(&str, &str)], field: &str, value| {
        let mut tags: Vec<(Box<str>, Box<str>)> =
            tags.iter().map(|(tag, value)| ((*tag).into(), (*value).into())).collect();
        tags.sort();
        Row { time_ns, measurement: "energy \"é\"".into(), tags: tags.into(), field: field.into(), value }
    };
    let text = |text: &str| FieldValue::Str(text.into());
    let doubles = [0.0, -1.5, 1e21, 1e-7, 5e-324, 1.797_693_134_862_315_7e308, 333_333_333.333_333_3, 1e16, 0.1 + 0.2];
    let mut rows: Vec<Row> =
        (0..).zip(doubles).map(|(at, value)| row(at, &[("line", "a")], "f64", FieldValue::F64(value))).collect();
    rows.extend([
        row(1_767_225_600_000_000_000, &[], "f64", FieldValue::F64(12.5)),
        row(FROM, &[("line", "b")], "i64", FieldValue::I64(i64::MIN)),
        row(FROM, &[("line", "a")], "i64", FieldValue::I64(i64::MAX)),
        row(5, &[("line", "a")], "u64", FieldValue::U64(u64::MAX)),
        row(5, &[("line", "a")], "u64 too", FieldValue::U64(0)),
        row(5, &[("line", "a"), ("site", "x")], "bool", FieldValue::Bool(true)),
        row(5, &[("line", "a")], "bool", FieldValue::Bool(false)),
        row(6, &[("\u{1f600}", "beyond"), ("\u{fb33}", "before")], "str", text("\u{8}\t\n\u{c}\r\u{0}\u{1f}\u{7f}")),
        row(6, &[("line", "\"\\/ ,={}")], "str", text("Zähler \u{1f600} \u{2028}")),
    ]);
    rows
}

fn points(folder: &Path) -> Manifest {
    let mut writer = Writer::open(&folder.join("working"), Progress::default()).unwrap();
    for (from, to) in [(FROM, 5), (5, 100), (100, TO)] {
        let mut slice = Slice::new(from, to);
        rows().into_iter().filter(|row| (from..to).contains(&row.time_ns)).for_each(|row| slice.push(row).unwrap());
        slice.count_absent(Absent { empty_strings: 1, empty_tags: 2 });
        if from == 5 {
            slice.push(rows().into_iter().find(|row| row.time_ns == 5).unwrap()).unwrap();
        }
        writer.append(&slice.sort().unwrap(), 1_767_225_700_000).unwrap();
    }
    let query = PointsQuery {
        fields: Vec::new(),
        measurement: "energy \"é\"".to_owned(),
        name: "all".to_owned(),
        tags: std::collections::BTreeMap::new(),
    };
    let heading = Heading {
        id: POINTS.parse().unwrap(),
        query: Query::Points(query),
        from_ns: FROM,
        to_ns: TO,
        ..heading(Kind::Points)
    };
    writer.finish(heading, &folder.join(POINTS)).unwrap()
}

fn result(folder: &Path) -> Manifest {
    let mut writer = Writer::open(&folder.join("working"), Progress::default()).unwrap();
    let rows: [ResultRow; 3] = [
        vec![
            ("time".into(), Cell::Time(1_767_225_600_000_000_000)),
            ("mean".into(), Cell::Value(FieldValue::F64(12.5))),
            ("\u{fb33}".into(), Cell::Value(FieldValue::Bool(true))),
            ("\u{1f600}".into(), Cell::Value(FieldValue::Str("x".into()))),
        ],
        vec![],
        vec![("count".into(), Cell::Value(FieldValue::U64(3))), ("least".into(), Cell::Value(FieldValue::I64(-3)))],
    ];
    writer.append_result(&rows).unwrap();
    writer.end_result(0, TO, 1_767_225_700_000).unwrap();
    let query = ResultQuery { name: "mean".to_owned(), text: "SELECT mean(f64) FROM energy".to_owned() };
    let heading =
        Heading { id: RESULT.parse().unwrap(), query: Query::Result(query), to_ns: TO, ..heading(Kind::Result) };
    writer.finish(heading, &folder.join(RESULT)).unwrap()
}

/// The frozen bundle, and all its rows as text.
fn read(id: &str) -> (Manifest, Vec<u8>) {
    let folder = frozen().join(id);
    let manifest = Manifest::from_bytes(&fs::read(folder.join(manifest::FILE)).unwrap()).unwrap();
    let rows = manifest.parts.iter().flat_map(|part| raw(&fs::read(folder.join(&part.name)).unwrap())).collect();
    (manifest, rows)
}

fn root(rows: &[u8]) -> String {
    let mut tree = merkle::Frontier::default();
    rows.split_inclusive(|byte| *byte == b'\n').for_each(|line| tree.push(merkle::leaf(&line[..line.len() - 1])));
    tree.root().to_string()
}

#[test]
fn the_frozen_rows_give_the_root_that_was_proven() {
    for (id, want) in [(POINTS, ROOT_OF_POINTS), (RESULT, ROOT_OF_RESULT)] {
        let (manifest, rows) = read(id);
        assert_eq!((manifest.root.to_string(), root(&rows)), (want.to_owned(), want.to_owned()));
        let lines = rows.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]);
        for (at, line) in (0..).zip(lines) {
            match manifest.kind {
                Kind::Points => assert!(line::parse(line).is_ok()),
                Kind::Result => assert_eq!(line::parse_result(line), Ok(at)),
            }
        }
    }
    let kinds: std::collections::BTreeSet<_> = read(POINTS).0.fields.into_values().collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), FieldType::ALL, "all types are frozen");
}

#[test]
fn the_same_rows_are_written_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    for (written, id) in [(points(folder.path()), POINTS), (result(folder.path()), RESULT)] {
        let (mut frozen, rows) = read(id);
        assert_eq!(raw(&fs::read(folder.path().join(id).join(part::name(0))).unwrap()), rows);
        // Another release of the compressor may make other files of them.
        let file = |part: &part::PartFacts| (part.bytes, part.sha256);
        let (bytes, sha256) = file(&written.parts[0]);
        frozen.parts[0] = part::PartFacts { bytes, sha256, ..frozen.parts[0].clone() };
        assert_eq!(written, frozen);
    }
}

#[test]
fn the_archive_of_a_frozen_bundle_is_the_frozen_archive() {
    for id in [POINTS, RESULT] {
        let archive = Archive::of(&frozen().join(id), &read(id).0).unwrap();
        let want = fs::read(frozen().join(format!("{id}.tar"))).unwrap();
        let mut got = vec![0; usize::try_from(archive.length()).unwrap()];
        archive.read_at(0, &mut got).unwrap();
        assert!(got == want, "{id}");
    }
}
