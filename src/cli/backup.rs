//! `meterseal backup` and `meterseal restore`: the file that a backup is, what is told of it, and what to do next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, IsTerminal as _, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArgument, Done, Failed, complete, good_config, print};
use crate::agent::backup;
use crate::clock::Clock;
use crate::store::{self, BackupHead, BadBackup, RestoreError, Restored, StoreError};

#[derive(clap::Args)]
pub struct BackupArguments {
    /// The file to make, for its owner alone; - is standard output
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgument,
    /// Also take the private keys: whoever has such a file can sign as this gateway
    #[arg(long)]
    with_key: bool,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct RestoreArguments {
    /// The backup; - is standard input
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgument,
    /// Set a store that is there aside, whole, in a folder beside the restored files
    #[arg(long, conflicts_with = "check")]
    replace: bool,
    /// Only read all of the backup and check it: no store is touched or needed
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn back_up(arguments: BackupArguments) -> Done {
    let BackupArguments { file: path, config, with_key, force, json } = arguments;
    let config = good_config(&config.path, &Clock::system())?;
    let to_stdout = path == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failed::new("a backup is nothing for a terminal").hint("Name a file, or pipe it on."));
    }
    let mut shown = Shown::new("backing up");
    let progress = move |done, all| shown.take(done, all);
    let written = if to_stdout {
        complete(backup::back_up(&config, with_key, io::stdout(), progress))??
    } else {
        let written = complete(async {
            // Heard from before there is a file: what is left of one that was stopped may hold the private keys.
            let stopped = Stopped::heard()?;
            let made = Made::begin(&path, &config.store.path, force)?;
            let file = made.file.try_clone().map_err(|error| made.failed(&error))?;
            let written = tokio::select! {
                written = backup::back_up(&config, with_key, Steady { file, unwritten: 0 }, progress) => written?,
                () = stopped.wait() => {
                    return Err(Failed::new("stopped by a signal").hint(format!("Nothing is left of {}.", path.display())));
                }
            };
            made.finish(force)?;
            Ok(written)
        });
        clear();
        written??
    };
    clear();
    let (head, bytes) = (&written.head, written.bytes);
    if json && !to_stdout {
        print::json(&json!({ "file": path, "bytes": bytes, "backup": head }));
        return Ok(ExitCode::SUCCESS);
    }
    let origin = origin(head);
    let mut text = format!(
        "backup of {origin} as of {}: {}, {}\n",
        head.taken,
        print::counted(usize::try_from(head.files).unwrap_or(0), "file"),
        megabytes(bytes)
    );
    text += match (head.key, with_key) {
        (true, _) => {
            "The private keys are in it: whoever has the file can sign as this gateway. Keep it locked away.\n"
        }
        (false, true) => "The store has no private key, so neither has the backup.\n",
        (false, false) => "The private keys are not in it: a gateway that is restored from it gets a new id and key.\n",
    };
    text += "Passwords and tokens of connections that were made on the page are in it, and the hash of the PIN.\n";
    if to_stdout {
        eprint!("{text}")
    } else {
        print::out(&text)
    }
    Ok(ExitCode::SUCCESS)
}

