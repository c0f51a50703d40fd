//! `meterseal verify`: the chain from what is shown to what one trusts, link by link.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{Done, Failed, print};
use crate::evidence::verify::{self, Link, Progress, Refused, Report, Trusted, Verdict};
use crate::model::note::VerifierKey;

#[derive(clap::Args)]
pub struct VerifyArguments {
    /// A bundle (a folder, or .tar), a proof (.proof.json, .tlog-proof), or a folder of the log
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The gateway's verifier key, as `meterseal key show` prints it there: not from whoever handed over the proof
    #[arg(long, value_name = "VKEY")]
    key: Option<String>,
    /// Checkpoints of this log that somebody kept: signed notes, each followed by an empty line
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How often progress is told on a terminal.
const OFTEN: Duration = Duration::from_millis(200);

pub fn verify(arguments: VerifyArguments) -> Done {
    let VerifyArguments { path, key, trust, json } = arguments;
    let unreadable = |why: String| Failed { code: Verdict::Unreadable.exit_code(), ..Failed::new(why) };
    let mut trusted = Trusted::default();
    if let Some(key) = key {
        let key: VerifierKey = key.parse().map_err(|error| {
            unreadable(format!("--key: {error}"))
                .hint("Put it in quotes: it may hold characters that a shell reads otherwise.")
        })?;
        trusted.key = Some(key);
    }
    if let Some(file) = trust {
        trusted.read_kept(&file).map_err(|refused| {
            let code = if refused.unreadable { Verdict::Unreadable } else { Verdict::Invalid }.exit_code();
            let hint = "--trust takes signed checkpoints, each with an empty line behind it.";
            Failed { code, ..Failed::new(refused.to_string()) }.hint(hint)
        })?;
    }
    let mut bar = Bar::new(io::stderr().is_terminal() && !json);
    let report = verify::verify(&path, &trusted, &mut |progress| bar.tell(&progress));
    bar.clear();
    if json {
        print::json(&report.to_json());
    } else {
        print::out(&text(&report));
    }
    if let Some(refused) = &report.refused {
        return Err(Failed { code: report.verdict().exit_code(), ..Failed::new(one_line(&refused.to_string())) }
            .hint(hint(refused)));
    }
    Ok(ExitCode::from(report.verdict().exit_code()))
}

fn hint(refused: &Refused) -> &'static str {
    if refused.unreadable {
        "Give a bundle (a folder or .tar), a proof (.proof.json, .tlog-proof) or a folder of the log."
    } else {
        "Do not rely on it. If it was copied or sent, compare it with the original: one changed bit is enough."
    }
}

/// The chain, a paragraph for each link, and what it comes to.
fn text(report: &Report) -> String {
    let mut text = String::new();
    for link in &report.links {
        text += &paragraph(link);
    }
    if let Some(refused) = &report.refused {
        text += &format!("FAILS  {}\n", one_line(&refused.file));
        if !refused.place.is_empty() {
            text += &format!("       {}\n", one_line(&refused.place));
        }
        text += &format!("       {}\n", one_line(&refused.why));
    }
    let what = if report.what.is_empty() { "this" } else { report.what };
    text += &match report.verdict() {
        Verdict::Valid => format!("\n{what}: valid\n"),
        Verdict::Invalid => format!("\n{what}: INVALID\n"),
        Verdict::Unreadable => "\nunreadable\n".to_owned(),
        Verdict::Incomplete => {
            let lacks: String = report.lacks.iter().map(|lack| format!("  - {lack}\n")).collect();
            format!("\n{what}: valid in itself, but\n{lacks}")
        }
    };
    text
}

fn paragraph(link: &Link) -> String {
    let word = match link.holds {
        Some(true) => "holds",
        Some(false) => "FAILS",
        None => "open ",
    };
    let mut text = format!("{word}  {}\n", link.name);
    for line in &link.told {
        text += &format!("       {}\n", one_line(line));
    }
    text + &format!("       shows: {}\n", link.shows)
}

/// What strangers wrote may hold line feeds, and whatever else moves or hides text on a terminal: a name must not look
/// like a link of the chain.
fn one_line(text: &str) -> String {
    let moves = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if moves(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// How far it is, on one line of a terminal.
struct Bar {
    shown: bool,
    told: Option<Instant>,
}

impl Bar {
    fn new(terminal: bool) -> Self {
        Self { shown: terminal, told: None }
    }

    fn tell(&mut self, progress: &Progress) {
        if !self.shown || self.told.is_some_and(|told| told.elapsed() < OFTEN) {
            return;
        }
        self.told = Some(Instant::now());
        let Progress { part, bytes, of_bytes, rows } = progress;
        let percent = u128::from(*bytes) * 100 / u128::from((*of_bytes).max(1));
        self.print(&format!("\r\x1b[K{percent:3} %  {rows} rows  {part}"));
    }

    fn clear(&mut self) {
        if self.told.is_some() {
            self.print("\r\x1b[K");
        }
    }

    /// Progress that cannot be shown is no failure of what is being done.
    fn print(&mut self, text: &str) {
        let mut out = io::stderr().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            self.shown = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_stays_on_its_line() {
        let told = vec!["from a\n\nholds  key\n\u{1b}[8m\u{9b}2K\u{202e}".to_owned(), "größe 5 kWh".to_owned()];
        let link = Link { name: "manifest", holds: Some(true), told, shows: "what was asked" };
        let text = paragraph(&link);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.contains("from a\\u{a}\\u{a}holds  key\\u{a}\\u{1b}[8m\\u{9b}2K\\u{202e}\n       größe 5 kWh\n"),
            "{text}"
        );
    }
}
