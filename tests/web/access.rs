//! Signing in as a browser and a program meet it: sessions, roles, CSRF, lock-outs, TOTP, the set-up code and tokens.

use std::time::Duration;

use meterseal::agent::access::{AccessDone, AccessOrder};
use meterseal::model::{Digest, Timestamp};
use meterseal::store::{AccessChange, Role};
use meterseal::web::totp;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::plant::{Answer, Plant};
use crate::{PATIENCE, assert_problem};

const ADMIN: &str = "482915";
const VIEWER: &str = "7093158264";

/// Somebody who has signed in.
struct Signed {
    told: Value,
    cookie: String,
}

impl Signed {
    async fn on(plant: &Plant, body: Value) -> Self {
        Self::of(&post(plant, "/api/session", body).await)
    }

    fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.text);
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        Self { told: answer.json(), cookie }
    }

    fn text(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    /// As a browser asks that has the cookie.
    fn get(&self, plant: &Plant, path: &str) -> RequestBuilder {
        plant.request(path).header("cookie", &self.cookie)
    }

    /// As the page asks for a change.
    fn by(&self, plant: &Plant, method: &str, path: &str, body: Value) -> RequestBuilder {
        let request = plant.by(method, path).header("cookie", &self.cookie).header("x-csrf-token", self.text("csrf"));
        request.header("origin", plant.url("")).body(body.to_string())
    }

    async fn lives(&self, plant: &Plant) -> bool {
        match plant.send(self.get(plant, "/api/session?peek")).await.status {
            200 => true,
            401 => false,
            other => panic!("{other}"),
        }
    }
}

async fn post(plant: &Plant, path: &str, body: Value) -> Answer {
    plant.send(plant.by("POST", path).body(body.to_string())).await
}

async fn with_pins() -> Plant {
    let plant = Plant::start().await;
    plant.set_pin(Role::Admin, ADMIN).await;
    plant.set_pin(Role::Viewer, VIEWER).await;
    plant
}

