//! Names given by the operator.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {rule}")]
pub struct BadId {
    text: String,
    what: &'static str,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $rule:literal, $pattern:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = $pattern)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let allowed: fn(u8) -> bool = $allowed;
                if text.is_empty() || text.len() > $max || !text.bytes().all(allowed) {
                    let text = text.chars().take(80).collect();
                    return Err(BadId { text, what: $what, rule: $rule });
                }
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
    };
}

name!(
    /// A meter's name in the config, the API and every record: `[A-Za-z0-9._-]{1,64}`.
    MeterId,
    "meter id",
    64,
    "1 to 64 of A-Z a-z 0-9 . _ -",
    "^[A-Za-z0-9._-]{1,64}$",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
);
name!(
    /// The site's name upstream and in the log's origin: `[a-z0-9-]{1,63}`.
    SiteId,
    "site id",
    63,
    "1 to 63 of a-z 0-9 -",
    "^[a-z0-9-]{1,63}$",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
);
name!(
    /// An upstream's name, under which its positions are kept: `[a-z0-9-]{1,63}`.
    UpstreamName,
    "name of an upstream",
    63,
    "1 to 63 of a-z 0-9 -",
    "^[a-z0-9-]{1,63}$",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
);

name!(
    /// The name of one line, broker or other source: `[A-Za-z0-9._-]{1,64}`.
    LineName,
    "name",
    64,
    "1 to 64 of A-Z a-z 0-9 . _ -",
    "^[A-Za-z0-9._-]{1,64}$",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_their_alphabet_and_length() {
        assert_eq!("main-incomer".parse::<MeterId>().unwrap().as_str(), "main-incomer");
        assert!("m".repeat(64).parse::<MeterId>().is_ok());
        assert!("m".repeat(65).parse::<MeterId>().is_err());
        assert!("Plant".parse::<SiteId>().is_err());
        let error = "a b".parse::<MeterId>().unwrap_err().to_string();
        assert_eq!(error, "`a b` is not a meter id: 1 to 64 of A-Z a-z 0-9 . _ -");
    }
}
