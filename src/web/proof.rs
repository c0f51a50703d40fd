//! `GET /api/proof` and `GET /api/bulk/{id}/proof`: what the evidence room proves, streamed.

use std::pin::Pin;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, TryStreamExt as _};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::Web;
use super::problem::Problem;
use super::query::{Asked, Named, instant, one_of_these};
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofAsked {
    meter: Option<String>,
    block: Option<String>,
    from: Option<String>,
    to: Option<String>,
    dataset: Option<String>,
    row: Option<String>,
    format: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormAsked {
    format: Option<String>,
}

pub async fn proof(State(web): State<Web>, Asked(asked): Asked<ProofAsked>) -> Result<Response, Problem> {
    let form = form(asked.format.as_deref())?;
    let claim = asked.claim(&web)?;
    answer(&web, claim, form).await
}

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
    let (reply, answer) = oneshot::channel();
    web.views.proofs.send(ProveNow { claim, form, reply }).await.map_err(|_| Problem::Stopping)?;
    let proof = answer.await.map_err(|_| Problem::Stopping)??;
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
