//! `meterseal verify`: the chain from what is shown to what one trusts, link by link.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use alloy_primitives::Address;

use super::{Done, Failed, complete, print};
use crate::evidence::evm::read_address;
use crate::evidence::rpc::{self, Canonical, Finding, Line, Rpc, Said};
use crate::evidence::verify::{self, AnchorBlock, Cause, Link, OnChain, Progress, Report, Trusted, Verdict};
use crate::model::note::VerifierKey;

#[derive(clap::Args)]
pub struct VerifyArguments {
    /// A bundle (a folder, or .tar), a proof (.proof.json, .tlog-proof), or a folder of the log
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The gateway's verifier key, as `meterseal key show` prints it there: not from whoever handed over the proof
    #[arg(long, value_name = "VKEY")]
    key: Option<String>,
    /// What somebody else vouches for: checkpoints of this log (signed notes, each followed by an empty line), and blocks
    /// of the chain (lines such as `block 137 79000123 0x…`)
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// The chain that it must be anchored on: 137 for Polygon
    #[arg(long, value_name = "ID")]
    chain: Option<u64>,
    /// The contract that it must be anchored through; given several times, one of them
    #[arg(long, value_name = "ADDR", value_parser = read_address)]
    contract: Vec<Address>,
    /// The account that must have anchored it, as `meterseal anchor status` prints it there; given several times, one of
    /// them
    #[arg(long, value_name = "ADDR", value_parser = read_address)]
    account: Vec<Address>,
    /// A node of the chain that is asked whether the anchor's block is the chain's, and final; given several times, all
    #[arg(long, value_name = "URL")]
    rpc: Vec<String>,
    /// Ask nobody, as without --rpc
    #[arg(long, conflicts_with = "rpc")]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// So long an answer of a node is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Blocks that nodes are asked about: an honest proof has one for each epoch of the log, and a hostile one could keep this
/// busy for days. Those beyond stay open.
const MOST_BLOCKS: usize = 100;
/// How often progress is told on a terminal, and elsewhere.
const OFTEN: Duration = Duration::from_millis(200);
const EVERY: Duration = Duration::from_secs(10);

pub fn verify(arguments: VerifyArguments) -> Done {
    let VerifyArguments { path, key, trust, chain, contract, account, rpc, offline: _, json } = arguments;
    let unreadable = |why: String| Failed { code: Verdict::Unreadable.exit_code(), ..Failed::new(why) };
    let mut trusted = Trusted { chain, accounts: account, contracts: contract, ..Trusted::default() };
    let rpcs = nodes(&rpc)?;
    if let Some(key) = key {
        let key: VerifierKey = key.trim().parse().map_err(|error| {
            unreadable(format!("--key: {error}"))
                .hint("Put it in quotes: it may hold characters that a shell reads otherwise.")
        })?;
        trusted.key = Some(key);
    }
    if let Some(file) = trust {
        trusted.read_kept(&file).map_err(|refused| {
            let hint = "--trust takes signed checkpoints, each with an empty line behind it, and lines that name a block: \
                `block 137 79000123 0x…`.";
            unreadable(format!("--trust: {refused}")).hint(hint)
        })?;
    }
    let mut bar = Bar::new(!json);
    let mut report = verify::verify(&path, &trusted, &mut |progress| bar.tell(&progress));
    bar.clear();
    if !rpcs.is_empty() && report.refused.is_none() {
        complete(ask(&mut report, &rpcs, &mut bar))?;
        bar.clear();
    }
    if json {
        print::json(&report.to_json());
    } else {
        print::out(&text(&report));
    }
    if let Some(refused) = &report.refused {
        return Err(Failed { code: report.verdict().exit_code(), ..Failed::new(one_line(&refused.to_string())) }
            .hint(hint(refused.cause)));
    }
    Ok(ExitCode::from(report.verdict().exit_code()))
}

/// Where each block is asked about.
fn nodes(addresses: &[String]) -> Result<Vec<Rpc>, Failed> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let code = Verdict::Unreadable.exit_code();
    let line = Line::new().map_err(|no_roots| Failed { code, ..Failed::new(no_roots.to_string()) })?;
    let node = |url: &String| {
        let bad = |error| Failed { code, ..Failed::new(format!("--rpc: {error}")) };
        Rpc::new(&line, url, PATIENCE).map_err(|error| bad(error).hint("Such as https://polygon-rpc.com."))
    };
    addresses.iter().map(node).collect()
}

