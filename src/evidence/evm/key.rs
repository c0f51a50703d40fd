//! The key that signs transactions, and the one kind of transaction that it signs (EIP-1559).

use std::fmt;

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex};
use k256::ecdsa::SigningKey;
use zeroize::Zeroizing;

use super::keystore;

/// An account's secret key. It is wiped when it is dropped, and prints as `***`.
#[derive(Clone)]
pub struct Key {
    signing: SigningKey,
    address: Address,
}

/// Why no key could be read. No text bears a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("not a key: it is 64 hex digits, with 0x before them or not, or a Web3 keystore (JSON)")]
    Form,
    #[error("not a key: a secp256k1 key is neither 0 nor as large as the order of the curve")]
    Range,
    #[error("not a keystore: {0}")]
    Keystore(String),
    #[error("a keystore of version {0}: only version 3 is read; write it anew, as with `geth account update`")]
    Version(String),
    #[error("the keystore's {what} {found:?} is not known: {known} is")]
    Unknown { what: &'static str, found: String, known: &'static str },
    #[error(
        "the keystore's {parameters} need {needs}, and at most {bound} are spent on a gateway: write the keystore with lighter \
         parameters, such as n = 4096 (`geth account new --lightkdf`), or give the raw key as a systemd credential, which \
         systemd-creds encrypts"
    )]
    TooHeavy { parameters: String, needs: String, bound: String },
    #[error("the keystore needs a password, and none is given")]
    NoPassword,
    #[error("the password does not open the keystore, or the keystore was changed")]
    Password,
    #[error(
        "the keystore says it is of {said}, but its key is that of {is}: take the right file, or correct its `address`"
    )]
    Account { said: String, is: Address },
}

/// A transaction that moves no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub chain_id: u64,
    pub nonce: u64,
    /// Wei for each unit of gas.
    pub max_fee: u128,
    pub tip: u128,
    pub gas_limit: u64,
    /// None makes a contract of the data.
    pub to: Option<Address>,
    pub data: Bytes,
}

/// A transaction as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub hash: B256,
    /// EIP-2718.
    pub raw: Bytes,
}

