//! PINs, TOTP, tokens, lock-outs, and what the log tells of them.

use super::*;
use crate::model::Actor;
use crate::store::{AccessChange, AccessRefused, AuditPlace, Lockout, Role, Second, Token};
use serde_json::json;

/// A store becomes one of version 7.
pub const WITHOUT_ACCESS: &str = "
    DROP TABLE pins; DROP TABLE totp; DROP TABLE recovery_codes; DROP TABLE setup_code; DROP TABLE lockouts;
    DROP INDEX audit_entries; ALTER TABLE tokens DROP COLUMN made_by; ALTER TABLE tokens DROP COLUMN last_used;
    PRAGMA user_version = 7;
";

fn actor(name: &str) -> Actor {
    Actor { name: name.to_owned(), source: Some("192.0.2.7".to_owned()) }
}

async fn change(house: &House, change: AccessChange) -> Result<Option<Token>, AccessRefused> {
    house.store.ledger().change_access(change, actor("admin")).await.unwrap()
}

fn pin(role: Role, phc: &str) -> AccessChange {
    AccessChange::Pin { role, phc: phc.to_owned() }
}

#[tokio::test]
async fn pins_and_the_set_up_code_are_kept_over_a_restart() {
    let house = house();
    let code = Digest::of(b"code");
    assert_eq!(change(&house, AccessChange::SetupCode { code }).await, Ok(None));
    let house = house.again().await;
    assert_eq!(house.store.reader().access().setup_code, Some(code));
    assert_eq!(change(&house, AccessChange::SetUp { phc: "first".into() }).await, Ok(None));
    assert_eq!(house.store.reader().access().setup_code, None, "it has served");
    let again = change(&house, AccessChange::SetUp { phc: "second".into() }).await;
    assert_eq!(again, Err(AccessRefused::PinExists));
    assert_eq!(change(&house, pin(Role::Viewer, "v")).await, Ok(None));
    let house = house.again().await;
    let access = house.store.reader().access();
    assert_eq!(access.pin(Role::Admin).map(|pin| &*pin.phc), Some("first"));
    assert_eq!(access.pin(Role::Viewer).map(|pin| &*pin.phc), Some("v"));
    assert_eq!(change(&house, AccessChange::NoPin { role: Role::Viewer }).await, Ok(None));
    let none = change(&house, AccessChange::NoPin { role: Role::Viewer }).await;
    assert_eq!(none, Err(AccessRefused::NoPin(Role::Viewer)));
    assert!(house.store.reader().access().pin(Role::Viewer).is_none());
}

#[tokio::test]
async fn no_code_is_taken_twice_also_after_a_restart() {
    let house = house();
    let codes: Vec<Digest> = [b"a", b"b"].map(|code| Digest::of(code)).to_vec();
    let on = |step| AccessChange::Totp { secret: vec![7; 20], step, recovery: codes.clone() };
    assert_eq!(change(&house, on(100)).await, Ok(None));
    assert_eq!(change(&house, on(101)).await, Err(AccessRefused::TotpOn));
    let sign_in = |second| AccessChange::SignIn { role: Role::Admin, second };
    assert_eq!(change(&house, sign_in(Second::Step(100))).await, Err(AccessRefused::CodeUsed));
    assert_eq!(change(&house, sign_in(Second::Step(101))).await, Ok(None));
    assert_eq!(change(&house, sign_in(Second::Recovery(codes[0]))).await, Ok(None));
    let house = house.again().await;
    for used in [Second::Step(101), Second::Step(99), Second::Recovery(codes[0]), Second::Recovery(Digest::of(b"c"))] {
        assert_eq!(change(&house, sign_in(used)).await, Err(AccessRefused::CodeUsed));
    }
    let access = house.store.reader().access();
    assert_eq!((access.recovery_left(), access.totp.as_ref().map(|totp| totp.last_step)), (1, Some(101)));
    assert!(access.has_recovery(&codes[1]) && !access.has_recovery(&codes[0]));
    assert_eq!(change(&house, AccessChange::NoTotp).await, Ok(None));
    assert_eq!(change(&house, AccessChange::NoTotp).await, Err(AccessRefused::TotpOff));
    assert_eq!(house.store.reader().access().recovery_left(), 0);
}

#[tokio::test]
async fn a_token_opens_from_when_it_is_made_until_it_is_revoked() {
    let house = house();
    let reader = house.store.reader();
    let make = |name: &str, token: &str| AccessChange::Token {
        name: name.to_owned(),
        scope: Scope::Export,
        token: Digest::of(token.as_bytes()),
    };
    let made = change(&house, make("grafana", "t1")).await.unwrap().unwrap();
    assert_eq!((made.name.as_str(), made.by.as_deref(), made.last_used), ("grafana", Some("admin"), None));
    let twice = change(&house, make("grafana", "t2")).await;
    assert_eq!(twice, Err(AccessRefused::TokenExists("grafana".into())));
    assert_eq!(reader.bearer_of("t1").map(|bearer| bearer.scope), Some(Scope::Export));
    assert_eq!(reader.scope_of("t2"), None);
    let id = made.id;
    assert_eq!(change(&house, AccessChange::NoTokenOf { id }).await, Ok(None));
    assert_eq!(reader.scope_of("t1"), None);
    assert!(change(&house, AccessChange::NoTokenOf { id }).await.is_err());
    for n in 0..99 {
        change(&house, make(&format!("t{n}"), &format!("s{n}"))).await.unwrap();
    }
    assert_eq!(change(&house, make("one more", "x")).await, Err(AccessRefused::TokensFull));
    assert_eq!(change(&house, AccessChange::NoToken { name: "t7".into() }).await, Ok(None));
    assert_eq!(
        change(&house, AccessChange::NoToken { name: "t7".into() }).await,
        Err(AccessRefused::NoToken("t7".into()))
    );
}

