//! What a run is to do: the options, checked against each other.

use std::time::Duration;

use anyport::{Limits, SendMarks};

use crate::{
    args::{BenchEcho, CodecName},
    exit::{Failure, Outcome},
};

/// Most bytes in flight over all connections: they are in the memory of both sides.
const IN_FLIGHT_BYTES_MAX: u64 = 512 << 20;
/// Most messages in flight over all connections.
const IN_FLIGHT_MESSAGES_MAX: u64 = 4 << 20;
/// Messages in flight that an open loop allows on one connection, if bytes allow it; what is due beyond waits.
const OPEN_WINDOW_MAX: u64 = 1024;
/// Bytes that a header or line end adds to a message at most.
const FRAMING_BYTES: u64 = 4;

/// When messages leave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pace {
    /// When one came back.
    Closed { depth: u64 },
    /// At this rate over all connections.
    Open { rate: u64 },
}

/// What every shard of the loader is told.
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
        let BenchEcho { connections, size, depth, rate, threads, warmup, duration, .. } = *options;
        let codec = options.common.codec;
        if codec == CodecName::SizeKind && size + FRAMING_BYTES > u64::from(u16::MAX) {
            return usage(format!("--size {size} does not fit --codec size-kind: at most 65531"));
        }
        if threads > connections {
            return usage(format!("--threads {threads} is more than --connections {connections}"));
        }
        let each_message = connections * (size + FRAMING_BYTES);
        let (pace, window) = match rate {
            Some(rate) => {
                let room = IN_FLIGHT_BYTES_MAX / each_message;
                (
                    Pace::Open { rate },
                    room.min(IN_FLIGHT_MESSAGES_MAX / connections).clamp(1, OPEN_WINDOW_MAX),
                )
            }
            None => (Pace::Closed { depth }, depth),
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

    /// Limits of the loader: all that may be in flight fits the send queue, and reading never pauses, because
    /// the server stops reading while its own answers are not taken. Twice over, because what was sent together
    /// leaves the queue together: its first messages may be answered, and replaced, before its last byte is taken.
    pub(crate) fn limits(&self) -> Limits {
        let queue = 2 * (self.window * (self.size as u64 + FRAMING_BYTES)) as usize;
        Limits {
            drain_deadline: Duration::from_secs(5),
            send: SendMarks { high_water_bytes: queue, low_water_bytes: queue, queue_max_bytes: queue },
            pause_reading_under_pressure: false,
            ..Limits::default()
        }
    }

    /// Largest frame that the server must take.
    pub(crate) fn frame_size(&self) -> usize {
        match self.codec {
            CodecName::Raw => self.size,
            CodecName::Lines => self.size + 1,
            CodecName::SizeKind => self.size + 4,
        }
    }

    /// When measuring ends, from the start of the run.
    pub(crate) fn end(&self) -> Duration {
        self.warmup + self.duration
    }
}

fn usage<T>(text: String) -> Outcome<T> {
    Err(Failure::Usage(text))
}
