//! Hands alerts to the webhook until it takes them. What is owed is found in the store, so that a restart, a nudge
//! that got lost and a week without a line are all the same case.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{StatusCode, header, redirect};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Config, Webhook};
use crate::clock::Clock;
use crate::model::{Alert, AlertKind, Timestamp, causes, unreached};
use crate::store::{Identity, Ledger, Reader, StoreError};

/// One delivery, from connecting to the status of the answer.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Pauses after failures: doubled from the first to the greatest, of which a random half is taken off.
const FIRST_PAUSE_MS: u64 = 1_000;
const GREATEST_PAUSE_MS: u64 = 60_000;
/// A webhook may ask for a longer pause (`Retry-After`), up to this.
const GREATEST_WISH_MS: u64 = 900_000;
/// An alert that the webhook refuses is offered again this often: somebody may have mended it.
const REFUSED_PAUSE_MS: u64 = 900_000;
/// Nobody needs an alert that is older: it stays in the list, and is not sent.
const TOO_OLD_MS: i64 = 7 * 86_400_000;
/// What other rooms raise comes without a nudge: it is found at the next look.
const LOOK_MS: u64 = 5_000;
/// Alerts looked through for those not delivered yet; there are never more at once.
const LOOKED_AT: usize = 1_000;

/// Delivers until stopped.
pub struct Delivery {
    pub config: watch::Receiver<Arc<Config>>,
    pub reader: Reader,
    pub ledger: Ledger,
    pub clock: Clock,
    /// The alerts' own task raised something: no need to wait for the next look.
    pub nudge: Arc<Notify>,
    pub problem: watch::Sender<Option<String>>,
    pub stop: CancellationToken,
}

/// How far delivery is. Times are ms since boot.
#[derive(Default)]
struct State {
    /// Made on first use, so that a plant without a webhook never loads root certificates.
    client: Option<reqwest::Client>,
    failures: u32,
    not_before: u64,
    /// Alerts that the webhook refused: when they are offered again.
    refused: BTreeMap<i64, u64>,
    /// Taken by the webhook, but the store could not note it: they are not sent twice.
    taken: BTreeSet<i64>,
}

/// What became of one delivery.
#[derive(Debug, PartialEq)]
enum Outcome {
    Taken,
    /// The line, the webhook or its host is not well: everything waits, at least as long as it asks for.
    Later {
        why: String,
        wish_ms: Option<u64>,
    },
    /// It does not want this alert.
    Refused {
        why: String,
    },
}

