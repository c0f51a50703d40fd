//! The door to InfluxDB, against real servers and against ones that answer in their format and go wrong.

// clippy.toml allows it in test functions; here it is meant for what they call as well.
#![allow(clippy::unwrap_used)]

mod fake;
#[allow(dead_code, reason = "the browser's tests start another kind of server")]
mod influxd;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use fake::{Answer, Asked, Ends, Fake, points};
use influxd::{Influxd, installed, line_protocol};
use meterseal::evidence::influx::{
    Connection, Credentials, Decoder, Influx, InfluxError, Login, Schema, Secret, Selection, Server,
};
use meterseal::model::{Cell, FieldType, FieldValue, ResultRow, Row};

/// 2026-11-21T00:00:00Z
const T: i64 = 1_795_219_200_000_000_000;
const HOUR: i64 = 3_600_000_000_000;

fn selection(measurement: &str) -> Selection {
    Selection { measurement: measurement.to_owned(), fields: Vec::new(), tags: BTreeMap::new() }
}

/// All rows of an hour, in the order of a dataset.
async fn rows(influx: &Influx, selection: &Selection) -> Result<Vec<Row>, InfluxError> {
    let schema = influx.schema(selection, T..T + HOUR).await?;
    let mut rows = Vec::new();
    let read = influx
        .rows(selection, &schema, T..T + HOUR, &mut |row| {
            rows.push(row);
            Ok::<_, InfluxError>(())
        })
        .await?;
    assert_eq!(read.rows, u64::try_from(rows.len()).unwrap());
    rows.sort_by(|a, b| (a.time_ns, &a.tags, &a.field).cmp(&(b.time_ns, &b.tags, &b.field)));
    Ok(rows)
}

async fn table(influx: &Influx, text: &str) -> Result<Vec<ResultRow>, InfluxError> {
    let mut rows = Vec::new();
    let mut sink = |row| {
        rows.push(row);
        Ok::<_, InfluxError>(())
    };
    influx.table(text, T..T + HOUR, &mut sink).await?;
    Ok(rows)
}

/// A row as text: `time tags field type value`.
fn shown(rows: &[Row]) -> Vec<String> {
    let shown = |row: &Row| {
        let tags: Vec<_> = row.tags.iter().map(|(tag, value)| format!("{tag}={value}")).collect();
        format!("{} [{}] {} {:?}", row.time_ns - T, tags.join(","), row.field, row.value)
    };
    rows.iter().map(shown).collect()
}

