//! Datasets: rows to canonical bytes, parts, manifest and bundle, as docs/evidence-format.md has them.
//!
//! Pure but for the files of a bundle. Where rows come from, and what becomes of a bundle, is the business of others.

pub mod bundle;
pub mod line;
pub mod manifest;
pub mod part;
pub mod row;
pub mod slice;
pub mod tar;

pub use bundle::{Heading, Progress, WriteError, Writer};
pub use manifest::{BadManifest, Kind, Manifest};
pub use slice::{Absent, BadSlice, Slice, SortedSlice};

#[cfg(test)]
mod tests;
