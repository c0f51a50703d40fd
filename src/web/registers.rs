//! `GET /api/meters/{id}/registers`: one poll of a meter, now, with the raw words of its registers.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::Web;
use super::ask::ask;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing};
use super::wire::{At, Json};
use crate::model::{Identity, MeterId, Origin, PollReport, PolledValue};

/// A poll that somebody waits for.
pub struct RegistersNow {
    pub meter: MeterId,
    pub reply: oneshot::Sender<Result<PollReport, NotRead>>,
}

/// Why there are no registers to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    #[error("meter {0} is being read for somebody already: ask again when that is done")]
    Busy(MeterId),
    #[error("{0}")]
    Silent(String),
    /// It is a sum, or publishes by itself.
    #[error("{0}")]
    NoRegisters(String),
}

#[derive(Serialize, ToSchema)]
#[schema(as = Registers)]
struct RegistersView {
    meter: MeterId,
    time: At,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    identity: Option<Identity>,
    values: Vec<PolledValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    advice: Option<String>,
}

/// Polls a meter now, and shows the raw words of its registers
#[utoipa::path(
    get,
    path = "/api/meters/{id}/registers",
    params(("id" = MeterId, Path, description = "The meter's id")),
    responses(
        (status = 200, description = "What it answered", body = RegistersView),
        (status = 404, description = "There is no such meter"),
        (status = 409, description = "It has no registers to read, or is being read for somebody"),
        (status = 502, description = "It does not answer")
    )
)]
pub async fn registers(
    State(web): State<Web>,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let meter = web.meter(&id)?;
    let why = match meter.origin {
        Origin::Modbus { .. } => None,
        Origin::Mqtt { .. } => Some(format!("meter {id} publishes by itself and cannot be asked")),
        Origin::Simulator => Some(format!("{id} is a simulator and has no registers")),
        Origin::Sum { .. } => Some(format!("{id} is a sum of other meters and has no registers of its own")),
    };
    if let Some(why) = why {
        return Err(NotRead::NoRegisters(why).into());
    }
    let polled = ask(&web.views.registers, |reply| RegistersNow { meter: meter.id, reply }).await?;
    let PollReport { meter, time, identity, values, advice } = polled?;
    Ok(Json(RegistersView { meter, time: At(time), identity, values, advice }).into_response())
}