fn one() -> Option<Influxd> {
    (installed() == 1).then(Influxd::start).or_else(|| {
        println!("skipped: the influxd on the PATH is not version 1");
        None
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_gives_every_type_exactly_and_tags_apart_from_fields() {
    let Some(server) = one() else { return };
    let lines = [
        format!("energy,line=a,host=x f=1.5,i=9007199254740993i,b=true,s=\"a \\\"b\\\" ä\n c\" {T}"),
        format!("energy,line=a f=3 {}", T + 1),
        format!("energy f=-0,i=-9223372036854775808i,s=\"\" {}", T + 2),
        format!("energy,line=b f=1e300,i=9223372036854775807i {}", T + HOUR - 1),
        format!("energy,line=b f=7 {}", T + HOUR),
        format!("energy,line=b f=7 {}", T - 1),
        format!("energy,line=\\ a\\,\\=\"${{x}} line=\"as a field\",b=f {}", T + 3),
        format!("other f=1 {T}"),
    ];
    server.write(lines.join("\n").as_bytes());
    let influx = Influx::open(&server.connection()).unwrap();
    let schema = influx.schema(&selection("energy"), T..T + HOUR).await.unwrap();
    let types: Vec<_> = schema.fields.iter().map(|(name, kind)| (&**name, *kind)).collect();
    let wanted = [
        ("b", FieldType::Bool),
        ("f", FieldType::F64),
        ("i", FieldType::I64),
        ("line", FieldType::Str),
        ("s", FieldType::Str),
    ];
    assert_eq!(types, wanted);
    let wanted = [
        "0 [host=x,line=a] b Bool(true)",
        "0 [host=x,line=a] f F64(1.5)",
        "0 [host=x,line=a] i I64(9007199254740993)",
        "0 [host=x,line=a] s Str(\"a \\\"b\\\" ä\\n c\")",
        "1 [line=a] f F64(3.0)",
        "2 [] f F64(-0.0)",
        "2 [] i I64(-9223372036854775808)",
        "3 [line= a,=\"${x}] b Bool(false)",
        "3 [line= a,=\"${x}] line Str(\"as a field\")",
        "3599999999999 [line=b] f F64(1e300)",
        "3599999999999 [line=b] i I64(9223372036854775807)",
    ];
    assert_eq!(shown(&rows(&influx, &selection("energy")).await.unwrap()), wanted);
    let tags = [("line".to_owned(), " a,=\"${x}".to_owned())].into();
    let narrow = Selection { fields: vec!["b".to_owned()], tags, ..selection("energy") };
    assert_eq!(shown(&rows(&influx, &narrow).await.unwrap()), [wanted[7]]);
    let count = "SELECT count(f) FROM energy WHERE time >= $from AND time < $to GROUP BY line";
    let counted = table(&influx, count).await.unwrap();
    let f64 = |number| Cell::Value(FieldValue::F64(number));
    let text = |text: &str| Cell::Value(FieldValue::Str(text.into()));
    let row = |cells: &[(&str, Cell)]| -> ResultRow {
        cells.iter().map(|(name, cell)| ((*name).into(), cell.clone())).collect()
    };
    let first = |line: Option<&str>, count| {
        let mut cells = vec![("_measurement", text("energy"))];
        cells.extend(line.map(|line| ("line", text(line))));
        cells.extend([("time", Cell::Time(T)), ("count", f64(count))]);
        row(&cells)
    };
    assert_eq!(counted, [first(None, 1.0), first(Some("a"), 2.0), first(Some("b"), 1.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_refuses_by_name_what_is_not_there_or_of_two_types() {
    let Some(server) = one() else { return };
    let old = T - 30 * 24 * HOUR;
    server.write(format!("energy f=1,g=1i {T}\nenergy f=1i {old}").as_bytes());
    let influx = Influx::open(&server.connection()).unwrap();
    let refused = rows(&influx, &selection("energy")).await.unwrap_err();
    assert!(matches!(&refused, InfluxError::Bad { why, .. } if why.contains("field f of energy")), "{refused}");
    let only = |field: &str| Selection { fields: vec![field.to_owned()], ..selection("energy") };
    assert_eq!(shown(&rows(&influx, &only("g")).await.unwrap()), ["0 [] g I64(1)"]);
    let unknown = rows(&influx, &only("h")).await.unwrap_err();
    assert!(matches!(&unknown, InfluxError::Unknown { why, .. } if why.contains("field h")), "{unknown}");
    let unknown = rows(&influx, &selection("en\"ergy\\")).await.unwrap_err();
    assert!(matches!(&unknown, InfluxError::Unknown { why, .. } if why.contains("en\"ergy\\")), "{unknown}");
    let elsewhere = |database: &str, policy: Option<&str>| {
        let mut connection = server.connection();
        let retention_policy = policy.map(str::to_owned);
        connection.server = Server::One { database: database.to_owned(), retention_policy, login: None };
        Influx::open(&connection).unwrap()
    };
    for away in [elsewhere("nowhere", None), elsewhere("plant", Some("short"))] {
        let unknown = rows(&away, &selection("energy")).await.unwrap_err();
        assert!(matches!(unknown, InfluxError::Unknown { .. }), "{unknown}");
        let unknown = away.test().await.unwrap_err();
        assert!(matches!(unknown, InfluxError::Unknown { .. }), "{unknown}");
    }
    let within = elsewhere("plant", Some("autogen"));
    assert_eq!(rows(&within, &only("g")).await.unwrap().len(), 1);
    for writing in
        ["DROP MEASUREMENT energy", "SELECT g FROM energy; DROP MEASUREMENT energy", "SELECT g INTO h FROM energy"]
    {
        let refused = table(&influx, writing).await.unwrap_err();
        assert!(matches!(refused, InfluxError::Wrong { .. }), "{refused}");
    }
    let refused = table(&influx, "SELECT FROM").await.unwrap_err();
    assert!(matches!(&refused, InfluxError::Wrong { why, .. } if why.contains("parsing query")), "{refused}");
    assert_eq!(rows(&influx, &only("g")).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_is_tested_by_what_it_refuses() {
    let Some(server) = one() else { return };
    let tested = Influx::open(&server.connection()).unwrap().test().await.unwrap();
    assert!(tested.server_version.starts_with("1."), "{tested:?}");
    assert_eq!(tested.credentials, Credentials::NotAsked);
    // Any password will do there, and it proves nothing.
    let by = |server: &Influxd, username: &str, password: &str| {
        let mut connection = server.connection();
        let login = Some(Login { username: username.to_owned(), password: Secret(password.to_owned()) });
        connection.server = Server::One { database: "plant".to_owned(), retention_policy: None, login };
        connection
    };
    let tested = Influx::open(&by(&server, "edge", "wrong")).unwrap().test().await.unwrap();
    assert_eq!(tested.credentials, Credentials::NotAsked);

    let secured = Influxd::start_secured();
    let tested = Influx::open(&secured.connection()).unwrap().test().await.unwrap();
    assert_eq!(tested.credentials, Credentials::Proven);
    secured.write(format!("energy f=1 {T}").as_bytes());
    let influx = Influx::open(&secured.connection()).unwrap();
    assert_eq!(rows(&influx, &selection("energy")).await.unwrap().len(), 1);
    secured.query("CREATE USER guest WITH PASSWORD 'guest'");
    let nobody = Server::One { database: "plant".to_owned(), retention_policy: None, login: None };
    let nobody = Connection { server: nobody, ..secured.connection() };
    for refused in [by(&secured, "edge", "wrong"), by(&secured, "guest", "guest"), nobody] {
        let influx = Influx::open(&refused).unwrap();
        for error in [influx.test().await.unwrap_err(), rows(&influx, &selection("energy")).await.unwrap_err()] {
            assert!(matches!(error, InfluxError::Refused { .. }), "{error}");
            assert!(!error.to_string().contains("wrong\""), "{error}");
        }
    }
    let untrusted = Connection { ca: None, ..secured.connection() };
    let error = Influx::open(&untrusted).unwrap().test().await.unwrap_err();
    assert!(matches!(&error, InfluxError::Wrong { why, .. } if why.contains("`ca`")), "{error}");
    let plain = secured.connection().url.replace("https", "http");
    let plain = Connection { url: plain, ca: None, ..secured.connection() };
    let error = Influx::open(&plain).unwrap().test().await.unwrap_err();
    assert!(matches!(error, InfluxError::Wrong { .. }), "{error}");
}

/// A server of each version with the same points.
fn fakes(rows: &[Row]) -> [Fake; 3] {
    [1, 2, 3].map(|version| Fake::start(version, rows.to_vec()))
}

fn by_time(rows: &mut [Row]) {
    rows.sort_by(|a, b| (a.time_ns, &a.tags, &a.field).cmp(&(b.time_ns, &b.tags, &b.field)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_points_give_the_same_rows_from_every_version() {
    let wanted = points("en ergy, \"x\"", T, 1_000_000_007, 20_000);
    let end = wanted.last().unwrap().time_ns + 1;
    for fake in fakes(&wanted) {
        let influx = Influx::open(&fake.connection()).unwrap();
        let selection = selection("en ergy, \"x\"");
        let schema = influx.schema(&selection, T..end).await.unwrap();
        assert_eq!(schema.fields.len(), 5);
        let (mut rows, middle) = (Vec::new(), T + (end - T) / 3);
        for slice in [T..middle, middle..middle + 1, middle + 1..end, end..end + 1] {
            let sink = &mut |row| {
                rows.push(row);
                Ok::<_, InfluxError>(())
            };
            let read = influx.rows(&selection, &schema, slice, sink).await.unwrap();
            assert_eq!((read.empty_strings, read.empty_tags), (0, 0));
        }
        by_time(&mut rows);
        assert!(rows == wanted, "version {}: {} rows", fake.version, rows.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_server_gives_the_rows_that_were_written() {
    let server = Influxd::start();
    let mut wanted = points("en ergy, x", T, 1_000_000_007, 20_000);
    if installed() == 1 {
        wanted.retain(|row| row.value.kind() != FieldType::U64);
    }
    server.write(&line_protocol(&wanted));
    let influx = Influx::open(&server.connection()).unwrap();
    let selection = selection("en ergy, x");
    let schema = influx.schema(&selection, T..T + HOUR).await.unwrap();
    let mut rows = Vec::new();
    let mut start = T;
    while start < T + 4 * HOUR {
        let sink = &mut |row| {
            rows.push(row);
            Ok::<_, InfluxError>(())
        };
        influx.rows(&selection, &schema, start..start + HOUR / 3, sink).await.unwrap();
        start += HOUR / 3;
    }
    by_time(&mut rows);
    assert!(rows == wanted, "{} rows", rows.len());
    let tested = influx.test().await.unwrap();
    assert!(tested.server_version.starts_with(&format!("{}.", installed())), "{tested:?}");
}

/// What an answer spoilt by `harm` comes to, from each version.
async fn spoilt(harm: impl Fn(&Fake, &Asked, Answer) -> Answer + Send + Sync + 'static) -> Vec<InfluxError> {
    let rows = points("energy", T, 1_000_000, 400);
    let (mut errors, harm) = (Vec::new(), Arc::new(harm));
    for fake in fakes(&rows) {
        let (fake, harm) = (Arc::new(fake), harm.clone());
        let of = Arc::downgrade(&fake);
        fake.spoil(move |asked, answer| harm(&of.upgrade().unwrap(), asked, answer));
        let mut connection = fake.connection();
        connection.patience = Duration::from_secs(1);
        let influx = Influx::open(&connection).unwrap();
        errors.push(self::rows(&influx, &selection("energy")).await.expect_err(&format!("version {}", fake.version)));
    }
    errors
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_says_what_the_caller_can_do() {
    let page = "<!DOCTYPE html><html><body>Sign in</body></html>";
    for status in [401, 403] {
        for error in spoilt(move |_, _, _| Answer::new(status, r#"{"message":"unauthorized access"}"#)).await {
            assert!(
                matches!(&error, InfluxError::Refused { why, .. } if why.contains("unauthorized access")),
                "{error}"
            );
        }
    }
    for status in [413, 422, 504] {
        for error in spoilt(move |_, _, _| Answer::new(status, "")).await {
            assert!(matches!(error, InfluxError::Smaller { .. }), "{error}");
        }
    }
    for (status, body) in [(429, ""), (500, "oops"), (502, page), (503, page)] {
        for error in spoilt(move |_, _, _| {
            let headers = vec![("Retry-After", "7".to_owned())];
            Answer { headers, ..Answer::new(status, body) }
        })
        .await
        {
            let seven = Some(Duration::from_secs(7));
            assert!(matches!(error, InfluxError::Passing { retry_after, .. } if retry_after == seven), "{error}");
        }
    }
    for (status, body) in [(200, page), (400, "{\"error\":\"found EOF\"}"), (404, ""), (301, page)] {
        for error in spoilt(move |_, _, _| Answer::new(status, body)).await {
            assert!(matches!(error, InfluxError::Wrong { .. }), "{error}");
        }
    }
    let moved = |_: &Fake, _: &Asked, _| {
        let headers = vec![("Location", "https://elsewhere.example/login?secret=x".to_owned())];
        Answer { headers, ..Answer::new(302, "") }
    };
    for error in spoilt(moved).await {
        let told = error.to_string();
        assert!(told.contains("https://elsewhere.example/login\"") && !told.contains("secret"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_good_rows_in_a_good_status_is_an_error() {
    let told = |fake: &Fake, message: &str| match fake.version {
        1 => format!("{{\"results\":[{{\"statement_id\":0,\"error\":\"{message}\"}}]}}\n"),
        2 => {
            format!("#datatype,string,long\r\n#group,true,true\r\n#default,,\r\n,error,reference\r\n,{message},897\r\n")
        }
        _ => format!("{{\"error\":\"{message}\"}}\n"),
    };
    for (message, wanted) in [
        ("query-timeout limit exceeded", "Smaller"),
        ("Query would exceed file limit of 432 parquet files", "Smaller"),
        ("memory allocation limit reached: limit 10 bytes", "Smaller"),
        ("max-concurrent-queries limit exceeded(3; 2)", "Passing"),
        ("database not found: x", "Unknown"),
        ("something unforeseen", "Wrong"),
    ] {
        for error in spoilt(move |fake, _, answer| {
            let body = String::from_utf8(answer.body).unwrap() + &told(fake, message);
            Answer { body: body.into_bytes(), ..Answer::new(200, "") }
        })
        .await
        {
            assert!(format!("{error:?}").starts_with(wanted) && error.to_string().contains(message), "{error:?}");
        }
    }
    // Older servers write the table of the error without annotations.
    for error in spoilt(move |fake, _, answer| {
        let mut body = String::from_utf8(answer.body).unwrap();
        body +=
            if fake.version == 2 { "error,reference\r\npanic: oh no,\r\n" } else { "{\"error\":\"panic: oh no\"}\n" };
        Answer::new(200, body)
    })
    .await
    {
        assert!(matches!(&error, InfluxError::Wrong { why, .. } if why.contains("panic: oh no")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_short_is_an_error_wherever_it_is_cut() {
    for part in 0..24 {
        for error in spoilt(move |_, _, answer| {
            let at = answer.body.len() * part / 24;
            Answer { ends: Ends::Lost(at), ..answer }
        })
        .await
        {
            assert!(matches!(error, InfluxError::Passing { .. }), "{error}");
        }
        // By something in between, which ends its own answer well. Version 3 says nowhere that its answer is whole, and
        // a line that is cut is all that can be seen.
        for error in spoilt(move |fake, _, mut answer| {
            let mut at = answer.body.len() * part / 24;
            while fake.version == 3 && (at == 0 || matches!(answer.body[at - 1], b'\n' | b'}')) {
                at += 1;
            }
            answer.body.truncate(at);
            answer
        })
        .await
        {
            assert!(matches!(error, InfluxError::Passing { .. }), "{error}");
        }
    }
    for error in spoilt(|_, _, answer| Answer { ends: Ends::Stalled(200), ..answer }).await {
        assert!(matches!(&error, InfluxError::Passing { why, .. } if why.contains("stopped")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_dataset_can_hold_is_refused_by_its_row() {
    let at = |time_ns: i64, field: &str, value| Row {
        time_ns: T + time_ns,
        measurement: "energy".into(),
        tags: [("line".into(), "a".into())].into(),
        field: field.into(),
        value,
    };
    let text = |text: &str| FieldValue::Str(text.into());
    let named = |error: &InfluxError, what: &str| {
        let named = format!("energy,line=a f at 2026-11-21T00:00:00.000000002Z {what}");
        assert!(matches!(error, InfluxError::Bad { why, .. } if why.contains(&named)), "{error}");
    };
    for fake in fakes(&[at(1, "f", text("ä")), at(2, "f", text("a\u{fffd}"))]) {
        let influx = Influx::open(&fake.connection()).unwrap();
        named(&rows(&influx, &selection("energy")).await.unwrap_err(), "holds U+FFFD");
        fake.spoil(|_, answer| {
            Answer::new(
                200,
                answer.body.iter().map(|byte| if *byte == 0xa4 { b'x' } else { *byte }).collect::<Vec<_>>(),
            )
        });
        let error = rows(&influx, &selection("energy")).await.unwrap_err();
        assert!(matches!(&error, InfluxError::Bad { why, .. } if why.contains("UTF-8")), "{error}");
    }
    for (number, shown) in [(f64::NAN, "is NaN"), (f64::INFINITY, "is inf"), (f64::NEG_INFINITY, "is -inf")] {
        let fake = Fake::start(2, vec![at(1, "f", FieldValue::F64(1.0)), at(2, "f", FieldValue::F64(number))]);
        let influx = Influx::open(&fake.connection()).unwrap();
        named(&rows(&influx, &selection("energy")).await.unwrap_err(), shown);
    }
    let fake = Fake::start(2, vec![at(1, "f", FieldValue::F64(1.0)), at(2, "f", FieldValue::I64(1))]);
    let error = rows(&Influx::open(&fake.connection()).unwrap(), &selection("energy")).await.unwrap_err();
    assert!(matches!(&error, InfluxError::Bad { why, .. } if why.contains("field f of energy is")), "{error}");
    // A server that does not keep to the time it was asked for.
    for fake in fakes(&[at(1, "f", text("ä")), at(HOUR, "f", text("ä"))]) {
        fake.spoil(|_, answer| {
            let moved = String::from_utf8(answer.body).unwrap().replace("2026-11-21", "2025-11-21");
            Answer::new(200, moved.replace(&(T + 1).to_string(), &(T - 1).to_string()))
        });
        let error = rows(&Influx::open(&fake.connection()).unwrap(), &selection("energy")).await.unwrap_err();
        assert!(matches!(&error, InfluxError::Wrong { why, .. } if why.contains("outside of the time")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_empty_is_absent_and_counted() {
    let mut given = points("energy", T, 1_000_000, 100);
    let empty: Vec<_> = (0..given.len()).filter(|at| given[*at].value.kind() == FieldType::Str).step_by(2).collect();
    empty.iter().for_each(|at| given[*at].value = FieldValue::Str("".into()));
    let wanted: Vec<_> = given.iter().filter(|row| row.value != FieldValue::Str("".into())).cloned().collect();
    for fake in fakes(&given) {
        let influx = Influx::open(&fake.connection()).unwrap();
        let schema = influx.schema(&selection("energy"), T..T + HOUR).await.unwrap();
        let mut rows = Vec::new();
        let mut sink = |row: Row| {
            rows.push(row);
            Ok::<_, InfluxError>(())
        };
        let read = influx.rows(&selection("energy"), &schema, T..T + HOUR, &mut sink).await.unwrap();
        by_time(&mut rows);
        assert!(rows == wanted, "version {}", fake.version);
        assert_eq!(read.empty_strings, u64::try_from(empty.len()).unwrap());
        if fake.version == 1 {
            continue;
        }
        fake.spoil(|_, answer| {
            let text = String::from_utf8(answer.body).unwrap();
            Answer::new(200, text.replace("\"line\":\"a\"", "\"line\":\"\"").replace(",a,m 1\r\n", ",,m 1\r\n"))
        });
        let mut tags = Vec::new();
        let mut sink = |row: Row| {
            tags.push(row.tags);
            Ok::<_, InfluxError>(())
        };
        let read = influx.rows(&selection("energy"), &schema, T..T + HOUR, &mut sink).await.unwrap();
        let alone =
            tags.iter().filter(|tags| matches!(&tags[..], [(tag, value)] if **tag == *"meter" && **value == *"m 1"));
        assert_eq!(read.empty_tags, u64::try_from(alone.count()).unwrap());
        assert!(read.empty_tags > 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_tested_and_names_what_is_wrong() {
    let given = points("energy", T, 1_000_000, 10);
    for fake in fakes(&given) {
        let tested = Influx::open(&fake.connection()).unwrap().test().await.unwrap();
        assert!(tested.server_version.starts_with(&format!("{}.", fake.version)), "{tested:?}");
        let proven = if fake.version == 1 { Credentials::NotAsked } else { Credentials::Proven };
        assert_eq!(tested.credentials, proven);
        let with = |server: Server| Connection { server, ..fake.connection() };
        let (org, database, token) = ("plant".to_owned(), "elsewhere".to_owned(), Secret(fake::TOKEN.to_owned()));
        let unknown = match fake.version {
            1 => with(Server::One { database, retention_policy: None, login: None }),
            2 => with(Server::Two { org: org.clone(), bucket: database, token }),
            _ => with(Server::Three { database, token: Some(token) }),
        };
        let influx = Influx::open(&unknown).unwrap();
        let error = influx.test().await.unwrap_err();
        assert!(matches!(error, InfluxError::Unknown { .. }), "{error}");
        let error = influx.schema(&selection("energy"), T..T + HOUR).await.unwrap_err();
        assert!(matches!(error, InfluxError::Unknown { .. }), "{error}");
        let error = rows(&Influx::open(&fake.connection()).unwrap(), &selection("other")).await.unwrap_err();
        assert!(matches!(error, InfluxError::Unknown { .. }), "{error}");
        // Another version's server.
        let other = Connection {
            server: fakes(&given)[usize::from(fake.version % 3)].connection().server,
            ..fake.connection()
        };
        let error = Influx::open(&other).unwrap().test().await.unwrap_err();
        assert!(matches!(error, InfluxError::Wrong { .. } | InfluxError::Refused { .. }), "{error}");
        let (bucket, database, wrong) = ("plant".to_owned(), "plant".to_owned(), Secret("guessed".to_owned()));
        let refused = match fake.version {
            1 => continue,
            2 => [
                with(Server::Two { org, bucket, token: wrong.clone() }),
                with(Server::Two { org: "other".into(), bucket: "plant".into(), token: wrong }),
            ],
            _ => [
                with(Server::Three { database: database.clone(), token: Some(wrong) }),
                with(Server::Three { database, token: None }),
            ],
        };
        for refused in refused {
            let influx = Influx::open(&refused).unwrap();
            for error in [influx.test().await.unwrap_err(), rows(&influx, &selection("energy")).await.unwrap_err()] {
                assert!(matches!(error, InfluxError::Refused { .. }), "{error}");
                assert!(!error.to_string().contains("guessed") && !format!("{refused:?}").contains("guessed"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_body_may_say_that_it_is_packed() {
    // Its answer to /ping has status 204, no body, and a Content-Encoding all the same.
    let server = Fake::start(1, points("energy", T, 1_000_000, 10));
    let ping = reqwest::Client::builder().no_proxy().build().unwrap();
    let ping = ping.get(format!("{}/ping", server.connection().url)).header("Accept-Encoding", "gzip");
    let ping = ping.send().await.unwrap();
    assert_eq!((ping.status().as_u16(), &ping.headers()["content-encoding"]), (204, &"gzip".parse().unwrap()));
    let tested = Influx::open(&server.connection()).unwrap().test().await.unwrap();
    assert_eq!(tested.server_version, "1.8.10");
    // Where a body is due, none at all is one cut short: it would be taken for no rows.
    let server = Fake::start(2, points("energy", T, 1_000_000, 10));
    server.spoil(|_, _| {
        let headers = vec![("Content-Type", "text/csv".to_owned()), ("Content-Encoding", "gzip".to_owned())];
        Answer { headers, ..Answer::new(200, "") }
    });
    let error = rows(&Influx::open(&server.connection()).unwrap(), &selection("energy")).await.unwrap_err();
    assert!(matches!(error, InfluxError::Passing { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_or_does_not_answer_is_told_apart() {
    let fake = Fake::start(1, Vec::new());
    // Connections are taken by the system, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let connection = Connection { url, patience: Duration::from_millis(300), ..fake.connection() };
    let error = rows(&Influx::open(&connection).unwrap(), &selection("energy")).await.unwrap_err();
    assert!(matches!(error, InfluxError::Smaller { .. }), "{error}");
    drop(silent);
    let error = rows(&Influx::open(&connection).unwrap(), &selection("energy")).await.unwrap_err();
    assert!(matches!(error, InfluxError::Passing { .. }), "{error}");
    // An answer whose end is that of its connection.
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", old.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = old.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.0 200 OK\r\n\r\n{\"results\":[{\"statement_id\":0}]}").unwrap();
    });
    let connection = Connection { url, ..fake.connection() };
    let error = rows(&Influx::open(&connection).unwrap(), &selection("energy")).await.unwrap_err();
    assert!(matches!(&error, InfluxError::Wrong { why, .. } if why.contains("where it ends")), "{error}");
    for bad in ["not a url", "http://"] {
        let connection = Connection { url: bad.to_owned(), ..fake.connection() };
        assert!(matches!(Influx::open(&connection), Err(InfluxError::Wrong { .. })));
    }
    let connection = Connection { ca: Some(b"no certificate".to_vec()), ..fake.connection() };
    assert!(matches!(Influx::open(&connection), Err(InfluxError::Wrong { .. })));
}

#[test]
fn no_part_of_an_answer_is_taken_for_the_whole() {
    let one = concat!(
        r#"{"results":[{"statement_id":0,"series":[{"name":"e","columns":["time","f"],"values":[[5,1]],"partial":true}]}]}"#,
        "\n",
        r#"{"results":[{"statement_id":0,"series":[{"name":"e","columns":["time","f"],"values":[[6,2]]}],"partial":true}]}"#,
        "\n",
        r#"{"results":[{"statement_id":0,"series":[{"name":"e","tags":{"a":"b"},"columns":["time","f"],"values":[[7,3]]}]}]}"#,
    );
    let head = "#datatype,string,long,dateTime:RFC3339,double,string,string\r\n#group,false,false,false,false,true,true\r\n\
                #default,_result,,,,,\r\n,result,table,_time,_value,_field,_measurement\r\n";
    let row = |ns| format!(",,0,1970-01-01T00:00:00.00000000{ns}Z,1.5,f,e\r\n");
    let two = format!("{head}{}{}\r\n{head}{}\r\n", row(5), row(6), row(7));
    let schema: Schema = serde_json::from_value(serde_json::json!({ "fields": { "f": "f64" }, "tags": [] })).unwrap();
    for (version, answer) in [(1, one.to_owned()), (2, two)] {
        let read = |bytes: &[u8]| {
            let mut decoder = Decoder::new("historian", version, &selection("e"), &schema, 0..10);
            let mut sink = |_| Ok::<_, InfluxError>(());
            decoder.feed(bytes, &mut sink)?;
            decoder.finish(&mut sink)
        };
        assert_eq!(read(answer.as_bytes()).map(|read| read.rows), Ok(3));
        for cut in 0..answer.len() {
            // After the empty line of a block there may be nothing more: there the length of the answer is all there is.
            let at_block = version == 2 && answer[..cut].ends_with("\r\n\r\n");
            let part = read(&answer.as_bytes()[..cut]);
            assert!(
                at_block || matches!(part, Err(InfluxError::Passing { .. })),
                "version {version} at {cut}: {part:?}"
            );
        }
    }
}
