//! Secrets are references: the text of one is fetched when the config is read, and never printed.

use std::path::Path;
use std::{env, fmt, fs};

use zeroize::Zeroizing;

use super::files::Whence;
use super::report::Place;
use super::section::Field;
use super::tree::Value;
use crate::model::{BadTls, TlsFile};

/// A secret's text. Prints as `***`, and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself, for the one place that must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn into_text(self) -> Zeroizing<String> {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What becomes of a field that holds a secret.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    Here(Secret),
    /// It stands in the file itself.
    Inline(Secret),
    /// The reference is right, but leads to nothing: the part that needs it is off, and the rest runs.
    Missing(String),
    /// The reference is right, and it is not for this text to follow it.
    Unseen,
    /// No reference at all; the fault has been told.
    Faulty,
}

const REFERENCES: &str = "write { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }";

/// What a text that came by the API may not say: it would have the gateway read any file for whoever sent it, or send
/// that to a host of his choice.
const NO_REFERENCE: &str = "is a reference, and references are for files";
const NO_PATH: &str = "is a path, and paths are for files";
const IN_A_FILE: &str = "write this part into a file of the config, on the gateway";

/// Fetches what `field` refers to: `{ env = "X" }`, `{ file = "P" }`, `{ credential = "N" }`, or a text.
pub fn fetch(field: &Field) -> Fetched {
    if let Value::Text(text) = field.value {
        return Fetched::Inline(Secret(Zeroizing::new(text.clone())));
    }
    let Value::Table(_) = field.value else {
        field.fault::<()>(format!("is {}, not a reference to a secret", field.value.kind()), REFERENCES);
        return Fetched::Faulty;
    };
    let Some(mut section) = field.section() else { return Fetched::Faulty };
    let kinds = ["env", "file", "credential"].map(|kind| section.get(kind).map(|field| (kind, field)));
    section.done(&[]);
    let mut given = kinds.into_iter().flatten();
    let (Some((kind, reference)), None) = (given.next(), given.next()) else {
        field.fault::<()>("is no reference to one secret", REFERENCES);
        return Fetched::Faulty;
    };
    let Some(name) = reference.text() else { return Fetched::Faulty };
    if kind == "credential" && (name.is_empty() || name.contains('/')) {
        reference.fault::<()>("a credential has a plain name", "give the name of a LoadCredential= of the unit");
        return Fetched::Faulty;
    }
    match field.whence() {
        Whence::File => {}
        Whence::Tried => return Fetched::Unseen,
        Whence::Made | Whence::Posted => {
            field.fault::<()>(NO_REFERENCE, "give the secret itself, or write this part into a file of the config");
            return Fetched::Faulty;
        }
    }
    let found = match kind {
        "env" => env::var(name)
            .map(Zeroizing::new)
            .map_err(|_| format!("the environment has no {name}: set it for the service, or refer to a file")),
        "file" => {
            field.report.uses(field.place, &field.path, name);
            read(Path::new(name))
        }
        _ => match env::var_os("CREDENTIALS_DIRECTORY") {
            Some(folder) => read(&Path::new(&folder).join(name)),
            None => Err(format!("credential {name} cannot be seen outside the service")),
        },
    };
    match found {
        Ok(text) if text.is_empty() => Fetched::Missing(format!("{kind} {name} is empty: write the secret into it")),
        Ok(text) => Fetched::Here(Secret(text)),
        Err(why) => Fetched::Missing(why),
    }
}

/// The text of a secret that `part` needs; without it that part is off.
pub fn given(field: &Field, part: &str, inline: &mut Vec<Place>) -> Option<String> {
    match found(field, part, inline) {
        Found::Here(secret) => Some(secret.to_string()),
        Found::Off(_) | Found::Faulty => None,
    }
}

/// A file of `part` that is no secret; without it that part is off.
pub fn pem(field: &Field, part: &str) -> Option<Vec<u8>> {
    match found_file(field, part) {
        Found::Here(bytes) => Some(bytes),
        Found::Off(_) | Found::Faulty => None,
    }
}

/// What a part needs, if it can be had: without it the part is off, and the rest runs.
pub enum Found<T> {
    Here(T),
    /// Why, for a person.
    Off(String),
    Faulty,
}

impl<T> Found<T> {
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Here(value) => Found::Here(to(value)),
            Self::Off(why) => Found::Off(why),
            Self::Faulty => Found::Faulty,
        }
    }

    /// Both, or why one of them is not to be had.
    pub fn and<U>(self, other: Found<U>) -> Found<(T, U)> {
        match (self, other) {
            (Self::Faulty, _) | (_, Found::Faulty) => Found::Faulty,
            (Self::Off(why), _) | (_, Found::Off(why)) => Found::Off(why),
            (Self::Here(one), Found::Here(other)) => Found::Here((one, other)),
        }
    }

    /// What may be left out.
    pub fn optional(found: Option<Self>) -> Found<Option<T>> {
        found.map_or(Found::Here(None), |found| found.map(Some))
    }

    /// What is wrong has been told.
    pub fn good(value: Option<T>) -> Self {
        value.map_or(Self::Faulty, Self::Here)
    }
}

