//! What was measured, and how it is told: as text, as data, and as a page with charts.
//!
//! Starts no process and reads no clock: everything follows from a [`Report`]. `results.rs` has the
//! numbers and what is made of them; `text.rs`, `files.rs` and `page.rs` write them down.

#![forbid(unsafe_code)]

pub(crate) mod charts;
pub(crate) mod facts;
pub(crate) mod files;
pub(crate) mod page;
pub(crate) mod results;
pub(crate) mod statistics;
pub(crate) mod svg;
pub(crate) mod text;

pub(crate) use facts::Facts;
pub(crate) use results::{CellResult, Report, Sample, ServerResult};
