//! Finds what a person must know, keeps it in the store, and hands it to the webhook until the webhook takes it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Meter, MeterId, OpenBlock, SourcesStatus};
use crate::store::{Ledger, Reader, StoreError};

/// Part `[alerts]` of the config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub webhook: Option<Webhook>,
}

/// Where alerts go.
#[derive(Clone, PartialEq)]
pub struct Webhook {
    pub url: String,
    /// JSON in which `{{text}}`, `{{kind}}`, `{{meter}}`, `{{site}}`, `{{time}}`, `{{id}}` and `{{contact}}` are
    /// replaced, escaped.
    pub body: String,
    pub contact: String,
}

/// An address may bear a secret in its path or query, and so may the body: neither is printed.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("url", &"***").field("body", &"***").field("contact", &self.contact).finish()
    }
}

/// What the alerts are judged by, and where they tell of their own trouble.
#[derive(Clone)]
pub struct Views {
    pub config: watch::Receiver<Arc<Config>>,
    pub meters: watch::Receiver<Arc<Vec<Meter>>>,
    pub open: watch::Receiver<Arc<BTreeMap<MeterId, OpenBlock>>>,
    pub sources: watch::Receiver<Arc<SourcesStatus>>,
    /// What is wrong with the webhook, for a person; `None` while it takes what it is given.
    pub problem: watch::Sender<Option<String>>,
}

/// Raises, clears and delivers until stopped.
pub async fn run(
    views: Views,
    reader: Reader,
    ledger: Ledger,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let _ = (views, reader, ledger, clock, stop);
    todo!()
}
