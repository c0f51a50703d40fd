//! The page in a real browser before the whole daemon, with real servers around it: what is run with it every day.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "../page/browser.rs"]
mod browser;
#[path = "../peers/certificates.rs"]
mod certificates;
#[path = "../prove/chain.rs"]
#[allow(dead_code, reason = "the tests of proofs use more of it")]
mod chain;
mod gateway;
#[path = "../influx/influxd.rs"]
#[allow(dead_code, reason = "the tests of the connection use more of it")]
mod influxd;
#[path = "../peers/proxy.rs"]
mod proxy;
#[path = "../peers/receiver.rs"]
mod receiver;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use browser::Browser;
use certificates::Authority;
use gateway::Gateway;
use influxd::Influxd;
use proxy::{Faults, Line, Proxy};
use receiver::{Options, Receiver, ServerTls};

/// Points that are exported, one each seven minutes: nearly a month.
const POINTS: i64 = 6_000;
/// 2025-05-01 in Kuala Lumpur.
const MAY_NS: i64 = 1_746_028_800_000_000_000;
const STEP_NS: i64 = 7 * 60_000_000_000;

/// Has a browser look at the page of this gateway by `tests/page_daemon/<name>.mjs`; `does` what that wants meanwhile.
async fn look(name: &str, gateway: &Gateway, more: Value, mut does: impl FnMut(&str)) {
    let daemon = gateway.run();
    let mut told = gateway.told();
    told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut browser = Browser::open(&format!("page_daemon/{name}"), &daemon.url, &told);
    while let Some(wanted) = browser.wants().await {
        does(&wanted);
        browser.is_done().await;
    }
    browser.end().await;
}

fn unknown(wanted: &str) -> ! {
    panic!("the look wants {wanted}, whatever that is")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_ordered_followed_taken_home_and_verified() {
    let influxd = Influxd::start_guarded();
    let point = |n: i64| format!("energy,line=a power={n}.5,count={n}i {}\n", MAY_NS + n * STEP_NS);
    influxd.write((0..POINTS).map(point).collect::<String>().as_bytes());
    let url = influxd.connection().url;
    let port: u16 = url.rsplit_once(':').unwrap().1.parse().unwrap();
    let slow = Faults { delay_one_in: 1, delay: Duration::from_millis(150), ..Faults::default() };
    let network = Proxy::start(([127, 0, 0, 1], port).into(), slow, 1);
    let told = json!({
        "influx": format!("http://{}", network.address()), "username": influxd::USERNAME, "password": influxd::PASSWORD,
        "database": influxd::DATABASE, "points": POINTS,
    });
    let gateway = Gateway::new("").await;
    look("exports", &gateway, told, |wanted| match wanted {
        "cut" => network.line(Line::Down),
        "mend" => {
            network.set(Faults::default());
            network.line(Line::Up);
        }
        other => unknown(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_shown_taken_home_and_verified() {
    let gateway = Gateway::new("").await;
    gateway.read_before().await;
    let anchor = gateway.anchored_before().await;
    gateway.configure(&anchor);
    look("evidence", &gateway, json!({}), |wanted| unknown(wanted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_refuses_is_shown_and_sent_again() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let certificate = authority.server("localhost");
    let tls = ServerTls { chain: certificate.chain, key: certificate.key, clients: None };
    let token = "the-token-of-this-receiver";
    let mut receiver = Receiver::start_with(folder.path(), Options { token: Some(token.to_owned()), tls: Some(tls) });
    let (ca, secret) = (folder.path().join("ca.pem"), folder.path().join("token"));
    fs::write(&ca, authority.pem()).unwrap();
    fs::write(&secret, token).unwrap();
    let upstream = format!(
        "[[upstream]]\nname = \"cloud\"\nkind = \"https\"\nurl = \"{}\"\nca = {ca:?}\ntoken = {{ file = {secret:?} }}\n\
         streams = [\"checkpoints\", \"readings\"]\n",
        receiver.url
    );
    let gateway = Gateway::new(&upstream).await;
    gateway.read_before().await;
    receiver.know(&gateway.key);
    let refused = BTreeSet::from([2, 3, 5]);
    receiver.set(receiver::Faults { reject: refused.clone(), ..Default::default() });
    look("upstream", &gateway, json!({ "refused": refused }), |wanted| match wanted {
        "mend" => receiver.set(receiver::Faults::default()),
        "end" => receiver.kill(),
        "begin" => receiver.restart(),
        other => unknown(other),
    })
    .await;
    let held: BTreeSet<u64> = receiver.records().into_keys().map(|(_, _, _, seq)| seq).collect();
    assert!(refused.is_subset(&held), "not all that was refused came: {held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_acknowledged_switched_off_and_sent() {
    let gateway = Gateway::new("").await;
    look("alerts", &gateway, json!({}), |wanted| unknown(wanted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_come_in_and_what_runs_is_set_by_the_page() {
    let (secret, folder) = ("a-secret-that-nobody-is-shown", tempfile::tempdir().unwrap());
    let file = folder.path().join("secret");
    fs::write(&file, secret).unwrap();
    let influx = format!(
        "[[influx]]\nname = \"historian\"\nversion = 1\nurl = \"http://127.0.0.1:1\"\ndatabase = \"plant\"\n\
         username = \"reader\"\npassword = {{ file = {file:?} }}\n\
         [alerts]\nwebhook = {{ url = \"http://127.0.0.1:1/{secret}\", body = '{{\"message\":\"{{{{text}}}}\"}}' }}\n"
    );
    let gateway = Gateway::new(&influx).await;
    let more = gateway.folder.path().join("conf.d");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("tls.toml"), "[web]\ntls = \"self-signed\"\n").unwrap();
    look("settings", &gateway, json!({ "secret": secret }), |wanted| unknown(wanted)).await;
}
