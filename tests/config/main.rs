//! Every kind of fault that a config can have, with its line and its words; and that what is shipped has none.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod anchor;
mod influx;
mod mqtt;
mod upstream;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meterseal::config::{self, Checked, Files};
use meterseal::model::{Category, Energy, Origin, PeakWindow, Ratio, Timestamp};
use meterseal::web::Tls;

/// 2026-11-21T00:00:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_795_219_200_000);

const GOOD: &str = r#"[site]
id = "plant-7"
timezone = "Asia/Kuala_Lumpur"
[tariff]
block_minutes = 30
[store]
path = "/var/lib/meterseal"
[web]
listen = "127.0.0.1:3001"
[[modbus]]
name = "msb"
tcp = "192.0.2.10:502"
[[modbus.meter]]
id = "main-incomer"
unit = 1
template = "eastron-sdm630"
category = "CONS"
[[modbus.meter]]
id = "tenant-1"
unit = 2
template = "eastron-sdm630"
category = "CONS"
[[sum]]
id = "plant-total"
add = ["main-incomer"]
subtract = ["tenant-1"]
category = "CONS"
"#;

fn check(text: &str) -> Checked {
    config::check(&Files::of_text("m.toml", text), NOW)
}

/// The faults of a text, as they are printed.
fn faults(text: &str) -> Vec<String> {
    check(text).faults.iter().map(ToString::to_string).collect()
}

/// The good config with one line in the stead of another.
fn with(line: &str, other: &str) -> String {
    assert!(GOOD.contains(line), "{line}");
    GOOD.replacen(line, other, 1)
}

#[test]
fn a_mark_whose_folder_is_missing_is_told_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("usb/mark");
    let text = with("path = \"/var/lib/meterseal\"\n", &format!("path = \"/var/lib/meterseal\"\nmark = {mark:?}\n"));
    let checked = check(&text);
    assert!(checked.config.is_some() && checked.faults.is_empty(), "{:?}", checked.faults);
    let told: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
    let begins = format!(
        "m.toml:8: store.mark: {} is not there: a store that goes back in time is not noticed; make that folder",
        folder.path().join("usb").display()
    );
    assert!(told.len() == 1 && told[0].starts_with(&begins), "{told:?}");
    std::fs::create_dir(folder.path().join("usb")).unwrap();
    assert_eq!(check(&text).warnings, []);
}

#[test]
fn what_others_can_reach_is_under_tls_unless_told_otherwise() {
    let web = |line: &str| check(&with("listen = \"127.0.0.1:3001\"", line)).config.unwrap().web;
    for (line, tls) in [
        ("listen = \"127.0.0.1:3001\"", Tls::Off),
        ("listen = \"[::1]:3001\"", Tls::Off),
        ("listen = \"127.0.0.1:3001\"\ntls = \"self-signed\"", Tls::SelfSigned),
        ("listen = \"[::]:3001\"", Tls::SelfSigned),
        ("listen = \"192.0.2.7:3001\"", Tls::SelfSigned),
        ("", Tls::Off),
    ] {
        assert_eq!(web(line).tls, tls, "{line}");
        assert_eq!(web(line).folder, Path::new("/var/lib/meterseal/tls"), "{line}");
    }
    // A pair that is not there turns nothing off: it is told, and looked for while the program runs.
    let own = "listen = \"[::]:3001\"\ntls = { cert = \"/nowhere/cert.pem\", key = \"/nowhere/key.pem\" }";
    let checked = check(&with("listen = \"127.0.0.1:3001\"", own));
    assert!(matches!(checked.config.unwrap().web.tls, Tls::Own { .. }));
    let warnings: Vec<_> = checked.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings[0].starts_with("m.toml:10: web.tls: /nowhere/cert.pem cannot be read"), "{warnings:?}");
}

#[test]
fn a_good_config_says_what_it_says() {
    let text = GOOD
        .replace(
            "unit = 1\n",
            "unit = 1\nname = \"Main\"\nct_ratio = \"200/5\"\ninterval = \"250ms\"\npeak_target_kwh = 120.5\n",
        )
        .replace("block_minutes = 30\n", "block_minutes = 15\nclock_offset = \"-2s\"\n");
    let checked = check(&text);
    let mark = checked.config.as_ref().map(|config| config.evidence.mark.clone());
    assert_eq!(mark.as_deref(), Some(std::path::Path::new("/var/lib/meterseal.mark")));
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store-mark")).unwrap();
    let there = with("/var/lib/meterseal", folder.path().join("store").to_str().unwrap());
    assert_eq!(check(&there).config.unwrap().evidence.mark, folder.path().join("store-mark/checkpoint"));
    assert_eq!(checked.faults, []);
    let config = checked.config.unwrap();
    assert_eq!((config.site.name.as_str(), config.site.timezone.as_str()), ("plant-7", "Asia/Kuala_Lumpur"));
    let line = &config.sources.lines[0];
    assert_eq!(
        (line.wire.to_string().as_str(), line.timeout, line.parallel),
        ("192.0.2.10:502", Duration::from_secs(1), 1)
    );
    let meter = &line.meters[0];
    assert_eq!((meter.ct_ratio, meter.vt_ratio), (Ratio::new(40, 1).unwrap(), Ratio::ONE));
    assert_eq!((meter.category, meter.interval), (Category::Cons, Duration::from_millis(250)));
    assert_eq!(config.meters()[0].peak_target, Some(Energy::from_uwh(120_500_000_000)));
    let ids: Vec<_> = config.meters().iter().map(|meter| meter.id.as_str()).collect();
    assert_eq!(ids, ["main-incomer", "tenant-1", "plant-total"]);
    assert!(
        matches!(&config.meters()[2].origin, Origin::Sum { add, subtract } if add.len() == 1 && subtract.len() == 1)
    );
    assert_eq!((config.blocks.block_minutes, config.blocks.clock_offset_ms), (15, -2_000));
    // Kuala Lumpur is 8 h ahead, and the demand clock 2 s behind: borders lie 2 s after each of our quarters.
    assert_eq!((config.sources.block.every_ms, config.sources.block.offset_ms), (900_000, 898_000));
    // Without windows of its own a tariff has one, every day.
    let peak = PeakWindow { days: [true; 7], from_minute: 840, to_minute: 1_320 };
    assert_eq!(config.site.peaks, [peak]);
    assert_eq!(config.store.keep_raw, Duration::from_secs(90 * 86_400));
}

