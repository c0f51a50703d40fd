//! Brokers, their subscriptions, and the meters that publish through them.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::meters::{INTERVAL, Known, category, peak_target, ratio};
use super::report::Place;
use super::secret::{bad_tls, given, pem};
use super::section::{Field, Section};
use super::tree::{Node, Value};
use crate::model::{Category, LineName, Meter, MeterId, Origin, Quantity, Ratio, SiteId};
use crate::sources::mqtt::formats::{BadPointer, Format, Json, Plain, Pointed, Pointer, TimeFormat};
use crate::sources::mqtt::{self, Broker, ClientCertificate, Login, Publisher, Subscription, Tls, Version};

/// What the site says that a broker's part of the config needs.
pub struct Of<'s> {
    pub site: &'s SiteId,
    pub timezone: &'s str,
}

const FORMATS: [&str; 5] = ["acrel-adw", "json", "plain", "shelly", "tasmota"];
pub const VERSIONS: [&str; 2] = ["3.1.1", "5"];

/// Longer than any message of a meter; a broker of 64 gateways may send longer ones.
const MAX_PACKET: u64 = 256_000;
const LARGEST_PACKET: u64 = 16_000_000;

/// Reads all `[[mqtt]]`; gives the brokers, their meters, and where secrets stand in the text.
pub fn read(root: &mut Section, of: Option<&Of>, known: &mut Known) -> (Vec<Broker>, Vec<Meter>, Vec<Place>) {
    let (mut brokers, mut meters, mut inline) = (Vec::new(), Vec::new(), Vec::new());
    for part in root.tables("mqtt").unwrap_or_default() {
        brokers.extend(broker(part, of, known, &mut meters, &mut inline));
    }
    (brokers, meters, inline)
}

fn broker(
    mut part: Section,
    of: Option<&Of>,
    known: &mut Known,
    all: &mut Vec<Meter>,
    inline: &mut Vec<Place>,
) -> Option<Broker> {
    let (report, place) = (part.report, part.place);
    let path = part.path_of("name");
    let own_path = path.trim_end_matches(".name").to_owned();
    let name = part
        .named::<LineName>("name", "give the broker a name, such as name = \"plant-broker\"")
        .and_then(|(name, place)| known.take_line(name, place, &path));
    let url_field = part.need("url", "name the broker: url = \"mqtts://broker.plant:8883\"");
    let url = url_field.as_ref().and_then(address);
    let is_tls = url.as_ref().is_none_or(|url| url.tls);
    let what = name.as_ref().map_or("the broker".to_owned(), |name| format!("broker {name}"));
    let login = login(&mut part, &what, inline);
    let tls = tls(&mut part, &what, is_tls, url_field.as_ref(), inline);
    let version = part
        .get("version")
        .and_then(|field| field.one_of(&VERSIONS))
        .map_or(Version::V311, |at| if at == 0 { Version::V311 } else { Version::V5 });
    let fallback = |what: &str| match (&name, of) {
        (Some(name), Some(of)) => format!("{}{what}{name}", of.site),
        _ => String::new(),
    };
    let client_id = part.get("client_id").and_then(|field| client_id(&field));
    let client_id = client_id.unwrap_or_else(|| format!("meterseal-{}", fallback("-")));
    let status_topic = part.get("status_topic").and_then(|field| topic_name(&field));
    let status_topic = status_topic.unwrap_or_else(|| format!("meterseal/{}/status", fallback("/")));
    let secs = Duration::from_secs;
    let keep_alive = part.duration("keep_alive", secs(5)..=secs(600)).unwrap_or(secs(30));
    let max_packet = part.get("max_packet").and_then(|field| packet_size(&field)).unwrap_or(MAX_PACKET);
    let asked = part.tables("subscribe").unwrap_or_default();
    let subscribes = !asked.is_empty();
    let zone = of.and_then(|of| TimeZone::get(of.timezone).ok()).unwrap_or(TimeZone::UTC);
    let (mut subscriptions, mut categories) = (Vec::new(), Vec::new());
    for asked in asked {
        let Some((subscription, category)) = subscription(asked, &zone) else { continue };
        subscriptions.push(subscription);
        categories.push(category);
    }
    let simulated = part.flag("simulated").unwrap_or(false);
    let mut meters: Vec<Publisher> = Vec::new();
    for mut meter in part.tables("meter").unwrap_or_default() {
        let (place, path) = (meter.place, meter.path_of("match"));
        // A meter with pointers of its own publishes on a topic of its own.
        subscriptions.extend(own_topic(&mut meter, &zone));
        let Some((publisher, meter)) = publisher(meter, name.as_ref(), &categories, known) else { continue };
        if let Some(other) = meters.iter().find(|other| other.matches == publisher.matches) {
            let why = format!("`{}` is what `{}` matches already", publisher.matches, other.id);
            report.fault(place, &path, why, "give each meter the name or serial number that it publishes");
        }
        meters.push(publisher);
        all.push(Meter { simulated, ..meter });
    }
    if !subscribes && subscriptions.is_empty() {
        report.warn(place, &part.path_of("subscribe"), "nothing is subscribed to", "add a [[mqtt.subscribe]]");
    }
    part.done(&[]);
    let (name, url, login, tls) = (name?, url?, login?, tls?);
    let broker = Broker {
        name,
        host: url.host,
        port: url.port,
        tls: is_tls.then_some(tls),
        version,
        client_id,
        login,
        keep_alive,
        max_packet: usize::try_from(max_packet).unwrap_or(usize::MAX),
        status_topic,
        subscriptions,
        meters,
        simulated,
    };
    match mqtt::check(&broker) {
        Ok(()) => Some(broker),
        Err(why) => {
            report.fault(place, &own_path, why, "correct the address");
            None
        }
    }
}

