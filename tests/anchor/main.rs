//! Anchors on a real chain (anvil), through all that can go wrong with it. `tests/setup` installs what it needs.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "../chain/harness/mod.rs"]
mod harness;
mod house;

mod faults;
mod nodes;
mod rounds;
mod story;
mod words;
