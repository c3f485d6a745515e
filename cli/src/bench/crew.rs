//! What the main thread and the loaders on the shards have in common, whatever they load.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use anyport::{CloseReason, ConnectFailure, Handler, Session, Shard};

use super::tally::Tally;

/// What the main thread waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// Every connection is ready, or failed to be.
    Attempted,
    /// Something came that should not; the text says what.
    Wrong(String),
    /// No connection is left, or none can go on.
    AllLost,
    /// A loader has finished.
    Finished(Box<Tally>),
    /// A termination signal.
    Interrupted,
}

/// A handler that loads a server. A run has four parts, all told by the main thread: connections open; `begin`; after
/// the time is up `finish`, which waits for what is outstanding; and each loader's tally goes back as an event.
pub(crate) trait Loader: Handler {
    /// Every connection of every loader is ready.
    fn begin(&mut self, shard: &mut Shard<Self>, start: Instant);

    /// The time is up: report as soon as nothing is outstanding. `now` cuts the run short.
    fn finish(&mut self, shard: &mut Shard<Self>, now: bool);

    /// Sends nothing more, though something may be due.
    fn stop_sending(&mut self, shard: &mut Shard<Self>);

    /// Reports, done or not.
    fn give_up(&mut self, shard: &mut Shard<Self>);
}

/// What all loaders share. Written rarely, but for the progress, which has a cache line each.
pub(crate) struct Crew {
    /// Connections that are to be ready before it begins.
    wanted: u64,
    attempts: AtomicU64,
    opened: AtomicU64,
    live: AtomicU64,
    all_lost: AtomicBool,
    over: AtomicBool,
    first_failure: Mutex<Option<ConnectFailure>>,
    progress: Box<[Progress]>,
}

#[derive(Default)]
#[repr(align(128))]
struct Progress(AtomicU64);

impl Crew {
    pub(crate) fn new(wanted: u64, seats: usize) -> Self {
        Self {
            wanted,
            attempts: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            live: AtomicU64::new(0),
            all_lost: AtomicBool::new(false),
            over: AtomicBool::new(false),
            first_failure: Mutex::new(None),
            progress: (0..seats).map(|_| Progress::default()).collect(),
        }
    }

    /// Connections that are to be ready before it begins.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// What was done so far, in the unit of the load.
    pub(crate) fn done(&self) -> u64 {
        self.progress.iter().map(|seat| seat.0.load(Ordering::Relaxed)).sum()
    }

    /// Connections now.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// True when no connection is left, or one was lost that the run cannot do without.
    pub(crate) fn is_over(&self) -> bool {
        let all_lost = self.all_lost.load(Ordering::Relaxed) && self.live() == 0;
        all_lost || self.over.load(Ordering::Relaxed)
    }

    /// The first connection that could not be opened.
    pub(crate) fn first_failure(&self) -> Option<ConnectFailure> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections that were opened, lost ones included.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

/// Which of all loaders one is: there is one on each shard for each address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) index: usize,
    pub(crate) count: usize,
}

impl Seat {
    /// The number, among those of all loaders, of a loader's own `number`th connection.
    pub(crate) fn global(self, number: u64) -> u64 {
        number * self.count as u64 + self.index as u64
    }
}