impl Key {
    /// Reads a raw key (64 hex digits) or a Web3 keystore, which `password` opens; a raw key needs none. Opening a
    /// keystore may take seconds and 64 MiB: keep it off the async threads.
    pub fn read(secret: &str, password: Option<&str>) -> Result<Self, BadKey> {
        let text = secret.trim();
        if text.starts_with('{') {
            return keystore::open(text, password);
        }
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut bytes = Zeroizing::new([0; 32]);
        // hex takes a second 0x for one: the length is of the digits alone.
        if digits.len() != 64 || digits.starts_with("0x") {
            return Err(BadKey::Form);
        }
        hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_| BadKey::Form)?;
        Self::from_bytes(&bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Result<Self, BadKey> {
        let signing = SigningKey::from_slice(bytes).map_err(|_| BadKey::Range)?;
        let address = Address::from_public_key(signing.verifying_key());
        Ok(Self { signing, address })
    }

    pub fn address(&self) -> Address {
        self.address
    }

    /// The same call gives the same bytes (RFC 6979), so that what was signed before a crash is signed again.
    pub fn sign(&self, call: &Call) -> Signed {
        self.sign_transaction(TxEip1559 {
            chain_id: call.chain_id,
            nonce: call.nonce,
            gas_limit: call.gas_limit,
            max_fee_per_gas: call.max_fee,
            max_priority_fee_per_gas: call.tip,
            to: call.to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            access_list: Default::default(),
            input: call.data.clone(),
        })
    }

    fn sign_transaction(&self, transaction: TxEip1559) -> Signed {
        let signature = self.sign_hash(&transaction.signature_hash());
        let signed = transaction.into_signed(signature);
        let mut raw = Vec::new();
        signed.eip2718_encode(&mut raw);
        Signed { hash: *signed.hash(), raw: raw.into() }
    }

    fn sign_hash(&self, hash: &B256) -> Signature {
        // It fails only where r or s is 0, which nobody has found a hash for.
        #[expect(clippy::expect_used, reason = "no hash with such a signature is known")]
        let signature = self.signing.sign_prehash_recoverable(hash.as_slice()).expect("r and s are not 0");
        signature.into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{address, b256};

    use super::*;

    fn key(digits: &str) -> Key {
        Key::read(digits, None).unwrap()
    }

    /// EIP-155, "Example".
    #[test]
    fn the_example_of_eip_155_is_signed_as_published() {
        let key = key(&"46".repeat(32));
        assert_eq!(key.address(), address!("9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"));
        let hash = b256!("daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53");
        let r = b256!("28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276");
        let s = b256!("67cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83");
        assert_eq!(key.sign_hash(&hash), Signature::from_scalars_and_parity(r, s, false));
    }

    /// The first of ethereumjs-monorepo's vectors for EIP-1559.
    #[test]
    fn a_published_transaction_is_signed_as_published() {
        let key = key("0x8f2a55949038a9610f50fb23b5883af3b4ecb3c3bb792cbcefbd1542c692be63");
        let transaction = TxEip1559 {
            chain_id: 4,
            nonce: 819,
            gas_limit: 35552,
            max_fee_per_gas: 121_212,
            max_priority_fee_per_gas: 75853,
            to: address!("000000000000000000000000000000000000aaaa").into(),
            value: U256::from(43_203_529),
            access_list: Default::default(),
            input: Bytes::new(),
        };
        let published = "02f86e048203338301284d8301d97c828ae094000000000000000000000000000000000000aaaa8402933bc980c080a00f924c\
            b68412c8f1cfd74d9b581c71eeaf94fff6abdde3e5b02ca6b2931dcf47a07dd1c50027c3e31f8b565e25ce68a5072110f61fce5eee81b195dd\
            51273c2f83";
        let signed = key.sign_transaction(transaction);
        assert_eq!(hex::encode(&signed.raw), published);
        assert_eq!(signed.hash, alloy_primitives::keccak256(&signed.raw));
    }

    #[test]
    fn a_call_is_signed_alike_each_time_and_in_no_other_way() {
        let key = key(&"46".repeat(32));
        let call = Call {
            chain_id: 137,
            nonce: 7,
            max_fee: 60_000_000_000,
            tip: 30_000_000_000,
            gas_limit: 30_000,
            to: Some(key.address()),
            data: Bytes::from_static(b"MSEAL1"),
        };
        let signed = key.sign(&call);
        assert_eq!(signed, key.sign(&call));
        let others = [
            Call { chain_id: 80002, ..call.clone() },
            Call { nonce: 8, ..call.clone() },
            Call { max_fee: 66_000_000_000, ..call.clone() },
            Call { tip: 33_000_000_000, ..call.clone() },
            Call { gas_limit: 30_001, ..call.clone() },
            Call { to: None, ..call.clone() },
            Call { data: Bytes::new(), ..call.clone() },
        ];
        assert!(others.iter().all(|other| key.sign(other).hash != signed.hash));
    }

    #[test]
    fn a_raw_key_reads_as_people_keep_it() {
        let digits = "8f2a55949038a9610f50fb23b5883af3b4ecb3c3bb792cbcefbd1542c692be63";
        let address = key(digits).address();
        for text in
            [&format!("0x{digits}"), &format!("\n 0x{digits}\r\n"), &digits.to_uppercase(), &format!("{digits}\n")]
        {
            assert_eq!(key(text).address(), address, "{text:?}");
        }
        for text in [
            "",
            "0x",
            "key",
            &digits[1..],
            &format!("{digits}0"),
            &format!("0x0x{}", &digits[2..]),
            &format!("0x0x{digits}"),
            &format!("{}g", &digits[1..]),
            &format!("{} {}", &digits[..32], &digits[32..]),
            &"é".repeat(32),
        ] {
            assert_eq!(Key::read(text, None).unwrap_err(), BadKey::Form, "{text:?}");
        }
    }

    #[test]
    fn a_number_that_is_no_key_is_refused() {
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        for digits in ["0".repeat(64), order.to_owned(), "f".repeat(64)] {
            assert_eq!(Key::read(&digits, None).unwrap_err(), BadKey::Range);
        }
        let last = order.replace("4141", "4140");
        assert!(Key::read(&last, None).is_ok());
    }

    #[test]
    fn a_key_is_not_printed() {
        let digits = "46".repeat(32);
        assert_eq!(format!("{:?} {:#?}", key(&digits), Some(key(&digits))), "*** Some(\n    ***,\n)");
    }
}
