//! The parts of the file: site, tariff, store, web and alerts; meters and InfluxDB have files of their own.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use rustls::pki_types::DnsName;

use super::files::Whence;
use super::report::{Place, Report};
use super::secret::{Fetched, bad_secret, fetch};
use super::section::{Field, Section};
use super::tree::{Table, Value};
use super::{Config, anchor, influx, meters, mqtt, units, upstream};
use crate::model::{PeakWindow, SiteId, Timestamp, nearest};
use crate::sources::BlockGrid;
use crate::web::Tls;
use crate::{alerts, blocks, evidence, sources, store, web};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What the file says, faulty or not.
pub struct Read {
    /// Absent when there is not enough for one.
    pub config: Option<Config>,
    /// Where secrets stand in the text.
    pub inline: Vec<Place>,
    pub store: store::Config,
}

pub fn read(table: &Table, report: &Report, now: Timestamp) -> Read {
    let mut root = Section::root(table, report);
    let site = site(&mut root);
    let tariff = tariff(&mut root);
    let (store, mark) = store(&mut root);
    let web = web(&mut root, &store.path, now);
    let of = site.as_ref().map(|site| mqtt::Of { site: &site.id, timezone: &site.timezone });
    let (meters, mut inline) = meters::read(&mut root, of.as_ref());
    let (alerts, in_alerts) = alerts(&mut root);
    let (evidence, exports, in_connections) = influx::read(&mut root);
    let (anchor, in_anchor) = anchor::read(&mut root, site.as_ref().map(|site| &site.id));
    let (upstream, in_upstreams) = upstream::read(&mut root, site.as_ref().map(|site| &site.id));
    inline.extend(in_alerts.into_iter().chain(in_connections).chain(in_anchor).chain(in_upstreams));
    root.done(&[]);

    let (Some(site), Some(tariff), Some(web)) = (site, tariff, web) else {
        return Read { config: None, inline, store };
    };
    let block = grid(&site.timezone, tariff.block_minutes, tariff.clock_offset_ms, now);
    let config = Config {
        site: web::Site {
            id: site.id.to_string(),
            name: site.name,
            organization: site.organization,
            timezone: site.timezone.clone(),
            block_minutes: tariff.block_minutes,
            clock_offset_ms: tariff.clock_offset_ms,
            peaks: tariff.peaks.clone(),
            simulated: !meters.meters.is_empty() && meters.meters.iter().all(|meter| meter.simulated),
        },
        site_id: site.id,
        store: store.clone(),
        web,
        sources: sources::Config { lines: meters.lines, brokers: meters.brokers, block, templates: meters.templates },
        blocks: blocks::Config {
            timezone: site.timezone,
            block_minutes: tariff.block_minutes,
            clock_offset_ms: tariff.clock_offset_ms,
            peaks: tariff.peaks,
            meters: meters.meters,
        },
        alerts,
        evidence: evidence::Config { mark, ..evidence },
        anchor,
        upstream,
        exports,
        off: Vec::new(),
        source: std::sync::Arc::default(),
    };
    Read { config: Some(config), inline, store }
}

struct SitePart {
    id: SiteId,
    name: String,
    organization: String,
    timezone: String,
}

fn site(root: &mut Section) -> Option<SitePart> {
    let mut part = root.table("site");
    let id = part.named::<SiteId>("id", "give the site a name of a-z 0-9 -, such as id = \"plant-7\"");
    let name = part.text("name");
    let organization = part.text("organization");
    let mend = "block borders and peak hours follow local time: timezone = \"Asia/Kuala_Lumpur\"";
    let timezone = part.need("timezone", mend).and_then(|field| timezone(&field));
    part.done(&[]);
    let (id, _) = id?;
    Some(SitePart {
        name: name.unwrap_or(id.as_str()).to_owned(),
        organization: organization.unwrap_or_default().to_owned(),
        timezone: timezone?,
        id,
    })
}

/// The zone's own name: `europe/berlin` is `Europe/Berlin`.
pub fn timezone(field: &Field) -> Option<String> {
    let name = field.text()?;
    if let Some(zone) = TimeZone::get(name).ok().and_then(|zone| zone.iana_name().map(str::to_owned)) {
        return Some(zone);
    }
    let all: Vec<_> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let mend = nearest(name, all.iter().map(String::as_str)).map_or_else(
        || "give an IANA name such as \"Europe/Berlin\" or \"UTC\"".to_owned(),
        |near| format!("did you mean \"{near}\"?"),
    );
    field.fault(format!("{} is no time zone", field.shown()), mend)
}

