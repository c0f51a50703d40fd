use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::super::bundle::{Heading, Progress, WriteError, Writer};
use super::super::manifest::{Kind, Manifest, PointsQuery, Query, ResultQuery, Server};
use super::super::slice::{Absent, Slice};
use super::super::{line, part};
use crate::model::{Cell, Digest, FieldType, FieldValue, ResultRow, Row, merkle};

const PART: u64 = 10;
const ROWS: i64 = 95;

fn rows() -> Vec<Row> {
    (0..ROWS).map(|n| super::row(n, if n % 3 == 0 { "a" } else { "b" }, FieldValue::I64(n * n))).collect()
}

pub fn heading(kind: Kind) -> Heading {
    let name = "plant".to_owned();
    Heading {
        id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
        kind,
        connection: Server {
            kind: "influxdb".to_owned(),
            name: "historian".to_owned(),
            server_version: "1.6.7".to_owned(),
            version: 1,
        },
        query: match kind {
            Kind::Points => Query::Points(PointsQuery {
                fields: Vec::new(),
                measurement: "energy".to_owned(),
                name,
                tags: BTreeMap::new(),
            }),
            Kind::Result => Query::Result(ResultQuery { name, text: "SELECT mean(a)".to_owned() }),
        },
        from_ns: 0,
        to_ns: ROWS,
        gateway: "00112233445566778899aabbccddeeff".to_owned(),
        site: "plant-1".parse().unwrap(),
        program: "meterseal 0.1.0".to_owned(),
    }
}

/// Reads on from where `progress` is in windows of `width` up to row `stop`, keeping the progress as a job does.
pub fn write_some(working: &Path, progress: &mut Progress, width: i64, stop: i64) -> Result<Writer, WriteError> {
    let rows = rows();
    let mut writer = Writer::with_parts_of(PART, working, progress.clone())?;
    let mut from = progress.read_to_ns().unwrap_or(0);
    while from < stop {
        let to = (from + width).min(ROWS);
        let mut slice = Slice::new(from, to);
        for row in rows.iter().filter(|row| (from..to).contains(&row.time_ns)).rev() {
            slice.push(row.clone()).unwrap();
            slice.push(row.clone()).unwrap();
        }
        slice.count_absent(Absent { empty_strings: 1, empty_tags: 2 });
        if let Some(newer) = writer.append(&slice.sort().unwrap(), 5)? {
            *progress = through_json(&newer);
        }
        from = to;
    }
    Ok(writer)
}

/// As the store keeps it.
fn through_json(progress: &Progress) -> Progress {
    serde_json::from_str(&serde_json::to_string(progress).unwrap()).unwrap()
}

pub fn finish(writer: Writer, folder: &Path) -> Manifest {
    writer.finish(heading(Kind::Points), &folder.join("bundle")).unwrap()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

pub fn raw(bytes: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    part::open(bytes).unwrap().read_to_end(&mut raw).unwrap();
    raw
}

#[test]
fn a_bundle_says_of_itself_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let writer = write_some(&folder.path().join("working"), &mut Progress::default(), 7, ROWS).unwrap();
    let manifest = finish(writer, folder.path());
    assert!(!folder.path().join("working").exists());
    let mut files = files(&folder.path().join("bundle"));
    let text = files.remove("manifest.json").unwrap();
    assert_eq!(manifest.to_bytes().unwrap(), text);
    let mut tree = merkle::Frontier::default();
    let mut last: Option<Vec<u8>> = None;
    let mut bytes = 0;
    for (at, facts) in manifest.parts.iter().enumerate() {
        assert_eq!(facts.name, part::name(at));
        let file = files.remove(&facts.name).unwrap();
        let raw = raw(&file);
        assert_eq!((facts.bytes, facts.sha256), (file.len() as u64, Digest::of(&file)));
        assert_eq!((facts.raw_bytes, facts.raw_sha256), (raw.len() as u64, Digest::of(&raw)));
        bytes += facts.raw_bytes;
        let lines: Vec<&[u8]> = raw.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(facts.rows, lines.len() as u64);
        for with_feed in lines {
            let line = with_feed.strip_suffix(b"\n").unwrap();
            let parsed = line::parse(line).unwrap();
            assert!(last.as_deref().is_none_or(|last| line::parse(last).unwrap().order(&parsed).is_lt()));
            last = Some(line.to_vec());
            tree.push(merkle::leaf(line));
        }
    }
    assert!(files.is_empty(), "{:?}", files.keys());
    assert_eq!((manifest.root, manifest.rows, manifest.bytes), (tree.root(), 95, bytes));
    assert_eq!(
        manifest.parts.iter().map(|part| part.rows).collect::<Vec<_>>(),
        [10, 10, 10, 10, 10, 10, 10, 10, 10, 5]
    );
    assert_eq!(manifest.fields, [("a".to_owned(), FieldType::I64), ("b".to_owned(), FieldType::I64)].into());
    assert_eq!((manifest.repeated, manifest.absent), (95, Absent { empty_strings: 14, empty_tags: 28 }));
    assert_eq!(manifest.windows.iter().map(|window| window.rows).sum::<u64>(), 95);
}

