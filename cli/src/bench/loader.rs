//! The loader: a client's handler that sends what the pattern says and checks what comes back.
//!
//! A run has four parts, all told by the main thread: connections open; `begin`; after the time is up `finish`,
//! which waits for what is outstanding; and each shard's tally goes back as an event.
//!
//! Time is the shard's own: one reading for a turn, taken when its events are known and before they are worked on.
//! What the loader itself takes to send a turn's messages therefore counts as latency, never against it.

use std::{
    collections::VecDeque,
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, Codec, ConnectFailure, Frame, Handler, Sent, Session, SessionId, Shard, TimerKey,
};

use super::{
    open::{DUE_PER_TURN, Share, Timetable},
    pattern::{Difference, Pattern, Start},
    plan::{Pace, Plan},
    tally::Tally,
};
use crate::args::CodecName;

const DUE: TimerKey = TimerKey(0);

/// What the main thread waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// Every connection opened, or failed to.
    Attempted,
    /// Something came back that was not sent.
    Wrong(Box<Wrong>),
    /// No connection is left.
    AllLost,
    /// A shard has finished.
    Finished(Box<Tally>),
    /// A termination signal.
    Interrupted,
}

/// What came back and was not what was sent.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) shard: usize,
    pub(crate) connection: u64,
    pub(crate) message: u64,
    pub(crate) what: Mistake,
}

/// In what way it was wrong.
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

/// What all shards of the loader share. Written rarely, but for the progress, which has a cache line each.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pattern: Pattern,
    attempts: AtomicU64,
    opened: AtomicU64,
    live: AtomicU64,
    first_failure: Mutex<Option<ConnectFailure>>,
    progress: Box<[Progress]>,
}

