//! Values in decimal, as they are shown and sent. What is sent is hashed, so that these bytes may never change.

use super::{Number, Ratio};

/// `raw × scale` in decimal: the number's shortest form with its point moved, when the scale is a power of ten, as
/// nearly all are; else as [`Ratio::display`] has it.
pub fn push_value(out: &mut Vec<u8>, raw: Number, scale: Ratio) {
    let Some((negative, shift)) = power_of_ten(scale) else { return push_f64(out, scale.display(raw)) };
    match raw {
        Number::I64(value) if shift <= 0 => {
            push_decimal(out, (value < 0) != negative, value.unsigned_abs(), shift.unsigned_abs());
        }
        Number::U64(value) if shift <= 0 => push_decimal(out, negative, value, shift.unsigned_abs()),
        Number::F32(value) => {
            push_shifted(out, ryu_js::Buffer::new().format_finite(value), negative, shift);
        }
        Number::F64(value) => {
            push_shifted(out, ryu_js::Buffer::new().format_finite(value), negative, shift);
        }
        Number::I64(_) | Number::U64(_) => push_f64(out, scale.display(raw)),
    }
}

/// A double in its shortest form; `null` when it is none.
pub fn push_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(ryu_js::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Sign and exponent of a scale that is ±10^n.
fn power_of_ten(scale: Ratio) -> Option<(bool, i32)> {
    let (num, den) = <(i64, i64)>::from(scale);
    let exponent = |mut value: u64| {
        let mut exponent = 0_i32;
        while value > 1 && value.is_multiple_of(10) {
            (value, exponent) = (value / 10, exponent + 1);
        }
        (value == 1).then_some(exponent)
    };
    Some((num < 0, exponent(num.unsigned_abs())? - exponent(den.unsigned_abs())?))
}

/// Writes a number as ECMAScript prints it (`-12.5`, `1e-7`) with its point moved by `shift` places and, if told, its
/// sign turned.
fn push_shifted(out: &mut Vec<u8>, text: &str, turned: bool, shift: i32) {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // ECMAScript prints at most 21 digits before an exponent is used, and 17 that matter.
    let mut digits = [0; 32];
    let (mut count, mut leading) = (0, 0);
    for digit in whole.bytes().chain(part.bytes()).take(digits.len()) {
        if count == 0 && digit == b'0' {
            leading += 1;
        } else {
            digits[count] = digit;
            count += 1;
        }
    }
    let mut digits = &digits[..count];
    while let [front @ .., b'0'] = digits {
        digits = front;
    }
    if digits.is_empty() {
        return out.push(b'0');
    }
    if negative != turned {
        out.push(b'-');
    }
    // The number is 0.DIGITS × 10^point.
    let length = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    let point = length(whole.len()) - leading + exponent.parse().unwrap_or(0) + shift;
    let zeros = |out: &mut Vec<u8>, count: i32| {
        out.extend(std::iter::repeat_n(b'0', usize::try_from(count).unwrap_or(0)));
    };
    if (-6..=0).contains(&point) {
        out.extend_from_slice(b"0.");
        zeros(out, -point);
        out.extend_from_slice(digits);
    } else if point > 0 && point <= 21 {
        let (front, back) = digits.split_at(digits.len().min(usize::try_from(point).unwrap_or(0)));
        out.extend_from_slice(front);
        if back.is_empty() {
            zeros(out, point - length(front.len()));
        } else {
            out.push(b'.');
            out.extend_from_slice(back);
        }
    } else {
        out.extend_from_slice(digits);
        out.extend_from_slice(format!("e{}", point - length(digits.len())).as_bytes());
    }
}

/// `magnitude / 10^decimals` without needless zeros.
pub fn push_decimal(out: &mut Vec<u8>, negative: bool, magnitude: u64, decimals: u32) {
    let mut digits = [b'0'; 40];
    let mut at = digits.len();
    let mut rest = magnitude;
    let places = decimals.min(18) as usize;
    while rest > 0 || digits.len() - at <= places {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    let (whole, mut part) = digits[at..].split_at(digits.len() - at - places);
    while let [front @ .., b'0'] = part {
        part = front;
    }
    if negative && magnitude > 0 {
        out.push(b'-');
    }
    out.extend_from_slice(whole);
    if !part.is_empty() {
        out.push(b'.');
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(raw: Number, scale: Ratio) -> String {
        let mut out = Vec::new();
        push_value(&mut out, raw, scale);
        String::from_utf8(out).unwrap()
    }

    fn value(raw: Number, scale: &str) -> String {
        written(raw, Ratio::parse(scale).unwrap())
    }

    #[test]
    fn a_value_is_what_the_meter_meant_with_its_point_moved() {
        let f32 = |value| Number::from_f32(value).unwrap();
        assert_eq!(value(f32(230.1), "1"), "230.1");
        assert_eq!(value(f32(230.1), "0.001"), "0.2301");
        assert_eq!(value(f32(-230.1), "-0.001"), "0.2301");
        assert_eq!(value(f32(0.0), "-0.001"), "0");
        assert_eq!(value(f32(1_500_000.0), "0.001"), "1500");
        assert_eq!(value(f32(12.5), "1000"), "12500");
        assert_eq!(value(f32(1e-9), "0.001"), "1e-12");
        assert_eq!(value(f32(3e38), "1000"), "3e41");
        assert_eq!(value(Number::U64(2301), "0.1"), "230.1");
        assert_eq!(value(Number::I64(-2300), "0.1"), "-230");
        assert_eq!(value(Number::I64(5), "10"), "50");
        assert_eq!(value(Number::I64(1), "1/3"), "0.3333333333333333");
        assert_eq!(value(Number::U64(u64::MAX), "1"), "18446744073709551615");
    }

    proptest! {
        #[test]
        fn a_float_with_its_point_moved_is_still_that_float(raw in any::<f32>(), shift in -6..=3_i32) {
            prop_assume!(raw.is_finite());
            let scale = if shift < 0 { Ratio::new(1, 10_i64.pow(shift.unsigned_abs())) } else { Ratio::new(10_i64.pow(shift.unsigned_abs()), 1) };
            let written = written(Number::from_f32(raw).unwrap(), scale.unwrap());
            // The point moved back gives the very float again.
            let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
            let back: f32 = format!("{mantissa}e{}", exponent.parse::<i32>().unwrap() - shift).parse().unwrap();
            prop_assert_eq!(back.to_bits(), (raw + 0.0).to_bits());
            prop_assert!(serde_json::from_str::<f64>(&written).is_ok());
        }
    }
}
