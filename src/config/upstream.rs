//! `[[upstream]]`: where records are sent, in what order, and by what secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Url;
use zeroize::Zeroizing;

use super::report::Place;
use super::secret::{Found, bad_tls, found, found_file};
use super::section::{Field, Section};
use super::{anchor, mqtt as broker};
use crate::model::{SiteId, Stream, UpstreamName};
use crate::upstream::tls::{self, Tls};
use crate::upstream::{Config, Kind, Start, Upstream, ems, https, mqtt, postgres, telemetry};

/// How records get there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Https,
    Mqtt,
    Postgres,
    Telemetry,
    EmsWebsocket,
}

const WAYS: [Way; 5] = [Way::Https, Way::Mqtt, Way::Postgres, Way::Telemetry, Way::EmsWebsocket];
/// As the config names them.
const KINDS: [&str; 5] = ["https", "mqtt", "postgres", "telemetry", "ems-websocket"];

impl Way {
    fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Mqtt => "mqtt",
            Self::Postgres => "postgres",
            Self::Telemetry => "telemetry",
            Self::EmsWebsocket => "ems-websocket",
        }
    }

    /// What it has words for, in order of urgency.
    fn streams(self) -> &'static [Stream] {
        match self {
            Self::Https | Self::Mqtt | Self::Postgres => &STREAMS,
            Self::Telemetry => &[Stream::Blocks],
            Self::EmsWebsocket => &[Stream::Readings],
        }
    }
}

const STREAMS: [Stream; 6] =
    [Stream::Checkpoints, Stream::Blocks, Stream::Anchors, Stream::Datasets, Stream::Alerts, Stream::Readings];

/// Keys that only some kinds have.
const ONLY: [(&str, &[Way]); 9] = [
    ("token", &[Way::Https, Way::Telemetry, Way::EmsWebsocket]),
    ("username", &[Way::Mqtt]),
    ("password", &[Way::Mqtt, Way::Postgres]),
    ("client_id", &[Way::Mqtt]),
    ("version", &[Way::Mqtt]),
    ("topic", &[Way::Mqtt]),
    ("keep_alive", &[Way::Mqtt]),
    ("max_packet", &[Way::Mqtt]),
    ("schema", &[Way::Postgres]),
];
/// Keys of every kind's own part.
const COMMON: [&str; 5] = ["url", "ca", "client_cert", "client_key", "timeout"];

/// Where records are published, unless told.
const TOPIC: &str = "meterseal/{site}/{gateway}/{stream}";
/// Longer than any record but an odd anchor's.
const MAX_PACKET: u64 = 256_000;
const SECOND: Duration = Duration::from_secs(1);

/// Names that are taken, and where.
type Taken = BTreeMap<UpstreamName, Place>;

/// Reads all `[[upstream]]`, and where secrets stand in the text.
pub fn read(root: &mut Section, site: Option<&SiteId>) -> (Config, Vec<Place>) {
    let (mut config, mut inline, mut taken) = (Config::default(), Vec::new(), Taken::new());
    for part in root.tables("upstream").unwrap_or_default() {
        if site.is_some_and(|site| site.as_str() == anchor::DEMO) {
            let why = "the data of site \"demo\" are simulated, and are sent to nobody";
            part.report.fault(part.place, &part.path_of("name"), why, "give the site another id");
        }
        config.upstreams.extend(upstream(part, &mut taken, &mut inline));
    }
    (config, inline)
}

