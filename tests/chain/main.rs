//! The chain at a real node (anvil) and behind one that lies, and the contract that is checked in. `tests/setup`
//! installs what it needs.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod canonical;
mod contract;
mod evidence;
mod harness;
mod lies;

mod methods;
mod polygon;
