//! What went wrong, told as problem details (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;

use super::connections::TestFault;
use super::scan::AnotherRuns;
use super::wire::Json;
use crate::model::proof::NotProven;
use crate::model::{AnchorRefused, ExportRefused, MeterId};
use crate::store::StoreError;

/// A request that was not answered as hoped, by what the caller can do. The text is for the person at the screen; the
/// log has the chain.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("give a token as `Authorization: Bearer …`: `meterseal init` printed the first one")]
    NoToken,
    #[error("this token is not known here: it was revoked, or belongs to another store")]
    UnknownToken,
    #[error("this token may not read: it needs the scope `read` or `admin`")]
    Scope,
    #[error("this token may not do that: it needs the scope `admin`")]
    AdminScope,
    #[error("this token may not do that: it needs the scope `export` or `admin`")]
    ExportScope,
    #[error("`{0}` is not an address of this page: use 127.0.0.1, [::1] or localhost")]
    Host(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("parameter `{name}`: {what}")]
    Parameter { name: &'static str, what: String },
    #[error("there is no `{0}` here")]
    NoRoute(String),
    #[error("there is no meter `{0}`: `/api/meters` lists them")]
    NoMeter(String),
    #[error("there is no such part of the log: `/log/` lists its epochs, and the checkpoint of each tells its size")]
    NoTile,
    #[error("meter `{0}` has no running block yet: it needs its first reading")]
    NoBlock(MeterId),
    #[error("there is no export `{0}`: `/api/bulk` lists them")]
    NoJob(String),
    #[error("this export has no bundle: it is {state}{why}")]
    NoBundle { state: &'static str, why: String },
    #[error("the bundle of this export was deleted to make room, or because somebody said so: export it again")]
    BundleGone,
    #[error("the bundle of this export is being downloaded: delete it when that is done")]
    BundleInUse,
    #[error("the bundle of this export cannot be read: see the log of meterseal, and export it again")]
    BundleBroken,
    #[error("that range has nothing of the {0} bytes there are")]
    Range(u64),
    #[error(transparent)]
    Refused(#[from] ExportRefused),
    #[error("this address does not answer this method")]
    Method,
    #[error("the address is longer than {0} bytes: ask for less at a time")]
    TooLong(usize),
    #[error("the body is longer than {0} bytes, or did not come whole")]
    BodyTooLong(usize),
    #[error("{limit} live feeds are open already: close one, or ask again in {again} s")]
    Busy { limit: usize, again: u32 },
    #[error(transparent)]
    AnotherRuns(#[from] AnotherRuns),
    #[error(transparent)]
    Test(#[from] TestFault),
    #[error(transparent)]
    NotProven(#[from] NotProven),
    #[error("there is no anchor `{0}`: `/api/anchor` lists them")]
    NoAnchor(String),
    #[error(transparent)]
    NotAnchored(#[from] AnchorRefused),
    #[error("others have asked for an anchor just now and wait for it: ask again in {again} s")]
    AnchorQueue { again: u32 },
    #[error("the program is stopping")]
    Stopping,
    #[error("the store does not answer now: `/api/health` says more")]
    Store(#[from] StoreError),
}

/// Members of RFC 9457, and the parameter that is wrong.
#[derive(Serialize)]
struct Details {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'static str>,
}

impl Problem {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::UnknownToken => StatusCode::UNAUTHORIZED,
            Self::Scope | Self::AdminScope | Self::ExportScope => StatusCode::FORBIDDEN,
            Self::Test(TestFault::NoConnection(_)) => StatusCode::NOT_FOUND,
            Self::Test(TestFault::Failed(_)) => StatusCode::BAD_GATEWAY,
            Self::NotProven(why) => match why {
                NotProven::NoMeter(_)
                | NotProven::Within { .. }
                | NotProven::NoBlock { .. }
                | NotProven::NoDataset(_)
                | NotProven::NoRow { .. } => StatusCode::NOT_FOUND,
                NotProven::NotSealed { .. } | NotProven::NotExported { .. } => StatusCode::CONFLICT,
                NotProven::Gone(_) | NotProven::OtherOrigin(_) => StatusCode::GONE,
                NotProven::BadRequest(_) | NotProven::OtherGateway { .. } => StatusCode::BAD_REQUEST,
                NotProven::Broken(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::AnotherRuns(_)
            | Self::Test(TestFault::Off(_))
            | Self::NoBundle { .. }
            | Self::BundleInUse
            | Self::NotAnchored(_) => StatusCode::CONFLICT,
            Self::BundleGone => StatusCode::GONE,
            Self::BundleBroken => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::NoJob(_) | Self::NoAnchor(_) => StatusCode::NOT_FOUND,
            Self::Refused(ExportRefused::Full { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_) => StatusCode::BAD_REQUEST,
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::BadRequest(_) | Self::Parameter { .. } => StatusCode::BAD_REQUEST,
            Self::NoRoute(_) | Self::NoMeter(_) | Self::NoTile | Self::NoBlock(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLong(_) => StatusCode::URI_TOO_LONG,
            Self::BodyTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy { .. } | Self::AnchorQueue { .. } | Self::Stopping | Self::Store(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The challenge of RFC 6750: bare when no token came, with the reason when it did not fit.
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoToken => Some(r#"Bearer realm="meterseal""#),
            Self::UnknownToken => Some(r#"Bearer realm="meterseal", error="invalid_token""#),
            Self::Scope => Some(r#"Bearer realm="meterseal", error="insufficient_scope", scope="read""#),
            Self::AdminScope => Some(r#"Bearer realm="meterseal", error="insufficient_scope", scope="admin""#),
            Self::ExportScope => Some(r#"Bearer realm="meterseal", error="insufficient_scope", scope="export""#),
            _ => None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if let Self::Store(cause) = &self {
            error!(error = cause as &dyn std::error::Error, "a request found the store unable to answer");
        }
        let status = self.status();
        let details = Details {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Problem"),
            status: status.as_u16(),
            detail: self.to_string(),
            parameter: if let Self::Parameter { name, .. } = &self { Some(name) } else { None },
        };
        let mut response = (status, Json(details)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        match self {
            Self::Busy { again, .. } | Self::AnchorQueue { again } => {
                drop(headers.insert(header::RETRY_AFTER, again.into()))
            }
            Self::Range(length) => {
                let all = HeaderValue::from_str(&format!("bytes */{length}"));
                all.ok().and_then(|all| headers.insert(header::CONTENT_RANGE, all));
            }
            _ => {}
        }
        response
    }
}
