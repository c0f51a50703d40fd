//! The verifier on material that somebody else made: `maker.py` writes good and bad cases from the format's description
//! alone, and `tools/verify.py` comes to the same verdicts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::Address;
use meterseal::evidence::verify::{Lack, Report, Trusted, Verdict, verify};
use tempfile::TempDir;

/// A case of the maker, as it lies in its folder.
struct Case {
    folder: PathBuf,
}

/// These cases, or all of them.
fn made(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let maker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence/maker.py");
    let mut python = Command::new("python3");
    let done = python.env("PYTHONDONTWRITEBYTECODE", "1").arg(maker).arg(folder.path()).args(names).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    folder
}

impl Case {
    fn of(made: &TempDir, name: &str) -> Self {
        Self { folder: made.path().join(name) }
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(fs::read_to_string(self.folder.join(format!("{name}.txt"))).ok()?.trim_end().to_owned())
    }

    fn path(&self) -> PathBuf {
        self.folder.join(self.text("path").unwrap())
    }

    fn verify(&self) -> Report {
        let addresses = |name| self.text(name).iter().flat_map(|text| text.lines()).map(address).collect();
        let mut trusted = Trusted {
            key: self.text("key").map(|key| key.parse().unwrap()),
            accounts: addresses("account"),
            contracts: addresses("contract"),
            chain: self.text("chain").map(|chain| chain.parse().unwrap()),
            ..Trusted::default()
        };
        let trust = self.folder.join("trust.txt");
        if trust.exists()
            && let Err(refused) = trusted.read_kept(&trust)
        {
            return Report { refused: Some(refused), ..Report::default() };
        }
        verify(&self.path(), &trusted, &mut |_| ())
    }

    /// The files that are verified, each with its bytes.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut open, mut files) = (vec![self.folder.clone()], Vec::new());
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_none_or(|extension| extension != "txt") {
                    files.push((path.clone(), fs::read(path).unwrap()));
                }
            }
        }
        files.sort();
        files
    }

    /// Turns one bit of a file, expects that file to be named, and turns the bit back.
    fn refuses(&self, (path, bytes): &(PathBuf, Vec<u8>), bit: usize) {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, changed).unwrap();
        let report = self.verify();
        let place = format!("{} bit {bit}", path.display());
        let refused = report.refused.unwrap_or_else(|| panic!("{place} can change"));
        let name = path.file_name().unwrap().to_str().unwrap();
        let inside = path.strip_prefix(self.path()).ok().and_then(Path::to_str).unwrap_or(name);
        assert!(refused.file.ends_with(name) || refused.file.ends_with(inside), "{place}: {refused}");
        fs::write(path, bytes).unwrap();
    }
}

fn address(line: &str) -> Address {
    Address::parse_checksummed(line, None).unwrap()
}

/// xorshift64*: the same places each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16).unwrap() % end
    }
}

