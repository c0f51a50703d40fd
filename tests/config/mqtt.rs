//! `[[mqtt]]`: what it says, and every fault of it.

use std::time::Duration;

use meterseal::model::{Category, Origin};
use meterseal::sources::mqtt::Version;
use meterseal::sources::mqtt::formats::Format;

use crate::{check, faults};

const GOOD: &str = r#"[site]
id = "plant-7"
timezone = "Asia/Kuala_Lumpur"
[[mqtt]]
name = "plant-broker"
url = "mqtt://broker.plant"
username = "edge"
password = { env = "PATH" }
[[mqtt.subscribe]]
topic = "platform/+/meter"
format = "acrel-adw"
category = "CONS"
[[mqtt.subscribe]]
topic = "hall/+/energy"
format = "json"
id = "/serial"
time = "/ts"
time_format = "unix_ms"
values = { power_kw = { pointer = "/p", scale = 0.001 }, energy_import_kwh = "/e" }
[[mqtt.meter]]
id = "press-3"
match = "20112301120035"
category = "CONS"
[[mqtt.meter]]
id = "oven"
match = "hall/oven/energy"
category = "PROD"
pointers = { power_kw = "/power" }
"#;

#[test]
fn a_good_broker_says_what_it_says() {
    let checked = check(GOOD);
    assert_eq!((checked.faults.as_slice(), checked.warnings.as_slice()), (&[][..], &[][..]));
    let config = checked.config.unwrap();
    let broker = &config.sources.brokers[0];
    assert_eq!((broker.host.as_str(), broker.port, &broker.tls), ("broker.plant", 1883, &None));
    assert_eq!((broker.version, broker.client_id.as_str()), (Version::V311, "meterseal-plant-7-plant-broker"));
    assert_eq!(broker.status_topic, "meterseal/plant-7/plant-broker/status");
    assert_eq!((broker.keep_alive, broker.max_packet), (Duration::from_secs(30), 256_000));
    let topics: Vec<_> = broker.subscriptions.iter().map(|asked| asked.topic.as_str()).collect();
    assert_eq!(topics, ["platform/+/meter", "hall/+/energy", "hall/oven/energy"]);
    assert!(matches!(&broker.subscriptions[1].format, Format::Json(json) if json.values.len() == 2));
    let meters: Vec<_> =
        broker.meters.iter().map(|meter| (meter.id.as_str(), meter.matches.as_str(), meter.category)).collect();
    assert_eq!(meters, [("press-3", "20112301120035", Category::Cons), ("oven", "hall/oven/energy", Category::Prod)]);
    assert!(matches!(&config.meters()[0].origin, Origin::Mqtt { name, .. } if name == "20112301120035"));
    assert!(!format!("{config:?}").contains(&std::env::var("PATH").unwrap()), "a password is never printed");
}