#[test]
fn each_fault_has_its_line_and_its_words() {
    let cases = [
        // Keys.
        (
            "id = \"plant-7\"",
            "ID = \"plant-7\"\nid = \"plant-7\"",
            "m.toml:2: site.ID: no such key; did you mean `id`?",
        ),
        (
            "unit = 1",
            "device = 2",
            "m.toml:15: modbus[0].meter[0].device: only a SunSpec unit has several devices; take it out, or name a SunSpec template",
        ),
        ("unit = 1", "untt = 1", "m.toml:15: modbus[0].meter[0].untt: no such key; did you mean `unit`?"),
        (
            "unit = 1",
            "x = 1",
            "m.toml:15: modbus[0].meter[0].x: no such key; known here: category, ct_ratio, device, id, interval, invert, name, \
             peak_target_kwh, registers, template, unit, vt_ratio",
        ),
        (
            "id = \"plant-7\"\n",
            "",
            "m.toml:1: site.id: is missing; give the site a name of a-z 0-9 -, such as id = \"plant-7\"",
        ),
        (
            "timezone = \"Asia/Kuala_Lumpur\"\n",
            "",
            "m.toml:1: site.timezone: is missing; block borders and peak hours follow local time: timezone = \"Asia/Kuala_Lumpur\"",
        ),
        (
            "category = \"CONS\"\n[[modbus.meter]]",
            "[[modbus.meter]]",
            "m.toml:13: modbus[0].meter[0].category: is missing; say what it stands at: category = \"CONS\" (or PROD, STOR, INJ); it gives power its sign",
        ),
        // Types.
        (
            "block_minutes = 30",
            "block_minutes = \"30\"",
            "m.toml:5: tariff.block_minutes: \"30\" is none of 15, 30, 60",
        ),
        ("block_minutes = 30", "block_minutes = 20", "m.toml:5: tariff.block_minutes: 20 is none of 15, 30, 60"),
        ("id = \"plant-7\"", "id = 7", "m.toml:2: site.id: is a whole number, not a text in quotes"),
        ("unit = 1", "unit = 1\ninvert = \"no\"", "m.toml:16: modbus[0].meter[0].invert: is a text, not true or false"),
        ("[web]", "[[web]]", "m.toml:8: web: is a list, not a table"),
        ("[[sum]]", "[sum]", "m.toml:23: sum: is a table, not a list of tables; begin it with [[sum]]"),
        // Names.
        ("id = \"plant-7\"", "id = \"Plant 7\"", "m.toml:2: site.id: `Plant 7` is not a site id: 1 to 63 of a-z 0-9 -"),
        (
            "id = \"plant-total\"",
            "id = \"plant total\"\nname = \"t\"",
            "m.toml:24: sum[0].id: `plant total` is not a meter id: 1 to 64 of A-Z a-z 0-9 . _ -",
        ),
        (
            "id = \"plant-total\"",
            "id = \"tenant-1\"",
            "m.toml:24: sum[0].id: `tenant-1` is the id of another meter at m.toml:19; every meter and every sum has an id of its own",
        ),
        (
            "[[sum]]",
            "[[modbus]]\nname = \"msb\"\ntcp = \"192.0.2.11:502\"\n[[sum]]",
            "m.toml:24: modbus[1].name: `msb` is the name of another line or broker at m.toml:11; every line and broker has a name of its own",
        ),
        // Values.
        (
            "timezone = \"Asia/Kuala_Lumpur\"",
            "timezone = \"Asia/Kuala_Lumpu\"",
            "m.toml:3: site.timezone: \"Asia/Kuala_Lumpu\" is no time zone; did you mean \"Asia/Kuala_Lumpur\"?",
        ),
        ("unit = 1", "unit = 256", "m.toml:15: modbus[0].meter[0].unit: 256 is not within 0 to 255"),
        (
            "unit = 1",
            "interval = \"50ms\"",
            "m.toml:15: modbus[0].meter[0].interval: 50ms is not within 100ms to 15min",
        ),
        (
            "unit = 1",
            "interval = \"16min\"",
            "m.toml:15: modbus[0].meter[0].interval: 16min is not within 100ms to 15min",
        ),
        (
            "unit = 1",
            "interval = \"1 sec\"",
            "m.toml:15: modbus[0].meter[0].interval: \"1 sec\" is not a duration; write it as \"500ms\", \"1s\", \"15min\", \"6h\" or \"90d\"",
        ),
        ("unit = 1", "interval = 1", "m.toml:15: modbus[0].meter[0].interval: is a whole number, not a text in quotes"),
        (
            "unit = 1",
            "ct_ratio = \"200:5\"",
            "m.toml:15: modbus[0].meter[0].ct_ratio: \"200:5\" is no ratio above 0; write it as \"200/5\" or 40",
        ),
        (
            "unit = 1",
            "vt_ratio = -1",
            "m.toml:15: modbus[0].meter[0].vt_ratio: -1 is no ratio above 0; write it as \"200/5\" or 40",
        ),
        (
            "unit = 1",
            "peak_target_kwh = 0",
            "m.toml:15: modbus[0].meter[0].peak_target_kwh: 0 is no energy of one block; give kWh above 0, up to 1000000",
        ),
        (
            "unit = 1",
            "peak_target_kwh = nan",
            "m.toml:15: modbus[0].meter[0].peak_target_kwh: nan is no energy of one block; give kWh above 0, up to 1000000",
        ),
        (
            "category = \"CONS\"\n[[modbus.meter]]",
            "category = \"cons\"\n[[modbus.meter]]",
            "m.toml:17: modbus[0].meter[0].category: \"cons\" is none of PROD, CONS, STOR, INJ; did you mean \"CONS\"?",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "tcp = \"192.0.2.10\"",
            "m.toml:12: modbus[0].tcp: \"192.0.2.10\" is no host and port; write it as \"192.0.2.10:502\"",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "tcp = \"tcp://a:502\"",
            "m.toml:12: modbus[0].tcp: \"tcp://a:502\" is no host and port; write it as \"192.0.2.10:502\"",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "timeout = \"1s\"",
            "m.toml:10: modbus[0].tcp: is missing; say where the line is: tcp = \"192.0.2.10:502\", serial = \"/dev/serial/by-id/…\" or rtu_over_tcp = \"192.0.2.10:4001\"",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "tcp = \"a:502\"\nserial = \"/dev/meters\"",
            "m.toml:13: modbus[0].serial: the line has `tcp` as well, and one wire only; take one of them out",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "tcp = \"a:502\"\nparity = \"even\"",
            "m.toml:13: modbus[0].parity: only a line with `serial` has this; take it out; a gateway is set up on its own page",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "rtu_over_tcp = \"a\"",
            "m.toml:12: modbus[0].rtu_over_tcp: \"a\" is no host and port; write it as \"192.0.2.10:502\"",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "rtu_over_tcp = \"a:502\"\nparallel = 2",
            "m.toml:13: modbus[0].parallel: a serial line carries one request at a time; take it out; several lines are several [[modbus]]",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "serial = \"/dev/meters\"\nparallel = 2",
            "m.toml:13: modbus[0].parallel: a serial line carries one request at a time; take it out; several lines are several [[modbus]]",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "serial = \"COM3\"",
            "m.toml:12: modbus[0].serial: \"COM3\" is no path of a port; write it as \"/dev/ttyUSB0\"",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "serial = \"/dev/meters\"\nbaud = 9700",
            "m.toml:13: modbus[0].baud: 9700 is no usual rate; one of 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "serial = \"/dev/meters\"\nparity = \"Even\"",
            "m.toml:13: modbus[0].parity: \"Even\" is none of none, even, odd; did you mean \"even\"?",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "serial = \"/dev/meters\"\nstop_bits = 3",
            "m.toml:13: modbus[0].stop_bits: 3 is neither 1 nor 2",
        ),
        (
            "tcp = \"192.0.2.10:502\"",
            "tcp = \"192.0.2.10:502\"\nparallel = 0",
            "m.toml:13: modbus[0].parallel: 0 is not within 1 to 16",
        ),
        // Tariff.
        (
            "block_minutes = 30",
            "clock_offset = \"1h\"",
            "m.toml:5: tariff.clock_offset: \"1h\" is not within -15min to 15min",
        ),
        (
            "block_minutes = 30",
            "[[tariff.peak]]\nfrom = \"14:10\"",
            "m.toml:6: tariff.peak[0].from: \"14:10\" lies inside a block of 30 minutes; take a multiple of 30 minutes",
        ),
        (
            "block_minutes = 30",
            "[[tariff.peak]]\nto = \"25:00\"",
            "m.toml:6: tariff.peak[0].to: \"25:00\" is no time of day; write it as \"14:00\"",
        ),
        (
            "block_minutes = 30",
            "[[tariff.peak]]\nto = \"14:00\"",
            "m.toml:5: tariff.peak[0].to: the window is empty; the whole day is from = \"00:00\", to = \"24:00\"",
        ),
        (
            "block_minutes = 30",
            "[[tariff.peak]]\ndays = [\"mon\", \"tues\"]",
            "m.toml:6: tariff.peak[0].days[1]: \"tues\" is none of mon, tue, wed, thu, fri, sat, sun; did you mean \"tue\"?",
        ),
        // Store and web.
        ("path = \"/var/lib/meterseal\"", "path = \"data\"", "m.toml:7: store.path: \"data\" is not an absolute path"),
        (
            "path = \"/var/lib/meterseal\"",
            "max_disk = \"2 gigs\"",
            "m.toml:7: store.max_disk: \"2 gigs\" is not a size; write it as \"500MB\" or \"2GB\"",
        ),
        (
            "path = \"/var/lib/meterseal\"",
            "reserve = \"1kB\"",
            "m.toml:7: store.reserve: \"1kB\" is too little; give at least 1MB",
        ),
        (
            "path = \"/var/lib/meterseal\"",
            "mark = \"/var/lib/meterseal/mark\"",
            "m.toml:7: store.mark: \"/var/lib/meterseal/mark\" lies in the store, and would go back in time with it; name a place outside of store.path, on another disk if there is one",
        ),
        (
            "listen = \"127.0.0.1:3001\"",
            "listen = \"0.0.0.0:3001\"\ntls = \"off\"",
            "m.toml:10: web.tls: an address that others can reach needs TLS: a PIN or a token would cross the network in the clear; say \"self-signed\" or { cert = \"…\", key = \"…\" }, or listen on 127.0.0.1",
        ),
        (
            "listen = \"127.0.0.1:3001\"",
            "listen = \"localhost\"",
            "m.toml:9: web.listen: \"localhost\" is no address and port; write it as \"127.0.0.1:3001\", \"192.0.2.7:3001\" or \"[::]:3001\"",
        ),
        (
            "listen = \"127.0.0.1:3001\"",
            "tls = \"on\"",
            "m.toml:9: web.tls: \"on\" is no way of TLS; say \"self-signed\", { cert = \"PATH\", key = \"PATH\" } or \"off\"",
        ),
        (
            "listen = \"127.0.0.1:3001\"",
            "tls = { cert = \"/etc/meterseal/cert.pem\" }",
            "m.toml:9: web.tls.key: is missing; say \"self-signed\", { cert = \"PATH\", key = \"PATH\" } or \"off\"",
        ),
        (
            "listen = \"127.0.0.1:3001\"",
            "tls = { cert = \"cert.pem\", key = \"/etc/meterseal/key.pem\" }",
            "m.toml:9: web.tls.cert: \"cert.pem\" is not an absolute path",
        ),
        (
            "listen = \"127.0.0.1:3001\"",
            "session_idle = \"30s\"",
            "m.toml:9: web.session_idle: 30s is not within 1min to 12h",
        ),
        // Templates.
        (
            "template = \"eastron-sdm630\"",
            "template = \"eastron-sdm63\"",
            "m.toml:16: modbus[0].meter[0].template: there is no template \"eastron-sdm63\"; did you mean \"eastron-sdm630\"?",
        ),
        (
            "template = \"eastron-sdm630\"\n",
            "",
            "m.toml:13: modbus[0].meter[0].template: is missing; name one: template = \"eastron-sdm630\", or write [modbus.meter.registers]",
        ),
        (
            "template = \"eastron-sdm630\"",
            "registers = {}\ntemplate = \"eastron-sdm630\"",
            "m.toml:16: modbus[0].meter[0].registers: a meter has a template or registers of its own; take one of them out",
        ),
        // Sums.
        (
            "add = [\"main-incomer\"]",
            "add = [\"main-incomr\"]",
            "m.toml:25: sum[0].add[0]: there is no meter `main-incomr`; did you mean \"main-incomer\"?",
        ),
        ("add = [\"main-incomer\"]", "add = []", "m.toml:25: sum[0].add: names no meter"),
        (
            "add = [\"main-incomer\"]",
            "add = [\"main-incomer\", \"tenant-1\"]",
            "m.toml:26: sum[0].subtract[0]: `tenant-1` is in this sum already; name each part once",
        ),
        (
            "add = [\"main-incomer\"]",
            "add = [\"plant-total\"]",
            "m.toml:25: sum[0].add[0]: `plant-total` would be a part of itself; take it out of this sum, or out of that part",
        ),
        ("add = [\"main-incomer\"]", "add = \"main-incomer\"", "m.toml:25: sum[0].add: is a text, not a list of texts"),
        // Alerts.
        (
            "[[sum]]",
            "[alerts]\nwebhook = { url = \"ftp://x/\" }\n[[sum]]",
            "m.toml:24: alerts.webhook.url: is neither http nor https; begin it with https://",
        ),
        (
            "[[sum]]",
            "[alerts]\nwebhook = { url = \"nonsense\" }\n[[sum]]",
            "m.toml:24: alerts.webhook.url: is no URL; write it as \"https://host/path\"",
        ),
        (
            "[[sum]]",
            "[alerts]\nwebhook = { body = '{}' }\n[[sum]]",
            "m.toml:24: alerts.webhook.url: is missing; name where alerts are sent: url = \"https://...\"",
        ),
        (
            "[[sum]]",
            "[alerts]\nwebhook = { url = \"http://x/\", body = '{\"a\":\"{{txt}}\"}' }\n[[sum]]",
            "m.toml:24: alerts.webhook.body: no such placeholder: `{{txt}}`; did you mean `{{text}}`?",
        ),
        (
            "[[sum]]",
            "[alerts]\nwebhook = { url = \"http://x/\", body = '{{text}}' }\n[[sum]]",
            "m.toml:24: alerts.webhook.body: is not JSON: key must be a string at line 1 column 2; placeholders stand inside of quotes",
        ),
        (
            "[[sum]]",
            "[alerts]\nwebhook = { url = { env = \"A\", file = \"b\" } }\n[[sum]]",
            "m.toml:24: alerts.webhook.url: is no reference to one secret; write { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }",
        ),
        (
            "[[sum]]",
            "[alerts]\nwebhook = { url = { credential = \"../x\" } }\n[[sum]]",
            "m.toml:24: alerts.webhook.url.credential: a credential has a plain name; give the name of a LoadCredential= of the unit",
        ),
    ];
    for (line, other, expected) in cases {
        assert_eq!(faults(&with(line, other)), [expected], "{other}");
    }
}

