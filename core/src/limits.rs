//! What a service allows. Every limit has a default, a unit in its name, and a [`CloseReason`] or an error
//! that names it.
//!
//! [`CloseReason`]: crate::CloseReason

use std::{fmt, ops::RangeInclusive, time::Duration};

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

/// The least that a peer must send while one of its frames has begun and is not whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveRate {
    /// Bytes a second, on average over a window. Range from 1.
    pub bytes_per_second: u32,
    /// How long the average is taken over. Range 1 ms to 1 h.
    pub window: Duration,
}

/// The most that the peer of one session may send in a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Frames a second. Range from 1; `None`, the default, is no limit.
    pub messages_per_second: Option<u32>,
    /// Bytes a second, as they come from the network. Range from 1; `None`, the default, is no limit.
    pub bytes_per_second: Option<u32>,
    /// What may come at once after a silence: as much as the rate allows in this time, and one message at least.
    /// Range 1 ms to 1 h. Default 1 s.
    pub burst: Duration,
    /// What happens to a session whose peer sends more. Default [`PauseReading`](OnExcess::PauseReading).
    pub on_excess: OnExcess,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            messages_per_second: None,
            bytes_per_second: None,
            burst: Duration::from_secs(1),
            on_excess: OnExcess::PauseReading,
        }
    }
}

impl Rates {
    /// True if there is one to keep.
    pub fn are_set(&self) -> bool {
        self.messages_per_second.is_some() || self.bytes_per_second.is_some()
    }
}

/// What happens to a session whose peer sends more than [`Rates`] allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExcess {
    /// It is not read from until the rate allows it again, so that TCP slows the peer down. Nothing is lost, order is
    /// kept; counted as `rate_pauses`.
    PauseReading,
    /// It is closed (`RateExceeded`).
    Close,
}

/// What one service allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most sessions of the service, over all shards. One more is accepted and closed at once, and counted
    /// (`AtCapacity`). Range 1 to 1,048,576. Default 100,000.
    pub sessions_max: usize,
    /// Most sessions from one address, over all shards; an IPv6 address is its /64, which one customer of a provider has
    /// to himself. One more is accepted and closed at once (`TooManyFromAddress`). Range from 1. `None`, the default, is
    /// no limit.
    pub sessions_per_address_max: Option<usize>,
    /// Most sessions from one network, over all shards: a /24 of IPv4, a /48 of IPv6. One more is accepted and closed at
    /// once (`TooManyFromPrefix`). Range from 1. `None`, the default, is no limit.
    pub sessions_per_prefix_max: Option<usize>,
    /// Most connections that become sessions in a second, over all shards. What comes faster is accepted and closed at
    /// once (`AcceptRate`). Range from 1. `None`, the default, is no limit.
    pub accepts_per_second: Option<u32>,
    /// Connections that may come at once when none came before, for `accepts_per_second`. Range from 1. Default 256.
    pub accepts_burst: u32,
    /// A session from which nothing arrives for this long is closed (`IdleTimeout`); its own sends do not count. The
    /// time stands while we do not read by our own choice (it is paused by the handler, or by `rates`), and begins anew
    /// when we read again. A session that is not read from because its peer does not read (pressure) is idle when
    /// no send of it was finished for this long. `None`, the default, never closes; dead peers are then found by TCP
    /// keep-alive.
    pub idle_timeout: Option<Duration>,
    /// How long opening a connection of a client may take; after that it is given up as `TimedOut`. Above zero.
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// A session whose first frame is not whole within this time of the open is closed (`HandshakeTimeout`), whatever
    /// has arrived of it. The time stands while we do not read. `None`, the default, never closes.
    pub handshake_timeout: Option<Duration>,
    /// A session is closed (`FrameTimeout`) when one of its frames is not whole within this time of its first byte,
    /// however steadily its bytes come: what a peer can hold back is bounded. The time stands while we do not read.
    /// `None`, the default, never closes.
    pub frame_timeout: Option<Duration>,
    /// A session is closed (`TooSlow`) when less than this came in a whole window in which one frame was not yet whole.
    /// For large frames, whose `frame_timeout` has to be long. The time stands while we do not read. `None`, the
    /// default, never closes.
    pub receive_rate_min: Option<ReceiveRate>,
    /// The most that one peer may send in a time.
    pub rates: Rates,
    /// Frames of one session that the handler is given in one turn; what is over waits for the next turn, counted as
    /// `held_back`, so that one session that floods does not keep the others waiting. Range 1 to 65,535. Default 1,024.
    pub turn_frames_max: usize,
    /// Bytes of one session that are decoded in one turn; what is over waits for the next turn, as with
    /// `turn_frames_max`. Range 1 to 1 GiB. Default 256 KiB.
    pub turn_bytes_max: usize,
    /// How long sessions go on when the engine is to end, after they were told (`Handler::on_session_drain`) and before
    /// they drain. Default zero: they drain in the turn in which they are told.
    pub drain_grace: Duration,
    /// How long a draining session may take until all that was queued is sent (`DrainDeadline`). Default 10 s.
    pub drain_deadline: Duration,
    /// How long a drained session waits for the peer's end of stream after its own. A close before it could
    /// cost the peer the last bytes, if it still sends. Default 1 s.
    pub linger: Duration,
    /// Marks of each session's send queue.
    pub send: SendMarks,
    /// Most bytes that the send queues of all sessions of the service may hold together, from 64 KiB. When they are used
    /// up, those sessions of the shard that needs room are closed (`SendBudget`) that read least, in favour of its others.
    /// `None`: only the queue of each is limited. Default `None`.
    pub service_queue_max_bytes: Option<usize>,
    /// Most jobs that wait for a shard, in its mailbox of this service. What is posted beyond waits for room or is
    /// refused (`PostError::Full`), and counted. Range 1 to 16,777,216. Default 65,536.
    pub mailbox_max_jobs: usize,
    /// How many of the sessions that ended last each shard remembers, for whoever looks. 120 bytes each. At most
    /// 65,536. Default 64.
    pub recent_closed_max: usize,
    /// Stop reading from a session while its send queue is above `high_water_bytes`, so that a peer that
    /// asks faster than it reads slows itself down. Default true.
    pub pause_reading_under_pressure: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            sessions_per_address_max: None,
            sessions_per_prefix_max: None,
            accepts_per_second: None,
            accepts_burst: 256,
            idle_timeout: None,
            connect_timeout: Duration::from_secs(10),
            handshake_timeout: None,
            frame_timeout: None,
            receive_rate_min: None,
            rates: Rates::default(),
            turn_frames_max: 1_024,
            turn_bytes_max: 256 << 10,
            drain_grace: Duration::ZERO,
            drain_deadline: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            send: SendMarks::default(),
            service_queue_max_bytes: None,
            mailbox_max_jobs: 65_536,
            recent_closed_max: 64,
            pause_reading_under_pressure: true,
        }
    }
}

