//! Why the files of a TLS connection are of no use.

/// Which of the files of a connection cannot be used, and why. No text bears a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadTls {
    pub of: TlsFile,
    pub why: String,
}

/// What each is named in the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// `ca`, or the system's authorities where there is none.
    Ca,
    /// `client_cert`, also where it does not fit its key.
    ClientCert,
    /// `client_key`.
    ClientKey,
}

impl TlsFile {
    pub fn bad(self, why: impl Into<String>) -> BadTls {
        BadTls { of: self, why: why.into() }
    }
}

/// For where it stops a connection, whatever file it is.
impl From<BadTls> for String {
    fn from(bad: BadTls) -> Self {
        bad.why
    }
}
