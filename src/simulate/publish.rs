//! Simulated meters that publish through a real broker: one as an Acrel ADW3xx does, one as a Tasmota plug.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::plant::{METERS, Plant, Sample};
use super::{SEED, standard_offset_ms};
use crate::clock::Clock;
use crate::model::Timestamp;
use crate::sources::mqtt::{Broker, talk};

/// How the Acrel meter calls itself.
pub const ACREL: &str = "20112301120035";
/// Topic of the Acrel meter.
pub const ACREL_TOPIC: &str = "platform/meterseal-demo/meter/json-v2/analog/0000";
/// How the plug calls itself.
pub const PLUG: &str = "meterseal-demo-plug";
/// Topic of the plug.
pub const PLUG_TOPIC: &str = "tele/meterseal-demo-plug/SENSOR";

/// Their places among the meters of a larger plant, beyond those that answer by Modbus: a line and the compressor.
const ACREL_INDEX: usize = METERS + 1;
const PLUG_INDEX: usize = METERS + 3;

/// Real ones publish once in a minute or less; a demo is to be looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Messages that wait for the connection; when it is full the meters wait, and then skip.
const WAITING: usize = 8;

/// Publishes through `broker` until stopped. The plug shows its local time in `zone`, as such devices do.
pub async fn publish(broker: Broker, zone: TimeZone, clock: Clock, stop: CancellationToken) {
    let (say, messages) = mpsc::channel(WAITING);
    let meters = async {
        let plant = Plant::new(SEED, standard_offset_ms(&zone));
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let now = clock.now();
            for (topic, text) in [
                (ACREL_TOPIC, acrel(&plant.sample(ACREL_INDEX, now), now)),
                (PLUG_TOPIC, plug(&plant.sample(PLUG_INDEX, now), now, &zone)),
            ] {
                if say.send((topic.to_owned(), text)).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = meters => {}
        talked = talk(&broker, messages, clock.clone(), stop) => {
            if let Err(why) = talked {
                warn!(broker = %broker.name, problem = %why, "simulated meters cannot publish");
            }
        }
    }
}

fn acrel(sample: &Sample, now: Timestamp) -> String {
    let total: f64 = sample.kilowatts.iter().sum();
    let point = |id: u32, value: f64| json!({ "id": id, "val": format!("{value:.3}") });
    json!({ "data": [{ "tp": now.as_millis(), "point": [
        { "id": 0, "val": ACREL },
        point(10, sample.kilowatts[0]),
        point(11, sample.kilowatts[1]),
        point(12, sample.kilowatts[2]),
        point(13, total),
        point(26, sample.hertz),
        point(28, sample.imported_kwh),
        point(29, sample.exported_kwh),
    ] }] })
    .to_string()
}

fn plug(sample: &Sample, now: Timestamp, zone: &TimeZone) -> String {
    let shown = jiff::Timestamp::from_millisecond(now.as_millis()).unwrap_or_default();
    let local = zone.to_datetime(shown).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    json!({ "Time": local, "ENERGY": {
        "Total": (sample.imported_kwh * 1000.0).round() / 1000.0,
        "Power": (sample.kilowatts[0] * 1000.0).round(),
        "Voltage": sample.volts[0].round(),
        "Current": (sample.amperes[0] * 1000.0).round() / 1000.0,
    } })
    .to_string()
}