impl Limits {
    /// Least budget of bytes for the send queues of a service, or of an engine.
    pub const SEND_BUDGET_MIN_BYTES: usize = 64 << 10;

    /// Checks ranges and the order of the marks.
    ///
    /// # Errors
    /// Names the first limit outside its range, the range, and the value seen.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        let SendMarks { high_water_bytes, low_water_bytes, queue_max_bytes } = self.send;
        within("sessions_max", "must be from 1 to 1048576", self.sessions_max, 1..=1 << 20)?;
        within("queue_max_bytes", "must be from 1 to 1073741824", queue_max_bytes, 1..=1 << 30)?;
        within("high_water_bytes", "must not exceed queue_max_bytes", high_water_bytes, 0..=queue_max_bytes)?;
        within("low_water_bytes", "must not exceed high_water_bytes", low_water_bytes, 0..=high_water_bytes)?;
        within(
            "turn_frames_max",
            "must be from 1 to 65535",
            self.turn_frames_max,
            1..=usize::from(u16::MAX),
        )?;
        within("turn_bytes_max", "must be from 1 to 1073741824", self.turn_bytes_max, 1..=1 << 30)?;
        for (limit, timeout) in [
            ("idle_timeout", self.idle_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("frame_timeout", self.frame_timeout),
        ] {
            let zero = timeout.is_some_and(|timeout| timeout.is_zero());
            within(limit, "must be above zero (None turns it off)", usize::from(!zero), 1..=1)?;
        }
        within("mailbox_max_jobs", "must be from 1 to 16777216", self.mailbox_max_jobs, 1..=1 << 24)?;
        within("recent_closed_max", "must not exceed 65536", self.recent_closed_max, 0..=1 << 16)?;
        self.validate_counts()?;
        if let Some(rate) = self.receive_rate_min {
            period("receive_rate_min.window", rate.window)?;
        }
        let budget = self.service_queue_max_bytes.unwrap_or(Self::SEND_BUDGET_MIN_BYTES);
        let least = Self::SEND_BUDGET_MIN_BYTES..=usize::MAX;
        within("service_queue_max_bytes", "must be at least 65536 (None turns it off)", budget, least)?;
        let connects = usize::from(!self.connect_timeout.is_zero());
        within("connect_timeout", "must be above zero", connects, 1..=1)?;
        period("rates.burst", self.rates.burst)
    }

