//! Holds the import map of ARCHITECTURE.md: which room of `src/` may import which, and which room alone may name a
//! crate. It reads the source as tokens, so paths in comments and strings do not count, and paths in macros do.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A room and the rooms it may import. Imports point down, and the side rooms never import one another, but for
/// `simulate`, which reads the register maps of `sources`.
const MAP: &[(&str, &[&str])] = &[
    ("main", &["cli", "agent", "config", "clock", "model"]),
    ("cli", &["agent", "config", SIDE_ROOMS, "store", "clock", "model"]),
    ("agent", &["config", SIDE_ROOMS, "store", "clock", "model"]),
    ("config", &[SIDE_ROOMS, "store", "clock", "model"]),
    (SIDE_ROOMS, &["store", "clock", "model"]),
    ("simulate", &["sources"]),
    ("store", &["clock", "model"]),
    ("clock", &["model"]),
    ("model", &[]),
];

/// Stands for each of these in `MAP`, beside what is said of one by name.
const SIDE_ROOMS: &str = "a side room";
const SIDE: &[&str] =
    &["sources", "simulate", "blocks", "commissioning", "evidence", "upstream", "alerts", "doctor", "web"];

/// The verifier is to be believed by whoever trusts nothing else here: it stands on these alone, and on its own parts.
const VERIFIER: &str = "evidence/verify";
const VERIFIER_IMPORTS: &[&[&str]] =
    &[&["model"], &["evidence", "dataset"], &["evidence", "evm"], &["evidence", "verify"]];
/// What reaches beyond the files that it is given.
const NOT_IN_VERIFIER: &[&str] = &["tokio", "reqwest", "hyper", "net", "rusqlite", "SystemTime", "Instant"];

/// A crate and the only rooms that may name it.
const ONLY_IN: &[(&str, &[&str])] = &[("rusqlite", &["store"]), ("libsqlite3_sys", &["store"])];

/// A room and a crate it may not name.
const NEVER_IN: &[(&str, &str)] = &[("model", "tokio"), ("model", "tokio_util")];

/// The name by which `main.rs` and other programs call the library.
const LIBRARY: &str = "meterseal";

#[test]
fn every_import_in_src_is_on_the_map() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files).unwrap();
    assert!(!files.is_empty(), "no source found in {}", src.display());
    let mut faults = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let below = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        faults.extend(faults_of(&below, &text));
    }
    assert!(faults.is_empty(), "imports that are not on the map:\n{}", faults.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// What is wrong in the file at `below` (a path inside `src/`), as `src/web/mod.rs:3: web may not import sources`.
fn faults_of(below: &str, text: &str) -> Vec<String> {
    let mut module: Vec<String> = below.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    // `main.rs`, `lib.rs` and the programs in `bin/` stand at the root of the crate.
    let at_root = matches!(module[0].as_str(), "main" | "lib" | "bin");
    let room = if at_root { "main".to_owned() } else { module[0].clone() };
    if at_root {
        module.clear();
    }
    let mut faults = Vec::new();
    let mut fault = |line: usize, what: String| {
        let told = format!("src/{below}:{line}: {what}");
        if !faults.contains(&told) {
            faults.push(told);
        }
    };
    if !is_room(&room) {
        fault(1, format!("{room} is no room of the map"));
        return faults;
    }
    let tokens = tokens(text);
    for token in &tokens {
        let Kind::Word(word) = &token.kind else {
            continue;
        };
        if ONLY_IN.iter().any(|(name, rooms)| name == word && !rooms.contains(&room.as_str())) {
            fault(token.line, format!("{room} may not name {word}"));
        }
        if NEVER_IN.iter().any(|(barred, name)| *barred == room && name == word) {
            fault(token.line, format!("{room} may not name {word}"));
        }
    }
    let in_verifier = module.join("/").starts_with(VERIFIER);
    for token in tokens.iter().filter(|_| in_verifier) {
        if let Kind::Word(word) = &token.kind
            && NOT_IN_VERIFIER.contains(&word.as_str())
        {
            fault(token.line, format!("the verifier may not name {word}"));
        }
    }
    for path in paths(&tokens, &module) {
        if in_verifier && let Some((line, reached)) = beyond_the_verifier(&path) {
            fault(line, format!("the verifier may not import {reached}"));
        }
        match imported(&path, at_root) {
            Some((line, Target::Room(other))) if other != room && !allowed(&room, &other) => {
                fault(line, format!("{room} may not import {other}"));
            }
            Some((line, Target::Root)) if !at_root => fault(line, format!("{room} may not import the crate's root")),
            _ => {}
        }
    }
    faults
}

fn is_room(name: &str) -> bool {
    SIDE.contains(&name) || MAP.iter().any(|(room, _)| *room == name)
}

fn allowed(room: &str, other: &str) -> bool {
    let is = |entry: &str, room: &str| entry == room || (entry == SIDE_ROOMS && SIDE.contains(&room));
    MAP.iter().any(|(from, to)| is(from, room) && to.iter().any(|entry| is(entry, other)))
}

enum Target {
    Room(String),
    Root,
}

/// What a path in the verifier reaches of this crate that the verifier may not stand on, with its line.
fn beyond_the_verifier(path: &PathInSource) -> Option<(usize, String)> {
    let (first, _) = path.segments.first()?;
    let mut words: Vec<&str> = match first.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => path.module.iter().map(String::as_str).collect(),
        _ => return None,
    };
    let mut last = 0;
    for (word, line) in &path.segments {
        last = *line;
        match word.as_str() {
            "crate" | "self" => {}
            "super" => drop(words.pop()),
            word => words.push(word),
        }
    }
    let allowed = VERIFIER_IMPORTS.iter().any(|allowed| words.starts_with(allowed));
    (!allowed && !words.is_empty()).then(|| (last, words.join("::")))
}

