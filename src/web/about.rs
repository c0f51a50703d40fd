//! `GET /api/about`: what runs here, and since when.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Web;
use super::health::store_health;
use super::problem::Problem;
use super::query::{Asked, Nothing};
use super::wire::{At, Json};

#[derive(Serialize, ToSchema)]
#[schema(as = About)]
pub struct AboutView {
    version: &'static str,
    started: At,
    uptime_s: u64,
    gateway: String,
    epoch: String,
    site: SiteView,
    store: Sizes,
    /// Where the licences of what it is made of are.
    licences: &'static str,
    /// Of the certificate; none where there is no TLS.
    fingerprint: Option<String>,
    /// More of the certificate; none where there is no TLS.
    certificate: Option<CertificateView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Certificate)]
struct CertificateView {
    self_signed: bool,
    /// The names that it is for, without addresses.
    names: Vec<String>,
    until: Option<At>,
    /// What a person must see to.
    problem: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AboutSite)]
struct SiteView {
    id: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = StoreSizes)]
struct Sizes {
    raw_bytes: u64,
    evidence_bytes: u64,
    free_bytes: u64,
    /// Since start.
    written_bytes: u64,
}

/// What runs here, and since when
#[utoipa::path(
    get,
    path = "/api/about",
    responses(
        (status = 200, description = "What runs here", body = AboutView)
    )
)]
pub async fn about(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Result<Response, Problem> {
    Ok(Json(view(&web).await?).into_response())
}

pub async fn view(web: &Web) -> Result<AboutView, Problem> {
    let (store, identity, site) = (store_health(web).await?, web.views.reader.identity(), web.site());
    let (started, started_ms) = web.views.started;
    let certificate = web.views.certificate.status().borrow().clone();
    Ok(AboutView {
        version: env!("CARGO_PKG_VERSION"),
        started: At(started),
        // A clock that was set meanwhile makes nothing younger.
        uptime_s: web.views.clock.since_boot_ms().saturating_sub(started_ms) / 1_000,
        gateway: identity.gateway.clone(),
        epoch: identity.epoch.clone(),
        site: SiteView { id: site.id.clone(), name: site.name.clone() },
        store: Sizes {
            raw_bytes: store.raw_bytes,
            evidence_bytes: store.evidence_bytes,
            free_bytes: store.free_bytes,
            written_bytes: store.written_bytes,
        },
        licences: "/licences.txt",
        certificate: certificate.fingerprint.is_some().then(|| CertificateView {
            self_signed: certificate.self_signed,
            names: certificate.names,
            until: certificate.until.map(At),
            problem: certificate.problem,
        }),
        fingerprint: certificate.fingerprint,
    })
}
