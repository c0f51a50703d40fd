//! What clients are told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::client::{Clients, Registered};
use super::{message, row};
use crate::model::{Meter, MeterId, OpenBlock, Origin, Quantity, Role, Roster, Simulated, SimulatedReading, Timestamp};
use crate::store::{Live, StoreError};
use crate::web::periods;
use crate::web::problem::Problem;
use crate::web::query::Resolution;
use crate::web::wire::At;
use crate::web::{Site, Web};

/// Blocks before the running one that a dashboard begins with.
const LAST: usize = 10;
/// How far back they are looked for: ten blocks of an hour, and some that a silence left out.
const LAST_MS: i64 = 24 * 3_600_000;
/// Measured meters that are told at once.
const NEWS: usize = 16;
/// Readings in an answer, at most and unless told.
pub const READINGS: usize = 500;
const USUAL_READINGS: usize = 60;

pub fn fault(text: &str) -> String {
    json!({"type": "error", "message": text}).to_string()
}

pub fn registered(simulator: &Registered, now: Timestamp) -> String {
    json!({
        "type": "simulator:registered",
        "deviceId": simulator.id,
        "deviceName": simulator.id,
        "simulatorName": simulator.name,
        "timestamp": now.as_millis(),
    })
    .to_string()
}

/// Whether anybody looks on. `reason` is what made us say it.
pub fn handshake(simulator: Option<&Registered>, dashboards: usize, reason: &str, now: Timestamp) -> String {
    let (status, text) = match (simulator, dashboards) {
        (None, _) => ("error", "This simulator is not registered: send simulator:register first.".to_owned()),
        (_, 0) => ("warning", "No dashboard is connected. Readings are stored, and shown when one comes.".to_owned()),
        (_, 1) => ("ok", "1 dashboard is connected.".to_owned()),
        (_, many) => ("ok", format!("{many} dashboards are connected.")),
    };
    json!({
        "type": "simulator:handshake-ack",
        "status": status,
        "dashboardsOnline": dashboards,
        "dashboardsReady": dashboards > 0,
        "message": text,
        "reason": reason,
        "deviceId": simulator.map(|simulator| &simulator.id),
        "deviceName": simulator.map(|simulator| &simulator.id),
        "simulatorName": simulator.map(|simulator| &simulator.name),
        "timestamp": now.as_millis(),
    })
    .to_string()
}

/// A reading is durable, or why it is not.
pub fn acknowledged(
    (device, echo): (&MeterId, &Value),
    outcome: Result<(usize, Option<u64>), &str>,
    now: Timestamp,
) -> String {
    let mut told = json!({
        "type": "simulator:acknowledged",
        "deviceId": device,
        "timestamp": now.as_millis(),
        "reading": echo,
    });
    match outcome {
        Ok((dashboards, sequence)) => {
            told["status"] = "accepted".into();
            told["dashboardsOnline"] = dashboards.into();
            told["sequence"] = sequence.into();
        }
        Err(why) => {
            told["status"] = "error".into();
            told["message"] = why.into();
        }
    }
    told.to_string()
}

pub fn simulators_updated(clients: &Clients, roster: &Roster) -> String {
    json!({"type": "dashboard:simulators-updated", "simulators": connected(clients, roster)}).to_string()
}

/// The simulators that are connected.
fn connected(clients: &Clients, roster: &Roster) -> Value {
    let simulator = |simulator: Registered| {
        json!({
            "deviceId": simulator.id,
            "deviceName": simulator.id,
            "simulatorName": simulator.name,
            "meterId": row::number(roster, &simulator.id),
        })
    };
    clients.simulators().into_iter().map(simulator).collect()
}

/// A reading that is durable, with the block that it lies in.
pub fn update(web: &Web, said: &SimulatedReading, taken: &Simulated) -> Option<String> {
    let (open, readings) = taken.block.as_ref()?;
    let (roster, meters) = (web.views.roster.borrow().clone(), web.views.meters.borrow().clone());
    let meter = meters.iter().find(|meter| meter.id == said.id)?;
    let (number, interval_ms) = (row::number(&roster, &said.id), taken.simulator.interval_ms);
    let reading = row::reading(number, taken.seq, said.time, said.power_kw, said.frequency_hz, interval_ms);
    Some(changed(web, (meter, &roster), reading, (open, Some(*readings))))
}

