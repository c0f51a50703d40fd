//! A folder of the log: every tile recomputed from the entries, entry by entry.

use std::fs;
use std::path::Path;

use super::keys::{self, Trusted};
use super::record::{Origin, read_note};
use super::report::{Lack, Refused, Report};
use super::rows::Progress;
use super::strict;
use crate::model::Digest;
use crate::model::entry::{Entry, EntryKind};
use crate::model::merkle::{self, Frontier};
use crate::model::note::{Checkpoint, SignedCheckpoint, VerifierKey};

/// C2SP tlog-tiles: hashes in a tile, entries in a bundle of them.
const WIDTH: u64 = 256;
/// A checkpoint is longer only if it is none.
const LONGEST_CHECKPOINT: u64 = 64 << 10;
/// A level above has nothing of a tree of 2^64 leaves.
const LEVELS: usize = 8;
/// An entry is no longer than this: its members are few and of fixed length, but for the kind and two numbers.
const LONGEST_ENTRY: u64 = 512;

const SHOWS_TREE: &str = "that these entries, in this order, are what was signed. What they commit to is in proofs";

/// Verifies the folder of one epoch.
pub fn verify(
    folder: &Path,
    trusted: &Trusted,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), Refused> {
    report.what = "log";
    let within = |refused: Refused| {
        // A kept checkpoint is refused under the name of its own file.
        let own = refused.file != trusted.kept_in || trusted.kept_in.is_empty();
        let file = if own { folder.join(&refused.file).display().to_string() } else { refused.file };
        Refused { file, ..refused }
    };
    look(folder, trusted, progress, report).map_err(within)
}

fn look(
    folder: &Path,
    trusted: &Trusted,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), Refused> {
    let name = "checkpoint";
    let text = read_regular(folder, name, LONGEST_CHECKPOINT)?;
    let text = String::from_utf8(text).map_err(|_| Refused::new(name, "", "it is not UTF-8"))?;
    let signed = read_note(&text).map_err(|why| Refused::new(name, "", why))?;
    let checkpoint = &signed.checkpoint;
    let origin = Origin::of(&checkpoint.origin);
    let origin =
        origin.ok_or_else(|| Refused::new(name, "", format!("`{}` is no origin of a log", checkpoint.origin)))?;
    if checkpoint.size > 1 << 48 {
        // More than a gateway writes in ages; and so no sum of places below can be too large.
        return Err(Refused::new(name, "", format!("found {} entries, which no log has", checkpoint.size)));
    }
    let key = keys::of_lone(&signed, trusted, |why| Refused::new(name, "", why))?;
    check_files(folder, checkpoint.size)?;
    let mut walk = Walk { folder, size: checkpoint.size, tiles: Vec::new(), tree: Frontier::default(), last: None };
    let mut kept = Kept::of(trusted, key.as_ref(), &signed)?;
    for bundle in 0..checkpoint.size.div_ceil(WIDTH) {
        walk.take(bundle, &mut kept)?;
        progress(Progress {
            part: "tile/entries",
            bytes: walk.tree.size(),
            of_bytes: checkpoint.size,
            rows: walk.tree.size(),
        });
    }
    walk.end()?;
    let root = walk.tree.root();
    if root != checkpoint.root {
        return Err(Refused::other(
            name,
            "",
            format!("the root {}", checkpoint.root),
            format!("{root}, by the entries"),
        ));
    }
    let ended = walk.last == Some(EntryKind::Key);
    let due = 1 + usize::from(ended);
    if signed.signatures.len() != due {
        let why = format!("found {} signatures, expected {due}", signed.signatures.len());
        return Err(Refused::new(name, "", format!("{why}: an epoch that ended by a new key is signed by that too")));
    }
    let mut told = vec![format!("{} entries of {}, root {root}", checkpoint.size, checkpoint.origin)];
    if ended {
        told.push("its last entry is a key: the epoch ended by a key rotation".to_owned());
    }
    report.fact("origin", checkpoint.origin.as_str());
    report.fact("size", checkpoint.size);
    report.fact("root", root.to_string());
    report.holds("log", told, SHOWS_TREE);
    match &key {
        Some(key) => report.holds("key", vec![format!("signed by {key}, which was given")], keys::SHOWS_KEY),
        None => keys::unchecked(&signed, report),
    }
    kept.tell(report);
    if origin.site.as_str() == super::SIMULATED_SITE {
        report.lacks(Lack::Simulated);
    }
    super::not_anchored(report);
    Ok(())
}

/// The checkpoints that were kept of this log, by size.
struct Kept<'a> {
    due: Vec<&'a Checkpoint>,
    met: usize,
    given: usize,
}

