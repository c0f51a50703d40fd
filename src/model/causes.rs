//! An error with what lies behind it, as one text.

use std::error::Error;

/// The error and its causes. Of an error that bears an address, take that away first: it may hold a secret.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{what}")]
    struct Layer {
        what: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_follows_what_it_caused() {
        let layer = |what, source: Option<Layer>| Layer { what, source: source.map(Box::new) };
        let deep = layer("the line broke", Some(layer("reset by peer", Some(layer("os error 104", None)))));
        assert_eq!(causes(&deep), "the line broke: reset by peer: os error 104");
        assert_eq!(causes(&layer("alone", None)), "alone");
    }
}
