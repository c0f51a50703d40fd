//! Figures for a monitoring system, in OpenMetrics text 1.0.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Web;
use super::anchors::{coins, newest_final};
use super::health::store_health;
use super::meters::Moment;
use super::problem::Problem;
use super::query::{Asked, Nothing};
use super::upstreams::age_ms;
use super::wire::push_text;
use crate::model::decimal::push_f64;
use crate::model::{AnchorState, Condition, MeterStatus, StreamStatus, UpstreamState};
use crate::store::StoreHealth;

/// The forecast of bytes written looks back this far, one sample a minute.
const SAMPLES: usize = 60;
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
const DAY_MS: f64 = 86_400_000.0;

/// Bytes written of late: `(ms since boot, bytes written since start)`, the oldest first.
#[derive(Clone)]
pub struct DiskUse(Arc<Mutex<VecDeque<(u64, u64)>>>);

impl DiskUse {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(VecDeque::with_capacity(SAMPLES))))
    }

    fn sample(&self, at: u64, written: u64) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((at, written));
    }

    /// GB per day at the pace of the last hour, or since start; `None` in the first seconds.
    #[allow(clippy::cast_precision_loss)]
    fn forecast(&self, at: u64, written: u64) -> Option<f64> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, before) = *samples.front()?;
        let passed = at.checked_sub(since).filter(|passed| *passed >= 10_000)?;
        let gigabytes = written.saturating_sub(before) as f64 / 1e9;
        Some((gigabytes * DAY_MS / passed as f64 * 1e6).round() / 1e6)
    }
}

/// Samples the bytes written until stopped.
pub async fn watch_disk(web: Web) {
    loop {
        let Ok(health) = store_health(&web).await else { return };
        web.disk.sample(web.views.clock.since_boot_ms(), health.written_bytes);
        tokio::select! {
            () = web.stop.cancelled() => return,
            () = web.views.clock.sleep(SAMPLE_EVERY) => {}
        }
    }
}

/// Figures for a monitoring system (OpenMetrics text 1.0)
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "The figures",
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8", body = String))
)]
pub async fn metrics(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Result<Response, Problem> {
    let health = store_health(&web).await?;
    let mut page = Exposition(Vec::with_capacity(16 * 1024));
    program(&mut page);
    meters(&mut page, &web);
    lines(&mut page, &web);
    blocks(&mut page, &web);
    store(&mut page, &web, &health);
    anchors(&mut page, &web).await;
    upstreams(&mut page, &web);
    page.one("meterseal_web_event_clients", "gauge", "Live feeds open.", count(web.feed.clients()));
    page.one("meterseal_web_events_missed", "counter", "Events that slow clients missed.", web.feed.missed());
    let (clients, dropped) = (count(web.hub.count()), web.hub.dropped());
    page.one("meterseal_web_socket_clients", "gauge", "WebSocket clients connected.", clients);
    page.one(
        "meterseal_web_socket_messages_missed",
        "counter",
        "Messages that slow WebSocket clients missed.",
        dropped,
    );
    page.0.extend_from_slice(b"# EOF\n");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], page.0).into_response())
}

/// The text under way.
struct Exposition(Vec<u8>);

impl Exposition {
    /// A family; its samples follow.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        push_text(&mut self.0, format_args!("# TYPE {name} {kind}\n"));
        // A name that ends in a unit must say so (OpenMetrics 1.0, "Unit").
        if let Some(unit) = ["seconds", "bytes", "watts", "kwh", "ratio"].iter().find(|unit| name.ends_with(*unit)) {
            push_text(&mut self.0, format_args!("# UNIT {name} {unit}\n"));
        }
        push_text(&mut self.0, format_args!("# HELP {name} {help}\n"));
    }

    fn sample(&mut self, name: &str, kind: &str, labels: &str, value: impl Display) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        push_text(&mut self.0, format_args!("{name}{suffix}{open}{labels}{close} {value}\n"));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, kind, "", value);
    }
}

/// A double as the exposition writes it.
fn number(value: f64) -> String {
    let mut out = Vec::new();
    push_f64(&mut out, value);
    String::from_utf8(out).unwrap_or_default()
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn program(page: &mut Exposition) {
    page.family("meterseal", "info", "The program.");
    push_text(&mut page.0, format_args!("meterseal_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION")));
    if let Some((cpu, resident)) = own_use() {
        page.one("process_cpu_seconds", "counter", "Processor time of this process.", number(cpu));
        page.one("process_resident_memory_bytes", "gauge", "Memory of this process.", resident);
    }
}

