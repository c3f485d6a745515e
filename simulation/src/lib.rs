//! Whole engines on the simulated network, under faults, against an oracle.
//!
//! A seed is spelled out as a [`Plan`]: a set-up, and a list of what happens from outside. [`run`] plays it in two
//! phases. First anything may happen: peers misbehave, the network fails, the handler calls everything everywhere.
//! Then the faults end, and everything must come to rest within a bounded number of steps. After every act the oracle
//! is asked: bytes arrive in order and whole, every session is told its opening and its end once, for a reason
//! that there was, limits hold, timers are in time, nothing is left behind.
//!
//! A failing seed is shrunk by [`shrink`] to the few events that matter.
//!
//! | file | idea |
//! |---|---|
//! | `plan` | what a seed stands for |
//! | `world` | one run of a plan |
//! | `handler` | the handler that does everything |
//! | `peers` | the other side |
//! | `ledger` | the oracle |
//! | `stream` | messages that follow from their label |
//! | `shrink`, `search` | smaller plans; many seeds |

#![forbid(unsafe_code)]
#![expect(clippy::similar_names, reason = "a shard, and what the shards share")]
#![expect(clippy::cast_precision_loss, reason = "rates and counts are shown with few digits")]

mod chance;
mod handler;
mod ledger;
mod panics;
mod peers;
pub mod plan;
pub mod planted;
pub mod search;
pub mod shrink;
mod stream;
mod world;

pub use handler::{Call, Mood};
pub use plan::Plan;
pub use world::{Options, Outcome, run};
