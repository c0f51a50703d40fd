//! `[anchor]`: the chain, the nodes, who pays and how much.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use reqwest::Url;
use zeroize::Zeroizing;

use super::report::Place;
use super::secret::{Found, bad_secret, found};
use super::section::{Field, Section};
use super::tree::Value;
use crate::evidence::anchor::{Config, Part, fees};
use crate::evidence::evm::{BadKey, Key, read_address};
use crate::evidence::rpc;
use crate::model::SiteId;

const MINUTE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(6 * 3_600);
const MAX_FEE_GWEI: i64 = 300;
const DAILY_BUDGET: &str = "0.5";
/// Nodes that are asked side by side.
const RPCS: usize = 8;
/// What is off when a secret is not there.
const PART: &str = "anchoring";
/// The site whose data are simulated. They are anchored at a node of one's own at the most, and sent to nobody.
pub const DEMO: &str = "demo";

/// Reads `[anchor]`, and where secrets stand in the text.
pub fn read(root: &mut Section, site: Option<&SiteId>) -> (Part, Vec<Place>) {
    let mut inline = Vec::new();
    let Some(field) = root.get("anchor") else { return (Part::Absent, inline) };
    let Some(mut part) = field.section() else { return (Part::Absent, inline) };
    let chain_id = part.need("chain_id", "say which chain: chain_id = 137 (Polygon) or 80002 (its test net, Amoy)");
    let chain_id = chain_id.and_then(|field| chain(&field));
    let rpc = part.need("rpc", "name nodes of the chain, better two: rpc = [\"https://…\", \"https://…\"]");
    let rpc = rpc.map(|field| rpcs(&field, site, &mut inline));
    let contract = match part.get("contract") {
        None => Some(None),
        Some(field) => address(&field).map(Some),
    };
    let every = part.duration("every", MINUTE * 10..=MINUTE * 60 * 24 * 7).unwrap_or(EVERY);
    let max_fee = part.get("max_fee_gwei").map_or(Some(MAX_FEE_GWEI), |field| max_fee(&field, chain_id));
    let budget = part.get("daily_budget").map_or_else(|| fees::coins(DAILY_BUDGET), |field| coins(&field));
    let password = part.get("password");
    let mend = "name the secret key of the account that pays: key = { credential = \"anchor-key\" }";
    let key = part.need("key", mend).map(|field| key(&field, password.as_ref(), &mut inline));
    part.done(&[]);
    let (rpc, key) = match (rpc, key) {
        (Some(Found::Off(why)), _) | (_, Some(Found::Off(why))) => return (Part::Off(why), inline),
        (Some(Found::Here(rpc)), Some(Found::Here(key))) => (rpc, key),
        // What is faulty has been told, and there is no config at all.
        _ => return (Part::Absent, inline),
    };
    let (Some(chain_id), Some(contract), Some(daily_budget), Some(max_fee)) = (chain_id, contract, budget, max_fee)
    else {
        return (Part::Absent, inline);
    };
    let max_fee = fees::gwei(max_fee.unsigned_abs());
    (Part::On(Arc::new(Config { chain_id, rpc, contract, key, every, max_fee, daily_budget })), inline)
}

fn max_fee(field: &Field, chain_id: Option<u64>) -> Option<i64> {
    const MOST: i64 = 1_000_000;
    let least = i64::try_from(chain_id.map_or(1, fees::least_ceiling)).unwrap_or(1);
    match *field.value {
        Value::Integer(gwei) if (least..=MOST).contains(&gwei) => Some(gwei),
        Value::Integer(gwei @ 1..) if gwei < least => field.fault(
            format!("{gwei} never lets an anchor through: Polygon takes no tip below {} gwei", least - 1),
            format!("give at least {least}, better {MAX_FEE_GWEI}: only what a block takes is paid"),
        ),
        Value::Integer(gwei) => field.fault(format!("{gwei} is not within {least} to {MOST}"), ""),
        _ => field.fault(format!("is {}, not a whole number", field.value.kind()), ""),
    }
}

fn chain(field: &Field) -> Option<u64> {
    match field.value {
        Value::Integer(id @ 1..) => Some(id.unsigned_abs()),
        _ => field.fault(format!("{} is no chain id", field.shown()), "137 is Polygon, 80002 its test net Amoy"),
    }
}

/// The nodes' addresses; one that is not there turns the part off.
fn rpcs(field: &Field, site: Option<&SiteId>, inline: &mut Vec<Place>) -> Found<Vec<String>> {
    let Some(listed) = field.list() else { return Found::Faulty };
    if listed.is_empty() || listed.len() > RPCS {
        field.fault::<()>(format!("names {} nodes, and 1 to {RPCS} are asked", listed.len()), "");
        return Found::Faulty;
    }
    let is_demo = site.is_some_and(|site| site.as_str() == DEMO);
    let (mut known, mut urls, mut off) = (BTreeSet::new(), Vec::new(), None);
    for field in &listed {
        match node(field, is_demo, &mut known, inline) {
            Found::Here(url) => urls.push(url),
            Found::Off(why) => off = Some(why),
            Found::Faulty => {}
        }
    }
    match off {
        Some(why) => Found::Off(why),
        None if urls.len() == listed.len() => Found::Here(urls),
        None => Found::Faulty,
    }
}