impl<'a> Kept<'a> {
    fn of(trusted: &'a Trusted, key: Option<&'a VerifierKey>, newest: &'a SignedCheckpoint) -> Result<Self, Refused> {
        let refuse = |why: String| Refused::new("checkpoint", "", why);
        let mut due = trusted.of_log(newest, key).collect::<Result<Vec<_>, _>>()?;
        due.sort_by_key(|kept| kept.size);
        let newest = &newest.checkpoint;
        if let Some(larger) = due.last().filter(|kept| kept.size > newest.size) {
            return Err(refuse(format!(
                "found {} entries, expected at least the {} that were kept",
                newest.size, larger.size
            )));
        }
        Ok(Self { due, met: 0, given: trusted.kept.len() })
    }

    /// The tree has grown: whatever was kept of this size has this root.
    fn meet(&mut self, tree: &Frontier) -> Result<(), Refused> {
        while let Some(kept) = self.due.get(self.met).filter(|kept| kept.size == tree.size()) {
            let (found, expected) = (tree.root(), kept.root);
            if found != expected {
                let why = format!(
                    "found the root {found} at {} entries, expected {expected}: two histories were signed",
                    kept.size
                );
                return Err(Refused::new("checkpoint", "", why));
            }
            self.met += 1;
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report) {
        let told: Vec<_> = self
            .due
            .iter()
            .map(|kept| format!("the log goes on from the kept checkpoint of {} entries", kept.size))
            .collect();
        if !told.is_empty() {
            report.holds("kept checkpoint", told, keys::SHOWS_KEPT);
        } else if self.given > 0 {
            let why = "none of those given is of this log and of the key that was given (--key)";
            report.open("kept checkpoint", vec![why.to_owned()], keys::SHOWS_KEPT);
        }
    }
}

/// The entries as they come, and the tiles that they fill.
struct Walk<'a> {
    folder: &'a Path,
    size: u64,
    /// Of each level, the number of the tile that fills, and its hashes so far.
    tiles: Vec<(u64, Vec<Digest>)>,
    tree: Frontier,
    last: Option<EntryKind>,
}

impl Walk<'_> {
    /// Reads the next bundle of entries.
    fn take(&mut self, bundle: u64, kept: &mut Kept) -> Result<(), Refused> {
        let count = (self.size - bundle * WIDTH).min(WIDTH);
        let name = tile_name("entries", bundle, count);
        let bytes = read_regular(self.folder, &name, (LONGEST_ENTRY + 2) * WIDTH)?;
        let mut rest = bytes.as_slice();
        for at in 0..count {
            let index = bundle * WIDTH + at;
            let refuse = |why: &str| Refused::new(&name, format!("entry {index}"), why);
            let (length, behind) = rest.split_first_chunk::<2>().ok_or_else(|| refuse("the file ends before it"))?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (data, behind) = behind.split_at_checked(length).ok_or_else(|| refuse("the file ends within it"))?;
            rest = behind;
            let entry = Entry::from_bytes(data).ok_or_else(|| refuse("it is no entry in its one form"))?;
            if entry.subject.is_some() != entry.kind.is_of_a_meter() {
                return Err(refuse("a subject stands in it if and only if it is of a meter"));
            }
            if (index == 0) != (entry.kind == EntryKind::Succession) {
                return Err(refuse("leaf 0 is a succession, and no other is"));
            }
            if entry.kind == EntryKind::Key && index + 1 != self.size {
                return Err(refuse("an entry of kind key is the last of its epoch"));
            }
            self.last = Some(entry.kind);
            let hash = merkle::leaf(data);
            self.tree.push(hash);
            self.fill(0, hash)?;
            kept.meet(&self.tree)?;
        }
        match rest.len() {
            0 => Ok(()),
            more => Err(Refused::new(&name, "", format!("{more} bytes stand after its last entry"))),
        }
    }

    /// Adds a hash to the tile that fills at a level; a full one is compared and makes a hash of the level above.
    fn fill(&mut self, level: usize, hash: Digest) -> Result<(), Refused> {
        if self.tiles.len() == level {
            self.tiles.push((0, Vec::new()));
        }
        let (number, tile) = &mut self.tiles[level];
        tile.push(hash);
        if tile.len() as u64 == WIDTH {
            let (number, tile) = (std::mem::replace(number, *number + 1), std::mem::take(tile));
            self.compare(level, number, &tile)?;
            self.fill(level + 1, root_of(&tile))?;
        }
        Ok(())
    }

    /// The tiles that are not full.
    fn end(&self) -> Result<(), Refused> {
        let mut partial = self.tiles.iter().enumerate().filter(|(_, (_, tile))| !tile.is_empty());
        partial.try_for_each(|(level, (number, tile))| self.compare(level, *number, tile))
    }

    fn compare(&self, level: usize, number: u64, tile: &[Digest]) -> Result<(), Refused> {
        let name = tile_name(&level.to_string(), number, tile.len() as u64);
        let found = read_regular(self.folder, &name, WIDTH * 32)?;
        if found.len() != tile.len() * 32 {
            return Err(Refused::other(name, "", format!("{} bytes", found.len()), tile.len() * 32));
        }
        match found.chunks(32).zip(tile).position(|(found, expected)| found != expected.as_bytes()) {
            None => Ok(()),
            Some(at) => Err(Refused::new(name, format!("hash {at}"), format!("expected {}, by the entries", tile[at]))),
        }
    }
}