pub struct Url {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
pub fn address(field: &Field) -> Option<Url> {
    let text = field.text()?;
    let mend = "write it as \"mqtts://broker.plant:8883\" or \"mqtt://192.0.2.20:1883\"";
    let Ok(url) = reqwest::Url::parse(text) else { return field.fault("is no URL", mend) };
    let tls = match url.scheme() {
        "mqtts" => true,
        "mqtt" => false,
        other => return field.fault(format!("{other}: is neither mqtt nor mqtts"), mend),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return field
            .fault("a user in the address stands in the file for all to read", "use `username` and `password`");
    }
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return field.fault("names no host", mend) };
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return field.fault("has more than a host and a port", mend);
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Url { host, port: url.port().unwrap_or(if tls { 8883 } else { 1883 }), tls })
}

/// The login; `Some(None)` for none, `None` when the broker is off for want of its password.
#[expect(clippy::option_option, reason = "none, and none to be had, are told apart")]
fn login(part: &mut Section, what: &str, inline: &mut Vec<Place>) -> Option<Option<Login>> {
    let username = part.text("username").map(str::to_owned);
    let Some(field) = part.get("password") else {
        return Some(username.map(|username| Login { username, password: None }));
    };
    let Some(username) = username else {
        field.fault::<()>("a password needs a user", "add `username`");
        return None;
    };
    let password = given(&field, what, inline)?;
    Some(Some(Login { username, password: Some(password) }))
}

/// `None` when something is missing that is referred to, or is of no use.
fn tls(part: &mut Section, what: &str, is_tls: bool, url: Option<&Field>, inline: &mut Vec<Place>) -> Option<Tls> {
    let (ca_field, chain, key) = (part.get("ca"), part.get("client_cert"), part.get("client_key"));
    if !is_tls {
        for field in [&ca_field, &chain, &key].into_iter().flatten() {
            field.fault::<()>("is for TLS", "begin the address with mqtts://");
        }
        return Some(Tls::default());
    }
    let ca = match &ca_field {
        Some(field) => Some(pem(field, what)?),
        None => None,
    };
    let client = match (&chain, &key) {
        (Some(chain), Some(key)) => {
            Some(ClientCertificate { chain: pem(chain, what)?, key: given(key, what, inline)?.into_bytes() })
        }
        (None, None) => None,
        (Some(field), None) | (None, Some(field)) => {
            return field.fault("a client certificate and its key go together", "give `client_cert` and `client_key`");
        }
    };
    let tls = Tls { ca, client };
    match mqtt::check_tls(&tls) {
        Ok(()) => Some(tls),
        Err(bad) => {
            bad_tls::<()>(&bad, [ca_field.as_ref(), chain.as_ref(), key.as_ref()], url?, what);
            None
        }
    }
}

