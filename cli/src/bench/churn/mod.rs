//! `anyport bench churn`: connections that come and go.

mod loader;
mod report;

use std::{sync::Arc, time::Duration};

use anyport::{Codec, Limits, Lines, Raw, SizeKind};

use super::{
    limits,
    monitor::{self, Run},
    pattern::Pattern,
    progress::Unit,
    report::tell,
    spawn::{Spawned, echo_server},
};
use crate::{
    args::{BenchChurn, CodecName},
    exit::{Failure, Outcome},
    framing::{length_prefix, zero_ended},
};
use loader::ChurnLoader;
use report::Churned;

/// What every loader is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    codec: CodecName,
    /// Connections at a time.
    lanes: u64,
    threads: u64,
    size: usize,
    /// Cycles a second; none if each begins when one ended.
    rate: Option<u64>,
}

/// Loads an echo server with connections that come and go, and reports.
pub(crate) fn run(options: &BenchChurn) -> Outcome {
    let plan = Plan::new(options)?;
    let loading = &options.loading;
    // A session that ends and the one that follows it are there at the same time.
    let server = echo_server(loading, plan.codec, plan.codec.frame_size(plan.size), 2 * plan.lanes);
    let addresses = std::slice::from_ref(&options.addr);
    Spawned::with(loading.spawn.then_some(server), addresses, |addresses, _| {
        let churned = match plan.codec {
            CodecName::Raw => churn(options, plan, &Raw, addresses),
            CodecName::Lines => churn(options, plan, &Lines::new(2 * plan.size + 2), addresses),
            CodecName::Delimiter => churn(options, plan, &zero_ended(2 * plan.size + 2), addresses),
            CodecName::LengthPrefix => churn(options, plan, &length_prefix(plan.size + 4)?, addresses),
            CodecName::SizeKind => churn(options, plan, &SizeKind::new(u16::MAX), addresses),
        }?;
        tell(churned.as_ref(), loading.json)
    })
}

impl Plan {
    fn new(options: &BenchChurn) -> Outcome<Self> {
        let BenchChurn { connections: lanes, size, codec, rate, .. } = *options;
        let threads = options.loading.threads;
        let size = codec.check_size(size)?;
        if threads > lanes {
            return Err(Failure::Usage(format!("--threads {threads} is more than --connections {lanes}")));
        }
        Ok(Self { codec, lanes, threads, size, rate })
    }
}

fn churn<C: Codec>(
    options: &BenchChurn,
    plan: Plan,
    codec: &C,
    addresses: &[String],
) -> Outcome<Option<Churned>> {
    let run = Run {
        loading: &options.loading,
        addresses: &addresses[..1],
        connections: 2 * plan.lanes,
        manual: true,
        limits: Limits { linger: Duration::from_secs(5), ..limits(1, plan.size) },
        warmup: options.times.warmup,
        duration: options.times.duration,
        flush: plan.rate.is_some(),
        unit: Unit { name: "cycles", bytes: 0 },
        server: "anyport serve echo",
        time_is_up: &mut || {},
    };
    let pattern = Arc::new(Pattern::new(plan.size, plan.codec.is_text()));
    let make = move |station| ChurnLoader::<C>::new(station, plan, Arc::clone(&pattern));
    let ended = monitor::run(run, codec, make)?;
    Ok(ended.map(|ended| Churned { plan, ended }))
}
