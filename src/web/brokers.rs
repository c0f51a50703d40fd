//! `GET /api/brokers`: how listening goes, and which meters were heard that nobody has declared.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Web;
use super::query::{Asked, Nothing};
use super::wire::{At, Json};
use crate::model::{BrokerStatus, LineName, MalformedMessage, Proposal, Quantity, SourcesStatus};

#[derive(Serialize, ToSchema)]
#[schema(as = Broker)]
pub struct BrokerView<'a> {
    name: &'a LineName,
    connected: bool,
    since: At,
    problem: Option<&'a str>,
    connects: u64,
    messages: u64,
    last_message: Option<At>,
    silent: bool,
    repeated: u64,
    undated: u64,
    malformed: u64,
    last_malformed: Option<MalformedView<'a>>,
    unasked: u64,
    proposals: Vec<ProposalView<'a>>,
    unnamed: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MalformedMessage)]
struct MalformedView<'a> {
    topic: &'a str,
    time: At,
    reason: &'a str,
    payload: &'a str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MeterProposal)]
struct ProposalView<'a> {
    name: &'a str,
    topic: &'a str,
    first: At,
    last: At,
    messages: u64,
    quantities: &'a [Quantity],
    /// What declares it, to be written below the broker in the config.
    config: String,
}

/// MQTT brokers, and the meters that were heard from them and are not declared
#[utoipa::path(get, path = "/api/brokers", responses((status = 200, description = "The brokers", body = [BrokerView])))]
pub async fn list(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Response {
    let sources = web.views.sources.borrow().clone();
    Json(all(&sources)).into_response()
}

pub fn all(sources: &SourcesStatus) -> Vec<BrokerView<'_>> {
    sources.brokers.iter().map(|(name, broker)| view(name, broker)).collect()
}

fn view<'a>(name: &'a LineName, broker: &'a BrokerStatus) -> BrokerView<'a> {
    BrokerView {
        name,
        connected: broker.connected,
        since: At(broker.since),
        problem: broker.problem.as_deref(),
        connects: broker.connects,
        messages: broker.messages,
        last_message: broker.last_message.map(At),
        silent: broker.silent,
        repeated: broker.repeated,
        undated: broker.undated,
        malformed: broker.malformed,
        last_malformed: broker.last_malformed.as_ref().map(malformed),
        unasked: broker.unasked,
        proposals: broker.proposals.iter().map(proposal).collect(),
        unnamed: broker.unnamed,
    }
}

fn malformed(message: &MalformedMessage) -> MalformedView<'_> {
    let MalformedMessage { topic, time, reason, payload } = message;
    MalformedView { topic, time: At(*time), reason, payload }
}

fn proposal(heard: &Proposal) -> ProposalView<'_> {
    ProposalView {
        name: &heard.name,
        topic: &heard.topic,
        first: At(heard.first),
        last: At(heard.last),
        messages: heard.messages,
        quantities: &heard.quantities,
        config: declaration(&heard.name),
    }
}

/// An id may have letters, digits, `.`, `_` and `-` only; what the meter calls itself may have any.
fn declaration(name: &str) -> String {
    let id: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .take(64)
        .collect();
    let name = serde_json::Value::from(name);
    format!("[[mqtt.meter]]\nid = \"{id}\"\nmatch = {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_is_toml_whatever_the_meter_calls_itself() {
        for name in ["20112", "plant/press \"3\"", "größe\\x"] {
            let text = format!("[[mqtt]]\n{}", declaration(name));
            let table: toml::Table = text.parse().unwrap();
            let meter = &table["mqtt"][0]["meter"][0];
            assert_eq!(meter["match"].as_str(), Some(name));
            meter["id"].as_str().unwrap().parse::<crate::model::MeterId>().unwrap();
        }
    }
}
