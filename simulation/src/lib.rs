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
//! | rule | looked at by |
//! |---|---|
//! | every operation ends once, every buffer and batch has one owner | the driver, the connection machine and `SimEngine::check`, between turns |
//! | a session is told its opening once, then its end once, for a reason that there was | `ledger`; `world`, for what the network did |
//! | bytes arrive in order, whole, on the right session; frames are those that were sent | `handler`, `peers`; `world`, at rest |
//! | one send and one receive in flight | the driver refuses a second; `SimEngine::check` counts refusals |
//! | counters balance, limits hold, marks are kept | `SimEngine::check`; `handler`, at every send |
//! | nothing is told outside of opening and end, while paused, or after the handler ended it | `ledger` |
//! | listeners listen, nobody waits for nothing | `SimEngine::check`; probes in `world`, at the end |
//! | timers are neither early nor late, jobs run once, in order, on their session or shard | `ledger`, `world` |
//! | messages to groups come to their members only, once, in order; on one shard, in their place among all others, and whole; on several, what does not come is not missed | `peers`, `ledger` |
//! | what may be lost is lost by the rule that it came with, and counted exactly | `ledger`, `handler` |
//! | timers of sessions are in time; what was sent is told; results of work come once, to the session that asked | `ledger`, `handler` |
//! | a client's connection is opened again after its wait and not before, or never, as it was decided | `handler`, `ledger` |
//! | records go to a file that was opened, and it tells what it was asked for | `handler` |
//! | questions from outside are answered, lists name the sessions that there are | `world/outside` |
//! | a drain is told, and ends by its deadline; nobody opens after it; nothing is left | `handler`, `world` |
//!
//! Servers run on the shards or on logic threads; clients connect once, again and again, or when they are told.
//!
//! Not looked at here, and by simulated tests of their own (`anyport/tests/sim`) instead: what is in files, admission by
//! address, services without a network, and how much one turn may do. Clients have their handlers on the shards.
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