/// Processor seconds and resident bytes of this process (Linux, proc(5)).
#[allow(clippy::cast_precision_loss)]
fn own_use() -> Option<(f64, u64)> {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, the same on every Linux that is built for here
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in brackets, and may hold blanks: the third one comes after the last bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    Some((ticks as f64 / TICKS_PER_SECOND, resident.trim().parse::<u64>().ok()?.checked_mul(1_024)?))
}

fn meters(page: &mut Exposition, web: &Web) {
    let (moment, meters) = (Moment::take(web), web.views.meters.borrow().clone());
    let polled: Vec<_> =
        meters.iter().filter_map(|meter| Some((meter, moment.sources.meters.get(&meter.id)?))).collect();
    page.family("meterseal_meter_up", "gauge", "1 while the meter answers with values.");
    for (meter, status) in &polled {
        let up = u8::from(status.condition == Condition::Answering);
        page.sample("meterseal_meter_up", "gauge", &format!("meter=\"{}\"", meter.id), up);
    }
    type Counter = (&'static str, &'static str, fn(&MeterStatus) -> u64);
    let counters: [Counter; 5] = [
        ("meterseal_meter_polls", "Polls of the meter.", |status| status.polls),
        ("meterseal_meter_answers", "Polls that gave values.", |status| status.answers),
        ("meterseal_meter_timeouts", "Requests that were not answered in time.", |status| status.timeouts),
        ("meterseal_meter_exceptions", "Requests that the meter refused.", |status| status.exceptions),
        ("meterseal_meter_bad_answers", "Answers that made no sense.", |status| status.bad_answers),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        for (meter, status) in &polled {
            page.sample(name, "counter", &format!("meter=\"{}\"", meter.id), value(status));
        }
    }
    page.family("meterseal_meter_refused_registers", "gauge", "Registers that the meter refuses.");
    for (meter, status) in &polled {
        let refused = count(status.refused_registers.len());
        page.sample("meterseal_meter_refused_registers", "gauge", &format!("meter=\"{}\"", meter.id), refused);
    }
    let power: Vec<_> = meters.iter().filter_map(|meter| Some((meter, moment.power(meter)?))).collect();
    page.family("meterseal_meter_power_watts", "gauge", "Power, positive as the category says.");
    for (meter, live) in &power {
        let labels = format!("meter=\"{}\",category=\"{}\"", meter.id, meter.category);
        // Whole milliwatts: the product of two doubles would show digits that nobody measured.
        page.sample("meterseal_meter_power_watts", "gauge", &labels, number((live.value * 1e6).round() / 1e3));
    }
    page.family("meterseal_meter_age_seconds", "gauge", "Age of the power shown.");
    for (meter, live) in &power {
        let age = moment.now.millis_since(live.time).max(0);
        let (labels, age) = (format!("meter=\"{}\"", meter.id), format!("{}.{:03}", age / 1_000, age % 1_000));
        page.sample("meterseal_meter_age_seconds", "gauge", &labels, age);
    }
}

fn lines(page: &mut Exposition, web: &Web) {
    let sources = web.views.sources.borrow().clone();
    page.family("meterseal_line_up", "gauge", "1 while the line is connected.");
    for (name, line) in &sources.lines {
        page.sample("meterseal_line_up", "gauge", &format!("line=\"{name}\""), u8::from(line.connected));
    }
    type Counter = (&'static str, &'static str, fn(&crate::model::LineStatus) -> u64);
    let counters: [Counter; 4] = [
        ("meterseal_line_connects", "Connections made.", |line| line.connects),
        ("meterseal_line_requests", "Requests sent.", |line| line.requests),
        ("meterseal_line_late_answers", "Answers that came after their time, thrown away.", |line| line.late_answers),
        ("meterseal_line_damaged_answers", "Answers on a serial line that came damaged.", |line| line.damaged_answers),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        for (line, status) in &sources.lines {
            page.sample(name, "counter", &format!("line=\"{line}\""), value(status));
        }
    }
    page.family("meterseal_broker_up", "gauge", "1 while the broker is connected.");
    for (name, broker) in &sources.brokers {
        page.sample("meterseal_broker_up", "gauge", &format!("broker=\"{name}\""), u8::from(broker.connected));
    }
    type OfBroker = (&'static str, &'static str, fn(&crate::model::BrokerStatus) -> u64);
    let counters: [OfBroker; 5] = [
        ("meterseal_broker_connects", "Connections made.", |broker| broker.connects),
        ("meterseal_broker_messages", "Messages received.", |broker| broker.messages),
        ("meterseal_broker_repeated", "Values that were there already.", |broker| broker.repeated),
        ("meterseal_broker_undated", "Retained messages without a time of their own.", |broker| broker.undated),
        ("meterseal_broker_malformed", "Messages that could not be read.", |broker| broker.malformed),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        for (broker, status) in &sources.brokers {
            page.sample(name, "counter", &format!("broker=\"{broker}\""), value(status));
        }
    }
    page.one("meterseal_poll_attempts", "counter", "Polls completed, answered or not.", sources.attempts);
    page.one("meterseal_readings_waited", "counter", "Readings that waited for the store.", sources.waits);
}

