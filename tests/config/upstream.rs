//! `[[upstream]]`: what it says, and every fault of it.

use std::time::Duration;

use meterseal::config::{self, Files};
use meterseal::model::Stream;
use meterseal::upstream::{Kind, Start, Upstream};

use crate::{NOW, check, faults, folder};

const HEAD: &str = "[site]\nid = \"plant-7\"\ntimezone = \"Asia/Kuala_Lumpur\"\n";
const SECRET: &str = "s3cr3t-of-the-cloud";

/// The lines of one upstream begin with line 4 of the file.
const HTTPS: &str = r#"[[upstream]]
name = "cloud"
kind = "https"
url = "https://backend.example/v1/sync"
token = { file = "FILE" }
streams = ["blocks", "readings", "checkpoints"]
start = "now"
timeout = "5s"
"#;
const MQTT: &str = r#"[[upstream]]
name = "cloud"
kind = "mqtt"
url = "mqtts://broker.example"
username = "edge"
password = { file = "FILE" }
client_id = "plant-7"
version = "5"
topic = "plants/{site}/{gateway}/{stream}/{meter}"
keep_alive = "1min"
max_packet = "100kB"
"#;
const POSTGRES: &str = r#"[[upstream]]
name = "cloud"
kind = "postgres"
url = "postgres://edge@db.example:6432/plant"
password = { file = "FILE" }
schema = "plant_7"
timeout = "20s"
"#;

const TELEMETRY: &str = r#"[[upstream]]
name = "cloud"
kind = "telemetry"
url = "https://b.example/v1/telemetry"
streams = ["blocks"]
"#;
const EMS: &str = r#"[[upstream]]
name = "cloud"
kind = "ems-websocket"
url = "wss://ems.example/"
"#;

/// A text with its secret in a file, and something in the stead of something else.
fn with(text: &str, one: &str, other: &str) -> (tempfile::TempDir, String) {
    assert!(text.contains(one), "{one}");
    let folder = folder(&[("secret", SECRET)]);
    let file = folder.path().join("secret").display().to_string();
    (folder, format!("{HEAD}{}", text.replacen(one, other, 1).replace("FILE", &file)))
}

fn upstreams(text: &str) -> Vec<Upstream> {
    let checked = check(text);
    assert_eq!(checked.faults, [], "{text}");
    checked.config.unwrap().upstream.upstreams
}

/// The one upstream of a good config.
fn one(text: &str) -> Upstream {
    let (_folder, text) = with(text, "kind", "kind");
    let upstream = upstreams(&text).remove(0);
    let shown = format!("{upstream:?}");
    assert!(!shown.contains(SECRET), "{shown}");
    upstream
}

#[test]
fn a_good_https_part_says_what_it_says() {
    let cloud = one(HTTPS);
    assert_eq!((cloud.name.as_str(), cloud.start), ("cloud", Start::Now));
    // Nothing goes before the checkpoint's answer.
    assert_eq!(cloud.streams, [Stream::Checkpoints, Stream::Blocks, Stream::Readings]);
    assert_eq!((cloud.kind.as_str(), cloud.kind.to().as_str()), ("https", "https://backend.example/v1/sync"));
    let Kind::Https(config) = cloud.kind else { panic!("{cloud:?}") };
    assert_eq!(config.token.as_deref().map(String::as_str), Some(SECRET));
    assert_eq!((config.timeout, config.tls.ca, config.tls.identity), (Duration::from_secs(5), None, None));

    let bare = one("[[upstream]]\nname = \"cloud\"\nkind = \"https\"\nurl = \"http://127.0.0.1:8080/x\"\n");
    assert_eq!(bare.start, Start::Oldest);
    let all = ["checkpoints", "blocks", "anchors", "datasets", "alerts", "readings"];
    assert_eq!(bare.streams.iter().map(|stream| stream.as_str()).collect::<Vec<_>>(), all);
    let Kind::Https(config) = bare.kind else { panic!("{bare:?}") };
    assert_eq!((config.token, config.timeout), (None, Duration::from_secs(30)));
}