#[tokio::test]
async fn the_use_of_a_token_is_kept_at_most_once_an_hour() {
    let house = house();
    let (reader, ledger, token) = (house.store.reader(), house.store.ledger(), house.created.token.clone());
    let of_file = || {
        let connection = rusqlite::Connection::open(config(&house.folder).path.join("evidence.db")).unwrap();
        connection.query_row("SELECT last_used FROM tokens", [], |row| row.get::<_, Option<i64>>(0)).unwrap()
    };
    ledger.keep_token_use().await.unwrap();
    assert_eq!(of_file(), None);
    let first = house.clock.now().as_millis();
    reader.bearer_of(&token).unwrap();
    ledger.keep_token_use().await.unwrap();
    assert_eq!(of_file(), Some(first));
    house.clock.advance(Duration::from_secs(3_599));
    reader.bearer_of(&token).unwrap();
    ledger.keep_token_use().await.unwrap();
    assert_eq!(of_file(), Some(first));
    assert_eq!(reader.tokens()[0].last_used, Some(house.clock.now()), "what is shown is as new as can be");
    house.clock.advance(Duration::from_secs(1));
    reader.bearer_of(&token).unwrap();
    ledger.keep_token_use().await.unwrap();
    assert_eq!(of_file(), Some(house.clock.now().as_millis()));
}

#[tokio::test]
async fn what_was_done_is_told_newest_first_over_all_epochs_and_lock_outs_are_kept_beside_it() {
    let house = house();
    change(&house, pin(Role::Admin, "a")).await.unwrap();
    let sign_in = AccessChange::SignIn { role: Role::Viewer, second: Second::Nothing };
    change(&house, sign_in).await.unwrap();
    house.store.ledger().succeed(crate::store::log::tests::wish(entry::Reason::KeyRotation)).await.unwrap();
    let lockout = |source: &str, known| Lockout {
        source: source.to_owned(),
        failures: 4,
        wait_ms: 60_000,
        forget_ms: 86_400_000,
        untold: 2,
        known,
    };
    let all = vec![lockout("", None), lockout("192.0.2.7", Some(3))];
    let told = Some(("sign-in-refused", json!({ "guesses": 3 })));
    change(&house, AccessChange::Lockouts { all: all.clone(), told }).await.unwrap();
    change(&house, AccessChange::Lockouts { all: all.clone(), told: None }).await.unwrap();
    let house = house.again().await;
    let reader = house.store.reader();
    assert_eq!(reader.lockouts().await.unwrap(), all);
    let entries = reader.audit(None, 10).await.unwrap();
    let told: Vec<_> = entries.iter().map(|entry| (entry.action.as_str(), entry.by.as_str())).collect();
    assert_eq!(told, [("sign-in-refused", "admin"), ("sign-in", "admin"), ("pin-set", "admin")]);
    assert_eq!(entries[1].detail, json!({ "role": "viewer", "second": null, "source": "192.0.2.7" }));
    assert_eq!(entries[0].epoch, house.store.identity().epoch);
    assert_ne!(entries[0].epoch, entries[1].epoch);
    let older = reader.audit(Some(entries[0].place), 1).await.unwrap();
    assert_eq!(older, entries[1..2]);
    assert_eq!(reader.audit(Some(AuditPlace { epoch: 0, index: 9 }), 9).await.unwrap(), []);
}

#[tokio::test]
async fn a_store_of_version_7_is_brought_up_with_its_token() {
    let House { folder, store, created, clock } = house();
    store.ledger().append(vec![crate::store::log::tests::audit(1)]).await.unwrap();
    store.close().await.unwrap();
    let root = config(&folder).path;
    let new = super::anchors::schema(&root);
    let connection = rusqlite::Connection::open(root.join("evidence.db")).unwrap();
    connection.execute_batch(WITHOUT_ACCESS).unwrap();
    sqlite::settle(&connection).unwrap();
    drop(connection);
    assert_eq!(evidence::version(&root).unwrap(), 7);
    let store = Store::open(config(&folder), clock, None).unwrap();
    let reader = store.reader();
    assert_eq!(reader.scope_of(&created.token), Some(Scope::Admin));
    assert_eq!((reader.tokens()[0].by.as_deref(), reader.audit(None, 9).await.unwrap().len()), (None, 1));
    assert!(reader.access().pins.is_empty());
    store.close().await.unwrap();
    assert_eq!(super::anchors::schema(&root).len(), new.len());
}