#[test]
fn the_same_rows_give_the_same_bytes_wherever_it_was_interrupted() {
    let whole = tempfile::tempdir().unwrap();
    let writer = write_some(&whole.path().join("working"), &mut Progress::default(), 7, ROWS).unwrap();
    let want = (finish(writer, whole.path()), files(&whole.path().join("bundle")));
    for (stop, widths) in
        (0..=ROWS).step_by(9).flat_map(|stop| [(stop, (7, 7)), (stop, (7, 3)), (stop, (13, 40)), (stop, (95, 2))])
    {
        let folder = tempfile::tempdir().unwrap();
        let (working, mut progress) = (folder.path().join("working"), Progress::default());
        drop(write_some(&working, &mut progress, widths.0, stop).unwrap());
        // The next part was begun, and so was the manifest.
        fs::write(working.join(part::name(progress.parts.len())), b"half a part").unwrap();
        fs::write(working.join("manifest.json"), b"{").unwrap();
        let writer = write_some(&working, &mut progress, widths.1, ROWS).unwrap();
        let got = finish(writer, folder.path());
        let mut want = want.clone();
        // What was read in other slices says so; all else is the same.
        if widths != (7, 7) {
            assert_eq!(got.windows.iter().map(|window| window.rows).sum::<u64>(), 95);
            want.0.windows.clone_from(&got.windows);
            want.0.absent = got.absent;
            want.1.insert("manifest.json".to_owned(), want.0.to_bytes().unwrap());
        }
        assert_eq!(got, want.0, "stopped at {stop}, {widths:?}");
        assert!(files(&folder.path().join("bundle")) == want.1, "stopped at {stop}, {widths:?}");
    }
}

#[test]
fn rows_that_changed_while_it_was_interrupted_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (working, mut progress) = (folder.path().join("working"), Progress::default());
    let mut slice = Slice::new(0, 1_000);
    (0..25).for_each(|n| slice.push(super::row(n, "a", FieldValue::I64(n))).unwrap());
    let slice = slice.sort().unwrap();
    let mut writer = Writer::with_parts_of(PART, &working, Progress::default()).unwrap();
    writer.append(&slice, 0).unwrap();
    // Two parts are whole, inside of a window; the first one is told of when the second was cut, at the latest.
    while progress.parts.len() < 2 {
        let empty = Slice::new(1_000, 1_001).sort().unwrap();
        if let Some(newer) = writer.append(&empty, 0).unwrap() {
            progress = newer;
        }
    }
    drop(writer);
    assert_eq!((progress.rows(), progress.windows.len()), (20, 0));
    let read_again = |change: &dyn Fn(&mut Vec<Row>)| {
        let mut rows: Vec<Row> = (0..25).map(|n| super::row(n, "a", FieldValue::I64(n))).collect();
        change(&mut rows);
        let mut slice = Slice::new(0, 1_000);
        rows.into_iter().for_each(|row| slice.push(row).unwrap());
        let mut writer = Writer::with_parts_of(PART, &working, progress.clone())?;
        writer.append(&slice.sort().unwrap(), 0)?;
        writer.finish(Heading { to_ns: 1_000, ..heading(Kind::Points) }, &folder.path().join("bundle"))
    };
    let is_changed = |result: Result<Manifest, WriteError>| matches!(result, Err(WriteError::Changed { rows: 20 }));
    assert!(is_changed(read_again(&|rows| rows[3].value = FieldValue::I64(-1))));
    assert!(is_changed(read_again(&|rows| drop(rows.remove(3)))));
    assert!(is_changed(read_again(&|rows| rows.insert(0, super::row(3, "aa", FieldValue::I64(0))))));
    assert!(matches!(read_again(&|rows| rows.truncate(12)), Err(WriteError::Changed { .. })));
    // What comes behind the finished parts was never promised to anybody.
    let manifest = read_again(&|rows| rows[22].value = FieldValue::I64(-1)).unwrap();
    assert_eq!((manifest.rows, manifest.windows.len()), (25, 1));
}

