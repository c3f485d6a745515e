//! How many posted jobs a mailbox holds, and waiting for room in it.
//!
//! The count says nothing about what the jobs hold: the channel behind it does. So it is relaxed, but for the two
//! fences: whoever waits says so and looks again, the shard makes room and looks who waits; one of both sees the
//! other (the model L9, docs/concurrency.md).

use std::sync::PoisonError;

use super::post::PostError;
use crate::sync::{
    Condvar, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

/// Added when nobody takes jobs any more.
const CLOSED: usize = 1;
/// Added for each job.
const JOB: usize = 2;

#[derive(Debug)]
pub(crate) struct Room {
    /// Jobs that have a place, and whether it is closed.
    jobs: AtomicUsize,
    jobs_max: usize,
    /// Threads that wait for a place, or are about to.
    waiting: AtomicUsize,
    /// Held from the look at the count to the sleep.
    sleepers: Mutex<()>,
    changed: Condvar,
    refused: AtomicU64,
}

impl Room {
    pub(crate) fn new(jobs_max: usize) -> Self {
        Self {
            jobs: AtomicUsize::new(0),
            jobs_max,
            waiting: AtomicUsize::new(0),
            sleepers: Mutex::new(()),
            changed: Condvar::new(),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes a place if there is one.
    pub(crate) fn take_place(&self) -> Result<(), PostError> {
        let result = self.try_place();
        if result == Err(PostError::Full) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn try_place(&self) -> Result<(), PostError> {
        // In one step: a closed room must not take one more, because nobody would look for it.
        let place = |jobs| (jobs & CLOSED == 0 && jobs / JOB < self.jobs_max).then_some(jobs + JOB);
        match self.jobs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place) {
            Ok(_) => Ok(()),
            Err(jobs) if jobs & CLOSED != 0 => Err(PostError::Ended),
            Err(_) => Err(PostError::Full),
        }
    }

    /// Takes a place, and waits for one if need be. Not for the thread that makes room.
    pub(crate) fn wait_for_place(&self) -> Result<(), PostError> {
        match self.try_place() {
            Err(PostError::Full) => self.sleep_for_place(),
            result => result,
        }
    }

    #[cold]
    fn sleep_for_place(&self) -> Result<(), PostError> {
        let mut held = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let result = loop {
            fence(Ordering::SeqCst);
            match self.try_place() {
                Err(PostError::Full) => {
                    held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
                }
                result => break result,
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Gives places back. Only the shard calls this.
    pub(crate) fn give_back(&self, jobs: usize) {
        self.jobs.fetch_sub(jobs * JOB, Ordering::Relaxed);
        self.wake_sleepers();
    }

    /// Takes no more jobs: who waits for a place hears that it has ended.
    pub(crate) fn close(&self) {
        self.jobs.fetch_add(CLOSED, Ordering::Relaxed);
        self.wake_sleepers();
    }

    fn wake_sleepers(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            // Whoever looked before us sleeps once we have the lock.
            drop(self.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }

    /// True if no job has a place. For the shard, after it has closed: then it stays true.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.load(Ordering::Relaxed) / JOB == 0
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_room_refuses_and_a_closed_one_has_ended() {
        let room = Room::new(2);
        assert_eq!(
            [room.take_place(), room.take_place(), room.take_place()],
            [Ok(()), Ok(()), Err(PostError::Full)]
        );
        room.give_back(1);
        assert_eq!([room.take_place(), room.take_place()], [Ok(()), Err(PostError::Full)]);
        assert_eq!(room.refused(), 2);
        room.close();
        assert_eq!([room.take_place(), room.wait_for_place()], [Err(PostError::Ended); 2]);
        assert!(!room.is_empty());
        room.give_back(2);
        assert!(room.is_empty());
    }

    #[test]
    fn whoever_waits_gets_room_or_hears_of_the_end() {
        let room = Room::new(1);
        room.take_place().unwrap();
        std::thread::scope(|scope| {
            let waits: Vec<_> = (0..3).map(|_| scope.spawn(|| room.wait_for_place())).collect();
            // One after the other, until two have had the place.
            for _ in 0..2 {
                room.give_back(1);
                while room.is_empty() {
                    std::thread::yield_now();
                }
            }
            room.close();
            let mut results: Vec<_> = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
            results.sort_by_key(Result::is_err);
            assert_eq!(results, [Ok(()), Ok(()), Err(PostError::Ended)]);
        });
    }
}
