//! `anyport bench`: a load generator that runs on the engine itself, as a client.
//!
//! | file | what |
//! |---|---|
//! | `plan` | the options, checked against each other |
//! | `pattern` | the bytes that go out, and the check of those that come back |
//! | `loader` | the handler on each shard: sends, checks, measures |
//! | `open` | the open loop's timetable |
//! | `monitor` | the main thread: begins, watches, ends |
//! | `tally`, `report`, `progress` | counts, and how they are shown |
//! | `spawn` | a server of its own |

mod loader;
mod monitor;
mod open;
mod pattern;
mod plan;
mod progress;
mod report;
mod spawn;
mod tally;

use anyport::{Lines, Raw, SizeKind};

use crate::{
    args::{BenchEcho, CodecName},
    exit::Outcome,
    output::{remark, say},
};
use monitor::Ended;
use plan::Plan;
use spawn::Spawned;

/// Loads an echo server and reports.
pub(crate) fn echo(options: &BenchEcho) -> Outcome {
    let plan = Plan::new(options)?;
    let spawned = if options.spawn { Some(Spawned::start(options, &plan)?) } else { None };
    let address = spawned.as_ref().map_or_else(|| options.addr.clone(), |server| server.address.to_string());
    let ended = run(options, plan, &address)?;
    let told = tell(options, ended.as_ref(), &address);
    // What went wrong in the run matters more than what goes wrong afterwards.
    let stopped = spawned.map_or(Ok(()), Spawned::stop);
    told.and(stopped)
}

fn run(options: &BenchEcho, plan: Plan, address: &str) -> Outcome<Option<Ended>> {
    match plan.codec {
        CodecName::Raw => monitor::run(options, plan, Raw, address),
        // Room for two: a line end that was lost is to be seen as a wrong size.
        CodecName::Lines => monitor::run(options, plan, Lines::new(2 * plan.frame_size()), address),
        CodecName::SizeKind => monitor::run(options, plan, SizeKind::new(u16::MAX), address),
    }
}

fn tell(options: &BenchEcho, ended: Option<&Ended>, address: &str) -> Outcome {
    let Some(ended) = ended else {
        remark("cut short by a signal before all connections were open: nothing was measured");
        return Ok(());
    };
    say(if options.json { ended.json() } else { ended.table() })?;
    for text in ended.remarks() {
        remark(text);
    }
    ended.verdict(address)
}
