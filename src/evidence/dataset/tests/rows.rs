use std::cmp::Ordering;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::line;
use super::super::row::{self, Unwritable};
use super::{any_row, text, value};
use crate::model::{Cell, FieldValue, ResultRow, Row, jcs};

fn written(row: &Row) -> String {
    let mut out = Vec::new();
    row::write(row, &mut out);
    String::from_utf8(out).unwrap()
}

fn typed(value: &FieldValue) -> Value {
    match value {
        FieldValue::F64(value) => json!({"type": "f64", "value": value}),
        FieldValue::I64(value) => json!({"type": "i64", "value": value.to_string()}),
        FieldValue::U64(value) => json!({"type": "u64", "value": value.to_string()}),
        FieldValue::Bool(value) => json!({"type": "bool", "value": value}),
        FieldValue::Str(value) => json!({"type": "str", "value": value}),
    }
}

/// The row as the format's description has it, written by the general writer of canonical JSON.
fn by_jcs(row: &Row) -> String {
    let mut object = typed(&row.value);
    object["field"] = json!(row.field);
    object["measurement"] = json!(row.measurement);
    object["tags"] = row.tags.iter().map(|(tag, value)| (tag.to_string(), json!(value))).collect();
    object["time"] = json!(row.time_ns.to_string());
    String::from_utf8(jcs::to_vec(&object).unwrap()).unwrap()
}

fn key(row: &Row) -> impl Ord + '_ {
    let tags: Vec<_> = row.tags.iter().map(|(tag, value)| (tag.as_bytes(), value.as_bytes())).collect();
    (row.time_ns, row.measurement.as_bytes(), tags, row.field.as_bytes())
}

fn read_back(line: &str) -> Row {
    let parsed = line::parse(line.as_bytes()).unwrap();
    let plain = |text: line::Text<'_>| text.plain().into_owned();
    let mut tags: Vec<(Box<str>, Box<str>)> =
        parsed.tags().map(|(tag, value)| (plain(tag).into(), plain(value).into())).collect();
    tags.sort();
    let object: Value = serde_json::from_str(line).unwrap();
    let text = object["value"].as_str().unwrap_or_default();
    Row {
        time_ns: parsed.time_ns(),
        measurement: plain(parsed.measurement()).into(),
        tags: tags.into(),
        field: plain(parsed.field()).into(),
        value: match parsed.kind() {
            crate::model::FieldType::F64 => FieldValue::F64(object["value"].as_f64().unwrap()),
            crate::model::FieldType::I64 => FieldValue::I64(text.parse().unwrap()),
            crate::model::FieldType::U64 => FieldValue::U64(text.parse().unwrap()),
            crate::model::FieldType::Bool => FieldValue::Bool(object["value"].as_bool().unwrap()),
            crate::model::FieldType::Str => FieldValue::Str(text.into()),
        },
    }
}