fn blocks(page: &mut Exposition, web: &Web) {
    let open = web.views.open.borrow().clone();
    type Figure = (&'static str, &'static str, fn(&crate::model::OpenBlock) -> Option<f64>);
    let figures: [Figure; 4] = [
        ("meterseal_block_energy_kwh", "Energy of the running block so far.", |open| Some(open.net()?.to_kwh())),
        ("meterseal_block_projected_kwh", "Energy at its end if power stays.", |open| Some(open.projected?.to_kwh())),
        ("meterseal_block_target_kwh", "Its target.", |open| Some(open.peak_target?.to_kwh())),
        ("meterseal_block_shed_watts", "The load that must go to keep the target.", |open| {
            Some(open.shed?.to_kw() * 1e3)
        }),
    ];
    for (name, help, value) in figures {
        page.family(name, "gauge", help);
        for (meter, open) in open.iter() {
            if let Some(value) = value(open) {
                page.sample(name, "gauge", &format!("meter=\"{meter}\""), number(value));
            }
        }
    }
}

fn store(page: &mut Exposition, web: &Web, health: &StoreHealth) {
    let writable = u8::from(health.unwritable.is_none());
    page.one("meterseal_store_up", "gauge", "1 while the store can be written.", writable);
    let counters = [
        ("meterseal_store_commits", "Commits completed.", health.commits),
        ("meterseal_store_readings", "Readings stored.", health.readings),
        ("meterseal_store_repeated", "Values that were there already.", health.repeated),
        ("meterseal_store_conflicts", "Values that differ from an earlier one of the same instant.", health.conflicts),
        ("meterseal_store_lost", "Readings given up for want of room.", health.lost),
        ("meterseal_store_written_bytes", "Bytes this process caused to be written.", health.written_bytes),
    ];
    for (name, help, value) in counters {
        page.one(name, "counter", help, value);
    }
    if let Some(forecast) = web.disk.forecast(web.views.clock.since_boot_ms(), health.written_bytes) {
        let help = "Bytes that this process writes in a day at the pace of the last hour, in GB; what the file system adds \
                    is not among them.";
        page.one("meterseal_store_written_gigabytes_per_day", "gauge", help, number(forecast));
    }
    let gauges = [
        ("meterseal_store_queued", "Readings that wait for their commit.", health.queued),
        ("meterseal_store_raw_bytes", "Size of the raw readings.", health.raw_bytes),
        ("meterseal_store_evidence_bytes", "Size of blocks and evidence.", health.evidence_bytes),
        ("meterseal_store_free_bytes", "Room left on the disk.", health.free_bytes),
        ("meterseal_store_reserve_used", "1 when the reserve was given up.", u64::from(health.reserve_used)),
        ("meterseal_store_quarantined", "Damaged files set aside.", count(health.quarantined.len())),
    ];
    for (name, help, value) in gauges {
        page.one(name, "gauge", help, value);
    }
}

