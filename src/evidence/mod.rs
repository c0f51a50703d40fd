//! Evidence: what can be proven to somebody who trusts nobody here. The log's task, the plant's InfluxDB, canonical
//! datasets, proofs, and the verifier, which needs none of the others' state.

pub mod anchor;
pub mod dataset;
pub mod epoch;
pub mod evm;
pub mod hardware;
pub mod influx;
pub mod jobs;
pub mod log;
pub mod mark;
pub mod prove;
pub mod rpc;
pub mod verify;

use std::path::PathBuf;

use influx::{Connection, Query};

/// What the config says of this room.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// In the order of the file; those that are off for want of a secret are not among them.
    pub connections: Vec<Connection>,
    pub queries: Vec<Query>,
    /// Where the mark of the log is kept.
    pub mark: PathBuf,
}
