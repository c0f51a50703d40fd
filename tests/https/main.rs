//! Delivery over HTTP to a receiver that keeps to the contract, and to one that does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod certificate;
#[path = "../peers/certificates.rs"]
mod certificates;
mod contract;
#[path = "../peers/layout.rs"]
mod layout;
mod line;
#[path = "../peers/receiver.rs"]
mod receiver;
mod records;
mod sender;
mod witness;