#[test]
fn every_case_of_the_maker_ends_as_the_format_says() {
    let made = made(&[]);
    let (mut cases, mut faults) = (0, Vec::new());
    for entry in fs::read_dir(made.path()).unwrap() {
        let case = Case { folder: entry.unwrap().path() };
        let name = case.folder.file_name().unwrap().to_str().unwrap().to_owned();
        let (expected, names) = (case.text("expected").unwrap(), case.text("names"));
        let report = case.verify();
        let refused = report.refused.as_ref().map(ToString::to_string).unwrap_or_default();
        let is_named = names.is_none_or(|names| refused.contains(&names));
        if report.verdict().exit_code().to_string() != expected || !is_named {
            faults.push(format!("{name}: expected {expected}, found {:?} {refused}", report.verdict()));
        }
        cases += 1;
    }
    assert!(cases > 650, "only {cases} cases");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn energy_that_is_counted_twice_is_told() {
    let made = made(&["period-with-overlapping-blocks", "period-with-silences-covered-later", "period-of-two-epochs"]);
    let told = |name: &str| {
        let lacks = Case::of(&made, name).verify().lacks;
        lacks.iter().find(|lack| matches!(lack, Lack::Overlap(_))).map(ToString::to_string)
    };
    let overlap = "2 blocks overlap others: their energy is counted twice in the sum";
    assert_eq!(told("period-with-overlapping-blocks").as_deref(), Some(overlap));
    assert_eq!(told("period-with-silences-covered-later"), None);
    assert_eq!(told("period-of-two-epochs"), None);
}

#[test]
fn no_bit_of_a_bundle_and_its_proof_can_change() {
    let made = made(&["bundle-without-key", "bundle-tar"]);
    let mut dice = Dice(0x5eed);
    for (name, flips) in [("bundle-without-key", 8_000), ("bundle-tar", 2_000)] {
        let case = Case::of(&made, name);
        assert_eq!(case.verify().verdict(), Verdict::Incomplete);
        let files = case.files();
        assert!(files.len() >= 2);
        for _ in 0..flips {
            // Each file as often as any other: most bytes are the rows'.
            let file = &files[dice.below(files.len())];
            case.refuses(file, dice.below(file.1.len() * 8));
        }
        assert_eq!(case.verify().verdict(), Verdict::Incomplete);
    }
}

#[test]
fn no_bit_of_a_block_an_entry_or_a_small_log_can_change() {
    let names = ["block-by-register", "tlog-proof-of-entry-5", "log-of-2"];
    let made = made(&names);
    for name in names {
        let case = Case::of(&made, name);
        assert_eq!(case.verify().verdict(), Verdict::Incomplete);
        for file in case.files() {
            // In debug every bit of the longer ones takes minutes: each byte has its turn.
            let step = if file.1.len() > 3_000 { 7 } else { 1 };
            (0..file.1.len() * 8).step_by(step).for_each(|bit| case.refuses(&file, bit));
        }
    }
}

#[test]
fn no_bit_of_a_period_can_change_but_what_it_asks() {
    let made = made(&["period-of-two-epochs"]);
    let case = Case::of(&made, "period-of-two-epochs");
    assert_eq!(case.verify().verdict(), Verdict::Incomplete);
    let files = case.files();
    let [file] = files.as_slice() else { panic!("one proof") };
    // What is proven of a whole meter is proven of any period: other digits of `from` and `to` are another question.
    let text = String::from_utf8_lossy(&file.1).into_owned();
    let asked: Vec<_> = ["\"from\":", "\"to\":"].iter().map(|name| text.find(name).unwrap() + name.len()).collect();
    let is_asked = |byte: usize| asked.iter().any(|from| (*from..*from + 13).contains(&byte));
    for bit in (0..file.1.len() * 8).step_by(7).filter(|bit| !is_asked(bit / 8)) {
        case.refuses(file, bit);
    }
}

#[test]
fn no_bit_of_an_anchored_proof_can_change_but_those_that_make_another_block() {
    let names = ["anchor-of-an-older-checkpoint-with-consistency", "anchor-by-call-data"];
    let made = made(&names);
    let mut dice = Dice(0xa17c);
    for name in names {
        let case = Case::of(&made, name);
        assert_eq!(case.verify().verdict(), Verdict::Valid);
        let files = case.files();
        let [file @ (path, bytes)] = files.as_slice() else { panic!("one proof") };
        let text = String::from_utf8_lossy(bytes).into_owned();
        let start = text.find("\"header\":\"").unwrap() + 10;
        let header = start..start + text[start..].find('"').unwrap();
        for _ in 0..1_500 {
            let bit = dice.below(bytes.len() * 8);
            if header.contains(&(bit / 8)) {
                // Of another height nobody has said anything.
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                fs::write(path, changed).unwrap();
                assert_ne!(case.verify().verdict(), Verdict::Valid, "{name} bit {bit}");
                fs::write(path, bytes).unwrap();
            } else {
                case.refuses(file, bit);
            }
        }
        assert_eq!(case.verify().verdict(), Verdict::Valid);
    }
}

/// Proofs cut up and put together anew: the decoders meet what nobody meant to send, and none of it may hold.
#[test]
fn pieces_of_proofs_put_together_anew_do_not_hold() {
    let names = ["block-by-register", "period-of-two-epochs", "row-12", "tlog-proof-of-entry-5", "log-of-2"];
    let made = made(&names);
    let mut dice = Dice(0xfeed);
    let cases: Vec<_> = names.iter().map(|name| Case::of(&made, name)).collect();
    let files: Vec<_> = cases.iter().map(Case::files).collect();
    for _ in 0..3_000 {
        let at = dice.below(cases.len());
        let (path, bytes) = &files[at][dice.below(files[at].len())];
        let others = &files[dice.below(files.len())];
        let other = &others[dice.below(others.len())].1;
        let (from, length) = (dice.below(bytes.len()), 1 + dice.below(200));
        let to = (from + length).min(bytes.len());
        let taken = dice.below(other.len());
        let piece = match dice.below(4) {
            0 => &[][..],
            1 => &other[taken..(taken + length).min(other.len())],
            2 => &bytes[..to.min(400)],
            _ => &b"[[[[[[[[[[[[[[[[{\"a\":1e999,18446744073709551616"[..],
        };
        let changed = [&bytes[..from], piece, &bytes[to..]].concat();
        if changed == *bytes {
            continue;
        }
        fs::write(path, &changed).unwrap();
        let report = cases[at].verify();
        assert!(report.refused.is_some(), "{}: {}", path.display(), changed.escape_ascii());
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn the_command_prints_the_chain_and_ends_with_its_code() {
    let made = made(&["bundle", "part-tampered"]);
    let case = Case::of(&made, "bundle");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        let done = command.arg("verify").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    };
    let (path, key) = (case.path(), case.text("key").unwrap());
    let (code, out, err) = run(&[path.to_str().unwrap(), "--key", &key]);
    assert_eq!((code, err.as_str()), (3, ""));
    for part in
        ["holds  rows", "holds  manifest", "holds  checkpoint", "holds  key", "open   anchor", "it is not anchored"]
    {
        assert!(out.contains(part), "{part}\n{out}");
    }
    assert!(!out.contains("no key was given"), "{out}");
    let (code, out, _) = run(&[path.to_str().unwrap(), "--json"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, told["exit_code"].as_u64(), told["what"].as_str()), (3, Some(3), Some("dataset")));
    assert_eq!(told["lacks"], serde_json::json!(["no_key", "not_anchored"]));

    let (code, out, err) = run(&[Case::of(&made, "part-tampered").path().to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(out.contains("FAILS") && err.lines().count() == 2, "{out}{err}");
    let (code, _, err) = run(&["/nowhere/at/all"]);
    assert_eq!(code, 2);
    assert!(err.starts_with("meterseal: /nowhere/at/all: cannot be read"), "{err}");
    let (code, _, err) = run(&[path.to_str().unwrap(), "--key", "mine"]);
    assert_eq!((code, err.lines().count()), (2, 2), "{err}");
}
