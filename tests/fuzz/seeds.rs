//! What each decoder is attacked with: payloads as devices send them.

use jiff::tz::TimeZone;
use meterseal::model::Ratio;
use meterseal::sources::mqtt::formats::{Format, Json, Plain, Pointed, TimeFormat};

/// One decoder, in one or more settings, and what real devices send to it.
pub struct Target {
    pub name: &'static str,
    pub filter: &'static str,
    pub formats: Vec<Format>,
    pub topics: &'static [&'static str],
    pub payloads: &'static [&'static str],
}

pub fn targets() -> Vec<Target> {
    let berlin = || TimeZone::get("Europe/Berlin").unwrap();
    vec![
        Target {
            name: "acrel",
            filter: "platform/+/meter/json-v2/analog/+",
            formats: vec![Format::Acrel],
            topics: &["platform/acrel/meter/json-v2/analog/0000", "platform/acrel/meter/json-v2/analog/0001"],
            payloads: &[
                r#"{"data":[{"tp":1795253399000,"point":[{"id":0,"val":"20201998111433"},{"id":13,"val":45.5},{"id":26,"val":"49.98"}]}]}"#,
                r#"{"data":[{"tp":1795253399000,"point":[{"id":28,"val":"123.4"},{"id":29,"val":0}]}]}"#,
                r#"{"data":[{"tp":"1795253398000","point":[{"id":"0","val":20201998111434},{"id":10,"val":null},{"id":1,"val":229.9}]},{"tp":0,"point":[{"id":17,"val":-3.25}]}]}"#,
                r#"{"data":[{"tp":0,"point":[{"id":0,"val":"B"},{"id":13,"val":1}]},{"tp":1795253399000,"point":[{"id":31,"val":7}]}]}"#,
            ],
        },
        Target {
            name: "json",
            filter: "zigbee2mqtt/#",
            formats: vec![
                json("", None, None, ["/power", "/energy", "/power~1hour"]),
                json("", Some("/id"), Some(("/last_seen", TimeFormat::Rfc3339)), ["/power", "/a/0/b", "/energy"]),
                json("/meters", Some("/sn"), Some(("/ts", TimeFormat::UnixS)), ["/p", "/e/0", ""]),
                json("/meters", None, Some(("/ts", TimeFormat::UnixMs)), ["/p", "/e/1", "/e"]),
                json("", None, Some(("/Time", TimeFormat::Local(berlin()))), ["/power", "/energy", "/0"]),
            ],
            topics: &["zigbee2mqtt/plug", "zigbee2mqtt/hall/plug", "zigbee2mqtt", "other"],
            payloads: &[
                r#"{"id":"m-1","current":0.07,"energy":14.31,"last_seen":"2026-11-21T17:29:58+08:00","linkquality":98,"power":11.5,"power/hour":1e1}"#,
                r#"{"Time":"2026-10-25T02:30:00","power":"12","a":[{"b":-0},{"b":2}],"energy":9007199254740993,"id":5}"#,
                r#"{"ts":1795253399.5,"meters":[{"sn":"A","p":1,"e":[1,2]},{"sn":17,"p":2.5,"ts":1795253390},{"p":"3","sn":null},[4]]}"#,
                r#"{"ts":"1795253399500","meters":[{"p":null,"e":[nan,"inf"]},{"p":"unavailable","sn":"caf\u00e9 \ud83d\ude00"}]}"#,
            ],
        },
        Target {
            name: "plain",
            filter: "shellies/+/emeter/+/total",
            formats: vec![Format::Plain(Plain {
                quantity: "energy_import_kwh".parse().unwrap(),
                scale: Ratio::new(1, 1000).unwrap(),
            })],
            topics: &["shellies/em3/emeter/0/total", "shellies/em3/emeter/1/total", "total"],
            payloads: &["10533.1", " -5\r\n", "+1.5e-3", "18446744073709551615", "0", "427.7", "unavailable"],
        },
        Target {
            name: "shelly",
            filter: "#",
            formats: vec![Format::Shelly],
            topics: &[
                "em3/status/em:0",
                "em3/status/emdata:0",
                "plant/em3/events/rpc",
                "em50/events/rpc",
                "em50/status/em1:1",
                "em50/status/em1data:1",
                "em3/online",
            ],
            payloads: &[
                r#"{"id":0,"a_act_power":16.2,"a_aprt_power":172.7,"a_current":0.726,"a_freq":49.9,"a_pf":0.1,"a_voltage":237.9,"b_act_power":55.6,"b_voltage":238.0,"c_act_power":32.2,"n_current":null,"total_act_power":103.964,"total_current":2.839}"#,
                r#"{"id":0,"a_total_act_energy":39922.93,"a_total_act_ret_energy":1075.97,"total_act":119878.25,"total_act_ret":1607.05,"act_power":-3.1,"freq":50.0,"total_act_energy":6100}"#,
                r#"{"src":"em3","dst":"em3/events","method":"NotifyStatus","params":{"ts":1795253399.88,"em:0":{"id":0,"a_current":0.07,"total_act_power":5}}}"#,
                r#"{"src":"em50","dst":"em50/events","method":"NotifyFullStatus","params":{"ts":1795253399.88,"em1:0":{"act_power":1},"em1data:1":{"total_act_energy":2},"sys":{"uptime":5}}}"#,
            ],
        },
        Target {
            name: "tasmota",
            filter: "tele/+/SENSOR",
            formats: vec![Format::Tasmota { zone: berlin() }],
            topics: &["tele/plug/SENSOR", "stat/plug/STATUS8", "hall/tele/plug/SENSOR", "tele/plug/LWT"],
            payloads: &[
                r#"{"Time":"2026-11-21T10:29:58","ENERGY":{"TotalStartTime":"2023-01-29T20:23:40","Total":381.701,"Yesterday":0.140,"Today":0.327,"Period":25,"Power":17,"ApparentPower":162,"ReactivePower":161,"Factor":0.10,"Voltage":239,"Current":0.653}}"#,
                r#"{"StatusSNS":{"Time":"1970-01-01T00:00:12","Epoch":1795253399,"ENERGY":{"Total":[1.5,2.25,"3"],"Power":[-136.495,0.000,-78.478],"Frequency":[null,49.9],"Voltage":"230","Factor":nan}}}"#,
                r#"{"Time":1795253399,"ENERGY":{"Total":5,"ImportActive":[4392.588,2795.954,4301.033],"ExportActive":[1508.369,1929.488,-inf],"Current":["0.675","0.046",null]},"TempUnit":"C"}"#,
            ],
        },
    ]
}

