//! A browser that looks at the page by a look of its own (`*.mjs`), and says what it wants done meanwhile.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant, timeout_at};

/// A look is done in this time on a machine that is busy with others.
const PATIENCE: Duration = Duration::from_secs(150);

pub struct Browser {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
    say: ChildStdin,
    until: Instant,
}

impl Browser {
    /// Begins a look, named by its path below `tests/`, and tells it what it needs.
    pub fn open(look: &str, url: &str, told: &Value) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for package in ["playwright-core", "axe-core"] {
            let is_there = root.join(".peers/node_modules").join(package).exists();
            assert!(is_there, "{package} is not installed: run tests/setup");
        }
        let mut process = tokio::process::Command::new("node")
            .arg(root.join("tests").join(look).with_extension("mjs"))
            .args([url, "/usr/bin/chromium", told.to_string().as_str()])
            .args(std::env::var_os("SCREENSHOTS"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed by tests/setup");
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let say = process.stdin.take().unwrap();
        Self { process, said, say, until: Instant::now() + PATIENCE }
    }

    /// The next thing that it wants, to be answered by [`Self::is_done`]; none when it has seen all. Nothing is lost where this is
    /// dropped before it is ready.
    pub async fn wants(&mut self) -> Option<String> {
        let line = timeout_at(self.until, self.said.next_line()).await.expect("the browser is done in time").unwrap();
        let line = line.unwrap_or_else(|| panic!("the page is not as it should be: see above"));
        (line != "done").then_some(line)
    }

    pub async fn is_done(&mut self) {
        self.say.write_all(b"done\n").await.unwrap();
    }

    pub async fn end(mut self) {
        assert!(self.process.wait().await.unwrap().success());
    }
}
