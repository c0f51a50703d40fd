//! The newest committed values, kept raw; they become numbers of a unit only when somebody looks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::codec::Entry;
use super::raw::{RawFile, recall_last, recall_tail};
use super::{Live, LiveValues};
use crate::model::{Interval, Layout, MeterId, Number, Ratio, StoredReading, Timestamp};

#[derive(Default)]
pub struct LiveMeters {
    meters: HashMap<MeterId, LiveMeter>,
    /// What was last shown, while nothing has changed.
    shown: Option<Arc<LiveValues>>,
}

struct LiveMeter {
    layout: Arc<Layout>,
    /// By place in the layout.
    values: Vec<Option<Newest>>,
}

/// A value with what it meant when it was read: an older one may come from an older layout.
#[derive(Clone, Copy)]
struct Newest {
    raw: Number,
    time: Timestamp,
    scale: Ratio,
    interval: Option<Interval>,
}

/// A time so far ahead of the clock is wrong: what comes after it replaces it.
const AHEAD_MS: i64 = 60_000;

impl LiveMeters {
    pub fn take(&mut self, readings: &[StoredReading], now: Timestamp) {
        for reading in readings {
            self.put(&reading.layout, reading.time, &reading.values, now);
        }
    }

    fn put(&mut self, layout: &Arc<Layout>, time: Timestamp, values: &[(u8, Number)], now: Timestamp) {
        self.shown = None;
        let meter = match self.meters.get_mut(&layout.meter) {
            Some(meter) => meter,
            None => self.meters.entry(layout.meter.clone()).or_insert_with(|| LiveMeter::new(layout)),
        };
        meter.turn_to(layout);
        for (place, number) in values {
            let (Some(value), Some(slot)) =
                (meter.values.get_mut(usize::from(*place)), layout.slots.get(usize::from(*place)))
            else {
                continue;
            };
            if value.is_none_or(|known| time >= known.time || known.time.millis_since(now) > AHEAD_MS) {
                *value = Some(Newest { raw: *number, time, scale: slot.scale, interval: slot.interval });
            }
        }
    }

    /// After a start: what a file still holds unpacked, and of the newest ones each meter's last chunk. A file that cannot be read is dealt with elsewhere.
    pub fn recall(&mut self, file: &RawFile, newest: bool, now: Timestamp) {
        let mut put = |layout: &Arc<Layout>, entry: Entry| {
            self.put(layout, Timestamp::from_millis(entry.time), &entry.values, now);
        };
        let walked = match newest {
            true => recall_last(file, &mut put).and_then(|()| recall_tail(file, &mut put)),
            false => recall_tail(file, &mut put),
        };
        if let Err(error) = walked {
            tracing::warn!(%error, "the live values begin anew");
        }
    }

    pub fn show(&mut self) -> Arc<LiveValues> {
        let show = |meter: &LiveMeter| {
            let values = meter.layout.slots.iter().zip(&meter.values);
            let shown = values.filter_map(|(slot, value)| {
                let Newest { raw, time, scale, interval } = (*value)?;
                Some((slot.quantity.clone(), Live { value: scale.display(raw), time, interval }))
            });
            shown.collect::<BTreeMap<_, _>>()
        };
        let meters = &self.meters;
        let shown = self
            .shown
            .get_or_insert_with(|| Arc::new(meters.iter().map(|(id, meter)| (id.clone(), show(meter))).collect()));
        shown.clone()
    }
}

impl LiveMeter {
    fn new(layout: &Arc<Layout>) -> Self {
        Self { layout: layout.clone(), values: vec![None; layout.slots.len()] }
    }

    /// A meter whose layout changed keeps the values of the quantities it still has.
    fn turn_to(&mut self, layout: &Arc<Layout>) {
        if Arc::ptr_eq(&self.layout, layout) {
            return;
        }
        if *self.layout != **layout {
            let old = |quantity: &str| {
                let place = self.layout.slot_named(quantity)?;
                self.values.get(usize::from(place)).copied().flatten()
            };
            self.values = layout.slots.iter().map(|slot| old(slot.quantity.as_str())).collect();
        }
        self.layout = layout.clone();
    }
}
