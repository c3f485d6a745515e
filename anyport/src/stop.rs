//! Asking an engine to end.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use anyport_driver::Waker;

use crate::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const ABORT: u8 = 2;

/// How far an engine is to come to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    Run,
    Drain,
    Abort,
}

/// Ends an engine from any thread. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    /// How far below `u64::MAX` nanoseconds a drain may take in all: the greater, the shorter.
    hurry: AtomicU64,
    /// When that is over, for what is not a shard's: counted from the call.
    ends_at: Mutex<Option<Instant>>,
    wakers: Mutex<Vec<Waker>>,
}

impl Stop {
    /// Stops accepting and drains every session; those that take longer than their service's drain deadline
    /// are closed.
    pub fn drain(&self) {
        self.raise(DRAIN);
    }

    /// As [`drain`](Self::drain), and whatever is left after `within` is closed at once, whatever the deadlines of the
    /// services say. Each shard counts from the moment in which it hears of it. Of several, the shortest counts.
    pub fn drain_within(&self, within: Duration) {
        let nanoseconds = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed, as the phase: whoever is woken looks at both.
        self.shared.hurry.fetch_max(u64::MAX - nanoseconds, Ordering::Relaxed);
        let end = Instant::now().checked_add(within);
        let mut ends_at = self.shared.ends_at.lock().unwrap_or_else(PoisonError::into_inner);
        *ends_at = ends_at.into_iter().chain(end).min();
        drop(ends_at);
        self.raise(DRAIN);
    }

    /// Closes every session at once, draining or not.
    pub fn abort(&self) {
        self.raise(ABORT);
    }

    /// As a termination signal: the first drains, the second aborts.
    pub fn signal(&self) {
        // One step, so that of two signals at once only one is the first.
        let first =
            self.shared.phase.compare_exchange(RUN, DRAIN, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first { self.wake_all() } else { self.abort() }
    }

    fn raise(&self, phase: u8) {
        // Relaxed: that the shards see it is the wakers' work, and a shard that ends takes leave of its mailboxes on
        // its own: whatever was posted before is found there (the models L1, L4 and L9).
        self.shared.phase.fetch_max(phase, Ordering::Relaxed);
        self.wake_all();
    }

    fn wake_all(&self) {
        for waker in self.wakers().iter() {
            waker.wake();
        }
    }

    /// How long a drain may take in all, if someone said.
    pub(crate) fn within(&self) -> Option<Duration> {
        let hurry = self.shared.hurry.load(Ordering::Relaxed);
        (hurry > 0).then(|| Duration::from_nanos(u64::MAX - hurry))
    }

    /// When a drain that may take only so long is over.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        *self.shared.ends_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if it ends the same engine.
    #[cfg(feature = "signals")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.shared.phase.load(Ordering::Relaxed) {
            RUN => Phase::Run,
            DRAIN => Phase::Drain,
            _ => Phase::Abort,
        }
    }

    /// A shard that is to be woken from now on. It looks at the phase after this.
    pub(crate) fn register(&self, waker: Waker) {
        self.wakers().push(waker);
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        // A panic while the list was locked leaves a whole list.
        self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