#[test]
fn a_part_that_was_damaged_meanwhile_is_not_built_upon() {
    let folder = tempfile::tempdir().unwrap();
    let (working, mut progress) = (folder.path().join("working"), Progress::default());
    drop(write_some(&working, &mut progress, 7, ROWS).unwrap());
    let path = working.join(part::name(0));
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let open = || Writer::with_parts_of(PART, &working, progress.clone()).map(drop);
    assert!(matches!(open(), Err(WriteError::Damaged { path: at }) if at == path));
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(), Err(WriteError::Damaged { path: at }) if at == path));
    fs::write(working.join("notes.txt"), b"mine").unwrap();
    assert!(matches!(open(), Err(WriteError::InTheWay { path: at }) if at == working.join("notes.txt")));
}

#[test]
fn what_is_no_dataset_gets_no_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let working = folder.path().join("working");
    let empty = || Slice::new(0, ROWS).sort().unwrap();
    let mut writer = Writer::open(&working, Progress::default()).unwrap();
    writer.append(&empty(), 0).unwrap();
    let error = writer.finish(heading(Kind::Points), &folder.path().join("bundle")).unwrap_err();
    assert!(matches!(error, WriteError::Empty), "{error}");

    let mut slice = Slice::new(0, ROWS);
    slice.push(super::row(0, "a", FieldValue::I64(1))).unwrap();
    slice.push(super::row(1, "a", FieldValue::F64(1.0))).unwrap();
    let mut writer = Writer::open(&working, Progress::default()).unwrap();
    let error = writer.append(&slice.sort().unwrap(), 0).unwrap_err();
    assert_eq!(error.to_string(), "field \"a\" is i64 in some rows and f64 in others; ask for fields of one type");

    // The windows stop short of the period.
    let mut slice = Slice::new(0, 5);
    slice.push(super::row(0, "a", FieldValue::I64(1))).unwrap();
    let mut writer = Writer::open(&working, Progress::default()).unwrap();
    writer.append(&slice.sort().unwrap(), 0).unwrap();
    let error = writer.finish(heading(Kind::Points), &folder.path().join("bundle")).unwrap_err();
    assert!(matches!(error, WriteError::Manifest(_)), "{error}");
    assert!(!folder.path().join("bundle").exists());
}

#[test]
fn a_disk_that_cannot_be_written_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let working = folder.path().join("working");
    let mut writer = Writer::with_parts_of(2, &working, Progress::default()).unwrap();
    fs::remove_dir(&working).unwrap();
    let mut slice = Slice::new(0, ROWS);
    rows().into_iter().for_each(|row| slice.push(row).unwrap());
    let error = writer.append(&slice.sort().unwrap(), 0).unwrap_err();
    assert!(matches!(&error, WriteError::Io { path, .. } if *path == working.join(part::name(0))), "{error}");
}

#[test]
fn the_rows_of_a_result_keep_the_order_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<ResultRow> =
        [3, 1, 2].into_iter().map(|n| vec![("mean".into(), Cell::Value(FieldValue::I64(n)))]).collect();
    let mut writer = Writer::with_parts_of(2, &folder.path().join("working"), Progress::default()).unwrap();
    writer.append_result(&rows[..1]).unwrap();
    writer.append_result(&rows[1..]).unwrap();
    writer.end_result(0, ROWS, 9).unwrap();
    let manifest = writer.finish(heading(Kind::Result), &folder.path().join("bundle")).unwrap();
    assert_eq!((manifest.rows, manifest.windows.len(), manifest.fields.len()), (3, 1, 0));
    let texts: Vec<u8> = manifest
        .parts
        .iter()
        .flat_map(|part| raw(&fs::read(folder.path().join("bundle").join(&part.name)).unwrap()))
        .collect();
    let texts = String::from_utf8(texts).unwrap();
    let lines: Vec<&str> = texts.lines().collect();
    assert_eq!(lines[0], r#"{"columns":{"mean":{"type":"i64","value":"3"}},"row":"0"}"#);
    assert_eq!(lines[2], r#"{"columns":{"mean":{"type":"i64","value":"2"}},"row":"2"}"#);
    let mut writer = Writer::open(&folder.path().join("working"), Progress::default()).unwrap();
    let bad: ResultRow = vec![("mean".into(), Cell::Value(FieldValue::F64(f64::NAN)))];
    let error = writer.append_result(&[rows[0].clone(), bad]).unwrap_err();
    assert!(matches!(error, WriteError::Unwritable { row: 1, .. }), "{error}");
}