#[test]
fn a_good_mqtt_part_says_what_it_says() {
    let cloud = one(MQTT);
    assert_eq!((cloud.kind.as_str(), cloud.kind.to().as_str()), ("mqtt", "mqtts://broker.example:8883"));
    let Kind::Mqtt(config) = cloud.kind else { panic!("{cloud:?}") };
    assert_eq!((config.host.as_str(), config.port, config.tls.is_some()), ("broker.example", 8883, true));
    assert_eq!(config.password.as_deref().map(String::as_str), Some(SECRET));
    assert_eq!((config.username.as_deref(), config.client_id.as_deref()), (Some("edge"), Some("plant-7")));
    assert_eq!(config.topic.to_string(), "plants/{site}/{gateway}/{stream}/{meter}");
    assert_eq!((config.keep_alive, config.max_packet), (Duration::from_secs(60), 100_000));
    let bare = one("[[upstream]]\nname = \"b\"\nkind = \"mqtt\"\nurl = \"mqtt://localhost:1884\"\n");
    let Kind::Mqtt(config) = bare.kind else { panic!("{bare:?}") };
    assert_eq!((config.port, config.tls, config.username), (1884, None, None));
    assert_eq!(config.topic.to_string(), "meterseal/{site}/{gateway}/{stream}");
}

#[test]
fn a_good_postgres_part_says_what_it_says() {
    let cloud = one(POSTGRES);
    let to = "postgres://edge@db.example:6432/plant";
    assert_eq!((cloud.kind.as_str(), cloud.kind.to().as_str()), ("postgres", to));
    let Kind::Postgres(config) = cloud.kind else { panic!("{cloud:?}") };
    assert_eq!(config.password.as_deref().map(String::as_str), Some(SECRET));
    assert_eq!((config.schema.as_str(), config.statement_timeout), ("plant_7", Duration::from_secs(20)));
    assert!(config.tls.is_some());
    let bare = one("[[upstream]]\nname = \"b\"\nkind = \"postgres\"\nurl = \"postgres://edge@%2Fvar%2Frun/plant\"\n");
    let Kind::Postgres(config) = bare.kind else { panic!("{bare:?}") };
    assert_eq!((config.schema.as_str(), config.tls, config.password), ("meterseal", None, None));
}

#[test]
fn backends_that_exist_already_take_what_they_have_words_for() {
    let telemetry = one(TELEMETRY);
    assert_eq!((telemetry.kind.as_str(), &telemetry.streams[..]), ("telemetry", &[Stream::Blocks][..]));
    let Kind::Telemetry(config) = telemetry.kind else { panic!("{telemetry:?}") };
    assert_eq!(config.url.as_str(), "https://b.example/v1/telemetry");
    let ems = one(
        "[[upstream]]\nname = \"e\"\nkind = \"ems-websocket\"\nurl = \"wss://ems.example/\"\nstreams = [\"readings\"]\n\
         token = { file = \"FILE\" }\n",
    );
    // One mean power for each minute is made of them.
    assert_eq!((ems.kind.as_str(), &ems.streams[..]), ("ems-websocket", &[Stream::Minutes][..]));
    let Kind::EmsWebsocket(config) = ems.kind else { panic!("{ems:?}") };
    assert_eq!(config.token.as_deref().map(String::as_str), Some(SECRET));
}

