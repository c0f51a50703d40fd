mod bundle;
mod frozen;
mod manifest;
mod rows;
mod slice;
mod tar;

use proptest::prelude::*;

use crate::model::{FieldValue, Row};

/// Texts that are awkward to escape or to order: controls, quotes, and characters on both sides of U+FFFF.
fn text() -> impl Strategy<Value = String> {
    let letter = prop_oneof![
        4 => prop::char::range('a', 'd'),
        1 => prop::sample::select(vec!['"', '\\', '/', '\0', '\n', '\u{8}', '\u{b}', '\u{1f}', '\u{7f}', 'é', ' ', ',', '}']),
        1 => prop::sample::select(vec!['\u{d7ff}', '\u{e000}', '\u{fb33}', '\u{ffff}', '\u{10000}', '\u{1f600}']),
    ];
    prop::collection::vec(letter, 0..4).prop_map(|letters| letters.into_iter().collect())
}

fn some_text() -> impl Strategy<Value = String> {
    text().prop_filter("a text that is not empty", |text| !text.is_empty())
}

fn value() -> impl Strategy<Value = FieldValue> {
    let double = any::<f64>().prop_filter("a finite number", |value| value.is_finite());
    prop_oneof![
        double.prop_map(FieldValue::F64),
        prop::sample::select(vec![0.0, -0.0, 1e21, 1e16, 9.5, 5e-324, 1e-7]).prop_map(FieldValue::F64),
        any::<i64>().prop_map(FieldValue::I64),
        any::<u64>().prop_map(FieldValue::U64),
        any::<bool>().prop_map(FieldValue::Bool),
        some_text().prop_map(|text| FieldValue::Str(text.into())),
    ]
}

fn any_row() -> impl Strategy<Value = Row> {
    let time = prop_oneof![any::<i64>(), -2..3_i64];
    let tags = prop::collection::btree_map(text(), some_text(), 0..4);
    (time, text(), tags, text(), value()).prop_map(|(time_ns, measurement, tags, field, value)| Row {
        time_ns,
        measurement: measurement.into(),
        tags: tags.into_iter().map(|(tag, value)| (tag.into(), value.into())).collect(),
        field: field.into(),
        value,
    })
}

/// `measurement,line=a field=value time`, about.
fn row(time_ns: i64, field: &str, value: FieldValue) -> Row {
    let tags = [("line".into(), "a".into())].into();
    Row { time_ns, measurement: "energy".into(), tags, field: field.into(), value }
}
