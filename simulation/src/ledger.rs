//! What is known of every session from the outside: the oracle. The handler writes down what it was told and what
//! it asked for, the world writes down what the peers did; whatever contradicts that is a failure.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyport::{CloseReason, SessionId};

/// How late a timer may be when no time was lost: the tick of the engine's wheel, and one more.
const TIMER_SLACK: Duration = Duration::from_micros(140);

/// What is known of one session.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: SessionId,
    pub(crate) address: SocketAddr,
    /// Messages that the handler was given (bytes, where the codec has no frames).
    pub(crate) received: u64,
    /// Bytes of what `send` took, as they lie on the wire.
    pub(crate) sent_bytes: u64,
    /// Messages that `send` took.
    pub(crate) sent: u64,
    /// When the handler was last given something.
    pub(crate) received_at: Instant,
    /// The label of the stream that comes in, once its first message has.
    pub(crate) incoming: Option<u64>,
    /// The one reason that may be reported, because it was given while the session was open.
    pub(crate) exact: Option<CloseReason>,
    /// Reasons that the peer has given so far.
    pub(crate) possible: Vec<CloseReason>,
    pub(crate) closed: Option<CloseReason>,
    /// When that was, as the shards have the time.
    pub(crate) closed_at: Duration,
    pub(crate) paused: bool,
    /// It did not always take what came: something was given to it later than it arrived.
    pub(crate) held_back: bool,
    pub(crate) told_high: bool,
    /// The handler closed it: what was queued need not arrive.
    pub(crate) cut: bool,
    /// The handler asked for its end: no frame comes any more.
    pub(crate) ending: bool,
}

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) records: Vec<Record>,
    by_id: HashMap<u64, usize>,
    /// Sessions of the server: a client's all have the same address.
    by_address: HashMap<SocketAddr, usize>,
    caused_at: HashMap<SocketAddr, Vec<CloseReason>>,
    /// Which number the connection has whose peer has this address.
    pub(crate) connections: HashMap<SocketAddr, u64>,
    /// The first thing that was wrong.
    pub(crate) failure: Option<String>,
    /// Sessions of each service that opened and have not closed.
    pub(crate) open: [usize; 2],
    pub(crate) connect_failed: u64,
    /// Faults are off, and the handler only answers.
    pub(crate) calm: bool,
    /// The engine was told to drain, or to abort.
    pub(crate) stopping: Option<CloseReason>,
    /// The last time in which no shard had a turn.
    pub(crate) stalled: Option<(Instant, Instant)>,
    /// All such times together.
    asleep: Duration,
    /// The last job of each shard, of those that are posted in order.
    pub(crate) job_of_shard: Vec<u64>,
    pub(crate) jobs_run: u64,
    /// Sessions that nobody told to end, and whose reason nobody has looked at.
    pub(crate) ended_by_itself: Vec<usize>,
    /// A rule that is wrong holds as well: it must be reported as broken.
    pub(crate) canary: bool,
    /// What happened, for a reader; only when somebody will read it.
    pub(crate) story: Option<Vec<String>>,
    pub(crate) start: Instant,
}

impl Ledger {
    pub(crate) fn new(start: Instant, shards: usize, tells: bool) -> Self {
        Self {
            records: Vec::new(),
            by_id: HashMap::new(),
            by_address: HashMap::new(),
            caused_at: HashMap::new(),
            connections: HashMap::new(),
            failure: None,
            open: [0; 2],
            connect_failed: 0,
            calm: false,
            stopping: None,
            stalled: None,
            asleep: Duration::ZERO,
            job_of_shard: vec![0; shards],
            jobs_run: 0,
            ended_by_itself: Vec::new(),
            canary: false,
            story: tells.then(Vec::new),
            start,
        }
    }

