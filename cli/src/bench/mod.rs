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

use std::time::Duration;

use anyport::{Limits, SendMarks};

use crate::{args::Bench, exit::Outcome};

/// Bytes that a header or line end adds to a message at most.
const FRAMING_BYTES: u64 = 4;

/// Loads a server and reports.
pub(crate) fn run(load: &Bench) -> Outcome {
    match load {
        Bench::Echo(options) => echo::run(options),
        Bench::Churn(options) => churn::run(options),
        Bench::Idle(options) => idle::run(options),
        Bench::Fanout(options) => fanout::run(options),
    }
}

/// Limits of a loader that has so many messages of this size in flight on a connection: all of them fit the send queue,
/// and reading never pauses, because the server stops reading while its own answers are not taken. Twice over, because
/// what was sent together leaves the queue together: its first messages may be answered, and replaced, before its last
/// byte is taken.
fn limits(in_flight: u64, size: usize) -> Limits {
    let queue = 2 * (in_flight * (size as u64 + FRAMING_BYTES)) as usize;
    Limits {
        drain_deadline: Duration::from_secs(5),
        send: SendMarks { high_water_bytes: queue, low_water_bytes: queue, queue_max_bytes: queue },
        pause_reading_under_pressure: false,
        ..Limits::default()
    }
}