/// What of this crate `path` reaches; nothing when it leads into another crate, or to an item at the crate's root.
fn imported(path: &PathInSource, at_root: bool) -> Option<(usize, Target)> {
    let (first, line) = path.segments.first()?;
    let mut rest = path.segments.as_slice();
    let mut absolute: Vec<(String, usize)> = Vec::new();
    match first.as_str() {
        "crate" => rest = &rest[1..],
        LIBRARY if at_root => rest = &rest[1..],
        "self" | "super" => {
            absolute = path.module.iter().map(|part| (part.clone(), *line)).collect();
            while let Some((word, _)) = rest.first() {
                match word.as_str() {
                    "self" => {}
                    "super" => drop(absolute.pop()),
                    _ => break,
                }
                rest = &rest[1..];
            }
        }
        _ if at_root && path.module.is_empty() && rest.len() > 1 && is_room(first) => {}
        _ => return None,
    }
    absolute.extend(rest.iter().filter(|(word, _)| word != "self").cloned());
    match absolute.first() {
        Some((word, line)) if word == "*" => Some((*line, Target::Root)),
        Some((word, line)) if is_room(word) => Some((*line, Target::Room(word.clone()))),
        Some(_) => None,
        // A lone `crate` or `super` is a visibility unless it is given another name.
        None if path.segments.len() > 1 || path.renamed => Some((*line, Target::Root)),
        None => None,
    }
}

struct PathInSource {
    /// Each word with its line; `*` for a glob.
    segments: Vec<(String, usize)>,
    renamed: bool,
    /// The module in which it stands.
    module: Vec<String>,
}

/// Every path in the file, with the groups of `use` statements spread out.
fn paths(tokens: &[Token], module: &[String]) -> Vec<PathInSource> {
    let mut found = Vec::new();
    let mut module = module.to_vec();
    let mut depth = 0_usize;
    let mut opened: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match &token.kind {
            Kind::Word(word) if word == "mod" => {
                if let (Some(Kind::Word(name)), Some(Kind::Mark('{'))) = (kind(tokens, at + 1), kind(tokens, at + 2)) {
                    module.push(name.clone());
                    opened.push(depth);
                    depth += 1;
                    at += 2;
                }
                at += 1;
            }
            Kind::Mark('{') => {
                depth += 1;
                at += 1;
            }
            Kind::Mark('}') => {
                depth = depth.saturating_sub(1);
                if opened.last() == Some(&depth) {
                    opened.pop();
                    module.pop();
                }
                at += 1;
            }
            Kind::Word(_) => at = spread(tokens, at, &[], &module, &mut found),
            Kind::Join => {
                // `::name` is a path from the list of crates: never one into this crate.
                at += 1;
                while matches!(kind(tokens, at), Some(Kind::Word(_) | Kind::Join)) {
                    at += 1;
                }
            }
            Kind::Mark(_) => at += 1,
        }
    }
    found
}