#[test]
fn registers_written_in_the_config_have_their_faults_on_their_lines() {
    let registers = "[modbus.meter.registers]\nfunction = \"holding\"\npower_kw = { address = 10, type = \"f32\" }\nvoltage_v = { address = 11, type = \"u16\" }\nfrequency_hz = { address = 20, type = \"f33\" }\n";
    let text =
        with("template = \"eastron-sdm630\"\ncategory = \"CONS\"\n", &format!("category = \"CONS\"\n{registers}"));
    let told = check(&text).faults;
    let lines: Vec<_> = told.iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    assert!(lines.contains(&(21, "modbus[0].meter[0].registers.frequency_hz.type")), "{told:?}");
    assert!(lines.iter().any(|(line, _)| *line == 20 || *line == 19), "the overlap is told: {told:?}");
}

#[test]
fn ratios_that_cannot_be_exact_are_refused() {
    let registers = "[modbus.meter.registers]\nfunction = \"input\"\npower_kw = { address = 1, type = \"f32\" }\n";
    let ratios = "ct_ratio = \"2147483647/3\"\nvt_ratio = \"2147483629/7\"\n";
    let own = format!("category = \"CONS\"\n{ratios}{registers}");
    let told = faults(&with("template = \"eastron-sdm630\"\ncategory = \"CONS\"\n", &own));
    assert_eq!(
        told,
        ["m.toml:13: modbus[0].meter[0].ct_ratio: power_kw: its scale 1/1 times the ratios of the transformers is no \
            fraction of two numbers of 31 bits; write the ratios of the name plates, such as \"200/5\""]
    );
}

