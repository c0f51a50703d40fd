//! How anchoring does as a whole: what is left to pay with, and what a person must know.

use tracing::warn;

use super::alarms::{self, Act, Alarms};
use super::fees::{self, Market};
use super::nodes::{Nodes, Present, less_some};
use super::queue::{Queue, size};
use super::{Config, Parts};
use crate::clock::Clock;
use crate::model::{Alert, AlertKind, Anchor, AnchorState, Anchored, Timestamp, Waiting};
use crate::store::StoreError;

/// The balance is asked this often while nothing is on its way.
const BALANCE_MS: u64 = 3_600_000;
/// Alerts and days left are judged this often.
const JUDGE_MS: u64 = 30_000;
/// The newest anchors, by which the rate is judged.
const NEWEST: usize = 40;
/// Alerts that stand, at most.
const STANDING: usize = 1_000;

#[derive(Default)]
pub struct Health {
    alarms: Alarms,
    judged_ms: Option<u64>,
    pub balance: Option<(u128, Timestamp)>,
    balance_ms: Option<u64>,
    market: Option<Market>,
    anchors_left: Option<u128>,
    pub days_left: Option<u64>,
}

impl Health {
    /// Another account or another chain: what was known does not hold any more.
    pub fn forget(&mut self) {
        *self = Self { alarms: std::mem::take(&mut self.alarms), ..Self::default() };
    }

    /// Something was paid: all is asked at the next look.
    pub fn ask_again(&mut self) {
        (self.balance_ms, self.judged_ms) = (None, None);
    }

    pub fn note(&mut self, market: Market, clock: &Clock) {
        self.balance = Some((market.balance, clock.now()));
        self.balance_ms = Some(clock.since_boot_ms());
        self.market = Some(market);
    }

    pub fn asks_for_balance(&self, clock: &Clock) -> bool {
        let now_ms = clock.since_boot_ms();
        self.balance_ms.is_none_or(|asked| now_ms.saturating_sub(asked) >= less_some(BALANCE_MS))
    }

    pub async fn ask_balance(&mut self, nodes: &mut Nodes, present: &mut Vec<Present>, config: &Config, clock: &Clock) {
        if !self.asks_for_balance(clock) {
            return;
        }
        let account = config.key.address();
        let said = nodes.each(present, clock, move |rpc| async move {
            // Not every node proposes a tip.
            Ok((rpc.balance(account).await?, rpc.tip().await.ok()))
        });
        let said = said.await;
        if let Some((node, (balance, _))) = said.iter().max_by_key(|(node, _)| node.head.height) {
            let (height, base_fee) = (node.head.height, node.head.base_fee);
            let tip = said.iter().filter_map(|(_, (_, tip))| *tip).min().unwrap_or(0);
            self.note(Market { height, base_fee, tip, nonce: 0, pending: 0, balance: *balance }, clock);
        }
    }

    /// How long the balance lasts.
    pub async fn rate(&mut self, queue: &Queue, config: &Config) -> Result<(), StoreError> {
        let newest = queue.parts.reader.anchors(None, NEWEST).await?;
        let market = self.market.as_ref();
        let left = |(balance, _)| fees::anchors_left(balance, &newest, market, config.chain_id);
        self.anchors_left = self.balance.and_then(left);
        self.days_left = self.anchors_left.map(|anchors| fees::days(anchors, config.every));
        Ok(())
    }

    /// Raises and clears what a person must know.
    pub async fn judge(
        &mut self,
        queue: &Queue,
        config: &Config,
        unsettled: &[Anchor],
        waiting: Option<&Waiting>,
    ) -> Result<(), StoreError> {
        let Parts { reader, ledger, clock, .. } = &queue.parts;
        let (now, now_ms) = (clock.now(), clock.since_boot_ms());
        if self.judged_ms.is_some_and(|judged| now_ms.saturating_sub(judged) < JUDGE_MS) {
            return Ok(());
        }
        self.rate(queue, config).await?;
        let seen = alarms::Seen {
            now,
            now_ms,
            account: config.key.address(),
            chain_id: config.chain_id,
            every: config.every,
            uncovered: uncovered(queue, config, unsettled).await?,
            waiting,
            balance: self.balance.map(|(balance, _)| balance),
            anchors_left: self.anchors_left,
        };
        for act in self.alarms.judge(&seen, &reader.alerts(true, STANDING).await?) {
            match act {
                Act::Raise(alert) => raise(&queue.parts, alert).await?,
                Act::Clear(id) => ledger.clear_alert(id, now).await?,
            }
        }
        self.judged_ms = Some(now_ms);
        Ok(())
    }
}

