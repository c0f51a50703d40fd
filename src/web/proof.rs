//! `GET /api/proof` and `GET /api/bulk/{id}/proof`: what the evidence room proves, streamed.

use std::pin::Pin;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, TryStreamExt as _};
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::Web;
use super::ask::ask;
use super::problem::Problem;
use super::query::{Asked, Named, instant, instant_schema, one_of_these};
use crate::model::proof::{Claim, NotProven, ProofForm, ProofTold};
use crate::model::{JobId, MeterId};

/// A proof that somebody waits for.
pub struct ProveNow {
    pub claim: Claim,
    pub form: ProofForm,
    pub reply: oneshot::Sender<Result<ProofText, NotProven>>,
}

/// The text of a proof, which comes in pieces. One that ends by a fault is no proof.
pub struct ProofText {
    pub pieces: Pin<Box<dyn Stream<Item = Result<Vec<u8>, NotProven>> + Send>>,
    pub told: ProofTold,
}

/// What is to be proven: `meter` with `block`, or with `from` and `to`; or `dataset`, perhaps with `row`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProofAsked {
    #[param(value_type = Option<MeterId>)]
    meter: Option<String>,
    /// The start of the block.
    #[param(schema_with = instant_schema)]
    block: Option<String>,
    #[param(schema_with = instant_schema)]
    from: Option<String>,
    #[param(schema_with = instant_schema)]
    to: Option<String>,
    /// The id of the export.
    #[param(value_type = Option<JobId>)]
    dataset: Option<String>,
    /// Counted from 0.
    #[param(value_type = Option<u64>)]
    row: Option<String>,
    #[param(value_type = Option<ProofForm>, inline)]
    format: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FormAsked {
    #[param(value_type = Option<ProofForm>, inline)]
    format: Option<String>,
}

/// A proof that `meterseal verify` checks anywhere
///
/// Give `meter` and `block`; or `meter`, `from` and `to`; or `dataset`, perhaps with `row`.
#[utoipa::path(
    get,
    path = "/api/proof",
    params(ProofAsked),
    responses(
        (status = 200, description = "The proof, to be kept as a file", headers(("Content-Disposition" = String)),
            content((Object = "application/json"), (String = "text/plain; charset=utf-8"))),
        (status = 404, description = "There is no such thing"),
        (status = 409, description = "The block is not sealed yet, or the export not done"),
        (status = 410, description = "The bundle was deleted, or the log began anew under another name")
    )
)]
pub async fn proof(State(web): State<Web>, Asked(asked): Asked<ProofAsked>) -> Result<Response, Problem> {
    let form = form(asked.format.as_deref())?;
    let claim = asked.claim(&web)?;
    answer(&web, claim, form).await
}

/// The proof of an export's bundle, to lie beside it
#[utoipa::path(
    get,
    path = "/api/bulk/{id}/proof",
    params(("id" = JobId, Path, description = "The export's id"), FormAsked),
    responses(
        (status = 200, description = "The proof, to be kept as a file", headers(("Content-Disposition" = String)),
            content((Object = "application/json"), (String = "text/plain; charset=utf-8"))),
        (status = 404, description = "There is no such export"),
        (status = 409, description = "The export is not done"),
        (status = 410, description = "The bundle was deleted, or the log began anew under another name")
    )
)]
pub async fn of_dataset(
    State(web): State<Web>,
    Named(id): Named,
    Asked(asked): Asked<FormAsked>,
) -> Result<Response, Problem> {
    let id =
        id.parse().map_err(|_| Problem::NoRoute(format!("/api/bulk/{}", id.chars().take(40).collect::<String>())))?;
    answer(&web, Claim::Dataset { id }, form(asked.format.as_deref())?).await
}

impl ProofAsked {
    fn claim(&self, web: &Web) -> Result<Claim, Problem> {
        let zone = web.zone();
        let time = |name, text: &str| instant(name, text, &zone, false);
        let Self { meter, block, from, to, dataset, row, .. } = self;
        match (meter, block, from, to, dataset, row) {
            (Some(meter), Some(block), None, None, None, None) => {
                Ok(Claim::Block { meter: id(meter)?, start: time("block", block)? })
            }
            (Some(meter), None, Some(from), Some(to), None, None) => {
                Ok(Claim::Period { meter: id(meter)?, from: time("from", from)?, to: time("to", to)? })
            }
            (None, None, None, None, Some(dataset), None) => Ok(Claim::Dataset { id: job(dataset)? }),
            (None, None, None, None, Some(dataset), Some(row)) => {
                let wrong = |_| Problem::Parameter { name: "row", what: "give the row's number, from 0".into() };
                Ok(Claim::Row { dataset: job(dataset)?, row: row.parse().map_err(wrong)? })
            }
            _ => Err(Problem::BadRequest(
                "say what is to be proven: meter and block (its start), meter and from and to, dataset, or dataset and row"
                    .into(),
            )),
        }
    }
}

fn id(meter: &str) -> Result<MeterId, Problem> {
    meter.parse().map_err(|_| Problem::NoMeter(meter.chars().take(64).collect()))
}

fn job(dataset: &str) -> Result<JobId, Problem> {
    dataset.parse().map_err(|error| Problem::Parameter { name: "dataset", what: format!("{error}") })
}

fn form(text: Option<&str>) -> Result<ProofForm, Problem> {
    let choices = [("json", ProofForm::Json), ("tlog-proof", ProofForm::TlogProof)];
    Ok(one_of_these("format", text, &choices)?.unwrap_or_default())
}

async fn answer(web: &Web, claim: Claim, form: ProofForm) -> Result<Response, Problem> {
    let name = claim.file_name(form);
    let proof = ask(&web.views.proofs, |reply| ProveNow { claim, form, reply }).await??;
    let kind = match form {
        ProofForm::Json => "application/json",
        ProofForm::TlogProof => "text/plain; charset=utf-8",
    };
    // Names have nothing in them that would have to be escaped.
    let disposition = format!("attachment; filename=\"{name}\"");
    // One that fails half way ends the connection without its last chunk, so that no client takes the part for the whole.
    let body = Body::from_stream(proof.pieces.map_ok(Bytes::from));
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, &disposition)], body).into_response())
}