impl Delivery {
    pub async fn run(mut self) {
        let mut state = State::default();
        loop {
            let config = self.config.borrow_and_update().clone();
            let wait = match &config.webhook {
                Some(webhook) => tokio::select! {
                    () = self.stop.cancelled() => return,
                    wait = self.deliver_due(webhook, &mut state) => Some(wait),
                },
                None => {
                    self.tell(None);
                    None
                }
            };
            let wait = async {
                match wait {
                    Some(ms) => self.clock.sleep(Duration::from_millis(ms)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.nudge.notified() => {}
                () = wait => {}
                changed = self.config.changed() => match changed {
                    // Another address may take what this one refused.
                    Ok(()) => state = State { taken: state.taken, ..State::default() },
                    Err(_) => return self.stop.cancelled().await,
                },
            }
        }
    }

    /// Offers all that is due; gives after how many ms to look again.
    async fn deliver_due(&self, webhook: &Webhook, state: &mut State) -> u64 {
        let now = self.clock.since_boot_ms();
        if now < state.not_before {
            return state.not_before - now;
        }
        let owed = match self.owed().await {
            Ok(owed) => owed,
            Err(cause) => {
                warn!(error = &cause as &dyn std::error::Error, "the alerts to be delivered could not be read");
                return GREATEST_PAUSE_MS;
            }
        };
        state.refused.retain(|id, _| owed.iter().any(|alert| alert.id == *id));
        for alert in owed {
            if state.refused.get(&alert.id).is_some_and(|again| *again > self.clock.since_boot_ms()) {
                continue;
            }
            let outcome = match state.taken.contains(&alert.id) {
                true => Outcome::Taken,
                false => self.offer(webhook, &alert, state).await,
            };
            match outcome {
                Outcome::Taken => {
                    state.failures = 0;
                    state.refused.remove(&alert.id);
                    if let Err(cause) = self.ledger.alert_delivered(alert.id, self.clock.now()).await {
                        warn!(
                            alert = alert.id,
                            error = &cause as &dyn std::error::Error,
                            "a delivery could not be noted"
                        );
                        state.taken.insert(alert.id);
                        return GREATEST_PAUSE_MS;
                    }
                    state.taken.remove(&alert.id);
                    info!(alert = alert.id, "alert delivered");
                    if state.refused.is_empty() {
                        self.tell(None);
                    }
                }
                Outcome::Later { why, wish_ms } => {
                    state.failures = state.failures.saturating_add(1);
                    let pause = pause_ms(state.failures, random_byte()).max(wish_ms.unwrap_or(0).min(GREATEST_WISH_MS));
                    state.not_before = self.clock.since_boot_ms() + pause;
                    self.tell(Some(format!("the alert webhook does not take alerts: {why}")));
                    return pause;
                }
                Outcome::Refused { why } => {
                    state.failures = 0;
                    state.refused.insert(alert.id, self.clock.since_boot_ms() + REFUSED_PAUSE_MS);
                    self.tell(Some(format!("the alert webhook refuses alert {}: {why}", alert.id)));
                }
            }
        }
        LOOK_MS
    }

    /// Alerts not delivered yet, the oldest first.
    async fn owed(&self) -> Result<Vec<Alert>, StoreError> {
        let oldest = self.clock.now().plus_millis(-TOO_OLD_MS);
        let mut owed = self.reader.alerts(false, LOOKED_AT).await?;
        owed.retain(|alert| alert.delivered.is_none() && alert.raised >= oldest);
        owed.reverse();
        Ok(owed)
    }

    async fn offer(&self, webhook: &Webhook, alert: &Alert, state: &mut State) -> Outcome {
        let client = match &state.client {
            Some(client) => client,
            None => match new_client() {
                Ok(client) => state.client.insert(client),
                Err(cause) => return Outcome::Later { why: without_address(cause), wish_ms: None },
            },
        };
        let identity = self.reader.identity();
        let body = fill(&webhook.body, (alert.kind.as_str(), alert), &identity, &webhook.contact);
        // The same alert sent twice, after an answer that was lost, is known by its key.
        let key = format!("{}-{}-alert-{}", identity.gateway, identity.epoch, alert.id);
        let request = client.post(&webhook.url).header(header::CONTENT_TYPE, "application/json");
        match request.header("idempotency-key", key).body(body).send().await {
            Ok(answer) => judge(answer.status(), answer.headers().get(header::RETRY_AFTER)),
            Err(cause) => Outcome::Later { why: without_address(cause), wish_ms: None },
        }
    }

    /// Logged when it changes, not at every attempt.
    fn tell(&self, problem: Option<String>) {
        let told = self.problem.send_if_modified(|known| {
            let changes = *known != problem;
            known.clone_from(&problem);
            changes
        });
        if let (true, Some(problem)) = (told, problem) {
            warn!("{problem}");
        }
    }
}

/// Why a text that was sent to see whether the webhook works did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TestFailed {
    #[error("no webhook is set: put `webhook = {{ url = \"https://...\" }}` under [alerts] of the config")]
    NoWebhook,
    #[error("the webhook did not take the test: {0}")]
    NotTaken(String),
}

/// Sends one text that says that it is a test, now, past all that waits; the status of the answer.
pub async fn send_test(config: &Config, identity: &Identity, now: Timestamp) -> Result<u16, TestFailed> {
    let webhook = config.webhook.as_ref().ok_or(TestFailed::NoWebhook)?;
    let failed = |cause| TestFailed::NotTaken(without_address(cause));
    let client = new_client().map_err(failed)?;
    let text = format!("TEST: a person at site {} has asked whether alerts arrive. Nothing is wrong.", identity.site);
    let alert = Alert::new(AlertKind::MeterSilent, None, now, now, text);
    let body = fill(&webhook.body, ("test", &alert), identity, &webhook.contact);
    let request = client.post(&webhook.url).header(header::CONTENT_TYPE, "application/json").body(body);
    let status = request.send().await.map_err(failed)?.status();
    if status.is_success() { Ok(status.as_u16()) } else { Err(TestFailed::NotTaken(format!("it answers {status}"))) }
}

fn judge(status: StatusCode, retry_after: Option<&header::HeaderValue>) -> Outcome {
    let why = format!("it answers {status}");
    let is_later = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if status.is_success() {
        Outcome::Taken
    } else if status.is_server_error() || is_later {
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        Outcome::Later { why, wish_ms: seconds.map(|seconds| seconds.saturating_mul(1_000)) }
    } else {
        // Redirects are not followed: the alert, and whatever secret its body bears, go where the config says.
        Outcome::Refused { why }
    }
}

fn new_client() -> reqwest::Result<reqwest::Client> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error says that another task was first, which serves as well.
        rustls::crypto::ring::default_provider().install_default().ok();
    }
    reqwest::Client::builder()
        .timeout(TIME_LIMIT)
        .redirect(redirect::Policy::none())
        .pool_max_idle_per_host(0) // alerts are rare
        .user_agent(concat!("meterseal/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The address may bear a secret.
fn without_address(cause: reqwest::Error) -> String {
    let cause = cause.without_url();
    unreached(&cause).map_or_else(|| causes(&cause), |words| format!("it {words}"))
}

fn pause_ms(failures: u32, random: u8) -> u64 {
    let whole = FIRST_PAUSE_MS.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(GREATEST_PAUSE_MS);
    whole - whole * u64::from(random) / 512
}

fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness the pauses are the same everywhere, which is no reason to stop.
    getrandom::fill(&mut byte).ok();
    byte[0]
}

/// The body with its marks replaced, once: a text that holds a mark is not looked through again.
fn fill(body: &str, alert: (&str, &Alert), identity: &Identity, contact: &str) -> String {
    let mut filled = String::with_capacity(body.len() + alert.1.text.len());
    let mut rest = body;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let value = after
            .split_once("}}")
            .and_then(|(mark, after)| Some((value(mark.trim(), alert, identity, contact)?, after)));
        match value {
            Some((value, after)) => {
                filled.push_str(&escaped(&value));
                rest = after;
            }
            None => {
                filled.push_str("{{");
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

fn value(mark: &str, (kind, alert): (&str, &Alert), identity: &Identity, contact: &str) -> Option<String> {
    Some(match mark {
        "text" if alert.cleared.is_some() => format!("{} (It is over by now.)", alert.text),
        "text" => alert.text.clone(),
        "kind" => kind.to_owned(),
        "meter" => alert.meter.as_ref().map_or_else(String::new, ToString::to_string),
        "site" => identity.site.to_string(),
        "time" => alert.raised.to_string(),
        "id" => alert.id.to_string(),
        "contact" => contact.to_owned(),
        _ => return None,
    })
}

/// A text as it stands within the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use proptest::prelude::*;

    fn alert(text: &str) -> Alert {
        Alert {
            id: 7,
            ..Alert::new(
                AlertKind::MeterSilent,
                Some("main".parse().unwrap()),
                Timestamp::from_millis(0),
                Timestamp::from_millis(0),
                text.into(),
            )
        }
    }

    fn filled(body: &str, text: &str) -> String {
        let identity = Identity { site: "plant-7".parse().unwrap(), gateway: "g".into(), epoch: "e".into() };
        fill(body, ("meter_silent", &alert(text)), &identity, "+60 12")
    }

    #[test]
    fn marks_are_replaced_once_and_unknown_ones_stay() {
        let body =
            r#"{"to":"{{contact}}","m":"{{ text }}","k":"{{kind}} {{meter}} {{site}} {{time}} {{id}} {{else}} {{"}"#;
        assert_eq!(
            filled(body, "a {{contact}} \"b\""),
            r#"{"to":"+60 12","m":"a {{contact}} \"b\"","k":"meter_silent main plant-7 1970-01-01T00:00:00.000Z 7 {{else}} {{"}"#
        );
    }

    proptest! {
        #[test]
        fn whatever_the_text_the_body_stays_json(text in any::<String>()) {
            let body: serde_json::Value = serde_json::from_str(&filled(r#"{"message":"{{text}}"}"#, &text)).unwrap();
            prop_assert_eq!(&body["message"], &serde_json::Value::from(text));
        }

        #[test]
        fn pauses_grow_to_a_minute_and_no_further(failures in 1..100_u32, random in any::<u8>()) {
            let pause = pause_ms(failures, random);
            prop_assert!((500..=60_000).contains(&pause));
            prop_assert!(pause <= pause_ms(failures + 1, 0));
        }
    }

    #[test]
    fn only_trouble_that_passes_by_itself_is_waited_for() {
        let status = |code| judge(StatusCode::from_u16(code).unwrap(), None);
        assert_eq!(status(204), Outcome::Taken);
        for code in [408, 429, 500, 502, 503] {
            assert!(matches!(status(code), Outcome::Later { wish_ms: None, .. }), "{code}");
        }
        for code in [301, 400, 401, 404, 422] {
            assert!(matches!(status(code), Outcome::Refused { .. }), "{code}");
        }
        let wish = header::HeaderValue::from_static("30");
        assert!(matches!(
            judge(StatusCode::SERVICE_UNAVAILABLE, Some(&wish)),
            Outcome::Later { wish_ms: Some(30_000), .. }
        ));
    }
}