/// MQTT 3.1.1, 3.1.3.1, asks brokers for 23 characters at least; all known ones take more.
pub fn client_id(field: &Field) -> Option<String> {
    let text = field.text()?;
    if (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    field.fault(format!("{} is no client identifier", field.shown()), "take 1 to 128 letters, digits and - _ .")
}

fn topic_name(field: &Field) -> Option<String> {
    let text = field.text()?;
    if !text.is_empty() && text.len() <= 512 && !text.contains(['+', '#', '\0']) {
        return Some(text.to_owned());
    }
    field.fault(format!("{} is no topic", field.shown()), "a topic has no wildcards")
}

pub fn packet_size(field: &Field) -> Option<u64> {
    let size = field.text().map(super::units::size)?;
    match size.filter(|size| (1_000..=LARGEST_PACKET).contains(size)) {
        Some(size) => Some(size),
        None => field.fault(format!("{} is no size from 1kB to 16MB", field.shown()), "write it as \"256kB\""),
    }
}

fn subscription(mut part: Section, zone: &TimeZone) -> Option<(Subscription, Option<Category>)> {
    let topic = part.need("topic", "name the topics: topic = \"plant/+/energy\"").and_then(|field| filter(&field));
    let category = part.get("category").and_then(|field| super::meters::category_of(&field));
    let format = part.need("format", "say how the messages are written: format = \"acrel-adw\"").and_then(|field| {
        Some(match field.one_of(&FORMATS)? {
            0 => Format::Acrel,
            1 => Format::Json(json(&mut part, zone)?),
            2 => Format::Plain(plain(&mut part)?),
            3 => Format::Shelly,
            _ => Format::Tasmota { zone: zone.clone() },
        })
    });
    if format.is_none() {
        // What is meant for a misspelt format is no fault of its own.
        for key in ["quantity", "scale", "each", "id", "time", "time_format", "zone", "values"] {
            part.get(key);
        }
    }
    part.done(&[]);
    Some((Subscription { topic: topic?, format: format? }, category))
}

/// A topic filter (MQTT 3.1.1, 4.7).
fn filter(field: &Field) -> Option<String> {
    let text = field.text()?;
    let levels: Vec<_> = text.split('/').collect();
    let formed = !text.is_empty()
        && text.len() <= 512
        && !text.contains('\0')
        && levels.iter().all(|level| matches!(*level, "+" | "#") || !level.contains(['+', '#']))
        && !levels[..levels.len() - 1].contains(&"#");
    if formed {
        return Some(text.to_owned());
    }
    field.fault(format!("{} is no topic filter", field.shown()), "+ stands for one level, # for all that follow")
}

/// A reading names its values by one byte.
const MOST_VALUES: usize = 255;

const TIME_FORMATS: [&str; 4] = ["rfc3339", "unix_s", "unix_ms", "local"];

const VALUES: &str =
    "say where the values are: { power_kw = \"/p\", energy_import_kwh = { pointer = \"/e\", scale = 0.001 } }";

/// Where in a JSON message what is.
fn json(part: &mut Section, zone: &TimeZone) -> Option<Json> {
    let (each, id) = (part.get("each").map(|field| pointer(&field)), part.get("id").map(|field| pointer(&field)));
    let time = time(part, zone);
    let values = part.need("values", VALUES).and_then(|field| values(&field));
    let is_bad = |pointer: &Option<Option<Pointer>>| matches!(pointer, Some(None));
    if is_bad(&each) || is_bad(&id) {
        return None;
    }
    Some(Json { each: each.flatten(), id: id.flatten(), time: time?.0, values: values? })
}

/// When a message says that it was measured, if it says it.
struct Timed(Option<(Pointer, TimeFormat)>);

fn time(part: &mut Section, zone: &TimeZone) -> Option<Timed> {
    let zone = match part.get("zone") {
        Some(field) => super::parts::timezone(&field).and_then(|name| TimeZone::get(&name).ok()),
        None => Some(zone.clone()),
    };
    let format = match part.get("time_format").map(|field| field.one_of(&TIME_FORMATS)) {
        None | Some(Some(0)) => TimeFormat::Rfc3339,
        Some(Some(1)) => TimeFormat::UnixS,
        Some(Some(2)) => TimeFormat::UnixMs,
        Some(Some(_)) => TimeFormat::Local(zone?),
        Some(None) => return None,
    };
    Some(Timed(match part.get("time") {
        Some(field) => Some((pointer(&field)?, format)),
        None => None,
    }))
}

/// Quantities and where they are.
fn values(field: &Field) -> Option<Vec<Pointed>> {
    let Value::Table(table) = field.value else {
        return field.fault(format!("is {}, not a table", field.value.kind()), VALUES);
    };
    if table.0.is_empty() {
        return field.fault("names no value", VALUES);
    }
    if table.0.len() > MOST_VALUES {
        return field.fault(format!("names {} values, and one meter has at most {MOST_VALUES}", table.0.len()), "");
    }
    let pointed = table.0.iter().map(|(quantity, (place, Node { value, .. }))| {
        let path = format!("{}.{quantity}", field.path);
        pointed(quantity, &Field { report: field.report, place: *place, path, value })
    });
    // All of them are looked at, so that every fault is told.
    pointed.collect::<Vec<_>>().into_iter().collect()
}

/// `"/p"`, or `{ pointer = "/p", scale = 0.001 }`.
fn pointed(quantity: &str, field: &Field) -> Option<Pointed> {
    let quantity = match quantity.parse::<Quantity>() {
        Ok(quantity) => quantity,
        Err(error) => return field.fault(error.to_string(), "name it like power_kw or energy_import_kwh"),
    };
    if let Value::Text(_) = field.value {
        return Some(Pointed { quantity, pointer: pointer(field)?, scale: Ratio::ONE });
    }
    let mut part = field.section()?;
    let at = part.need("pointer", "say where it is: pointer = \"/p\"").and_then(|field| pointer(&field));
    let scale = ratio(&mut part, "scale").unwrap_or(Ratio::ONE);
    part.done(&[]);
    Some(Pointed { quantity, pointer: at?, scale })
}

/// The most common slip is a bare name.
fn pointer(field: &Field) -> Option<Pointer> {
    let text = field.text()?;
    match text.parse() {
        Ok(pointer) => Some(pointer),
        Err(error @ BadPointer::NoSlash(_)) => field.fault(error.to_string(), format!("write \"/{text}\"")),
        Err(error) => field.fault(error.to_string(), ""),
    }
}

fn plain(part: &mut Section) -> Option<Plain> {
    let mend = "say what the number is: quantity = \"power_kw\"";
    let quantity = part.need("quantity", mend).and_then(|field| field.parsed::<Quantity>());
    let scale = ratio(part, "scale").unwrap_or(Ratio::ONE);
    Some(Plain { quantity: quantity?, scale })
}

/// `pointers` of a meter: its `match` is a topic then, and what is published there is JSON.
fn own_topic(part: &mut Section, zone: &TimeZone) -> Option<Subscription> {
    let pointers = part.get("pointers")?;
    let time = time(part, zone);
    let topic = part.need("match", "name the meter's topic: match = \"plant/press-3\"")?;
    let (topic, values) = (topic_name(&topic), values(&pointers));
    let format = Format::Json(Json { each: None, id: None, time: time?.0, values: values? });
    Some(Subscription { topic: topic?, format })
}

fn publisher(
    mut part: Section,
    broker: Option<&LineName>,
    categories: &[Option<Category>],
    known: &mut Known,
) -> Option<(Publisher, Meter)> {
    let path = part.path_of("id");
    let id = part
        .named::<MeterId>("id", "give the meter an id, such as id = \"press-3\"")
        .and_then(|(id, place)| known.take_id(id, place, &path));
    let name = part.text("name").map(str::to_owned);
    let matches = match part.get("match") {
        None => id.as_ref().map(ToString::to_string),
        Some(field) => field.text().map(str::to_owned),
    };
    let category = match (part.get("category"), categories) {
        (Some(field), _) => super::meters::category_of(&field),
        // Only where every subscription says the same: another one may be the meter's.
        (None, [Some(one), rest @ ..]) if rest.iter().all(|other| *other == Some(*one)) => Some(*one),
        (None, _) => category(&mut part),
    };
    let interval = part.duration("interval", INTERVAL);
    let ct_ratio = ratio(&mut part, "ct_ratio").unwrap_or(Ratio::ONE);
    let vt_ratio = ratio(&mut part, "vt_ratio").unwrap_or(Ratio::ONE);
    let invert = part.flag("invert").unwrap_or(false);
    let peak_target = peak_target(&mut part);
    part.done(&[]);
    let (id, matches, category) = (id?, matches?, category?);
    let meter = Meter {
        name: name.unwrap_or_else(|| id.to_string()),
        id: id.clone(),
        category,
        origin: Origin::Mqtt { broker: broker?.clone(), name: matches.clone() },
        interval_ms: interval.and_then(|interval| u32::try_from(interval.as_millis()).ok()),
        peak_target,
        simulated: false,
    };
    Some((Publisher { id, matches, category, interval, ct_ratio, vt_ratio, invert }, meter))
}