fn upstream(mut part: Section, taken: &mut Taken, inline: &mut Vec<Place>) -> Option<Upstream> {
    let name = take_name(&mut part, taken);
    let of = name.as_ref().map_or("an upstream".to_owned(), |name| format!("upstream {name}"));
    let mend = "say how records get there: kind = \"https\"";
    let way = part.need("kind", mend).and_then(|field| field.one_of(&KINDS)).map(|at| WAYS[at]);
    let streams = match (part.get("streams"), way) {
        (Some(field), Some(way)) => streams(&field, way),
        (_, way) => way.map(|way| way.streams().to_vec()),
    };
    // It knows a mean power for each minute, and nothing finer.
    let streams = streams.map(|streams| match way {
        Some(Way::EmsWebsocket) => vec![Stream::Minutes],
        _ => streams,
    });
    let start = part.get("start").map_or(Some(0), |field| field.one_of(&["oldest", "now"]));
    let start = start.map(|at| if at == 0 { Start::Oldest } else { Start::Now });
    let kind = way.and_then(|way| {
        refuse_of_others(&mut part, way);
        match way {
            Way::Https => https(&mut part, &of, inline),
            Way::Mqtt => mqtt(&mut part, &of, inline),
            Way::Postgres => postgres(&mut part, &of, inline),
            Way::Telemetry => telemetry(&mut part, &of, inline),
            Way::EmsWebsocket => ems_websocket(&mut part, &of, inline),
        }
    });
    if way.is_none() {
        // What is meant for some kind is no fault of its own.
        ONLY.iter().map(|(key, _)| key).chain(&COMMON).for_each(|key| drop(part.get(key)));
    }
    part.done(&[]);
    Some(Upstream { name: name?.to_string(), kind: kind?, streams: streams?, start: start? })
}

fn take_name(part: &mut Section, taken: &mut Taken) -> Option<UpstreamName> {
    let (report, path) = (part.report, part.path_of("name"));
    let (name, place) = part.named::<UpstreamName>("name", "give it a name, such as name = \"cloud\"")?;
    if let Some(first) = taken.insert(name.clone(), place) {
        let why = format!("`{name}` is the name of another upstream at {}", report.spot(first));
        report.fault(place, &path, why, "every upstream has a name of its own, under which its position is kept");
    }
    Some(name)
}

/// What is meant for another kind.
fn refuse_of_others(part: &mut Section, way: Way) {
    for (key, ways) in ONLY {
        if !ways.contains(&way)
            && let Some(field) = part.get(key)
        {
            let listed = ways.iter().map(|way| way.as_str()).collect::<Vec<_>>().join(" and ");
            let why = format!("{} has no such thing; it is for {listed}", way.as_str());
            field.fault::<()>(why, "take it out, or correct `kind`");
        }
    }
}

/// The streams in order of urgency. Checkpoints go first wherever they stand: nothing is sent before their answer.
fn streams(field: &Field, way: Way) -> Option<Vec<Stream>> {
    let known = STREAMS.map(Stream::as_str);
    let listed = field.list()?;
    if listed.is_empty() {
        return field.fault("names no stream", "leave it out for all of them");
    }
    let mut streams: Vec<Stream> = Vec::new();
    for field in &listed {
        let stream = STREAMS[field.one_of(&known)?];
        if !way.streams().contains(&stream) {
            let words = way.streams().iter().map(|stream| stream.as_str()).collect::<Vec<_>>().join(" and ");
            return field.fault(format!("{} has no words for {stream}", way.as_str()), format!("it takes {words}"));
        }
        if streams.contains(&stream) {
            return field.fault(format!("{} is named twice", field.shown()), "keep one of the two");
        }
        streams.push(stream);
    }
    if way.streams().contains(&Stream::Checkpoints) {
        streams.retain(|stream| *stream != Stream::Checkpoints);
        streams.insert(0, Stream::Checkpoints);
    }
    Some(streams)
}

fn https(part: &mut Section, of: &str, inline: &mut Vec<Place>) -> Option<Kind> {
    let web = Web { way: Way::Https, example: "https://backend.example/v1/sync", address: https::address };
    web.read(part, of, inline, |url, token, tls, timeout| Kind::Https(https::Config { url, token, tls, timeout }))
}

fn telemetry(part: &mut Section, of: &str, inline: &mut Vec<Place>) -> Option<Kind> {
    let web = Web { way: Way::Telemetry, example: "https://backend.example/v1/telemetry", address: https::address };
    web.read(part, of, inline, |url, token, tls, timeout| {
        Kind::Telemetry(telemetry::Config { url, token, tls, timeout })
    })
}

fn ems_websocket(part: &mut Section, of: &str, inline: &mut Vec<Place>) -> Option<Kind> {
    let web = Web { way: Way::EmsWebsocket, example: "wss://ems.example/", address: ems::address };
    web.read(part, of, inline, |url, token, tls, timeout| Kind::EmsWebsocket(ems::Config { url, token, tls, timeout }))
}

/// A receiver that has an address of the web, and knows us by a token or a certificate.
struct Web {
    way: Way,
    /// An address by TLS.
    example: &'static str,
    address: fn(&str) -> Result<Url, &'static str>,
}

