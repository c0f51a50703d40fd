//! Proofs: those that the page and commands ask the daemon for, and those of a command alone.

use std::io;

use anyhow::Context as _;
use futures_util::stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{admin, open_alone};
use crate::config::Config;
use crate::evidence::anchor::Part;
use crate::evidence::log::Publisher;
use crate::evidence::mark::Mark;
use crate::evidence::prove::{Proof, ProveError, Prover};
use crate::model::AnchorStatus;
use crate::model::proof::{Claim, NotProven, ProofForm, ProofTold};
use crate::web::{ProofText, ProveNow};

/// Proofs that are asked for and not yet looked at; who asks for one more waits.
pub const ASKED: usize = 16;
/// Proofs whose parts are looked up at the same time: that of a row reads a whole bundle.
const AT_ONCE: usize = 2;

/// Finds what the page and commands want to have proven. Whoever asked then reads the proof from the store as fast as
/// he takes it.
pub async fn run(mut asked: mpsc::Receiver<ProveNow>, prover: Prover, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = tasks.join_next() => ended.context("a proof")?,
            Some(ProveNow { claim, form, mut reply }) = asked.recv(), if tasks.len() < AT_ONCE => {
                let prover = prover.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        found = prover.prove(&claim, form) => {
                            // Who asked may have gone.
                            reply.send(found.map(text).map_err(not_proven)).ok();
                        }
                        () = reply.closed() => {}
                    }
                });
            }
        }
    }
}

fn text(mut proof: Proof) -> ProofText {
    let told = std::mem::take(&mut proof.told);
    let pieces = stream::unfold(proof, |mut proof| async move {
        let piece = proof.next().await?.map_err(not_proven);
        Some((piece, proof))
    });
    ProofText { pieces: Box::pin(pieces), told }
}

fn not_proven(error: ProveError) -> NotProven {
    match error {
        ProveError::Not(why) => why,
        broken => {
            error!(error = &broken as &dyn std::error::Error, "a proof could not be made");
            NotProven::Broken(format!("{:#}", anyhow::Error::from(broken)))
        }
    }
}

/// Proves something for a command, by the daemon that runs on the store of this config, or from the store itself when
/// none does. The text goes to `take`.
pub async fn for_command(
    config: &Config,
    claim: Claim,
    form: ProofForm,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> anyhow::Result<ProofTold> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::prove(&socket, claim, form, take).await;
    }
    let store = open_alone(config).await?;
    // Nobody anchors now; which chain counts is known all the same.
    let chain_id = if let Part::On(on) = &config.anchor { on.chain_id } else { 0 };
    let anchoring = watch::Sender::new(AnchorStatus { chain_id, ..AnchorStatus::default() });
    let made = async {
        let publisher = Publisher::new(store.ledger(), Mark::at(config.evidence.mark.clone()));
        let prover = Prover { reader: store.reader(), publisher, anchoring: Some(anchoring.subscribe()) };
        let mut proof = prover.prove(&claim, form).await?;
        while let Some(piece) = proof.next().await {
            take(&piece?)?;
        }
        Ok(proof.told)
    };
    let made = made.await;
    store.close().await?;
    made
}