#[test]
fn each_fault_of_a_broker_has_its_line_and_its_words() {
    let cases = [
        (
            "pointer = \"/p\"",
            "pointer = \"p\"",
            "m.toml:19: mqtt[0].subscribe[1].values.power_kw.pointer: `p` does not begin with `/`; write \"/p\"",
        ),
        (
            "mqtt://broker.plant",
            "http://broker.plant",
            "m.toml:6: mqtt[0].url: http: is neither mqtt nor mqtts; write it as \"mqtts://broker.plant:8883\" or \"mqtt://192.0.2.20:1883\"",
        ),
        (
            "mqtt://broker.plant",
            "mqtt://me:secret@broker",
            "m.toml:6: mqtt[0].url: a user in the address stands in the file for all to read; use `username` and `password`",
        ),
        (
            "mqtt://broker.plant",
            "mqtt://broker/x",
            "m.toml:6: mqtt[0].url: has more than a host and a port; write it as \"mqtts://broker.plant:8883\" or \"mqtt://192.0.2.20:1883\"",
        ),
        ("username = \"edge\"\n", "", "m.toml:7: mqtt[0].password: a password needs a user; add `username`"),
        (
            "username = \"edge\"\n",
            "username = \"edge\"\nca = \"/x\"\n",
            "m.toml:8: mqtt[0].ca: is for TLS; begin the address with mqtts://",
        ),
        (
            "username = \"edge\"\n",
            "username = \"edge\"\nversion = \"4\"\n",
            "m.toml:8: mqtt[0].version: \"4\" is none of 3.1.1, 5",
        ),
        (
            "username = \"edge\"\n",
            "username = \"edge\"\nmax_packet = \"1GB\"\n",
            "m.toml:8: mqtt[0].max_packet: \"1GB\" is no size from 1kB to 16MB; write it as \"256kB\"",
        ),
        (
            "username = \"edge\"\n",
            "username = \"edge\"\nclient_id = \"a b\"\n",
            "m.toml:8: mqtt[0].client_id: \"a b\" is no client identifier; take 1 to 128 letters, digits and - _ .",
        ),
        (
            "username = \"edge\"\n",
            "username = \"edge\"\nqos = 1\n",
            "m.toml:8: mqtt[0].qos: no such key; known here: ca, client_cert, client_id, client_key, keep_alive, max_packet, meter, name, password, simulated, status_topic, subscribe, url, username, version",
        ),
        (
            "platform/+/meter",
            "platform/#/meter",
            "m.toml:10: mqtt[0].subscribe[0].topic: \"platform/#/meter\" is no topic filter; + stands for one level, # for all that follow",
        ),
        (
            "platform/+/meter",
            "platform/a+/meter",
            "m.toml:10: mqtt[0].subscribe[0].topic: \"platform/a+/meter\" is no topic filter; + stands for one level, # for all that follow",
        ),
        (
            "acrel-adw",
            "acrel",
            "m.toml:11: mqtt[0].subscribe[0].format: \"acrel\" is none of acrel-adw, json, plain, shelly, tasmota; did you mean \"acrel-adw\"?",
        ),
        (
            "acrel-adw",
            "plain",
            "m.toml:9: mqtt[0].subscribe[0].quantity: is missing; say what the number is: quantity = \"power_kw\"",
        ),
        (
            "id = \"/serial\"",
            "id = \"serial\"",
            "m.toml:16: mqtt[0].subscribe[1].id: `serial` does not begin with `/`; write \"/serial\"",
        ),
        (
            "unix_ms",
            "unix",
            "m.toml:18: mqtt[0].subscribe[1].time_format: \"unix\" is none of rfc3339, unix_s, unix_ms, local; did you mean \"unix_s\"?",
        ),
        (
            "energy_import_kwh = \"/e\"",
            "energy = \"/e\"",
            "m.toml:19: mqtt[0].subscribe[1].values.energy: `energy` does not end in a unit: one of kwh kw kvarh kvar kvah kva v a hz c percent deg s h m3 bar factor ratio count; name it like power_kw or energy_import_kwh",
        ),
        (
            "scale = 0.001",
            "scale = 0",
            "m.toml:19: mqtt[0].subscribe[1].values.power_kw.scale: 0 is no ratio above 0; write it as \"200/5\" or 40",
        ),
        (
            "match = \"hall/oven/energy\"",
            "match = \"20112301120035\"",
            "m.toml:24: mqtt[0].meter[1].match: `20112301120035` is what `press-3` matches already; give each meter the name or serial number that it publishes",
        ),
        (
            "id = \"oven\"",
            "id = \"press-3\"",
            "m.toml:25: mqtt[0].meter[1].id: `press-3` is the id of another meter at m.toml:21; every meter and every sum has an id of its own",
        ),
        (
            "match = \"hall/oven/energy\"",
            "match = \"hall/+/energy\"",
            "m.toml:26: mqtt[0].meter[1].match: \"hall/+/energy\" is no topic; a topic has no wildcards",
        ),
        (
            "category = \"CONS\"\n[[mqtt.meter]]",
            "[[mqtt.meter]]",
            "m.toml:20: mqtt[0].meter[0].category: is missing; say what it stands at: category = \"CONS\" (or PROD, STOR, INJ); it gives power its sign",
        ),
    ];
    for (line, other, fault) in cases {
        assert!(GOOD.contains(line), "{line}");
        let found = faults(&GOOD.replacen(line, other, 1));
        assert!(found.iter().any(|found| found == fault), "{other}: {found:#?}");
    }
}

#[test]
fn a_faulty_subscription_is_told_alone() {
    let text = GOOD.replacen("format = \"json\"", "format = \"jsn\"", 1);
    let fault = "m.toml:15: mqtt[0].subscribe[1].format: \"jsn\" is none of acrel-adw, json, plain, shelly, tasmota; \
                 did you mean \"json\"?";
    assert_eq!(faults(&text), [fault]);
    let only = "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[[mqtt]]\nname = \"b\"\nurl = \"mqtt://b\"\n";
    let nothing = check(only);
    assert_eq!(nothing.warnings[0].why, "nothing is subscribed to");
    let faulty = check(&format!("{only}[[mqtt.subscribe]]\ntopic = \"a/#/b\"\nformat = \"shelly\"\n"));
    assert_eq!((faulty.faults.len(), faulty.warnings.len()), (1, 0));
}

#[test]
fn a_broker_without_its_password_or_certificates_is_off_and_the_rest_runs() {
    for (line, other, why) in [
        (
            "{ env = \"PATH\" }",
            "{ env = \"NOT_SET_ANYWHERE\" }",
            "the environment has no NOT_SET_ANYWHERE: set it for the service, or refer to a file",
        ),
        (
            "mqtt://broker.plant\"",
            "mqtts://broker.plant\"\nca = \"/not/there.pem\"",
            "/not/there.pem cannot be read: No such file or directory (os error 2)",
        ),
        // Files that went bad by themselves.
        (
            "mqtt://broker.plant\"",
            "mqtts://broker.plant\"\nca = \"/etc/hostname\"",
            "/etc/hostname: the CA file holds no certificate in PEM; write the whole file anew, in PEM",
        ),
        (
            "mqtt://broker.plant\"",
            "mqtts://broker.plant\"\nclient_cert = \"/etc/hostname\"\nclient_key = { file = \"/etc/hostname\" }",
            "/etc/hostname: the client certificate holds no certificate in PEM; write the certificate and its key anew, in PEM",
        ),
    ] {
        let checked = check(&GOOD.replacen(line, other, 1));
        assert_eq!(checked.faults, []);
        let config = checked.config.unwrap();
        assert_eq!(config.sources.brokers, []);
        assert_eq!(config.off, [format!("broker plant-broker is off: {why}")]);
        assert_eq!(config.meters().len(), 2, "its meters stay");
    }
}