struct Tariff {
    block_minutes: u8,
    clock_offset_ms: i64,
    peaks: Vec<PeakWindow>,
}

fn tariff(root: &mut Section) -> Option<Tariff> {
    let mut part = root.table("tariff");
    let block_minutes = match part.get("block_minutes").map(|field| (field.value, field)) {
        None => 30,
        Some((Value::Integer(15), _)) => 15,
        Some((Value::Integer(30), _)) => 30,
        Some((Value::Integer(60), _)) => 60,
        Some((_, field)) => field.fault(format!("{} is none of 15, 30, 60", field.shown()), "").unwrap_or(30),
    };
    let clock_offset_ms = part.get("clock_offset").and_then(|field| {
        let offset = units::signed_duration_ms(field.text()?);
        match offset {
            Some(offset) if offset.abs() <= 15 * 60_000 => Some(offset),
            Some(_) => field.fault(format!("{} is not within -15min to 15min", field.shown()), ""),
            None => field.fault(format!("{} is not a duration", field.shown()), "write it as \"2s\" or \"-1500ms\""),
        }
    });
    let peaks = match part.tables("peak") {
        Some(peaks) => peaks.into_iter().filter_map(|peak| peak_window(peak, block_minutes)).collect(),
        None => vec![PeakWindow { days: [true; 7], from_minute: DEFAULT_PEAK.0, to_minute: DEFAULT_PEAK.1 }],
    };
    part.done(&[]);
    Some(Tariff { block_minutes, clock_offset_ms: clock_offset_ms.unwrap_or(0), peaks })
}

/// 14:00 to 22:00.
const DEFAULT_PEAK: (u16, u16) = (14 * 60, 22 * 60);

fn peak_window(mut peak: Section, block_minutes: u8) -> Option<PeakWindow> {
    let mut edge = |key: &'static str, default: u16| {
        let Some(field) = peak.get(key) else { return Some(default) };
        let Some(minute) = units::time_of_day(field.text()?) else {
            return field.fault(format!("{} is no time of day", field.shown()), "write it as \"14:00\"");
        };
        if minute % u16::from(block_minutes) != 0 {
            let why = format!("{} lies inside a block of {block_minutes} minutes", field.shown());
            return field.fault(why, format!("take a multiple of {block_minutes} minutes"));
        }
        Some(minute)
    };
    let (from, to) = (edge("from", DEFAULT_PEAK.0), edge("to", DEFAULT_PEAK.1));
    let days = match peak.get("days") {
        None => Some([true; 7]),
        Some(field) => field.list().map(|listed| {
            let mut days = [false; 7];
            if listed.is_empty() {
                field.fault::<()>("names no day", "leave it out for every day");
            }
            listed.iter().filter_map(|day| day.one_of(&DAYS)).for_each(|day| days[day] = true);
            days
        }),
    };
    let (place, path, report) = (peak.place, peak.path_of("to"), peak.report);
    peak.done(&[]);
    let (from_minute, to_minute, days) = (from?, to?, days?);
    if from_minute == to_minute || from_minute == 24 * 60 {
        report.fault(place, &path, "the window is empty", "the whole day is from = \"00:00\", to = \"24:00\"");
    }
    Some(PeakWindow { days, from_minute, to_minute })
}

fn store(root: &mut Section) -> (store::Config, PathBuf) {
    let mut part = root.table("store");
    let path = part.get("path").and_then(|field| absolute(&field));
    let mark = part.get("mark").map(|field| (absolute(&field), field));
    let least_wait = Duration::from_millis(100);
    let default = default_store();
    let config = store::Config {
        path: path.unwrap_or(default.path),
        commit_every: part.duration("commit_every", least_wait..=DAY / 1_440).unwrap_or(default.commit_every),
        keep_raw: part.duration("keep_raw", DAY..=DAY * 36_500).unwrap_or(default.keep_raw),
        max_disk: part.size("max_disk", 8_000_000, "8MB").unwrap_or(default.max_disk),
        reserve: part.size("reserve", 1_000_000, "1MB").unwrap_or(default.reserve),
    };
    if let Some((Some(mark), field)) = &mark
        && mark.starts_with(&config.path)
    {
        let why = format!("{} lies in the store, and would go back in time with it", field.shown());
        field.fault::<()>(why, "name a place outside of store.path, on another disk if there is one");
    }
    // No fault: its disk may be one that comes later, and nothing but the notice of a rollback is missing meanwhile.
    if let Some((Some(mark), field)) = &mark
        && field.whence() == Whence::File
        && let Some(folder) = mark.parent()
        && folder.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
    {
        let why = format!("{} is not there: a store that goes back in time is not noticed", folder.display());
        let mend = "make that folder and let meterseal write there, or mount its disk; meterseal makes none";
        field.report.warn(field.place, &field.path, why, mend);
    }
    part.done(&[]);
    let mark = mark.and_then(|(mark, _)| mark).unwrap_or_else(|| default_mark(&config.path));
    (config, mark)
}