type Token = Option<Zeroizing<String>>;

impl Web {
    fn read(
        &self,
        part: &mut Section,
        of: &str,
        inline: &mut Vec<Place>,
        kind: impl FnOnce(Url, Token, Tls, Duration) -> Kind,
    ) -> Option<Kind> {
        let Self { way, example, address } = *self;
        let secure = &example[..example.find(':').unwrap_or(0) + "://".len()];
        let is_tls = |url: &Url| secure.starts_with(&format!("{}:", url.scheme()));
        let mend = format!("begin the address with {secure}");
        let url = part.need("url", &format!("name the receiver: url = \"{example}\""));
        let url = url.and_then(|field| match address(field.text()?) {
            Ok(url) if is_tls(&url) => Some(url),
            Ok(url) => in_the_clear(&field, url.host_str(), &mend).map(|()| url),
            Err(why) => field.fault(why, format!("write it as \"{example}\"")),
        });
        let token = Found::optional(part.get("token").map(|field| found(&field, of, inline)));
        let tls = tls(part, of, if url.as_ref().is_none_or(is_tls) { Ok(()) } else { Err(secure) }, inline);
        let timeout = patience(part, SECOND * 30);
        let url = url?;
        let to = url.as_str().trim_end_matches('/').to_owned();
        unless_off(way, to, token.and(tls).map(|(token, tls)| kind(url, token, tls, timeout)))
    }
}

fn mqtt(part: &mut Section, of: &str, inline: &mut Vec<Place>) -> Option<Kind> {
    let url = part.need("url", "name the broker: url = \"mqtts://broker.example:8883\"");
    let url = url.and_then(|field| {
        let url = broker::address(&field)?;
        if url.tls {
            Some(url)
        } else {
            in_the_clear(&field, Some(&url.host), "begin the address with mqtts://").map(|()| url)
        }
    });
    let is_tls = url.as_ref().is_none_or(|url| url.tls);
    let username = part.text("username").map(str::to_owned);
    let password = part.get("password").map(|field| match &username {
        Some(_) => found(&field, of, inline),
        None => Found::good(field.fault("a password needs a user", "add `username`")),
    });
    let password = Found::optional(password);
    let tls = tls(part, of, if is_tls { Ok(()) } else { Err("mqtts://") }, inline);
    let version = part.get("version").map_or(Some(0), |field| field.one_of(&broker::VERSIONS));
    let client_id = part.get("client_id").map_or(Some(None), |field| broker::client_id(&field).map(Some));
    let topic = part.get("topic").map_or_else(|| TOPIC.parse().ok(), |field| topic(&field));
    let keep_alive = part.duration("keep_alive", SECOND * 5..=SECOND * 600).unwrap_or(SECOND * 30);
    let max_packet = part.get("max_packet").map_or(Some(MAX_PACKET), |field| broker::packet_size(&field));
    let timeout = patience(part, SECOND * 30);
    let (url, topic, client_id) = (url?, topic?, client_id?);
    let version = if version? == 0 { mqtt::Version::V311 } else { mqtt::Version::V5 };
    let max_packet = usize::try_from(max_packet?).unwrap_or(usize::MAX);
    let to = format!("{}://{}:{}", if url.tls { "mqtts" } else { "mqtt" }, url.host, url.port);
    let kind = password.and(tls).map(|(password, tls)| {
        let tls = url.tls.then_some(tls);
        let (host, port) = (url.host, url.port);
        Kind::Mqtt(mqtt::Config {
            host,
            port,
            tls,
            version,
            username,
            password,
            client_id,
            topic,
            keep_alive,
            timeout,
            max_packet,
        })
    });
    unless_off(Way::Mqtt, to, kind)
}

fn topic(field: &Field) -> Option<mqtt::Template> {
    match field.text()?.parse() {
        Ok(topic) => Some(topic),
        Err(mqtt::BadTemplate { why, mend }) => field.fault(why, mend),
    }
}

