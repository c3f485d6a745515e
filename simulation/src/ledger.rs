//! What is known of every session from the outside: the oracle. The handler writes down what it was told and what
//! it asked for, the world writes down what the peers did; whatever contradicts that is a failure.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyport::{CloseReason, SessionId};

use crate::{handler::Next, world::OUTSIDE};

/// Groups of each service.
pub(crate) const GROUPS: usize = 3;

/// How late a timer may be when no time was lost: the tick of the engine's wheel, and one more.
const TIMER_SLACK: Duration = Duration::from_micros(140);

/// A stray that was sent to a session, and has not arrived.
#[derive(Debug)]
pub(crate) struct Stray {
    publisher: u16,
    number: u32,
    /// It may be lost.
    loose: bool,
    /// Messages of the session's own stream that were sent before it.
    after: u64,
}

/// Whom a stray was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience {
    /// Whoever is in a group, but one.
    Group { service: u8, group: usize, except: Option<SessionId> },
    /// One session.
    One(SessionId),
}

/// A timer of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alarm {
    pub(crate) due: Instant,
    /// It repeats.
    pub(crate) every: Option<Duration>,
}

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
    /// What is to arrive besides its own stream, in order. Kept only on an engine of one shard, where the order of
    /// everything is known.
    pub(crate) strays: VecDeque<Stray>,
    /// Strays that may be lost and did not arrive when a later message did.
    pub(crate) lost: u64,
    /// What the engine says that it lost.
    pub(crate) losses: Option<u64>,
    /// Tokens that are to come back.
    pub(crate) tokens: VecDeque<u64>,
    pub(crate) alarms: HashMap<u16, Alarm>,
    pub(crate) groups: Vec<usize>,
    /// Groups that it was in at any time.
    groups_ever: HashSet<usize>,
    /// Results of work that are to come.
    pub(crate) results_due: u32,
    /// It was told that the engine ends.
    pub(crate) told_drain: bool,
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
    /// Members of each group of each service, wherever they live.
    members: [Vec<Vec<usize>>; 2],
    /// Of each service, whether the order of everything is known: there is one shard.
    pub(crate) ordered: [bool; 2],
    /// Whom each stray was for, by its publisher and number, where the order of everything is not known.
    published: HashMap<(u16, u32), Audience>,
    /// Strays were published to this service from outside: a queue may be full of them.
    pub(crate) published_outside: [bool; 2],
    /// Shards of the client that were told to wait no longer, and may not have heard of it.
    pub(crate) hurries_open: usize,
    /// The engine was told to end within a time: whatever is left then is closed.
    pub(crate) hurried: bool,
    /// Connections of the client that are to be opened again, by their number.
    again: HashMap<usize, Next>,
    /// Connections that are not opened again.
    given_up: HashSet<usize>,
    /// Connections that somebody asked for, and that have not opened.
    wanted: HashSet<u64>,
    wants: u64,
    /// No connection is opened again from now on.
    pub(crate) leaving: bool,
    /// A rule that is wrong holds as well: it must be reported as broken.
    pub(crate) canary: bool,
    /// What happened, for a reader; only when somebody will read it.
    pub(crate) story: Option<Vec<String>>,
    pub(crate) start: Instant,
}

