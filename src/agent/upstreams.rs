//! Upstreams: what the page and commands ask of the engine, and what the store tells while no daemon runs.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::admin::{self, Request};
use super::exports::myself;
use super::open_alone;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::{
    Actor, DeadLetter, StreamStatus, UpstreamOrder, UpstreamRefused, UpstreamState, UpstreamStatus, UpstreamsStatus,
};
use crate::store::{Ledger, Reader, StoreError};
use crate::upstream::{Kind, Order, Upstream, depth};
use crate::web::UpstreamNow;

/// Wishes of the page and of commands; who has one more is told to come again, or waits.
pub const ASKED: usize = 8;
/// Dead letters in one answer of the admin socket; a line is some kilobytes at most.
pub const PAGE: usize = 500;

/// How the upstreams do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamsTold {
    /// A daemon delivers; else this is what the store knows.
    pub running: bool,
    pub upstreams: UpstreamsStatus,
}

/// Hands wishes to the engine, and puts on record what was done.
pub async fn run(
    mut asked: mpsc::Receiver<UpstreamNow>,
    orders: mpsc::Sender<Order>,
    ledger: Ledger,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = tasks.join_next() => ended.context("a request about upstreams")?,
            now = asked.recv(), if tasks.len() < ASKED => {
                let Some(now) = now else {
                    // Nobody can ask any more: the program is stopping.
                    stop.cancelled().await;
                    return Ok(());
                };
                tasks.spawn(obey(now, orders.clone(), ledger.clone()));
            }
        }
    }
}

/// Who asked may have gone; what was done stays done. An engine that is gone answers nobody.
async fn obey(UpstreamNow { order, by, reply }: UpstreamNow, orders: mpsc::Sender<Order>, ledger: Ledger) {
    let ((done, answer), asked) = (oneshot::channel(), order.clone());
    if orders.send(Order { order, reply: done }).await.is_err() {
        return;
    }
    let Ok(outcome) = answer.await else { return };
    // Only now: what was asked of an unknown one may bear any text as its name.
    if outcome.is_ok() {
        info!(by = by.name, "somebody asked to {asked}");
        if let Err(error) = record(&ledger, &asked, &by).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "what an upstream was asked is not on record");
        }
    }
    reply.send(outcome).ok();
}

async fn record(ledger: &Ledger, order: &UpstreamOrder, by: &Actor) -> Result<(), StoreError> {
    let (action, upstream) = match order {
        UpstreamOrder::Flush { upstream } => ("upstream-flushed", upstream),
        UpstreamOrder::Replay { upstream, .. } => ("dead-letters-replayed", upstream),
        UpstreamOrder::Discard { upstream, .. } => ("dead-letters-discarded", upstream),
    };
    ledger.audit(action, by, json!({"upstream": upstream, "asked": order.to_string()})).await
}

/// How the upstreams do, for a command.
pub async fn status(config: &Config) -> anyhow::Result<UpstreamsTold> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::ask(&socket, &Request::Upstreams {}).await;
    }
    let store = open_alone(config).await?;
    let (reader, clock) = (store.reader(), Clock::system());
    let mut upstreams = BTreeMap::new();
    for upstream in &config.upstream.upstreams {
        upstreams.insert(upstream.name.clone(), known(&reader, upstream, &clock).await?);
    }
    drop(reader);
    store.close().await?;
    Ok(UpstreamsTold { running: false, upstreams })
}

/// What the store knows of an upstream.
pub(super) async fn known(reader: &Reader, upstream: &Upstream, clock: &Clock) -> Result<UpstreamStatus, StoreError> {
    let (positions, heads) = (reader.positions(&upstream.name).await?, reader.heads().await?);
    let unused = reader.unused_seqs();
    let streams = upstream.effective_streams().into_iter().map(|stream| {
        let (position, head) = (positions.get(&stream).cloned().unwrap_or_default(), heads.get(&stream).copied());
        let head = head.unwrap_or_default();
        let depth = depth(stream, &position, (head, &unused));
        (stream, StreamStatus { position, head, depth, ..StreamStatus::default() })
    });
    let (state, problem) = match &upstream.kind {
        Kind::Off { why, .. } => (UpstreamState::Off, Some(why.clone())),
        _ => (UpstreamState::Starting, None),
    };
    Ok(UpstreamStatus {
        kind: upstream.kind.as_str().to_owned(),
        to: upstream.kind.to(),
        state,
        since: clock.now(),
        problem,
        retries: 0,
        dead_letters: reader.dead_letter_count(&upstream.name).await?,
        streams: streams.collect(),
    })
}

/// All dead letters of an upstream, the newest first, for a command.
pub async fn dead_letters(config: &Config, upstream: &str) -> anyhow::Result<Vec<DeadLetter>> {
    let mut all: Vec<DeadLetter> = Vec::new();
    if let Some(socket) = admin::daemon_of(&config.store)? {
        loop {
            let before = all.last().map(|letter| letter.id);
            let request = Request::DeadLetters { upstream: upstream.to_owned(), before };
            let page: Vec<DeadLetter> = admin::ask(&socket, &request).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }
    configured(config, upstream)?;
    let store = open_alone(config).await?;
    let reader = store.reader();
    loop {
        let page = reader.dead_letters(upstream, all.last().map(|letter| letter.id), PAGE).await?;
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    drop(reader);
    store.close().await?;
    Ok(all)
}

/// Whether there is any, for a command.
pub async fn has_dead_letters(config: &Config, upstream: &str) -> anyhow::Result<bool> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        let request = Request::DeadLetters { upstream: upstream.to_owned(), before: None };
        let page: Vec<DeadLetter> = admin::ask(&socket, &request).await?;
        return Ok(!page.is_empty());
    }
    configured(config, upstream)?;
    let store = open_alone(config).await?;
    let count = store.reader().dead_letter_count(upstream).await?;
    store.close().await?;
    Ok(count > 0)
}

/// Has the daemon do something; to forget dead letters needs none.
pub async fn order(config: &Config, order: UpstreamOrder) -> anyhow::Result<()> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::ask(&socket, &Request::Upstream { order }).await;
    }
    let UpstreamOrder::Discard { upstream, ids } = order else {
        bail!("nothing is sent while the daemon does not run: start it, `systemctl start meterseal`, and ask again");
    };
    let order = UpstreamOrder::Discard { upstream: upstream.clone(), ids: ids.clone() };
    let gone = match ids {
        Some(ids) => ids,
        None => dead_letters(config, &upstream).await?.into_iter().map(|letter| letter.id).collect(),
    };
    configured(config, &upstream)?;
    let store = open_alone(config).await?;
    store.ledger().settle_dead_letters(upstream, gone, Vec::new()).await?;
    record(&store.ledger(), &order, &myself()).await?;
    Ok(store.close().await?)
}

fn configured(config: &Config, name: &str) -> Result<(), UpstreamRefused> {
    let is_there = config.upstream.upstreams.iter().any(|upstream| upstream.name == name);
    if is_there { Ok(()) } else { Err(UpstreamRefused::Unknown(name.to_owned())) }
}

/// Asks the engine, and waits for what it says.
pub async fn ask(orders: &mpsc::Sender<UpstreamNow>, order: UpstreamOrder, by: Actor) -> anyhow::Result<()> {
    let (reply, answer) = oneshot::channel();
    let gone = || anyhow!("the daemon is stopping");
    orders.send(UpstreamNow { order, by, reply }).await.map_err(|_| gone())?;
    answer.await.ok().context("the daemon is stopping")??;
    Ok(())
}
