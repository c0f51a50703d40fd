//! `[[influx]]` and `[[query]]`: what they say, and every fault of them.

use std::time::Duration;

use meterseal::config::{self, Files};
use meterseal::evidence::influx::{Asked, Login, Secret, Server};

use crate::{NOW, check, faults};

const GOOD: &str = r#"[site]
id = "plant-7"
timezone = "Asia/Kuala_Lumpur"
[[influx]]
name = "historian"
version = 2
url = "http://127.0.0.1:8086/"
org = "plant"
bucket = "energy"
token = { env = "PATH" }
[[influx]]
name = "old"
version = 1
url = "https://historian.plant:8086/influx"
timeout = "5s"
database = "plant"
retention_policy = "year"
username = "reader"
password = { env = "PATH" }
[[influx]]
name = "new"
version = 3
url = "http://[::1]:8181"
database = "plant"
[[query]]
name = "energy"
measurement = "energy"
fields = ["power", "count"]
tags = { line = "a" }
[[query]]
name = "daily"
text = "SELECT mean(power) FROM energy WHERE time >= $from AND time < $to GROUP BY time(1d)"
"#;

#[test]
fn good_connections_and_queries_say_what_they_say() {
    let checked = check(GOOD);
    assert_eq!((checked.faults.as_slice(), checked.warnings.as_slice()), (&[][..], &[][..]));
    let config = checked.config.unwrap();
    let path = std::env::var("PATH").unwrap();
    assert!(!format!("{config:?}").contains(&path), "a token is never printed");
    let [two, one, three] = &config.evidence.connections[..] else { panic!("{:?}", config.evidence) };
    let secret = || Secret(path.clone());
    assert_eq!((two.name.as_str(), two.url.as_str()), ("historian", "http://127.0.0.1:8086"));
    assert_eq!(two.server, Server::Two { org: "plant".into(), bucket: "energy".into(), token: secret() });
    assert_eq!(two.patience, Duration::from_secs(60));
    assert_eq!((one.url.as_str(), one.patience), ("https://historian.plant:8086/influx", Duration::from_secs(5)));
    let login = Some(Login { username: "reader".into(), password: secret() });
    let server = Server::One { database: "plant".into(), retention_policy: Some("year".into()), login };
    assert_eq!(one.server, server);
    assert_eq!(three.server, Server::Three { database: "plant".into(), token: None });
    let shown = serde_json::to_value((&config.exports.connections, &config.exports.queries)).unwrap();
    let wanted = serde_json::json!([
        [
            { "name": "historian", "version": 2, "url": "http://127.0.0.1:8086/", "org": "plant", "bucket": "energy",
              "off": false, "read_only": "m.toml" },
            { "name": "old", "version": 1, "url": "https://historian.plant:8086/influx", "database": "plant",
              "retention_policy": "year", "username": "reader", "off": false, "read_only": "m.toml" },
            { "name": "new", "version": 3, "url": "http://[::1]:8181", "database": "plant", "off": false,
              "read_only": "m.toml" },
        ],
        [
            { "name": "energy", "kind": "points", "measurement": "energy", "fields": ["power", "count"],
              "tags": { "line": "a" }, "read_only": "m.toml" },
            { "name": "daily", "kind": "result", "read_only": "m.toml",
              "text": "SELECT mean(power) FROM energy WHERE time >= $from AND time < $to GROUP BY time(1d)" },
        ],
    ]);
    assert_eq!(shown, wanted);
    let [energy, daily] = &config.evidence.queries[..] else { panic!("{:?}", config.evidence) };
    let Asked::Points(selection) = &energy.asked else { panic!("{energy:?}") };
    assert_eq!((selection.measurement.as_str(), selection.fields.len()), ("energy", 2));
    assert_eq!(selection.tags.iter().collect::<Vec<_>>(), [(&"line".to_owned(), &"a".to_owned())]);
    assert!(matches!(&daily.asked, Asked::Result(text) if text.starts_with("SELECT mean")));
}

