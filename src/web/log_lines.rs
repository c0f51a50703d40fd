//! The newest lines of the program's own log, kept in memory for a support bundle.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// When either is full, the oldest lines go.
const LINES: usize = 2_000;
const BYTES: usize = 512 << 10;
/// What is longer is cut off: it would push out all others.
const LONGEST: usize = 8 << 10;

/// Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct LogLines(Arc<Mutex<Ring>>);

#[derive(Default)]
struct Ring {
    lines: VecDeque<String>,
    bytes: usize,
}

impl LogLines {
    /// What is told under this target is for those who read the log on the machine itself, and is not kept.
    pub const NOT_KEPT: &str = "meterseal::not_kept";

    /// Takes one line, in as many pieces as it comes.
    pub fn line(&self) -> Line {
        Line { lines: self.clone(), bytes: Vec::new() }
    }

    /// All that there are, the oldest first.
    pub fn text(&self) -> String {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.lines.iter().map(String::as_str).collect()
    }

    fn push(&self, line: String) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.bytes += line.len();
        ring.lines.push_back(line);
        while ring.lines.len() > LINES || ring.bytes > BYTES {
            let Some(gone) = ring.lines.pop_front() else { break };
            ring.bytes -= gone.len();
        }
    }
}

/// A line that is being written.
pub struct Line {
    lines: LogLines,
    bytes: Vec<u8>,
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut line = String::from_utf8_lossy(&self.bytes).into_owned();
        if line.is_empty() {
            return;
        }
        if !line.ends_with('\n') {
            line.push('\n');
        }
        self.lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_newest_lines_are_kept_within_their_room() {
        let lines = LogLines::default();
        for number in 0..LINES + 5 {
            write!(lines.line(), "line {number}").unwrap();
        }
        let text = lines.text();
        assert!(text.starts_with("line 5\n") && text.ends_with(&format!("line {}\n", LINES + 4)));
        for _ in 0..200 {
            write!(lines.line(), "{}", "x".repeat(2 * LONGEST)).unwrap();
        }
        let text = lines.text();
        assert!(text.len() <= BYTES && text.lines().all(|line| line.len() == LONGEST), "{}", text.len());
    }
}
