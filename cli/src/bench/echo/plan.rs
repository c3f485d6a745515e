//! What a run is to do: the options, checked against each other.

use std::time::Duration;

use anyport::Limits;

use crate::{
    args::{BenchEcho, CodecName, Think, Times},
    bench::{
        FRAMING_BYTES,
        crew::{Seat, nanos},
        limits,
        schedule::{Schedule, Share, Thinking, Timetable},
    },
    exit::{Failure, Outcome},
};

/// Most bytes in flight over all connections: they are in the memory of both sides.
const IN_FLIGHT_BYTES_MAX: u64 = 512 << 20;
/// Most messages in flight over all connections.
const IN_FLIGHT_MESSAGES_MAX: u64 = 4 << 20;
/// Messages in flight that an open loop allows on one connection, if bytes allow it; what is due beyond waits.
const OPEN_WINDOW_MAX: u64 = 1024;

/// When messages leave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pace {
    /// When one came back.
    Closed { depth: u64 },
    /// At this rate over all connections.
    Open { rate: u64 },
    /// At random times on each connection.
    Think { think: Think, seed: u64 },
}

impl Pace {
    /// True if messages are due whether answers come or not.
    pub(crate) fn is_open(self) -> bool {
        !matches!(self, Self::Closed { .. })
    }
}

/// What every loader is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) codec: CodecName,
    pub(crate) connections: u64,
    pub(crate) threads: u64,
    pub(crate) size: usize,
    pub(crate) pace: Pace,
    /// Messages that a connection has in flight at most.
    pub(crate) window: u64,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
}

impl Plan {
    /// Checks what depends on more than one option.
    pub(crate) fn new(options: &BenchEcho) -> Outcome<Self> {
        let BenchEcho { connections, size, depth, rate, think, seed, codec, .. } = *options;
        let Times { warmup, duration } = options.times;
        let threads = options.loading.threads;
        codec.check_size(size)?;
        if threads > connections {
            return usage(format!("--threads {threads} is more than --connections {connections}"));
        }
        let each_message = connections * (size + FRAMING_BYTES);
        let pace = match (rate, think) {
            (Some(rate), _) => Pace::Open { rate },
            (_, Some(think)) => Pace::Think { think, seed },
            _ => Pace::Closed { depth },
        };
        let window = match pace {
            Pace::Closed { depth } => depth,
            Pace::Open { .. } | Pace::Think { .. } => {
                let room = IN_FLIGHT_BYTES_MAX / each_message;
                room.min(IN_FLIGHT_MESSAGES_MAX / connections).clamp(1, OPEN_WINDOW_MAX)
            }
        };
        if window * each_message > IN_FLIGHT_BYTES_MAX {
            return usage(format!(
                "{connections} connections of {window} messages of {size} bytes are more than 512 MiB in flight: \
                 choose fewer"
            ));
        }
        if window * connections > IN_FLIGHT_MESSAGES_MAX {
            return usage(format!(
                "{connections} connections of {window} messages are more than {IN_FLIGHT_MESSAGES_MAX} in \
                 flight: choose fewer"
            ));
        }
        let size = size as usize;
        Ok(Self { codec, connections, threads, size, pace, window, warmup, duration })
    }

    /// Limits of the loader.
    pub(crate) fn limits(&self) -> Limits {
        limits(self.window, self.size)
    }

    /// Largest frame that the server must take.
    pub(crate) fn frame_size(&self) -> usize {
        self.codec.frame_size(self.size)
    }

    /// When the messages of a loader are due, unless each leaves when another came back.
    pub(crate) fn schedule(&self, seat: Seat, connections: u64) -> Option<Schedule> {
        match self.pace {
            Pace::Closed { .. } => None,
            Pace::Open { rate } => {
                let share = Share { seat, connections, connections_total: self.connections };
                Some(Schedule::Even(Timetable::new(rate, share)))
            }
            Pace::Think { think, seed } => {
                let names = (0..connections).map(|number| seat.global(number));
                Some(Schedule::Thinking(Thinking::new(nanos(think.min), nanos(think.max), seed, names)))
            }
        }
    }
}

fn usage<T>(text: String) -> Outcome<T> {
    Err(Failure::Usage(text))
}
