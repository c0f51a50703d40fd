//! The nodes that are asked, side by side: which of them can be believed at the moment, and what is wrong with the rest.

use std::time::Duration;

use futures_util::future::join_all;

use super::step::Trouble;
use crate::clock::Clock;
use crate::evidence::rpc::{Head, Rpc, RpcError};
use crate::model::{RpcStatus, WaitReason};

/// Pauses after failures: doubled from the first to the greatest, of which a random quarter is taken off.
const FIRST_PAUSE_MS: u64 = 2_000;
const GREATEST_PAUSE_MS: u64 = 60_000;
/// A node this far behind the furthest counts for no nonce.
const LAG: u64 = 64;

pub struct Nodes {
    chain_id: u64,
    nodes: Vec<Node>,
}

struct Node {
    rpc: Rpc,
    status: RpcStatus,
    of_chain: Option<u64>,
    failures: u32,
    not_before_ms: u64,
    /// What it last said that does not hold; logged once.
    blamed: Option<String>,
}

/// A node of the chain that answers.
#[derive(Clone, Debug)]
pub struct Present {
    at: usize,
    pub rpc: Rpc,
    pub head: Head,
    pub finalized: Option<u64>,
    pub lags: bool,
}

impl Present {
    pub fn is(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Nodes {
    pub fn new(chain_id: u64, rpcs: Vec<Rpc>) -> Self {
        let node = |rpc: Rpc| {
            let status =
                RpcStatus { name: rpc.name().to_owned(), height: None, finalized: None, answered: None, trouble: None };
            Node { rpc, status, of_chain: None, failures: 0, not_before_ms: 0, blamed: None }
        };
        Self { chain_id, nodes: rpcs.into_iter().map(node).collect() }
    }

    pub fn status(&self) -> Vec<RpcStatus> {
        self.nodes.iter().map(|node| node.status.clone()).collect()
    }

    /// How long until a node may be asked again, when none may be now.
    pub fn pause(&self, now_ms: u64) -> Duration {
        let first = self.nodes.iter().map(|node| node.not_before_ms).min().unwrap_or(now_ms);
        Duration::from_millis(first.saturating_sub(now_ms).clamp(500, GREATEST_PAUSE_MS))
    }

    /// Asks all that may be asked for their newest height; those of the right chain that answer.
    pub async fn greet(&mut self, clock: &Clock) -> Vec<Present> {
        let now_ms = clock.since_boot_ms();
        let due = self.nodes.iter().enumerate().filter(|(_, node)| node.not_before_ms <= now_ms);
        let asked = due.map(|(at, node)| {
            let rpc = node.rpc.clone();
            // Which chain, each time: behind one address there may be another node by now.
            async move { (at, futures_util::try_join!(rpc.chain_id(), rpc.head(), rpc.finalized())) }
        });
        let said = join_all(asked).await;
        let mut present = Vec::new();
        for (at, said) in said {
            match said {
                Ok((of_chain, head, finalized)) => {
                    self.nodes[at].status.answered = Some(clock.now());
                    if !self.is_of_chain(at, of_chain, clock) {
                        continue;
                    }
                    let node = &mut self.nodes[at];
                    node.failures = 0;
                    (node.status.height, node.status.finalized) = (Some(head.height), finalized);
                    present.push(Present { at, rpc: node.rpc.clone(), head, finalized, lags: false });
                }
                Err(error) => self.nodes[at].note(error.to_string(), clock),
            }
        }
        let furthest = present.iter().map(|node| node.head.height).max().unwrap_or(0);
        for node in &mut present {
            let behind = furthest.saturating_sub(node.head.height);
            node.lags = behind > LAG;
            self.nodes[node.at].status.trouble =
                node.lags.then(|| format!("it is {behind} heights behind another node"));
        }
        present
    }

    fn is_of_chain(&mut self, at: usize, of_chain: u64, clock: &Clock) -> bool {
        let (chain_id, node) = (self.chain_id, &mut self.nodes[at]);
        node.of_chain = Some(of_chain);
        if of_chain != chain_id {
            node.note(format!("it is of chain {of_chain}, not {chain_id}"), clock);
        }
        of_chain == chain_id
    }

    /// Asks each once more which chain it is of, before something is done that cannot be undone: what it said since it
    /// was greeted was of that chain too.
    pub async fn ask_chain(&mut self, present: &mut Vec<Present>, clock: &Clock) {
        let said = self.each(present, clock, |rpc| async move { rpc.chain_id().await }).await;
        let of_chain = said.into_iter().filter(|(node, of_chain)| self.is_of_chain(node.at, *of_chain, clock));
        *present = of_chain.map(|(node, _)| node).collect();
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// One that is not among these, or is far behind.
    pub fn absent(&self, present: &[Present]) -> Option<&str> {
        let is_here = |at: usize| present.iter().any(|node| node.at == at && !node.lags);
        self.nodes.iter().enumerate().find(|(at, _)| !is_here(*at)).map(|(_, node)| node.rpc.name())
    }

    /// Asks each of these the same; those that fail are noted, and left out from then on.
    pub async fn each<T, F>(
        &mut self,
        present: &mut Vec<Present>,
        clock: &Clock,
        ask: impl Fn(Rpc) -> F,
    ) -> Vec<(Present, T)>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let answers = join_all(present.iter().map(|node| ask(node.rpc.clone()))).await;
        let mut said = Vec::new();
        let nodes = std::mem::take(present);
        for (node, answer) in nodes.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    present.push(node.clone());
                    said.push((node, answer));
                }
                Err(error) => self.nodes[node.at].note(error.to_string(), clock),
            }
        }
        said
    }

    /// A node said what does not hold. It may be well otherwise, and goes on being asked.
    pub fn blame(&mut self, node: &Present, what: String) {
        let node = &mut self.nodes[node.at];
        if node.blamed.as_ref() != Some(&what) {
            tracing::warn!(rpc = node.status.name, "{what}");
        }
        node.status.trouble = Some(what.clone());
        node.blamed = Some(what);
    }

    /// Hands a transaction to all; how many took it, and what another said, if any said something.
    pub async fn send(&self, present: &[Present], raw: &alloy_primitives::Bytes) -> (usize, Option<RpcError>) {
        let answers = join_all(present.iter().map(|node| node.rpc.send(raw))).await;
        let taken = answers.iter().filter(|answer| answer.is_ok()).count();
        let is_silence = |error: &RpcError| matches!(error, RpcError::Unreachable { .. });
        (taken, answers.into_iter().filter_map(Result::err).min_by_key(is_silence))
    }

    /// Why nobody answers, for a person.
    pub fn silence(&self) -> Trouble {
        let said = |node: &Node| {
            format!("{}: {}", node.status.name, node.status.trouble.as_deref().unwrap_or("it does not answer"))
        };
        let all = self.nodes.iter().map(said).collect::<Vec<_>>().join("; ");
        let is_other = |node: &Node| node.of_chain.is_some_and(|chain| chain != self.chain_id);
        if self.nodes.iter().all(is_other) {
            let text = format!("no rpc is of chain {}: {all}. Correct chain_id or rpc", self.chain_id);
            return Trouble { reason: WaitReason::WrongChain, text };
        }
        Trouble { reason: WaitReason::Unreachable, text: format!("no rpc answers: {all}") }
    }
}

impl Node {
    fn note(&mut self, trouble: String, clock: &Clock) {
        // An error names its node, as whoever shows the trouble does.
        let trouble = trouble.strip_prefix(&self.status.name).map_or(trouble.as_str(), str::trim_start).to_owned();
        if self.status.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(rpc = self.status.name, "{trouble}");
        }
        self.status.trouble = Some(trouble);
        self.failures = self.failures.saturating_add(1);
        let whole = FIRST_PAUSE_MS.saturating_mul(1 << (self.failures - 1).min(16)).min(GREATEST_PAUSE_MS);
        self.not_before_ms = clock.since_boot_ms() + less_some(whole);
    }
}

/// Up to a quarter less, so that many gateways do not ask at the same time.
pub fn less_some(ms: u64) -> u64 {
    let mut byte = [0];
    // Without randomness the pauses are the same everywhere, which is no reason to stop.
    getrandom::fill(&mut byte).ok();
    ms - ms * u64::from(byte[0]) / 1_024
}