#[test]
fn every_fault_is_told_in_one_run_in_the_order_of_the_lines() {
    let text = GOOD
        .replace("id = \"plant-7\"", "id = \"P\"")
        .replace("unit = 2", "unit = 300")
        .replace("block_minutes = 30", "block_minutes = 31\nblocks = 1")
        .replace("subtract = [\"tenant-1\"]", "subtract = [\"nobody\"]");
    let lines: Vec<_> = check(&text).faults.iter().map(|fault| (fault.line, fault.key.clone())).collect();
    let expected = [
        (2, "site.id"),
        (5, "tariff.block_minutes"),
        (6, "tariff.blocks"),
        (21, "modbus[0].meter[1].unit"),
        (27, "sum[0].subtract[0]"),
    ];
    assert_eq!(lines, expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn a_line_that_is_no_toml_is_told_once_beside_the_other_faults() {
    let text = with("unit = 1", "unit = 1s").replace("block_minutes = 30", "block_minutes = 31");
    let told = faults(&text);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "m.toml:5: tariff.block_minutes: 31 is none of 15, 30, 60");
    assert!(told[1].starts_with("m.toml:15: this is not TOML: "), "{}", told[1]);
    let told = faults(&with("unit = 1", "unit = 1\nunit = 2"));
    assert_eq!(told, ["m.toml:16: this is not TOML: duplicate key"]);
    // What seems to be missing may be what was not understood.
    let told = faults(&with("id = \"plant-7\"", "id = \"plant-7"));
    assert!(told.iter().all(|fault| fault.starts_with("m.toml:2: this is not TOML: ")), "{told:?}");
    assert_eq!(
        faults(&with("unit = 1", "unit = 99999999999999999999")),
        ["m.toml:15: this number does not fit 64 bits; give a smaller one"]
    );
}

#[test]
fn sums_of_sums_are_fine_and_circles_are_not() {
    let more = "[[sum]]\nid = \"a\"\nadd = [\"plant-total\"]\ncategory = \"CONS\"\n";
    assert_eq!(faults(&format!("{GOOD}{more}")), [""; 0]);
    let circle = format!("{GOOD}{more}").replace("add = [\"main-incomer\"]", "add = [\"a\"]");
    let lines: Vec<_> = check(&circle).faults.iter().map(|fault| (fault.line, fault.key.clone())).collect();
    assert_eq!(lines, [(25, "sum[0].add[0]".to_owned()), (30, "sum[1].add[0]".to_owned())]);
}

/// A folder with a config of these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn load(folder: &Path) -> Checked {
    config::load(&folder.join("m.toml"), NOW).1
}