fn json(each: &str, id: Option<&str>, time: Option<(&str, TimeFormat)>, values: [&str; 3]) -> Format {
    let quantities = ["power_kw", "energy_import_kwh", "frequency_hz"];
    let pointed = |(pointer, quantity): (&str, &str)| Pointed {
        quantity: quantity.parse().unwrap(),
        pointer: pointer.parse().unwrap(),
        scale: Ratio::new(1, 1000).unwrap(),
    };
    Format::Json(Json {
        each: if each.is_empty() { None } else { Some(each.parse().unwrap()) },
        id: id.map(|id| id.parse().unwrap()),
        time: time.map(|(pointer, format)| (pointer.parse().unwrap(), format)),
        values: values.into_iter().zip(quantities).map(pointed).collect(),
    })
}

/// Payloads of about `size` bytes: the target's first again and again in a list, its numbers with as many digits, and
/// objects with as many names.
pub fn large(target: &Target, size: usize) -> Vec<(&'static str, Vec<u8>)> {
    let (topic, payload) = (target.topics[0], target.payloads[0]);
    let again = format!("[{}]", vec![payload; size / payload.len() + 1].join(","));
    let entry = r#"{"tp":1795253399000,"point":[{"id":28,"val":1}],"p":1}"#;
    let entries = vec![entry; size / entry.len() + 1].join(",");
    let list = format!(
        "{{\"data\":[{entries}],\"meters\":[{entries}],\"StatusSNS\":{{\"ENERGY\":{{\"Power\":[{entries}]}}}}}}"
    );
    let digits = format!("{{\"power\":1.{},\"a\":nan}}", "7".repeat(size));
    let names: Vec<String> = (0..size / 20).map(|at| format!("\"name of no {at}\":0")).collect();
    let names = format!("{{{}}}", names.join(","));
    let nested = "[".repeat(size);
    [again, list, digits, names, nested].map(|payload| (topic, payload.into_bytes())).into()
}
