//! The whole daemon on simulated meters, with no set-up.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The demo, until it is interrupted.
pub async fn run(listen: SocketAddr, data: Option<PathBuf>, meters: usize) -> anyhow::Result<()> {
    let _ = (listen, data, meters);
    todo!()
}

/// The simulated meters alone, until they are interrupted.
pub async fn simulate(listen: SocketAddr, meters: usize, template: &str) -> anyhow::Result<()> {
    let _ = (listen, meters, template);
    todo!()
}