fn postgres(part: &mut Section, of: &str, inline: &mut Vec<Place>) -> Option<Kind> {
    let url = part.need("url", "name the database: url = \"postgres://meterseal@db.example:5432/plant\"");
    let schema = part.get("schema");
    let read = |told_at: &Field, password, tls, schema: Option<&str>| {
        let read = postgres::Config::from_url(url.as_ref()?.text()?, password, tls, schema.map(str::to_owned));
        read.map_or_else(|why| told_at.fault(why, ""), Some)
    };
    let address = url.as_ref().and_then(|field| {
        let address = read(field, None, Tls::default(), None)?;
        let is_near = |host: &str| host.starts_with('/') || anchor::is_loopback(host);
        let open = address.hosts.iter().find(|(host, _)| address.tls.is_none() && !is_near(host));
        match open {
            Some((host, _)) => {
                in_the_clear(field, Some(host), "take sslmode=disable out of it").map(|()| address.clone())
            }
            None => Some(address),
        }
    });
    // The address is good, so that what is wrong now is the name.
    let schema = match (&schema, &address) {
        (Some(field), Some(_)) => read(field, None, Tls::default(), field.text()).map(|config| config.schema),
        _ => Some(postgres::Config::SCHEMA.to_owned()),
    };
    let password = Found::optional(part.get("password").map(|field| found(&field, of, inline)));
    let found = password.and(tls(part, of, Ok(()), inline));
    let statement_timeout = patience(part, SECOND * 60);
    let (url, address, schema) = (url.as_ref()?, address?, schema?);
    let found = match found {
        Found::Here((password, tls)) => Found::good(read(url, password, tls, Some(&schema))),
        Found::Off(why) => Found::Off(why),
        Found::Faulty => Found::Faulty,
    };
    let kind = found.map(|config| Kind::Postgres(postgres::Config { statement_timeout, ..config }));
    unless_off(Way::Postgres, address.to(), kind)
}

/// The time that the other side may take to answer.
fn patience(part: &mut Section, unless_told: Duration) -> Duration {
    part.duration("timeout", SECOND..=SECOND * 600).unwrap_or(unless_told)
}

/// How the two know each other; `secure` is how an address of TLS begins, where this one does not.
fn tls(part: &mut Section, of: &str, secure: Result<(), &str>, inline: &mut Vec<Place>) -> Found<Tls> {
    let (ca, chain, key) = (part.get("ca"), part.get("client_cert"), part.get("client_key"));
    if let Err(secure) = secure {
        for field in [&ca, &chain, &key].into_iter().flatten() {
            field.fault::<()>("is for TLS", format!("begin the address with {secure}"));
        }
        return Found::Here(Tls::default());
    }
    let identity = match (&chain, &key) {
        (Some(chain), Some(key)) => Some(found_file(chain, of).and(found(key, of, inline))),
        (None, None) => None,
        (Some(field), None) | (None, Some(field)) => {
            let mend = "give `client_cert` and `client_key`";
            Some(Found::good(field.fault("a client certificate and its key go together", mend)))
        }
    };
    let identity = identity.map(|found| found.map(|(chain, key)| (chain, Zeroizing::new(key.as_bytes().to_vec()))));
    let found = Found::optional(ca.as_ref().map(|field| found_file(field, of))).and(Found::optional(identity));
    let found = found.map(|(ca, identity)| Tls { ca, identity });
    match (&found, chain.as_ref().or(ca.as_ref())) {
        (Found::Here(tls), Some(other)) => match tls::client(tls) {
            Ok(_) => found,
            Err(bad) => bad_tls(&bad, [ca.as_ref(), chain.as_ref(), key.as_ref()], other, of),
        },
        _ => found,
    }
}

/// Records are plaintext: outside of this machine anybody on the line could read and change them.
fn in_the_clear(field: &Field, host: Option<&str>, mend: &str) -> Option<()> {
    let host = host.unwrap_or_default();
    if anchor::is_loopback(host) {
        return Some(());
    }
    let why =
        format!("sends records and secrets to {host} in the clear: whoever is on the line can read and change them");
    field.fault(why, mend)
}

/// An upstream whose secrets or files are not there is off, and the rest runs.
fn unless_off(way: Way, to: impl ToString, found: Found<Kind>) -> Option<Kind> {
    match found {
        Found::Here(kind) => Some(kind),
        Found::Off(why) => Some(Kind::Off { kind: way.as_str(), to: to.to_string(), why }),
        Found::Faulty => None,
    }
}
