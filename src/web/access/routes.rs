//! `/api/session`, `/api/setup` and `/api/access…`: signing in and out, the first PIN, and what an admin changes of it.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::{IntoParams, ToSchema};

use super::session::Session;
use super::{Code, Gate, Guess, Pin, Terms, totp};
use crate::model::{Actor, ClockState, Digest, Timestamp};
use crate::store::{AccessChange, AccessRefused, Role};
use crate::web::Web;
use crate::web::guard::{self, Admin, COOKIE, Sender};
use crate::web::problem::Problem;
use crate::web::query::{Asked, Named, Nothing};
use crate::web::wire::{At, Json};

/// More than a PIN, a code and a name take.
pub const LONGEST_BODY: usize = 2_048;

/// The body as JSON. A value that does not fit is not repeated in the answer: it may be a PIN.
pub fn read_body<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>, example: &str) -> Result<T, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLong(LONGEST_BODY))?;
    serde_json::from_slice(&body).map_err(|_| Problem::BadRequest(format!("the body does not fit: send {example}")))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionView {
    /// Shown once, at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token: Option<String>,
    role: Role,
    /// The name under which the log has what is done.
    name: &'static str,
    expires_at: At,
    idle_s: u64,
    /// For the header `X-CSRF-Token` of a request that changes something and comes by cookie.
    csrf: String,
    /// TOTP is on.
    totp: bool,
}

impl SessionView {
    fn of(web: &Web, session: &Session, token: Option<String>) -> Self {
        Self {
            token,
            role: session.role,
            name: session.role.as_str(),
            expires_at: At(session.expires(web.views.clock.stamp())),
            idle_s: web.views.gate.idle().as_secs(),
            csrf: session.csrf.clone(),
            totp: web.views.reader.access().totp.is_some(),
        }
    }
}

fn signed_in(web: &Web, (session, token): (Session, String)) -> Response {
    let cookie = format!("{COOKIE}={token}; HttpOnly; Secure; SameSite=Strict; Path=/");
    ([(header::SET_COOKIE, cookie)], Json(SessionView::of(web, &session, Some(token)))).into_response()
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignIn {
    pin: String,
    totp: Option<String>,
    recovery: Option<String>,
}

/// Signs in with a PIN
#[utoipa::path(
    post,
    path = "/api/session",
    request_body = SignIn,
    responses(
        (status = 200, description = "The session", body = SessionView,
            headers(("Set-Cookie" = String, description = "The session, for a browser"))),
        (status = 401, description = "That is not the PIN or the code; the `type` `urn:meterseal:totp-required` says that a code is needed too"),
        (status = 429, description = "Too many wrong guesses, or sign-ins: nothing is looked at for `Retry-After` seconds")
    )
)]
pub async fn sign_in(
    State(web): State<Web>,
    Sender(source): Sender,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let SignIn { pin, totp, recovery } = read_body(body, r#"{"pin": "…"}"#)?;
    if web.views.reader.access().pins.is_empty() {
        return Err(Problem::NoPinYet);
    }
    let code = totp.map(Code::Totp).or(recovery.map(Code::Recovery));
    let begun = web.views.gate.sign_in(&source, Guess { pin: Pin::try_from(pin)?, code }).await?;
    Ok(signed_in(&web, begun))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionAsked {
    /// A page that nobody touches asks so: it is no activity.
    peek: Option<String>,
}

/// The session of whoever asks
#[utoipa::path(
    get,
    path = "/api/session",
    params(SessionAsked),
    responses(
        (status = 200, description = "The session", body = SessionView)
    ),
    security(("token" = []))
)]
pub async fn session(
    State(web): State<Web>,
    headers: HeaderMap,
    Asked(asked): Asked<SessionAsked>,
) -> Result<Response, Problem> {
    let session = guard::session_of(&web, &headers, asked.peek.is_none())?;
    Ok(Json(SessionView::of(&web, &session, None)).into_response())
}

