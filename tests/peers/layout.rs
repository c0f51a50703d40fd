//! What the readings of a test's meter mean.

use std::sync::Arc;

use meterseal::model::{Category, Layout, Ratio, Slot};

/// Of a meter that consumes: its quantities, each with its scale.
pub fn layout(meter: &str, interval_ms: u32, slots: &[(&str, &str)]) -> Arc<Layout> {
    let slot = |(quantity, scale): &(&str, &str)| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::parse(scale).unwrap(),
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: meter.parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(interval_ms),
        template: None,
        simulated: false,
        slots: slots.iter().map(slot).collect(),
    })
}