/// What each loader has: its place, its clock, its counts, and a line to the main thread.
///
/// Time is the shard's own: one reading for a turn, taken when its events are known and before they are worked on.
/// What the loader itself takes to send a turn's messages therefore counts as latency, never against it.
pub(crate) struct Station {
    pub(crate) seat: Seat,
    pub(crate) crew: Arc<Crew>,
    events: Sender<Event>,
    start: Option<Instant>,
    measure_from_ns: u64,
    /// When measuring ends, in nanoseconds from the start.
    pub(crate) end_ns: u64,
    pub(crate) sending: bool,
    pub(crate) finishing: bool,
    pub(crate) reported: bool,
    pub(crate) tally: Tally,
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Station {
    pub(crate) fn new(
        seat: Seat,
        crew: Arc<Crew>,
        events: Sender<Event>,
        warmup: Duration,
        end: Duration,
    ) -> Self {
        Self {
            seat,
            crew,
            events,
            start: None,
            measure_from_ns: nanos(warmup),
            end_ns: nanos(end),
            sending: true,
            finishing: false,
            reported: false,
            tally: Tally::new(),
        }
    }

    fn tell(&self, event: Event) {
        // The main thread goes first only when it has given up on the run.
        let _ = self.events.send(event);
    }

    // ---- the clock ----

    pub(crate) fn begin(&mut self, start: Instant) {
        self.start = Some(start);
    }

    /// True once it has begun; messages of others may arrive before.
    pub(crate) fn has_begun(&self) -> bool {
        self.start.is_some()
    }

    /// Nanoseconds since the start, at the time of this turn.
    #[inline]
    pub(crate) fn now_ns(&self, now: Instant) -> u64 {
        self.start.map_or(0, |start| nanos(now.saturating_duration_since(start)))
    }

    /// True if this time belongs to the time that is measured.
    #[inline]
    pub(crate) fn is_measured(&self, at_ns: u64) -> bool {
        (self.measure_from_ns..self.end_ns).contains(&at_ns)
    }

    // ---- connections ----

    /// A connection opened.
    pub(crate) fn opened(&self) {
        self.crew.live.fetch_add(1, Ordering::Relaxed);
        self.crew.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is ready, or was lost before it was: each says so once.
    pub(crate) fn attempted(&self) {
        if self.crew.attempts.fetch_add(1, Ordering::AcqRel) + 1 == self.crew.wanted {
            self.tell(Event::Attempted);
        }
    }

    /// A connection could not be opened.
    pub(crate) fn failed(&self, failure: &ConnectFailure) {
        let mut first = self.crew.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| failure.clone());
        drop(first);
        self.attempted();
    }

    /// A connection ended, as it was to.
    pub(crate) fn closed(&self) {
        self.crew.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection ended too early, but another will come.
    pub(crate) fn lost_one(&mut self, reason: CloseReason) {
        self.tally.lost[reason.index()] += 1;
        self.closed();
    }

    /// A connection could not be opened, and no other will be.
    pub(crate) fn failed_for_all(&self, failure: &ConnectFailure) {
        self.failed(failure);
        self.crew.over.store(true, Ordering::Relaxed);
        self.tell(Event::AllLost);
    }

    /// A connection ended that was to stay.
    pub(crate) fn lost(&mut self, reason: CloseReason) {
        self.tally.lost[reason.index()] += 1;
        if self.crew.live.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.crew.all_lost.store(true, Ordering::Relaxed);
            self.tell(Event::AllLost);
        }
    }

    /// A connection ended that the run cannot do without.
    pub(crate) fn lost_for_all(&mut self, reason: CloseReason) {
        self.crew.over.store(true, Ordering::Relaxed);
        self.lost(reason);
        self.tell(Event::AllLost);
    }

    // ---- what is done ----

    /// Counts what was done for the line of progress.
    pub(crate) fn done(&self, done: u64) {
        self.crew.progress[self.seat.index].0.store(done, Ordering::Relaxed);
    }

    /// Something came that should not: the run ends, and says so.
    #[cold]
    pub(crate) fn wrong<H: Handler>(&self, session: &mut Session<H>, text: impl fmt::Display) {
        self.tell(Event::Wrong(text.to_string()));
        session.kick(0);
    }

    /// The time is up. `now` cuts the run short.
    pub(crate) fn finish(&mut self, now: Instant, cut: bool) {
        self.finishing = true;
        if cut {
            self.end_ns = self.end_ns.min(self.now_ns(now));
            self.sending = false;
        }
    }

    /// Sends the tally.
    pub(crate) fn report(&mut self) {
        self.reported = true;
        self.sending = false;
        self.tell(Event::Finished(Box::new(self.tally.clone())));
    }
}
