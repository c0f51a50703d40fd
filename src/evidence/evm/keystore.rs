//! Web3 Secret Storage, version 3: a key that a password opens.
//!
//! What the file asks for in memory and time is reckoned from its parameters before any of it is spent: a keystore that was
//! made on a large machine must not take a gateway down.

use aes::Aes128;
use alloy_primitives::{Keccak256, hex};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::key::{BadKey, Key};

/// What scrypt may take.
const MEMORY: u64 = 64 << 20;
/// n · r · p of scrypt.
const WORK: u64 = 1 << 21;
/// Of PBKDF2.
const ROUNDS: u64 = 1 << 20;
/// Salts have 32 bytes; those of others may have more.
const LONGEST_SALT: usize = 1 << 10;

#[derive(Deserialize)]
struct Versioned {
    version: Option<Value>,
}

#[derive(Deserialize)]
struct Keystore {
    #[serde(alias = "Crypto")]
    crypto: Crypto,
    /// Left out by those who would not tell it.
    address: Option<String>,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParameters,
    ciphertext: String,
    kdf: String,
    kdfparams: Value,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParameters {
    iv: String,
}

#[derive(Deserialize)]
struct ScryptParameters {
    dklen: u64,
    n: u64,
    r: u32,
    p: u32,
    salt: String,
}

#[derive(Deserialize)]
struct Pbkdf2Parameters {
    dklen: u64,
    c: u32,
    prf: String,
    salt: String,
}

/// The key in the keystore `text`.
pub fn open(text: &str, password: Option<&str>) -> Result<Key, BadKey> {
    let Keystore { crypto, address } = read(text)?;
    known("cipher", &crypto.cipher, "aes-128-ctr")?;
    let iv: [u8; 16] = bytes("cipherparams.iv", &crypto.cipherparams.iv)?;
    let ciphertext: [u8; 32] = bytes("ciphertext", &crypto.ciphertext)?;
    let mac: [u8; 32] = bytes("mac", &crypto.mac)?;
    let derivation = Derivation::read(&crypto.kdf, crypto.kdfparams)?;
    let derived = derivation.derive(password.ok_or(BadKey::NoPassword)?);
    let (cipher_key, mac_key) = derived.split_at(16);
    let mut keccak = Keccak256::new();
    keccak.update(mac_key);
    keccak.update(ciphertext);
    if !bool::from(keccak.finalize().ct_eq(&mac)) {
        return Err(BadKey::Password);
    }
    let mut secret = Zeroizing::new(ciphertext);
    let mut cipher = Ctr128BE::<Aes128>::new_from_slices(cipher_key, &iv).map_err(|_| BadKey::Form)?;
    cipher.apply_keystream(secret.as_mut_slice());
    let key = Key::from_bytes(&secret)?;
    let is_of = |said: &String| bytes::<20>("address", said).is_ok_and(|said| key.address() == said);
    match address.filter(|said| !is_of(said)) {
        Some(said) => Err(BadKey::Account { said: short(&said), is: key.address() }),
        None => Ok(key),
    }
}

fn read(text: &str) -> Result<Keystore, BadKey> {
    // The version comes first: another one has other members.
    match json::<Versioned>(text)?.version {
        Some(version) if version == 3 => json(text),
        Some(version) => Err(BadKey::Version(short(&version.to_string()))),
        None => Err(BadKey::Keystore("it has no `version`".to_owned())),
    }
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, BadKey> {
    serde_json::from_str(text).map_err(|error| BadKey::Keystore(error.to_string()))
}

/// How the key of the cipher is made of the password, within what a gateway can spend.
enum Derivation {
    Scrypt { parameters: scrypt::Params, salt: Vec<u8> },
    Pbkdf2 { rounds: u32, salt: Vec<u8> },
}

impl Derivation {
    fn read(kdf: &str, parameters: Value) -> Result<Self, BadKey> {
        let broken = |error: serde_json::Error| BadKey::Keystore(format!("kdfparams: {error}"));
        match kdf {
            "scrypt" => Self::scrypt(serde_json::from_value(parameters).map_err(broken)?),
            "pbkdf2" => Self::pbkdf2(serde_json::from_value(parameters).map_err(broken)?),
            other => Err(BadKey::Unknown { what: "kdf", found: short(other), known: "scrypt or pbkdf2" }),
        }
    }

    fn scrypt(ScryptParameters { dklen, n, r, p, salt }: ScryptParameters) -> Result<Self, BadKey> {
        is_32_bytes(dklen)?;
        if !n.is_power_of_two() || n == 1 || r == 0 || p == 0 {
            let why =
                format!("scrypt with n = {n}, r = {r}, p = {p}: n must be a power of two above 1, r and p above 0");
            return Err(BadKey::Keystore(why));
        }
        // The table of n blocks and the p blocks that are mixed by it, each of 128 · r bytes (RFC 7914).
        let [wide_n, wide_r, wide_p] = [u128::from(n), u128::from(r), u128::from(p)];
        let (memory, work) = (128 * wide_r * (wide_n + wide_p), wide_n * wide_r * wide_p);
        let too_heavy = |needs: String, bound: String| {
            Err(BadKey::TooHeavy { parameters: format!("scrypt with n = {n}, r = {r}, p = {p}"), needs, bound })
        };
        if memory > u128::from(MEMORY) {
            let needs = format!("{} MiB of memory", memory.div_ceil(1 << 20));
            return too_heavy(needs, format!("{} MiB", MEMORY >> 20));
        }
        if work > u128::from(WORK) {
            return too_heavy(format!("{work} steps (n · r · p)"), WORK.to_string());
        }
        let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
        let parameters = scrypt::Params::new(log_n, r, p).map_err(|error| BadKey::Keystore(error.to_string()))?;
        Ok(Self::Scrypt { parameters, salt: salt_of(&salt)? })
    }

    fn pbkdf2(Pbkdf2Parameters { dklen, c, prf, salt }: Pbkdf2Parameters) -> Result<Self, BadKey> {
        is_32_bytes(dklen)?;
        known("prf", &prf, "hmac-sha256")?;
        if c == 0 {
            return Err(BadKey::Keystore("pbkdf2 with c = 0: c must be above 0".to_owned()));
        }
        if u64::from(c) > ROUNDS {
            let parameters = format!("pbkdf2 with c = {c}");
            return Err(BadKey::TooHeavy { parameters, needs: format!("{c} rounds"), bound: ROUNDS.to_string() });
        }
        Ok(Self::Pbkdf2 { rounds: c, salt: salt_of(&salt)? })
    }

    fn derive(&self, password: &str) -> Zeroizing<[u8; 32]> {
        let mut derived = Zeroizing::new([0; 32]);
        match self {
            Self::Scrypt { parameters, salt } => {
                #[expect(clippy::expect_used, reason = "it refuses lengths of 0 and above 137 GB alone")]
                scrypt::scrypt(password.as_bytes(), salt, parameters, derived.as_mut_slice()).expect("32 bytes");
            }
            Self::Pbkdf2 { rounds, salt } => {
                pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, *rounds, derived.as_mut_slice());
            }
        }
        derived
    }
}

fn is_32_bytes(dklen: u64) -> Result<(), BadKey> {
    match dklen {
        32 => Ok(()),
        _ => Err(BadKey::Unknown { what: "dklen", found: dklen.to_string(), known: "32" }),
    }
}

fn known(what: &'static str, found: &str, known: &'static str) -> Result<(), BadKey> {
    if found == known { Ok(()) } else { Err(BadKey::Unknown { what, found: short(found), known }) }
}

fn salt_of(text: &str) -> Result<Vec<u8>, BadKey> {
    match hex::decode(text) {
        Ok(salt) if salt.len() <= LONGEST_SALT => Ok(salt),
        _ => Err(BadKey::Keystore(format!("kdfparams.salt is not hex of at most {LONGEST_SALT} bytes"))),
    }
}

fn bytes<const N: usize>(what: &str, text: &str) -> Result<[u8; N], BadKey> {
    hex::decode_to_array(text).map_err(|_| BadKey::Keystore(format!("{what} is not {N} bytes of hex")))
}

/// What the file says, as far as a line of text takes it.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Web3 Secret Storage Definition", Test Vectors: its password and its key.
    const PASSWORD: &str = "testpassword";
    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const ADDRESS: &str = "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b";
    const PBKDF2: &str = r#"{
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3
    }"#;
    const SCRYPT: &str = r#"{
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32,
                "n": 262144,
                "p": 8,
                "r": 1,
                "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"
            },
            "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3
    }"#;
    /// The same key under light parameters, so that the many cases cost little.
    const LIGHT: &str = r#"{
        "address": "008aeeda4d805471df9b2a5b0f38a0c3bcba786b",
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "CIPHERTEXT",
            "kdf": "scrypt",
            "kdfparams": {"dklen": 32, "n": 2, "p": 1, "r": 8, "salt": "00"},
            "mac": "MAC"
        },
        "version": 3
    }"#;

    fn refused(text: &str) -> BadKey {
        Key::read(text, Some(PASSWORD)).unwrap_err()
    }

    /// Writes the key into `LIGHT`, by the definition.
    fn light() -> String {
        let parameters = scrypt::Params::new(1, 8, 1).unwrap();
        let mut derived = [0; 32];
        scrypt::scrypt(PASSWORD.as_bytes(), &[0], &parameters, &mut derived).unwrap();
        let iv = hex::decode("6087dab2f9fdbbfaddc31a909735c1e6").unwrap();
        let mut text = hex::decode(SECRET).unwrap();
        Ctr128BE::<Aes128>::new_from_slices(&derived[..16], &iv).unwrap().apply_keystream(&mut text);
        let mac = alloy_primitives::keccak256([&derived[16..], &text].concat());
        LIGHT.replace("CIPHERTEXT", &hex::encode(&text)).replace("MAC", &hex::encode(mac))
    }

    #[test]
    fn the_published_keystores_open() {
        for text in [PBKDF2, SCRYPT] {
            let key = Key::read(text, Some(PASSWORD)).unwrap();
            assert_eq!(key.address().to_string(), ADDRESS);
            assert_eq!(key.address(), Key::read(SECRET, None).unwrap().address());
        }
    }

    #[test]
    fn a_wrong_password_opens_nothing() {
        let text = light();
        assert_eq!(Key::read(&text, Some(PASSWORD)).unwrap().address().to_string(), ADDRESS);
        for password in ["", "testpassword ", "Testpassword"] {
            assert_eq!(Key::read(&text, Some(password)).unwrap_err(), BadKey::Password);
        }
        assert_eq!(Key::read(&text, None).unwrap_err(), BadKey::NoPassword);
    }

    #[test]
    fn no_digit_of_ciphertext_mac_and_salt_can_change() {
        let text = light();
        let from = |name: &str| text.find(&format!("\"{name}\": \"")).unwrap() + name.len() + 5;
        for (name, digits) in [("ciphertext", 64), ("mac", 64), ("salt", 2)] {
            for at in from(name)..from(name) + digits {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
                assert_eq!(refused(&String::from_utf8(bytes).unwrap()), BadKey::Password, "{name}, {at}");
            }
        }
    }

    /// The MAC does not cover the initialisation vector: another one opens another key, which the address tells.
    #[test]
    fn a_key_of_another_address_is_refused() {
        let text = light();
        let other_iv = text.replace("6087dab2", "6087dab3");
        assert!(matches!(refused(&other_iv), BadKey::Account { .. }));
        let other = text.replace("008aeeda", "008aeedb");
        let told = refused(&other).to_string();
        assert!(told.contains("008aeedb") && told.contains(ADDRESS), "{told}");
        for spelled in ["0x008aeeda4d805471df9b2a5b0f38a0c3bcba786b", "008AEEDA4D805471DF9B2A5B0F38A0C3BCBA786B"] {
            let text = text.replace("008aeeda4d805471df9b2a5b0f38a0c3bcba786b", spelled);
            assert!(Key::read(&text, Some(PASSWORD)).is_ok());
        }
        let none = text.replace("\"address\"", "\"name\"").replace("\"crypto\"", "\"Crypto\"");
        assert!(Key::read(&none, Some(PASSWORD)).is_ok());
    }

    #[test]
    fn what_would_cost_too_much_is_refused_before_it_costs() {
        let scrypt = |n: u64, r: u64, p: u64| {
            let parameters = format!("\"n\": {n},\n\"p\": {p},\n\"r\": {r},");
            let start = SCRYPT.find("\"n\": 262144").unwrap();
            let end = SCRYPT.find("\"salt\"").unwrap();
            format!("{}{parameters}{}", &SCRYPT[..start], &SCRYPT[end..])
        };
        let told = Key::read(&scrypt(262_144, 8, 1), None).unwrap_err().to_string();
        for part in ["n = 262144, r = 8, p = 1", "257 MiB", "64 MiB", "n = 4096", "--lightkdf", "systemd-creds"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let most = (1 << 63, u64::from(u32::MAX), u64::from(u32::MAX));
        for (n, r, p) in [(1 << 17, 8, 1), (1 << 16, 8, 1), (2, 1, 1 << 20), (4096, 8, 65), (2, 1 << 19, 1), most] {
            assert!(matches!(refused(&scrypt(n, r, p)), BadKey::TooHeavy { .. }), "{n} {r} {p}");
        }
        // Within the bound it is asked for the password: nothing is spent without one.
        for (n, r, p) in [(1 << 15, 8, 1), (4096, 8, 6), (8192, 8, 1), (262_144, 1, 8), (1 << 18, 1, 1)] {
            assert_eq!(Key::read(&scrypt(n, r, p), None).unwrap_err(), BadKey::NoPassword, "{n} {r} {p}");
        }
        for (n, r, p) in [(0, 8, 1), (1, 8, 1), (3, 8, 1), (4095, 8, 1), (4096, 0, 1), (4096, 8, 0)] {
            assert!(matches!(refused(&scrypt(n, r, p)), BadKey::Keystore(_)), "{n} {r} {p}");
        }
        let rounds = |c: u64| PBKDF2.replace("262144", &c.to_string());
        assert!(matches!(refused(&rounds(ROUNDS + 1)), BadKey::TooHeavy { .. }));
        assert_eq!(Key::read(&rounds(ROUNDS), None).unwrap_err(), BadKey::NoPassword);
        assert!(matches!(refused(&rounds(0)), BadKey::Keystore(_)));
        assert!(matches!(refused(&rounds(u64::from(u32::MAX) + 1)), BadKey::Keystore(_)));
    }

    #[test]
    fn what_is_no_keystore_of_version_3_is_told_so() {
        let text = light();
        for version in ["1", "\"3\"", "4", "null", "3.0"] {
            let other = text.replace("\"version\": 3", &format!("\"version\": {version}"));
            let told = refused(&other);
            assert!(matches!(told, BadKey::Version(_)) || version == "null", "{version}: {told}");
        }
        let broken = [
            "{",
            "{}",
            "{\"version\":3}",
            &text[..text.len() - 1],
            &format!("{text}}}"),
            "{\"version\":3,\"crypto\":[]}",
        ];
        for broken in broken {
            assert!(matches!(refused(broken), BadKey::Keystore(_)), "{broken}");
        }
        for (from, to) in [
            ("\"salt\": \"00\"", "\"salt\": 7".to_owned()),
            ("\"salt\": \"00\"", "\"salt\": \"0\"".to_owned()),
            ("\"salt\": \"00\"", format!("\"salt\": \"{}\"", "00".repeat(LONGEST_SALT + 1))),
            ("6087dab2", "6087dab".to_owned()),
            ("6087dab2", String::new()),
            ("\"mac\": \"", "\"mac\": \"00".to_owned()),
            ("\"ciphertext\": \"", "\"ciphertext\": \"00".to_owned()),
        ] {
            assert!(matches!(refused(&text.replace(from, &to)), BadKey::Keystore(_)), "{from} {to}");
        }
        for (from, to) in
            [("aes-128-ctr", "aes-128-cbc"), ("\"scrypt\"", "\"argon2id\""), ("\"dklen\": 32", "\"dklen\": 64")]
        {
            assert!(matches!(refused(&text.replace(from, to)), BadKey::Unknown { .. }), "{to}");
        }
        let other_prf = PBKDF2.replace("hmac-sha256", "hmac-sha512");
        assert!(matches!(refused(&other_prf), BadKey::Unknown { what: "prf", .. }));
    }
}
