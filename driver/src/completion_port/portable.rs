//! The port wherever the kernel has none: the [`Schedule`] behind a lock, and threads that park.
//!
//! Lock, decide, unlock, wake: nobody is woken who would find the lock taken by his waker. A running thread that finds a
//! packet takes it with the lock alone; a system call is made only to sleep, and to wake whoever was handed a packet.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::{
    PortCounters, PortError, WaitEnd,
    schedule::{Entered, Fetched, NoRoom, Place, Schedule, Wakes},
};
use crate::sync::{
    Condvar, Mutex, MutexGuard,
    thread::{self, Thread},
};

type Locked<'a, T> = MutexGuard<'a, Schedule<T, Thread>>;

pub(crate) struct Portable<T> {
    schedule: Mutex<Schedule<T, Thread>>,
    /// Threads that wait to post.
    room: Condvar,
    /// Finds out who blocks; without it, only what is told is known.
    #[cfg(all(target_os = "linux", not(loom)))]
    watcher: std::sync::OnceLock<Thread>,
}

impl<T: Send> Portable<T> {
    pub(crate) fn new(concurrency: usize, queue_max: usize) -> Self {
        Self {
            schedule: Mutex::new(Schedule::new(concurrency, queue_max)),
            room: Condvar::new(),
            #[cfg(all(target_os = "linux", not(loom)))]
            watcher: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn lock(&self) -> Locked<'_, T> {
        // A panic while it was locked is a broken invariant, which is told there; the counts are whole.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the locked section, and wakes whom it was about.
    pub(super) fn wake(&self, schedule: Locked<'_, T>, wakes: Wakes<Thread>) {
        drop(schedule);
        let Wakes { one, all, room, watcher } = wakes;
        for thread in one.into_iter().chain(all) {
            thread.unpark();
        }
        if room {
            self.room.notify_all();
        }
        if watcher {
            self.ask_to_look();
        }
    }

    // ---- packets ----

    /// `patient` tells that whoever posts waits for room, so that a full queue refuses nothing.
    pub(crate) fn try_post(&self, packet: T, patient: bool) -> Result<(), PortError<T>> {
        let mut schedule = self.lock();
        match schedule.post(packet) {
            Ok(wakes) => {
                self.wake(schedule, wakes);
                Ok(())
            }
            Err((packet, NoRoom::Closed)) => {
                schedule.totals.refused += 1;
                Err(PortError::Closed(packet))
            }
            Err((packet, NoRoom::Full)) => {
                schedule.totals.refused += u64::from(!patient);
                Err(PortError::Full(packet))
            }
        }
    }

    /// Waits until there is room, or the port is closed.
    pub(crate) fn wait_for_room(&self) {
        let mut schedule = self.lock();
        schedule.posters += 1;
        while schedule.room() == Err(NoRoom::Full) {
            schedule = self.room.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
        schedule.posters -= 1;
    }

    pub(crate) fn close(&self) {
        let mut schedule = self.lock();
        let wakes = schedule.close();
        self.wake(schedule, wakes);
    }

    pub(crate) fn take_queued(&self) -> Vec<T> {
        let mut schedule = self.lock();
        let (queued, wakes) = schedule.take_queued();
        self.wake(schedule, wakes);
        queued.into()
    }

    pub(crate) fn counters(&self) -> PortCounters {
        let schedule = self.lock();
        let totals = schedule.totals;
        PortCounters {
            queued: schedule.queued(),
            waiting: schedule.waiting(),
            posting: schedule.posters,
            running: schedule.running(),
            blocked: schedule.blocked(),
            posted: totals.posted,
            refused: totals.refused,
            replaced: totals.replaced,
            looks: totals.looks,
        }
    }

    // ---- threads ----

    /// The calling thread gets a place.
    pub(crate) fn sit(&self) -> Place {
        self.lock().sit(thread::current(), system_id())
    }

    /// Gives the next packet; `timeout` as in [`CompletionPort::wait`](super::CompletionPort::wait).
    pub(crate) fn wait(&self, place: Place, timeout: Option<Duration>) -> Result<T, WaitEnd> {
        let patient = timeout.is_none_or(|timeout| !timeout.is_zero());
        let mut schedule = self.lock();
        let (entered, wakes) = schedule.wait(place, patient);
        self.wake(schedule, wakes);
        match entered {
            Entered::Packet(packet) => Ok(packet),
            Entered::Closed => Err(WaitEnd::Closed),
            Entered::Nothing => Err(WaitEnd::TimedOut),
            // A time that no clock reaches is none.
            Entered::Waits => {
                self.sleep(place, timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
            }
        }
    }

    /// Sleeps until it has a packet, the port is closed, or it is too late.
    fn sleep(&self, place: Place, until: Option<Instant>) -> Result<T, WaitEnd> {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match left {
                None => thread::park(),
                Some(left) if left.is_zero() => {}
                Some(left) => thread::park_timeout(left),
            }
            let mut schedule = self.lock();
            match schedule.fetch(place) {
                Fetched::Packet(packet) => return Ok(packet),
                Fetched::Closed => return Err(WaitEnd::Closed),
                // Somebody else's wake-up, or none.
                Fetched::Nothing if left.is_none_or(|left| !left.is_zero()) => {}
                Fetched::Nothing => {
                    schedule.give_up(place);
                    return Err(WaitEnd::TimedOut);
                }
            }
        }
    }

    pub(crate) fn begin_block(&self, place: Place) {
        let mut schedule = self.lock();
        let wakes = schedule.begin_block(place);
        self.wake(schedule, wakes);
    }

    pub(crate) fn end_block(&self, place: Place) {
        self.lock().end_block(place);
    }

    pub(crate) fn leave(&self, place: Place) {
        let mut schedule = self.lock();
        let wakes = schedule.leave(place);
        self.wake(schedule, wakes);
    }

    // ---- the watcher ----

    /// Whom to wake when it is time to look.
    #[cfg(all(target_os = "linux", not(loom)))]
    pub(super) fn watched_by(&self, watcher: Thread) {
        let _ = self.watcher.set(watcher);
    }

    #[cfg(all(target_os = "linux", not(loom)))]
    fn ask_to_look(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    #[cfg(any(not(target_os = "linux"), loom))]
    #[expect(clippy::unused_self, reason = "nobody is there to be asked")]
    fn ask_to_look(&self) {}
}

/// The number by which the system knows the calling thread.
#[cfg(all(target_os = "linux", not(loom)))]
fn system_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

#[cfg(any(not(target_os = "linux"), loom))]
fn system_id() -> i32 {
    0
}
