//! Evidence: what can be proven to somebody who trusts nobody here. The log's task, the plant's InfluxDB, canonical
//! datasets, proofs, and the verifier, which needs none of the others' state.

pub mod epoch;
pub mod hardware;
pub mod mark;