async fn actions(plant: &Plant) -> Vec<String> {
    let entries = plant.get("/api/audit").await;
    entries.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_opens_a_session_by_cookie_and_by_its_token() {
    let plant = with_pins().await;
    let answer = post(&plant, "/api/session", json!({ "pin": ADMIN })).await;
    let cookie = answer.header("set-cookie").to_owned();
    assert!(
        cookie.starts_with("meterseal_session=") && cookie.ends_with("; HttpOnly; Secure; SameSite=Strict; Path=/")
    );
    let admin = Signed::of(&answer);
    assert_eq!((&admin.told["role"], &admin.told["idle_s"]), (&json!("admin"), &json!(900)));
    assert_eq!(admin.text("expires_at"), "2026-11-21T19:18:12.000Z");
    let told = plant.send(admin.get(&plant, "/api/session")).await.json();
    let expected = json!({
        "role": "admin", "name": "admin", "expires_at": "2026-11-21T19:18:12.000Z", "idle_s": 900,
        "csrf": admin.told["csrf"], "totp": false,
    });
    assert_eq!(told, expected);
    assert_eq!(plant.send(plant.request("/api/meters").bearer_auth(admin.text("token"))).await.status, 200);
    let out = plant.send(admin.by(&plant, "DELETE", "/api/session", json!(null))).await;
    assert_eq!(out.status, 204);
    assert!(
        out.header("set-cookie").starts_with("meterseal_session=;") && out.header("set-cookie").contains("Max-Age=0")
    );
    assert!(!admin.lives(&plant).await);
    assert_problem(&plant.send(plant.request("/api/meters").bearer_auth(admin.text("token"))).await, 401);
    assert_eq!(actions(&plant).await[..2], ["sign-out", "sign-in"]);
    let entries = plant.get("/api/audit?limit=1").await;
    assert_eq!((&entries[0]["by"], &entries[0]["source"]), (&json!("admin"), &json!("loopback")));
    let before = entries[0]["id"].as_str().unwrap();
    let older = plant.get(&format!("/api/audit?limit=1&before={before}")).await;
    assert_eq!(
        (&older[0]["action"], &older[0]["detail"]),
        (&json!("sign-in"), &json!({ "role": "admin", "second": null }))
    );
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_reads_and_changes_nothing() {
    let plant = with_pins().await;
    let viewer = Signed::on(&plant, json!({ "pin": VIEWER })).await;
    assert_eq!(viewer.told["role"], "viewer");
    for path in ["/api/meters", "/api/bulk", "/metrics", "/api/connections"] {
        assert_eq!(plant.send(viewer.get(&plant, path)).await.status, 200, "{path}");
    }
    for (method, path) in [
        ("GET", "/api/access"),
        ("GET", "/api/tokens"),
        ("POST", "/api/tokens"),
        ("GET", "/api/audit"),
        ("PUT", "/api/access/pin"),
        ("POST", "/api/access/totp"),
        ("POST", "/api/scan"),
        ("POST", "/api/anchor"),
        ("POST", "/api/bulk"),
        ("POST", "/api/upstream/cloud/flush"),
        ("POST", "/api/connections/historian/test"),
    ] {
        let answer = plant.send(viewer.by(&plant, method, path, json!({}))).await;
        let problem = assert_problem(&answer, 403);
        assert!(problem["detail"].as_str().unwrap().contains("viewer"), "{method} {path}: {problem}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_page_cannot_have_a_browser_change_something() {
    let plant = with_pins().await;
    let admin = Signed::on(&plant, json!({ "pin": ADMIN })).await;
    let delete = || plant.by("DELETE", "/api/access/pin/viewer").header("cookie", &admin.cookie);
    let csrf = admin.text("csrf");
    for (request, told) in [
        (delete(), "X-CSRF-Token"),
        (delete().header("x-csrf-token", ""), "X-CSRF-Token"),
        (delete().header("x-csrf-token", &csrf[1..]), "X-CSRF-Token"),
        (delete().header("x-csrf-token", csrf).header("origin", "https://elsewhere.example"), "elsewhere"),
        (delete().header("x-csrf-token", csrf).header("origin", "null"), "elsewhere"),
        (delete().header("x-csrf-token", csrf).header("origin", "http://127.0.0.1:1"), "elsewhere"),
    ] {
        let problem = assert_problem(&plant.send(request).await, 403);
        assert!(problem["detail"].as_str().unwrap().contains(told), "{problem}");
    }
    // Nor have it sign in as somebody else.
    let body = json!({ "pin": VIEWER }).to_string();
    let elsewhere = plant.by("POST", "/api/session").header("origin", "https://elsewhere.example").body(body);
    assert_problem(&plant.send(elsewhere).await, 403);
    // A proxy of the config's name that asks under another one.
    let body = json!({ "pin": ADMIN }).to_string();
    let proxied = plant.by("POST", "/api/session").header("origin", "https://proxy.example").body(body);
    assert_eq!(plant.send(proxied).await.status, 200);
    let here = delete().header("x-csrf-token", csrf).header("origin", plant.url(""));
    assert_eq!(plant.send(here).await.status, 204);
    // Who sends the token in the header was not sent by a page.
    plant.set_pin(Role::Viewer, VIEWER).await;
    let program = plant.by("DELETE", "/api/access/pin/viewer").bearer_auth(admin.text("token"));
    assert_eq!(plant.send(program).await.status, 204);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_nobody_uses_it_and_a_glance_is_no_use() {
    let plant = with_pins().await;
    let (used, idle) =
        (Signed::on(&plant, json!({ "pin": ADMIN })).await, Signed::on(&plant, json!({ "pin": ADMIN })).await);
    let peeks = |signed: &Signed| signed.get(&plant, "/api/meters").header("x-peek", "1");
    for _ in 0..3 {
        plant.clock.advance(Duration::from_secs(400));
        assert_eq!(plant.send(used.get(&plant, "/api/meters")).await.status, 200);
        plant.send(peeks(&idle)).await;
    }
    assert!(used.lives(&plant).await && !idle.lives(&plant).await);
    // A clock that is set back prolongs nothing.
    plant.clock.step_to(Timestamp::from_millis(0));
    plant.clock.advance(Duration::from_secs(900));
    assert!(!used.lives(&plant).await);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_ends_with_its_session_or_token() {
    let plant = with_pins().await;
    let AccessDone::Token { token, .. } =
        plant.order(AccessOrder::Token { name: "wall".into(), scope: meterseal::store::Scope::Read }).await
    else {
        panic!("no token")
    };
    let admin = Signed::on(&plant, json!({ "pin": ADMIN })).await;
    let mut by_cookie = admin.get(&plant, "/api/events").send().await.unwrap();
    let mut by_token = plant.request("/api/events").bearer_auth(&token).send().await.unwrap();
    plant.send(admin.by(&plant, "DELETE", "/api/session", json!(null))).await;
    plant.order(AccessOrder::NoToken { name: "wall".into() }).await;
    for feed in [&mut by_cookie, &mut by_token] {
        let mut text = String::new();
        while let Some(part) = timeout(PATIENCE, feed.chunk()).await.unwrap().unwrap() {
            text += &String::from_utf8_lossy(&part);
        }
        assert!(text.contains("event: hello") && text.contains("event: end\ndata: {\"reason\":\""), "{text}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_guesses_lock_out_also_after_a_restart_and_are_told_once() {
    let plant = with_pins().await;
    let guess = |pin: &str| json!({ "pin": pin });
    for _ in 0..3 {
        assert_problem(&post(&plant, "/api/session", guess("900001")).await, 401);
    }
    let locked = post(&plant, "/api/session", guess(ADMIN)).await;
    assert_problem(&locked, 429);
    assert_eq!(locked.header("retry-after"), "30", "the right PIN is not looked at");
    // What anybody can write into a header makes nobody another.
    let forged = plant.by("POST", "/api/session").body(guess(ADMIN).to_string());
    let forged = forged.header("x-forwarded-for", "192.0.2.9").header("forwarded", "for=192.0.2.9");
    assert_eq!(plant.send(forged).await.status, 429);
    let shown = plant.get("/api/access").await;
    let lockout = json!({ "source": "loopback", "failures": 3, "until": "2026-11-21T07:18:42.000Z" });
    assert_eq!(shown["lockouts"], json!([lockout]));
    // A clock that leaps ends no wait.
    plant.clock.step_to(Timestamp::from_millis(4_000_000_000_000));
    assert_eq!(post(&plant, "/api/session", guess(ADMIN)).await.status, 429);

    let plant = plant.restart_daemon().await;
    let locked = post(&plant, "/api/session", guess(ADMIN)).await;
    assert_eq!((locked.status, locked.header("retry-after")), (429, "30"));
    plant.clock.advance(Duration::from_secs(30));
    assert_problem(&post(&plant, "/api/session", guess("900002")).await, 401);
    assert_eq!(post(&plant, "/api/session", guess(ADMIN)).await.header("retry-after"), "60");
    plant.clock.advance(Duration::from_secs(60));
    let admin = Signed::on(&plant, guess(ADMIN)).await;
    let told = actions(&plant).await;
    let refused: Vec<_> = told.iter().filter(|action| *action == "sign-in-refused").collect();
    assert!(refused.len() <= 3 && told[0] == "sign-in", "{told:?}");
    let entries = plant.get("/api/audit").await;
    let guesses = entries.as_array().unwrap().iter().filter(|entry| entry["action"] == "sign-in-refused");
    let guesses: u64 = guesses.map(|entry| entry["detail"]["guesses"].as_u64().unwrap()).sum();
    assert_eq!(guesses, 4, "{entries:#}");
    let shown = plant.send(admin.get(&plant, "/api/access")).await.json();
    assert_eq!((&shown["lockouts"], &shown["sessions"][0]["current"]), (&json!([]), &json!(true)));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_as_fast_as_can_be_gets_a_handful_of_guesses_in_an_hour() {
    let plant = with_pins().await;
    let before = plant.store.reader().audit(None, 500).await.unwrap().len();
    let (mut looked_at, mut refused) = (0, 0);
    for second in 0..360_u32 {
        let answer = post(&plant, "/api/session", json!({ "pin": format!("{:06}", 900_000 + second) })).await;
        match answer.status {
            401 => looked_at += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
        plant.clock.advance(Duration::from_secs(10));
    }
    assert!((8..=10).contains(&looked_at) && refused > 300, "{looked_at} looked at, {refused} refused");
    let told = plant.store.reader().audit(None, 500).await.unwrap().len() - before;
    assert!(told <= 3, "{told} entries of the log");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_signs_in_gets_no_more_guesses_at_the_other_pin() {
    let plant = with_pins().await;
    for _ in 0..2 {
        assert_eq!(post(&plant, "/api/session", json!({ "pin": "900001" })).await.status, 401);
        Signed::on(&plant, json!({ "pin": VIEWER })).await;
    }
    assert_eq!(post(&plant, "/api/session", json!({ "pin": "900001" })).await.status, 401);
    assert_eq!(post(&plant, "/api/session", json!({ "pin": VIEWER })).await.status, 429);
    plant.end().await;
}

/// The code of a secret at the plant's time.
fn code_of(plant: &Plant, secret: &str) -> String {
    let secret = totp::from_base32(secret).unwrap();
    let now = plant.clock.now();
    (0..1_000_000)
        .map(|code| format!("{code:06}"))
        .find(|code| totp::step_of(&secret, code, now, now_step(now) - 1) == Some(now_step(now)))
        .unwrap()
}

fn now_step(now: Timestamp) -> u64 {
    u64::try_from(now.as_millis() / 30_000).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn totp_is_asked_of_the_admin_and_each_code_opens_once() {
    let plant = with_pins().await;
    let admin = Signed::on(&plant, json!({ "pin": ADMIN })).await;
    let change = async |method, body| plant.send(admin.by(&plant, method, "/api/access/totp", body)).await;
    assert_problem(&change("PUT", json!({ "code": "123456" })).await, 409);
    // Whoever finds the page open cannot lock the admin out, and no token can.
    assert_problem(&change("POST", json!({ "current": VIEWER })).await, 403);
    let body = json!({ "current": ADMIN }).to_string();
    let by_token = plant.by("POST", "/api/access/totp").bearer_auth(&plant.token).body(body);
    let refused = assert_problem(&plant.send(by_token).await, 403);
    assert!(refused["detail"].as_str().unwrap().contains("a token cannot do that"), "{refused}");
    let proposed = change("POST", json!({ "current": ADMIN })).await.json();
    assert!(proposed["uri"].as_str().unwrap().starts_with("otpauth://totp/meterseal:plant-7?secret="));
    assert!(proposed["qr_svg"].as_str().unwrap().starts_with("<svg "));
    let secret = proposed["secret"].as_str().unwrap();
    assert_problem(&change("PUT", json!({ "code": "12345" })).await, 400);
    // Nothing holds before it is confirmed.
    Signed::on(&plant, json!({ "pin": ADMIN })).await;
    let code = code_of(&plant, secret);
    let confirmed = change("PUT", json!({ "code": code })).await.json();
    let recovery = confirmed["recovery_codes"].as_array().unwrap();
    assert_eq!(recovery.len(), 10);

    let needed = post(&plant, "/api/session", json!({ "pin": ADMIN })).await;
    assert_eq!((needed.status, &needed.json()["type"]), (401, &json!("urn:meterseal:totp-required")));
    let used = post(&plant, "/api/session", json!({ "pin": ADMIN, "totp": code })).await;
    assert_problem(&used, 401);
    plant.clock.advance(Duration::from_secs(30));
    let next = code_of(&plant, secret);
    let signed = Signed::on(&plant, json!({ "pin": ADMIN, "totp": next })).await;
    assert_eq!(signed.told["totp"], true);
    Signed::on(&plant, json!({ "pin": VIEWER })).await;
    Signed::on(&plant, json!({ "pin": ADMIN, "recovery": recovery[3] })).await;

    let plant = plant.restart_daemon().await;
    for again in [json!({ "pin": ADMIN, "totp": next }), json!({ "pin": ADMIN, "recovery": recovery[3] })] {
        assert_problem(&post(&plant, "/api/session", again).await, 401);
    }
    let admin = Signed::on(&plant, json!({ "pin": ADMIN, "recovery": recovery[4] })).await;
    let change = async |method, body| plant.send(admin.by(&plant, method, "/api/access/totp", body)).await;
    let shown = plant.send(admin.get(&plant, "/api/access")).await.json();
    assert_eq!(shown["totp"], json!({ "on": true, "recovery_left": 8 }));
    assert_problem(&change("POST", json!({ "current": ADMIN })).await, 409);
    assert_problem(&change("DELETE", json!({ "pin": ADMIN })).await, 403);
    assert!(admin.lives(&plant).await);
    let off = change("DELETE", json!({ "pin": ADMIN, "recovery": recovery[5] })).await;
    assert_eq!(off.status, 204, "{}", off.text);
    Signed::on(&plant, json!({ "pin": ADMIN })).await;
    assert_problem(&change("DELETE", json!({ "pin": ADMIN })).await, 409);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_pin_is_set_with_the_code_of_the_journal() {
    let plant = Plant::start().await;
    let setup = plant.send(plant.request("/api/setup")).await.json();
    let expected = json!({
        "needed": true, "site": "Shah Alam plant", "timezone": "Asia/Kuala_Lumpur", "clock": "synchronised",
        "time": "2026-11-21T07:18:12.000Z",
    });
    assert_eq!(setup, expected);
    assert_problem(&post(&plant, "/api/session", json!({ "pin": ADMIN })).await, 403);
    // The code that was told is not kept; this one is in its place.
    let code = totp::random_code().unwrap();
    let actor = meterseal::model::Actor::here("test");
    let digest = totp::digest_of(&code).unwrap();
    plant.store.ledger().change_access(AccessChange::SetupCode { code: digest }, actor).await.unwrap().unwrap();
    let set_up = async |code: &str, pin: &str| post(&plant, "/api/setup", json!({ "code": code, "pin": pin })).await;
    assert_problem(&set_up("AAAAA-AAAAA", ADMIN).await, 401);
    let weak = assert_problem(&set_up(&code, "123456").await, 400);
    assert_eq!(weak["parameter"], "pin");
    assert_problem(&set_up(&code, "12345").await, 400);
    let admin = Signed::of(&set_up(&code.to_lowercase(), ADMIN).await);
    assert_eq!(admin.told["role"], "admin");
    assert!(admin.lives(&plant).await);
    assert_problem(&set_up(&code, "593817").await, 409);
    assert_eq!(plant.send(plant.request("/api/setup")).await.json()["needed"], false);
    assert_eq!(actions(&plant).await, ["sign-in", "set-up", "sign-in-refused"]);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_the_set_up_code_lock_out_as_well() {
    let plant = Plant::start().await;
    let guess = async || post(&plant, "/api/setup", json!({ "code": "AAAAA-AAAAA", "pin": ADMIN })).await.status;
    assert_eq!([guess().await, guess().await, guess().await, guess().await], [401, 401, 401, 429]);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_pin_ends_the_other_sessions_of_its_role() {
    let plant = with_pins().await;
    let mine = Signed::on(&plant, json!({ "pin": ADMIN })).await;
    let other = Signed::on(&plant, json!({ "pin": ADMIN })).await;
    let viewer = Signed::on(&plant, json!({ "pin": VIEWER })).await;
    let put = async |body: Value| plant.send(mine.by(&plant, "PUT", "/api/access/pin", body)).await;
    for (pin, current, status) in [
        ("593817", VIEWER, 403),
        ("593817", "900001", 403),
        ("777777", ADMIN, 400),
        (VIEWER, ADMIN, 400),
        ("x", ADMIN, 400),
    ] {
        assert_problem(&put(json!({ "role": "admin", "pin": pin, "current": current })).await, status);
    }
    let set = put(json!({ "role": "admin", "pin": "593817", "current": ADMIN })).await;
    assert_eq!(set.status, 204, "{}", set.text);
    assert!(mine.lives(&plant).await && !other.lives(&plant).await && viewer.lives(&plant).await);
    let set = put(json!({ "role": "viewer", "pin": "2604815", "current": "593817" })).await;
    assert_eq!(set.status, 204, "{}", set.text);
    assert!(mine.lives(&plant).await && !viewer.lives(&plant).await);
    let viewer = Signed::on(&plant, json!({ "pin": "2604815" })).await;
    let access = plant.send(mine.get(&plant, "/api/access")).await.json();
    let id = access["sessions"].as_array().unwrap().iter().find(|session| session["role"] == "viewer").unwrap()["id"]
        .clone();
    let path = format!("/api/access/sessions/{}", id.as_str().unwrap());
    assert_eq!(plant.send(mine.by(&plant, "DELETE", &path, json!(null))).await.status, 204);
    assert!(!viewer.lives(&plant).await);
    assert_problem(&plant.send(mine.by(&plant, "DELETE", &path, json!(null))).await, 404);
    plant.order(AccessOrder::NoPin { role: Role::Admin }).await;
    assert!(!mine.lives(&plant).await);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_shown_once_and_revoked() {
    let plant = with_pins().await;
    let admin = Signed::on(&plant, json!({ "pin": ADMIN })).await;
    let make = async |body: Value| plant.send(admin.by(&plant, "POST", "/api/tokens", body)).await;
    let made = make(json!({ "name": "grafana", "scope": "read" })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made_view = made.json();
    let token = made_view["token"].as_str().unwrap();
    assert_eq!((&made_view["by"], &made_view["last_used"]), (&json!("admin"), &Value::Null));
    assert_eq!(plant.send(plant.request("/api/meters").bearer_auth(token)).await.status, 200);
    assert_problem(&plant.send(plant.request("/api/tokens").bearer_auth(token)).await, 403);
    assert_problem(&make(json!({ "name": "grafana", "scope": "read" })).await, 409);
    assert_problem(&make(json!({ "name": "admin", "scope": "read" })).await, 400);
    assert_problem(&make(json!({ "name": "x", "scope": "all" })).await, 400);
    let tokens = plant.get("/api/tokens").await;
    let listed = tokens.as_array().unwrap().last().unwrap();
    assert_eq!((&listed["name"], &listed["last_used"]), (&json!("grafana"), &json!("2026-11-21T07:18:12.000Z")));
    assert!(
        listed["token"].is_null() && !tokens.to_string().contains(Digest::of(token.as_bytes()).to_string().as_str())
    );
    let path = made.header("location");
    assert_eq!(plant.send(admin.by(&plant, "DELETE", path, json!(null))).await.status, 204);
    assert_problem(&plant.send(plant.request("/api/meters").bearer_auth(token)).await, 401);
    assert_problem(&plant.send(admin.by(&plant, "DELETE", path, json!(null))).await, 404);
    assert_eq!(actions(&plant).await[..2], ["token-revoke", "token-create"]);
    plant.end().await;
}
