//! The door to InfluxDB, against real servers and against ones that answer in their format and go wrong.

// clippy.toml allows it in test functions; here it is meant for what they call as well.
#![allow(clippy::unwrap_used)]

mod influxd;

use std::collections::BTreeMap;

use influxd::{Influxd, installed};
use meterseal::evidence::influx::{Credentials, Influx, InfluxError, Login, Secret, Selection, Server};
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
    let nobody = meterseal::evidence::influx::Connection { server: nobody, ..secured.connection() };
    for refused in [by(&secured, "edge", "wrong"), by(&secured, "guest", "guest"), nobody] {
        let influx = Influx::open(&refused).unwrap();
        for error in [influx.test().await.unwrap_err(), rows(&influx, &selection("energy")).await.unwrap_err()] {
            assert!(matches!(error, InfluxError::Refused { .. }), "{error}");
            assert!(!error.to_string().contains("wrong\""), "{error}");
        }
    }
    let untrusted = meterseal::evidence::influx::Connection { ca: None, ..secured.connection() };
    let error = Influx::open(&untrusted).unwrap().test().await.unwrap_err();
    assert!(matches!(&error, InfluxError::Wrong { why, .. } if why.contains("`ca`")), "{error}");
    let plain = secured.connection().url.replace("https", "http");
    let plain = meterseal::evidence::influx::Connection { url: plain, ca: None, ..secured.connection() };
    let error = Influx::open(&plain).unwrap().test().await.unwrap_err();
    assert!(matches!(error, InfluxError::Wrong { .. }), "{error}");
}
