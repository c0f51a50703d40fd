//! What can go wrong with a node, by what the caller can do about it.

/// No text bears the path of an address, which may be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// It does not answer, or has no time for us: ask another, or again later.
    #[error("{rpc} {why}")]
    Unreachable { rpc: String, why: String },
    /// It answers that it will not. What its words mean differs from node to node: look up what came of it.
    #[error("{rpc} refuses {method}: {message} ({code})")]
    Refused { rpc: String, method: &'static str, code: i64, message: String },
    /// It answers what cannot be: it is no node, a broken one, or one that lies.
    #[error("{rpc} answers {method} wrongly: {why}")]
    Malformed { rpc: String, method: &'static str, why: String },
}

/// A text of somebody else's as it may stand in an error: one line, of bounded length, without the `secrets`.
pub fn told(text: &str, secrets: &[String]) -> String {
    const MOST: usize = 300;
    let mut text = text.trim().to_owned();
    for secret in secrets {
        text = text.replace(secret.as_str(), "***");
    }
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut short: String = text.chars().take(MOST).map(|c| if invisible(c) { ' ' } else { c }).collect();
    if text.chars().count() > MOST {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_one_short_line_without_secrets() {
        let text = told(" nonce\r\n\u{1b}[31mtoo low\u{202e} at /v2/abc123 ", &["abc123".to_owned()]);
        assert_eq!(text, "nonce   [31mtoo low  at /v2/***");
        assert_eq!(told(&"ä".repeat(1000), &[]).chars().count(), 301);
    }
}
