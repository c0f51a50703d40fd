//! `meterseal doctor`: how everything is, and what to do about what is not well.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Done, Failed, complete, print};
use crate::agent::doctor::{self, NotLooked};
use crate::config;
use crate::doctor::{Finding, State, findings};

#[derive(clap::Args)]
pub struct DoctorArguments {
    /// The config
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Something is broken.
const BROKEN: u8 = 1;
/// Nothing could be looked at.
const NOT_LOOKED: u8 = 2;
/// Of one check, so many that are not well are shown to a person.
const SHOWN: usize = 20;
/// A terminal's, and where the text of a finding begins.
const WIDTH: usize = 80;
const INDENT: usize = 8;

pub fn doctor(DoctorArguments { config, json }: DoctorArguments) -> Done {
    let facts = complete(doctor::facts(&config))?.map_err(|error| not_looked(error, &config))?;
    let found = findings(&facts);
    if json {
        print::json(&found);
    } else {
        print::out(&text(&found, io::stdout().is_terminal()));
    }
    let broken = found.iter().any(|finding| finding.state == State::Broken);
    Ok(if broken { ExitCode::from(BROKEN) } else { ExitCode::SUCCESS })
}

fn not_looked(error: NotLooked, config: &Path) -> Failed {
    let hint = match &error {
        NotLooked::Config(_) => format!("`sudo meterseal check -c {}` says what to do about it.", config.display()),
        NotLooked::Forbidden(_) => {
            "Run it as root or as the user that runs meterseal: `sudo meterseal doctor`.".to_owned()
        }
        NotLooked::Failed(_) => return Failed { code: NOT_LOOKED, ..Failed::new(format!("{error:#}")) },
    };
    Failed { code: NOT_LOOKED, ..Failed::new(error.to_string()) }.hint(hint)
}

/// All findings as a person reads them, and the count at the end.
fn text(found: &[Finding], colours: bool) -> String {
    let mut text = String::new();
    for same in found.chunk_by(|one, next| one.check == next.check) {
        let mut ill = 0;
        for finding in same {
            ill += usize::from(finding.state != State::Ok);
            if finding.state == State::Ok || ill <= SHOWN {
                text += &one(finding, colours);
            }
        }
        if let Some(left @ 1..) = ill.checked_sub(SHOWN) {
            text += &format!("{:INDENT$}and {left} more like these; `meterseal doctor --json` has them all\n", "");
        }
    }
    let count = |state| found.iter().filter(|finding| finding.state == state).count();
    let (broken, look, ok) = (count(State::Broken), count(State::Look), count(State::Ok));
    text + &format!("\n{broken} broken, {look} to look at, {ok} ok\n")
}

fn one(finding: &Finding, colours: bool) -> String {
    let Finding { check, subject, state, found, remedy } = finding;
    let colour = match state {
        State::Ok => "32",
        State::Look => "33",
        State::Broken => "31;1",
    };
    let word = format!("{:<INDENT$}", state.as_str());
    let word = if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
    let subject = if subject.is_empty() { String::new() } else { format!(" {subject}") };
    let mut text = word + &wrapped(&format!("{check}{subject}: {found}"), INDENT, INDENT);
    if let Some(remedy) = remedy {
        text += &format!("{:INDENT$}-> {}", "", wrapped(remedy, INDENT + 3, INDENT + 3));
    }
    text
}

/// Broken at blanks, so that a line has at most [`WIDTH`] letters as far as its words allow; the first one begins at
/// column `first`, and the others at `indent`.
fn wrapped(text: &str, first: usize, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), first);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let at_start = out.is_empty() || out.ends_with('\n');
        if !at_start && column + 1 + length > WIDTH {
            out += &format!("\n{:indent$}", "");
            column = indent;
        } else if !at_start {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: &'static str, subject: &str, state: State) -> Finding {
        let remedy =
            (state != State::Ok).then(|| "do `this and that` until it is well again, however long it takes".to_owned());
        let found = "something was found that takes more than one line of a terminal to tell".to_owned();
        Finding { check, subject: subject.to_owned(), state, found, remedy }
    }

    #[test]
    fn lines_fit_a_terminal_and_have_no_colours_elsewhere() {
        let found = [finding("disk", "", State::Ok), finding("meter", "main-incomer", State::Broken)];
        let plain = text(&found, false);
        assert!(plain.lines().all(|line| line.chars().count() <= WIDTH), "{plain}");
        let wanted = "\
ok      disk: something was found that takes more than one line of a terminal to
        tell
broken  meter main-incomer: something was found that takes more than one line of
        a terminal to tell
        -> do `this and that` until it is well again, however long it takes

1 broken, 0 to look at, 1 ok
";
        assert_eq!(plain, wanted);
        assert!(text(&found, true).contains("\x1b[31;1mbroken  \x1b[0mmeter"));
    }

    #[test]
    fn a_plant_that_is_away_does_not_fill_the_screen() {
        let found: Vec<_> = (0..500).map(|n| finding("meter", &format!("m{n}"), State::Broken)).collect();
        let plain = text(&found, false);
        assert!(plain.contains("meter m19:") && !plain.contains("meter m20:"), "{plain}");
        assert!(plain.contains("and 480 more like these") && plain.ends_with("500 broken, 0 to look at, 0 ok\n"));
    }
}
