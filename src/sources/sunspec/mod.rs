//! SunSpec devices: they say themselves which registers they have, as a chain of models that begins with `SunS`.
//!
//! `walk` goes along the chain and gives the devices in it, `models` is what is known of each model, `map` makes a
//! register map of the two, and `scale` is the rule of the scale factors. All of it is pure: `modbus` does the talking.

mod map;
mod models;
mod scale;
mod walk;

pub use map::registers;
pub use scale::Unusable;
pub use walk::{Device, Read, Walk};
