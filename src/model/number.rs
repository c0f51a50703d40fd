//! Exact numbers: what a meter said, and the whole units that are added up and hashed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number exactly as a source gave it. Never NaN, never infinite, never −0.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    F32(f32),
    F64(f64),
    I64(i64),
    U64(u64),
}

impl Number {
    /// `None` for NaN and the infinities: they are absent, not numbers.
    pub fn from_f32(value: f32) -> Option<Self> {
        value.is_finite().then_some(Self::F32(value + 0.0))
    }

    /// `None` for NaN and the infinities: they are absent, not numbers.
    pub fn from_f64(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self::F64(value + 0.0))
    }

    /// The type as the evidence formats name it: `f64`, `i64` or `u64` (an f32 is an f64 exactly).
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::F32(_) | Self::F64(_) => "f64",
            Self::I64(_) => "i64",
            Self::U64(_) => "u64",
        }
    }

    /// The nearest double, for display. An f32 becomes the double with its shortest decimal form (230.1, not
    /// 230.10000610351562).
    #[allow(clippy::cast_precision_loss)]
    pub fn to_display(self) -> f64 {
        match self {
            Self::F32(value) => value.to_string().parse().unwrap_or(f64::from(value)),
            Self::F64(value) => value,
            Self::I64(value) => value as f64,
            Self::U64(value) => value as f64,
        }
    }

    /// Sign, significand and power of two: the number is `±significand × 2^exponent` exactly.
    fn parts(self) -> (bool, u64, i32) {
        match self {
            Self::F32(value) => float_parts(f64::from(value)),
            Self::F64(value) => float_parts(value),
            Self::I64(value) => (value < 0, value.unsigned_abs(), 0),
            Self::U64(value) => (false, value, 0),
        }
    }

    /// `self × ratio × 10^decimals`, rounded once to a whole number, ties to even. `None` when it does not fit an
    /// i64: no meter of this world reads that.
    pub fn scaled(self, ratio: Ratio, decimals: u32) -> Option<i64> {
        let (negative, significand, exponent) = self.parts();
        let factor = u128::from(ratio.num.unsigned_abs()) * 10_u128.checked_pow(decimals)?;
        let mut numerator = u128::from(significand).checked_mul(factor)?;
        let mut denominator = u128::from(ratio.den);
        if exponent >= 0 {
            let shift = u32::try_from(exponent).ok()?;
            if numerator != 0 && shift >= numerator.leading_zeros() {
                return None;
            }
            numerator = if numerator == 0 { 0 } else { numerator << shift };
        } else {
            let shift = exponent.unsigned_abs();
            if shift >= denominator.leading_zeros() {
                return Some(0); // the numerator is below 2^127, so this is less than one half
            }
            denominator <<= shift;
        }
        let (whole, rest) = (numerator / denominator, numerator % denominator);
        let up = match rest.cmp(&(denominator - rest)) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => whole & 1,
            std::cmp::Ordering::Greater => 1,
        };
        let magnitude = i64::try_from(whole + up).ok()?;
        Some(if negative != (ratio.num < 0) { -magnitude } else { magnitude })
    }
}

/// The significand and exponent of a finite double (IEEE 754-2019, 3.4).
fn float_parts(value: f64) -> (bool, u64, i32) {
    let bits = value.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let exponent = i32::try_from((bits >> 52) & 0x7ff).unwrap_or(0);
    let (significand, exponent) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    let spare = if significand == 0 { 0 } else { significand.trailing_zeros() };
    (value.is_sign_negative(), significand >> spare, exponent + i32::try_from(spare).unwrap_or(0))
}

/// Two numbers are the same value when type (f32 and f64 are one) and exact value agree.
impl PartialEq for Number {
    #[allow(clippy::float_cmp)]
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::I64(a), Self::I64(b)) => a == b,
            (Self::U64(a), Self::U64(b)) => a == b,
            (Self::F32(a), Self::F32(b)) => a == b,
            (Self::F64(a), Self::F64(b)) => a == b,
            (Self::F32(a), Self::F64(b)) | (Self::F64(b), Self::F32(a)) => f64::from(a) == b,
            _ => false,
        }
    }
}

