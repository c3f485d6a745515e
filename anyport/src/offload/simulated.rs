//! The pool of a simulated engine: no thread, virtual time, and how long work takes is drawn from the seed.
//!
//! Work is done when it is due, on the thread that steps, between two turns: never inside the handler that asked for it.
//! An engine that offloads nothing draws nothing, so its runs are the same as if there were no pool.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use anyport_driver::PortError;

use crate::logic_pool::{Packet, PoolConfig, PoolCounters};

/// Processors of the simulated machine: the same wherever a seed is replayed.
const PROCESSORS: usize = 4;
/// Work takes from 1 µs to twice as long as two to this power: 16 ms.
const MAGNITUDES: u64 = 13;

pub(crate) struct SimPool {
    queue_max: usize,
    /// When each thread is free again; nothing for one that never worked. All work is taken to block, so that each
    /// thread is replaced at once.
    threads: Vec<Option<Instant>>,
    /// Handed in since the last step.
    incoming: VecDeque<Packet>,
    /// By when it is done and by its number; with when it begins.
    under_way: BTreeMap<(Instant, u64), (Instant, Packet)>,
    numbers: u64,
    /// The time of the last step.
    now: Option<Instant>,
    counters: PoolCounters,
}

impl SimPool {
    pub(super) fn new(config: PoolConfig) -> Self {
        let config = config.resolved(PROCESSORS);
        Self {
            queue_max: config.queue_max,
            threads: vec![None; config.threads],
            incoming: VecDeque::new(),
            under_way: BTreeMap::new(),
            numbers: 0,
            now: None,
            counters: PoolCounters::default(),
        }
    }

    pub(super) fn submit(&mut self, work: Packet) -> Result<(), PortError<Packet>> {
        if self.queued() >= self.queue_max {
            self.counters.refused += 1;
            return Err(PortError::Full(work));
        }
        self.incoming.push_back(work);
        Ok(())
    }

    /// Work that no thread has begun, as of the last step.
    fn queued(&self) -> usize {
        let free = self.threads.iter().filter(|free_at| **free_at <= self.now).count();
        let behind = self.under_way.values().filter(|(begins, _)| Some(*begins) > self.now).count();
        (self.incoming.len() + behind).saturating_sub(free)
    }

    /// Gives what was handed in a thread and a time, by numbers from 0 to a bound that `draw` draws.
    pub(crate) fn plan(&mut self, now: Instant, draw: impl Fn(u64) -> u64) {
        self.now = Some(now);
        while let Some(work) = self.incoming.pop_front() {
            let thread = self.threads.iter_mut().min().expect("a pool has a thread");
            let begins = thread.map_or(now, |free_at| free_at.max(now));
            let micros = 1 << draw(MAGNITUDES);
            let done = begins + Duration::from_micros(micros + draw(micros));
            *thread = Some(done);
            self.numbers += 1;
            self.under_way.insert((done, self.numbers), (begins, work));
        }
    }

    /// Takes out the next piece of work that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Packet> {
        let first = self.under_way.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        Some(first.remove().1)
    }

    /// Work was done.
    pub(crate) fn count_done(&mut self, in_order: bool) {
        self.counters.done += 1;
        self.counters.panicked += u64::from(!in_order);
    }

    /// Work was dropped.
    pub(crate) fn count_cancelled(&mut self) {
        self.counters.cancelled += 1;
    }

    /// When something is due next.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((done, _), _)| *done)
    }

    /// What is left when the engine has ended: to be done, in order.
    pub(crate) fn take_all(&mut self) -> Vec<Packet> {
        let under_way = std::mem::take(&mut self.under_way).into_values().map(|(_, work)| work);
        under_way.chain(self.incoming.drain(..)).collect()
    }

    pub(super) fn counters(&self) -> PoolCounters {
        let queued = self.queued();
        let running = self.under_way.len() + self.incoming.len() - queued;
        PoolCounters { queued, running, ..self.counters }
    }
}
