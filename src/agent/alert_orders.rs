//! What the page asks about alerts: the store keeps it, and the alerts' room knows the webhook.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::alerts::{Config, TestFailed, send_test};
use crate::clock::Clock;
use crate::store::{Ledger, Reader};
use crate::web::{AlertNow, WebhookFault};

/// Who asks for one more waits.
pub const ASKED: usize = 8;
/// Requests under way; a test of the webhook takes up to 10 s.
const UNDER_WAY: usize = 4;

/// What a request needs.
#[derive(Clone)]
pub struct Desk {
    pub config: watch::Receiver<Arc<Config>>,
    pub reader: Reader,
    pub ledger: Ledger,
    pub clock: Clock,
}

pub async fn run(mut asked: mpsc::Receiver<AlertNow>, desk: Desk, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = tasks.join_next() => ended.context("a request about alerts")?,
            now = asked.recv(), if tasks.len() < UNDER_WAY => {
                let Some(now) = now else {
                    // Nobody can ask any more: the program is stopping.
                    stop.cancelled().await;
                    return Ok(());
                };
                tasks.spawn(desk.clone().answer(now));
            }
        }
    }
}

impl Desk {
    /// Who asked may have gone; what was done stays done.
    async fn answer(self, now: AlertNow) {
        match now {
            AlertNow::Acknowledge { id, by, reply } => {
                let outcome = self.ledger.acknowledge(id, by).await;
                reply.send(outcome).ok();
            }
            AlertNow::Switch { kind, on, by, reply } => {
                info!(by = by.name, rule = kind.as_str(), on, "an alert rule was switched");
                reply.send(self.ledger.switch_alerts(kind, on, by).await).ok();
            }
            AlertNow::Test { by, reply } => {
                let (config, identity) = (self.config.borrow().clone(), self.reader.identity());
                let outcome = send_test(&config, &identity, self.clock.now()).await.map_err(|failed| match failed {
                    TestFailed::NoWebhook => WebhookFault::None(failed.to_string()),
                    TestFailed::NotTaken(_) => WebhookFault::Failed(failed.to_string()),
                });
                let detail = json!({"taken": outcome.is_ok()});
                // The text went out whether that can be kept or not.
                if let Err(error) = self.ledger.audit("webhook-tested", &by, detail).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a test of the webhook is not on record");
                }
                reply.send(outcome).ok();
            }
        }
    }
}
