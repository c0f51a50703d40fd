//! Numbers as nodes write them: `0x` and hex digits.

use std::fmt;

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, de};

/// Leading zeros and capitals occur and are harmless; anything else is refused, and so is what does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quantity<T>(pub T);

pub trait Number: Sized {
    const BITS: usize;
    /// Of at least one hex digit, and no more bits than it has.
    fn of_hex(digits: &str) -> Option<Self>;
}

impl Number for u64 {
    const BITS: usize = 64;
    fn of_hex(digits: &str) -> Option<Self> {
        Self::from_str_radix(digits, 16).ok()
    }
}

impl Number for u128 {
    const BITS: usize = 128;
    fn of_hex(digits: &str) -> Option<Self> {
        Self::from_str_radix(digits, 16).ok()
    }
}

impl Number for U256 {
    const BITS: usize = 256;
    fn of_hex(digits: &str) -> Option<Self> {
        Self::from_str_radix(digits, 16).ok()
    }
}

impl<'de, T: Number> Deserialize<'de> for Quantity<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Visitor(std::marker::PhantomData))
    }
}

struct Visitor<T>(std::marker::PhantomData<T>);

impl<T: Number> de::Visitor<'_> for Visitor<T> {
    type Value = Quantity<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number as `0x` and hex digits, of at most {} bits", T::BITS)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
        let digits = text.strip_prefix("0x").filter(|digits| !digits.is_empty()).ok_or_else(wrong)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let significant = digits.trim_start_matches('0');
        // The digits of zero are all leading ones.
        let digits = if significant.is_empty() { "0" } else { significant };
        if digits.len() > T::BITS / 4 {
            return Err(wrong());
        }
        T::of_hex(digits).map(Quantity).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Number>(text: &str) -> Option<T> {
        serde_json::from_str::<Quantity<T>>(text).ok().map(|quantity| quantity.0)
    }

    #[test]
    fn numbers_are_hex_that_fits() {
        assert_eq!(read::<u64>("\"0x0\""), Some(0));
        assert_eq!(read::<u64>("\"0x00fF\""), Some(255));
        assert_eq!(read::<u64>("\"0x0000000000000000000000001\""), Some(1));
        assert_eq!(read::<u64>("\"0xffffffffffffffff\""), Some(u64::MAX));
        assert_eq!(read::<u64>("\"0x10000000000000000\""), None);
        assert_eq!(read::<u128>("\"0x10000000000000000\""), Some(1 << 64));
        assert_eq!(read::<U256>(&format!("\"0x{}\"", "f".repeat(64))), Some(U256::MAX));
        assert_eq!(read::<U256>(&format!("\"0x1{}\"", "f".repeat(64))), None);
        for bad in
            ["0", "\"\"", "\"0x\"", "\"1\"", "\"0x-1\"", "\"0x+1\"", "\"0x1 \"", "\"0X1\"", "\"0x1_0\"", "null", "1"]
        {
            assert_eq!(read::<u64>(bad), None, "{bad}");
            assert_eq!(read::<U256>(bad), None, "{bad}");
        }
    }
}
