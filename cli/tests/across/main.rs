//! A server and its peers as two programs, which may be of two operating systems. Every byte is checked, and at the end
//! nothing may be left over in the server.
//!
//! Both programs are the one that was just built, unless these variables name another, as words with spaces between:
//! `ANYPORT_SERVER="wine path/to/anyport.exe"` serves, `ANYPORT_LOADER` loads. `.ci/windows` sets them.

#![cfg(unix)]

mod churn;
mod drain;
mod load;
mod party;
#[path = "../program/process.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod process;
