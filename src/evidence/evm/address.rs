//! Addresses as a person writes them. `Display` of an `Address` writes the mixed case of EIP-55.

use alloy_primitives::Address;

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    #[error("{0:?} is no address: one is written 0x and 40 hex digits")]
    Form(String),
    /// The case of its letters is the checksum of an address that somebody mistyped or cut.
    #[error(
        "{text} is mistyped: its checksum (upper and lower case, EIP-55) does not fit, as {} would; copy it again from \
         where it comes from",
        address
    )]
    Checksum { text: String, address: Address },
}

/// Reads an address in lower case, in upper case, or in the mixed case of EIP-55, which is then checked.
pub fn read_address(text: &str) -> Result<Address, BadAddress> {
    let form = || BadAddress::Form(text.chars().take(64).collect());
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 40).ok_or_else(form)?;
    let address: Address = digits.parse().map_err(|_| form())?;
    let has = |case: fn(&char) -> bool| digits.chars().any(|digit| case(&digit));
    let is_mixed = has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase);
    match is_mixed && address.to_checksum(None) != text {
        true => Err(BadAddress::Checksum { text: text.to_owned(), address }),
        false => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EIP-55, "Test Cases": all caps, all lower, normal.
    const PUBLISHED: [&str; 8] = [
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
        "0xde709f2102306220921060314715629080e2fb77",
        "0x27b1fdb04752bbc536007a920d24acb045561c26",
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ];

    #[test]
    fn published_addresses_read_in_every_case_and_are_written_in_theirs() {
        for text in PUBLISHED {
            let address = read_address(text).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(read_address(&text.to_lowercase()), Ok(address));
            assert_eq!(read_address(&format!("0x{}", text[2..].to_uppercase())), Ok(address));
        }
    }

    #[test]
    fn a_wrong_case_in_mixed_case_is_told_with_what_would_fit() {
        let text = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        for at in (2..42).filter(|at| text.as_bytes()[*at].is_ascii_alphabetic()) {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 0x20;
            let wrong = String::from_utf8(bytes).unwrap();
            let told = read_address(&wrong).unwrap_err().to_string();
            assert!(told.starts_with(&wrong) && told.contains(text), "{told}");
        }
        let other_digit = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAee";
        assert!(matches!(read_address(other_digit), Err(BadAddress::Checksum { .. })));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let plain = "de709f2102306220921060314715629080e2fb77";
        for text in [
            "",
            "0x",
            plain,
            &format!("0X{plain}"),
            &format!("0x{plain}0"),
            &format!("0x{}", &plain[1..]),
            &format!(" 0x{plain}"),
            &format!("0x{}g", &plain[1..]),
            &format!("0x0x{}", &plain[2..]),
            &"é".repeat(21),
        ] {
            assert!(matches!(read_address(text), Err(BadAddress::Form(_))), "{text}");
        }
    }
}
