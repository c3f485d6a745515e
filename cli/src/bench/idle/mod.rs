//! `anyport bench idle`: many sessions that say nothing, and what each of them costs.

mod loader;
mod memory;
mod report;

use std::sync::Arc;

use anyport::{Codec, Lines, Raw, SizeKind};

use super::{
    limits,
    monitor::{self, Run},
    pattern::Pattern,
    progress::Unit,
    report::tell,
    spawn::{Spawned, echo_server},
};
use crate::{
    args::{BenchIdle, CodecName},
    exit::{Failure, Outcome},
    framing::{length_prefix, zero_ended},
};
use loader::IdleLoader;
use report::{Held, Memory};

/// What every loader is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    codec: CodecName,
    connections: u64,
    threads: u64,
    size: usize,
}

/// Holds sessions and reports.
pub(crate) fn run(options: &BenchIdle) -> Outcome {
    let plan = Plan::new(options)?;
    let loading = &options.loading;
    let server = echo_server(loading, plan.codec, plan.codec.frame_size(plan.size), plan.connections);
    Spawned::with(loading.spawn.then_some(server), &options.addr, |addresses, server| {
        let held = match plan.codec {
            CodecName::Raw => hold(options, plan, &Raw, addresses, server),
            CodecName::Lines => hold(options, plan, &Lines::new(2 * plan.size + 2), addresses, server),
            CodecName::Delimiter => hold(options, plan, &zero_ended(2 * plan.size + 2), addresses, server),
            CodecName::LengthPrefix => hold(options, plan, &length_prefix(plan.size + 4)?, addresses, server),
            CodecName::SizeKind => hold(options, plan, &SizeKind::new(u16::MAX), addresses, server),
        }?;
        tell(held.as_ref(), loading.json)
    })
}

impl Plan {
    fn new(options: &BenchIdle) -> Outcome<Self> {
        let BenchIdle { connections, size, codec, .. } = *options;
        let threads = options.loading.threads;
        let size = codec.check_size(size)?;
        if threads > connections {
            let text = format!("--threads {threads} is more than --connections {connections}");
            return Err(Failure::Usage(text));
        }
        Ok(Self { codec, connections, threads, size })
    }
}

fn hold<C: Codec>(
    options: &BenchIdle,
    plan: Plan,
    codec: &C,
    addresses: &[String],
    server: Option<u32>,
) -> Outcome<Option<Held>> {
    let before = server.and_then(memory::resident);
    let mut with_sessions = None;
    let run = Run {
        loading: &options.loading,
        addresses,
        connections: plan.connections,
        manual: false,
        limits: limits(1, plan.size),
        warmup: std::time::Duration::ZERO,
        duration: options.duration,
        flush: true,
        unit: Unit { name: "", bytes: 0 },
        server: "anyport serve echo",
        time_is_up: &mut || with_sessions = server.and_then(memory::resident),
    };
    let pattern = Arc::new(Pattern::new(plan.size, plan.codec.is_text()));
    let ended =
        monitor::run(run, codec, move |station| IdleLoader::<C>::new(station, plan, Arc::clone(&pattern)))?;
    let memory = before.zip(with_sessions).map(|(before, with_sessions)| Memory { before, with_sessions });
    Ok(ended.map(|ended| Held { plan, ended, memory }))
}
