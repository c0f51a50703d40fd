use proptest::prelude::*;

use super::*;
use crate::model::ClockState;

/// 2026-11-21T09:30:00Z.
const NOON: i64 = 1_795_253_400_000;

fn arrival(after_ms: i64) -> Stamp {
    let since_boot_ms = u64::try_from(1_000_000 + after_ms).unwrap();
    Stamp { time: Timestamp::from_millis(NOON + after_ms), since_boot_ms, clock: ClockState::Synchronised }
}

fn message<'a>(topic: &'a str, payload: &'a str) -> Message<'a> {
    Message { topic, payload: payload.as_bytes(), retained: false }
}

/// `meter@time quantity=value …` of each sample, the time in ms after `NOON`, and the fault.
fn told(settled: &Settled) -> (Vec<String>, Option<String>) {
    let sample = |sample: &Sample| {
        let at = sample.time.map_or("-".to_owned(), |time| (time.as_millis() - NOON).to_string());
        let value =
            |value: &Value| format!(" {}={}", value.quantity, (value.scale.display(value.number) * 1e9).round() / 1e9);
        format!("{}@{at}{}", sample.meter, sample.values.iter().map(value).collect::<String>())
    };
    (settled.samples.iter().map(sample).collect(), settled.fault.as_ref().map(ToString::to_string))
}

/// What becomes of one message alone.
fn only(format: Format, filter: &str, message: Message<'_>) -> (Vec<String>, Option<String>) {
    let mut decoder = Decoder::new(format, filter);
    let settled = decoder.take(7, &message, &arrival(0));
    assert_eq!((settled.len(), settled[0].ticket, decoder.next_expiry()), (1, 7, None));
    told(&settled[0])
}

fn taken(values: &str) -> (Vec<String>, Option<String>) {
    (vec![values.to_owned()], None)
}

fn nothing() -> (Vec<String>, Option<String>) {
    (Vec::new(), None)
}

fn fault(why: &str) -> (Vec<String>, Option<String>) {
    (Vec::new(), Some(why.to_owned()))
}

// Any format

fn plain(payload: &str, retained: bool) -> (Vec<String>, Option<String>) {
    let scale = Ratio::new(1, 1000).unwrap();
    let format = Format::Plain(Plain { quantity: "energy_import_kwh".parse().unwrap(), scale });
    let topic = "shellies/em3/emeter/0/total";
    only(format, "shellies/+/emeter/+/total", Message { topic, payload: payload.as_bytes(), retained })
}

#[test]
fn a_plain_number_is_a_reading_of_the_meter_in_the_topic() {
    assert_eq!(plain("10533.1", false), taken("em3/0@- energy_import_kwh=10.5331"));
    assert_eq!(plain("unavailable", false), fault("not a number in digits, such as 12.5 or -1e3"));
    assert_eq!(plain("", false), fault("the payload is empty"));
}

#[test]
fn a_retained_message_without_a_time_of_its_own_is_no_reading() {
    assert_eq!(plain("10533.1", true), fault("retained by the broker, and without a believable time of its own"));
}

#[test]
fn a_fault_shows_the_first_bytes_and_a_topic_has_an_end() {
    let mut decoder = Decoder::new(Format::Shelly, "#");
    let payload = [b"\xff\"\n".as_slice(), &[b'x'; 100]].concat();
    let message = Message { topic: "em/status/em:0", payload: &payload, retained: false };
    let fault = decoder.take(1, &message, &arrival(0)).remove(0).fault.unwrap();
    assert_eq!(fault.beginning, format!("\\xff\\\"\\n{}…", "x".repeat(61)));
    assert_eq!(fault.to_string(), "not JSON: expected value at line 1 column 1");
    let topic = format!("{}/status/em:0", "x".repeat(501));
    let settled = decoder.take(2, &Message { topic: &topic, ..message }, &arrival(0));
    assert_eq!(told(&settled[0]), self::fault("a topic of more than 512 bytes"));
}

// json