/// A rational factor, kept in lowest terms; `den > 0`. Both fit 31 bits, so that 128 bits hold every product.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "(i64, i64)", into = "(i64, i64)")]
pub struct Ratio {
    num: i64,
    den: u64,
}

impl Ratio {
    pub const ONE: Self = Self { num: 1, den: 1 };
    pub const MINUS_ONE: Self = Self { num: -1, den: 1 };
    const MAX: u64 = (1 << 31) - 1;

    /// `num / den`; `None` when either is zero or does not fit 31 bits in lowest terms.
    pub fn new(num: i64, den: i64) -> Option<Self> {
        if num == 0 || den == 0 {
            return None;
        }
        let (mut a, mut b) = (num.unsigned_abs(), den.unsigned_abs());
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let (top, bottom) = (num.unsigned_abs() / a, den.unsigned_abs() / a);
        if top > Self::MAX || bottom > Self::MAX {
            return None;
        }
        let top = i64::try_from(top).ok()?;
        Some(Self { num: if (num < 0) == (den < 0) { top } else { -top }, den: bottom })
    }

    /// A decimal such as `0.001`, `-10` or `200/5`, exactly.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((over, under)) = text.split_once('/') {
            return Self::parse(over.trim())?.times(Self::parse(under.trim())?.inverse()?);
        }
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let all: String = [whole, part].concat();
        if all.is_empty() || all.len() > 18 || !all.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let num: i64 = all.parse().ok()?;
        Self::new(if negative { -num } else { num }, 10_i64.checked_pow(u32::try_from(part.len()).ok()?)?)
    }

    /// The product; `None` when it does not fit.
    pub fn times(self, other: Self) -> Option<Self> {
        Self::new(
            self.num.checked_mul(other.num)?,
            i64::try_from(self.den).ok()?.checked_mul(i64::try_from(other.den).ok()?)?,
        )
    }

    fn inverse(self) -> Option<Self> {
        Self::new(i64::try_from(self.den).ok()?, self.num)
    }

    /// The factor as a double, for display.
    #[allow(clippy::cast_precision_loss)]
    pub fn to_display(self) -> f64 {
        self.num as f64 / self.den as f64
    }

    /// `value × self` as a double, for display: the number's shortest decimal form, scaled and trimmed of the noise
    /// that binary fractions add.
    #[allow(clippy::cast_precision_loss)]
    pub fn display(self, value: Number) -> f64 {
        if self == Self::ONE {
            return value.to_display();
        }
        let scaled = value.to_display() * self.num as f64 / self.den as f64;
        let digits = if matches!(value, Number::F32(_)) { 7 } else { 15 };
        format!("{scaled:.*e}", digits).parse().unwrap_or(scaled)
    }
}

impl From<Ratio> for (i64, i64) {
    fn from(ratio: Ratio) -> Self {
        (ratio.num, i64::try_from(ratio.den).unwrap_or(i64::MAX))
    }
}

impl TryFrom<(i64, i64)> for Ratio {
    type Error = &'static str;

    fn try_from((num, den): (i64, i64)) -> Result<Self, Self::Error> {
        Self::new(num, den).ok_or("not a ratio of two numbers of 31 bits")
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.num, self.den)
    }
}

macro_rules! whole {
    ($(#[$doc:meta])* $name:ident, $from:ident, $as:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            pub const ZERO: Self = Self(0);

            pub const fn $from(value: i64) -> Self {
                Self(value)
            }

            pub const fn $as(self) -> i64 {
                self.0
            }

            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).map(Self)
            }
        }
    };
}

whole!(
    /// Energy in whole micro-watt-hours. Products of power and time go through 128 bits.
    Energy,
    from_uwh,
    as_uwh
);
whole!(
    /// Power in whole milliwatts.
    Power,
    from_mw,
    as_mw
);

impl Energy {
    /// Decimals from kWh to µWh.
    pub const KWH_DECIMALS: u32 = 9;