fn absolute(field: &Field) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    if path.is_absolute() { Some(path) } else { field.fault(format!("{} is not an absolute path", field.shown()), "") }
}

/// Beside the store; where there is a folder for it (`StateDirectory=meterseal-mark` of the unit), in there. It
/// follows from the disk alone: a command that is run by hand must find the mark that the daemon keeps.
fn default_mark(store: &Path) -> PathBuf {
    let beside = |end: &str| {
        let mut path = store.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    };
    let folder = beside("-mark");
    if folder.is_dir() { folder.join("checkpoint") } else { beside(".mark") }
}

/// What holds where the file says nothing.
pub fn default_store() -> store::Config {
    store::Config {
        path: "/var/lib/meterseal".into(),
        commit_every: Duration::from_secs(1),
        keep_raw: DAY * 90,
        max_disk: 2_000_000_000,
        reserve: 64_000_000,
    }
}

const DAY: Duration = Duration::from_secs(86_400);

fn web(root: &mut Section, store: &Path, now: Timestamp) -> Option<web::Config> {
    let mut part = root.table("web");
    let listen = match part.get("listen") {
        None => Some(SocketAddr::from(([127, 0, 0, 1], 3001))),
        Some(field) => listen(&field),
    };
    let is_open = listen.is_some_and(|listen| !web::is_own(listen));
    let tls = match part.get("tls") {
        None if is_open => Some(Tls::SelfSigned),
        None => Some(Tls::Off),
        Some(field) => {
            let tls = tls(&field);
            if tls == Some(Tls::Off) && is_open {
                let why =
                    "an address that others can reach needs TLS: a PIN or a token would cross the network in the clear";
                field.fault::<()>(why, "say \"self-signed\" or { cert = \"…\", key = \"…\" }, or listen on 127.0.0.1");
            }
            // What is wrong with the pair may be mended while the program runs, which goes on meanwhile.
            let looked_at = tls.as_ref().filter(|_| field.whence() == Whence::File);
            if let Some(Tls::Own { cert, key }) = looked_at {
                field.report.uses(field.place, &format!("{}.cert", field.path), cert);
                field.report.uses(field.place, &format!("{}.key", field.path), key);
            }
            if let Some(why) = looked_at.and_then(|tls| web::look_at(tls, Path::new(""), now).1) {
                field.report.warn(field.place, &field.path, why, "");
            }
            tls
        }
    };
    let names = part.get("names").map_or_else(Vec::new, |field| names(&field));
    let session_idle = part.duration("session_idle", Duration::from_secs(60)..=DAY / 2).unwrap_or(web::SESSION_IDLE);
    part.done(&[]);
    Some(web::Config { listen: listen?, tls: tls?, names, folder: store.join("tls"), session_idle })
}

fn names(list: &Field) -> Vec<String> {
    let name = |field: &Field| {
        let name = field.text()?.to_ascii_lowercase();
        if DnsName::try_from(name.as_str()).is_ok() {
            return Some(name);
        }
        field.fault(format!("{} is no host name", field.shown()), "write it without port, as \"energy.plant.example\"")
    };
    list.list().unwrap_or_default().iter().filter_map(name).collect()
}

fn listen(field: &Field) -> Option<SocketAddr> {
    let address = field.text()?.parse::<SocketAddr>().ok();
    address.or_else(|| {
        let mend = "write it as \"127.0.0.1:3001\", \"192.0.2.7:3001\" or \"[::]:3001\"";
        field.fault(format!("{} is no address and port", field.shown()), mend)
    })
}