fn pointed(quantity: &str, pointer: &str, scale: &str) -> Pointed {
    let (quantity, pointer) = (quantity.parse().unwrap(), pointer.parse().unwrap());
    Pointed { quantity, pointer, scale: Ratio::parse(scale).unwrap() }
}

fn zigbee(time: TimeFormat) -> Format {
    let values = vec![pointed("power_kw", "/power", "0.001"), pointed("energy_import_kwh", "/energy", "1")];
    Format::Json(Json { each: None, id: None, time: Some(("/last_seen".parse().unwrap(), time)), values })
}

#[test]
fn pointers_pick_values_with_their_scale_and_the_devices_time() {
    let payload =
        r#"{"current":0.07,"energy":14.31,"last_seen":"2026-11-21T17:29:58+08:00","linkquality":98,"power":11.5}"#;
    let decode = |payload: &str, retained| {
        let topic = "zigbee2mqtt/hall/plug";
        only(zigbee(TimeFormat::Rfc3339), "zigbee2mqtt/#", Message { topic, payload: payload.as_bytes(), retained })
    };
    let reading = "hall/plug@-2000 power_kw=0.0115 energy_import_kwh=14.31";
    assert_eq!(decode(payload, false), taken(reading));
    assert_eq!(decode(payload, true), taken(reading), "it says itself how old it is");
    let late = payload.replace("2026-11-21T17:29:58", "2026-11-21T17:36:00");
    assert_eq!(decode(&late, false), taken("hall/plug@- power_kw=0.0115 energy_import_kwh=14.31"));
    assert_eq!(decode(r#"{"power":null,"linkquality":1}"#, false), nothing());
    assert_eq!(decode(r#"{"power":"12","energy":false}"#, false), {
        (
            vec!["hall/plug@- power_kw=0.012".to_owned()],
            Some("/energy: neither a number nor a number as text".to_owned()),
        )
    });
    assert_eq!(decode(r#"{"power":1,"last_seen":"today"}"#, false), {
        let why = "/last_seen: not a time in the format of the subscription";
        (vec!["hall/plug@- power_kw=0.001".to_owned()], Some(why.to_owned()))
    });
    assert_eq!(decode(r#"{"power":1,"power":2,"energy":3,"last_seen":"today"}"#, false), {
        (vec!["hall/plug@- energy_import_kwh=3".to_owned()], Some("/power: named twice".to_owned()))
    });
}

#[test]
fn a_list_speaks_of_a_meter_in_each_element() {
    let json = |id: Option<&str>| {
        Format::Json(Json {
            each: Some("/meters".parse().unwrap()),
            id: id.map(|id| id.parse().unwrap()),
            time: Some(("/ts".parse().unwrap(), TimeFormat::UnixS)),
            values: vec![pointed("power_kw", "/p", "1")],
        })
    };
    let payload =
        r#"{"ts":1795253399,"meters":[{"sn":"A","p":1},{"sn":17,"p":2.5,"ts":1795253390},{"p":3},{"sn":"C"},{"x":1}]}"#;
    let (samples, why) = only(json(Some("/sn")), "gw", message("gw", payload));
    assert_eq!(samples, ["A@-1000 power_kw=1", "17@-10000 power_kw=2.5"]);
    assert_eq!(why.unwrap(), "/sn: no name of 1 to 128 bytes for the meter");
    let (samples, why) = only(json(None), "gw", message("gw", payload));
    assert_eq!(samples, ["gw/0@-1000 power_kw=1", "gw/1@-10000 power_kw=2.5", "gw/2@-1000 power_kw=3"]);
    assert_eq!(why, None);
    assert_eq!(only(json(None), "gw", message("gw", "{}")), nothing());
    assert_eq!(only(json(None), "gw", message("gw", r#"{"meters":{}}"#)), fault("/meters: not a list"));
    let many = format!("{{\"meters\":[{}]}}", vec!["{\"p\":1}"; 300].join(","));
    let (samples, why) = only(json(None), "gw", message("gw", &many));
    assert_eq!((samples.len(), why.as_deref()), (256, Some("/meters: more than 256 elements")));
}

// shelly

/// As a Pro 3EM sent them; the neutral has no clamp.
const EM: &str = r#"{"id":0,"a_act_power":16.2,"a_aprt_power":172.7,"a_current":0.726,"a_freq":49.9,"a_pf":0.1,"a_voltage":237.9,
    "b_act_power":55.6,"b_aprt_power":271.3,"b_current":1.14,"b_freq":49.9,"b_pf":0.21,"b_voltage":238.0,
    "c_act_power":32.2,"c_aprt_power":234.0,"c_current":0.973,"c_freq":49.9,"c_pf":0.14,"c_voltage":240.6,
    "n_current":null,"total_act_power":103.964,"total_aprt_power":677.883,"total_current":2.839}"#;
const EMDATA: &str = r#"{"id":0,"a_total_act_energy":39922.93,"a_total_act_ret_energy":1075.97,"b_total_act_energy":39898.66,
    "b_total_act_ret_energy":484.19,"c_total_act_energy":40056.66,"c_total_act_ret_energy":46.89,"total_act":119878.25,
    "total_act_ret":1607.05}"#;

fn shelly(topic: &str, payload: &str) -> (Vec<String>, Option<String>) {
    only(Format::Shelly, "+/status/#", message(topic, payload))
}

#[test]
fn three_phases_of_a_shelly_are_one_meter() {
    assert_eq!(shelly("plant/em3/status/em:0", EM), {
        taken(
            "plant/em3@- power_kw=0.103964 apparent_power_kva=0.677883 current_a=2.839 frequency_hz=49.9 \
             voltage_l1_v=237.9 voltage_l2_v=238 voltage_l3_v=240.6 current_l1_a=0.726 current_l2_a=1.14 \
             current_l3_a=0.973 power_l1_kw=0.0162 power_l2_kw=0.0556 power_l3_kw=0.0322 \
             apparent_power_l1_kva=0.1727 apparent_power_l2_kva=0.2713 apparent_power_l3_kva=0.234 \
             power_l1_factor=0.1 power_l2_factor=0.21 power_l3_factor=0.14",
        )
    });
    assert_eq!(shelly("em3/status/emdata:0", EMDATA), {
        taken(
            "em3@- energy_import_kwh=119.87825 energy_export_kwh=1.60705 energy_import_l1_kwh=39.92293 \
             energy_import_l2_kwh=39.89866 energy_import_l3_kwh=40.05666 energy_export_l1_kwh=1.07597 \
             energy_export_l2_kwh=0.48419 energy_export_l3_kwh=0.04689",
        )
    });
}

#[test]
fn each_channel_of_the_monophase_profile_is_a_meter() {
    let em1 = r#"{"id":2,"current":1.246,"voltage":228.5,"act_power":219.4,"aprt_power":284.8,"pf":0.77,"freq":50.0,"calibration":"factory"}"#;
    let values =
        "power_kw=0.2194 apparent_power_kva=0.2848 voltage_v=228.5 current_a=1.246 power_factor=0.77 frequency_hz=50";
    assert_eq!(shelly("em50/status/em1:2", em1), taken(&format!("em50-2@- {values}")));
    assert_eq!(shelly("em50/status/em1:0", em1), taken(&format!("em50@- {values}")));
    let em1data = r#"{"id":0,"total_act_energy":6100,"total_act_ret_energy":4685}"#;
    assert_eq!(
        shelly("em50/status/em1data:1", em1data),
        taken("em50-1@- energy_import_kwh=6.1 energy_export_kwh=4.685")
    );
}

#[test]
fn a_notification_has_its_time_and_only_what_changed() {
    let notify = |method: &str, ts: &str, params: &str| {
        let payload =
            format!(r#"{{"src":"em3","dst":"em3/events","method":"{method}","params":{{"ts":{ts},{params}}}}}"#);
        shelly("em3/events/rpc", &payload)
    };
    let change = r#""em:0":{"id":0,"a_current":0.07,"b_current":null}"#;
    assert_eq!(notify("NotifyStatus", "1795253399.88", change), taken("em3@-120 current_l1_a=0.07"));
    assert_eq!(notify("NotifyFullStatus", "1795253399.88", change), taken("em3@-120 current_l1_a=0.07"));
    assert_eq!(notify("NotifyStatus", "37.5", change), taken("em3@- current_l1_a=0.07"), "its clock was never set");
    assert_eq!(notify("NotifyEvent", "1795253399.88", change), nothing());
    assert_eq!(notify("NotifyStatus", "1795253399.88", r#""switch:0":{"id":0,"output":true}"#), nothing());
    let twice = r#""em1:1":{"act_power":1},"em1:01":{"act_power":2}"#;
    let (samples, why) = notify("NotifyStatus", "1795253399.88", twice);
    assert_eq!(
        (samples, why.unwrap()),
        (vec!["em3-1@-120 power_kw=0.001".to_owned()], "em1:1: named twice".to_owned())
    );
}

#[test]
fn what_is_no_meter_of_a_shelly_says_nothing() {
    for (topic, payload) in
        [("em3/online", "true"), ("em3/status/sys", "{}"), ("em3/status/em:x", "{"), ("em3/debug/log", "a b")]
    {
        assert_eq!(shelly(topic, payload), nothing(), "{topic}");
    }
    assert_eq!(shelly("em3/status/em:0", "[]"), fault("em: not an object"));
    assert_eq!(shelly("em3/status/em:0", r#"{"a_pf":true}"#), fault("em: a_pf: neither a number nor a number as text"));
}

proptest! {
    /// A status that comes in pieces, in any order, gives the values of the whole one, each once.
    #[test]
    fn pieces_of_a_status_give_the_values_of_the_whole(seats in prop::collection::vec(0..4_usize, 64), turn in 0..4_usize) {
        let status: serde_json::Map<String, serde_json::Value> = serde_json::from_str(EM).unwrap();
        let mut pieces = vec![serde_json::Map::new(); 4];
        for (seat, (key, value)) in seats.iter().zip(&status) {
            pieces[*seat].insert(key.clone(), value.clone());
        }
        pieces.rotate_left(turn);
        let mut decoder = Decoder::new(Format::Shelly, "#");
        let mut values = |payload: &str| -> Vec<String> {
            let settled = decoder.take(0, &message("em3/status/em:0", payload), &arrival(0)).remove(0);
            assert_eq!(settled.fault, None);
            settled.samples.iter().flat_map(|sample| &sample.values).map(|value| format!("{value:?}")).collect()
        };
        let mut whole = values(EM);
        let mut parts: Vec<String> = Vec::new();
        for piece in pieces {
            parts.extend(values(&serde_json::to_string(&piece).unwrap()));
        }
        // Three phases say the same frequency: in pieces it may come up to three times.
        for list in [&mut whole, &mut parts] {
            list.sort();
            list.dedup();
        }
        prop_assert_eq!(parts, whole);
    }
}

// tasmota

fn tasmota(topic: &str, payload: &str) -> (Vec<String>, Option<String>) {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    only(Format::Tasmota { zone }, "tele/+/SENSOR", message(topic, payload))
}

#[test]
fn one_phase_of_a_tasmota_is_scalar() {
    let payload = r#" {"Time":"2026-11-21T10:29:58","ENERGY":{"TotalStartTime":"2023-01-29T20:23:40","Total":381.701,"Yesterday":0.140,
        "Today":0.327,"Period":25,"Power":17,"ApparentPower":162,"ReactivePower":161,"Factor":0.10,"Voltage":239,"Current":0.653}}"#;
    let values = "energy_import_kwh=381.701 power_kw=0.017 reactive_power_kvar=0.161 apparent_power_kva=0.162 \
                  power_factor=0.1 voltage_v=239 current_a=0.653";
    assert_eq!(tasmota("tele/plug/SENSOR", payload), taken(&format!("plug@-2000 {values}")));
    let wrapped = format!("{{\"StatusSNS\":{payload}}}");
    assert_eq!(tasmota("stat/plug/STATUS8", &wrapped), taken(&format!("plug@-2000 {values}")));
    for unset in ["1970-01-01T00:00:12", "2026-11-21T09:29:58", "2026-11-21T10:36:00"] {
        let payload = payload.replace("2026-11-21T10:29:58", unset);
        assert_eq!(tasmota("tele/plug/SENSOR", &payload), taken(&format!("plug@- {values}")), "{unset}");
    }
    let epoch = payload.replace("\"ENERGY\"", "\"Epoch\":1795253395,\"ENERGY\"");
    assert_eq!(tasmota("tele/plug/SENSOR", &epoch), taken(&format!("plug@-5000 {values}")));
    let epoch = payload.replace("\"2026-11-21T10:29:58\"", "1795253395");
    assert_eq!(tasmota("tele/plug/SENSOR", &epoch), taken(&format!("plug@-5000 {values}")));
}

#[test]
fn three_phases_of_a_tasmota_are_lists_that_add_up() {
    let payload = r#"{"Time":"2026-11-21T10:30:00","ENERGY":{"TotalStartTime":"2023-01-10T00:00:00","Total":16647.945,"Yesterday":26.425,
        "Today":7.978,"TodaySumImport":0.000,"TodaySumExport":0.000,"ExportActive":[1508.369,1929.488,1696.624],"Period":[0.000,0.000,0.000],
        "Power":[-136.495,0.000,-78.478],"Factor":[-0.89,-0.24,nan],"Frequency":[null,49.900,49.900],"Voltage":[230.750,230.456,230.327],
        "Current":["0.675","0.046",null],"ImportActive":[4392.588,2795.954,4301.033]}}"#;
    assert_eq!(tasmota("tele/z/SENSOR", payload), {
        taken(
            "z@0 energy_import_kwh=11489.575 energy_import_l1_kwh=4392.588 energy_import_l2_kwh=2795.954 \
             energy_import_l3_kwh=4301.033 energy_export_kwh=5134.481 energy_export_l1_kwh=1508.369 \
             energy_export_l2_kwh=1929.488 energy_export_l3_kwh=1696.624 power_kw=-0.214973 power_l1_kw=-0.136495 \
             power_l2_kw=0 power_l3_kw=-0.078478 power_l1_factor=-0.89 power_l2_factor=-0.24 frequency_hz=49.9 \
             voltage_l1_v=230.75 voltage_l2_v=230.456 voltage_l3_v=230.327 current_l1_a=0.675 current_l2_a=0.046",
        )
    });
}

#[test]
fn a_phase_without_a_value_leaves_no_sum_and_a_register_gives_way_to_none() {
    let payload = r#"{"ENERGY":{"Power":[1000,null],"ImportActive":null,"Total":5,"Voltage":"230","Current":"high"}}"#;
    let (samples, why) = tasmota("tele/z/SENSOR", payload);
    assert_eq!(samples, ["z@- power_l1_kw=1 voltage_v=230"]);
    assert_eq!(why.unwrap(), "Current: neither a number nor a number as text");
}

#[test]
fn a_retained_tasmota_is_a_reading_only_where_its_clock_agrees_with_ours() {
    let retained = |time: &str| {
        let payload = format!(r#"{{"Time":"{time}","ENERGY":{{"Power":5}}}}"#);
        let format = Format::Tasmota { zone: TimeZone::get("Europe/Berlin").unwrap() };
        only(format, "#", Message { retained: true, ..message("tele/plug/SENSOR", &payload) })
    };
    assert_eq!(retained("2026-11-21T10:26:00"), taken("plug@-240000 power_kw=0.005"));
    // An hour old, or an hour slow: nothing tells.
    assert_eq!(
        retained("2026-11-21T09:26:00"),
        fault("retained by the broker, and without a believable time of its own")
    );
}

#[test]
fn what_is_no_meter_of_a_tasmota_says_nothing() {
    for (topic, payload) in [
        ("tele/plug/LWT", "Online"),
        ("tele/plug/STATE", "{"),
        ("tele/plug/SENSOR", r#"{"Time":"2026-11-21T10:30:00","AM2301":{"Temperature":21.5}}"#),
    ] {
        assert_eq!(tasmota(topic, payload), nothing(), "{topic}");
    }
    assert_eq!(tasmota("tele/plug/SENSOR", r#"{"ENERGY":[]}"#), fault("ENERGY: not an object"));
}

// acrel

const GROUP: &str = "platform/acrel/meter/json-v2/analog/0000";

fn entry(tp: i64, points: &[(u8, &str)]) -> String {
    let points: Vec<_> = points.iter().map(|(id, val)| format!(r#"{{"id":{id},"val":{val}}}"#)).collect();
    format!(r#"{{"tp":{tp},"point":[{}]}}"#, points.join(","))
}

fn data(entries: &[String]) -> String {
    format!(r#"{{"data":[{}]}}"#, entries.join(","))
}

/// Takes each message a second after the one before it, and tells in what order which ticket is settled, and how.
fn settle(decoder: &mut Decoder, payloads: &[String]) -> Vec<(Ticket, Vec<String>, Option<String>)> {
    let mut all = Vec::new();
    for (ticket, payload) in (0_u64..).zip(payloads) {
        let at = arrival(i64::try_from(ticket).unwrap() * 100);
        let settled = decoder.take(ticket, &message(GROUP, payload), &at);
        all.extend(settled.iter().map(|settled| (settled.ticket, told(settled).0, told(settled).1)));
    }
    all
}

fn acrel() -> Decoder {
    Decoder::new(Format::Acrel, "platform/+/meter/json-v2/analog/+")
}

const NO_SERIAL: &str = "without a serial number, and no other half told which meter it is of";

#[test]
fn points_are_quantities_of_the_serial_number() {
    let whole = data(&[
        entry(
            NOON - 500,
            &[(0, "\"20201998111433\""), (13, "45.5"), (26, "\"49.98\""), (28, "123.4"), (27, "-70"), (99, "1")],
        ),
        entry(NOON - 60_500, &[(0, "20201998111433"), (10, "null"), (13, "44")]),
    ]);
    let (samples, why) = only(Format::Acrel, "#", message(GROUP, &whole));
    assert_eq!(
        samples,
        [
            "20201998111433@-500 power_kw=45.5 frequency_hz=49.98 energy_import_kwh=123.4",
            "20201998111433@-60500 power_kw=44"
        ]
    );
    assert_eq!(why, None);
    let text = whole.replace(&(NOON - 500).to_string(), &format!("\"{}\"", NOON - 500));
    assert_eq!(only(Format::Acrel, "#", message(GROUP, &text)).0, samples);
    for tp in ["0", "-1", "99999999999999", "null", "\"now\""] {
        let unset = data(&[entry(NOON, &[(0, "\"s\""), (13, "1")])]).replace(&NOON.to_string(), tp);
        assert_eq!(only(Format::Acrel, "#", message(GROUP, &unset)), taken("s@- power_kw=1"), "{tp}");
    }
}

#[test]
fn what_is_not_as_the_vendor_writes_costs_only_itself() {
    let odd = data(&[
        entry(NOON, &[(0, "\"a\""), (13, "1"), (13, "2"), (26, "50")]),
        r#"{"tp":1,"point":{}}"#.to_owned(),
        "7".to_owned(),
        entry(NOON, &[(0, "\"b\""), (13, "true"), (26, "50")]),
    ]);
    let (samples, why) = only(Format::Acrel, "#", message(GROUP, &odd));
    assert_eq!(samples, ["a@0 power_kw=1 frequency_hz=50", "b@0 frequency_hz=50"]);
    assert_eq!(why.unwrap(), "point 13: comes twice");
    assert_eq!(only(Format::Acrel, "#", message(GROUP, "{}")), fault("data: not a list"));
    assert_eq!(only(Format::Acrel, "#", message(GROUP, "{\"data\":[]}")), nothing());
}

#[test]
fn halves_of_a_sample_are_joined_in_either_order() {
    let with = data(&[entry(NOON, &[(0, "\"s\""), (13, "45.5")])]);
    let without = data(&[entry(NOON, &[(28, "123.4"), (29, "0")])]);
    let (power, energy) =
        (vec!["s@0 power_kw=45.5".to_owned()], vec!["s@0 energy_import_kwh=123.4 energy_export_kwh=0".to_owned()]);
    let first = settle(&mut acrel(), &[with.clone(), without.clone()]);
    assert_eq!(first, [(0, power.clone(), None), (1, energy.clone(), None)]);
    let mut decoder = acrel();
    let second = settle(&mut decoder, &[without.clone(), with.clone()]);
    assert_eq!(second, [(1, power, None), (0, energy.clone(), None)]);
    // Once more, as after a lost acknowledgement: its meter is still known.
    let again = settle(&mut decoder, &[without]);
    assert_eq!(again, [(0, energy, None)]);
}

#[test]
fn a_half_waits_two_seconds_for_its_serial_number() {
    let mut decoder = acrel();
    let mixed = data(&[entry(NOON, &[(28, "1")]), entry(NOON - 1, &[(0, "\"s\""), (13, "2")])]);
    assert!(decoder.take(5, &message(GROUP, &mixed), &arrival(0)).is_empty());
    let due = decoder.next_expiry().unwrap();
    assert_eq!(due, arrival(2_000).since_boot_ms);
    assert!(decoder.expire(due - 1).is_empty());
    let given_up = decoder.expire(due);
    assert_eq!((given_up.len(), given_up[0].ticket, decoder.next_expiry()), (1, 5, None));
    assert_eq!(told(&given_up[0]), (vec!["s@-1 power_kw=2".to_owned()], Some(NO_SERIAL.to_owned())));
    assert!(given_up[0].fault.as_ref().unwrap().beginning.starts_with(r#"{\"data\":[{\"tp\":"#));
    // Another topic or another instant has another meter.
    let elsewhere = data(&[entry(NOON, &[(0, "\"s\""), (13, "1")])]);
    let mut decoder = acrel();
    decoder.take(1, &message("platform/acrel/meter/json-v2/analog/0001", &elsewhere), &arrival(0));
    decoder.take(2, &message(GROUP, &data(&[entry(NOON + 1, &[(0, "\"s\""), (13, "1")])])), &arrival(0));
    assert!(decoder.take(3, &message(GROUP, &data(&[entry(NOON, &[(28, "1")])])), &arrival(0)).is_empty());
    decoder.drop_held();
    assert_eq!(decoder.next_expiry(), None);
}

#[test]
fn meters_that_send_at_the_same_instant_are_never_mixed_up() {
    let with = |serial: &str, power: &str| data(&[entry(NOON, &[(0, serial), (13, power)])]);
    let without = |energy: &str| data(&[entry(NOON, &[(28, energy)])]);
    // One after the other: the first has both halves when the second begins.
    let calm = settle(&mut acrel(), &[with("\"a\"", "1"), without("10"), with("\"b\"", "2"), without("20")]);
    let samples: Vec<_> = calm.iter().flat_map(|(_, samples, _)| samples.clone()).collect();
    assert_eq!(samples, ["a@0 power_kw=1", "a@0 energy_import_kwh=10", "b@0 power_kw=2", "b@0 energy_import_kwh=20"]);
    // Mixed: nothing tells whose a half is.
    for order in [[0, 1, 2, 3], [2, 3, 0, 1]] {
        let all = [with("\"a\"", "1"), with("\"b\"", "2"), without("10"), without("20")];
        let mut decoder = acrel();
        let settled = settle(&mut decoder, &order.map(|at: usize| all[at].clone()));
        assert_eq!(settled.len(), 2, "{settled:?}");
        let given_up = decoder.expire(arrival(5_000).since_boot_ms);
        assert!(given_up.iter().all(|settled| told(settled) == fault(NO_SERIAL)));
        assert_eq!(given_up.len(), 2);
    }
}

#[test]
fn an_unset_clock_joins_only_what_comes_together() {
    let (with, without) = (data(&[entry(0, &[(0, "\"s\""), (13, "1")])]), data(&[entry(0, &[(28, "2")])]));
    let mut decoder = acrel();
    let joined = settle(&mut decoder, &[with, without.clone()]);
    assert_eq!(joined[1], (1, vec!["s@- energy_import_kwh=2".to_owned()], None));
    assert!(decoder.take(9, &message(GROUP, &without), &arrival(60_000)).is_empty());
}

#[test]
fn what_waits_and_what_is_remembered_is_bounded() {
    let mut decoder = acrel();
    let mut given_up = 0;
    for ticket in 0..2_000_u64 {
        let tp = NOON + i64::try_from(ticket).unwrap();
        let topic = format!("platform/acrel/meter/json-v2/analog/{ticket}");
        let half = data(&[entry(tp, &[(28, "1")])]);
        let whole = data(&[entry(tp, &[(0, "\"s\""), (13, "1")])]);
        given_up += decoder.take(ticket, &message(&topic, &half), &arrival(0)).len();
        assert_eq!(decoder.take(ticket, &message("elsewhere", &whole), &arrival(0)).len(), 1);
    }
    assert_eq!(given_up, 2_000 - 8);
    let Kind::Acrel(joiner) = &decoder.kind else { unreachable!() };
    assert_eq!(joiner.remembered(), 512);
    let many = data(&vec![entry(NOON, &[(28, "1")]); 20]);
    let mut decoder = acrel();
    assert!(decoder.take(1, &message(GROUP, &many), &arrival(0)).is_empty());
    let settled = decoder.take(2, &message(GROUP, &data(&[entry(NOON, &[(0, "\"s\"")])])), &arrival(0));
    assert_eq!(settled.len(), 2);
    assert_eq!(settled[1].samples.len(), 8);
    assert_eq!(settled[1].fault.as_ref().unwrap().reason, Reason::NoSerial);
}

#[test]
fn a_retained_sample_needs_a_believable_time() {
    let retained = |tp: i64| {
        let payload = data(&[entry(tp, &[(0, "\"s\""), (13, "1")])]);
        only(Format::Acrel, "#", Message { retained: true, ..message(GROUP, &payload) })
    };
    assert_eq!(retained(NOON - 3_600_000), taken("s@-3600000 power_kw=1"));
    assert_eq!(retained(0), fault("retained by the broker, and without a believable time of its own"));
}

proptest! {
    /// Points dealt over two messages, the serial number in one of them, in both orders: the values of the whole one.
    #[test]
    fn any_two_halves_give_the_values_of_the_whole(deal in prop::collection::vec(any::<bool>(), 31), swap: bool, bearer: bool) {
        let points: Vec<(u8, String)> = (1..32).map(|id| (id, format!("{id}.5"))).collect();
        let mut halves: [Vec<(u8, &str)>; 2] = [Vec::new(), Vec::new()];
        for (second, (id, val)) in deal.iter().zip(&points) {
            halves[usize::from(*second)].push((*id, val));
        }
        halves[usize::from(bearer)].push((0, "\"s\""));
        if swap {
            halves.swap(0, 1);
        }
        let settled = settle(&mut acrel(), &halves.map(|half| data(&[entry(NOON, &half)])));
        prop_assert!(settled.iter().all(|(_, _, fault)| fault.is_none()), "{settled:?}");
        let mut values: Vec<String> = Vec::new();
        for sample in settled.iter().flat_map(|(_, samples, _)| samples) {
            let (meter, rest) = sample.split_once(' ').unwrap();
            prop_assert_eq!(meter, "s@0");
            values.extend(rest.split(' ').map(str::to_owned));
        }
        let all: Vec<_> = points.iter().map(|(id, val)| (*id, val.as_str())).chain([(0, "\"s\"")]).collect();
        let whole = only(Format::Acrel, "#", message(GROUP, &data(&[entry(NOON, &all)])));
        let mut expected: Vec<String> = whole.0[0].split(' ').skip(1).map(str::to_owned).collect();
        values.sort();
        expected.sort();
        prop_assert_eq!(values, expected);
    }
}
