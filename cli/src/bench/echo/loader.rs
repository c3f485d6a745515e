//! The loader of `bench echo`: sends what the pattern says and checks what comes back.

use std::{
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, Codec, ConnectFailure, Frame, Handler, Reconnect, Sent, Session, SessionId, Shard, TimerKey,
};

use super::plan::{Pace, Plan};
use crate::{
    args::CodecName,
    bench::{
        crew::{Loader, Station},
        pattern::{Difference, Pattern, Start},
        schedule::{DUE_PER_TURN, Schedule},
    },
};

const DUE: TimerKey = TimerKey(0);

/// In what way an answer was wrong.
#[derive(Debug)]
pub(crate) enum Mistake {
    Byte(Difference),
    Size {
        expected: usize,
        seen: usize,
    },
    Kind {
        expected: u16,
        seen: u16,
    },
    /// More came back than was sent.
    Surplus {
        sent: u64,
        seen: u64,
    },
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(difference) => difference.fmt(f),
            Self::Size { expected, seen } => write!(f, "expected {expected} bytes, seen {seen}"),
            Self::Kind { expected, seen } => write!(f, "expected kind {expected}, seen {seen}"),
            Self::Surplus { sent, seen } => write!(f, "{seen} bytes came back of {sent} that were sent"),
        }
    }
}

/// One connection.
#[derive(Default)]
pub(crate) struct Link {
    /// Its number on the shard.
    number: u64,
    start: Start,
    sent: u64,
    answered: u64,
    /// Payload bytes that came back.
    received: u64,
    /// When the messages in flight were sent, or were due, in nanoseconds from the start.
    waiting: VecDeque<u64>,
}

/// One loader.
pub(crate) struct EchoLoader<C> {
    station: Station,
    plan: Plan,
    pattern: Arc<Pattern>,
    links: Vec<SessionId>,
    schedule: Option<Schedule>,
    /// Messages in flight.
    outstanding: u64,
    codec: PhantomData<C>,
}

impl<C: Codec> EchoLoader<C> {
    pub(crate) fn new(station: Station, plan: Plan, pattern: Arc<Pattern>) -> Self {
        Self { station, plan, pattern, links: Vec::new(), schedule: None, outstanding: 0, codec: PhantomData }
    }

    // ---- sending ----

    /// Sends a connection's next message, which counts from `at_ns`. False if the connection is ending.
    fn send(&mut self, session: &mut Session<Self>, at_ns: u64) -> bool {
        let size = self.plan.size;
        let link = session.state();
        let (place, message) = (link.start, link.sent);
        let body = self.pattern.slice(place, message * size as u64, size);
        if let Sent::Refused(_) = session.send_kind(message as u16, body) {
            return false;
        }
        let link = session.state();
        link.sent += 1;
        link.waiting.push_back(at_ns);
        self.outstanding += 1;
        true
    }

    /// Open loop: sends what a connection owes, as far as its window allows.
    fn catch_up(&mut self, session: &mut Session<Self>, now_ns: u64) {
        let window = self.plan.window as usize;
        while self.station.sending {
            let link = session.state();
            if link.waiting.len() >= window {
                return;
            }
            let schedule = self.schedule.as_mut();
            let Some(due_ns) = schedule.and_then(|schedule| schedule.owed(link.number, link.sent)) else {
                return;
            };
            if !self.send(session, due_ns) {
                return;
            }
            let late = &mut self.station.tally.late_max_ns;
            *late = (*late).max(now_ns.saturating_sub(due_ns));
        }
    }

    /// Open loop: makes messages due and has them sent; sees to it that it is called again in the next turn.
    fn deal(&mut self, shard: &mut Shard<Self>) {
        let now_ns = self.station.now_ns(shard.now());
        let until_ns = now_ns.min(self.last_ns());
        for _ in 0..DUE_PER_TURN {
            let Some(connection) = self.schedule.as_mut().and_then(|schedule| schedule.next(until_ns)) else {
                break;
            };
            if let Some(&id) = self.links.get(connection)
                && let Some(mut session) = shard.session(id)
            {
                self.catch_up(&mut session, now_ns);
            }
        }
        let Station { sending, finishing, end_ns, .. } = self.station;
        if sending && (now_ns < end_ns || self.owes(until_ns)) {
            shard.set_timer(DUE, Duration::ZERO);
        } else if finishing {
            self.report_if_done(shard);
        }
    }