fn tls(field: &Field) -> Option<Tls> {
    const CHOICE: &str = "say \"self-signed\", { cert = \"PATH\", key = \"PATH\" } or \"off\"";
    match field.value {
        Value::Text(text) if text == "off" => Some(Tls::Off),
        Value::Text(text) if text == "self-signed" => Some(Tls::SelfSigned),
        Value::Table(_) => {
            let mut part = field.section()?;
            let mut path = |key: &'static str| {
                let at = part.need(key, CHOICE)?;
                let path = PathBuf::from(at.text()?);
                if path.is_absolute() {
                    Some(path)
                } else {
                    at.fault(format!("{} is not an absolute path", at.shown()), "")
                }
            };
            let (cert, key) = (path("cert"), path("key"));
            part.done(&[]);
            Some(Tls::Own { cert: cert?, key: key? })
        }
        _ => field.fault(format!("{} is no way of TLS", field.shown()), CHOICE),
    }
}

/// Placeholders of a webhook's body.
const PLACEHOLDERS: &[&str] = &["text", "kind", "meter", "site", "time", "id", "contact"];

fn alerts(root: &mut Section) -> (alerts::Config, Vec<Place>) {
    let mut part = root.table("alerts");
    let mut inline = Vec::new();
    let webhook = part.get("webhook").and_then(|field| webhook(&field, &mut inline));
    part.done(&[]);
    (alerts::Config { webhook }, inline)
}

fn webhook(field: &Field, inline: &mut Vec<Place>) -> Option<alerts::Webhook> {
    let mut part = field.section()?;
    let url =
        part.need("url", "name where alerts are sent: url = \"https://...\"").and_then(|url| webhook_url(&url, inline));
    let body = match part.get("body") {
        None => Some(r#"{"to":"{{contact}}","message":"{{text}}"}"#.to_owned()),
        Some(body) => webhook_body(&body),
    };
    let contact = part.text("contact").unwrap_or_default().to_owned();
    part.done(&[]);
    Some(alerts::Webhook { url: url?, body: body?, contact })
}

/// What is off when its address is not to be had.
const WEBHOOK: &str = "the webhook of the alerts";

/// An address may bear a token, so it may be a secret.
fn webhook_url(field: &Field, inline: &mut Vec<Place>) -> Option<String> {
    let (url, inside) = match fetch(field) {
        Fetched::Here(secret) => (secret, false),
        Fetched::Inline(secret) => (secret, true),
        Fetched::Missing(why) => {
            field.report.off(field.place, &field.path, WEBHOOK, &why);
            return None;
        }
        Fetched::Unseen | Fetched::Faulty => return None,
    };
    // What was fetched is a secret, all the more where it is none that was meant.
    let faulty = |why, mend| {
        bad_secret::<()>(field, WEBHOOK, why, mend);
        None
    };
    let Ok(parsed) = reqwest::Url::parse(url.reveal()) else {
        return faulty("is no URL", "write it as \"https://host/path\"");
    };
    if !matches!(parsed.scheme(), "http" | "https") {
        return faulty("is neither http nor https", "begin it with https://");
    }
    if inside && (!parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some()) {
        inline.push(field.place);
        let mend = "refer to it with { file = \"PATH\" } or { credential = \"NAME\" }";
        field.report.warn(field.place, &field.path, "a secret stands in the file for all who may read it", mend);
    }
    Some(url.reveal().to_owned())
}

fn webhook_body(field: &Field) -> Option<String> {
    let body = field.text()?;
    let mut rest = body;
    while let Some((_, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            return field.fault("`{{` has no `}}`", "");
        };
        if !PLACEHOLDERS.contains(&name.trim()) {
            let mend = nearest(name.trim(), PLACEHOLDERS.iter().copied()).map_or_else(
                || format!("known: {}", PLACEHOLDERS.join(", ")),
                |near| format!("did you mean `{{{{{near}}}}}`?"),
            );
            return field.fault(format!("no such placeholder: `{{{{{}}}}}`", name.trim()), mend);
        }
        rest = after;
    }
    let json: Result<serde_json::Value, _> = serde_json::from_str(body);
    match json {
        Ok(_) => Some(body.to_owned()),
        Err(error) => field.fault(format!("is not JSON: {error}"), "placeholders stand inside of quotes"),
    }
}

/// Where borders lie at present: `offset_ms` after whole blocks of local time.
fn grid(timezone: &str, block_minutes: u8, offset_ms: i64, now: Timestamp) -> BlockGrid {
    let every_ms = i64::from(block_minutes) * 60_000;
    let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
    let now = jiff::Timestamp::from_millisecond(now.as_millis()).unwrap_or_default();
    let ahead_ms = i64::from(zone.to_offset(now).seconds()) * 1_000;
    BlockGrid { every_ms, offset_ms: (offset_ms - ahead_ms).rem_euclid(every_ms) }
}