fn root_of(hashes: &[Digest]) -> Digest {
    let mut tree = Frontier::default();
    hashes.iter().for_each(|hash| tree.push(*hash));
    tree.root()
}

/// C2SP tlog-tiles: such as `tile/0/x001/x234/067` or `tile/entries/000.p/5`.
fn tile_name(level: &str, number: u64, width: u64) -> String {
    let mut name = format!("tile/{level}/");
    let digits = format!("{number:03}");
    let digits = format!("{digits:0>width$}", width = digits.len().next_multiple_of(3));
    let groups = digits.len() / 3;
    for at in 0..groups {
        let more = if at + 1 < groups { ("x", "/") } else { ("", "") };
        name += &format!("{}{}{}", more.0, &digits[at * 3..at * 3 + 3], more.1);
    }
    if width < WIDTH {
        name += &format!(".p/{width}");
    }
    name
}

/// What a tile's name means: level (`None` for entries), number and width. `None` where it is none.
fn tile_of(name: &str) -> Option<(Option<u32>, u64, u64)> {
    let (level, rest) = name.strip_prefix("tile/")?.split_once('/')?;
    let (number, width) = match rest.split_once(".p/") {
        Some((number, width)) => (number, strict::decimal(width)?),
        None => (rest, WIDTH),
    };
    let number = number.replace(['x', '/'], "").parse().ok()?;
    let of = match level {
        "entries" => None,
        level => Some(u32::try_from(strict::decimal(level).filter(|level| *level < LEVELS as u64)?).ok()?),
    };
    (tile_name(level, number, width) == name).then_some((of, number, width))
}

/// How wide a tile is in a tree of so many leaves: 0 where there is none.
fn width_of(level: Option<u32>, number: u64, size: u64) -> u64 {
    let hashes = size.checked_shr(8 * level.unwrap_or(0)).unwrap_or(0);
    hashes.saturating_sub(number.saturating_mul(WIDTH)).min(WIDTH)
}

/// The folder holds nothing that is not of the tree: each file is met by its name, so that a folder of any size can be
/// looked through.
fn check_files(folder: &Path, size: u64) -> Result<(), Refused> {
    // Folders yet to be looked at: no deeper than levels and groups of digits go.
    let mut open = vec![String::new()];
    while let Some(below) = open.pop() {
        let failed = |error| strict::unreadable(&folder.join(&below).display().to_string(), &error);
        for entry in fs::read_dir(folder.join(&below)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(failed)?;
            let is_due = match tile_of(&name) {
                Some((level, number, width)) => width_of(level, number, size) == width,
                None => name == "checkpoint",
            };
            if kind.is_dir() && name.matches('/').count() < LEVELS {
                if fs::read_dir(folder.join(&name)).map_err(failed)?.next().is_none() {
                    return Err(Refused::new(name, "", "it is an empty folder, which is none of a log's"));
                }
                open.push(format!("{name}/"));
            } else if !kind.is_file() || !is_due {
                let why = format!("it is no file of a log of {size} entries");
                return Err(Refused::new(name, "", why));
            }
        }
    }
    Ok(())
}

/// A file of the folder; a symbolic link is none.
fn read_regular(folder: &Path, name: &str, limit: u64) -> Result<Vec<u8>, Refused> {
    let path = folder.join(name);
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_file() => Err(Refused::new(name, "", "it is no regular file")),
        Ok(metadata) if metadata.len() > limit => {
            Err(Refused::new(name, "", format!("found {} bytes, expected at most {limit}", metadata.len())))
        }
        Ok(_) => strict::read_file(&path, name, limit),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Refused::new(name, "", "it is missing")),
        Err(error) => Err(strict::unreadable(name, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_named_as_tlog_tiles_says() {
        assert_eq!(tile_name("0", 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile_name("entries", 0, 5), "tile/entries/000.p/5");
        assert_eq!(tile_name("1", 1_000, 256), "tile/1/x001/000");
        for (level, number, width) in [("0", 0, 256), ("entries", 999, 1), ("7", 1_000_000, 255)] {
            let of = level.parse().ok();
            assert_eq!(tile_of(&tile_name(level, number, width)), Some((of, number, width)));
        }
        for bad in [
            "tile/0/1",
            "tile/00/000",
            "tile/0/x000/001",
            "tile/0/000.p/256",
            "tile/0/000.p/05",
            "tile/x/000",
            "tile/0",
        ] {
            assert_eq!(tile_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_level_exists_as_long_as_it_holds_a_hash() {
        assert_eq!((width_of(Some(0), 0, 256), width_of(Some(0), 1, 256), width_of(Some(1), 0, 256)), (256, 0, 1));
        assert_eq!((width_of(None, 1, 300), width_of(Some(1), 0, 255), width_of(Some(40), 0, u64::MAX)), (44, 0, 0));
    }
}