#[test]
fn every_fault_says_where_and_how_to_mend_it() {
    let clear = |host: &str, mend: &str| {
        format!(
            "sends records and secrets to {host} in the clear: whoever is on the line can read and change them; {mend}"
        )
    };
    let url = "url = \"https://backend.example/v1/sync\"";
    let cases = [
        (HTTPS, "name = \"cloud\"\n", "", "4: NAME: is missing; give it a name, such as name = \"cloud\"".to_owned()),
        (
            HTTPS,
            "\"cloud\"",
            "\"Cloud 7\"",
            "5: NAME: `Cloud 7` is not a name of an upstream: 1 to 63 of a-z 0-9 -".to_owned(),
        ),
        (HTTPS, "kind = \"https\"\n", "", "4: kind: is missing; say how records get there: kind = \"https\"".to_owned()),
        (
            HTTPS,
            "kind = \"https\"",
            "kind = \"htps\"",
            "6: kind: \"htps\" is none of KINDS; did you mean \"https\"?".to_owned(),
        ),
        (
            HTTPS,
            "https://backend",
            "ftp://backend",
            "7: url: begins with neither https:// nor http://; write it as \"https://backend.example/v1/sync\"".to_owned(),
        ),
        (HTTPS, "https://backend.example/v1", "http://backend.example/v1", format!("7: url: {}", clear("backend.example", "begin the address with https://"))),
        (HTTPS, "https://backend.example/v1", "http://192.168.0.9/v1", format!("7: url: {}", clear("192.168.0.9", "begin the address with https://"))),
        (
            HTTPS,
            "token = { file = \"FILE\" }",
            "token = 7",
            "8: token: is a whole number, not a reference to a secret; write { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }".to_owned(),
        ),
        (
            HTTPS,
            "\"blocks\"",
            "\"block\"",
            "9: streams[0]: \"block\" is none of checkpoints, blocks, anchors, datasets, alerts, readings; did you mean \"blocks\"?".to_owned(),
        ),
        (HTTPS, "\"checkpoints\"]", "\"blocks\"]", "9: streams[2]: \"blocks\" is named twice; keep one of the two".to_owned()),
        (
            HTTPS,
            "[\"blocks\", \"readings\", \"checkpoints\"]",
            "[]",
            "9: streams: names no stream; leave it out for all of them".to_owned(),
        ),
        (HTTPS, "start = \"now\"", "start = \"new\"", "10: start: \"new\" is none of oldest, now".to_owned()),
        (HTTPS, "\"5s\"", "\"500ms\"", "11: timeout: 500ms is not within 1s to 10min".to_owned()),
        (HTTPS, "timeout", "timeot", "11: timeot: no such key; did you mean `timeout`?".to_owned()),
        (
            HTTPS,
            "timeout = \"5s\"",
            "topic = \"x\"",
            "11: topic: https has no such thing; it is for mqtt; take it out, or correct `kind`".to_owned(),
        ),
        (
            HTTPS,
            "timeout = \"5s\"",
            "client_cert = \"FILE\"",
            "11: client_cert: a client certificate and its key go together; give `client_cert` and `client_key`".to_owned(),
        ),
        (
            HTTPS,
            url,
            "url = \"http://127.0.0.1/\"\nca = \"FILE\"",
            "8: ca: is for TLS; begin the address with https://".to_owned(),
        ),
        (MQTT, "mqtts://", "mqtt://", format!("7: url: {}", clear("broker.example", "begin the address with mqtts://"))),
        (MQTT, "username = \"edge\"\n", "", "8: password: a password needs a user; add `username`".to_owned()),
        (MQTT, "version = \"5\"", "version = \"4\"", "11: version: \"4\" is none of 3.1.1, 5".to_owned()),
        (
            MQTT,
            "{gateway}/",
            "",
            "12: topic: the checkpoints of two gateways would overwrite each other; put {gateway} into it".to_owned(),
        ),
        (MQTT, "{meter}", "{metre}", "12: topic: {metre} is no placeholder; did you mean {meter}?".to_owned()),
        (
            MQTT,
            "max_packet = \"100kB\"",
            "max_packet = \"1B\"",
            "14: max_packet: \"1B\" is no size from 1kB to 16MB; write it as \"256kB\"".to_owned(),
        ),
        (
            TELEMETRY,
            "\"blocks\"",
            "\"alerts\"",
            "8: streams[0]: telemetry has no words for alerts; it takes blocks".to_owned(),
        ),
        (
            TELEMETRY,
            "https://b.example",
            "http://b.example",
            format!("7: url: {}", clear("b.example", "begin the address with https://")),
        ),
        (
            EMS,
            "wss://ems.example",
            "ws://ems.example",
            format!("7: url: {}", clear("ems.example", "begin the address with wss://")),
        ),
        (
            EMS,
            "wss://ems.example",
            "https://ems.example",
            "7: url: begins with neither wss:// nor ws://; write it as \"wss://ems.example/\"".to_owned(),
        ),
        (
            POSTGRES,
            "password = { file = \"FILE\" }",
            "token = { file = \"FILE\" }",
            "8: token: postgres has no such thing; it is for https and telemetry and ems-websocket; take it out, or correct `kind`".to_owned(),
        ),
        (
            POSTGRES,
            "/plant\"",
            "/plant?sslmode=disable\"",
            format!("7: url: {}", clear("db.example", "take sslmode=disable out of it")),
        ),
        (
            POSTGRES,
            "edge@",
            "edge:pw@",
            "7: url: the address holds a password, and addresses are shown: give it as `password`".to_owned(),
        ),
        (POSTGRES, "\"plant_7\"", "\"\"", "9: schema: `schema` is no name of 1 to 63 bytes".to_owned()),
    ];
    for (text, one, other, fault) in cases {
        let (folder, text) = with(text, one, other);
        let (line, said) = fault.split_once(": ").unwrap();
        let said = said.replace("NAME: ", "name: ").replace("KINDS", "https, mqtt, postgres, telemetry, ems-websocket");
        let expected = format!("m.toml:{line}: upstream[0].{said}");
        assert_eq!(faults(&text), [expected]);
        drop(folder);
    }
}