/// The newest power of meters that are no simulators, where it is newer than what was told; those that were told longest
/// ago first, and not so many that they fill what waits for a client.
pub fn news(web: &Web, told: &mut BTreeMap<MeterId, Timestamp>) -> Vec<String> {
    let (roster, meters) = (web.views.roster.borrow().clone(), web.views.meters.borrow().clone());
    let (live, open) = (web.views.reader.live(), web.views.open.borrow().clone());
    let power = |meter: &Meter| {
        let (_, power) = live.get(&meter.id)?.iter().find(|(quantity, _)| quantity.as_str() == Quantity::POWER)?;
        Some(*power)
    };
    told.retain(|id, _| meters.iter().any(|meter| meter.id == *id));
    let measured = meters.iter().filter(|meter| !matches!(meter.origin, Origin::Simulator));
    let is_news = |meter: &Meter, power: &Live| told.get(&meter.id).is_none_or(|last| *last < power.time);
    let mut news: Vec<_> = measured.filter_map(|meter| Some((meter, open.get(&meter.id)?, power(meter)?))).collect();
    news.retain(|(meter, _, power)| is_news(meter, power));
    news.sort_by_key(|(meter, ..)| told.get(&meter.id).copied());
    news.truncate(NEWS);
    let update = |(meter, open, power): (&Meter, &OpenBlock, Live)| {
        told.insert(meter.id.clone(), power.time);
        let (number, ms) = (row::number(&roster, &meter.id), meter.interval_ms.unwrap_or(60_000));
        let reading = row::reading(number, None, power.time, power.value, None, ms);
        changed(web, (meter, &roster), reading, (open, None))
    };
    news.into_iter().map(update).collect()
}

fn changed(
    web: &Web,
    (meter, roster): (&Meter, &Roster),
    reading: Value,
    (open, readings): (&OpenBlock, Option<u64>),
) -> String {
    let number = row::number(roster, &meter.id);
    json!({
        "type": "dashboard:update",
        "meter": row::meter(meter, roster),
        "reading": reading,
        "currentBlock": row::open_block(number, meter.interval_ms, (open, readings)),
        "blockInfo": {"start": At(open.span.start()), "end": At(open.span.end()), "isPeakHour": open.is_peak_hour},
        "timestamp": web.views.clock.now().as_millis(),
    })
    .to_string()
}

/// What a dashboard begins with; nothing when there is no meter.
pub async fn initial(web: &Web) -> Result<Option<String>, StoreError> {
    let meters = listed(web);
    let Some(usual) = usual(&meters) else { return Ok(None) };
    let roster = web.views.roster.borrow().clone();
    let mut told = of_meter(web, usual, &roster).await?;
    told["type"] = "dashboard:initial".into();
    told["simulators"] = connected(&web.hub.clients, &roster);
    told["allMeters"] = meters.iter().map(|meter| row::meter(meter, &roster)).collect();
    told["timestamp"] = web.views.clock.now().as_millis().into();
    Ok(Some(told.to_string()))
}

/// The snapshot as that backend gives it. A meter is asked for by its number or its id; the first simulated one is
/// shown when no such meter is there.
pub async fn old_snapshot(web: &Web, asked: [Option<&str>; 2], limit: Option<usize>) -> Result<Value, Problem> {
    let (meters, roster) = (listed(web), web.views.roster.borrow().clone());
    let named = |text: &str| {
        let number = text.parse::<i64>().ok();
        let by_number = || meters.iter().find(|meter| number.is_some() && row::number(&roster, &meter.id) == number);
        meters.iter().find(|meter| meter.id.as_str() == text).or_else(by_number)
    };
    let found = asked.into_iter().flatten().find_map(named).or_else(|| usual(&meters));
    let meter = found.ok_or_else(|| Problem::NoRoute("meter".to_owned()))?;
    let now = web.views.clock.now();
    let mut told = of_meter(web, meter, &roster).await?;
    let site = web.site();
    let block = block_info(web, meter, &site, now);
    let dashboards = web.hub.clients.dashboards();
    told["timestamp"] = now.as_millis().into();
    told["allMeters"] = meters.iter().map(|meter| row::meter(meter, &roster)).collect();
    told["blockInfo"] = block;
    told["readings"] = readings(web, meter, &roster, limit.unwrap_or(USUAL_READINGS).min(READINGS)).await?.into();
    told["connectedSimulators"] = connected(&web.hub.clients, &roster);
    told["dashboardStats"] = json!({"dashboardsOnline": dashboards, "dashboardsReady": dashboards > 0});
    Ok(told)
}

