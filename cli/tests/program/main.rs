//! Tests of the program as a user meets it: the binary itself, its lines and its exit codes.
//!
//! They run in parallel and beside anything else: each server has a port that the system chose.

#![cfg(unix)]

mod bench;
#[cfg(target_os = "linux")]
mod fallback;
mod process;
mod serve;
mod usage;
mod wrong_server;
