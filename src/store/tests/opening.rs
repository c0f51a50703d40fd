//! A store that is only looked into.

use super::*;

/// Each file below a folder, with what it holds.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn a_look_sees_everything_and_changes_nothing() {
    let House { folder, clock, store, created } = house();
    store.ingest().store(vec![reading(&layout("m1"), NOON, &[(0, 1)])]).await.unwrap();
    store.close().await.unwrap();
    let config = config(&folder);
    std::fs::remove_file(config.path.join("reserve")).unwrap();
    // A day's file that the next start sets aside.
    let damaged = config.path.join("raw/00000000000000000900.db");
    std::fs::write(&damaged, "no database").unwrap();
    let before = files(&config.path);

    let looked = Store::look(config.clone(), clock.clone()).unwrap();
    let again = Store::look(config.clone(), clock.clone()).unwrap();
    let opened = Store::open(config.clone(), clock.clone(), None).err().unwrap();
    assert!(matches!(opened, StoreError::Locked { .. }), "{opened}");
    assert_eq!(*looked.identity(), created.identity);
    let health = looked.reader().health();
    assert_eq!((health.through_seq, health.unwritable), (1, None));
    assert!(health.quarantined.iter().any(|file| file.ends_with("900.db")), "{:?}", health.quarantined);
    let refused = looked.ledger().save_config("site".to_owned()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed), "{refused}");
    let refused = looked.ingest().store(vec![reading(&layout("m1"), NOON, &[(0, 1)])]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed), "{refused}");
    looked.close().await.unwrap();
    again.close().await.unwrap();
    assert!(files(&config.path) == before, "{:?}", files(&config.path).keys());

    Store::open(config, clock, None).unwrap().close().await.unwrap();
    assert!(!damaged.exists());
}

#[tokio::test]
async fn what_the_next_start_takes_up_is_left_to_it() {
    let House { folder, clock, store, .. } = house();
    store.close().await.unwrap();
    let config = config(&folder);
    let file = config.path.join(evidence::FILE);
    let mut older = std::fs::read(&file).unwrap();
    // The user version in SQLite's header, big-endian.
    older[63] -= 1;
    std::fs::write(&file, &older).unwrap();
    let due = Store::look(config.clone(), clock).err().unwrap();
    assert!(matches!(due, StoreError::Due { .. }) && due.to_string().contains("is brought to"), "{due}");
    assert!(std::fs::read(&file).unwrap() == older);
}