#[test]
fn files_of_conf_d_are_merged() {
    let line = "[[modbus]]\nname = \"pv\"\ntcp = \"192.0.2.20:502\"\nsimulated = true\n";
    let meter = "[[modbus.meter]]\nid = \"pv\"\ntemplate = \"eastron-sdm630\"\ncategory = \"PROD\"\n";
    let pv = format!("{line}{meter}");
    let files = [
        ("m.toml", GOOD),
        ("conf.d/20-pv.toml", &pv),
        ("conf.d/10.toml", "[tariff]\nclock_offset = \"2s\"\n"),
        ("conf.d/note.txt", "no"),
    ];
    let folder = folder(&files);
    let config = load(folder.path()).config.unwrap();
    assert_eq!((config.sources.lines.len(), config.blocks.clock_offset_ms), (2, 2_000));
    assert!(config.sources.lines[1].simulated && !config.sources.lines[0].simulated);
    assert!(!config.site.simulated);
}

#[test]
fn a_line_gets_meters_in_another_file() {
    let meter = |id: &str, unit: u8| {
        format!(
            "[[modbus.meter]]\nid = \"{id}\"\nname = \"x\"\nunit = {unit}\ntemplate = \"eastron-sdm630\"\ncategory = \"CONS\"\n"
        )
    };
    let more = format!("[[modbus]]\nname = \"msb\"\n{}", meter("tenant-2", 3));
    let folder_of = |more: &str| folder(&[("m.toml", GOOD), ("conf.d/50-page.toml", more)]);
    let config = load(folder_of(&more).path()).config.unwrap();
    assert_eq!(config.sources.lines.len(), 1);
    let ids: Vec<_> = config.sources.lines[0].meters.iter().map(|meter| meter.id.as_str()).collect();
    assert_eq!(ids, ["main-incomer", "tenant-1", "tenant-2"]);
    // What the page wrote, it may change.
    let [own, theirs] =
        ["tenant-2", "main-incomer"].map(|id| config::made::set_at(&config, &id.parse().unwrap(), "name"));
    assert_eq!((own, theirs), (None, None));

    let told = |more: &str| -> Vec<String> {
        let folder = folder_of(more);
        let checked = load(folder.path());
        let path = format!("{}/", folder.path().display());
        checked.faults.iter().map(|fault| fault.to_string().replace(&path, "")).collect()
    };
    // Each is told where it stands.
    let taken = told(&format!("[[modbus]]\nname = \"msb\"\n{}", meter("tenant-1", 3)));
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(
        taken[0].starts_with(
            "conf.d/50-page.toml:4: modbus[0].meter[2].id: `tenant-1` is the id of another meter at m.toml:19"
        ),
        "{taken:?}"
    );
    // One that says more, or is no other's, is a line by itself.
    for other in ["name = \"msb\"\ntimeout = \"2s\"", "name = \"msc\""] {
        let faults = told(&format!("[[modbus]]\n{other}\n{}", meter("tenant-2", 3)));
        assert!(faults.iter().any(|fault| fault.contains("tcp")), "{faults:?}");
    }
}

#[test]
fn what_is_made_of_simulated_meters_is_simulated() {
    let more = "[[sum]]\nid = \"again\"\nadd = [\"plant-total\"]\ncategory = \"CONS\"\n";
    let real = check(&format!("{GOOD}{more}")).config.unwrap();
    assert!(!real.site.simulated && real.meters().iter().all(|meter| !meter.simulated));
    let text = with("name = \"msb\"", "name = \"msb\"\nsimulated = true");
    let simulated = check(&format!("{text}{more}")).config.unwrap();
    assert!(simulated.site.simulated && simulated.meters().iter().all(|meter| meter.simulated));
}

#[test]
fn the_same_key_in_two_files_is_a_fault_that_names_both() {
    let folder =
        folder(&[("m.toml", GOOD), ("conf.d/a.toml", "\n[site]\nid = \"other\"\n[web]\nlistn = 1\n[modbus]\nx = 1\n")]);
    let told: Vec<_> = load(folder.path()).faults.iter().map(ToString::to_string).collect();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (main, more) = (at("m.toml"), at("conf.d/a.toml"));
    assert_eq!(
        told,
        [
            format!("{more}:3: site.id: is set here and at {main}:2; keep one of the two"),
            format!("{more}:5: web.listn: no such key; did you mean `listen`?"),
            format!("{more}:6: modbus: is set here and at {main}:10; keep one of the two"),
        ]
    );
}

#[test]
fn templates_beside_the_config_are_found_and_their_faults_have_lines() {
    let text = with("template = \"eastron-sdm630\"", "template = \"mine\"");
    let mine = "title = \"Mine\"\nevidence = \"its manual\"\n[registers]\nfunction = \"input\"\ntype = \"f32\"\npower_kw = { address = 1 }\n";
    let files = folder(&[("m.toml", &text), ("meters/mine.toml", mine)]);
    let config = load(files.path()).config.unwrap();
    assert_eq!(config.sources.lines[0].meters[0].template.name, "mine");
    let bad = mine.replace("address = 1", "adress = 1, address = 1");
    let files = folder(&[("m.toml", &text), ("meters/mine.toml", &bad)]);
    let told = load(files.path()).faults;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].file.clone(), told[0].line), (files.path().join("meters/mine.toml"), 6));
    assert_eq!(told[0].key, "registers.power_kw.adress");
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let (files, checked) = config::load(Path::new("/nowhere/m.toml"), NOW);
    assert!(files.is_none() && checked.config.is_none());
    let told = checked.faults[0].to_string();
    assert!(told.starts_with("/nowhere/m.toml: cannot be read: No such file"), "{told}");
}

const WEBHOOK: &str = "[alerts]\nwebhook = { url = URL }\n";

