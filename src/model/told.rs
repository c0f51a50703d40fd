//! Words of other programs as they may be shown.

/// A text of somebody else's as it may stand in an error: one line, of bounded length, without the `secrets`.
pub fn told(text: &str, secrets: &[impl AsRef<str>]) -> String {
    const MOST: usize = 300;
    let mut text = text.trim().to_owned();
    for secret in secrets.iter().map(AsRef::as_ref).filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
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
        assert_eq!(told("nonce", &["", "on"]), "n***ce");
        assert_eq!(told(&"ä".repeat(1000), &[""; 0]).chars().count(), 301);
    }
}
