//! What the agent waits for while the parts run, and what it does then.

use std::future::Future;
use std::pin::pin;

use tracing::warn;

use super::Agent;
use super::admin::ReloadNow;
use crate::web::EditNow;

enum Event {
    /// A part ended though nobody asked it to.
    Ended(anyhow::Error),
    /// What a person should know is another.
    Problems,
    Edit(EditNow),
    Reload(ReloadNow),
}

impl Agent {
    /// Does what is asked of it until `enough` resolves, whose outcome it gives, or a part ends unasked. What was begun is
    /// done to its end first: half of a change would stand, and whoever asked for it would be told that nothing does.
    pub async fn serve<T>(&mut self, enough: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut enough = pin!(enough);
        loop {
            let event = tokio::select! {
                enough = &mut enough => return Ok(enough),
                event = self.next() => event,
            };
            match event {
                Event::Ended(why) => return Err(why),
                Event::Problems => self.show_problems(),
                Event::Edit(edit) => self.edit(edit).await,
                Event::Reload(ReloadNow(reply)) => {
                    let reloaded = self.reload().await;
                    if reply.send(reloaded).is_err() {
                        warn!("who asked for a reload has gone");
                    }
                }
            }
        }
    }

    /// Only waits: what has not come yet is not lost when this is dropped.
    async fn next(&mut self) -> Event {
        tokio::select! {
            ended = self.stages.ended() => Event::Ended(ended),
            Ok(()) = self.webhook.changed() => Event::Problems,
            Ok(()) = self.mark.changed() => Event::Problems,
            Ok(()) = self.sealing.changed() => Event::Problems,
            Ok(()) = self.certificate.changed() => Event::Problems,
            Some(edit) = self.edits.recv() => Event::Edit(edit),
            Some(reload) = self.reloads.recv() => Event::Reload(reload),
        }
    }
}