impl Ledger {
    /// `shards` are those of each service.
    pub(crate) fn new(start: Instant, shards: [usize; 2], tells: bool) -> Self {
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
            job_of_shard: vec![0; shards[0]],
            jobs_run: 0,
            ended_by_itself: Vec::new(),
            members: std::array::from_fn(|_| vec![Vec::new(); GROUPS]),
            ordered: shards.map(|shards| shards == 1),
            published: HashMap::new(),
            published_outside: [false; 2],
            hurries_open: 0,
            hurried: false,
            again: HashMap::new(),
            given_up: HashSet::new(),
            wanted: HashSet::new(),
            wants: 0,
            leaving: false,
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
            strays: VecDeque::new(),
            lost: 0,
            losses: None,
            tokens: VecDeque::new(),
            alarms: HashMap::new(),
            groups: Vec::new(),
            groups_ever: HashSet::new(),
            results_due: 0,
            told_drain: false,
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
        let nobody_queues = self.leaving && reason == CloseReason::SendBudget;
        self.ensure(!nobody_queues, || format!("session {id} ended as {reason:?}, and every queue is empty"));
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
                if self.stopping == Some(CloseReason::Stopped) || self.hurried => {}
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

    // ---- strays: messages to groups, and such as may be lost ----

    pub(crate) fn joined(&mut self, at: usize, group: usize) {
        let record = &mut self.records[at];
        record.groups.push(group);
        record.groups_ever.insert(group);
        self.members[record.id.service() as usize][group].push(at);
    }

    pub(crate) fn left(&mut self, at: usize, group: usize) {
        let record = &mut self.records[at];
        record.groups.retain(|other| *other != group);
        self.members[record.id.service() as usize][group].retain(|other| *other != at);
    }

    /// The handler has been told the end of a session, which was in its groups until then.
    pub(crate) fn gone(&mut self, at: usize) {
        for group in self.records[at].groups.clone() {
            self.left(at, group);
        }
    }

    /// Members of a group, over all shards.
    pub(crate) fn members(&self, service: usize, group: usize) -> &[usize] {
        &self.members[service][group]
    }

    /// A stray was sent to a session.
    pub(crate) fn stray_sent(&mut self, at: usize, publisher: u16, number: u32, loose: bool) {
        let record = &mut self.records[at];
        if !loose {
            // It may be what its queue has no room for.
            record.possible.push(CloseReason::SendQueueFull);
        }
        if self.ordered[record.id.service() as usize] && record.closed.is_none() && !record.ending {
            record.strays.push_back(Stray { publisher, number, loose, after: record.sent });
        }
    }

    /// A stray is about to be sent.
    pub(crate) fn published(&mut self, publisher: u16, number: u32, audience: Audience) {
        let service = match audience {
            Audience::Group { service, .. } => service,
            Audience::One(id) => id.service(),
        };
        // When its job runs nobody knows.
        if !self.ordered[service as usize] || publisher & 0xff == OUTSIDE {
            self.published.insert((publisher, number), audience);
        }
    }

    /// Where no order is known: a stray was for the session to whose peer it came.
    fn look_at_audience(&self, at: usize, publisher: u16, number: u32) -> Result<(), String> {
        let Record { id, groups_ever, .. } = &self.records[at];
        let is_for = match self.published.get(&(publisher, number)) {
            Some(&Audience::Group { service, group, except }) => {
                service == id.service() && groups_ever.contains(&group) && except != Some(*id)
            }
            Some(Audience::One(one)) => one == id,
            None => false,
        };
        if is_for {
            Ok(())
        } else {
            let audience = self.published.get(&(publisher, number));
            Err(format!(
                "message {number} of publisher {publisher:04x} was not for session {id}, but for {audience:?}"
            ))
        }
    }

    /// A stray came to the peer of a session, behind `own` messages of the session's own stream.
    pub(crate) fn stray_arrived(
        &mut self,
        session: u64,
        publisher: u16,
        number: u32,
        own: u64,
    ) -> Result<(), String> {
        let Some(&at) = self.by_id.get(&session) else { return Ok(()) };
        let ordered = self.ordered[self.records[at].id.service() as usize];
        if !ordered || publisher & 0xff == OUTSIDE {
            return self.look_at_audience(at, publisher, number);
        }
        let record = &mut self.records[at];
        let id = record.id;
        while let Some(stray) = record.strays.pop_front() {
            if (stray.publisher, stray.number) == (publisher, number) {
                let after = stray.after;
                return if after == own {
                    Ok(())
                } else {
                    Err(format!(
                        "message {number} of publisher {publisher:04x} was for session {id} after {after} of its own, and \
                         came after {own}"
                    ))
                };
            }
            if !stray.loose {
                let missed = stray.number;
                return Err(format!(
                    "session {id} was sent message {number} of publisher {publisher:04x} and not {missed}"
                ));
            }
            record.lost += 1;
        }
        Err(format!("message {number} of publisher {publisher:04x} was not for session {id}"))
    }

    /// The peer of a session has `own` whole messages of the session's own stream.
    pub(crate) fn own_arrived(&mut self, session: u64, own: u64) -> Result<(), String> {
        let Some(&at) = self.by_id.get(&session) else { return Ok(()) };
        let record = &mut self.records[at];
        while record.strays.front().is_some_and(|stray| stray.after < own) {
            let stray = record.strays.pop_front().expect("it was just seen");
            if !stray.loose {
                let (id, Stray { publisher, number, after, .. }) = (record.id, stray);
                return Err(format!(
                    "message {number} of publisher {publisher:04x} was for session {id} after {after} of its own, and did \
                     not come before {own} of them"
                ));
            }
            record.lost += 1;
        }
        Ok(())
    }

    /// At rest: everything for an open session has arrived, and what did not was lost as the engine says.
    pub(crate) fn look_at_strays(&self, at: usize) -> Result<(), String> {
        let record = &self.records[at];
        let id = record.id;
        if let Some(stray) = record.strays.iter().find(|stray| !stray.loose) {
            let Stray { publisher, number, .. } = stray;
            return Err(format!(
                "message {number} of publisher {publisher:04x} did not come to session {id}"
            ));
        }
        let lost = record.lost + record.strays.len() as u64;
        match record.losses {
            Some(losses) if self.ordered[id.service() as usize] && losses != lost => {
                Err(format!("session {id} lost {lost} messages, and the engine says {losses}"))
            }
            _ => Ok(()),
        }
    }

    // ---- tokens and timers of sessions ----

    pub(crate) fn token_came(&mut self, at: usize, token: u64) {
        let record = &mut self.records[at];
        let (id, wanted) = (record.id, record.tokens.pop_front());
        self.ensure(wanted == Some(token), || {
            format!("session {id} was told that token {token} was sent, and {wanted:?} is next")
        });
    }

    pub(crate) fn alarm_came(&mut self, at: usize, timer: u16, now: Instant) {
        let record = &mut self.records[at];
        let (id, ending) = (record.id, record.ending || record.closed.is_some());
        let alarm = record.alarms.remove(&timer);
        if let Some(Alarm { due, every: Some(every) }) = alarm {
            // In step again, whatever was missed.
            let behind = now.saturating_duration_since(due).as_nanos() / every.as_nanos();
            let next = due + every * u32::try_from(behind + 1).unwrap_or(u32::MAX);
            record.alarms.insert(timer, Alarm { due: next, every: Some(every) });
        }
        self.ensure(!ending, || format!("timer {timer} of session {id} came after its end"));
        match alarm {
            Some(alarm) => self.timer(alarm.due, now),
            None => self.fail(|| format!("timer {timer} of session {id} came and was not set")),
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

    // ---- connections of the client ----

    /// Names a connection that somebody asks for.
    pub(crate) fn want(&mut self) -> u64 {
        self.wants += 1;
        self.wanted.insert(self.wants);
        self.wants
    }

    /// It has opened, or nobody asks for it any more. False if that was so before.
    pub(crate) fn unwant(&mut self, wanted: u64) -> bool {
        self.wanted.remove(&wanted)
    }

    /// A connection ended, or could not be opened: this follows. With nothing to follow it is given up, unless its
    /// number goes to another one.
    pub(crate) fn tries_again(&mut self, connection: usize, next: Option<Next>, is_manual: bool) {
        self.again.remove(&connection);
        self.given_up.remove(&connection);
        if let Some(next) = next {
            self.again.insert(connection, next);
        } else if !is_manual {
            self.given_up.insert(connection);
        }
    }

    /// A connection was tried, and opened or failed.
    pub(crate) fn tried_again(&mut self, connection: usize, now: Instant, how: &str) {
        let next = self.again.remove(&connection);
        let given_up = self.given_up.contains(&connection);
        self.ensure(!given_up, || format!("connection {connection} {how}, and was given up before"));
        if let Some(next) = next.filter(|_| self.hurries_open == 0) {
            self.ensure(now >= next.from, || {
                let early = next.from.saturating_duration_since(now);
                format!("connection {connection} {how} {early:?} before its wait was over")
            });
        }
    }

    /// The connections of one shard do not wait any more.
    pub(crate) fn hurried_connections(&mut self, shard: usize, shards: usize, now: Instant) {
        for (connection, next) in &mut self.again {
            if connection % shards == shard {
                next.from = next.from.min(now);
            }
        }
    }

    /// A connection that was to be opened again long ago.
    pub(crate) fn forgotten_connection(&self, now: Instant) -> Option<usize> {
        let is_overdue = |next: &Next| next.must && next.from + Duration::from_mins(10) < now;
        self.again.iter().find(|(_, next)| is_overdue(next)).map(|(connection, _)| *connection)
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
        let outside = reason == CloseReason::SendQueueFull
            && self.published_outside[record.id.service() as usize]
            && !record.groups_ever.is_empty();
        before || outside || record.possible.contains(&reason)
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
