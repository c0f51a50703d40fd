//! Backup and restore, for commands.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{self, AtRest, BackupError, BackupWritten, Inventory, RestoreError, Restored};

/// Writes a backup of the store: of the daemon's, which keeps it still meanwhile, or of one that nobody has open. `progress`
/// hears how many bytes of how many are read.
pub async fn back_up(
    config: &Config,
    with_key: bool,
    out: impl Write + Send + 'static,
    mut progress: impl FnMut(u64, u64) + Send + 'static,
) -> anyhow::Result<BackupWritten> {
    let (root, stop) = (config.store.path.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let copy = move |inventory: &Inventory| -> Result<BackupWritten, BackupError> {
        let mut told = |done, all| {
            progress(done, all);
            !stopped.load(Ordering::Relaxed)
        };
        store::write_backup(&root, inventory, with_key, out, &mut told)
    };
    if let Some(socket) = admin::daemon_of(&config.store)? {
        let copy = move |inventory: Inventory| Ok(copy(&inventory)?);
        return admin::backed_up(&socket, copy, || stop.store(true, Ordering::Relaxed)).await;
    }
    let root = config.store.path.clone();
    let work = move || -> anyhow::Result<BackupWritten> {
        let at_rest = AtRest::find(&root, &Clock::system())?;
        Ok(copy(&at_rest.inventory)?)
    };
    tokio::task::spawn_blocking(work).await?
}

/// Makes the store of the config of a backup.
pub fn restore(
    config: &Config,
    input: impl Read,
    replace: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Restored, RestoreError> {
    let mut told = |done, all| {
        progress(done, all);
        true
    };
    store::restore(&config.store.path, input, replace, Clock::system().now(), &mut told)
}