    /// The energy in kWh, for display.
    #[allow(clippy::cast_precision_loss)]
    pub fn to_kwh(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Power {
    /// Decimals from kW to mW.
    pub const KW_DECIMALS: u32 = 6;

    /// The power in kW, for display.
    #[allow(clippy::cast_precision_loss)]
    pub fn to_kw(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn f64(value: f64) -> Number {
        Number::from_f64(value).unwrap()
    }

    #[test]
    fn kilowatt_hours_become_micro_watt_hours_once_ties_to_even() {
        assert_eq!(f64(1234.5).scaled(Ratio::ONE, 9), Some(1_234_500_000_000));
        assert_eq!(Number::from_f32(0.1).unwrap().scaled(Ratio::ONE, 9), Some(100_000_001));
        assert_eq!(Number::I64(5).scaled(Ratio::new(1, 10).unwrap(), 0), Some(0));
        assert_eq!(Number::I64(15).scaled(Ratio::new(1, 10).unwrap(), 0), Some(2));
        assert_eq!(Number::I64(25).scaled(Ratio::new(1, 10).unwrap(), 0), Some(2));
        assert_eq!(Number::I64(-25).scaled(Ratio::new(1, 10).unwrap(), 0), Some(-2));
        assert_eq!(f64(2.5).scaled(Ratio::MINUS_ONE, 0), Some(-2));
        assert_eq!(f64(5e-324).scaled(Ratio::ONE, 9), Some(0));
        assert_eq!(f64(1e300).scaled(Ratio::ONE, 9), None);
        assert_eq!(Number::U64(u64::MAX).scaled(Ratio::ONE, 9), None);
        assert_eq!(f64(0.0).scaled(Ratio::ONE, 9), Some(0));
    }

    #[test]
    fn sentinels_of_floats_are_no_numbers() {
        assert!(Number::from_f32(f32::NAN).is_none() && Number::from_f64(f64::INFINITY).is_none());
        assert!(matches!(Number::from_f64(-0.0), Some(Number::F64(zero)) if zero.is_sign_positive()));
    }

    #[test]
    fn ratios_are_exact_decimals_and_quotients() {
        assert_eq!(Ratio::parse("200/5"), Ratio::new(40, 1));
        assert_eq!(Ratio::parse("0.001"), Ratio::new(1, 1000));
        assert_eq!(Ratio::parse("-10"), Ratio::new(-10, 1));
        assert_eq!(Ratio::parse("11000/110").unwrap().times(Ratio::new(1, 100).unwrap()), Some(Ratio::ONE));
        for bad in ["", "0", "1/0", "a", "1e3", "1.2.3", "9999999999"] {
            assert_eq!(Ratio::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn display_shows_what_the_meter_meant() {
        assert_eq!(Number::from_f32(230.1).unwrap().to_display().to_string(), "230.1");
        assert_eq!(Ratio::new(1, 10).unwrap().display(Number::U64(2301)).to_string(), "230.1");
        assert_eq!(Ratio::new(1, 1000).unwrap().display(Number::from_f32(230.1).unwrap()).to_string(), "0.2301");
    }

    proptest! {
        #[test]
        fn scaling_agrees_with_wide_arithmetic(value in any::<i32>(), num in 1..1000_i64, den in 1..1000_i64) {
            let ratio = Ratio::new(num, den).unwrap();
            let got = i128::from(Number::I64(value.into()).scaled(ratio, 6).unwrap());
            let exact = i128::from(value) * i128::from(num) * 1_000_000;
            prop_assert!((got * i128::from(den) - exact).abs() * 2 <= i128::from(den));
        }

        #[test]
        fn an_f32_is_the_same_exact_number_as_its_f64(value in any::<f32>()) {
            if let (Some(a), Some(b)) = (Number::from_f32(value), Number::from_f64(f64::from(value))) {
                prop_assert_eq!(a, b);
                prop_assert_eq!(a.scaled(Ratio::ONE, 9), b.scaled(Ratio::ONE, 9));
            }
        }
    }
}
