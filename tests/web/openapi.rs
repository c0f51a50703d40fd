//! Who may ask for what, held against the description that the gateway gives of itself.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;

use super::assert_problem;
use super::plant::{LESSER, Plant};

/// What answers anybody. The log tells nothing about energy.
const PUBLIC: [&str; 7] = [
    "GET /api/health",
    "GET /api/openapi.json",
    "POST /api/session",
    "GET /api/setup",
    "POST /api/setup",
    "GET /log/",
    "GET /log/{epoch}/checkpoint",
];

struct Operation {
    method: Method,
    path: String,
    /// With something in the place of each `{…}`.
    address: String,
    /// Of a token; any of them will do, and `admin` always.
    scopes: Vec<String>,
    is_public: bool,
    is_feed: bool,
}

async fn operations(plant: &Plant) -> Vec<Operation> {
    let answer = plant.send(plant.request("/api/openapi.json")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document = answer.json();
    let paths: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_value(document["paths"].clone()).unwrap();
    let mut found = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item {
            let ways = operation["security"].as_array().unwrap();
            found.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                address: filled(&path),
                path: path.clone(),
                is_public: ways.is_empty(),
                scopes: ways.iter().filter_map(|way| way["token"][0].as_str()).map(str::to_owned).collect(),
                is_feed: !operation["responses"]["200"]["content"]["text/event-stream"].is_null(),
            });
        }
    }
    assert!(found.len() > 60);
    found
}

fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "main" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_the_public_ones_refuses_without_a_token() {
    let plant = Plant::start().await;
    for Operation { method, path, address, scopes, is_public, .. } in operations(&plant).await {
        let request = |address: &str| plant.method(method.clone(), address);
        let answer = plant.send(request(&address)).await;
        assert_eq!(is_public, PUBLIC.contains(&format!("{method} {path}").as_str()), "{method} {path}");
        if is_public {
            assert!(matches!(answer.status, 200 | 400 | 404), "{method} {path}: {}", answer.status);
            continue;
        }
        assert_problem(&answer, 401);
        assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="meterseal""#, "{method} {path}");
        let answer = plant.send(request(&address).bearer_auth("another")).await;
        assert_problem(&answer, 401);
        let is_told = scopes.is_empty() || answer.header("www-authenticate").contains("invalid_token");
        assert!(is_told, "{method} {path}");
        let answer = plant.send(request(&address).header("cookie", "meterseal_session=another")).await;
        assert_problem(&answer, 401);
        let in_address = plant.send(request(&format!("{address}?token={}", plant.token))).await;
        // Some look at the query first, and know no such parameter.
        assert!(matches!(in_address.status, 400 | 401), "{method} {path}: {}", in_address.status);
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_what_the_description_says_of_its_scope() {
    let mut plant = Plant::start().await;
    // Nobody polls here: who asks for that hears so at once.
    plant.registers.close();
    for Operation { method, path, address, scopes, is_feed, .. } in operations(&plant).await {
        if scopes.is_empty() {
            continue;
        }
        // A viewer may what `read` may, and changes nothing.
        let is_read = scopes.iter().any(|scope| scope == "read");
        assert!(method == Method::GET || !is_read, "{method} {path} is open to those who only read");
        for scope in LESSER {
            let may = scopes.iter().any(|known| known == scope);
            // What is only looked at is asked for; what changes something, and what does not end, is not begun.
            if may && (method != Method::GET || is_feed) {
                continue;
            }
            let answer = plant.send(plant.method(method.clone(), &address).bearer_auth(scope)).await;
            if may {
                assert!(!matches!(answer.status, 401 | 403), "{method} {path}, {scope}: {}", answer.text);
            } else {
                assert_problem(&answer, 403);
                assert!(answer.header("www-authenticate").contains("insufficient_scope"), "{method} {path}, {scope}");
            }
        }
    }
    plant.end().await;
}

/// Routes that are declared beside those that are described: none but other names of `/ws`, the log's tiles, and the page's
/// files, whose own table declares them.
#[test]
fn every_route_for_programs_is_described() {
    let source = include_str!("../../src/web/mod.rs");
    let plain: Vec<_> = source.split(".undescribed(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(plain, ["/socket", "/websocket", "/log/{epoch}/tile/{*tile}"]);
    assert!(!source.contains(".route(\""), "`undescribed` says that it is meant");
}