#[test]
fn a_secret_in_the_file_is_taken_with_a_warning_and_not_kept() {
    let text = format!("{GOOD}{}", WEBHOOK.replace("URL", "\"https://me:pw@hooks.example/x\""));
    let checked = check(&text);
    assert_eq!(checked.config.as_ref().unwrap().alerts.webhook.as_ref().unwrap().url, "https://me:pw@hooks.example/x");
    let warned: Vec<_> = checked.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warned,
        [
            "m.toml:29: alerts.webhook.url: a secret stands in the file for all who may read it; refer to it with { file = \"PATH\" } or { credential = \"NAME\" }"
        ]
    );
    let kept = checked.kept.to_kept();
    assert!(!kept.contains("me:pw"), "{kept}");
    // What was kept runs without that part, and says so.
    let again = config::check(&Files::from_kept(&kept).unwrap(), NOW).config.unwrap();
    assert_eq!(again.alerts.webhook, None);
    assert_eq!(again.off.len(), 1, "{:?}", again.off);
    assert_eq!(again.sources, checked.config.unwrap().sources);
}

#[test]
fn a_secret_that_is_not_there_turns_its_part_off_and_the_rest_runs() {
    for (reference, why) in [
        (
            "{ env = \"METERSEAL_NOT_SET\" }",
            "the environment has no METERSEAL_NOT_SET: set it for the service, or refer to a file",
        ),
        ("{ file = \"/nowhere/x\" }", "/nowhere/x cannot be read: No such file or directory (os error 2)"),
        // It is there, and of no use.
        ("{ file = \"/etc/hostname\" }", "/etc/hostname: is no URL; write it as \"https://host/path\""),
    ] {
        let checked = check(&format!("{GOOD}{}", WEBHOOK.replace("URL", reference)));
        let config = checked.config.unwrap();
        assert_eq!(config.alerts.webhook, None);
        assert_eq!(config.off, [format!("the webhook of the alerts is off: {why}")]);
        assert_eq!(checked.warnings.len(), 1);
    }
}

#[test]
fn a_secret_comes_from_a_file_without_its_last_line_feed() {
    let folder = folder(&[("url", "https://hooks.example/t0ken\n")]);
    let reference = format!("{{ file = \"{}\" }}", folder.path().join("url").display());
    let checked = check(&format!("{GOOD}{}", WEBHOOK.replace("URL", &reference)));
    let config = checked.config.unwrap();
    assert_eq!(config.alerts.webhook.as_ref().unwrap().url, "https://hooks.example/t0ken");
    assert_eq!(checked.warnings, []);
    assert!(!checked.kept.to_kept().contains("t0ken"));
    assert!(!format!("{config:?}").contains("t0ken"));
}

#[test]
fn what_is_kept_reads_back_with_its_templates() {
    let text = with("template = \"eastron-sdm630\"", "template = \"mine\"");
    let mine = "title = \"Mine\"\nevidence = \"its manual\"\n[registers]\nfunction = \"input\"\ntype = \"f32\"\npower_kw = { address = 1 }\n";
    let folder = folder(&[("m.toml", &text), ("meters/mine.toml", mine)]);
    let checked = load(folder.path());
    drop(folder);
    let again = config::check(&Files::from_kept(&checked.kept.to_kept()).unwrap(), NOW);
    assert_eq!(again.config, checked.config);
    assert!(checked.config.is_some());
    assert_eq!(Files::from_kept("{}"), None);
    assert_eq!(Files::from_kept("no json"), None);
}

#[test]
fn every_shipped_config_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let examples = fs::read_dir(root.join("examples")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let shipped: Vec<PathBuf> = examples.chain([root.join("meterseal.toml")]).collect();
    for path in shipped.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let (_, checked) = config::load(path, NOW);
        assert_eq!((checked.faults, checked.warnings), (Vec::new(), Vec::new()), "{}", path.display());
        let config = checked.config.unwrap();
        assert!(!config.meters().is_empty());
    }
}

/// The one that the package installs: it must run with nothing edited, and opens the page to the network under TLS.
#[test]
fn the_installed_config_runs_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/meterseal.toml");
    let (_, checked) = config::load(&path, NOW);
    assert_eq!((checked.faults, checked.warnings), (Vec::new(), Vec::new()));
    let config = checked.config.unwrap();
    assert!(config.meters().is_empty());
    let bare = "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[web]\nlisten = \"[::]:3001\"\n";
    let bare = check(bare).config.unwrap();
    assert_eq!((&config.store, &config.web), (&bare.store, &bare.web));
}

#[test]
fn the_shipped_example_shows_defaults_as_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/meterseal.toml");
    let shown = config::load(&root, NOW).1.config.unwrap();
    // The one thing that the installed file has otherwise, and says so.
    let bare = "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[web]\nlisten = \"[::]:3001\"\n";
    let bare = check(bare).config.unwrap();
    assert_eq!((&shown.store, &shown.web), (&bare.store, &bare.web));
    assert_eq!((shown.blocks.block_minutes, shown.blocks.clock_offset_ms), (bare.blocks.block_minutes, 0));
    let line = &shown.sources.lines;
    assert_eq!((line[0].timeout, line[0].gap, line[0].parallel), (line[1].timeout, line[1].gap, line[1].parallel));
    let meters = &line[0].meters;
    assert_eq!(
        (meters[0].interval, meters[0].vt_ratio, meters[0].invert),
        (meters[1].interval, Ratio::ONE, meters[1].invert)
    );
}

/// The good config with its line on a serial port.
fn on_serial(keys: &str) -> String {
    with("tcp = \"192.0.2.10:502\"", &format!("serial = \"/dev/meters\"\n{keys}"))
}

