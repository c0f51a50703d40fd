use proptest::prelude::*;

use super::super::row;
use super::super::slice::{Absent, BadSlice, LIMIT, Slice};
use super::any_row;
use crate::model::{FieldValue, Row};

fn sorted(rows: Vec<Row>) -> Result<super::super::SortedSlice, BadSlice> {
    let mut slice = Slice::new(i64::MIN, i64::MAX);
    rows.into_iter().try_for_each(|row| slice.push(row))?;
    slice.sort()
}

proptest! {
    #[test]
    fn rows_in_any_order_give_one_slice(rows in prop::collection::vec(any_row(), 1..20), turn in 0..20_usize) {
        let mut rows: Vec<Row> = rows.into_iter().filter(|row| row.time_ns < i64::MAX).collect();
        rows.sort_by(row::order);
        rows.dedup_by(|a, b| row::order(a, b).is_eq());
        let mut shuffled = rows.clone();
        shuffled.extend(rows.iter().take(turn).cloned());
        let length = shuffled.len().max(1);
        shuffled.rotate_left(turn % length);
        let slice = sorted(shuffled).unwrap();
        prop_assert_eq!(slice.repeated, turn.min(rows.len()) as u64);
        prop_assert!(slice.in_order().map(|(_, row)| row).eq(&rows));
    }
}

#[test]
fn two_values_of_one_key_are_named_whatever_came_first() {
    let row = |value| super::row(7, "power", FieldValue::F64(value));
    let other = super::row(6, "power", FieldValue::F64(1.0));
    let want = r#"field "power" of "energy", "line"="a" at 7 ns has two values, 1.0 (f64) and 2.0 (f64); a dataset cannot hold both: mend it in the database"#;
    for rows in [vec![row(1.0), other.clone(), row(2.0)], vec![row(2.0), row(3.0), row(1.0), other.clone(), row(2.0)]] {
        assert_eq!(sorted(rows).unwrap_err().to_string(), want);
    }
    let typed = [row(1.0), super::row(7, "power", FieldValue::I64(1))];
    assert!(matches!(sorted(typed.to_vec()), Err(BadSlice::TwoValues { .. })));
    // -0 is written 0, and is so the same value.
    let zeros = sorted(vec![row(0.0), row(-0.0)]).unwrap();
    assert_eq!((zeros.in_order().count(), zeros.repeated), (1, 1));
}

#[test]
fn rows_that_do_not_belong_are_refused_by_name() {
    let mut slice = Slice::new(10, 20);
    slice.push(super::row(10, "f", FieldValue::Bool(true))).unwrap();
    for outside in [9, 20] {
        let error = slice.push(super::row(outside, "f", FieldValue::Bool(true))).unwrap_err();
        assert!(matches!(error, BadSlice::Outside { .. }), "{error}");
    }
    let error = slice.push(super::row(11, "f", FieldValue::F64(f64::NAN))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "field \"f\" of \"energy\", \"line\"=\"a\" at 11 ns is not a finite number, which JSON cannot hold; \
         leave it out of the query or mend it in the database"
    );
    slice.count_absent(Absent { empty_strings: 1, empty_tags: 2 });
    slice.count_absent(Absent { empty_strings: 1, empty_tags: 0 });
    assert_eq!(slice.sort().unwrap().absent, Absent { empty_strings: 2, empty_tags: 2 });
}

#[test]
fn a_slice_that_is_full_asks_to_be_halved() {
    let mut slice = Slice::new(0, 1_000);
    let text = "x".repeat(LIMIT / 4);
    let row = |time| super::row(time, "f", FieldValue::Str(text.as_str().into()));
    (0..3).for_each(|time| slice.push(row(time)).unwrap());
    assert_eq!(slice.push(row(3)), Err(BadSlice::Full { from_ns: 0, to_ns: 1_000 }));
}
