//! Where work is handed in: threads that are started when they are needed, or the simulator.

use std::{
    io,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use anyport_driver::PortError;

use super::{OffloadError, simulated::SimPool};
use crate::logic_pool::{LogicPool, Packet, PoolConfig, PoolCounters};

/// One for each engine; an engine that offloads nothing has no thread for it.
pub(crate) struct Desk {
    config: PoolConfig,
    kind: Kind,
}

enum Kind {
    Threads(OnceLock<Result<LogicPool, String>>),
    Simulated(Mutex<SimPool>),
}

impl Desk {
    pub(crate) fn with_threads(config: PoolConfig) -> Self {
        Self { config, kind: Kind::Threads(OnceLock::new()) }
    }

    pub(crate) fn simulated(config: PoolConfig) -> Self {
        Self { config, kind: Kind::Simulated(Mutex::new(SimPool::new(config))) }
    }

    /// Starts the threads now, and not when they are needed first.
    pub(crate) fn start(&self) -> io::Result<()> {
        match self.pool() {
            Some(Err(why)) => Err(io::Error::other(why.clone())),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn pool(&self) -> Option<&Result<LogicPool, String>> {
        let Kind::Threads(pool) = &self.kind else { return None };
        Some(pool.get_or_init(|| {
            LogicPool::start(self.config).map_err(|error| {
                log::error!("the threads of the pool cannot be started: {error}");
                error.to_string()
            })
        }))
    }

    /// Hands work in. Never waits.
    pub(crate) fn submit(&self, work: Packet) -> Result<(), (Packet, OffloadError)> {
        let posted = match self.pool() {
            Some(Ok(pool)) => pool.submit(work),
            Some(Err(why)) => return Err((work, OffloadError::NoThreads(why.clone()))),
            None => match self.lock_simulated() {
                Some(mut pool) => pool.submit(work),
                None => unreachable!("a desk is one or the other"),
            },
        };
        posted.map_err(|refused| match refused {
            PortError::Full(work) => (work, OffloadError::Full),
            PortError::Closed(work) => (work, OffloadError::Cancelled),
        })
    }

    /// The simulator's half.
    pub(crate) fn lock_simulated(&self) -> Option<MutexGuard<'_, SimPool>> {
        let Kind::Simulated(pool) = &self.kind else { return None };
        Some(pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the threads, if there are any: [`LogicPool::stop_until`].
    pub(crate) fn stop(&self, at_once: bool, latest: Option<Instant>) {
        if let Kind::Threads(pool) = &self.kind
            && let Some(Ok(pool)) = pool.get()
        {
            pool.stop_until(at_once, latest);
        }
    }

    pub(crate) fn counters(&self) -> PoolCounters {
        match &self.kind {
            Kind::Threads(pool) => pool.get().and_then(|pool| pool.as_ref().ok()).map(LogicPool::counters),
            Kind::Simulated(_) => self.lock_simulated().map(|pool| pool.counters()),
        }
        .unwrap_or_default()
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("config", &self.config).finish_non_exhaustive()
    }
}
