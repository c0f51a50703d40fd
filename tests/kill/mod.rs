//! A process of a test that is killed before one of its writes. `strace -e inject=…:when=N` counts for each thread and each
//! system call by itself, so that a write is named by its file, its call and its number among those.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// What changes files. Some of them are not on every machine, which the question mark allows for.
const WRITES: &str = "write,writev,pwrite64,pwritev,?pwritev2,fsync,fdatasync,?sync_file_range,?fallocate,ftruncate,\
    ?rename,renameat,renameat2,?unlink,unlinkat,?rmdir,?mkdir,mkdirat,?link,linkat,?symlink,symlinkat";

/// At which of its writes a process is killed.
#[derive(Clone, Copy)]
pub enum Which {
    All,
    /// Some, spread over all of them; the number says where they begin.
    From(usize),
}

impl Which {
    /// By the arguments of the test `name`: `all`, `from N`, or as the test harness is called, with flags and filters; then
    /// it begins anywhere. `None`: others are meant.
    pub fn by_arguments(name: &str, words: &[&str]) -> Option<Self> {
        match words {
            ["all"] => Some(Self::All),
            ["from", first] => Some(Self::From(first.parse().unwrap())),
            filters if filters.iter().any(|word| !word.starts_with("--") && !name.contains(word)) => None,
            _ => {
                let mut random = [0; 8];
                getrandom::fill(&mut random).unwrap();
                Some(Self::From(usize::from_le_bytes(random)))
            }
        }
    }

    /// The first of `count`, and how many there are from one to the next, for `spread` of them.
    pub fn of(self, count: usize, spread: usize) -> (usize, usize) {
        match self {
            Self::All => (0, 1),
            Self::From(first) => {
                let stride = count.div_ceil(spread).max(1);
                (first % stride, stride)
            }
        }
    }
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    pub call: String,
    pub path: PathBuf,
    /// Among the calls like this to this path, from 1.
    pub nth: usize,
}

/// This program with other arguments, as a process under strace.
fn traced(options: &[&str], arguments: &[String]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-e", "signal=none"]).args(options).arg("--");
    command.arg(std::env::current_exe().unwrap()).args(arguments);
    command.stdin(Stdio::null());
    command
}

/// The writes below `dir` of a whole run.
pub fn record(log: &Path, dir: &Path, arguments: &[String]) -> Result<Vec<Write>, String> {
    let options = ["-o", log.to_str().unwrap(), "-s", "0", "-e", &format!("trace={WRITES}")];
    let done = traced(&options, arguments).output().map_err(|error| format!("strace: {error}; see tests/setup"))?;
    if !done.status.success() {
        return Err(format!("{done:?}"));
    }
    Ok(recorded(&fs::read_to_string(log).unwrap(), dir))
}

/// Kills a run just before it does this. False when it was over before.
pub fn kill_at(write: &Write, arguments: &[String]) -> bool {
    let Write { call, path, nth } = write;
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={nth}"));
    let options = ["-o", "/dev/null", "-P", path.to_str().unwrap(), "-e", &trace, "-e", &inject];
    let done = traced(&options, arguments).output().unwrap();
    assert!(done.status.success() || done.status.signal() == Some(9), "{done:?}");
    !done.status.success()
}

/// The writes below `dir` that strace recorded, in the order in which they began.
fn recorded(log: &str, dir: &Path) -> Vec<Write> {
    let (mut seen, mut writes) = (BTreeMap::new(), Vec::new());
    for line in log.lines() {
        let Some((thread, (call, arguments))) =
            line.split_once(' ').and_then(|(thread, rest)| Some((thread, rest.trim_start().split_once('(')?)))
        else {
            continue;
        };
        // `3</the/file>, …` or `"/the/file", …`, the latter also after the folder it would be relative to.
        let path = if arguments.starts_with(|first: char| first.is_ascii_digit()) {
            arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path)
        } else {
            arguments.split('"').nth(1)
        };
        let Some(path) = path.map(PathBuf::from).filter(|path| path.starts_with(dir)) else { continue };
        let nth: &mut usize = seen.entry((thread.to_owned(), call.to_owned(), path.clone())).or_default();
        *nth += 1;
        writes.push(Write { call: call.to_owned(), path, nth: *nth });
    }
    // What two threads do alike to one file is killed at the first of them.
    let mut known = BTreeSet::new();
    writes.retain(|write| known.insert(write.clone()));
    writes
}

/// Its folders and files; the socket of a process that was killed is left out.
pub fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if entry.path().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Does the work of the process that is killed. One thread for the store's, so that the writes to a file are those of
/// one thread.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(work)
}

/// How the program ends; what is wrong is printed.
pub fn told(done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            println!("{wrong}");
            ExitCode::FAILURE
        }
    }
}
