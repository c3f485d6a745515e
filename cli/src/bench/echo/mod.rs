//! `anyport bench echo`: messages that come back, in a closed loop, in an open one, or from connections that think.

mod loader;
mod plan;
mod report;

use std::sync::Arc;

use anyport::{Codec, Lines, Raw, SizeKind};

use super::{
    monitor::{self, Run},
    pattern::Pattern,
    progress::Unit,
    report::tell,
    spawn::{Spawned, echo_server},
};
use crate::{
    args::{BenchEcho, CodecName},
    exit::Outcome,
    framing::{length_prefix, zero_ended},
};
use loader::EchoLoader;
use plan::Plan;
use report::Echoed;

/// Loads an echo server and reports.
pub(crate) fn run(options: &BenchEcho) -> Outcome {
    let plan = Plan::new(options)?;
    let loading = &options.loading;
    let server = echo_server(loading, plan.codec, plan.frame_size(), plan.connections);
    Spawned::with(loading.spawn.then_some(server), &options.addr, |addresses, _| {
        let echoed = match plan.codec {
            CodecName::Raw => load(options, plan, &Raw, addresses),
            // Room for two: a line end that was lost is to be seen as a wrong size.
            CodecName::Lines => load(options, plan, &Lines::new(2 * plan.frame_size()), addresses),
            CodecName::Delimiter => load(options, plan, &zero_ended(2 * plan.frame_size()), addresses),
            CodecName::LengthPrefix => load(options, plan, &length_prefix(2 * plan.frame_size())?, addresses),
            CodecName::SizeKind => load(options, plan, &SizeKind::new(u16::MAX), addresses),
        }?;
        tell(echoed.as_ref(), loading.json)
    })
}

fn load<C: Codec>(
    options: &BenchEcho,
    plan: Plan,
    codec: &C,
    addresses: &[String],
) -> Outcome<Option<Echoed>> {
    let run = Run {
        loading: &options.loading,
        addresses,
        connections: plan.connections,
        manual: false,
        limits: plan.limits(),
        warmup: plan.warmup,
        duration: plan.duration,
        flush: plan.pace.is_open(),
        unit: Unit { name: "messages", bytes: plan.size },
        server: "anyport serve echo",
        time_is_up: &mut || {},
    };
    let pattern = Arc::new(Pattern::new(plan.size, plan.codec.is_text()));
    let ended =
        monitor::run(run, codec, move |station| EchoLoader::<C>::new(station, plan, Arc::clone(&pattern)))?;
    Ok(ended.map(|ended| Echoed { plan, ended }))
}