/// The texts of faults leave the address out: it may bear a key.
fn node(field: &Field, is_demo: bool, known: &mut BTreeSet<String>, inline: &mut Vec<Place>) -> Found<String> {
    // Most bear no secret but a key in their path, which is kept: without it there would be no node to ask.
    let text = match field.value {
        Value::Text(text) => Zeroizing::new(text.clone()),
        _ => match found(field, PART, inline) {
            Found::Here(text) => text,
            Found::Off(why) => return Found::Off(why),
            Found::Faulty => return Found::Faulty,
        },
    };
    // An address that is referred to may go bad by itself.
    let faulty = |why: String, mend: &str| bad_secret(field, PART, &why, mend);
    let url = match rpc::address(&text) {
        Ok(url) => url,
        Err(bad) => return faulty(bad.to_string(), "write it as \"https://host/path\""),
    };
    if matches!(field.value, Value::Text(_)) && (!url.username().is_empty() || url.password().is_some()) {
        inline.push(field.place);
        let mend = "refer to it with { file = \"PATH\" } or { credential = \"NAME\" }";
        field.report.warn(field.place, &field.path, "a secret stands in the file for all who may read it", mend);
    }
    if !known.insert(url.to_string()) {
        return faulty("names the same node again".to_owned(), "take it out, or name another");
    }
    if is_demo && !is_loopback(url.host_str().unwrap_or_default()) {
        let why = "is a node outside of this machine, and the data of site \"demo\" are simulated".to_owned();
        return faulty(why, "anchor them at a node on 127.0.0.1, or give the site another id");
    }
    if url.scheme() == "http" && !is_near(&url) {
        let why = "asks over plain http: whoever is on the line can read it and change the answers";
        field.report.warn(field.place, &field.path, why, "use https://");
    }
    Found::Here(text.trim().to_owned())
}

/// On this machine or in the plant.
fn is_near(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let is_private = match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(address)) => address.is_private() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_unique_local() || address.is_unicast_link_local(),
        Err(_) => false,
    };
    is_private || is_loopback(host)
}

/// On this machine.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn address(field: &Field) -> Option<Address> {
    match read_address(field.text()?) {
        Ok(Address::ZERO) => field.fault("nothing is ever at the address 0", "leave it out for call data"),
        Ok(address) => Some(address),
        Err(bad) => field.fault(bad.to_string(), "give it as `meterseal anchor deploy` prints it"),
    }
}

fn coins(field: &Field) -> Option<u128> {
    match fees::coins(field.text()?) {
        Some(wei @ 1..) => Some(wei),
        Some(0) => {
            field.fault("it must be above 0", "daily_budget = \"0.5\" is plenty; to stop anchoring take [anchor] out")
        }
        _ => field.fault(
            format!("{} is no amount", field.shown()),
            "write it in the chain's coin, as daily_budget = \"0.5\"",
        ),
    }
}

/// Reads the key. One that is not there turns the part off, and so does one that is referred to and is not right.
fn key(field: &Field, password: Option<&Field>, inline: &mut Vec<Place>) -> Found<Key> {
    let secret = found(field, PART, inline);
    let password_field = password;
    let password = password.map(|field| found(field, PART, inline));
    let (secret, password) = match (secret, password) {
        (Found::Here(secret), None) => (secret, None),
        (Found::Here(secret), Some(Found::Here(password))) => (secret, Some(password)),
        (Found::Off(why), _) | (_, Some(Found::Off(why))) => return Found::Off(why),
        _ => return Found::Faulty,
    };
    match Key::read(&secret, password.as_deref().map(String::as_str)) {
        Ok(key) => {
            if let (Some(field), false) = (password_field, secret.trim_start().starts_with('{')) {
                let mend = "take it out, or see that key is the right one";
                field.report.warn(field.place, &field.path, "the key is no keystore, and needs no password", mend);
            }
            Found::Here(key)
        }
        Err(bad) => {
            let mend = match bad {
                BadKey::NoPassword => "give it as password = { credential = \"anchor-password\" }",
                BadKey::Password => {
                    "see that password refers to the one of this keystore, or take the keystore from its copy"
                }
                BadKey::Keystore(_) => "give the whole file as geth or the wallet wrote it, or 64 hex digits",
                _ => "",
            };
            bad_secret(field, PART, &bad.to_string(), mend)
        }
    }
}
