//! The chain as bytes: what a transaction, a block and its proofs are. No network, no clock, no state.

mod contract;

pub use contract::CREATION_CODE;
