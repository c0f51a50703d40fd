//! An address of the web to which records are sent, and by what the other side knows us.

use std::time::Duration;

use reqwest::Url;
use zeroize::Zeroizing;

use super::tls::Tls;
use crate::model::address::{KEY, without_keys};

/// One `[[upstream]]` that is reached by HTTP or a WebSocket.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// With its path, as `address` of its kind gave it.
    pub url: Url,
    pub token: Option<Zeroizing<String>>,
    pub tls: Tls,
    /// How long the other side may take to answer, over the time that the line needs.
    pub timeout: Duration,
}

impl Endpoint {
    /// As it is shown: a key in its path is not.
    pub fn to(&self) -> String {
        without_keys(self.url.as_str().trim_end_matches('/'), KEY)
    }

    /// A token that is none would be refused again and again, and in words that nobody understands.
    pub fn check_token(&self) -> Result<(), String> {
        match &self.token {
            Some(token) if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("its token is empty, or has a blank or a letter in it that no header may bear".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// An address that records can be sent to; it begins with one of two schemes, or `else_told` says so. It bears no secret,
/// since it is shown.
pub fn address(text: &str, schemes: [&str; 2], else_told: &'static str) -> Result<Url, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "is no URL")?;
    if !schemes.contains(&url.scheme()) {
        return Err(else_told);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("bears a name or a password: give a `token` instead");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has `?` or `#` in it: it ends with its path");
    }
    if url.host_str().is_none() { Err("names no host") } else { Ok(url) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_the_key_in_its_path() {
        let shown = |text: &str| {
            let url = address(text, ["https", "http"], "no").unwrap();
            Endpoint { url, token: None, tls: Tls::default(), timeout: Duration::from_secs(1) }.to()
        };
        assert_eq!(shown("https://h/v1/sync/"), "https://h/v1/sync");
        assert_eq!(shown("https://h/in/1a2b3c4d5e6f708192a3b4c5"), "https://h/***");
    }
}
