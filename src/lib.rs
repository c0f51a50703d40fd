//! meterseal: the seal on the meter for energy data.
//!
//! Data goes one way: sources -> store -> blocks -> evidence -> upstream; the web looks on. `ARCHITECTURE.md` has
//! the map of the rooms and the rules between them.

pub mod agent;
pub mod alerts;
pub mod blocks;
pub mod cli;
pub mod clock;
pub mod commissioning;
pub mod config;
pub mod doctor;
pub mod evidence;
pub mod model;
pub mod simulate;
pub mod sources;
pub mod store;
pub mod upstream;
pub mod web;