#[test]
fn a_serial_line_says_what_it_says() {
    let wire = |text: &str| check(text).config.unwrap().sources.lines[0].wire.to_string();
    assert_eq!(wire(&on_serial("")), "/dev/meters (9600 8N1)");
    let keys = "baud = 19200\nparity = \"even\"\nstop_bits = 2";
    assert_eq!(wire(&on_serial(keys)), "/dev/meters (19200 8E2)");
    let far = with("tcp = \"192.0.2.10:502\"", "rtu_over_tcp = \"gw:4001\"");
    assert_eq!(wire(&far), "gw:4001 (RTU)");
    for unit in [0, 248, 255] {
        let why = format!("modbus[0].meter[0].unit: {unit} is no unit on a serial line; units there are 1 to 247");
        for wired in [on_serial(""), far.clone()] {
            let faults = faults(&wired.replacen("unit = 1", &format!("unit = {unit}"), 1));
            assert!(faults.len() == 1 && faults[0].ends_with(&why), "{faults:?}");
        }
    }
    // A fault of the wire hides none of its units.
    let both = faults(&on_serial("baud = 1").replacen("unit = 1", "unit = 250", 1));
    assert!(both.len() == 2 && both[0].contains("no usual rate") && both[1].contains("250 is no unit"), "{both:?}");
    let twice = format!("{}[[modbus]]\nname = \"again\"\nserial = \"/dev/meters\"\n", on_serial(""));
    let faults = faults(&twice);
    let why = "/dev/meters is the port of another line at m.toml:12; units on one port share a line";
    assert!(faults.len() == 1 && faults[0].ends_with(why), "{faults:?}");
}

#[test]
fn a_port_named_by_the_order_of_plugging_in_is_warned_of() {
    let warned = |text: &str| check(text).warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(warned(&on_serial("")), [""; 0]);
    let by_order = with("tcp = \"192.0.2.10:502\"", "serial = \"/dev/ttyUSB77\"");
    let why = "m.toml:12: modbus[0].serial: /dev/ttyUSB77 may be another port when an adapter is plugged in again; \
               name it by its adapter, as in /dev/serial/by-id";
    assert_eq!(warned(&by_order), [why]);
}

#[test]
fn a_line_without_meters_and_a_second_line_to_one_address_are_warned_of() {
    let text = format!("{GOOD}[[modbus]]\nname = \"again\"\ntcp = \"192.0.2.10:502\"\n");
    let checked = check(&text);
    assert!(checked.config.is_some());
    let warned: Vec<_> = checked.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warned,
        [
            "m.toml:28: modbus[1].meter: this line has no meter; add a [[modbus.meter]]",
            "m.toml:30: modbus[1].tcp: 192.0.2.10:502 is the address of another line at m.toml:12; units behind one address share a line; many gateways take one connection only",
        ]
    );
}

#[test]
fn two_meters_that_read_the_same_registers_are_warned_of() {
    let warned = |text: &str| -> Vec<_> { check(text).warnings.iter().map(ToString::to_string).collect() };
    let why = "`main-incomer` and `tenant-1` read the same registers of unit 1";
    let expected =
        [format!("m.toml:18: modbus[0].meter[1].unit: {why}; give each meter the unit number that is set on it")];
    let copied = with("unit = 2", "unit = 1");
    assert!(check(&copied).config.is_some());
    assert_eq!(warned(&copied), expected);
    let own = |address: u16| {
        let registers =
            format!("registers = {{ power_kw = {{ address = {address}, type = \"f32\", function = \"input\" }} }}");
        let (before, after) = copied.rsplit_once("template = \"eastron-sdm630\"").unwrap();
        format!("{before}{registers}{after}")
    };
    assert_eq!(warned(&own(0x35)), expected, "half of a register is another's");
    assert_eq!(warned(&own(50_000)), [""; 0], "another channel of the same device");
}

#[test]
fn devices_behind_one_unit_are_meters_of_their_own() {
    let both = with("unit = 2", "unit = 1").replace("eastron-sdm630", "sunspec");
    let why = "`main-incomer` and `tenant-1` read the same registers of unit 1";
    let warned: Vec<_> = check(&both).warnings.iter().map(ToString::to_string).collect();
    let mend = "give each meter the unit number that is set on it, or where one unit is several devices its `device`";
    assert_eq!(warned, [format!("m.toml:18: modbus[0].meter[1].unit: {why}; {mend}")]);
    let checked = check(&both.replacen("unit = 1", "unit = 1\ndevice = 2", 1));
    assert_eq!(checked.warnings, []);
    let meters = &checked.config.unwrap().sources.lines[0].meters;
    assert_eq!([meters[0].device, meters[1].device], [2, 1]);
    assert!(meters[0].template.sunspec && meters[0].template.registers.is_empty());
}

#[test]
fn a_meter_of_which_no_energy_can_come_is_warned_of() {
    let warned = |registers: &str| -> Vec<_> {
        let (before, after) = GOOD.rsplit_once("template = \"eastron-sdm630\"").unwrap();
        let text = format!(
            "{before}registers = {{ {registers} = {{ address = 1, type = \"f32\", function = \"input\" }} }}{after}"
        );
        check(&text).warnings.iter().map(ToString::to_string).collect()
    };
    let why = "m.toml:18: modbus[0].meter[1].registers: `tenant-1` gives no energy blocks: its map has none of \
               energy_import_kwh, energy_export_kwh, power_kw; name the meter's totals so";
    assert_eq!(warned("active_energy_kwh"), [why]);
    assert_eq!(warned("power_kw"), [""; 0]);
}

#[test]
fn the_good_config_is_good() {
    assert_eq!(faults(GOOD), [""; 0]);
    let missing: Vec<_> = check("").faults.into_iter().map(|fault| (fault.line, fault.key)).collect();
    assert_eq!(missing, [(1, "site.id".to_owned()), (1, "site.timezone".to_owned())]);
}

