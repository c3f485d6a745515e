//! The result: tables for the terminal, JSON, and the page with its pictures.
//!
//! Everything is written from a `Record`, which holds each slice of a run and reads back from its own JSON: so a page is
//! written again, with better words, without measuring again. `record` is the data, `spec` what a workload is called,
//! `figures` how numbers are written; `markdown` are the tables of a plain run, `picture/` draws, `page/` puts the page
//! together, `targets` holds it against our own bounds, `readme` is the short form.

mod figures;
pub mod json;
pub mod markdown;
pub mod page;
pub mod picture;
pub mod readme;
pub mod record;
#[cfg(test)]
mod sample;
mod spec;
mod targets;

/// Above this the host has moved the two processors apart, and loopback costs up to half as much again.
const PING_PONG_NEAR_NS: f64 = 150.0;

/// Waiting for a processor for more than this share of the time is worth a warning.
pub const DISTURBED_SHARE: f64 = 0.02;

/// If the loader sent more than this share of an open loop's messages late, their latency is not all the server's.
const LATE_SHARE: f64 = 0.001;

/// The column that our bounds are about, and that pictures set off.
const OURS: &str = "anyport io-uring";
/// The same engine on the older interface of the kernel.
const OURS_READINESS: &str = "anyport readiness";
/// Its handlers on a thread of their own: a placement, not another engine.
const OURS_LOGIC: &str = "anyport logic";
