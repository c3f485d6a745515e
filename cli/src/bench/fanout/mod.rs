//! `anyport bench fanout`: some publish in a room of a chat, and every member is sent every line.

mod line;
mod loader;
mod report;
mod tracks;

use std::{sync::Arc, time::Duration};

use anyport::{Limits, Lines, SendMarks};

use super::{
    monitor::{self, Run},
    pattern::Pattern,
    progress::Unit,
    report::tell,
    spawn::{Spawned, chat_server},
};
use crate::{
    args::BenchFanout,
    exit::{Failure, Outcome},
};
use line::{FIXED_SIZE, NAME_SIZE_MAX};
use loader::FanoutLoader;
use report::FannedOut;
use tracks::Tracks;

/// Lines under way that an open loop allows each publisher, if bytes allow it; what is due beyond waits.
const OPEN_WINDOW_MAX: u64 = 1024;
/// Bytes under way to one member: a chat of ours lets four times as many wait before it gives a member up.
const UNDER_WAY_MAX: u64 = 64 << 10;
/// The same if asked for by `--depth`: a server of ours is told to let as many wait.
const UNDER_WAY_ASKED_MAX: u64 = 256 << 20;

/// When lines leave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pace {
    /// When all members have one.
    Closed { depth: u64 },
    /// At this rate over all publishers.
    Open { rate: u64 },
}

/// What every loader is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) members: u64,
    pub(crate) publishers: u64,
    pub(crate) threads: u64,
    pub(crate) size: usize,
    pub(crate) pace: Pace,
    /// Lines that a publisher has under way at most.
    pub(crate) window: u64,
    /// Makes names that no other run on this machine has.
    pub(crate) run: u32,
}

impl Plan {
    fn new(options: &BenchFanout) -> Outcome<Self> {
        let BenchFanout { members, publishers, size, depth, rate, .. } = *options;
        let threads = options.loading.threads;
        if threads > members + publishers {
            let text = format!("--threads {threads} is more than the members and publishers together");
            return Err(Failure::Usage(text));
        }
        let of_one_each = publishers * (size + NAME_SIZE_MAX as u64 + 3);
        let (pace, window) = match rate {
            Some(rate) => (Pace::Open { rate }, (UNDER_WAY_MAX / of_one_each).clamp(1, OPEN_WINDOW_MAX)),
            None => (Pace::Closed { depth }, depth),
        };
        if window * of_one_each * members > UNDER_WAY_ASKED_MAX {
            return Err(Failure::Usage(format!(
                "{publishers} publishers of {window} lines of {size} bytes to {members} members are more than 256 MiB \
                 under way: choose fewer"
            )));
        }
        let run = std::process::id();
        Ok(Self { members, publishers, threads, size: size as usize, pace, window, run })
    }

    /// Bytes that may be under way to one member.
    fn under_way(&self) -> u64 {
        self.window * self.publishers * (self.size + NAME_SIZE_MAX + 3) as u64
    }

    /// Bytes of a line that are compared with the pattern.
    pub(crate) fn filler(&self) -> usize {
        self.size - FIXED_SIZE
    }

    fn limits(&self) -> Limits {
        let marks = SendMarks::default();
        let queue = marks.queue_max_bytes + 2 * (self.window as usize * (self.size + 1));
        Limits {
            drain_deadline: Duration::from_secs(5),
            send: SendMarks { high_water_bytes: queue, low_water_bytes: queue, queue_max_bytes: queue },
            pause_reading_under_pressure: false,
            ..Limits::default()
        }
    }
}

/// Loads a chat and reports.
pub(crate) fn run(options: &BenchFanout) -> Outcome {
    let plan = Plan::new(options)?;
    let loading = &options.loading;
    let connections = plan.members + plan.publishers;
    let server = chat_server(loading, connections, plan.under_way());
    let addresses = std::slice::from_ref(&options.addr);
    Spawned::with(loading.spawn.then_some(server), addresses, |addresses, _| {
        let tracks = Arc::new(Tracks::new(plan.publishers, plan.window, plan.threads.min(plan.members)));
        let run = Run {
            loading,
            addresses: &addresses[..1],
            connections,
            manual: false,
            limits: plan.limits(),
            warmup: options.times.warmup,
            duration: options.times.duration,
            flush: true,
            unit: Unit { name: "deliveries", bytes: plan.size },
            server: "anyport serve chat",
            time_is_up: &mut || {},
        };
        let pattern = Arc::new(Pattern::new(plan.size, true));
        // What comes is longer by a name than what was sent, and a chat has more to say.
        let codec = Lines::new(plan.size + 1024);
        let (of_loaders, of_main) = (Arc::clone(&tracks), tracks);
        let make =
            move |station| FanoutLoader::new(station, plan, Arc::clone(&pattern), Arc::clone(&of_loaders));
        let ended = monitor::run_knowing(run, &codec, make, |remotes| of_main.connect(&remotes[0]))?;
        tell(ended.map(|ended| FannedOut { plan, ended }).as_ref(), loading.json)
    })
}
