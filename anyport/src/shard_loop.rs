//! A shard: one thread, one driver, and the services on it. The turn is here.

use std::{
    io,
    time::{Duration, Instant},
};

use anyport_driver::{Address, Completion, Driver};

use crate::{
    error::{Error, Result},
    on_shard::OnShard,
    service_shard::{ServiceOnShard, service_of},
    stop::{Phase, Stop},
};

/// A shard that has its turn so long after it was due could have none: the process was stopped, or the machine slept.
const STALL: Duration = Duration::from_millis(100);

pub(crate) struct ShardLoop<D: Driver> {
    io: D,
    services: Vec<Box<dyn ServiceOnShard<D>>>,
    /// The number of the first of them: on a logic thread there is one, and it may have any.
    first: usize,
    completions: Vec<Completion>,
    stop: Stop,
    phase: Phase,
    /// How long the drain may take in all, as far as it was heard, and when that is over.
    within: Option<Duration>,
    hard_end: Option<Instant>,
    more_jobs: bool,
    /// The time of the last turn.
    now: Instant,
    /// Its thread must not wait for what a shard is to do.
    _here: OnShard,
}

impl<D: Driver> ShardLoop<D> {
    pub(crate) fn new(io: D, services: Vec<Box<dyn ServiceOnShard<D>>>, stop: Stop) -> Self {
        let now = io.now();
        Self {
            io,
            services,
            first: 0,
            completions: Vec::new(),
            stop,
            phase: Phase::Run,
            within: None,
            hard_end: None,
            more_jobs: false,
            now,
            _here: OnShard::mark(),
        }
    }

    /// A loop with one service, which has this number.
    pub(crate) fn of_service(io: D, number: usize, service: Box<dyn ServiceOnShard<D>>, stop: Stop) -> Self {
        Self { first: number, ..Self::new(io, vec![service], stop) }
    }

    /// Starts every service; gives the addresses that are listened on.
    pub(crate) fn start(&mut self) -> Result<Vec<Option<Address>>> {
        let now = self.io.now();
        let mut bound = Vec::new();
        for service in &mut self.services {
            service.set_now(now);
            bound.push(service.start(&mut self.io)?);
        }
        let waker = self.io.waker();
        self.stop.register(waker.clone());
        // Whatever was posted before the waker was known is found in the first turn.
        waker.wake();
        Ok(bound)
    }

    /// Turns until the engine is stopped and every session has ended.
    pub(crate) fn run(&mut self, shard: usize) -> Result<()> {
        let fail = |source| Error::Shard { shard, source };
        while !self.turn().map_err(fail)? {}
        Ok(())
    }

    /// One turn: wait, completions, mailbox, timers, flush. True when all is over.
    pub(crate) fn turn(&mut self) -> io::Result<bool> {
        let due = self.due_at();
        self.turn_until(due, due)
    }

    /// A turn that does not wait.
    pub(crate) fn turn_at_once(&mut self) -> io::Result<bool> {
        self.turn_until(Some(self.now), self.due_at())
    }

    /// A turn that waits until `end` at most; it is due at `due`.
    fn turn_until(&mut self, end: Option<Instant>, due: Option<Instant>) -> io::Result<bool> {
        let Self { io, services, completions, now, first, .. } = self;
        io.wait_until(end, completions)?;
        *now = io.now();
        let stalled = due.is_some_and(|due| due < *now && now.duration_since(due) > STALL);
        for service in &mut *services {
            service.set_now(*now);
        }
        for completion in completions.drain(..) {
            services[service_of(completion.token) - *first].complete(io, completion);
        }
        self.follow_phase();
        self.follow_hurry();
        self.more_jobs = false;
        for service in &mut self.services {
            self.more_jobs |= service.run_jobs(&mut self.io);
            service.fire_timers(stalled);
            service.flush(&mut self.io);
            service.publish();
        }
        let over = self.phase != Phase::Run && self.services.iter().all(|service| service.is_finished());
        Ok(over && self.end_jobs())
    }

    /// Nothing is left to do but jobs: takes no more, and says whether those that were accepted have run.
    fn end_jobs(&mut self) -> bool {
        // One service after the other: a job of the first may still post to the second.
        self.services.iter_mut().all(|service| service.end_jobs())
    }

    /// The driver.
    pub(crate) fn io(&self) -> &D {
        &self.io
    }

    /// The number of its first service.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// The services, in the order in which they were added.
    pub(crate) fn services(&self) -> &[Box<dyn ServiceOnShard<D>>] {
        &self.services
    }

    /// When it has something to do by itself, whatever completes: a timer, or jobs that the last turn left. Not before
    /// the last turn. An instant, and not how long until then: what a turn takes does not make timers late.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        if self.more_jobs {
            return Some(self.now);
        }
        let mut due = self.hard_end;
        for service in &self.services {
            due = match (due, service.next_timer()) {
                (Some(due), Some(timer)) => Some(due.min(timer)),
                (due, timer) => due.or(timer),
            };
        }
        due.map(|due| due.max(self.now))
    }

    /// Drains or aborts when someone asked for it.
    fn follow_phase(&mut self) {
        let phase = self.stop.phase();
        // Already, or the hard end was before it.
        if phase <= self.phase {
            return;
        }
        for service in &mut self.services {
            // What is aborted is not drained first: it would say so.
            if phase == Phase::Abort {
                service.abort();
            }
            if self.phase == Phase::Run {
                service.drain(&mut self.io);
            }
        }
        self.phase = phase;
    }

    /// Aborts when a drain takes longer than it may.
    fn follow_hurry(&mut self) {
        if self.phase != Phase::Drain {
            return;
        }
        let within = self.stop.within();
        if within != self.within {
            self.within = within;
            let end = within.and_then(|within| self.now.checked_add(within));
            self.hard_end = self.hard_end.into_iter().chain(end).min();
        }
        if self.hard_end.is_some_and(|end| end <= self.now) {
            for service in &mut self.services {
                service.abort();
            }
            self.phase = Phase::Abort;
            self.hard_end = None;
        }
    }
}
