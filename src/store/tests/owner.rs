//! What root leaves in the store of another user.

use std::os::unix::fs::{MetadataExt as _, chown};

use rustix::process::geteuid;

use super::*;

/// A user that owns nothing else here.
const SERVICE: u32 = 61_184;

/// Files below `path` that are not the service's.
fn foreign(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in path.read_dir().unwrap() {
        let entry = entry.unwrap();
        let file = entry.metadata().unwrap();
        if file.is_dir() {
            found.extend(foreign(&entry.path()));
        }
        if (file.uid(), file.gid()) != (SERVICE, SERVICE) {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn what_root_makes_is_the_services() {
    if !geteuid().is_root() {
        eprintln!("left out: only root can make files for another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    std::fs::create_dir(&config.path).unwrap();
    chown(&config.path, Some(SERVICE), Some(SERVICE)).unwrap();
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    init(&config, &"plant-7".parse().unwrap(), &clock).unwrap();
    assert_eq!(foreign(&config.path), Vec::<PathBuf>::new());

    let store = Store::open(config.clone(), clock, None).unwrap();
    store.ingest().store(vec![reading(&layout("m1"), NOON, &[(0, 1)])]).await.unwrap();
    assert_ne!(foreign(&config.path), Vec::<PathBuf>::new());
    store.close().await.unwrap();
    assert_eq!(foreign(&config.path), Vec::<PathBuf>::new());
}