/// Signs out
#[utoipa::path(
    delete,
    path = "/api/session",
    responses(
        (status = 204, description = "The session is over",
            headers(("Set-Cookie" = String, description = "Takes the cookie away")))
    ),
    security(("token" = []))
)]
pub async fn sign_out(
    State(web): State<Web>,
    method: Method,
    headers: HeaderMap,
    Sender(source): Sender,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    guard::caller(&web, &method, &headers)?;
    let token = guard::session_token(&headers)?;
    for Session { role, .. } in web.views.gate.end(|session| session.bears(&token)) {
        let actor = Actor { name: role.as_str().to_owned(), source: Some(source.clone()) };
        // It has ended, whether that can be stored or not.
        if let Err(problem) = web.views.gate.ask(AccessChange::SignOut { role }, actor).await {
            warn!("a sign-out could not be put on record: {problem}");
        }
    }
    let gone = format!("{COOKIE}=; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=0");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response())
}

#[derive(Serialize, ToSchema)]
#[schema(as = Setup)]
struct SetupView {
    /// There is no PIN yet.
    needed: bool,
    site: String,
    timezone: String,
    clock: ClockState,
    time: At,
}

/// Whether a PIN is needed, and what time it is here
#[utoipa::path(
    get,
    path = "/api/setup",
    responses(
        (status = 200, description = "What the page asks before anybody can sign in", body = SetupView)
    )
)]
pub async fn setup(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Response {
    let (site, clock) = (web.site(), &web.views.clock);
    let view = SetupView {
        needed: web.views.reader.access().pin(Role::Admin).is_none(),
        site: site.name.clone(),
        timezone: site.timezone.clone(),
        clock: clock.state(),
        time: At(clock.now()),
    };
    Json(view).into_response()
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetUp {
    code: String,
    pin: String,
}

/// Sets the first PIN by the set-up code, and signs in
#[utoipa::path(
    post,
    path = "/api/setup",
    request_body = SetUp,
    responses(
        (status = 200, description = "The session", body = SessionView,
            headers(("Set-Cookie" = String, description = "The session, for a browser"))),
        (status = 401, description = "That is not the set-up code"),
        (status = 409, description = "There is a PIN"),
        (status = 429, description = "Too many wrong guesses, or sign-ins: nothing is looked at for `Retry-After` seconds")
    )
)]
pub async fn set_up(
    State(web): State<Web>,
    Sender(source): Sender,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let SetUp { code, pin } = read_body(body, r#"{"code": "…", "pin": "…"}"#)?;
    let begun = web.views.gate.set_up(&source, &code, Pin::try_from(pin)?).await?;
    Ok(signed_in(&web, begun))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Access)]
struct AccessView {
    pins: PinsView,
    totp: TotpView,
    sessions: Vec<OpenSession>,
    lockouts: Vec<LockoutView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Pins)]
struct PinsView {
    admin: Option<PinView>,
    viewer: Option<PinView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PinSet)]
struct PinView {
    set_at: At,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Totp)]
struct TotpView {
    on: bool,
    recovery_left: usize,
}

#[derive(Serialize, ToSchema)]
struct OpenSession {
    id: String,
    role: Role,
    source: String,
    began: At,
    last_seen: At,
    current: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Lockout)]
struct LockoutView {
    source: String,
    failures: u32,
    /// `null` when the next guess is looked at.
    until: Option<At>,
}

