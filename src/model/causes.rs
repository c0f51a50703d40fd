//! An error with what lies behind it, as one text.

use std::error::Error;
use std::io::{self, ErrorKind};

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

/// Why nobody answered, with what to look at, to follow the name of who did not; `None` where the causes do not say.
pub fn unreached(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let (mut cause, mut is_unknown) = (Some(error), false);
    while let Some(deeper) = cause {
        match deeper.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(ErrorKind::ConnectionRefused) => {
                return Some("refuses the connection: is it running, and the port right?");
            }
            Some(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) => {
                return Some("cannot be reached: is there a line to it?");
            }
            _ => {}
        }
        // The client's own error, which names no kind.
        is_unknown |= deeper.to_string().contains("dns error");
        cause = deeper.source();
    }
    is_unknown.then_some("is not known by its name (DNS): is the name right, and is there a line?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Client(#[source] io::Error);

    #[test]
    fn who_does_not_answer_is_told_with_what_to_look_at() {
        let of = |kind: ErrorKind| unreached(&io::Error::from(kind));
        assert!(of(ErrorKind::ConnectionRefused).unwrap().contains("is it running"));
        assert!(of(ErrorKind::HostUnreachable).unwrap().contains("a line to it"));
        assert_eq!(of(ErrorKind::UnexpectedEof), None);
        let behind = Client(io::Error::from(ErrorKind::ConnectionRefused));
        assert_eq!(unreached(&behind), of(ErrorKind::ConnectionRefused));
        assert!(unreached(&io::Error::other("dns error: no such host")).unwrap().contains("(DNS)"));
    }

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
