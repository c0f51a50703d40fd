//! What a daemon did to its store and said to its node, as `events.c` counted it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempPath;

const HEADER: u64 = 32;
const FRAME: u64 = 24 + 4_096;
const LOG: &str = "evidence.db-wal";

/// Builds the library that counts; it is there as long as what this gives.
pub fn build() -> TempPath {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/anchor_daemon/events.c");
    let library = tempfile::Builder::new().suffix(".so").tempfile().unwrap().into_temp_path();
    // What Rust links with is there.
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(command.status().unwrap().success(), "{command:?}");
    library
}

#[derive(Debug)]
pub struct Events(Vec<String>);

impl Events {
    pub fn read(log: &PathBuf) -> Self {
        Self(std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect())
    }

    fn numbered(&self) -> impl Iterator<Item = &String> {
        self.0.iter().filter(|line| !line.starts_with("synced"))
    }

    pub fn count(&self) -> usize {
        self.numbered().count()
    }

    pub fn line(&self, at: usize) -> Option<&String> {
        self.numbered().nth(at - 1)
    }

    /// Where the frames of the write-ahead log end.
    pub fn frames(&self) -> BTreeSet<u64> {
        let ends = self.0.iter().filter_map(|line| write(line));
        ends.filter(|end| end.checked_sub(HEADER).is_some_and(|frames| frames % FRAME == 0)).collect()
    }

    /// How much of the write-ahead log was flushed when the transaction was first sent.
    pub fn durable_when_sent(&self) -> Result<u64, String> {
        let (mut written, mut flushing, mut durable) = (0, 0, 0);
        for line in &self.0 {
            if line.contains("eth_sendRawTransaction") {
                return Ok(durable);
            }
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["synced", LOG] => durable = flushing,
                [_, "flush", LOG, ..] => flushing = written,
                // The store came to rest before, so that the log begins anew; it is too short to be copied meanwhile.
                [_, _, "evidence.db", ..] => return Err(format!("the file itself is changed: {line}")),
                _ => written = written.max(write(line).unwrap_or(0)),
            }
        }
        Err("nothing is sent".to_owned())
    }
}

/// The end of what this line writes to the write-ahead log.
fn write(line: &str) -> Option<u64> {
    let words: Vec<&str> = line.split(' ').collect();
    let [_, "write", LOG, offset, length] = words.as_slice() else { return None };
    Some(offset.parse::<u64>().unwrap() + length.parse::<u64>().unwrap())
}
