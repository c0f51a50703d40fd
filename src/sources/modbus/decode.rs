//! From register words to numbers. Absent is not zero: NaN, infinities and sentinels give a reason, never a number.

use crate::model::Number;
use crate::sources::sunspec::Unusable;
use crate::sources::template::{InModel, Kind, Register, WordOrder};

/// Why a register that answered has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    #[error("not a number (NaN)")]
    NotANumber,
    #[error("infinite")]
    Infinite,
    #[error("the meter says that it has no value ({0:#x})")]
    Sentinel(u64),
    #[error("the answer is too short for it")]
    TooShort,
    #[error(transparent)]
    Scale(#[from] Unusable),
}

/// The value of `register`, as it is kept, in an answer of which `words` begin at `address`.
pub fn value(register: &Register, address: u16, words: &[u16]) -> Result<Number, Absent> {
    let number = number(register, from(register.address, address, words).ok_or(Absent::TooShort)?)?;
    let Some(InModel { scale_factor: Some(factor), .. }) = register.in_model else { return Ok(number) };
    let word = from(factor.address, address, words).and_then(<[u16]>::first).ok_or(Absent::TooShort)?;
    Ok(factor.keep(number, *word)?)
}

/// The scale factor of `register` in such an answer, as the device gave it.
pub fn scale_factor(register: &Register, address: u16, words: &[u16]) -> Option<i16> {
    let factor = from(register.in_model?.scale_factor?.address, address, words)?.first()?;
    Some(i16::from_be_bytes(factor.to_be_bytes()))
}

/// The words from the register at `at` on, of an answer that begins at `address`.
fn from(at: u16, address: u16, words: &[u16]) -> Option<&[u16]> {
    words.get(usize::from(at.checked_sub(address)?)..)
}

/// Whether the header in the answer is that of the model in which the register was found. Where it is not, the device
/// has moved its models, and no word is where it was.
pub fn is_in_place(register: &Register, address: u16, words: &[u16]) -> bool {
    register.in_model.is_none_or(|model| {
        from(model.header, address, words).is_some_and(|words| words.starts_with(&[model.id, model.length]))
    })
}

/// The number in `words`, which begin at the register's address.
pub fn number(register: &Register, words: &[u16]) -> Result<Number, Absent> {
    number_in(register.order, register, words)
}

/// The number in `words`, were they in this order.
pub fn number_in(order: WordOrder, register: &Register, words: &[u16]) -> Result<Number, Absent> {
    let words = words.get(..usize::from(register.kind.width())).ok_or(Absent::TooShort)?;
    let bits = joined_in(order, words);
    if register.absent.contains(&bits) {
        return Err(Absent::Sentinel(bits));
    }
    let [.., b3, b2, b1, b0] = bits.to_be_bytes();
    match register.kind {
        Kind::U16 | Kind::U32 | Kind::U64 => Ok(Number::U64(bits)),
        Kind::I16 => Ok(Number::I64(i64::from(i16::from_be_bytes([b1, b0])))),
        Kind::I32 => Ok(Number::I64(i64::from(i32::from_be_bytes([b3, b2, b1, b0])))),
        Kind::I64 => Ok(Number::I64(i64::from_be_bytes(bits.to_be_bytes()))),
        Kind::F32 => {
            let value = f32::from_be_bytes([b3, b2, b1, b0]);
            Number::from_f32(value).ok_or(if value.is_nan() { Absent::NotANumber } else { Absent::Infinite })
        }
        Kind::F64 => {
            let value = f64::from_be_bytes(bits.to_be_bytes());
            Number::from_f64(value).ok_or(if value.is_nan() { Absent::NotANumber } else { Absent::Infinite })
        }
    }
}

