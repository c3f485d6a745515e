//! `anyport bench`: load generators that run on the engine itself, as clients.
//!
//! | file | what |
//! |---|---|
//! | `echo`, `churn`, `idle`, `fanout` | one load each: options checked, the handler that loads, the result |
//! | `crew` | what the main thread and the loaders on the shards have in common |
//! | `monitor` | the main thread: begins, watches, ends |
//! | `schedule` | when messages are due, for loads that do not wait for answers |
//! | `pattern` | the bytes that go out, and the check of those that come back |
//! | `tally`, `report`, `progress` | counts, and how they are shown |
//! | `spawn` | a server of its own |

mod churn;
mod crew;
mod echo;
mod fanout;
mod idle;
mod monitor;
mod pattern;
mod progress;
mod report;
mod schedule;
mod spawn;
mod tally;

use crate::{args::Bench, exit::Outcome};

/// Loads a server and reports.
pub(crate) fn run(load: &Bench) -> Outcome {
    match load {
        Bench::Echo(options) => echo::run(options),
        Bench::Churn(options) => churn::run(options),
        Bench::Idle(options) => idle::run(options),
        Bench::Fanout(options) => fanout::run(options),
    }
}
