//! Tests of the program as a user meets it: the binary itself, its lines and its exit codes.
//!
//! They run in parallel and beside anything else: each server has a port that the system chose. On Windows each run
//! has a console of its own, where Ctrl-C and Ctrl-Break reach it and nobody else; that a console is closed cannot be
//! had from a test, so the answer to it is tested in the driver's crate.

mod bench;
mod chat;
mod connect;
#[cfg(target_os = "linux")]
mod fallback;
mod loads;
mod log_file;
mod process;
mod serve;
#[cfg(target_os = "linux")]
mod terminal;
mod usage;
mod wrong_server;
