//! Signing in: what the page asks of the store, the set-up code, and what commands do with PINs, TOTP and tokens.

use std::fmt;
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::admin::{self, Request};
use super::{exports, open_alone};
use crate::clock::Clock;
use crate::config::Config;
use crate::model::{Actor, Digest};
use crate::store::{AccessChange, Ledger, Reader, Role, Scope, StoreError, Token};
use crate::web::{self, AccessNow, Gate, LogLines, Pin, totp};

/// Wishes of the page; who has one more is told to come again.
pub const ASKED: usize = 16;
/// When tokens were used, and guesses that are not told yet, are looked at this often.
const EVERY: Duration = Duration::from_secs(600);

/// What a command does with PINs, TOTP and tokens.
#[derive(Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum AccessOrder {
    Pin {
        role: Role,
        pin: Pin,
    },
    NoPin {
        role: Role,
    },
    /// A secret in base32, and a code of it: it is in an app then.
    Totp {
        secret: String,
        code: String,
    },
    NoTotp {},
    Tokens {},
    Token {
        name: String,
        scope: Scope,
    },
    NoToken {
        name: String,
    },
}

/// Without what it bears: some of it is secret.
impl fmt::Debug for AccessOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessOrder")
    }
}

/// What came of it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessDone {
    Done,
    RecoveryCodes(Vec<String>),
    Tokens(Vec<Token>),
    Token { made: Token, token: String },
}

/// Makes the changes that the page asks for, and offers a set-up code while there is no PIN.
pub async fn run(
    mut asked: mpsc::Receiver<AccessNow>,
    gate: Gate,
    (reader, ledger): (Reader, Ledger),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut changed = reader.access_changed();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A code that was told before a restart is in an old journal, where more people may have read it.
    let mut needs_code = true;
    loop {
        let access = reader.access();
        needs_code |= access.setup_code.is_none();
        if needs_code && access.pin(Role::Admin).is_none() {
            // What cannot be stored is tried again with the next change, or when the time comes.
            needs_code = offer_code(&ledger).await.inspect_err(|cause| error!("no set-up code: {cause:#}")).is_err();
        }
        drop(access);
        tokio::select! {
            () = stop.cancelled() => break,
            Some(AccessNow { change, by, reply }) = asked.recv() => {
                // Who asked may have gone; what is done is done.
                reply.send(ledger.change_access(change, by).await).ok();
            }
            Ok(()) = changed.changed() => {}
            _ = every.tick() => keep(&gate, &ledger, false).await,
        }
    }
    keep(&gate, &ledger, true).await;
    Ok(())
}

async fn keep(gate: &Gate, ledger: &Ledger, at_end: bool) {
    let kept = async {
        ledger.keep_token_use().await?;
        if let Some(change) = gate.to_keep(at_end) {
            // There is nothing in it to be refused.
            ledger.change_access(change, Actor::here("nobody")).await?.ok();
        }
        Ok::<_, StoreError>(())
    };
    if let Err(cause) = kept.await {
        warn!("lock-outs and the use of tokens could not be kept: {cause:#}");
    }
}

/// Makes a new set-up code and tells it, where only those read it who run this machine.
async fn offer_code(ledger: &Ledger) -> anyhow::Result<()> {
    let code = totp::random_code()?;
    let digest = totp::digest_of(&code).ok_or_else(|| anyhow!("the code is none"))?;
    let by = Actor::here("meterseal");
    ledger.change_access(AccessChange::SetupCode { code: digest }, by).await??;
    // It opens the gateway: no support bundle has it.
    info!(target: LogLines::NOT_KEPT, "no PIN is set yet: open the page and set one with this set-up code: {code}");
    Ok(())
}

/// Does what a command wants: by the daemon that has the store open, or here when none does.
pub async fn order(config: &Config, order: AccessOrder) -> anyhow::Result<AccessDone> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::ask(&socket, &Request::Access { order }).await;
    }
    let store = open_alone(config).await?;
    let user = exports::myself();
    let done = carry_out(&store.reader(), &store.ledger(), &Clock::system(), order, user).await;
    store.close().await?;
    done
}

pub async fn carry_out(
    reader: &Reader,
    ledger: &Ledger,
    clock: &Clock,
    order: AccessOrder,
    by: Actor,
) -> anyhow::Result<AccessDone> {
    let mut done = AccessDone::Done;
    let change = match order {
        AccessOrder::Pin { role, pin } => {
            let access = reader.access();
            let phc = tokio::task::spawn_blocking(move || web::choose_pin(&pin, role, &access)).await??;
            AccessChange::Pin { role, phc }
        }
        AccessOrder::NoPin { role } => AccessChange::NoPin { role },
        AccessOrder::Totp { secret, code } => {
            let Some(secret) = totp::from_base32(&secret) else { bail!("that is no TOTP secret of ours") };
            let now = clock.now();
            let Some(step) = totp::step_of(&secret, &code, now, 0) else {
                bail!("that is not the code of now: for this gateway it is {now}, and the phone's clock must agree");
            };
            let (codes, recovery) = web::recovery_codes()?;
            done = AccessDone::RecoveryCodes(codes);
            AccessChange::Totp { secret, step, recovery }
        }
        AccessOrder::NoTotp {} => AccessChange::NoTotp,
        AccessOrder::Tokens {} => return Ok(AccessDone::Tokens(reader.tokens())),
        AccessOrder::Token { name, scope } => {
            web::token_name(&name)?;
            let token = web::random_token()?;
            let change = AccessChange::Token { name, scope, token: Digest::of(token.as_bytes()) };
            let Some(made) = ledger.change_access(change, by).await?? else { bail!("no token was made") };
            return Ok(AccessDone::Token { made, token });
        }
        AccessOrder::NoToken { name } => AccessChange::NoToken { name },
    };
    ledger.change_access(change, by).await??;
    Ok(done)
}
