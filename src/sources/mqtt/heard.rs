//! Whose values were heard, and what they mean: from what a message says to readings of configured meters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::formats::{Sample, Value};
use super::{Broker, Publisher};
use crate::model::{Layout, Proposal, Quantity, Ratio, Reading, Stamp, Timestamp, Values};
use crate::sources::layout::{self, Mounting, RatioTooFine};

/// Meters that nobody has declared are remembered for a person up to this many; of further ones only the number is
/// told, whatever is published.
const PROPOSALS: usize = 256;

/// Messages that come in one moment are told apart by a millisecond each, up to this: beyond it the clock was set back.
const MOST_AHEAD_MS: i64 = 10_000;

/// A reading names its values by one byte.
const MOST_VALUES: usize = 255;

/// The meters of one broker.
pub struct Meters {
    /// By what they call themselves.
    known: HashMap<String, Known>,
    proposals: BTreeMap<String, Proposal>,
    /// Messages of meters that are neither declared nor remembered.
    pub unnamed: u64,
}

struct Known {
    /// Place in the config.
    at: usize,
    publisher: Publisher,
    /// What it has published so far, each quantity with its scale.
    scales: BTreeMap<Quantity, Ratio>,
    layout: Arc<Layout>,
    /// Place in the layout by the quantity as published.
    places: BTreeMap<Quantity, u8>,
    /// When a message without a time of its own came last.
    arrived: Option<Timestamp>,
}

/// What became of a sample.
pub enum Heard {
    /// A reading of the meter at this place of the config.
    Reading(usize, Reading),
    /// The meter is not declared.
    Proposed,
    /// Its numbers and the ratios of the config make no exact value.
    TooFine(RatioTooFine),
}

impl Meters {
    pub fn new(broker: &Broker) -> Self {
        let known = broker.meters.iter().enumerate().map(|(at, publisher)| {
            let layout = Arc::new(Layout {
                meter: publisher.id.clone(),
                category: publisher.category,
                interval_ms: publisher.interval.and_then(|interval| u32::try_from(interval.as_millis()).ok()),
                template: None,
                simulated: broker.simulated,
                slots: Vec::new(),
            });
            let publisher = publisher.clone();
            let known =
                Known { at, scales: BTreeMap::new(), layout, places: BTreeMap::new(), arrived: None, publisher };
            (known.publisher.matches.clone(), known)
        });
        Self { known: known.collect(), proposals: BTreeMap::new(), unnamed: 0 }
    }

    /// `taken` is when the message came. A sample with a time of its own is a reading of that time.
    pub fn hear(&mut self, sample: Sample, topic: &str, taken: Stamp) -> Heard {
        let Some(known) = self.known.get_mut(&sample.meter) else {
            self.propose(&sample, topic, taken.time);
            return Heard::Proposed;
        };
        if let Err(error) = known.learn(&sample.values) {
            return Heard::TooFine(error);
        }
        let mut values: Vec<_> = sample
            .values
            .iter()
            .filter_map(|value| Some((*known.places.get(&value.quantity)?, value.number)))
            .collect();
        values.sort_unstable_by_key(|(place, _)| *place);
        values.dedup_by_key(|(place, _)| *place);
        let taken = match sample.time {
            Some(time) => taken.by_device(time),
            // What the broker kept for us comes in one moment: each is a reading of its own all the same.
            None => {
                let time = known.arrived.map_or(taken.time, |last| taken.time.max(last.plus_millis(1)));
                let ahead = time.millis_since(taken.time);
                let time = if (0..=MOST_AHEAD_MS).contains(&ahead) { time } else { taken.time };
                known.arrived = Some(time);
                Stamp { time, ..taken }
            }
        };
        Heard::Reading(known.at, Reading { layout: known.layout.clone(), taken, values: Values::from(values) })
    }

    pub fn proposals(&self) -> Vec<Proposal> {
        self.proposals.values().cloned().collect()
    }

    fn propose(&mut self, sample: &Sample, topic: &str, now: Timestamp) {
        if !self.proposals.contains_key(&sample.meter) && self.proposals.len() >= PROPOSALS {
            self.unnamed += 1;
            return;
        }
        let proposal = self.proposals.entry(sample.meter.clone()).or_insert_with(|| Proposal {
            name: sample.meter.clone(),
            topic: topic.to_owned(),
            first: now,
            last: now,
            messages: 0,
            quantities: Vec::new(),
        });
        proposal.last = now;
        proposal.messages += 1;
        for value in &sample.values {
            if proposal.quantities.len() < MOST_VALUES && !proposal.quantities.contains(&value.quantity) {
                proposal.quantities.push(value.quantity.clone());
            }
        }
    }
}

impl Known {
    /// A quantity that is heard for the first time, or with another scale, makes a new layout. Slots are by name, so
    /// that the same quantities make the same layout in whatever order they come.
    fn learn(&mut self, values: &[Value]) -> Result<(), RatioTooFine> {
        let is_known = |value: &Value| self.scales.get(&value.quantity) == Some(&value.scale);
        if values.iter().all(is_known) {
            return Ok(());
        }
        let mut scales = self.scales.clone();
        for value in values {
            if scales.len() < MOST_VALUES || scales.contains_key(&value.quantity) {
                scales.insert(value.quantity.clone(), value.scale);
            }
        }
        let mounting = Mounting {
            category: self.publisher.category,
            ct_ratio: self.publisher.ct_ratio,
            vt_ratio: self.publisher.vt_ratio,
            invert: self.publisher.invert,
        };
        let slots: Vec<_> = scales
            .iter()
            .map(|(quantity, scale)| layout::published(&mounting, quantity, *scale))
            .collect::<Result<_, _>>()?;
        self.places = scales.keys().cloned().zip(0_u8..).collect();
        self.layout = Arc::new(Layout { slots, ..(*self.layout).clone() });
        self.scales = scales;
        Ok(())
    }
}