#[test]
fn the_demo_sends_to_nobody() {
    let (_folder, text) = with(HTTPS, "kind", "kind");
    let told = "m.toml:4: upstream[0].name: the data of site \"demo\" are simulated, and are sent to nobody; give the site another id";
    assert_eq!(faults(&text.replace("\"plant-7\"", "\"demo\"")), [told]);
}

#[test]
fn a_name_is_taken_once() {
    let (_folder, first) = with(HTTPS, "kind", "kind");
    let (_other, second) = with(HTTPS, "kind", "kind");
    let text = first.clone() + second.trim_start_matches(HEAD);
    let told = "m.toml:13: upstream[1].name: `cloud` is the name of another upstream at m.toml:5; every upstream has a name of its own, \
                under which its position is kept";
    assert_eq!(faults(&text), [told]);
}

#[test]
fn a_secret_that_is_not_there_turns_that_upstream_off_and_nothing_else() {
    let (_folder, text) = with(HTTPS, "{ file = \"FILE\" }", "{ env = \"METERSEAL_NOT_SET\" }");
    let (_other, second) = with(HTTPS, "\"cloud\"", "\"broker\"");
    let checked = check(&(text + second.trim_start_matches(HEAD)));
    assert_eq!(checked.faults, []);
    let config = checked.config.unwrap();
    let why =
        "upstream cloud is off: the environment has no METERSEAL_NOT_SET: set it for the service, or refer to a file";
    assert_eq!(config.off, [why]);
    let [cloud, broker] = &config.upstream.upstreams[..] else { panic!("{config:?}") };
    let to = "https://backend.example/v1/sync".to_owned();
    assert_eq!(cloud.kind, Kind::Off { kind: "https", to, why: why.to_owned() });
    assert_eq!(cloud.streams.len(), 3, "it keeps its positions");
    assert!(matches!(broker.kind, Kind::Https(_)));

    let (_folder, text) = with(HTTPS, "timeout", "ca = \"/nowhere/ca.pem\"\ntimeout");
    let off = check(&text).config.unwrap().off;
    assert!(off.len() == 1 && off[0].starts_with("upstream cloud is off: /nowhere/ca.pem cannot be read: "), "{off:?}");
}