/// Since when the running epoch holds something that is under no final anchor.
async fn uncovered(queue: &Queue, config: &Config, unsettled: &[Anchor]) -> Result<Option<Timestamp>, StoreError> {
    let epoch = queue.parts.reader.identity().epoch.clone();
    let signed = queue.newest_checkpoint(&epoch).await?.map_or(0, |signed| signed.checkpoint.size);
    let last = queue.newest(&epoch, config, |anchor| anchor.state == AnchorState::Final).await?;
    if last.as_ref().map_or(0, size) >= signed {
        return Ok(None);
    }
    let from = last.and_then(|anchor| anchor.attempts.first().map(|attempt| attempt.signed));
    let of_epoch = |anchor: &&Anchor| matches!(&anchor.what, Anchored::Checkpoint { epoch: of, .. } if *of == epoch);
    let waiting = unsettled.iter().filter(|one| one.state != AnchorState::Final).filter(of_epoch);
    Ok(from.or(waiting.map(|anchor| anchor.queued).min()))
}

async fn raise(parts: &Parts, alert: Alert) -> Result<(), StoreError> {
    if parts.ledger.raise(alert.clone()).await?.is_some() {
        warn!("{}", alert.text);
    }
    Ok(())
}

/// An anchor is final: what was told of others before is over.
pub async fn well_again(parts: &Parts) -> Result<(), StoreError> {
    clear(parts, &[AlertKind::AnchorNonceTaken, AlertKind::AnchorReorganised]).await
}

/// Nothing is to be anchored any more, and nobody looks whether what was told is over.
pub async fn no_more(parts: &Parts) -> Result<(), StoreError> {
    let kinds = [
        AlertKind::AnchorOverdue,
        AlertKind::AnchorFundsLow,
        AlertKind::AnchorNonceTaken,
        AlertKind::AnchorReorganised,
    ];
    clear(parts, &kinds).await
}

async fn clear(parts: &Parts, kinds: &[AlertKind]) -> Result<(), StoreError> {
    let now = parts.clock.now();
    for alert in parts.reader.alerts(true, STANDING).await? {
        if kinds.contains(&alert.kind) {
            parts.ledger.clear_alert(alert.id, now).await?;
        }
    }
    Ok(())
}

/// Tells it when the chain counts more transactions of the account than were ever signed here.
pub async fn tell_of_count(parts: &Parts, anchor: &Anchor, nonce: u64) -> Result<(), StoreError> {
    let next = parts.reader.next_nonce(anchor.chain_id, anchor.account).await?;
    if next.is_none_or(|next| next >= nonce) {
        return Ok(());
    }
    tell_of_rival(parts, anchor, nonce.saturating_sub(1)).await
}

pub async fn tell_of_rival(parts: &Parts, anchor: &Anchor, nonce: u64) -> Result<(), StoreError> {
    raise(parts, alarms::rival(anchor, nonce, parts.clock.now())).await
}

pub async fn tell_of_reorganisation(parts: &Parts, anchor: &Anchor) -> Result<(), StoreError> {
    let Some(inclusion) = &anchor.inclusion else { return Ok(()) };
    let text = format!(
        "Anchor {} was final at height {} of chain {}, and the chain has another block there now. Its transaction is sent \
         again; proofs with it show nothing until it is final anew.",
        anchor.id, inclusion.height, anchor.chain_id
    );
    raise(parts, alarms::alert(AlertKind::AnchorReorganised, inclusion.time, parts.clock.now(), text)).await
}
