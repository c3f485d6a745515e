//! What a service allows. Every limit has a default, a unit in its name, and a [`CloseReason`] or an error
//! that names it.
//!
//! [`CloseReason`]: crate::CloseReason

use std::{fmt, time::Duration};

/// Marks of a session's send queue, in bytes. Bytes count from the moment they are queued; what is in flight
/// counts whole until the system has taken the last of it. A session that keeps W bytes under way all the time
/// therefore needs marks of up to 2 W.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendMarks {
    /// Above this a session is under pressure: `send` answers `High`, reading pauses (see
    /// [`Limits::pause_reading_under_pressure`]). Default 128 KiB.
    pub high_water_bytes: usize,
    /// At or below this the pressure is over. Default 64 KiB.
    pub low_water_bytes: usize,
    /// A message that would raise the queue above this closes the session with `SendQueueFull`. Default 1 MiB.
    pub queue_max_bytes: usize,
}

impl Default for SendMarks {
    fn default() -> Self {
        Self { high_water_bytes: 128 << 10, low_water_bytes: 64 << 10, queue_max_bytes: 1 << 20 }
    }
}

/// What one service allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most sessions of the service, over all shards. One more is accepted and closed at once, and counted
    /// (`AtCapacity`). Range 1 to 1,048,576. Default 100,000.
    pub sessions_max: usize,
    /// A session from which nothing arrives for this long is closed (`IdleTimeout`); its own sends do not
    /// count, and while it is paused or under pressure nothing arrives. `None` never closes; dead peers are then
    /// found by TCP keep-alive. Default `None`.
    pub idle_timeout: Option<Duration>,
    /// How long opening a connection of a client may take; after that it is given up as `TimedOut`. Above zero.
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// How long a draining session may take until all that was queued is sent (`DrainDeadline`). Default 10 s.
    pub drain_deadline: Duration,
    /// How long a drained session waits for the peer's end of stream after its own. A close before it could
    /// cost the peer the last bytes, if it still sends. Default 1 s.
    pub linger: Duration,
    /// Marks of each session's send queue.
    pub send: SendMarks,
    /// Most bytes that the send queues of all sessions of the service may hold together, from 64 KiB. When they are used
    /// up, the sessions that read least are closed (`SendBudget`) in favour of the others. `None`: only the queue of each
    /// is limited. Default `None`.
    pub service_queue_max_bytes: Option<usize>,
    /// Stop reading from a session while its send queue is above `high_water_bytes`, so that a peer that
    /// asks faster than it reads slows itself down. Default true.
    pub pause_reading_under_pressure: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            idle_timeout: None,
            connect_timeout: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            send: SendMarks::default(),
            service_queue_max_bytes: None,
            pause_reading_under_pressure: true,
        }
    }
}

impl Limits {
    /// Least budget of bytes for the send queues of a service, or of an engine.
    pub const SEND_BUDGET_MIN_BYTES: usize = 64 << 10;

    /// Checks ranges and the order of the marks.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        let SendMarks { high_water_bytes, low_water_bytes, queue_max_bytes } = self.send;
        if !(1..=1 << 20).contains(&self.sessions_max) {
            return Err(InvalidLimit {
                limit: "sessions_max",
                rule: "must be from 1 to 1048576",
                value: self.sessions_max,
            });
        }
        if queue_max_bytes == 0 || queue_max_bytes > 1 << 30 {
            return Err(InvalidLimit {
                limit: "queue_max_bytes",
                rule: "must be from 1 to 1073741824",
                value: queue_max_bytes,
            });
        }
        if high_water_bytes > queue_max_bytes {
            return Err(InvalidLimit {
                limit: "high_water_bytes",
                rule: "must not exceed queue_max_bytes",
                value: high_water_bytes,
            });
        }
        if low_water_bytes > high_water_bytes {
            return Err(InvalidLimit {
                limit: "low_water_bytes",
                rule: "must not exceed high_water_bytes",
                value: low_water_bytes,
            });
        }
        if let Some(bytes) = self.service_queue_max_bytes
            && bytes < Self::SEND_BUDGET_MIN_BYTES
        {
            return Err(InvalidLimit {
                limit: "service_queue_max_bytes",
                rule: "must be at least 65536 (None turns it off)",
                value: bytes,
            });
        }
        if self.connect_timeout.is_zero() {
            return Err(InvalidLimit { limit: "connect_timeout", rule: "must be above zero", value: 0 });
        }
        if self.idle_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(InvalidLimit {
                limit: "idle_timeout",
                rule: "must be above zero (None turns it off)",
                value: 0,
            });
        }
        Ok(())
    }
}

/// A limit outside its range: which, the rule, and the value seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidLimit {
    /// Field of [`Limits`].
    pub limit: &'static str,
    /// What it must be.
    pub rule: &'static str,
    /// What it was.
    pub value: usize,
}

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {} {}, but is {}", self.limit, self.rule, self.value)
    }
}

impl std::error::Error for InvalidLimit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_wrong_orders_are_named() {
        Limits::default().validate().unwrap();
        let send = SendMarks { high_water_bytes: 10, low_water_bytes: 11, queue_max_bytes: 12 };
        let error = Limits { send, ..Limits::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "limit low_water_bytes must not exceed high_water_bytes, but is 11");
        assert_eq!(
            Limits { sessions_max: 0, ..Limits::default() }.validate().unwrap_err().limit,
            "sessions_max"
        );
        let idle_timeout = Some(Duration::ZERO);
        assert_eq!(
            Limits { idle_timeout, ..Limits::default() }.validate().unwrap_err().limit,
            "idle_timeout"
        );
    }
}
