//! `meterseal init`: makes the store and the gateway's key, once.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use super::{Done, Failed, complete, config_and_warnings, print};
use crate::agent;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{self, Created, StoreError, Tokenless};

/// With `due`, only while that file is there. It is left by a package that is installed for the first time, also into
/// an image, and goes when there is a store: a disk that is lost later is never taken for a first start.
pub fn init(path: &Path, no_token: bool, due: Option<&Path>) -> Done {
    if let Some(due) = due
        && !is_there(due)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    let clock = Clock::system();
    let (config, warnings) = config_and_warnings(path, &clock)?;
    print::warnings(&warnings);
    refuse_beside_a_mark(&config)?;
    match make(&config, no_token, &clock) {
        Ok(made) => {
            print::out(&made);
            // The machine is remembered at once: an image that is copied from here on is known for a copy at its first start.
            complete(async { agent::open_alone(&config).await?.close().await.map_err(anyhow::Error::from) })??;
        }
        // The file was left by a first start that was cut off after this, or by a package that came back to its store.
        Err(StoreError::Exists { path }) if due.is_some() => {
            print::out(&format!("there is a store at {} already: it goes on\n", path.display()));
        }
        Err(error @ StoreError::Exists { .. }) => {
            let mark = config.evidence.mark.display();
            let hint = format!("Nothing was changed. To begin anew, move that folder and its mark {mark} away first.");
            return Err(Failed::from(error).hint(hint));
        }
        Err(error) => return Err(error.into()),
    }
    let Some(due) = due else { return Ok(ExitCode::SUCCESS) };
    std::fs::remove_file(due).map_err(|error| {
        let why = format!("the store is there, but {} cannot be deleted: {error}", due.display());
        Failed::new(why).hint("Delete it: while it is there, a store that is lost would be made anew.")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the store, and tells it.
fn make(config: &Config, no_token: bool, clock: &Clock) -> Result<String, StoreError> {
    let ((identity, key), token) = if no_token {
        let Tokenless { identity, key } = store::init_without_token(&config.store, &config.site_id, clock)?;
        ((identity, key), None)
    } else {
        let Created { identity, key, token } = store::init(&config.store, &config.site_id, clock)?;
        ((identity, key), Some(token))
    };
    let mut told = format!(
        "created the store of site {} at {}\ngateway: {}\nkey:     {key}\n",
        identity.site,
        config.store.path.display(),
        identity.gateway,
    );
    if let Some(token) = token {
        let opens = format!(
            "token:   {token}\nKeep the token: it is shown once, and opens the API on {}.\n",
            config.web.listen
        );
        told.push_str(&opens);
    }
    Ok(told)
}

fn is_there(due: &Path) -> Result<bool, Failed> {
    match due.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failed::new(format!("cannot look for {}: {error}", due.display()))),
    }
}

/// A mark is kept outside of the store: where there is one and no store, the store is lost or not mounted. Whoever means
/// to begin anew takes the mark away as well: a second history beside the first is not undone.
fn refuse_beside_a_mark(config: &Config) -> Result<(), Failed> {
    let mark = &config.evidence.mark;
    if matches!(store::free(&config.store.path), Err(StoreError::Missing { .. })) && is_there(mark)? {
        let why = format!(
            "there was a store here, says its mark {}, and there is none at {}",
            mark.display(),
            config.store.path.display()
        );
        let hint = format!(
            "Mount the disk that holds it, or restore a backup (`meterseal restore FILE`). To begin anew, delete the mark {}.",
            mark.display()
        );
        return Err(Failed::new(why).hint(hint));
    }
    Ok(())
}
