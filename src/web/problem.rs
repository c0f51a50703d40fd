//! What went wrong, told as problem details (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use super::access::PinRefused;
use super::access::pin::BadPin;
use super::alert_rules::{StaysOn, WebhookFault};
use super::connections::TestFault;
use super::edits::{ConfigFault, EditRefused};
use super::registers::NotRead;
use super::scan::AnotherRuns;
use super::wire::Json;
use crate::model::proof::NotProven;
use crate::model::{AnchorRefused, ExportRefused, MeterId, Timestamp, UpstreamRefused};
use crate::store::{AccessRefused, StoreError};

/// A request that was not answered as hoped, by what the caller can do. The text is for the person at the screen; the
/// log has the chain.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("sign in, or give a token as `Authorization: Bearer …`: `meterseal token create` makes one")]
    NoToken,
    #[error("this session is over: sign in again")]
    SessionOver,
    #[error("a viewer may not do that: sign in with the admin's PIN")]
    Viewer,
    #[error("the header `X-CSRF-Token` is not that of this session: reload the page")]
    Csrf,
    #[error("the request comes from a page elsewhere")]
    Origin,
    #[error(
        "no PIN is set yet: open the page and set one with the set-up code of the journal, or run `meterseal pin set`"
    )]
    NoPinYet,
    #[error("that is not the PIN")]
    WrongPin,
    #[error("that is not the code, or it was used before; for this gateway it is {0}")]
    WrongCode(Timestamp),
    #[error("the code of the authenticator app is needed as well, as `totp`, or a recovery code, as `recovery`")]
    CodeNeeded,
    #[error("that is not the set-up code: the journal has it (`journalctl -u meterseal`), a new one with each start")]
    WrongSetupCode,
    /// Of somebody who is signed in, and stays so.
    #[error("`current` is not the admin's PIN")]
    NotThePin,
    #[error("the admin's PIN and the code of the authenticator app, or a recovery code, are needed for that")]
    NotTheCode,
    #[error("too many wrong guesses: wait {again} s; nothing is looked at until then")]
    LockedOut { again: u32 },
    #[error(
        "this role has signed in too often: wait {again} s, and use one session, or a token (`meterseal token create`)"
    )]
    TooManySignIns { again: u32 },
    #[error("others are signing in just now: ask again in {again} s")]
    SignInQueue { again: u32 },
    #[error(transparent)]
    Access(#[from] AccessRefused),
    #[error(transparent)]
    Pin(#[from] PinRefused),
    #[error("a token cannot do that: sign in with the admin's PIN")]
    NeedsSession,
    #[error("no secret was proposed to this session: begin with `POST /api/access/totp`")]
    NothingProposed,
    #[error("there is no session `{0}`: `/api/access` lists them")]
    NoSession(String),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    #[error("this token is not known here: it was revoked, or belongs to another store")]
    UnknownToken,
    #[error("this token may not read: it needs the scope `read` or `admin`")]
    Scope,
    #[error("this token may not do that: it needs the scope `admin`")]
    AdminScope,
    #[error("this token may not do that: it needs the scope `export` or `admin`")]
    ExportScope,
    #[error("`{0}` is no name of this gateway: use its address, its host name, or a name of its certificate")]
    Host(String),
    #[error("too many requests come from your address: ask again in {again} s")]
    TooMany { again: u32 },
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
    #[error("this address is a WebSocket's: ask it to upgrade")]
    NoUpgrade,
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
    #[error("there is no alert `{0}`: `/api/alerts` lists them")]
    NoAlert(String),
    #[error("there is no alert rule `{0}`: `/api/alerts/rules` lists them")]
    NoRule(String),
    #[error(transparent)]
    StaysOn(#[from] StaysOn),
    #[error(transparent)]
    NotRead(#[from] NotRead),
    #[error(transparent)]
    Edit(#[from] EditRefused),
    #[error(transparent)]
    Webhook(#[from] WebhookFault),
    #[error("there is no query `{0}`: `/api/queries` lists them")]
    NoQuery(String),
    #[error("there is no anchor `{0}`: `/api/anchor` lists them")]
    NoAnchor(String),
    #[error(transparent)]
    NotAnchored(#[from] AnchorRefused),
    #[error("others have asked for an anchor just now and wait for it: ask again in {again} s")]
    AnchorQueue { again: u32 },
    #[error(transparent)]
    Upstream(#[from] UpstreamRefused),
    #[error("others have asked something of the upstreams just now: ask again in {again} s")]
    UpstreamQueue { again: u32 },
    #[error("the program is stopping")]
    Stopping,
    #[error("the store does not answer now: `/api/health` says more")]
    Store(#[from] StoreError),
}

/// Members of RFC 9457, and the parameter that is wrong.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Details<'p> {
    /// `about:blank`, or a URN where a program must tell one problem of a status from another.
    r#type: &'static str,
    title: &'static str,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// For a person.
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameter: Option<&'static str>,
    /// All that is wrong with a config.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    faults: Option<&'p [ConfigFault]>,
    /// Where somebody else must write `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<&'p str>,
}

impl From<BadPin> for Problem {
    fn from(bad: BadPin) -> Self {
        Self::Pin(bad.into())
    }
}

impl Problem {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoToken
            | Self::UnknownToken
            | Self::SessionOver
            | Self::WrongPin
            | Self::WrongCode(_)
            | Self::CodeNeeded
            | Self::WrongSetupCode => StatusCode::UNAUTHORIZED,
            Self::Scope
            | Self::AdminScope
            | Self::ExportScope
            | Self::Viewer
            | Self::Csrf
            | Self::Origin
            | Self::NoPinYet
            | Self::NotThePin
            | Self::NeedsSession
            | Self::NotTheCode => StatusCode::FORBIDDEN,
            Self::LockedOut { .. } | Self::TooManySignIns { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Access(AccessRefused::NoPin(_) | AccessRefused::NoToken(_)) | Self::NoSession(_) => {
                StatusCode::NOT_FOUND
            }
            Self::Access(_) | Self::NothingProposed => StatusCode::CONFLICT,
            Self::Pin(PinRefused::Hash(_)) | Self::Random(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Pin(_) => StatusCode::BAD_REQUEST,
            Self::Test(TestFault::NoConnection(_)) => StatusCode::NOT_FOUND,
            Self::Test(TestFault::Failed(_))
            | Self::Webhook(WebhookFault::Failed(_))
            | Self::NotRead(NotRead::Silent(_)) => StatusCode::BAD_GATEWAY,
            Self::NotProven(why) => match why {
                NotProven::NoMeter(_)
                | NotProven::Within { .. }
                | NotProven::NoBlock { .. }
                | NotProven::NoDataset(_)
                | NotProven::Simulated(_)
                | NotProven::NoRow { .. } => StatusCode::NOT_FOUND,
                NotProven::NotSealed { .. } | NotProven::NoneSealed(_) | NotProven::NotExported { .. } => {
                    StatusCode::CONFLICT
                }
                NotProven::Gone(_) | NotProven::OtherOrigin(_) => StatusCode::GONE,
                NotProven::BadRequest(_) | NotProven::OtherGateway { .. } => StatusCode::BAD_REQUEST,
                NotProven::Broken(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Edit(refused) => match refused {
                EditRefused::Unknown(_) => StatusCode::NOT_FOUND,
                EditRefused::Conflict(_) | EditRefused::Unwritable { .. } => StatusCode::CONFLICT,
                EditRefused::Faulty(_) | EditRefused::Faults(_) => StatusCode::BAD_REQUEST,
                EditRefused::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::AnotherRuns(_)
            | Self::Test(TestFault::Off(_))
            | Self::NoBundle { .. }
            | Self::BundleInUse
            | Self::NotAnchored(_)
            | Self::StaysOn(_)
            | Self::NotRead(NotRead::Busy(_) | NotRead::NoRegisters(_))
            | Self::Webhook(WebhookFault::None(_))
            | Self::Upstream(UpstreamRefused::Off(_)) => StatusCode::CONFLICT,
            Self::BundleGone => StatusCode::GONE,
            Self::BundleBroken => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::NoJob(_)
            | Self::NoQuery(_)
            | Self::NoAnchor(_)
            | Self::NoAlert(_)
            | Self::NoRule(_)
            | Self::Upstream(_) => StatusCode::NOT_FOUND,
            Self::Refused(ExportRefused::Full { .. }) | Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_) => StatusCode::BAD_REQUEST,
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::BadRequest(_) | Self::Parameter { .. } => StatusCode::BAD_REQUEST,
            Self::NoRoute(_) | Self::NoMeter(_) | Self::NoTile | Self::NoBlock(_) => StatusCode::NOT_FOUND,
            Self::NoUpgrade => StatusCode::UPGRADE_REQUIRED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLong(_) => StatusCode::URI_TOO_LONG,
            Self::BodyTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy { .. }
            | Self::AnchorQueue { .. }
            | Self::UpstreamQueue { .. }
            | Self::SignInQueue { .. }
            | Self::Stopping
            | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// That what the system gives no random numbers for cannot be made.
    pub fn random(error: getrandom::Error) -> Self {
        Self::Random(error.to_string())
    }

    /// What a program can tell the problem by, where the status alone does not say it.
    fn kind(&self) -> &'static str {
        match self {
            Self::CodeNeeded => "urn:meterseal:totp-required",
            _ => "about:blank",
        }
    }

    /// The parameter, or the member of the body, that is wrong.
    fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::Parameter { name, .. } => Some(name),
            Self::Pin(PinRefused::Bad(_) | PinRefused::OtherRole) => Some("pin"),
            _ => None,
        }
    }

    /// When to ask again.
    fn again(&self) -> Option<u32> {
        match self {
            Self::Busy { again, .. }
            | Self::TooMany { again }
            | Self::AnchorQueue { again }
            | Self::UpstreamQueue { again }
            | Self::LockedOut { again }
            | Self::TooManySignIns { again }
            | Self::SignInQueue { again } => Some(*again),
            _ => None,
        }
    }

    /// The challenge of RFC 6750: bare when no token came, with the reason when it did not fit.
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoToken
            | Self::SessionOver
            | Self::WrongPin
            | Self::WrongCode(_)
            | Self::CodeNeeded
            | Self::WrongSetupCode => Some(r#"Bearer realm="meterseal""#),
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
        if let Self::Store(cause) | Self::Edit(EditRefused::Store(cause)) = &self {
            error!(error = cause as &dyn std::error::Error, "a request found the store unable to answer");
        }
        let status = self.status();
        let unwritten = match &self {
            Self::Edit(EditRefused::Unwritable { path, text, .. }) => Some((path.as_str(), text.as_str())),
            _ => None,
        };
        let details = Details {
            r#type: self.kind(),
            title: status.canonical_reason().unwrap_or("Problem"),
            status: status.as_u16(),
            detail: self.to_string(),
            parameter: self.parameter(),
            faults: if let Self::Edit(EditRefused::Faults(faults)) = &self { Some(faults) } else { None },
            path: unwritten.map(|(path, _)| path),
            text: unwritten.map(|(_, text)| text),
        };
        let mut response = (status, Json(details)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(again) = self.again() {
            headers.insert(header::RETRY_AFTER, again.into());
        }
        if let Self::Range(length) = self {
            let all = HeaderValue::from_str(&format!("bytes */{length}"));
            all.ok().and_then(|all| headers.insert(header::CONTENT_RANGE, all));
        }
        response
    }
}
