//! Texts that somebody tries as the config: one after the other, and beside what changes it, which need not wait for them.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::config_edits::{off_thread, read_files, told};
use crate::clock::Clock;
use crate::config;
use crate::web::{EditRefused, Edited};

/// Who asks for one more is told to come again.
pub const ASKED: usize = 4;

pub struct Trial {
    pub text: String,
    pub reply: oneshot::Sender<Result<Edited, EditRefused>>,
}

pub async fn run(
    mut asked: mpsc::Receiver<Trial>,
    main: Option<PathBuf>,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let work = async {
        while let Some(Trial { text, reply }) = asked.recv().await {
            // Who asked may have gone.
            reply.send(tried(main.as_ref(), text, &clock).await).ok();
        }
        stop.cancelled().await;
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// What the text would have wrong as the main file, beside the files that are there.
async fn tried(main: Option<&PathBuf>, text: String, clock: &Clock) -> Result<Edited, EditRefused> {
    let (files, now) = (read_files(main).await?, clock.now());
    let checked = off_thread(move || config::check(&files.with_main_tried(text), now)).await?;
    Ok(Edited::Checked { faults: told(&checked.faults), warnings: told(&checked.warnings) })
}
