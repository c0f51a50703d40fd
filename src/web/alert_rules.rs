//! What a person does about alerts: says that one is seen to, switches a kind off, tries the webhook. Each is asked of
//! `agent`.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::Web;
use super::ask::ask;
use super::dashboard::AlertView;
use super::guard::Admin;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing, body_of};
use super::wire::Json;
use crate::model::{Actor, Alert, AlertKind};
use crate::store::StoreError;

/// Something that a person wants of the alerts. `by` is who, for the record.
pub enum AlertNow {
    Acknowledge { id: i64, by: Actor, reply: oneshot::Sender<Result<Option<Alert>, StoreError>> },
    Switch { kind: AlertKind, on: bool, by: Actor, reply: oneshot::Sender<Result<(), StoreError>> },
    Test { by: Actor, reply: oneshot::Sender<Result<u16, WebhookFault>> },
}

/// Why the webhook was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookFault {
    #[error("{0}")]
    None(String),
    #[error("{0}")]
    Failed(String),
}

/// A rule that cannot be switched off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` stays on: {}", .0.as_str(), why_on(*.0))]
pub struct StaysOn(AlertKind);

/// More than `{"on": false}`.
pub const LONGEST_ORDER: usize = 1_024;

#[derive(Serialize, ToSchema)]
#[schema(as = AlertRule)]
struct RuleView {
    kind: AlertKind,
    title: &'static str,
    what: &'static str,
    on: bool,
    /// Why it cannot be switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    always: Option<&'static str>,
}

impl RuleView {
    fn of(kind: AlertKind, off: &[AlertKind]) -> Self {
        let (title, what) = words(kind);
        Self { kind, title, what, on: !off.contains(&kind), always: (!kind.may_be_off()).then(|| why_on(kind)) }
    }
}

/// What alerts are raised of, and which of it is switched off
#[utoipa::path(
    get,
    path = "/api/alerts/rules",
    responses((status = 200, description = "The rules", body = [RuleView]))
)]
pub async fn rules(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Result<Response, Problem> {
    let off = web.views.reader.alerts_off().await?;
    Ok(Json(AlertKind::ALL.map(|kind| RuleView::of(kind, &off))).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlertSwitch)]
struct Switch {
    on: bool,
}

/// Switches a rule off or on: one that is off raises nothing
#[utoipa::path(
    patch,
    path = "/api/alerts/rules/{kind}",
    params(("kind" = AlertKind, Path)),
    request_body = Switch,
    responses(
        (status = 200, description = "The rule", body = RuleView),
        (status = 404, description = "There is no such rule"),
        (status = 409, description = "The rule stays on")
    ),
    security(("token" = ["admin"]))
)]
pub async fn switch(
    State(web): State<Web>,
    Named(kind): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Switch { on } = body_of(body, LONGEST_ORDER)?;
    let known = AlertKind::named(&kind).ok_or_else(|| Problem::NoRule(kind.chars().take(64).collect()))?;
    if !on && !known.may_be_off() {
        return Err(StaysOn(known).into());
    }
    ask(&web.views.alert_orders, |reply| AlertNow::Switch { kind: known, on, by, reply }).await??;
    let off = web.views.reader.alerts_off().await?;
    Ok(Json(RuleView::of(known, &off)).into_response())
}

/// Says that an alert is seen to
#[utoipa::path(
    post,
    path = "/api/alerts/{id}/ack",
    params(("id" = i64, Path, description = "The alert's id")),
    responses(
        (status = 200, description = "The alert", body = AlertView),
        (status = 404, description = "There is no such alert")
    ),
    security(("token" = ["admin"]))
)]
pub async fn acknowledge(
    State(web): State<Web>,
    Named(id): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let unknown = || Problem::NoAlert(id.chars().take(64).collect());
    let number = id.parse().map_err(|_| unknown())?;
    let seen = ask(&web.views.alert_orders, |reply| AlertNow::Acknowledge { id: number, by, reply }).await?;
    let alert = seen?.ok_or_else(unknown)?;
    Ok(Json(AlertView::from(&alert)).into_response())
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTest)]
struct TestView {
    status: u16,
}

/// Sends one marked text to the webhook now
#[utoipa::path(
    post,
    path = "/api/alerts/test",
    responses(
        (status = 200, description = "It was taken", body = TestView),
        (status = 409, description = "There is no webhook"),
        (status = 502, description = "It was not taken: `detail` says why")
    ),
    security(("token" = ["admin"]))
)]
pub async fn test(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let status = ask(&web.views.alert_orders, |reply| AlertNow::Test { by, reply }).await??;
    Ok(Json(TestView { status }).into_response())
}

/// What a rule is called, and what it says, for a person.
fn words(kind: AlertKind) -> (&'static str, &'static str) {
    match kind {
        AlertKind::TargetAtRisk => (
            "Target at risk",
            "The running block of a meter has passed its target, or is heading past it for a minute.",
        ),
        AlertKind::MeterSilent => {
            ("Meter silent", "A meter has given no values for a minute, or for five of its intervals.")
        }
        AlertKind::MeterChanged => {
            ("Meter changed", "Another meter answers than before, or it is set up otherwise, and nobody announced it.")
        }
        AlertKind::UpstreamStopped => {
            ("Upstream stopped", "An upstream refuses what it is sent, and a person must act.")
        }
        AlertKind::ReadingsLost => ("Readings lost", "Readings had to go before every upstream had them."),
        AlertKind::AnchorOverdue => ("Anchor overdue", "Nothing new was anchored on the chain, though it was due."),
        AlertKind::AnchorFundsLow => ("Anchor funds low", "The account that pays for anchors lasts less than 14 days."),
        AlertKind::AnchorNonceTaken => {
            ("Anchor key used elsewhere", "Somebody else signs with the key of the anchors.")
        }
        AlertKind::AnchorReorganised => ("Anchor reorganised", "A final anchor is not on the chain any more."),
        AlertKind::ConfigRefused => ("Config refused", "The config on disk has faults, and the last good one runs."),
        AlertKind::ClockUnsteady => ("Clock unsteady", "No block is sealed, since the clock is not to be trusted."),
        AlertKind::StoreFull => ("Store in trouble", "The disk is full or away, or the store cannot be written."),
        AlertKind::LogBeganAnew => {
            ("Log began anew", "The store went back in time or lies on another machine, and has a new epoch.")
        }
    }
}

fn why_on(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::StoreFull => "it tells that readings cannot be kept, and nothing else does while the page is closed",
        AlertKind::LogBeganAnew => "auditors must hear of a log that began anew, whoever runs the gateway",
        AlertKind::ReadingsLost => "what is lost for an upstream cannot be had again, and must not go unseen",
        _ => "it cannot be switched off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_stays_on_says_why() {
        let always: Vec<_> = AlertKind::ALL.into_iter().filter(|kind| !kind.may_be_off()).collect();
        assert_eq!(always, [AlertKind::ReadingsLost, AlertKind::StoreFull, AlertKind::LogBeganAnew]);
        for kind in always {
            let told = StaysOn(kind).to_string();
            assert!(told.contains(kind.as_str()) && !told.contains("cannot be switched off"), "{told}");
        }
    }
}