/// The words as one number.
pub fn joined_in(order: WordOrder, words: &[u16]) -> u64 {
    let add = |bits, word: &u16| bits << 16 | u64::from(if order.swaps_bytes() { word.swap_bytes() } else { *word });
    if order.begins_low() { words.iter().rev().fold(0, add) } else { words.iter().fold(0, add) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ratio;
    use crate::sources::template::{Function, Positive, ScaleFactor};
    use proptest::prelude::*;

    fn register(kind: Kind, order: WordOrder, absent: &[u64]) -> Register {
        Register {
            quantity: "power_kw".parse().unwrap(),
            function: Function::Input,
            address: 0,
            kind,
            order,
            scale: Ratio::ONE,
            absent: absent.to_vec(),
            rolls_over_at: None,
            ct: false,
            vt: false,
            positive: Positive::Import,
            in_model: None,
        }
    }

    fn decoded(kind: Kind, words: &[u16]) -> Result<Number, Absent> {
        number(&register(kind, WordOrder::HighFirst, &[]), words)
    }

    #[test]
    fn each_type_reads_its_words() {
        assert_eq!(decoded(Kind::U16, &[0xFFFF]), Ok(Number::U64(65_535)));
        assert_eq!(decoded(Kind::I16, &[0xFFFF]), Ok(Number::I64(-1)));
        assert_eq!(decoded(Kind::U32, &[1, 2]), Ok(Number::U64(65_538)));
        assert_eq!(decoded(Kind::I32, &[0xFFFF, 0xFFFE]), Ok(Number::I64(-2)));
        assert_eq!(decoded(Kind::I64, &[0x8000, 0, 0, 0]), Ok(Number::I64(i64::MIN)));
        assert_eq!(decoded(Kind::U64, &[0xFFFF; 4]), Ok(Number::U64(u64::MAX)));
        assert_eq!(decoded(Kind::F32, &[0x4366, 0x1999]), Ok(Number::F32(230.099_99)));
        assert_eq!(decoded(Kind::F64, &[0x3FF8, 0, 0, 0]), Ok(Number::F64(1.5)));
        let swapped = register(Kind::U16, WordOrder::HighFirstSwapped, &[]);
        assert_eq!(number(&swapped, &[0x0100]), Ok(Number::U64(1)));
    }

    #[test]
    fn what_is_no_number_is_absent_with_its_reason() {
        assert_eq!(decoded(Kind::F32, &[0x7FC0, 0]), Err(Absent::NotANumber));
        assert_eq!(decoded(Kind::F32, &[0xFF80, 0]), Err(Absent::Infinite));
        assert_eq!(decoded(Kind::F64, &[0x7FF8, 0, 0, 1]), Err(Absent::NotANumber));
        assert_eq!(decoded(Kind::U32, &[1]), Err(Absent::TooShort));
        let sentinel = register(Kind::I16, WordOrder::HighFirst, &[0x8000]);
        assert_eq!(number(&sentinel, &[0x8000]), Err(Absent::Sentinel(0x8000)));
        assert_eq!(number(&sentinel, &[0x7FFF]), Ok(Number::I64(32_767)));
    }

    #[test]
    fn a_point_of_a_model_is_scaled_by_the_factor_in_its_own_answer() {
        let factor = ScaleFactor { address: 72, missing_is_zero: false, found: None };
        let model = InModel { header: 70, id: 103, length: 3, scale_factor: Some(factor) };
        let register =
            Register { address: 73, in_model: Some(model), ..register(Kind::I16, WordOrder::HighFirst, &[0x8000]) };
        let answer = [103, 3, 0xFFFF, 0xFF9C];
        assert_eq!(value(&register, 70, &answer), Ok(Number::I64(-10_000_000)));
        assert_eq!((scale_factor(&register, 70, &answer), is_in_place(&register, 70, &answer)), (Some(-1), true));
        assert_eq!(value(&register, 70, &[103, 3, 0x8000, 1]), Err(Absent::Scale(Unusable::NoScaleFactor)));
        assert_eq!(value(&register, 70, &[103, 3, 0x8000, 0x8000]), Err(Absent::Sentinel(0x8000)));
        for moved in [&[102, 3, 0, 0][..], &[103, 4, 0, 0], &[103], &[]] {
            assert!(!is_in_place(&register, 70, moved), "{moved:?}");
        }
        // An answer that does not hold what it should has no value, wherever it begins.
        assert_eq!(value(&register, 71, &[3]), Err(Absent::TooShort));
        assert_eq!(value(&register, 73, &[1]), Err(Absent::TooShort));
        assert_eq!(value(&register, 74, &[1]), Err(Absent::TooShort));
    }

    #[test]
    fn minus_zero_is_zero() {
        assert_eq!(decoded(Kind::F32, &[0x8000, 0]).map(Number::to_display).map(f64::to_bits), Ok(0));
    }

    proptest! {
        #[test]
        fn the_other_orders_are_the_same_bytes_rearranged(bytes in prop::array::uniform8(any::<u8>())) {
            for kind in [Kind::U32, Kind::I32, Kind::F32, Kind::U64, Kind::I64, Kind::F64] {
                let bytes = &bytes[..usize::from(kind.width()) * 2];
                let words = |bytes: &[u8]| -> Vec<u16> {
                    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
                };
                let high_first = words(bytes);
                let low_first: Vec<u16> = high_first.iter().rev().copied().collect();
                let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
                let low_first_swapped = words(&reversed);
                let high_first_swapped: Vec<u16> = low_first_swapped.iter().rev().copied().collect();
                let expected = number(&register(kind, WordOrder::HighFirst, &[]), &high_first);
                for (order, words) in [
                    (WordOrder::LowFirst, low_first),
                    (WordOrder::HighFirstSwapped, high_first_swapped),
                    (WordOrder::LowFirstSwapped, low_first_swapped),
                ] {
                    prop_assert_eq!(number(&register(kind, order, &[]), &words), expected);
                }
            }
        }

        #[test]
        fn a_float_is_kept_bit_by_bit(value in any::<f32>().prop_filter("a number", |v| v.is_finite())) {
            let bits = value.to_bits();
            let words = [bits >> 16, bits & 0xFFFF].map(|word| u16::try_from(word).unwrap());
            prop_assert_eq!(decoded(Kind::F32, &words), Ok(Number::F32(value)));
        }
    }
}