/// Reads the path that starts at `at`, below `prefix`; gives the place after it.
fn spread(
    tokens: &[Token],
    mut at: usize,
    prefix: &[(String, usize)],
    module: &[String],
    found: &mut Vec<PathInSource>,
) -> usize {
    let mut segments = prefix.to_vec();
    loop {
        match kind(tokens, at) {
            Some(Kind::Word(word)) => segments.push((word.clone(), tokens[at].line)),
            Some(Kind::Mark('*')) => segments.push(("*".to_owned(), tokens[at].line)),
            Some(Kind::Mark('{')) => {
                at += 1;
                while !matches!(kind(tokens, at), None | Some(Kind::Mark('}'))) {
                    let is_path = matches!(kind(tokens, at), Some(Kind::Word(_) | Kind::Mark('*')));
                    at = if is_path { spread(tokens, at, &segments, module, found) } else { at + 1 };
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if kind(tokens, at) != Some(&Kind::Join) {
            break;
        }
        at += 1;
    }
    let renamed = kind(tokens, at) == Some(&Kind::Word("as".to_owned()));
    found.push(PathInSource { segments, renamed, module: module.to_vec() });
    if renamed { at + 2 } else { at }
}

fn kind(tokens: &[Token], at: usize) -> Option<&Kind> {
    tokens.get(at).map(|token| &token.kind)
}

#[derive(Debug, PartialEq)]
enum Kind {
    Word(String),
    /// `::`
    Join,
    Mark(char),
}

struct Token {
    kind: Kind,
    line: usize,
}

/// The words and marks of a source text, without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        let first = chars[at];
        let mut kind = None;
        if first == '/' && peek(at + 1) == '/' {
            at += until(&chars[at..], |rest| rest[0] == '\n');
        } else if first == '/' && peek(at + 1) == '*' {
            at = end_of_comment(&chars, at);
        } else if first == '"' {
            at = end_of_string(&chars, at);
        } else if first == '\'' {
            at = end_of_quote(&chars, at);
        } else if first.is_alphanumeric() || first == '_' {
            at += until(&chars[at..], |rest| !(rest[0].is_alphanumeric() || rest[0] == '_'));
            let word: String = chars[start..at].iter().collect();
            let hashes = until(&chars[at..], |rest| rest[0] != '#');
            if matches!(word.as_str(), "r" | "br" | "cr") && peek(at + hashes) == '"' {
                at = end_of_raw_string(&chars, at + hashes + 1, hashes);
            } else if word == "r" && hashes == 1 {
                at += 1; // a raw identifier: the word follows
            } else if !(matches!(word.as_str(), "b" | "c") && matches!(peek(at), '"' | '\'')) {
                kind = Some(Kind::Word(word));
            }
        } else if first == ':' && peek(at + 1) == ':' {
            at += 2;
            kind = Some(Kind::Join);
        } else {
            at += 1;
            if !first.is_whitespace() {
                kind = Some(Kind::Mark(first));
            }
        }
        if let Some(kind) = kind {
            tokens.push(Token { kind, line });
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// How many characters come before the first place where `stop` holds.
fn until(chars: &[char], stop: impl Fn(&[char]) -> bool) -> usize {
    (0..chars.len()).find(|at| stop(&chars[*at..])).unwrap_or(chars.len())
}

fn end_of_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match &chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `at` stands behind the opening quote.
fn end_of_raw_string(chars: &[char], at: usize, hashes: usize) -> usize {
    let ends = |rest: &[char]| rest[0] == '"' && rest.iter().skip(1).take_while(|c| **c == '#').count() >= hashes;
    (at + until(&chars[at..], ends) + 1 + hashes).min(chars.len())
}

/// A character such as `'a'` or `'\''`, or else the tick of a lifetime.
fn end_of_quote(chars: &[char], at: usize) -> usize {
    match &chars[at..] {
        ['\'', '\\', _, rest @ ..] => (at + 3 + until(rest, |rest| rest[0] == '\'') + 1).min(chars.len()),
        ['\'', _, '\'', ..] => at + 3,
        _ => at + 1,
    }
}

#[test]
fn an_import_upwards_or_sideways_is_found() {
    let upwards = "use crate::model::MeterId;\nuse crate::agent::Agent;\n";
    assert_eq!(faults_of("web/mod.rs", upwards), ["src/web/mod.rs:2: web may not import agent"]);
    let sideways = "//! Reads.\nfn plan() {\n    crate::sources::plan::fewest()\n}\n";
    assert_eq!(faults_of("blocks/close.rs", sideways), ["src/blocks/close.rs:3: blocks may not import sources"]);
    assert_eq!(faults_of("model/mod.rs", "use crate::clock;"), ["src/model/mod.rs:1: model may not import clock"]);
    assert_eq!(faults_of("main.rs", "use meterseal::web;"), ["src/main.rs:1: main may not import web"]);
    assert_eq!(faults_of("main.rs", "mod web;\nfn main() { web::run() }"), ["src/main.rs:2: main may not import web"]);
}

#[test]
fn an_import_within_nested_braces_is_found_on_its_line() {
    let text = concat!(
        "use crate::{\n    model::{Block, Span as S},\n    store::{self, Reader},\n",
        "    sources::{\n        plan,\n    },\n};\n",
    );
    assert_eq!(faults_of("web/live.rs", text), ["src/web/live.rs:4: web may not import sources"]);
    assert_eq!(faults_of("sources/mod.rs", text), [""; 0]);
}

#[test]
fn a_chain_of_super_that_reaches_the_root_is_found() {
    let text = "use super::super::agent::Agent;\nuse super::decode::word;\n";
    assert_eq!(faults_of("sources/modbus/mod.rs", text), ["src/sources/modbus/mod.rs:1: sources may not import agent"]);
    assert_eq!(faults_of("sources/plan.rs", "use super::web::X;"), [""; 0]);
    let inner = "mod tests {\n    use super::super::super::web::X;\n    use super::*;\n}\nuse super::super::web::Y;\n";
    let told =
        ["src/sources/plan.rs:2: sources may not import web", "src/sources/plan.rs:5: sources may not import web"];
    assert_eq!(faults_of("sources/plan.rs", inner), told);
}

#[test]
fn importing_the_root_itself_is_found() {
    for text in ["use crate::*;", "use crate as all;", "use crate::{self as all};", "use super::*;"] {
        assert_eq!(faults_of("web/mod.rs", text), ["src/web/mod.rs:1: web may not import the crate's root"], "{text}");
    }
    assert_eq!(faults_of("web/mod.rs", "pub(crate) fn f() {}\npub(super) fn g() {}\n"), [""; 0]);
}

#[test]
fn a_crate_out_of_its_room_is_found() {
    let text = "fn f(c: &rusqlite::Connection) {}";
    assert_eq!(faults_of("web/mod.rs", text), ["src/web/mod.rs:1: web may not name rusqlite"]);
    assert_eq!(faults_of("store/engine.rs", text), [""; 0]);
    let text = "use std::time::Duration;\nuse tokio::sync::watch;\n";
    assert_eq!(faults_of("model/meter.rs", text), ["src/model/meter.rs:2: model may not name tokio"]);
}

#[test]
fn the_verifier_stands_on_the_model_and_on_datasets_alone() {
    let text = concat!(
        "use crate::model::{Block, merkle};\nuse crate::evidence::dataset::line;\nuse super::strict::Members;\n",
        "use crate::evidence::mark;\nuse super::super::influx::Query;\nuse crate::store;\nuse std::net::TcpStream;\n",
        "use crate::{evidence::epoch, clock::Clock};\nmod tests { use super::super::proof::Proof; }\n",
    );
    let told = [
        "src/evidence/verify/block.rs:7: the verifier may not name net",
        "src/evidence/verify/block.rs:4: the verifier may not import evidence::mark",
        "src/evidence/verify/block.rs:5: the verifier may not import evidence::influx::Query",
        "src/evidence/verify/block.rs:6: the verifier may not import store",
        "src/evidence/verify/block.rs:8: the verifier may not import evidence::epoch",
        "src/evidence/verify/block.rs:8: the verifier may not import clock::Clock",
    ];
    assert_eq!(faults_of("evidence/verify/block.rs", text), told);
    assert_eq!(faults_of("evidence/log.rs", "use super::mark;\nuse crate::store;"), [""; 0]);
}

#[test]
fn a_room_that_is_not_on_the_map_is_found() {
    assert_eq!(faults_of("util.rs", ""), ["src/util.rs:1: util is no room of the map"]);
    assert_eq!(faults_of("lib.rs", "pub mod util;"), [""; 0]);
}

#[test]
fn comments_strings_and_quotes_are_no_imports() {
    let text = concat!(
        "//! crate::web\n/* crate::web /* crate::web */ crate::web */\n",
        "const A: &str = \"crate::web \\\" crate::web\";\nconst B: &str = r#\"crate::web \" crate::web\"#;\n",
        "const C: &[u8] = b\"crate::web\";\nconst D: [char; 3] = ['\"', '\\'', '\\u{22}'];\n",
        "fn f<'a>(x: &'a str) -> &'a str { ::agent::g(x) }\nuse crate::agent::X;\n",
    );
    assert_eq!(faults_of("store/mod.rs", text), ["src/store/mod.rs:8: store may not import agent"]);
}
