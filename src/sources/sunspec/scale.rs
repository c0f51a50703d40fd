//! Scale factors: powers of ten that stand beside the values and that a device may change from one answer to the next.
//!
//! A value is kept together with its factor, as the whole number `raw × 10^(factor + 6)`: what a kept number means stays
//! the same, and a changed factor is no new register. It is exact, or there is no value.

use crate::model::{Number, Ratio};
use crate::sources::template::ScaleFactor;

/// Why a value with a scale factor cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("the device gives no scale factor for it")]
    NoScaleFactor,
    #[error("its scale factor {0} is not within -10 and 10")]
    WrongScaleFactor(i16),
    #[error("{raw} times ten to the power of {factor} is more than can be kept")]
    TooLarge { raw: i128, factor: i16 },
    #[error("{raw} times ten to the power of {factor} is finer than a millionth")]
    TooFine { raw: i128, factor: i16 },
}

/// Decimals of a kept number. A millionth of a Wh or W, in kWh or kW, is the finest ratio that there is.
const DECIMALS: i16 = 6;

/// "Not implemented", in the type of scale factors.
const NOT_IMPLEMENTED: u16 = 0x8000;

impl ScaleFactor {
    /// From a kept number to the unit of its model.
    pub fn of_kept() -> Option<Ratio> {
        Ratio::new(1, 10_i64.pow(u32::from(DECIMALS.unsigned_abs())))
    }

    /// `number` as it is kept, by this factor's word in the answer that holds both.
    pub fn keep(self, number: Number, word: u16) -> Result<Number, Unusable> {
        let factor = match exponent(word) {
            Err(Unusable::NoScaleFactor) if self.missing_is_zero => 0,
            factor => factor?,
        };
        kept(number, factor)
    }

    /// Where a register that begins again after the raw number `end` begins again as it is kept. Unknown when the
    /// device gave no factor, or one with which the end is out of reach.
    pub fn end(self, end: u64) -> Option<u64> {
        match kept(Number::U64(end), self.found?) {
            Ok(Number::U64(end)) => Some(end),
            _ => None,
        }
    }
}

/// The power of ten that a factor's word means.
pub fn exponent(word: u16) -> Result<i16, Unusable> {
    match i16::from_be_bytes(word.to_be_bytes()) {
        _ if word == NOT_IMPLEMENTED => Err(Unusable::NoScaleFactor),
        factor @ -10..=10 => Ok(factor),
        factor => Err(Unusable::WrongScaleFactor(factor)),
    }
}

/// `number × 10^(factor + 6)` for a factor from -10 to 10.
fn kept(number: Number, factor: i16) -> Result<Number, Unusable> {
    let raw = match number {
        Number::I64(raw) => i128::from(raw),
        Number::U64(raw) => i128::from(raw),
        float => return Ok(float),
    };
    let exponent = factor + DECIMALS;
    // At most 2^64 × 10^16, far below 2^127.
    let power = 10_i128.pow(u32::from(exponent.unsigned_abs()));
    if exponent < 0 && raw % power != 0 {
        return Err(Unusable::TooFine { raw, factor });
    }
    let kept = if exponent < 0 { raw / power } else { raw * power };
    let kept = match number {
        Number::I64(_) => i64::try_from(kept).map(Number::I64),
        _ => u64::try_from(kept).map(Number::U64),
    };
    kept.map_err(|_| Unusable::TooLarge { raw, factor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTOR: ScaleFactor = ScaleFactor { address: 0, missing_is_zero: false, found: None };

    fn word(factor: i16) -> u16 {
        u16::from_be_bytes(factor.to_be_bytes())
    }

    #[test]
    fn a_changed_factor_gives_the_same_kept_number_for_the_same_power() {
        // 5024.3 W as 50243 × 10^-1 and, when it no longer fits 16 bits, 5024 W as 5024 × 10^0.
        assert_eq!(FACTOR.keep(Number::U64(50_243), word(-1)), Ok(Number::U64(5_024_300_000)));
        assert_eq!(FACTOR.keep(Number::U64(5_024), word(0)), Ok(Number::U64(5_024_000_000)));
        assert_eq!(FACTOR.keep(Number::I64(-7), word(3)), Ok(Number::I64(-7_000_000_000)));
    }

    #[test]
    fn a_missing_factor_is_no_zero_unless_the_device_means_it() {
        assert_eq!(FACTOR.keep(Number::U64(1), 0x8000), Err(Unusable::NoScaleFactor));
        let meant = ScaleFactor { missing_is_zero: true, ..FACTOR };
        assert_eq!(meant.keep(Number::U64(1), 0x8000), Ok(Number::U64(1_000_000)));
        assert_eq!(meant.keep(Number::U64(1), word(11)), Err(Unusable::WrongScaleFactor(11)));
        assert_eq!(meant.keep(Number::U64(1), word(-11)), Err(Unusable::WrongScaleFactor(-11)));
        assert_eq!(exponent(0xFFFF), Ok(-1));
    }

    #[test]
    fn what_cannot_be_kept_exactly_is_absent() {
        assert_eq!(FACTOR.keep(Number::U64(15), word(-7)), Err(Unusable::TooFine { raw: 15, factor: -7 }));
        assert_eq!(FACTOR.keep(Number::U64(20), word(-7)), Ok(Number::U64(2)));
        assert_eq!(FACTOR.keep(Number::I64(0), word(-10)), Ok(Number::I64(0)));
        let factor = 10;
        assert_eq!(FACTOR.keep(Number::I64(-9_999), word(factor)), Err(Unusable::TooLarge { raw: -9_999, factor }));
        assert_eq!(
            FACTOR.keep(Number::U64(u64::MAX), word(0)).unwrap_err().to_string(),
            "18446744073709551615 times ten to the power of 0 is more than can be kept"
        );
    }

    #[test]
    fn the_end_of_an_accumulator_is_kept_like_its_values() {
        let end = |found| ScaleFactor { found, ..FACTOR }.end(1 << 32);
        assert_eq!(end(Some(0)), Some(4_294_967_296_000_000));
        assert_eq!(end(Some(-6)), Some(4_294_967_296));
        assert_eq!(end(Some(-7)), None);
        assert_eq!(end(Some(4)), None);
        assert_eq!(end(None), None);
    }

    proptest! {
        #[test]
        fn a_kept_number_is_exactly_what_the_device_said(raw in any::<i16>(), factor in -10..=10_i16) {
            // Both sides times 10^10, in whole numbers.
            let said = i128::from(raw) * 10_i128.pow(u32::try_from(factor + 10).unwrap());
            match FACTOR.keep(Number::I64(raw.into()), word(factor)) {
                Ok(Number::I64(kept)) => prop_assert_eq!(i128::from(kept) * 10_000, said),
                Ok(other) => prop_assert!(false, "{:?}", other),
                Err(Unusable::TooFine { .. }) => prop_assert!(said % 10_000 != 0),
                Err(Unusable::TooLarge { .. }) => prop_assert!(said / 10_000 != i128::from(i64::try_from(said / 10_000).unwrap_or(0))),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