    /// What must be one at least, where it is set.
    fn validate_counts(&self) -> Result<(), InvalidLimit> {
        let number = |count: Option<u32>| count.map(|count| count as usize);
        let slowest = self.receive_rate_min.map(|rate| rate.bytes_per_second);
        for (limit, count) in [
            ("sessions_per_address_max", self.sessions_per_address_max),
            ("sessions_per_prefix_max", self.sessions_per_prefix_max),
            ("accepts_per_second", number(self.accepts_per_second)),
            ("receive_rate_min.bytes_per_second", number(slowest)),
            ("rates.messages_per_second", number(self.rates.messages_per_second)),
            ("rates.bytes_per_second", number(self.rates.bytes_per_second)),
        ] {
            within(limit, "must be at least 1 (None turns it off)", count.unwrap_or(1), 1..=usize::MAX)?;
        }
        within("accepts_burst", "must be at least 1", self.accepts_burst as usize, 1..=usize::MAX)
    }
}

fn within(
    limit: &'static str,
    rule: &'static str,
    value: usize,
    range: RangeInclusive<usize>,
) -> Result<(), InvalidLimit> {
    if range.contains(&value) { Ok(()) } else { Err(InvalidLimit { limit, rule, value }) }
}

/// A time, in ms, that something is averaged or saved up over.
fn period(limit: &'static str, time: Duration) -> Result<(), InvalidLimit> {
    let milliseconds = usize::try_from(time.as_millis()).unwrap_or(usize::MAX);
    within(limit, "must be from 1 to 3600000 ms", milliseconds, 1..=3_600_000)
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
    #[test]
    fn every_limit_has_a_range_and_names_the_value_seen() {
        let default = Limits::default();
        let rates = Rates { burst: Duration::from_micros(1), ..Rates::default() };
        let slow = |bytes_per_second, window| Some(ReceiveRate { bytes_per_second, window });
        for (limits, text) in [
            (
                Limits { turn_frames_max: 70_000, ..default },
                "limit turn_frames_max must be from 1 to 65535, but is 70000",
            ),
            (
                Limits { turn_bytes_max: 0, ..default },
                "limit turn_bytes_max must be from 1 to 1073741824, but is 0",
            ),
            (
                Limits { handshake_timeout: Some(Duration::ZERO), ..default },
                "limit handshake_timeout must be above zero (None turns it off), but is 0",
            ),
            (
                Limits { frame_timeout: Some(Duration::ZERO), ..default },
                "limit frame_timeout must be above zero (None turns it off), but is 0",
            ),
            (
                Limits { sessions_per_address_max: Some(0), ..default },
                "limit sessions_per_address_max must be at least 1 (None turns it off), but is 0",
            ),
            (
                Limits { sessions_per_prefix_max: Some(0), ..default },
                "limit sessions_per_prefix_max must be at least 1 (None turns it off), but is 0",
            ),
            (
                Limits { accepts_per_second: Some(0), ..default },
                "limit accepts_per_second must be at least 1 (None turns it off), but is 0",
            ),
            (Limits { accepts_burst: 0, ..default }, "limit accepts_burst must be at least 1, but is 0"),
            (
                Limits { receive_rate_min: slow(0, Duration::from_secs(1)), ..default },
                "limit receive_rate_min.bytes_per_second must be at least 1 (None turns it off), but is 0",
            ),
            (
                Limits { receive_rate_min: slow(1, Duration::from_hours(2)), ..default },
                "limit receive_rate_min.window must be from 1 to 3600000 ms, but is 7200000",
            ),
            (
                Limits { rates: Rates { messages_per_second: Some(0), ..Rates::default() }, ..default },
                "limit rates.messages_per_second must be at least 1 (None turns it off), but is 0",
            ),
            (
                Limits { rates: Rates { bytes_per_second: Some(0), ..Rates::default() }, ..default },
                "limit rates.bytes_per_second must be at least 1 (None turns it off), but is 0",
            ),
            (Limits { rates, ..default }, "limit rates.burst must be from 1 to 3600000 ms, but is 0"),
        ] {
            assert_eq!(limits.validate().unwrap_err().to_string(), text);
        }
    }
}