/// PINs, TOTP, sessions and lock-outs
#[utoipa::path(
    get,
    path = "/api/access",
    responses(
        (status = 200, description = "Who may come in, and who is in", body = AccessView)
    )
)]
pub async fn access(
    State(web): State<Web>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let own = guard::session_token(&headers).ok();
    let gate = &web.views.gate;
    let open = gate.with_sessions(|sessions, terms: Terms<'_>| sessions.list(terms)).into_iter().map(|session| {
        let current = own.as_ref().is_some_and(|own| session.bears(own));
        let Session { id, role, source, began, last_seen, .. } = session;
        OpenSession { id, role, source, began: At(began), last_seen: At(last_seen), current }
    });
    let access = web.views.reader.access();
    let pin = |role| access.pin(role).map(|pin| PinView { set_at: At(pin.since) });
    let now = web.views.clock.now();
    let lockouts = gate.shown_lockouts().into_iter().map(|shown| LockoutView {
        source: shown.source,
        failures: shown.failures,
        until: shown.left.map(|left| At(now.plus_millis(i64::try_from(left).unwrap_or(i64::MAX)))),
    });
    let view = AccessView {
        pins: PinsView { admin: pin(Role::Admin), viewer: pin(Role::Viewer) },
        totp: TotpView { on: access.totp.is_some(), recovery_left: access.recovery_left() },
        sessions: open.collect(),
        lockouts: lockouts.collect(),
    };
    Ok(Json(view).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPin {
    role: Role,
    pin: String,
    /// The admin's, who must be there in person.
    current: String,
}

/// Sets a role's PIN; other sessions of that role end
#[utoipa::path(
    put,
    path = "/api/access/pin",
    request_body = NewPin,
    responses(
        (status = 204, description = "It is set"),
        (status = 404, description = "There is no PIN of the admin yet"),
        (status = 429, description = "Too many wrong guesses, or sign-ins: nothing is looked at for `Retry-After` seconds")
    )
)]
pub async fn set_pin(
    State(web): State<Web>,
    headers: HeaderMap,
    Admin(by): Admin,
    Sender(source): Sender,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let NewPin { role, pin, current } =
        read_body(body, r#"{"role": "admin" or "viewer", "pin": "…", "current": "…"}"#)?;
    let gate = &web.views.gate;
    let (pin, current) = (Pin::try_from(pin)?, Pin::try_from(current).map_err(|_| Problem::NotThePin)?);
    pin.choosable()?;
    if web.views.reader.access().pin(Role::Admin).is_none() {
        return Err(AccessRefused::NoPin(Role::Admin).into());
    }
    gate.is_admin(&source, Guess { pin: current, code: None }, false).await?;
    let phc = gate.hashed(pin, role).await?;
    // Before it holds: a session of the old PIN is over at that moment.
    if let Ok(own) = guard::session_token(&headers) {
        gate.keep_session(&own, role, &phc.as_str().into());
    }
    gate.ask(AccessChange::Pin { role, phc }, by).await?;
    info!(role = role.as_str(), "a PIN was set; other sessions of this role have ended");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Revokes the viewer's PIN; sessions of that role end
#[utoipa::path(
    delete,
    path = "/api/access/pin/viewer",
    responses(
        (status = 204, description = "There is none any more"),
        (status = 404, description = "There is none")
    )
)]
pub async fn drop_viewer(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let change = AccessChange::NoPin { role: Role::Viewer };
    web.views.gate.ask(change, by).await?;
    info!("the viewer's PIN was revoked");
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize, ToSchema)]
#[schema(as = TotpProposed)]
struct ProposedView {
    secret: String,
    uri: String,
    qr_svg: String,
}

/// The session of whoever asks, for what no token may do.
fn session_alone(web: &Web, headers: &HeaderMap) -> Result<Digest, Problem> {
    let token = guard::session_token(headers)?;
    web.views.gate.session(&token, true).map(|_| token).ok_or(Problem::NeedsSession)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TotpPropose)]
struct Propose {
    /// The admin's PIN.
    current: String,
}

/// Proposes a TOTP secret to this session
///
/// Nothing holds before a code of it was shown.
#[utoipa::path(
    post,
    path = "/api/access/totp",
    request_body = Propose,
    responses(
        (status = 200, description = "The secret", body = ProposedView),
        (status = 409, description = "TOTP is on"),
        (status = 429, description = "Too many wrong guesses, or sign-ins: nothing is looked at for `Retry-After` seconds")
    )
)]
pub async fn propose_totp(
    State(web): State<Web>,
    headers: HeaderMap,
    _: Admin,
    Sender(source): Sender,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Propose { current } = read_body(body, r#"{"current": "…"}"#)?;
    let token = session_alone(&web, &headers)?;
    if web.views.reader.access().totp.is_some() {
        return Err(AccessRefused::TotpOn.into());
    }
    // Somebody at a page that was left open would lock the admin out.
    let current = Pin::try_from(current).map_err(|_| Problem::NotThePin)?;
    web.views.gate.is_admin(&source, Guess { pin: current, code: None }, false).await?;
    let secret = totp::random_secret().map_err(Problem::random)?;
    web.views.gate.propose(&token, Some(secret.clone()));
    let uri = totp::uri(&secret, &web.site().id);
    let qr_svg = totp::qr_svg(&uri).unwrap_or_default();
    Ok(Json(ProposedView { secret: totp::base32(&secret), uri, qr_svg }).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TotpConfirm)]
struct Confirm {
    code: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RecoveryCodes)]
struct RecoveryView {
    recovery_codes: Vec<String>,
}