/// A disk that was cut off, a copy that was cut short: what has nothing to do with that upstream goes on.
#[test]
fn a_file_that_is_of_no_use_turns_that_upstream_off_and_nothing_else() {
    const NONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let files = folder(&[("empty.pem", ""), ("garbage.pem", "\u{1}\u{2}garbage"), ("none.pem", NONE)]);
    let path = |name: &str| files.path().join(name).display().to_string();
    let own = |key: &str| format!("client_cert = \"{}\"\nclient_key = {key}\n", path("none.pem"));
    let key_file = format!("{{ file = \"{}\" }}", path("garbage.pem"));
    let ca = |name: &str| format!("ca = \"{}\"\n", path(name));
    let cases = [
        (ca("empty.pem"), "ca", path("empty.pem"), "the CA file holds no certificate in PEM"),
        (ca("garbage.pem"), "ca", path("garbage.pem"), "the CA file holds no certificate in PEM"),
        (ca("none.pem"), "ca", path("none.pem"), "the CA file holds no usable certificate"),
        (own(&key_file), "client_key", path("garbage.pem"), "the key of the client certificate is no private key"),
        (own(&key_file).replace("none", "empty"), "client_cert", path("empty.pem"), "the client certificate holds no"),
    ];
    for text in [HTTPS, MQTT, POSTGRES, TELEMETRY, EMS] {
        for (lines, key, file, why) in &cases {
            let (_folder, text) = with(text, "kind", &format!("{lines}kind"));
            let checked = check(&text);
            assert_eq!(checked.faults, [], "{text}");
            let [warned] = &checked.warnings[..] else { panic!("{:?}", checked.warnings) };
            let told = format!("upstream cloud is off: {file}: {why}");
            assert!(warned.key == format!("upstream[0].{key}") && warned.why.starts_with(&told), "{warned}");
            assert!(warned.why.contains("; write the "), "{warned}");
            let config = checked.config.unwrap();
            assert_eq!(config.off, std::slice::from_ref(&warned.why));
            let [upstream] = &config.upstream.upstreams[..] else { panic!("{config:?}") };
            assert!(matches!(&upstream.kind, Kind::Off { why, .. } if *why == warned.why), "{upstream:?}");
            // As it was kept when it was good, and is checked when the file of the config is bad.
            let again = config::check(&Files::from_kept(&checked.kept.to_kept()).unwrap(), NOW);
            assert_eq!((again.faults, again.config.unwrap().off), (vec![], config.off));
        }
    }
    // What stands in the text is a fault of the text.
    let (_folder, text) = with(HTTPS, "kind", &format!("{}kind", own("\"garbage\"")));
    let told = faults(&text);
    assert!(told.len() == 1 && told[0].starts_with("m.toml:7: upstream[0].client_key: the key of the"), "{told:?}");
}

#[test]
fn a_secret_in_the_file_is_told_and_not_kept() {
    let (_folder, text) = with(HTTPS, "{ file = \"FILE\" }", &format!("\"{SECRET}\""));
    let checked = check(&text);
    assert_eq!((checked.faults.len(), checked.warnings.len()), (0, 1), "{:?}", checked.warnings);
    let kept = checked.kept.to_kept();
    assert!(!kept.contains(SECRET), "{kept}");
    let again = config::check(&Files::from_kept(&kept).unwrap(), NOW).config.unwrap();
    assert!(matches!(again.upstream.upstreams[0].kind, Kind::Off { .. }));
}

#[test]
fn the_commented_examples_are_good() {
    let shipped = include_str!("../../config/meterseal.toml");
    let (_, rest) = shipped.split_once("\n# [[upstream]]\n").unwrap();
    let (examples, _) = rest.split_once("\n\n").unwrap();
    let lines = examples.lines().map(|line| line.strip_prefix("# ").unwrap().to_owned() + "\n");
    let text = format!("{HEAD}[[upstream]]\n{}", lines.collect::<String>());
    let kinds: Vec<_> = upstreams(&text).iter().map(|upstream| upstream.kind.as_str()).collect();
    assert_eq!(kinds, ["https", "mqtt", "postgres", "telemetry", "ems-websocket"]);
}