/// A text that came by the API is another's: what it says must not depend on what lies on this machine.
#[test]
fn what_is_tried_looks_into_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    fs::write(&there, "topsecret:first line of it\n").unwrap();
    fs::write(folder.path().join("key"), "4c".repeat(32)).unwrap();
    let told = |file: &Path| {
        let file = file.display();
        let text = format!(
            "{}[alerts]\nwebhook = {{ url = {{ file = \"{file}\" }} }}\n\
             [[influx]]\nname = \"h\"\nversion = 2\nurl = \"https://h\"\norg = \"o\"\nbucket = \"b\"\n\
             token = {{ file = \"{file}\" }}\nca = \"{file}\"\n\
             [[mqtt]]\nname = \"b\"\nurl = \"mqtts://h\"\nusername = \"u\"\npassword = {{ env = \"PATH\" }}\n\
             ca = \"{file}\"\nclient_cert = \"{file}\"\nclient_key = {{ credential = \"k\" }}\n\
             [[mqtt.subscribe]]\ntopic = \"t\"\nformat = \"shelly\"\ncategory = \"CONS\"\n\
             [[upstream]]\nname = \"c\"\nkind = \"https\"\nurl = \"https://h\"\ntoken = {{ file = \"{file}\" }}\nca = \"{file}\"\n\
             [anchor]\nchain_id = 137\nrpc = [{{ file = \"{file}\" }}]\nkey = {{ file = \"{file}\" }}\n\
             [[modbus]]\nname = \"s\"\nserial = \"{file}/../x\"\n[[modbus]]\nname = \"t\"\nserial = \"{}\"\n",
            with("listen = \"127.0.0.1:3001\"", &format!("tls = {{ cert = \"{file}\", key = \"{file}\" }}")).replace(
                "path = \"/var/lib/meterseal\"",
                &format!("path = \"/var/lib/meterseal\"\nmark = \"{file}/mark\"")
            ),
            folder.path().join("x").display(),
        );
        let checked = config::check(&Files::of_text("m.toml", GOOD).with_main_tried(text), NOW);
        let told: Vec<String> = checked.faults.iter().chain(&checked.warnings).map(ToString::to_string).collect();
        told.join("\n").replace(&file.to_string(), "FILE")
    };
    let said = told(&there);
    assert_eq!(said, told(&folder.path().join("nowhere")));
    assert_eq!(said, told(&folder.path().join("key")));
    assert_eq!(said, told(folder.path()));
    assert!(!said.contains("topsecret") && !said.contains("read") && !said.contains("neither"), "{said}");
    // Their form is looked at all the same.
    let wrong = format!("{GOOD}[alerts]\nwebhook = {{ url = {{ fiel = \"x\" }} }}\n");
    let checked = config::check(&Files::of_text("m.toml", GOOD).with_main_tried(wrong), NOW);
    assert!(checked.faults.iter().any(|fault| fault.to_string().contains("did you mean `file`?")), "{checked:?}");
}

/// The gateway would send any of its files to a host of somebody else's choice.
#[test]
fn what_is_posted_names_no_file_and_no_secret_of_the_gateway() {
    let faults = |text: &str| -> Vec<String> {
        let files = Files::of_text("m.toml", GOOD).with_posted("conf.d/50-page.toml", text);
        config::check(&files, NOW).faults.iter().map(ToString::to_string).collect()
    };
    let broker = "[[mqtt]]\nname = \"b\"\nurl = \"mqtts://h\"\nusername = \"u\"\n\
                  subscribe = [{ topic = \"t\", format = \"shelly\", category = \"CONS\" }]\n";
    assert_eq!(faults(&format!("{broker}password = \"x\"\n")), [""; 0]);
    for reference in ["{ file = \"/etc/hostname\" }", "{ env = \"PATH\" }", "{ credential = \"anchor-key\" }"] {
        let told = faults(&format!("{broker}password = {reference}\n"));
        assert!(
            told.len() == 1 && told[0].contains("password: is a reference, and references are for files"),
            "{told:?}"
        );
        let told = faults(&format!("{broker}client_cert = \"/etc/hostname\"\nclient_key = {reference}\n"));
        assert!(told.iter().any(|told| told.contains("client_cert: is a path, and paths are for files")), "{told:?}");
    }
    let told = faults(&format!("{broker}ca = \"/etc/hostname\"\n"));
    assert!(told.len() == 1 && told[0].contains("ca: is a path, and paths are for files"), "{told:?}");
    for path in ["/etc/hostname", "/dev/../etc/hostname"] {
        let told = faults(&format!("[[modbus]]\nname = \"s\"\nserial = \"{path}\"\n"));
        assert!(told.len() == 1 && told[0].contains("lies in /dev"), "{told:?}");
    }
    assert_eq!(faults("[[modbus]]\nname = \"s\"\nserial = \"/dev/ttyS7\"\n"), [""; 0]);
}

/// What is fetched may be another file than was meant: no fault quotes it.
#[test]
fn a_fault_of_what_was_fetched_does_not_quote_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hook");
    for text in ["topsecret:x:0:0", "topsecret", "ftp://topsecret/"] {
        fs::write(&file, text).unwrap();
        let checked = check(&format!("{GOOD}[alerts]\nwebhook = {{ url = {{ file = \"{}\" }} }}\n", file.display()));
        let told: Vec<_> = checked.warnings.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && !told[0].contains("topsecret") && !told[0].contains("ftp"), "{told:?}");
    }
}

/// Somebody pastes the wrong file, as long as one may be.
#[test]
fn a_wrong_file_of_a_megabyte_is_told_at_once_and_not_in_full() {
    let lines = |line: &dyn Fn(usize) -> String, count: usize| (0..count).map(line).collect::<String>();
    let wrong = [
        ("keys", lines(&|at| format!("k{at} = 1\n"), 60_000)),
        ("secrets", lines(&|at| format!("pass{at} = \"x\"\n"), 40_000)),
        ("no TOML", lines(&|_| "this is a letter\n".to_owned(), 50_000)),
        ("comments", lines(&|_| "# password = \"x\"\n".to_owned(), 50_000)),
        ("meters", lines(&|at| format!("[[modbus]]\nname = \"a{at}\"\n"), 30_000)),
        ("one sum", format!("[[sum]]\nid = \"s\"\nadd = [{}]\n", lines(&|at| format!("\"a{at}\","), 100_000))),
        ("sums of sums", lines(&|at| format!("[[sum]]\nid = \"s{at}\"\nadd = [\"s{}\"]\n", at + 1), 20_000)),
        ("circle", lines(&|at| format!("[[sum]]\nid = \"s{at}\"\nadd = [\"s{}\"]\n", (at + 1) % 20_000), 20_000)),
        ("depth", format!("a = {}", "[".repeat(500_000))),
        ("dots", format!("{}a = 1", "a.".repeat(400_000))),
        ("tables", format!("a = {}", "{a=".repeat(300_000))),
    ];
    for (what, text) in wrong {
        let began = Instant::now();
        let checked = config::check(&Files::of_text("m.toml", GOOD).with_main_tried(text), NOW);
        assert!((1..=201).contains(&checked.faults.len()), "{what}: {} faults", checked.faults.len());
        assert!(checked.warnings.len() <= 201, "{what}: {} warnings", checked.warnings.len());
        let took = began.elapsed();
        eprintln!("{what}: {took:?}");
        assert!(took < Duration::from_secs(10), "{what} took {took:?}");
    }
}