    /// Notes a breach; the first one counts.
    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(what());
        }
    }

    pub(crate) fn ensure(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what);
        }
    }

    /// Adds a line to the story.
    pub(crate) fn tell(&mut self, now: Instant, line: impl FnOnce() -> String) {
        let at = now.saturating_duration_since(self.start);
        if let Some(story) = &mut self.story {
            story.push(format!("{:>14.6} s  {}", at.as_secs_f64(), line()));
        }
    }

    // ---- what a handler is told ----

    pub(crate) fn opened(&mut self, id: SessionId, address: SocketAddr, now: Instant) -> usize {
        let at = self.records.len();
        self.tell(now, || format!("session {id} with {address} opens"));
        let known = self.by_id.insert(id.bits(), at);
        self.ensure(known.is_none(), || format!("session {id} opened, and another had that id"));
        if id.service() == 0 {
            self.by_address.insert(address, at);
        }
        self.open[id.service() as usize] += 1;
        self.records.push(Record {
            id,
            address,
            received: 0,
            sent_bytes: 0,
            sent: 0,
            received_at: now,
            incoming: None,
            exact: None,
            possible: Vec::new(),
            closed: None,
            closed_at: Duration::ZERO,
            paused: false,
            held_back: false,
            told_high: false,
            ending: false,
            cut: false,
        });
        at
    }

    /// True if the handler may be given something of the session now.
    pub(crate) fn may_hear(&mut self, at: usize, what: &str) {
        let record = &self.records[at];
        let (id, closed, ending, paused) = (record.id, record.closed, record.ending, record.paused);
        self.ensure(closed.is_none(), || format!("session {id} was given {what} after its end"));
        let frame = what == "a frame";
        self.ensure(!(frame && ending), || {
            format!("session {id} was given {what} after the handler ended it")
        });
        self.ensure(!(frame && paused), || format!("session {id} was given {what} while it was paused"));
    }

    pub(crate) fn closed(&mut self, at: Option<usize>, id: SessionId, reason: CloseReason, now: Instant) {
        self.tell(now, || format!("session {id} ends: {reason}"));
        let Some(at) = at else {
            return self.fail(|| format!("session {id} ended without having opened"));
        };
        let awake = self.awake(now);
        let record = &mut self.records[at];
        let before = record.closed.replace(reason);
        record.closed_at = awake;
        let (exact, idle) = (record.exact, now.saturating_duration_since(record.received_at));
        let caused = self.has_cause(at, reason);
        let half_closed = self.has_cause(at, CloseReason::PeerClosed);
        let open = &mut self.open[id.service() as usize];
        *open = open.saturating_sub(1);
        self.ensure(before.is_none(), || format!("session {id} ended twice: {before:?}, then {reason:?}"));
        if self.canary && reason == CloseReason::PeerClosed {
            let paused = self.records.iter().filter(|other| other.closed.is_none() && other.paused).count();
            self.ensure(paused == 0, || {
                format!("session {id} was closed by its peer while {paused} others are paused (this is the canary)")
            });
        }
        match (exact, reason) {
            // A drain that takes too long ends by its deadline, whoever asked for it.
            (Some(CloseReason::Drained), CloseReason::DrainDeadline) => {}
            // An abort cuts it short.
            (Some(CloseReason::Drained), CloseReason::Stopped)
                if self.stopping == Some(CloseReason::Stopped) => {}
            (Some(exact), _) => self.ensure(exact == reason, || {
                format!("session {id} ended as {reason:?}, but was told {exact:?} while it was open")
            }),
            (None, CloseReason::IdleTimeout) => {
                self.tell(now, || format!("session {id} had been idle for {idle:?}"));
                self.ended_by_itself.push(at);
            }
            // The world asks the network whether it did that.
            (
                None,
                CloseReason::PeerReset
                | CloseReason::PeerTimedOut
                | CloseReason::ReceiveFailed(_)
                | CloseReason::SendFailed(_),
            ) => {
                self.ended_by_itself.push(at);
            }
            (None, CloseReason::DrainDeadline) if half_closed => {}
            (None, CloseReason::Drained | CloseReason::DrainDeadline | CloseReason::Stopped)
                if self.stopping.is_some() => {}
            (None, _) => {
                self.ensure(caused, || format!("session {id} ended as {reason:?}, and nothing caused that"));
            }
        }
    }

    /// A reason that was given while the session was open, as its end.
    pub(crate) fn ended_by_us(&mut self, at: usize, reason: CloseReason, was_open: bool) {
        let record = &mut self.records[at];
        record.cut |= reason != CloseReason::Drained;
        record.ending = true;
        if was_open {
            record.exact.get_or_insert(reason);
        }
    }

    // ---- what peers do ----

    /// A reason that a peer at `address` has given; `session` is the one at its other end, if it knows it.
    pub(crate) fn caused_by_peer(&mut self, address: SocketAddr, session: Option<u64>, reason: CloseReason) {
        match session.and_then(|bits| self.by_id.get(&bits)) {
            Some(&at) => self.records[at].possible.push(reason),
            // Its session may not even have opened.
            None => self.caused_at.entry(address).or_default().push(reason),
        }
    }

    pub(crate) fn has_cause(&self, at: usize, reason: CloseReason) -> bool {
        let record = &self.records[at];
        let before = self.caused_at.get(&record.address).is_some_and(|reasons| reasons.contains(&reason));
        before || record.possible.contains(&reason)
    }

    /// The session at the other end of a peer.
    pub(crate) fn record_of(&self, address: SocketAddr, session: Option<u64>) -> Option<usize> {
        match session {
            Some(bits) => self.by_id.get(&bits).copied(),
            None => self.by_address.get(&address).copied(),
        }
    }

    // ---- time ----

    /// The time as the shards have it: without what they could have no turn in.
    pub(crate) fn awake(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start).saturating_sub(self.asleep)
    }

    /// No shard had a turn from `from` to `to`.
    pub(crate) fn stall(&mut self, from: Instant, to: Instant) {
        self.asleep += to.saturating_duration_since(from);
        // Stalls that follow each other without a turn between them are one.
        let from = match self.stalled {
            Some((first, last)) if last == from => first,
            _ => from,
        };
        self.stalled = Some((from, to));
    }

    /// A timer that was due at `due` is told now.
    pub(crate) fn timer(&mut self, due: Instant, now: Instant) {
        self.ensure(now >= due, || {
            format!("a timer came {:?} too early", due.saturating_duration_since(now))
        });
        // Whoever has no turn cannot be in time.
        let free = match self.stalled {
            Some((from, to)) if due >= from.checked_sub(TIMER_SLACK).unwrap_or(from) && due <= to => to,
            _ => due,
        };
        let late = now.saturating_duration_since(free);
        self.ensure(late <= TIMER_SLACK, || format!("a timer came {late:?} too late"));
    }
}
