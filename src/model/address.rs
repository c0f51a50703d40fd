//! Addresses that may bear a key, as they may be shown.

/// Letters and digits of a part of a path that is most likely a key.
pub const KEY: usize = 20;

/// The text with `***` for the path of each address in which some part has so many letters and digits.
pub fn without_keys(text: &str, least: usize) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("://") {
        let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '\\');
        let end = after.find(is_end).unwrap_or(after.len());
        let (address, next) = after.split_at(end);
        let (host, path) = address.split_at(address.find(['/', '?', '#']).unwrap_or(address.len()));
        let is_key = |part: &str| part.chars().filter(|c| c.is_ascii_alphanumeric()).count() >= least;
        shown.extend([before, "://", host]);
        shown.push_str(if path.split(['/', '?', '&', '=', '#']).any(is_key) { "/***" } else { path });
        rest = next;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_bears_a_key_is_not_shown() {
        for (text, wanted) in [
            ("https://polygon.example/v3/1a2b3c4d5e6f708192a3b4c5d6e7f809", "https://polygon.example/***"),
            ("to https://h:1/v1/sync, then", "to https://h:1/v1/sync, then"),
            ("\"wss://h/b0t:AAE-1a2b3c4d5e6f70819\" and http://h", "\"wss://h/***\" and http://h"),
            ("http://h/?k=1a2b3c4d5e6f708192a3b4", "http://h/***"),
            ("://", "://"),
        ] {
            assert_eq!(without_keys(text, KEY), wanted);
        }
        assert_eq!(without_keys("['http://h/k/', 'http://h/']", 1), "['http://h/***', 'http://h/']");
    }
}