pub fn restore(arguments: RestoreArguments) -> Done {
    let RestoreArguments { file, config, replace, check, json } = arguments;
    let name = file.display().to_string();
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(&file).map_err(|error| Failed::new(format!("cannot read {name}: {error}")))?;
        Box::new(BufReader::with_capacity(1 << 20, opened))
    };
    if check {
        let mut shown = Shown::new("checking");
        let checked = store::check_backup(input, &mut |done, all| {
            shown.take(done, all);
            true
        });
        clear();
        let head = checked.map_err(|bad| of_backup(&name, bad))?;
        if json {
            print::json(&json!({ "backup": head }));
        } else {
            let key = if head.key { "with" } else { "without" };
            let files = print::counted(usize::try_from(head.files).unwrap_or(0), "file");
            print::out(&format!(
                "{name} is whole: {} as of {}, {files}, {} unpacked, {key} the private keys\n",
                origin(&head),
                head.taken,
                megabytes(head.bytes)
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let config = good_config(&config.path, &Clock::system())?;
    let mut shown = Shown::new("restoring");
    let restored = backup::restore(&config, input, replace, &mut |done, all| shown.take(done, all));
    clear();
    let Restored { head, aside } = restored.map_err(|error| match error {
        RestoreError::Backup(bad) => of_backup(&name, bad),
        RestoreError::Exists { .. } => Failed::new(error.to_string())
            .hint("Nothing was changed. With --replace it is set aside, whole, in a folder beside the restored files."),
        RestoreError::Store(StoreError::Locked { path, pid, .. }) => {
            Failed::new(format!("process {pid} has the store at {} open", path.display()))
                .hint("Nothing was changed. Stop it first: systemctl stop meterseal")
        }
        RestoreError::Store(error) => error.into(),
        error @ RestoreError::Room { .. } => {
            Failed::new(error.to_string()).hint("Nothing was changed. Make room there.")
        }
    })?;
    if json {
        print::json(&json!({ "store": config.store.path, "set_aside": aside, "backup": head }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("restored {} as of {} to {}\n", origin(&head), head.taken, config.store.path.display());
    if let Some(aside) = aside {
        text += &format!("The store that was there lies in {}: delete it when you need it no more.\n", aside.display());
    }
    if head.site != config.site_id {
        text += &format!("The backup is of site {}, and the config says {}.\n", head.site, config.site_id);
    }
    text += "Next: systemctl start meterseal\n";
    text += if head.key {
        "At that start the log goes on in a new epoch, under the same key. On another machine the gateway gets a new id and key:\n\
         then give auditors what `meterseal key show` prints.\n"
    } else {
        "At that start this gateway gets a new id and key, since the backup has none: give auditors what\n\
         `meterseal key show` prints then.\n"
    };
    text += "PINs and tokens are those of the backup; config files and credentials are not in it.\n";
    print::out(&text);
    Ok(ExitCode::SUCCESS)
}

fn origin(head: &BackupHead) -> String {
    format!("{}/{}/{}", head.site, head.gateway, head.epoch)
}

fn of_backup(name: &str, bad: BadBackup) -> Failed {
    let remedy = match &bad {
        BadBackup::Write { .. } => "Nothing was changed. Make room there, or look after the disk.",
        BadBackup::Format(_) | BadBackup::Stopped => "Nothing was changed.",
        BadBackup::Other => "Nothing was changed. Give a file that `meterseal backup` has made.",
        BadBackup::Read(_) => {
            "Nothing was changed. See that it is a file, on a disk that can be read, or take another copy of it."
        }
        BadBackup::Damaged { .. } => "Nothing was changed. Take another copy of it, or an older backup.",
    };
    Failed::new(format!("{name}: {:#}", anyhow::Error::from(bad))).hint(remedy)
}

/// A file that bears its name only when it is whole and on the disk.
struct Made {
    file: File,
    part: PathBuf,
    path: PathBuf,
}

impl Made {
    fn begin(path: &Path, store: &Path, force: bool) -> Result<Self, Failed> {
        refuse_what_is_needed(path, store)?;
        if !force && path.symlink_metadata().is_ok() {
            return Err(already(path));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let cannot = |error: io::Error| Failed::new(format!("cannot write {}: {error}", part.display()));
        // What an earlier backup left, that was killed.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(cannot)?;
        Ok(Self { file, part, path: path.to_owned() })
    }

    fn failed(&self, error: &io::Error) -> Failed {
        Failed::new(format!("cannot write {}: {error}", self.path.display()))
    }

    fn finish(self, force: bool) -> Result<(), Failed> {
        if !force && self.path.symlink_metadata().is_ok() {
            return Err(already(&self.path));
        }
        let folder = folder_of(&self.path);
        let done = self.file.sync_all().and_then(|()| fs::rename(&self.part, &self.path));
        let done = done.and_then(|()| File::open(folder)?.sync_all());
        done.map_err(|error| self.failed(&error))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Only what is no whole backup still bears this name.
        fs::remove_file(&self.part).ok();
    }
}

/// Has what is written go to the disk bit by bit: whoever commits on the same disk does not wait behind all of it.
struct Steady {
    file: File,
    unwritten: usize,
}

impl Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unwritten += written;
        if self.unwritten >= AT_ONCE {
            self.unwritten = 0;
            self.file.sync_data()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The end of the program, asked for at the terminal or by somebody else.
struct Stopped([Signal; 2]);

impl Stopped {
    fn heard() -> Result<Self, Failed> {
        let heard = |kind| signal(kind).map_err(|error| Failed::new(format!("cannot listen for signals: {error}")));
        Ok(Self([heard(SignalKind::interrupt())?, heard(SignalKind::terminate())?]))
    }

    async fn wait(self) {
        let Self([mut interrupt, mut terminate]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A backup takes the place of a file, also of one that the store is made of, or of a device.
fn refuse_what_is_needed(path: &Path, store: &Path) -> Result<(), Failed> {
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        let hint = "Name a file; - is standard output, for a pipe.";
        return Err(Failed::new(format!("{} is no file", path.display())).hint(hint));
    }
    // A folder or a store that cannot be found is told by whoever needs it.
    if let (Ok(folder), Ok(root)) = (folder_of(path).canonicalize(), store.canonicalize())
        && folder.starts_with(root)
    {
        let why = format!("{} lies in the store's own folder {}", path.display(), store.display());
        return Err(Failed::new(why).hint("Name a file elsewhere, better on another disk."));
    }
    Ok(())
}

fn already(path: &Path) -> Failed {
    Failed::new(format!("{} is there already", path.display())).hint("Name another file, or replace it with --force.")
}

const AT_ONCE: usize = 8 << 20;

/// On what is no terminal, progress is told so often.
const EVERY: Duration = Duration::from_secs(10);

struct Shown {
    what: &'static str,
    terminal: bool,
    told: Instant,
}

impl Shown {
    fn new(what: &'static str) -> Self {
        Self { what, terminal: io::stderr().is_terminal(), told: Instant::now() }
    }

    fn take(&mut self, done: u64, all: u64) {
        let every = if self.terminal { Duration::from_millis(200) } else { EVERY };
        if self.told.elapsed() < every {
            return;
        }
        self.told = Instant::now();
        let share = u128::from(done) * 100 / u128::from(all.max(1));
        let text = format!("{}: {share} % of {}", self.what, megabytes(all));
        if self.terminal { eprint!("\r\x1b[K{text}") } else { eprintln!("{text}") }
    }
}

/// Wipes the line of progress.
fn clear() {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