/// Asks nodes of the chain about each block that holds an anchor.
async fn ask(report: &mut Report, rpcs: &[Rpc], bar: &mut Bar) {
    let all = report.blocks.len();
    for at in 0..all {
        if at >= MOST_BLOCKS {
            let why = format!("no node was asked: there are {all} blocks, and {MOST_BLOCKS} of them are asked about");
            report.confirm(at, OnChain::Open, vec![why]);
            continue;
        }
        bar.show(|| format!("block {} of {all} is asked about", at + 1));
        let AnchorBlock { chain_id, height, hash, .. } = report.blocks[at];
        let Canonical { finding, said, .. } = rpc::canonical(rpcs, chain_id, height, hash).await;
        let found = match finding {
            Finding::Final => OnChain::Confirmed,
            Finding::Another => OnChain::Other,
            Finding::Contradiction => OnChain::Disputed,
            Finding::NotFinal | Finding::Unknown => OnChain::Open,
        };
        // An error bears the name of its node already.
        let words = said.into_iter().map(|Said { rpc, text }| match text.starts_with(&rpc) {
            true => text,
            false => format!("{rpc} {text}"),
        });
        report.confirm(at, found, words.collect());
    }
}

/// What to do about a refusal.
fn hint(cause: Cause) -> &'static str {
    match cause {
        Cause::Unreadable => {
            "Give a bundle (a folder or .tar), a proof (.proof.json, .tlog-proof) or a folder of the log."
        }
        Cause::Content => {
            "Do not rely on it. If it was copied or sent, compare it with the original: one changed bit is enough."
        }
        Cause::Key => {
            "The key is of another gateway, or this is. Take the key from the gateway itself (`meterseal key show` there) \
             or from its commissioning papers."
        }
        Cause::Name => {
            "A bundle keeps its name. Give the folder or archive its id as its name, which its manifest says."
        }
        Cause::Packing => {
            "Another program packed this archive. Take the one that the gateway gave, or unpack this one and verify the folder."
        }
        Cause::Anchor => {
            "Somebody anchored it, but not as you said. Take account, contract and chain from the gateway itself \
             (`meterseal anchor status` there) or from its commissioning papers."
        }
        Cause::Block => {
            "The block of its anchor is not one of the chain's. If the chain was reorganised, the gateway anchors again: ask \
             for the proof anew. Until then do not rely on its time."
        }
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

/// How far it is: on one line of a terminal, or now and then a line.
struct Bar {
    shown: bool,
    terminal: bool,
    /// Since when it goes on, or when it was last told.
    told: Instant,
    drawn: bool,
}

impl Bar {
    fn new(shown: bool) -> Self {
        Self { shown, terminal: io::stderr().is_terminal(), told: Instant::now(), drawn: false }
    }

    fn tell(&mut self, progress: &Progress) {
        let Progress { part, bytes, of_bytes, rows } = progress;
        let percent = u128::from(*bytes) * 100 / u128::from((*of_bytes).max(1));
        self.show(|| format!("{percent:3} %  {rows} rows  {part}"));
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        let every = if self.terminal { OFTEN } else { EVERY };
        if !self.shown || self.told.elapsed() < every {
            return;
        }
        self.told = Instant::now();
        let text = text();
        if self.terminal {
            self.drawn = true;
            self.print(&format!("\r\x1b[K{text}"));
        } else {
            self.print(&format!("{text}\n"));
        }
    }

    fn clear(&mut self) {
        if self.drawn {
            self.print("\r\x1b[K");
            self.drawn = false;
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