#[test]
fn every_fault_says_where_and_how_to_mend_it() {
    let cases = [
        (
            "name = \"old\"",
            "name = \"historian\"",
            "m.toml:12: influx[1].name: `historian` is the name of another connection at m.toml:5; every connection has a name of its own",
        ),
        (
            "name = \"old\"",
            "name = \"o d\"",
            "m.toml:12: influx[1].name: `o d` is not a name: 1 to 64 of A-Z a-z 0-9 . _ -",
        ),
        ("version = 2\n", "", "m.toml:4: influx[0].version: is missing; say which InfluxDB it is: version = 1, 2 or 3"),
        ("version = 2\n", "version = \"2\"\n", "m.toml:6: influx[0].version: \"2\" is none of 1, 2, 3"),
        ("version = 2\n", "version = 4\n", "m.toml:6: influx[0].version: 4 is none of 1, 2, 3"),
        (
            "url = \"http://127.0.0.1:8086/\"\n",
            "",
            "m.toml:4: influx[0].url: is missing; name the server: url = \"http://127.0.0.1:8086\"",
        ),
        (
            "\"http://127.0.0.1:8086/\"",
            "\"127.0.0.1\"",
            "m.toml:7: influx[0].url: is no URL; write it as \"http://127.0.0.1:8086\" or \"https://historian.plant:8086\"",
        ),
        (
            "\"http://127.0.0.1:8086/\"",
            "\"udp://127.0.0.1:8086/\"",
            "m.toml:7: influx[0].url: udp: is neither http nor https; write it as \"http://127.0.0.1:8086\" or \"https://historian.plant:8086\"",
        ),
        (
            "\"http://127.0.0.1:8086/\"",
            "\"http://me:it@127.0.0.1:8086/\"",
            "m.toml:7: influx[0].url: a user in the address stands in the file for all to read; use `username` and `password`, or `token`",
        ),
        (
            "\"http://127.0.0.1:8086/\"",
            "\"http://127.0.0.1:8086/?org=x\"",
            "m.toml:7: influx[0].url: has more than a host and a path; write it as \"http://127.0.0.1:8086\" or \"https://historian.plant:8086\"",
        ),
        ("org = \"plant\"\n", "", "m.toml:4: influx[0].org: is missing; name the organization: org = \"plant\""),
        ("bucket = \"energy\"\n", "", "m.toml:4: influx[0].bucket: is missing; name the bucket: bucket = \"energy\""),
        ("bucket = \"energy\"\n", "bucket = \"\"\n", "m.toml:9: influx[0].bucket: is empty; name it, or take it out"),
        ("timeout = \"5s\"", "timout = \"5s\"", "m.toml:15: influx[1].timout: no such key; did you mean `timeout`?"),
        (
            "token = { env = \"PATH\" }\n",
            "",
            "m.toml:4: influx[0].token: is missing; version 2 answers nobody without one: token = { credential = \"influx\" }",
        ),
        (
            "org = \"plant\"\n",
            "org = \"plant\"\ndatabase = \"plant\"\n",
            "m.toml:9: influx[0].database: InfluxDB 2 has no such thing; it is for version 1 and 3; take it out, or correct `version`",
        ),
        ("timeout = \"5s\"", "timeout = \"5ms\"", "m.toml:15: influx[1].timeout: 5ms is not within 1s to 1h"),
        (
            "database = \"plant\"\nretention",
            "retention",
            "m.toml:11: influx[1].database: is missing; name the database: database = \"plant\"",
        ),
        (
            "username = \"reader\"\n",
            "",
            "m.toml:18: influx[1].password: a user and a password go together; give both `username` and `password`",
        ),
        (
            "username = \"reader\"\n",
            "username = \"reader\"\ntoken = { env = \"PATH\" }\n",
            "m.toml:19: influx[1].token: InfluxDB 1 has no such thing; it is for version 2 and 3; take it out, or correct `version`",
        ),
        (
            "url = \"http://[::1]:8181\"\n",
            "url = \"http://[::1]:8181\"\nca = \"/etc/hostname\"\n",
            "m.toml:24: influx[2].ca: is for TLS; begin the address with https://",
        ),
        (
            "name = \"daily\"",
            "name = \"energy\"",
            "m.toml:31: query[1].name: `energy` is the name of another query at m.toml:26; every query has a name of its own",
        ),
        (
            "measurement = \"energy\"\n",
            "",
            "m.toml:25: query[0].measurement: is missing; say what is exported: measurement = \"energy\", or text = \"SELECT ...\"",
        ),
        (
            "measurement = \"energy\"\n",
            "measurement = \"energy\"\ntext = \"x\"\n",
            "m.toml:28: query[0].text: the query has a `measurement` as well; keep `measurement` for raw points, or `text` for a query of your own",
        ),
        (
            "text = ",
            "fields = [\"a\"]\ntext = ",
            "m.toml:32: query[1].fields: a query with `text` selects by its text; take it out",
        ),
        (
            "fields = [\"power\", \"count\"]",
            "fields = []",
            "m.toml:28: query[0].fields: names no field; leave it out for all fields",
        ),
        (
            "fields = [\"power\", \"count\"]",
            "fields = [\"power\", \"power\"]",
            "m.toml:28: query[0].fields[1]: \"power\" is named twice; keep one of the two",
        ),
        (
            "fields = [\"power\", \"count\"]",
            "fields = \"power\"",
            "m.toml:28: query[0].fields: is a text, not a list of texts",
        ),
        (
            "tags = { line = \"a\" }",
            "tags = \"a\"",
            "m.toml:29: query[0].tags: is a text, not a table; write it as tags = { line = \"a\" }",
        ),
        (
            "tags = { line = \"a\" }",
            "tags = { line = \"\" }",
            "m.toml:29: query[0].tags.line: is empty, and InfluxDB has no empty tags; take it out",
        ),
        (
            "tags = { line = \"a\" }",
            "tags = { line = 1 }",
            "m.toml:29: query[0].tags.line: is a whole number, not a text in quotes",
        ),
        ("tags = { line", "tag = { line", "m.toml:29: query[0].tag: no such key; did you mean `tags`?"),
    ];
    for (line, other, wanted) in cases {
        assert!(GOOD.contains(line), "{line}");
        assert_eq!(faults(&GOOD.replacen(line, other, 1)), [wanted], "{other}");
    }
}

