//! Whether the daemon's user may read a file, by what owner, group and mode say of it and of the folders that it lies in.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::machine::{groups_of, named};

const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// The user that the daemon runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    pub name: String,
    uid: u32,
    groups: BTreeSet<u32>,
}

impl Reader {
    /// Whose the store is; before there is one, whose the group of the config's folder is. None for root, who may read all.
    pub fn of_daemon(store: &Path, config: &Path) -> Option<Self> {
        let uid = match fs::metadata(store) {
            Ok(store) => store.uid(),
            Err(_) => user_of_group(&passwd(), fs::metadata(config.parent()?).ok()?.gid())?,
        };
        if uid == 0 {
            return None;
        }
        let name = named(&passwd(), uid)?;
        Some(Self { groups: groups_of(uid, &name, None), name, uid })
    }

    /// What keeps it from reading a file that is there: the file, or a folder on the way. None where that cannot be said.
    pub fn stopped_at(&self, file: &Path) -> Option<PathBuf> {
        let real = file.canonicalize().ok()?;
        let mut folders: Vec<_> = real.ancestors().skip(1).collect();
        folders.reverse();
        let folder = folders.into_iter().find(|folder| self.may(folder, SEARCH) == Some(false));
        let at = folder.map(Path::to_owned);
        at.or_else(|| (self.may(&real, READ) == Some(false)).then_some(real))
    }

    /// As path_resolution(7) has it: the first of owner, group and others that fits decides alone. None where a list (acl(5))
    /// says more than the mode does.
    fn may(&self, path: &Path, what: u32) -> Option<bool> {
        let there = fs::metadata(path).ok()?;
        let listed = rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 1024][..]);
        if matches!(listed, Ok(_) | Err(Errno::RANGE)) {
            return None;
        }
        let shift = if there.uid() == self.uid {
            6
        } else if self.groups.contains(&there.gid()) {
            3
        } else {
            0
        };
        Some(there.mode() >> shift & what != 0)
    }
}

fn passwd() -> String {
    fs::read_to_string("/etc/passwd").unwrap_or_default()
}

/// The user of a group that is his own.
fn user_of_group(passwd: &str, group: u32) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        (gid == group).then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn owner_group_and_others_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, file) = (folder.path().join("inner"), folder.path().join("inner/file"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "").unwrap();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(folder.path(), 0o755);
        let own = fs::metadata(&file).unwrap();
        let reader = |uid: u32, gid: u32| Reader { name: "x".to_owned(), uid, groups: BTreeSet::from([gid]) };
        let (owner, member, other) = (reader(own.uid(), own.gid()), reader(54_321, own.gid()), reader(54_321, 54_321));
        let (real, real_inner) = (file.canonicalize().unwrap(), inner.canonicalize().unwrap());
        for (of_folder, of_file, readers) in [
            (0o755, 0o600, [None, Some(&real), Some(&real)]),
            (0o755, 0o640, [None, None, Some(&real)]),
            (0o755, 0o604, [None, Some(&real), None]),
            (0o755, 0o044, [Some(&real), None, None]),
            (0o750, 0o644, [None, None, Some(&real_inner)]),
            (0o700, 0o644, [None, Some(&real_inner), Some(&real_inner)]),
        ] {
            mode(&inner, of_folder);
            mode(&file, of_file);
            let found = [&owner, &member, &other].map(|reader| reader.stopped_at(&file));
            assert_eq!(found.each_ref().map(Option::as_ref), readers, "{of_folder:o} {of_file:o}");
        }
        assert_eq!(owner.stopped_at(&folder.path().join("none")), None, "it is told elsewhere");
        mode(&inner, 0o700);
    }

    #[test]
    fn a_group_of_ones_own_tells_the_user() {
        let table = "root:x:0:0::/:/bin/sh\nmeterseal:x:998:997::/:/nologin\n";
        assert_eq!((user_of_group(table, 997), user_of_group(table, 998)), (Some(998), None));
    }
}