/// Simulators first, the newest before the others, as that backend lists its meters; then those of the config.
fn listed(web: &Web) -> Vec<Meter> {
    let (meters, roster) = (web.views.meters.borrow().clone(), web.views.roster.borrow().clone());
    let created = |meter: &Meter| roster.simulators.get(&meter.id).map(|simulator| simulator.created);
    let mut listed: Vec<Meter> = meters.to_vec();
    listed.sort_by_key(|meter| std::cmp::Reverse(created(meter)));
    listed
}

fn usual(meters: &[Meter]) -> Option<&Meter> {
    meters.iter().find(|meter| meter.simulated).or(meters.first())
}

/// A meter with its blocks: the running one, today's with it, and the last ones before it, by time. "Today" is the
/// site's, and blocks without energy are left out.
async fn of_meter(web: &Web, meter: &Meter, roster: &Arc<Roster>) -> Result<Value, StoreError> {
    let (now, number) = (web.views.clock.now(), row::number(roster, &meter.id));
    let running = web.views.open.borrow().get(&meter.id).cloned();
    let current = running.as_ref().and_then(|open| row::open_block(number, meter.interval_ms, (open, None)));
    let today = periods::period_of(now, Resolution::Day, &web.zone());
    let recent = today
        .and_then(|today| crate::model::Span::new(today.start().min(now.plus_millis(-LAST_MS)), today.end().max(now)));
    let blocks = match recent {
        Some(recent) => web.views.reader.blocks(&meter.id, recent).await?,
        None => Vec::new(),
    };
    let of_today = blocks.iter().filter(|block| today.is_some_and(|today| today.contains(block.span.start())));
    let of_today = of_today.filter_map(|block| row::block(number, block)).chain(current.clone());
    let last: VecDeque<Value> = blocks.iter().rev().filter_map(|block| row::block(number, block)).take(LAST).collect();
    Ok(json!({
        "meter": row::meter(meter, roster),
        "currentBlock": current,
        "blocksToday": of_today.collect::<Vec<_>>(),
        "lastTenBlocks": last.into_iter().rev().collect::<Vec<_>>(),
    }))
}

/// Where the running block lies; by the calendar of any meter where this one has none.
fn block_info(web: &Web, meter: &Meter, site: &Site, now: Timestamp) -> Value {
    let open = web.views.open.borrow().clone();
    if let Some(open) = open.get(&meter.id).or_else(|| open.values().next()) {
        return json!({"start": At(open.span.start()), "end": At(open.span.end()), "isPeakHour": open.is_peak_hour});
    }
    let long = i64::from(site.block_minutes.max(1)) * 60_000;
    let start = Timestamp::from_millis(now.as_millis().div_euclid(long) * long);
    json!({"start": At(start), "end": At(start.plus_millis(long)), "isPeakHour": false})
}

/// The newest readings of power, by time.
async fn readings(web: &Web, meter: &Meter, roster: &Roster, limit: usize) -> Result<Vec<Value>, StoreError> {
    let live = web.views.reader.live();
    let newest = live.get(&meter.id).and_then(|values| values.values().map(|live| live.time).max());
    let Some(newest) = newest else { return Ok(Vec::new()) };
    // Twice as far back as so many readings should lie: some are missing.
    let interval = i64::from(meter.interval_ms.unwrap_or(60_000)).max(1_000);
    let far = i64::try_from(limit).unwrap_or(i64::MAX).saturating_mul(2 * interval);
    let (from, to) = (newest.plus_millis(-far), newest.plus_millis(1));
    let number = row::number(roster, &meter.id);
    let mut last = VecDeque::with_capacity(limit);
    let mut stream = web.views.reader.readings(meter.id.clone(), from, to);
    while let Some(batch) = stream.next().await {
        for stored in batch?.iter().filter(|stored| stored.raw(Role::Power).is_some()) {
            if last.len() == limit {
                last.pop_front();
            }
            last.extend(row::stored(number, stored));
        }
    }
    Ok(last.into())
}

impl message::Fault {
    pub fn told(&self) -> String {
        fault(&self.to_string())
    }
}