proptest! {
    #[test]
    fn a_row_is_written_as_canonical_json(row in any_row()) {
        // What JCS has no number for, a double beyond 2^53 that is whole, is a double here by its type.
        let is_wide = matches!(row.value, FieldValue::F64(value) if value.fract() == 0.0 && value.abs() > 2_f64.powi(53));
        if !is_wide {
            prop_assert_eq!(written(&row), by_jcs(&row));
        }
    }

    #[test]
    fn what_was_written_reads_back(row in any_row()) {
        prop_assert_eq!(read_back(&written(&row)), row);
    }

    #[test]
    fn rows_are_ordered_as_the_tuples_of_their_bytes(a in any_row(), b in any_row(), same in 0..5) {
        // Rows at random differ at once: let them share the first parts of their keys.
        let mut b = b;
        if same > 0 { b.time_ns = a.time_ns; }
        if same > 1 { b.measurement = a.measurement.clone(); }
        if same > 2 { b.tags = a.tags.clone(); }
        if same > 3 { b.field = a.field.clone(); }
        let want = key(&a).cmp(&key(&b));
        prop_assert_eq!(row::order(&a, &b), want);
        prop_assert_eq!(row::order(&b, &a), want.reverse());
        let (a, b) = (written(&a), written(&b));
        let lines = (line::parse(a.as_bytes()).unwrap(), line::parse(b.as_bytes()).unwrap());
        prop_assert_eq!(lines.0.order(&lines.1), want);
    }

    #[test]
    fn values_are_equal_in_their_order_if_and_only_if_they_are_written_alike(a in value(), b in value()) {
        let line = |value: &FieldValue| written(&super::row(0, "f", value.clone()));
        for (a, b) in [(&a, &b), (&a, &a)] {
            prop_assert_eq!(row::order_of_values(a, b) == Ordering::Equal, line(a) == line(b));
        }
    }

    #[test]
    fn a_line_that_was_changed_is_refused_or_is_another_row(row in any_row(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = written(&row).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = with;
        if line::parse(&bytes).is_ok() {
            let text = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(written(&read_back(&text)), text);
        }
    }

    #[test]
    fn a_row_of_a_result_is_written_as_canonical_json(
        index in any::<u64>(),
        cells in prop::collection::btree_map(text(), prop_oneof![any::<i64>().prop_map(Cell::Time), value().prop_map(Cell::Value)], 0..5),
    ) {
        let columns: ResultRow = cells.into_iter().rev().map(|(name, cell)| (name.into(), cell)).collect();
        let mut line = Vec::new();
        row::write_result(index, &columns, &mut line);
        prop_assert_eq!(line::parse_result(&line), Ok(index));
        let is_wide = |cell: &Cell| matches!(cell, Cell::Value(FieldValue::F64(value)) if value.abs() > 2_f64.powi(53));
        if !columns.iter().any(|(_, cell)| is_wide(cell)) {
            let cells = columns.iter().map(|(name, cell)| {
                let cell = match cell {
                    Cell::Time(ns) => json!({"type": "time", "value": ns.to_string()}),
                    Cell::Value(value) => typed(value),
                };
                (name.to_string(), cell)
            });
            let object = json!({"columns": cells.collect::<serde_json::Map<_, _>>(), "row": index.to_string()});
            prop_assert_eq!(line, jcs::to_vec(&object).unwrap());
        }
    }
}

#[test]
fn the_row_of_the_description_is_written_as_it_stands_there() {
    let row = super::row(1_767_225_600_000_000_000, "power", FieldValue::F64(12.5));
    let want = r#"{"field":"power","measurement":"energy","tags":{"line":"a"},"time":"1767225600000000000","type":"f64","value":12.5}"#;
    assert_eq!(written(&row), want);
    let zero = super::row(0, "power", FieldValue::F64(-0.0));
    assert!(written(&zero).ends_with(r#""time":"0","type":"f64","value":0}"#), "{}", written(&zero));
    let mut result = Vec::new();
    let columns = vec![
        ("time".into(), Cell::Time(1_767_225_600_000_000_000)),
        ("mean".into(), Cell::Value(FieldValue::F64(12.5))),
    ];
    row::write_result(0, &columns, &mut result);
    let want = r#"{"columns":{"mean":{"type":"f64","value":12.5},"time":{"type":"time","value":"1767225600000000000"}},"row":"0"}"#;
    assert_eq!(String::from_utf8(result).unwrap(), want);
}

#[test]
fn lines_that_say_the_same_in_other_bytes_are_refused() {
    let good = r#"{"field":"f","measurement":"m","tags":{"a":"1","b":"2"},"time":"10","type":"f64","value":12.5}"#;
    assert!(line::parse(good.as_bytes()).is_ok());
    for (from, to) in [
        ("\"f\"", " \"f\""),
        ("\"f\"", "\"\\u0066\""),
        ("\"m\"", "\"\\/\""),
        ("\"m\"", "\"\\u000a\""),
        ("\"m\"", "\"\\u001F\""),
        ("\"m\"", "\"\u{fffd}\""),
        ("\"m\"", "\"\n\""),
        ("\"a\":\"1\",\"b\":\"2\"", "\"b\":\"2\",\"a\":\"1\""),
        ("\"b\"", "\"a\""),
        ("\"2\"", "\"\""),
        ("\"10\"", "10"),
        ("\"10\"", "\"010\""),
        ("\"10\"", "\"+10\""),
        ("\"10\"", "\"-0\""),
        ("\"10\"", "\"\""),
        ("\"10\"", "\"9223372036854775808\""),
        ("12.5", "12.50"),
        ("12.5", "1.25e1"),
        ("12.5", "-0"),
        ("12.5", "1e999"),
        ("12.5", "NaN"),
        ("12.5", "\"12.5\""),
        ("\"f64\",\"value\":12.5", "\"u64\",\"value\":\"-1\""),
        ("\"f64\",\"value\":12.5", "\"u64\",\"value\":\"18446744073709551616\""),
        ("\"f64\",\"value\":12.5", "\"str\",\"value\":\"\""),
        ("\"f64\",\"value\":12.5", "\"time\",\"value\":\"1\""),
        ("\"f64\",\"value\":12.5", "\"bool\",\"value\":1"),
        ("12.5}", "12.5,\"x\":1}"),
        ("12.5}", "12.5}\r"),
        ("12.5}", "12.5"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(line::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let error = line::parse(good.replace("12.5", "12.50").as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "not a canonical row: a number as ECMAScript writes it was expected at byte 89");
    let result = br#"{"columns":{"a":{"type":"time","value":"1"},"b":{"type":"bool","value":true}},"row":"7"}"#;
    assert_eq!(line::parse_result(result), Ok(7));
    for bad in [
        &br#"{"columns":{"b":{"type":"bool","value":true},"a":{"type":"time","value":"1"}},"row":"7"}"#[..],
        br#"{"columns":{"a":{"type":"bool","value":true},"a":{"type":"time","value":"1"}},"row":"7"}"#,
        br#"{"columns":{},"row":"-1"}"#,
        br#"{"columns":{},"row":7}"#,
        br#"{"columns":{}}"#,
        br#"{"columns":{"a":null},"row":"7"}"#,
    ] {
        assert!(line::parse_result(bad).is_err(), "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let check = |value| row::check(&super::row(0, "f", value));
    assert_eq!(check(FieldValue::F64(f64::NAN)), Err(Unwritable::NotFinite));
    assert_eq!(check(FieldValue::F64(f64::NEG_INFINITY)), Err(Unwritable::NotFinite));
    assert_eq!(check(FieldValue::Str("".into())), Err(Unwritable::Empty));
    assert_eq!(check(FieldValue::Str("a\u{fffd}".into())), Err(Unwritable::Replacement));
    assert_eq!(check(FieldValue::Str("a".into())), Ok(()));
    let tagged = |tags: &[(&str, &str)]| {
        let tags = tags.iter().map(|(tag, value)| ((*tag).into(), (*value).into())).collect();
        row::check(&Row { tags, ..super::row(0, "f", FieldValue::Bool(true)) })
    };
    assert_eq!(tagged(&[("a", "")]), Err(Unwritable::Empty));
    assert_eq!(tagged(&[("b", "1"), ("a", "1")]), Err(Unwritable::Tags));
    assert_eq!(tagged(&[("a", "1"), ("a", "1")]), Err(Unwritable::Tags));
    assert_eq!(tagged(&[("a", "\u{fffd}")]), Err(Unwritable::Replacement));
    assert_eq!(tagged(&[("a", "1"), ("b", "1")]), Ok(()));
    let twice = [("a".into(), Cell::Time(0)), ("a".into(), Cell::Time(1))];
    assert_eq!(row::check_result(&twice), Err(Unwritable::Columns));
    assert_eq!(row::check_result(&twice[..1]), Ok(()));
}
