//! Parts: what their files are called, and the thread that hashes, compresses and writes them while the next rows are
//! being made.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zstd::stream::write::Encoder;

use super::bundle::WriteError;
use crate::model::Digest;
use crate::model::merkle::Frontier;

/// Rows in every part but the last.
pub const ROWS: u64 = 1_000_000;
/// Windows of 2 MiB: a reader needs no more memory than that.
const LEVEL: i32 = 3;
/// The largest window that a part may ask of its reader, as a power of two: 8 MiB.
pub const WINDOW_LOG_MAX: u32 = 23;
/// Rows are handed over in pieces of about this size.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces on their way to the thread. When it is full, whoever makes rows waits for the disk.
const QUEUE: usize = 4;

/// A part, as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartFacts {
    /// Of the file.
    pub bytes: u64,
    pub name: String,
    pub raw_bytes: u64,
    pub raw_sha256: Digest,
    pub rows: u64,
    /// Of the file.
    pub sha256: Digest,
}

/// The name of the `at`-th part's file, from 0.
pub fn name(at: usize) -> String {
    format!("data-{at:05}.jsonl.zst")
}

/// The rows of a part, each with its line feed: nothing but zstd frames is taken, and none that asks for a dictionary
/// or for a large window.
pub fn open(file: impl Read) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::new(file)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Makes what was created or renamed in a folder survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<(), WriteError> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(|source| WriteError::io(folder, source))
}

/// Rows on their way to the thread.
pub(super) struct Piece {
    /// Each with its line feed.
    pub text: Vec<u8>,
    /// Their leaf hashes.
    pub leaves: Vec<Digest>,
}

impl Piece {
    pub fn new() -> Self {
        // Some more than a piece, since the row that fills it goes beyond.
        Self { text: Vec::with_capacity(PIECE + (PIECE >> 3)), leaves: Vec::new() }
    }
}

/// What became of the rows of a part.
pub(super) struct Pressed {
    /// Over all rows up to its end.
    pub tree: Frontier,
    pub raw_bytes: u64,
    pub raw_sha256: Digest,
    pub bytes: u64,
    pub sha256: Digest,
}

enum Work {
    Rows(Piece),
    /// The part is whole.
    Cut,
}

/// The writing thread. It ends with this value, so that no two of them ever write in one folder.
pub(super) struct Press {
    /// `None` only while it ends.
    work: Option<SyncSender<Work>>,
    spare: Receiver<Piece>,
    done: Receiver<Pressed>,
    thread: Option<JoinHandle<Result<(), WriteError>>>,
}

impl Press {
    /// Writes parts into `folder`, from the `first`-th on, behind the rows of `tree`. A file that is there is written
    /// anew.
    pub fn start(folder: PathBuf, first: usize, tree: Frontier) -> Result<Self, WriteError> {
        let (work, work_taken) = sync_channel(QUEUE);
        // A piece that finds no room here is freed.
        let (spare_given, spare) = sync_channel(QUEUE);
        // Never full: the writer waits for a part before it cuts the one after the next.
        let (done_given, done) = sync_channel(2);
        let run = {
            let folder = folder.clone();
            move || run(&folder, first, tree, &work_taken, &spare_given, &done_given)
        };
        let thread = std::thread::Builder::new().name("dataset".to_owned()).spawn(run);
        let thread = thread.map_err(|source| WriteError::io(&folder, source))?;
        Ok(Self { work: Some(work), spare, done, thread: Some(thread) })
    }

    /// Hands over rows and gives back an empty piece for the next ones.
    pub fn rows(&mut self, rows: Piece) -> Result<Piece, WriteError> {
        self.send(Work::Rows(rows))?;
        Ok(self.spare.try_recv().unwrap_or_else(|_| Piece::new()))
    }

    /// Says that the part is whole.
    pub fn cut(&mut self) -> Result<(), WriteError> {
        self.send(Work::Cut)
    }

    /// The next part that is durable; waits for it.
    pub fn wait(&mut self) -> Result<Pressed, WriteError> {
        self.done.recv().map_err(|_| self.failure())
    }

    /// The next part that is durable, if there is one already.
    pub fn poll(&mut self) -> Result<Option<Pressed>, WriteError> {
        match self.done.try_recv() {
            Ok(pressed) => Ok(Some(pressed)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.failure()),
        }
    }

    fn send(&mut self, work: Work) -> Result<(), WriteError> {
        let sent = self.work.as_ref().map(|sender| sender.send(work));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the thread has ended.
    fn failure(&mut self) -> WriteError {
        self.work = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => WriteError::Ended,
        }
    }
}

impl Drop for Press {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes a dataset has panicked");
        }
    }
}

/// The file of a part, hashed and counted as it is written.
struct Hashed {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The part that is being written.
struct Open {
    encoder: Encoder<'static, Hashed>,
    raw: Sha256,
    raw_bytes: u64,
}

impl Open {
    fn create(path: &Path) -> io::Result<Self> {
        let file = Hashed { file: File::create(path)?, hash: Sha256::new(), bytes: 0 };
        Ok(Self { encoder: Encoder::new(file, LEVEL)?, raw: Sha256::new(), raw_bytes: 0 })
    }

    fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.raw.update(text);
        self.raw_bytes += text.len() as u64;
        self.encoder.write_all(text)
    }

    fn finish(self, tree: Frontier) -> io::Result<Pressed> {
        let Hashed { file, hash, bytes } = self.encoder.finish()?;
        file.sync_all()?;
        let digest = |hash: Sha256| Digest::from_bytes(hash.finalize().into());
        Ok(Pressed { tree, raw_bytes: self.raw_bytes, raw_sha256: digest(self.raw), bytes, sha256: digest(hash) })
    }
}

fn run(
    folder: &Path,
    first: usize,
    mut tree: Frontier,
    work: &Receiver<Work>,
    spare: &SyncSender<Piece>,
    done: &SyncSender<Pressed>,
) -> Result<(), WriteError> {
    for at in first.. {
        let path = folder.join(name(at));
        let failed = |source| WriteError::io(&path, source);
        let mut open: Option<Open> = None;
        loop {
            match work.recv() {
                Ok(Work::Rows(mut rows)) => {
                    let part = match &mut open {
                        Some(part) => part,
                        none => none.insert(Open::create(&path).map_err(failed)?),
                    };
                    part.text(&rows.text).map_err(failed)?;
                    // Half of the tree's hashing is done on this side, so that both have about as much to do.
                    rows.leaves.iter().for_each(|leaf| tree.push(*leaf));
                    // One that a giant row has blown up is freed, and so is one that is not wanted.
                    if rows.text.capacity() <= 2 * PIECE {
                        rows.text.clear();
                        rows.leaves.clear();
                        drop(spare.try_send(rows));
                    }
                }
                Ok(Work::Cut) => break,
                // Nobody wants more: a part that is not whole stays as it is, and is written anew when work goes on.
                Err(_) => return Ok(()),
            }
        }
        let Some(part) = open else { continue };
        let pressed = part.finish(tree.clone()).map_err(failed)?;
        sync_folder(folder)?;
        if done.send(pressed).is_err() {
            break;
        }
    }
    Ok(())
}
