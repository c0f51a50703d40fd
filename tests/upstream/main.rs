//! Each record arrives once in effect, whatever the line does: the engine with real servers, behind a network at its worst.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod backup;
mod cable;
#[path = "../peers/collector.rs"]
#[allow(dead_code, reason = "the tests of receivers use more of it")]
mod collector;
mod disk;
mod doors;
mod gateway;
mod held;
mod house;
#[path = "../kill/mod.rs"]
#[allow(dead_code, reason = "other tests kill by strace")]
mod kill;
mod lines;
mod listener;
#[path = "../peers/mosquitto.rs"]
mod mosquitto;
mod network;
mod poison;
#[path = "../peers/postgres.rs"]
mod postgres;
#[path = "../peers/proxy.rs"]
mod proxy;
mod pulled;
#[path = "../peers/receiver.rs"]
mod receiver;
#[path = "../peers/small_disk.rs"]
mod small_disk;
mod upstreams;

use std::net::{Ipv4Addr, SocketAddr};

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