/// The text of a secret that `part` needs, which is wiped when it is dropped.
pub fn found(field: &Field, part: &str, inline: &mut Vec<Place>) -> Found<Zeroizing<String>> {
    match fetch(field) {
        Fetched::Here(secret) => Found::Here(secret.into_text()),
        Fetched::Inline(secret) => {
            inline.push(field.place);
            if field.report.files().is_made(field.place.file) {
                return Found::Here(secret.into_text());
            }
            let mend = "refer to it with { file = \"PATH\" } or { credential = \"NAME\" }";
            field.report.warn(field.place, &field.path, "a secret stands in the file for all who may read it", mend);
            Found::Here(secret.into_text())
        }
        Fetched::Missing(why) => {
            field.report.off(field.place, &field.path, part, &why);
            Found::Off(format!("{part} is off: {why}"))
        }
        Fetched::Unseen => Found::Off(UNSEEN.to_owned()),
        Fetched::Faulty => Found::Faulty,
    }
}

/// What nobody is told: such a text never runs.
const UNSEEN: &str = "it was not looked for";

/// The bytes of a file that `part` needs, and that is no secret.
pub fn found_file(field: &Field, part: &str) -> Found<Vec<u8>> {
    let Some(path) = field.text() else { return Found::Faulty };
    match field.whence() {
        Whence::File => {}
        Whence::Tried => return Found::Off(UNSEEN.to_owned()),
        Whence::Made | Whence::Posted => return Found::good(field.fault(NO_PATH, IN_A_FILE)),
    }
    field.report.uses(field.place, &field.path, path);
    match fs::read(path) {
        Ok(bytes) => Found::Here(bytes),
        Err(error) => {
            let why = format!("{path} cannot be read: {error}");
            field.report.off(field.place, &field.path, part, &why);
            Found::Off(format!("{part} is off: {why}"))
        }
    }
}

/// A file of `part` is there, and of no use: the part is off, as it is when nothing is there. What lies in it may go bad
/// by itself, and must stop nothing that does without it.
pub fn bad_file<T>(field: &Field, part: &str, why: &str, mend: &str) -> Found<T> {
    off(field, part, &format!("{}: {why}", field.text().unwrap_or_default()), mend)
}

/// As [`bad_file`], for a secret. One that stands in the text itself is a fault of the text.
pub fn bad_secret<T>(field: &Field, part: &str, why: &str, mend: &str) -> Found<T> {
    let Value::Table(table) = field.value else { return Found::good(field.fault(why, mend)) };
    let reference = table.0.iter().find_map(|(kind, (_, node))| match &node.value {
        Value::Text(name) if kind == "file" => Some(name.clone()),
        Value::Text(name) => Some(format!("{kind} {name}")),
        _ => None,
    });
    off(field, part, &format!("{}: {why}", reference.unwrap_or_default()), mend)
}

fn off<T>(field: &Field, part: &str, why: &str, mend: &str) -> Found<T> {
    let why = if mend.is_empty() { why.to_owned() } else { format!("{why}; {mend}") };
    field.report.off(field.place, &field.path, part, &why);
    Found::Off(format!("{part} is off: {why}"))
}

/// Files of certificates and keys that are of no use: `part` is off, and the file is named that is to be mended. `ca`,
/// `chain` and `key` are what the config says of each; `other` is told of where there is none.
pub fn bad_tls<T>(bad: &BadTls, [ca, chain, key]: [Option<&Field>; 3], other: &Field, part: &str) -> Found<T> {
    match (bad.of, ca, chain, key) {
        (TlsFile::Ca, Some(field), ..) => bad_file(field, part, &bad.why, "write the whole file anew, in PEM"),
        (TlsFile::ClientCert, _, Some(field), _) => {
            bad_file(field, part, &bad.why, "write the certificate and its key anew, in PEM")
        }
        (TlsFile::ClientKey, .., Some(field)) => {
            bad_secret(field, part, &bad.why, "write the key that belongs to `client_cert`, in PEM")
        }
        _ => off(other, part, &bad.why, ""),
    }
}

/// A secret in a file ends before its last line feed.
fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(mut text) => {
            let end = text.trim_end_matches(['\r', '\n']).len();
            text.truncate(end);
            Ok(text)
        }
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}
