//! A port where the kernel has none: who calls has a place, and somebody may watch.

use std::{io, sync::Arc, time::Duration};

use super::{PortConfig, PortCounters, PortError, WaitEnd, portable::Portable, seat};

pub(super) struct System<T: Send + 'static> {
    port: Arc<Portable<T>>,
    #[cfg(all(target_os = "linux", not(loom)))]
    _watcher: Option<super::watcher::Watcher>,
}

impl<T: Send + 'static> System<T> {
    #[cfg_attr(
        any(not(target_os = "linux"), loom),
        expect(clippy::unnecessary_wraps, reason = "the watcher's thread may not start where there is one")
    )]
    pub(super) fn new(config: PortConfig) -> io::Result<Self> {
        let port = Arc::new(Portable::new(config.concurrency, config.queue_max_packets));
        Ok(Self {
            #[cfg(all(target_os = "linux", not(loom)))]
            _watcher: config.detect_blocked.then(|| super::watcher::Watcher::start(&port)).transpose()?,
            port,
        })
    }

    pub(super) fn try_post(&self, packet: T) -> Result<(), PortError<T>> {
        self.port.try_post(packet, false)
    }

    pub(super) fn post(&self, mut packet: T) -> Result<(), PortError<T>> {
        let patient = !seat::is_at(&self.port);
        loop {
            packet = match self.port.try_post(packet, patient) {
                Err(PortError::Full(packet)) if patient => packet,
                posted => return posted,
            };
            blocking(|| self.port.wait_for_room());
        }
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> Result<T, WaitEnd> {
        self.port.wait(seat::take(&self.port), timeout)
    }

    pub(super) fn close(&self) {
        self.port.close();
    }

    pub(super) fn take_queued(&self) -> Vec<T> {
        self.port.take_queued()
    }

    pub(super) fn counters(&self) -> PortCounters {
        self.port.counters()
    }
}

impl<T: Send + 'static> Drop for System<T> {
    fn drop(&mut self) {
        // Nobody waits: that would be a reference. Packets go here, and not wherever the last thread leaves its place.
        self.port.close();
        drop(self.port.take_queued());
    }
}

pub(super) fn blocking<R>(work: impl FnOnce() -> R) -> R {
    seat::blocking(work)
}