#[test]
fn a_free_query_that_no_connection_is_asked_is_a_fault() {
    let of = |versions: &[u8], text: &str| {
        let mut config = GOOD.split("[[influx]]").next().unwrap().to_owned();
        for version in versions {
            let own = match version {
                2 => "org = \"plant\"\nbucket = \"energy\"\ntoken = { env = \"PATH\" }\n",
                _ => "database = \"plant\"\n",
            };
            config +=
                &format!("[[influx]]\nname = \"v{version}\"\nversion = {version}\nurl = \"http://[::1]:1\"\n{own}");
        }
        faults(&format!("{config}[[query]]\nname = \"own\"\ntext = '{text} $from $to'\n"))
    };
    let (writes, flux) = ("SELECT f INTO g FROM m", "x |> to(bucket: 1)");
    let [told] = &of(&[1], writes)[..] else { panic!("{:?}", of(&[1], writes)) };
    assert!(
        told.starts_with("m.toml:11: query[0].text: no connection of this config is asked that: a query is one SELECT"),
        "{told}"
    );
    assert!(told.ends_with("; write one that only reads"), "{told}");
    assert!(of(&[2], flux)[0].contains("it calls neither `to` nor `wideTo`"));
    assert_eq!(of(&[1, 2], flux).len(), 1, "neither language");
    for (versions, text) in [(&[1, 2][..], writes), (&[2], writes), (&[3], writes), (&[1, 3], flux), (&[], flux)] {
        assert_eq!(of(versions, text), [""; 0], "{versions:?}: {text}");
    }
}

#[test]
fn a_secret_that_is_not_there_turns_its_connection_off_and_one_in_the_file_is_warned_of() {
    let text = GOOD.replacen("{ env = \"PATH\" }", "{ env = \"METERSEAL_NO_SUCH\" }", 1);
    let checked = check(&text);
    let config = checked.config.unwrap();
    assert_eq!(
        config.off,
        [
            "connection historian is off: the environment has no METERSEAL_NO_SUCH: set it for the service, or refer to a file"
        ]
    );
    assert_eq!(config.evidence.connections.iter().map(|known| known.name.as_str()).collect::<Vec<_>>(), ["old", "new"]);
    assert_eq!(config.exports.connections.iter().map(|shown| shown.off).collect::<Vec<_>>(), [true, false, false]);
    // A file that went bad by itself is as one that is not there.
    let bad = check(&GOOD.replace("timeout = \"5s\"\n", "ca = \"/etc/hostname\"\n"));
    let warnings: Vec<_> = bad.warnings.iter().map(ToString::to_string).collect();
    let why = "connection old is off: /etc/hostname: the `ca` file holds no certificate in PEM; write the whole file anew, in PEM";
    assert_eq!((bad.faults, warnings), (vec![], vec![format!("m.toml:15: influx[1].ca: {why}")]));
    let config = bad.config.unwrap();
    assert_eq!(config.off, [why]);
    assert_eq!(config.exports.connections.iter().map(|shown| shown.off).collect::<Vec<_>>(), [false, true, false]);

    let text = GOOD.replacen("{ env = \"PATH\" }", "\"in-the-file\"", 1);
    let checked = check(&text);
    let warnings: Vec<_> = checked.warnings.iter().map(ToString::to_string).collect();
    let wanted = "m.toml:10: influx[0].token: a secret stands in the file for all who may read it; refer to it with { file = \"PATH\" } or { credential = \"NAME\" }";
    assert_eq!(warnings, [wanted]);
    assert_eq!(checked.config.unwrap().evidence.connections.len(), 3);
    let kept = serde_json::to_string(&checked.kept).unwrap();
    assert!(!kept.contains("in-the-file"), "{kept}");
    let free = check(&GOOD.replace(" AND time < $to", ""));
    let warnings: Vec<_> = free.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!((free.faults.len(), warnings), (0, vec!["query[1].text"]));
    let files = Files::of_text("m.toml", GOOD.replace("[[query]]", "[[quer]]"));
    assert!(config::check(&files, NOW).config.is_none());
}
