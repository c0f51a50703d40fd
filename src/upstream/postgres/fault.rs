//! What the server says against us, by what is done about it. Its code decides, never its words.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use zeroize::Zeroizing;

use crate::model::told;
use crate::upstream::receiver::Fault;
use crate::upstream::tls;

/// What becomes of an error of the connection to `to`, where a batch had `records`. Of the server's words, which may
/// hold rows, no more is told than a line without the password.
pub fn fault(error: &Error, to: &str, password: &[Zeroizing<String>], records: usize) -> Fault {
    match error.as_db_error() {
        Some(said) => {
            let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            by_code(said.code(), &told(&format!("{}{detail}", said.message()), password), to, records)
        }
        None => unanswered(error, to, password),
    }
}

fn by_code(code: &SqlState, message: &str, to: &str, records: usize) -> Fault {
    let told = format!("{to} says: {message} (SQLSTATE {})", code.code());
    let class = code.code().get(..2).unwrap_or_default();
    match code.code() {
        "53100" => Fault::Away(format!("the disk of {to} is full: make room there; nothing is lost here meanwhile")),
        // A transaction that takes too long is cut smaller; a single record waits for a better hour.
        "57014" if records > 1 => Fault::TooLarge(told),
        "25006" => Fault::Away(format!("{to} takes nothing, as it only reads: is it a standby? {told}")),
        "28P01" => Fault::Stopped(format!("{to} does not take the password: set the right one as `password`")),
        "28000" => Fault::Stopped(format!("{to} does not let us in: mend its pg_hba.conf, user or `sslmode`; {told}")),
        "3D000" => Fault::Stopped(format!("{to} has no such database: make it there, or mend the address")),
        "42501" => Fault::Stopped(format!(
            "{to} does not grant us enough: its administrator is to run /usr/share/doc/meterseal/postgres-schema.sql there \
             (packaging/postgres/schema.sql in the sources) and grant what docs/upstream.md beside either says under \
             Rights; {told}"
        )),
        // Its tables were made whole when we came, so that somebody took one away: they are made anew when we come again.
        "42P01" | "3F000" | "42704" => Fault::Away(format!("{to} has lost a table, which is made anew: {told}")),
        "40001" | "40P01" | "55P03" | "57014" => Fault::Away(told),
        _ => match class {
            "08" | "53" | "57" | "58" | "XX" => Fault::Away(told),
            "28" | "42" | "0A" => Fault::Stopped(format!("{told}: is it as meterseal made it?")),
            "54" => Fault::TooLarge(told),
            "22" | "23" => Fault::Refused(told),
            _ => Fault::Away(told),
        },
    }
}

/// Without an answer of the server.
fn unanswered(error: &Error, to: &str, password: &[Zeroizing<String>]) -> Fault {
    if let Some(told) = tls::told(error) {
        return Fault::Stopped(format!("{to} {told}"));
    }
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        why = next.to_string();
        cause = next.source();
    }
    match why.as_str() {
        "server does not support TLS" => Fault::Stopped(format!(
            "{to} speaks no TLS, and records go to other machines by TLS alone: switch it on there (`ssl = on`)"
        )),
        "password missing" => Fault::Stopped(format!("{to} asks for a password: set `password`")),
        "unsupported authentication method" => {
            Fault::Stopped(format!("{to} asks for a sign-in that is not known here: scram-sha-256 is"))
        }
        _ if error.is_closed() => Fault::Away(format!("{to} broke off")),
        _ => Fault::Away(format!("{to} is not reached: {}", told(&why, password))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides() {
        let of = |code: &str, records| by_code(&SqlState::from_code(code), "it said", "postgres://db", records);
        for code in ["08006", "57P01", "57P03", "53300", "53200", "40001", "40P01", "55P03", "25006", "53100", "58030"]
        {
            assert!(matches!(of(code, 9), Fault::Away(_)), "{code}");
        }
        for code in ["28P01", "28000", "42501", "3D000", "42703"] {
            assert!(matches!(of(code, 9), Fault::Stopped(_)), "{code}");
        }
        for code in ["22008", "22P02", "23514", "23502"] {
            assert!(matches!(of(code, 9), Fault::Refused(_)), "{code}");
        }
        assert!(matches!(of("54000", 9), Fault::TooLarge(_)));
        // One record that is slow is no record that is wrong.
        assert!(matches!((of("57014", 2), of("57014", 1)), (Fault::TooLarge(_), Fault::Away(_))));
        assert!(of("53100", 1).to_string().contains("is full"));
    }

    #[test]
    fn whoever_lacks_a_right_is_told_who_gives_it_and_by_what() {
        let code = SqlState::from_code("42501");
        let told = by_code(&code, "permission denied for schema meterseal", "postgres://db", 9).to_string();
        let (what_to_do, said) = told.split_once("; ").unwrap();
        for words in ["its administrator", "/usr/share/doc/meterseal/postgres-schema.sql", "docs/upstream.md"] {
            assert!(what_to_do.contains(words), "{told}");
        }
        assert_eq!(said, "postgres://db says: permission denied for schema meterseal (SQLSTATE 42501)");
        // What is named is there, in the sources and where it is installed.
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let install = std::fs::read_to_string(root.join("packaging/install")).unwrap();
        for (source, listed) in [
            (
                "packaging/postgres/schema.sql",
                "packaging/postgres/schema.sql usr/share/doc/meterseal/postgres-schema.sql\n",
            ),
            ("docs/upstream.md", " docs/*.md "),
        ] {
            assert!(told.contains(source) && root.join(source).is_file(), "{source}");
            assert!(install.contains(listed), "{install}");
        }
        assert!(install.contains("\"usr/share/doc/meterseal/$page\"\n"), "{install}");
    }
}
