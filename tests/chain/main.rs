//! The chain at a real node (anvil) and behind one that lies, and the contract that is checked in. `tests/setup`
//! installs what it needs.

mod contract;
