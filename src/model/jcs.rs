//! Canonical JSON (RFC 8785, JCS): the bytes that are hashed.
//!
//! Members are ordered by UTF-16 code units, numbers are written as ECMAScript does, nothing is blank. Whole numbers
//! beyond 2^53 do not belong here: they are decimal strings before they come.

use serde_json::Value;

/// Why a value has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    #[error("the whole number {0} is beyond 2^53 and must be written as a string")]
    TooWide(String),
}

/// Appends the canonical form of `value` to `out`.
pub fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            let exact = number.as_i64().map_or(number.as_u64().is_none(), |n| n.unsigned_abs() <= 1 << 53);
            match number.as_f64() {
                Some(double) if exact => write_f64(double, out),
                _ => return Err(NotCanonical::TooWide(number.to_string())),
            }
        }
        Value::String(text) => write_str(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (at, (key, item)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_str(key, out);
                out.push(b':');
                write(item, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// The canonical form of `value`.
pub fn to_vec(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

/// Appends a finite double as ECMAScript `Number::toString` writes it; −0 is 0.
pub fn write_f64(value: f64, out: &mut Vec<u8>) {
    debug_assert!(value.is_finite(), "JSON has no NaN and no infinities");
    out.extend_from_slice(ryu_js::Buffer::new().format_finite(value).as_bytes());
}

/// Whether `text` is a finite double just as [`write_f64`] writes it.
pub fn is_f64(text: &str) -> bool {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => ryu_js::Buffer::new().format_finite(value) == text,
        _ => false,
    }
}

/// Appends a JSON string with the escapes of RFC 8785 section 3.2.2.2.
pub fn write_str(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    // Most texts have nothing to escape and are copied whole. This look at all bytes has no early end, so that the
    // compiler can do many at once.
    if text.bytes().fold(false, |found, byte| found | needs_escape(byte)) {
        text.bytes().for_each(|byte| write_escaped(byte, out));
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn write_escaped(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        0x08 => out.extend_from_slice(b"\\b"),
        b'\t' => out.extend_from_slice(b"\\t"),
        b'\n' => out.extend_from_slice(b"\\n"),
        0x0c => out.extend_from_slice(b"\\f"),
        b'\r' => out.extend_from_slice(b"\\r"),
        0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        _ => out.push(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> String {
        String::from_utf8(to_vec(&serde_json::from_str(json).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn the_examples_of_rfc_8785_hold() {
        // RFC 8785 section 3.2.2, with the blank left out of the source.
        let source = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let want = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#.to_owned()
            + r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical(source), want);
    }

    #[test]
    fn keys_sort_by_utf_16_code_units() {
        // RFC 8785 section 3.2.3: U+1F600 is a surrogate pair and sorts before U+FB33.
        assert_eq!(
            canonical(r#"{"\ufb33":1,"\ud83d\ude00":2,"1":3,"\u00f6":4}"#),
            "{\"1\":3,\"ö\":4,\"😀\":2,\"\u{fb33}\":1}"
        );
    }

    #[test]
    fn the_numbers_of_rfc_8785_appendix_b_are_written_so() {
        for (bits, want) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let mut out = Vec::new();
            write_f64(f64::from_bits(bits), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{bits:016x}");
            assert!(is_f64(want) || f64::from_bits(bits) == 0.0, "{want}");
        }
    }

    #[test]
    fn numbers_are_ecmascript_numbers() {
        for (value, want) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1e21, "1e+21"),
            (1e-7, "1e-7"),
            (123456789012345680000.0, "123456789012345680000"),
        ] {
            let mut out = Vec::new();
            write_f64(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
        assert!(to_vec(&serde_json::json!(u64::MAX)).is_err());
        assert!(to_vec(&serde_json::json!(1_i64 << 53)).is_ok());
    }
}