/// Switches TOTP on, by a code of the secret that was proposed
#[utoipa::path(
    put,
    path = "/api/access/totp",
    request_body = Confirm,
    responses(
        (status = 200, description = "It is on: these codes do in place of the app, once each", body = RecoveryView),
        (status = 409, description = "No secret was proposed to this session")
    )
)]
pub async fn confirm_totp(
    State(web): State<Web>,
    headers: HeaderMap,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Confirm { code } = read_body(body, r#"{"code": "…"}"#)?;
    let token = guard::session_token(&headers)?;
    let session = web.views.gate.session(&token, true).ok_or(Problem::NeedsSession)?;
    let secret = session.proposed.ok_or(Problem::NothingProposed)?;
    let now = web.views.clock.now();
    let step = totp::step_of(&secret, &code, now, 0).ok_or_else(|| not_the_code(now))?;
    let (recovery_codes, recovery) = recovery_codes().map_err(Problem::random)?;
    web.views.gate.ask(AccessChange::Totp { secret, step, recovery }, by).await?;
    web.views.gate.propose(&token, None);
    info!("TOTP was switched on");
    Ok(Json(RecoveryView { recovery_codes }).into_response())
}

fn not_the_code(now: Timestamp) -> Problem {
    let what = format!("is not the code of now: for this gateway it is {now}, and the phone's clock must agree");
    Problem::Parameter { name: "code", what }
}

/// New recovery codes, and the digests by which they are kept.
pub fn recovery_codes() -> Result<(Vec<String>, Vec<Digest>), getrandom::Error> {
    let codes = (0..totp::RECOVERY_CODES).map(|_| totp::random_code()).collect::<Result<Vec<_>, _>>()?;
    let digests = codes.iter().filter_map(|code| totp::digest_of(code)).collect();
    Ok((codes, digests))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TotpOff)]
struct NoTotp {
    pin: String,
    totp: Option<String>,
    recovery: Option<String>,
}

/// Switches TOTP off
#[utoipa::path(
    delete,
    path = "/api/access/totp",
    request_body = NoTotp,
    responses(
        (status = 204, description = "It is off"),
        (status = 409, description = "It is off already"),
        (status = 429, description = "Too many wrong guesses, or sign-ins: nothing is looked at for `Retry-After` seconds")
    )
)]
pub async fn drop_totp(
    State(web): State<Web>,
    Admin(by): Admin,
    Sender(source): Sender,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let NoTotp { pin, totp, recovery } = read_body(body, r#"{"pin": "…", "totp": "…"}"#)?;
    if web.views.reader.access().totp.is_none() {
        return Err(AccessRefused::TotpOff.into());
    }
    let code = totp.map(Code::Totp).or(recovery.map(Code::Recovery));
    let pin = Pin::try_from(pin).map_err(|_| Problem::NotThePin)?;
    web.views.gate.is_admin(&source, Guess { pin, code }, true).await?;
    web.views.gate.ask(AccessChange::NoTotp, by).await?;
    info!("TOTP was switched off");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Ends a session
#[utoipa::path(
    delete,
    path = "/api/access/sessions/{id}",
    params(("id" = String, Path, description = "The session's id")),
    responses(
        (status = 204, description = "It is over"),
        (status = 404, description = "There is no such session")
    )
)]
pub async fn end_session(
    State(web): State<Web>,
    Admin(by): Admin,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let ended = web.views.gate.end(|session| session.id == id);
    let Some(Session { role, source: of, .. }) = ended.into_iter().next() else {
        return Err(Problem::NoSession(id.chars().take(40).collect()));
    };
    web.views.gate.ask(AccessChange::EndSession { role, of }, by).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl Gate {
    fn shown_lockouts(&self) -> Vec<super::lockout::Shown> {
        super::lock(&self.0.lockouts).shown(self.0.clock.since_boot_ms())
    }

    /// The session that changes its own role's PIN goes on with the new one.
    fn keep_session(&self, token: &Digest, role: Role, pin: &std::sync::Arc<str>) {
        super::lock(&self.0.sessions).keep(token, role, pin);
    }

    fn propose(&self, token: &Digest, secret: Option<Vec<u8>>) {
        self.with_sessions(|sessions, terms| {
            if let Some(session) = sessions.find(token, true, terms) {
                session.proposed = secret;
            }
        });
    }
}