    /// True while messages are to be made due by `until_ns`.
    fn owes(&self, until_ns: u64) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| schedule.is_behind(until_ns))
    }

    /// The last moment at which a message may be due.
    fn last_ns(&self) -> u64 {
        self.station.end_ns.saturating_sub(1)
    }

    // ---- answers ----

    /// Checks what came back. Gives how many messages are whole by it.
    #[inline]
    fn take(&mut self, link: &mut Link, frame: Frame, now_ns: u64) -> Result<u64, Mistake> {
        let size = self.plan.size;
        let framed = self.plan.codec != CodecName::Raw;
        if framed && frame.len() != size {
            return Err(Mistake::Size { expected: size, seen: frame.len() });
        }
        if self.plan.codec == CodecName::SizeKind && frame.kind != link.answered as u16 {
            return Err(Mistake::Kind { expected: link.answered as u16, seen: frame.kind });
        }
        self.pattern.check(link.start, link.received, &frame).map_err(Mistake::Byte)?;
        link.received += frame.len() as u64;
        if link.received > link.sent * size as u64 {
            return Err(Mistake::Surplus { sent: link.sent * size as u64, seen: link.received });
        }
        self.station.tally.bytes_checked += frame.len() as u64;
        let whole = link.received / size as u64 - link.answered;
        for _ in 0..whole {
            let at_ns = link.waiting.pop_front().expect("each message sent has its time");
            self.record(at_ns, now_ns);
        }
        link.answered += whole;
        self.outstanding -= whole;
        Ok(whole)
    }

    #[inline]
    fn record(&mut self, at_ns: u64, now_ns: u64) {
        let in_time = self.station.is_measured(now_ns);
        self.station.tally.done += u64::from(in_time);
        // In the open loop a message belongs to the time at which it was due, however late it comes back.
        let counts = if self.schedule.is_some() { self.station.is_measured(at_ns) } else { in_time };
        if counts {
            self.station.tally.record(now_ns.saturating_sub(at_ns));
        }
    }

    #[cold]
    fn wrong(&self, session: &mut Session<Self>, what: &Mistake) {
        let link = session.state();
        let (connection, message) = (link.number, link.received / self.plan.size as u64);
        let seat = self.station.seat.index;
        let text = format!(
            "what came back is not what was sent: connection {connection} of thread {seat}, message {message}, {what}"
        );
        self.station.wrong(session, text);
    }

    // ---- the end ----

    fn report_if_done(&mut self, shard: &mut Shard<Self>) {
        if !self.station.finishing || self.station.reported || self.outstanding > 0 {
            return;
        }
        let until_ns = self.last_ns();
        if self.station.sending && (self.owes(until_ns) || self.owed(shard, until_ns) > 0) {
            return;
        }
        self.report(shard);
    }

    /// Messages that are due by then and were not sent.
    fn owed(&self, shard: &mut Shard<Self>, until_ns: u64) -> u64 {
        let Some(schedule) = &self.schedule else { return 0 };
        let mut owed = 0;
        shard.for_each(|session| {
            let link = session.state();
            owed += schedule.owed_count(link.number, link.sent, until_ns);
        });
        owed
    }

    fn report(&mut self, shard: &mut Shard<Self>) {
        self.station.tally.unanswered += self.outstanding;
        self.station.tally.not_sent = self.owed(shard, self.last_ns());
        self.station.report();
    }
}

impl<C: Codec> Loader for EchoLoader<C> {
    fn begin(&mut self, shard: &mut Shard<Self>, start: Instant) {
        self.station.begin(start);
        if let Pace::Closed { depth } = self.plan.pace {
            let now = self.station.now_ns(shard.now());
            shard.for_each(|session| {
                for _ in 0..depth {
                    self.send(session, now);
                }
            });
            return;
        }
        let connections = self.links.len() as u64;
        self.schedule = self.plan.schedule(self.station.seat, connections);
        self.deal(shard);
    }

    fn finish(&mut self, shard: &mut Shard<Self>, now: bool) {
        self.station.finish(shard.now(), now);
        self.report_if_done(shard);
    }

    fn stop_sending(&mut self, shard: &mut Shard<Self>) {
        self.station.sending = false;
        self.report_if_done(shard);
    }

    fn give_up(&mut self, shard: &mut Shard<Self>) {
        if !self.station.reported {
            self.report(shard);
        }
    }
}

impl<C: Codec> Handler for EchoLoader<C> {
    type State = Link;
    type Codec = C;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let number = self.links.len() as u64;
        let link = session.state();
        link.number = number;
        link.start = Start::of(self.station.seat.global(number));
        self.links.push(session.id());
        self.station.opened();
        self.station.attempted();
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        self.station.failed(failure);
        Reconnect::AsConfigured
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if self.station.reported {
            return;
        }
        let now_ns = self.station.now_ns(session.shard().now());
        let whole = match self.take(session.state(), frame, now_ns) {
            Ok(whole) => whole,
            Err(mistake) => return self.wrong(session, &mistake),
        };
        if whole == 0 {
            return;
        }
        self.station.tally.answered += whole;
        self.station.done(self.station.tally.answered);
        if self.schedule.is_some() {
            self.catch_up(session, now_ns);
        } else if self.station.sending && now_ns < self.station.end_ns {
            for _ in 0..whole {
                self.send(session, now_ns);
            }
        }
        if self.station.finishing {
            self.report_if_done(&mut session.shard());
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        if self.station.reported {
            return;
        }
        let waiting = session.state().waiting.len() as u64;
        self.outstanding -= waiting;
        self.station.tally.unanswered += waiting;
        self.station.lost(reason);
        self.report_if_done(&mut session.shard());
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, _timer: TimerKey) {
        self.deal(shard);
    }
}