/// What the store cannot tell now is left out, as what was never measured: `meterseal_store_up` says why.
async fn anchors(page: &mut Exposition, web: &Web) {
    let status = web.views.anchor.borrow().clone();
    let counts = web.views.reader.anchors_by_state().await.unwrap_or_default();
    if !status.is_configured() && counts.is_empty() {
        return;
    }
    page.family("meterseal_anchors", "gauge", "Anchors by state.");
    for state in AnchorState::ALL {
        let labels = format!("state=\"{}\"", state.as_str());
        page.sample("meterseal_anchors", "gauge", &labels, counts.get(&state).unwrap_or(&0));
    }
    if let Ok(Some((_, _, Some(reach)))) = newest_final(web).await {
        let age = web.views.clock.now().millis_since(reach.time).max(0);
        let help = "Age of the newest entry of the log that is final on the chain.";
        page.one("meterseal_anchor_age_seconds", "gauge", help, format!("{}.{:03}", age / 1_000, age % 1_000));
    }
    if let Some((wei, _)) = status.balance {
        page.one("meterseal_anchor_balance", "gauge", "What the account holds, in the native coin.", coins(wei));
    }
    let waits = u8::from(status.waiting.is_some());
    page.one("meterseal_anchor_waits", "gauge", "1 while something holds up all anchors.", waits);
}

fn upstreams(page: &mut Exposition, web: &Web) {
    let (upstreams, now) = (web.views.upstreams.borrow().clone(), web.views.clock.now());
    if upstreams.is_empty() {
        return;
    }
    page.family("meterseal_upstream_up", "gauge", "1 while what is sent to it is acknowledged.");
    for (name, upstream) in upstreams.iter() {
        let up = u8::from(upstream.state == UpstreamState::Connected);
        page.sample("meterseal_upstream_up", "gauge", &format!("upstream=\"{name}\""), up);
    }
    page.family("meterseal_upstream_retries", "counter", "Attempts that had to be made again.");
    for (name, upstream) in upstreams.iter() {
        page.sample("meterseal_upstream_retries", "counter", &format!("upstream=\"{name}\""), upstream.retries);
    }
    page.family("meterseal_upstream_dead_letters", "gauge", "Records that it would not take, and that are kept.");
    for (name, upstream) in upstreams.iter() {
        page.sample("meterseal_upstream_dead_letters", "gauge", &format!("upstream=\"{name}\""), upstream.dead_letters);
    }
    let streams: Vec<_> = upstreams
        .iter()
        .flat_map(|(name, upstream)| upstream.streams.iter().map(move |stream| (name, stream)))
        .map(|(name, (stream, status))| (format!("upstream=\"{name}\",stream=\"{stream}\""), status))
        .collect();
    type Figure = (&'static str, &'static str, &'static str, fn(&StreamStatus) -> u64);
    let figures: [Figure; 6] = [
        ("meterseal_upstream_depth", "gauge", "Seqs that are not acknowledged.", |stream| stream.depth),
        ("meterseal_upstream_sent", "counter", "Records acknowledged.", |stream| stream.sent),
        ("meterseal_upstream_repeated", "counter", "Records that it had already.", |stream| stream.repeated),
        ("meterseal_upstream_rejected", "counter", "Records that it would not take.", |stream| stream.rejected),
        ("meterseal_upstream_in_doubt", "counter", "Records sent again that may have arrived.", |stream| {
            stream.in_doubt
        }),
        ("meterseal_upstream_skipped", "counter", "Records that it has no words for.", |stream| stream.skipped),
    ];
    for (name, kind, help, value) in figures {
        page.family(name, kind, help);
        for (labels, stream) in &streams {
            page.sample(name, kind, labels, value(stream));
        }
    }
    page.family("meterseal_upstream_oldest_age_seconds", "gauge", "Age of the oldest record that is not acknowledged.");
    for (labels, stream) in &streams {
        // Nothing waits: an age of zero lets an alarm rest.
        let age = stream.oldest.map_or(0, |oldest| age_ms(oldest, now));
        let age = format!("{}.{:03}", age / 1_000, age % 1_000);
        page.sample("meterseal_upstream_oldest_age_seconds", "gauge", labels, age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_is_the_pace_of_the_last_hour() {
        let disk = DiskUse::new();
        assert_eq!(disk.forecast(100_000, 5), None);
        disk.sample(0, 1_000_000);
        assert_eq!(disk.forecast(5_000, 2_000_000), None, "too soon to tell");
        assert_eq!(disk.forecast(86_400, 2_000_000), Some(1.0));
        for minute in 1..=60 {
            disk.sample(minute * 60_000, 1_000_000);
        }
        assert_eq!(disk.forecast(61 * 60_000, 1_000_000), Some(0.0), "the first sample has gone");
    }

    #[test]
    fn this_process_knows_what_it_uses() {
        let (cpu, resident) = own_use().unwrap();
        assert!(cpu >= 0.0 && resident > 1_000_000, "{cpu} {resident}");
    }
}