#[derive(Default)]
#[repr(align(128))]
struct Progress {
    answered: AtomicU64,
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            pattern: Pattern::new(plan.size, plan.codec == CodecName::Lines),
            attempts: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            live: AtomicU64::new(0),
            first_failure: Mutex::new(None),
            progress: (0..plan.threads).map(|_| Progress::default()).collect(),
            plan,
        }
    }

    /// Messages answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.progress.iter().map(|shard| shard.answered.load(Ordering::Relaxed)).sum()
    }

    /// Connections now.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// The first connection that could not be opened.
    pub(crate) fn first_failure(&self) -> Option<ConnectFailure> {
        *self.first_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that were opened, lost ones included.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Counts an attempt; true for the last one.
    fn attempted(&self) -> bool {
        self.attempts.fetch_add(1, Ordering::AcqRel) + 1 == self.plan.connections
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

/// One shard of the loader.
pub(crate) struct Loader<C> {
    shard: usize,
    shared: Arc<Shared>,
    events: Sender<Event>,
    links: Vec<SessionId>,
    timetable: Option<Timetable>,
    start: Option<Instant>,
    measure_from_ns: u64,
    end_ns: u64,
    /// Messages in flight.
    outstanding: u64,
    sending: bool,
    finishing: bool,
    reported: bool,
    tally: Tally,
    codec: PhantomData<C>,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<C: Codec> Loader<C> {
    pub(crate) fn new(shard: usize, run: Arc<Shared>, events: Sender<Event>) -> Self {
        let plan = run.plan;
        Self {
            shard,
            shared: run,
            events,
            links: Vec::new(),
            timetable: None,
            start: None,
            measure_from_ns: nanos(plan.warmup),
            end_ns: nanos(plan.end()),
            outstanding: 0,
            sending: true,
            finishing: false,
            reported: false,
            tally: Tally::new(),
            codec: PhantomData,
        }
    }

    fn tell(&self, event: Event) {
        // The main thread goes first only when it has given up on the run.
        let _ = self.events.send(event);
    }

    fn since_start(&self, now: Instant) -> u64 {
        self.start.map_or(0, |start| nanos(now.saturating_duration_since(start)))
    }

    // ---- told by the main thread ----

    /// Every connection is open: send.
    pub(crate) fn begin(&mut self, shard: &mut Shard<Self>, start: Instant) {
        self.start = Some(start);
        match self.shared.plan.pace {
            Pace::Closed { depth } => {
                let now = self.since_start(shard.now());
                shard.for_each(|session| {
                    for _ in 0..depth {
                        self.send(session, now);
                    }
                });
            }
            Pace::Open { rate } => {
                let part = Share {
                    shard: self.shard as u64,
                    shards: self.shared.plan.threads,
                    connections: self.links.len() as u64,
                    connections_total: self.shared.plan.connections,
                };
                self.timetable = Some(Timetable::new(rate, part));
                self.deal(shard);
            }
        }
    }

    /// The time is up: report as soon as nothing is outstanding. `now` cuts the run short.
    pub(crate) fn finish(&mut self, shard: &mut Shard<Self>, now: bool) {
        self.finishing = true;
        if now {
            self.end_ns = self.end_ns.min(self.since_start(shard.now()));
            self.sending = false;
        }
        self.report_if_done(shard);
    }

    /// Sends nothing more, though messages may be due.
    pub(crate) fn stop_sending(&mut self, shard: &mut Shard<Self>) {
        self.sending = false;
        self.report_if_done(shard);
    }

    /// Reports, done or not.
    pub(crate) fn give_up(&mut self, shard: &mut Shard<Self>) {
        if !self.reported {
            self.report(shard);
        }
    }

    // ---- sending ----

    /// Sends a connection's next message, which counts from `at_ns`. False if the connection is ending.
    fn send(&mut self, session: &mut Session<Self>, at_ns: u64) -> bool {
        let size = self.shared.plan.size;
        let link = session.state();
        let (place, message) = (link.start, link.sent);
        let body = self.shared.pattern.slice(place, message * size as u64, size);
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
        let Some(timetable) = self.timetable else { return };
        let window = self.shared.plan.window as usize;
        while self.sending {
            let link = session.state();
            if link.waiting.len() >= window {
                return;
            }
            let Some(due_ns) = timetable.owed(link.number, link.sent) else { return };
            if !self.send(session, due_ns) {
                return;
            }
            self.tally.late_max_ns = self.tally.late_max_ns.max(now_ns.saturating_sub(due_ns));
        }
    }

    /// Open loop: makes messages due and has them sent; sees to it that it is called again in the next turn.
    fn deal(&mut self, shard: &mut Shard<Self>) {
        let now_ns = self.since_start(shard.now());
        let until_ns = now_ns.min(self.end_ns.saturating_sub(1));
        for _ in 0..DUE_PER_TURN {
            let Some(connection) = self.timetable.as_mut().and_then(|table| table.next(until_ns)) else {
                break;
            };
            if let Some(&id) = self.links.get(connection)
                && let Some(mut session) = shard.session(id)
            {
                self.catch_up(&mut session, now_ns);
            }
        }
        if self.sending && (now_ns < self.end_ns || self.owes(until_ns)) {
            shard.set_timer(DUE, Duration::ZERO);
        } else if self.finishing {
            self.report_if_done(shard);
        }
    }

    /// True while messages are to be made due by `until_ns`.
    fn owes(&self, until_ns: u64) -> bool {
        self.timetable.is_some_and(|table| table.is_behind(until_ns))
    }

    // ---- answers ----

    /// Checks what came back. Gives how many messages are whole by it.
    #[inline]
    fn take(&mut self, link: &mut Link, frame: Frame, now_ns: u64) -> Result<u64, Mistake> {
        let size = self.shared.plan.size;
        let framed = self.shared.plan.codec != CodecName::Raw;
        if framed && frame.len() != size {
            return Err(Mistake::Size { expected: size, seen: frame.len() });
        }
        if self.shared.plan.codec == CodecName::SizeKind && frame.kind != link.answered as u16 {
            return Err(Mistake::Kind { expected: link.answered as u16, seen: frame.kind });
        }
        self.shared.pattern.check(link.start, link.received, &frame).map_err(Mistake::Byte)?;
        link.received += frame.len() as u64;
        if link.received > link.sent * size as u64 {
            return Err(Mistake::Surplus { sent: link.sent * size as u64, seen: link.received });
        }
        self.tally.bytes_checked += frame.len() as u64;
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
        let measured = self.measure_from_ns..self.end_ns;
        let in_time = measured.contains(&now_ns);
        self.tally.messages += u64::from(in_time);
        // In the open loop a message belongs to the time at which it was due, however late it comes back.
        let counts = if self.timetable.is_some() { measured.contains(&at_ns) } else { in_time };
        if counts {
            self.tally.latency.saturating_record(now_ns.saturating_sub(at_ns).max(1));
        }
    }

    #[cold]
    fn wrong(&self, session: &mut Session<Self>, what: Mistake) {
        let link = session.state();
        let (connection, message) = (link.number, link.received / self.shared.plan.size as u64);
        self.tell(Event::Wrong(Box::new(Wrong { shard: self.shard, connection, message, what })));
        session.kick(0);
    }

    // ---- the end ----

    fn report_if_done(&mut self, shard: &mut Shard<Self>) {
        if !self.finishing || self.reported || self.outstanding > 0 {
            return;
        }
        let until_ns = self.end_ns.saturating_sub(1);
        if self.sending && (self.owes(until_ns) || self.owed(shard, until_ns) > 0) {
            return;
        }
        self.report(shard);
    }

    /// Messages that are due by then and were not sent.
    fn owed(&self, shard: &mut Shard<Self>, until_ns: u64) -> u64 {
        let Some(table) = self.timetable else { return 0 };
        let mut owed = 0;
        shard.for_each(|session| {
            let link = session.state();
            owed += table.owed_count(link.number, link.sent, until_ns);
        });
        owed
    }

    fn report(&mut self, shard: &mut Shard<Self>) {
        self.reported = true;
        self.sending = false;
        self.tally.unanswered += self.outstanding;
        self.tally.not_sent = self.owed(shard, self.end_ns.saturating_sub(1));
        self.tell(Event::Finished(Box::new(self.tally.clone())));
    }
}

impl<C: Codec> Handler for Loader<C> {
    type State = Link;
    type Codec = C;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let number = self.links.len() as u64;
        let link = session.state();
        link.number = number;
        link.start = Start::of(number * self.shared.plan.threads + self.shard as u64);
        self.links.push(session.id());
        self.shared.live.fetch_add(1, Ordering::Relaxed);
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        if self.shared.attempted() {
            self.tell(Event::Attempted);
        }
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) {
        let mut first = self.shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(*failure);
        drop(first);
        if self.shared.attempted() {
            self.tell(Event::Attempted);
        }
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if self.reported {
            return;
        }
        let now_ns = self.since_start(session.shard().now());
        let whole = match self.take(session.state(), frame, now_ns) {
            Ok(whole) => whole,
            Err(mistake) => return self.wrong(session, mistake),
        };
        if whole == 0 {
            return;
        }
        self.tally.answered += whole;
        self.shared.progress[self.shard].answered.store(self.tally.answered, Ordering::Relaxed);
        if self.timetable.is_some() {
            self.catch_up(session, now_ns);
        } else if self.sending && now_ns < self.end_ns {
            for _ in 0..whole {
                self.send(session, now_ns);
            }
        }
        if self.finishing {
            self.report_if_done(&mut session.shard());
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        if self.reported {
            return;
        }
        self.tally.lost[reason.index()] += 1;
        let waiting = session.state().waiting.len() as u64;
        self.outstanding -= waiting;
        self.tally.unanswered += waiting;
        if self.shared.live.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.tell(Event::AllLost);
        }
        self.report_if_done(&mut session.shard());
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, _timer: TimerKey) {
        self.deal(shard);
    }
}
