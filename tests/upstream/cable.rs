//! Two machines with a cable between them, as two network namespaces of this one. It needs root.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the servers are.
pub const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

pub struct Cable {
    here: String,
    there: String,
}

/// One end of it.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    /// The gateway's.
    Here,
    /// The servers'.
    There,
}

impl Cable {
    /// Or why this process may not.
    pub fn lay() -> Result<Self, String> {
        static LAID: AtomicU32 = AtomicU32::new(0);
        let name = format!("ms{}-{}", std::process::id(), LAID.fetch_add(1, Ordering::Relaxed));
        let cable = Self { here: format!("{name}a"), there: format!("{name}b") };
        ip(&["netns", "add", &cable.here])?;
        ip(&["netns", "add", &cable.there])?;
        ip(&["-n", &cable.here, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &cable.there])?;
        for (machine, address) in [(&cable.here, "10.77.0.1/24"), (&cable.there, "10.77.0.2/24")] {
            ip(&["-n", machine, "addr", "add", address, "dev", "wire"])?;
            ip(&["-n", machine, "link", "set", "lo", "up"])?;
            ip(&["-n", machine, "link", "set", "wire", "up"])?;
        }
        Ok(cable)
    }

    /// Takes the link of one end down: the gateway is told of its own, but nobody is told of the other one.
    pub fn down(&self, end: End) {
        ip(&["-n", self.name(end), "link", "set", "wire", "down"]).unwrap();
    }

    pub fn up(&self, end: End) {
        ip(&["-n", self.name(end), "link", "set", "wire", "up"]).unwrap();
    }

    /// Does this on that machine, with all threads and processes that it starts.
    pub fn on<T: Send>(&self, end: End, work: impl FnOnce() -> T + Send) -> T {
        let machine = File::open(format!("/run/netns/{}", self.name(end))).unwrap();
        let moved = move || {
            move_into_link_name_space(machine.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(moved).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    fn name(&self, end: End) -> &str {
        if end == End::Here { &self.here } else { &self.there }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for machine in [&self.here, &self.there] {
            // It may not be there, if this process may not.
            ip(&["netns", "del", machine]).ok();
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let told = Command::new("ip").args(arguments).output().expect("ip is missing: run tests/setup");
    if told.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&told.stderr).trim_end().to_owned()) }
}
