//! A service without a network: its sessions are with whoever is in the same process.
//!
//! It has a driver of its own, whose connections are in memory, and is otherwise a service as any other on its shard.
//! The shard's own driver only sleeps for it: a peer that writes wakes that.

use std::time::{Duration, Instant};

use anyport_driver::{
    Address, Completion, Driver, DriverConfig,
    pipes::{PipeHub, Pipes},
};

use super::{ServiceOnShard, ServiceShard};
use crate::{audit::Audit, error::Result, handler::Handler};

/// Memory for what arrives. Sessions in memory hold what is on its way themselves.
const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 1 << 20,
    receive_memory_bytes: 1 << 20,
    receive_buffer_bytes: 64 << 10,
    ..DriverConfig::DEFAULT
};

pub(crate) struct OfflineService<H: Handler> {
    service: ServiceShard<H>,
    io: Pipes,
    completions: Vec<Completion>,
}

impl<H: Handler> OfflineService<H> {
    pub(crate) fn new(service: ServiceShard<H>, hub: &PipeHub, waker: anyport_driver::Waker) -> Self {
        hub.wake_too(waker);
        Self { service, io: Pipes::new(hub, CONFIG), completions: Vec::new() }
    }

    fn on_pipes(&mut self) -> (&mut dyn ServiceOnShard<Pipes>, &mut Pipes) {
        (&mut self.service, &mut self.io)
    }
}

impl<D: Driver, H: Handler> ServiceOnShard<D> for OfflineService<H> {
    fn start(&mut self, _: &mut D) -> Result<Option<Address>> {
        let (service, io) = self.on_pipes();
        service.start(io)?;
        // It listens nowhere that anybody could name.
        Ok(None)
    }

    fn set_now(&mut self, now: Instant) {
        self.on_pipes().0.set_now(now);
    }

    fn complete(&mut self, _: &mut D, completion: Completion) {
        unreachable!("the shard's driver has nothing of this service: {completion:?}");
    }

    fn run_jobs(&mut self, _: &mut D) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        // It does not wait, so it cannot fail.
        let _ = self.io.wait(Some(Duration::ZERO), &mut completions);
        let (service, io) = self.on_pipes();
        for completion in completions.drain(..) {
            service.complete(io, completion);
        }
        let more = service.run_jobs(io);
        self.completions = completions;
        more
    }

    fn fire_timers(&mut self, stalled: bool) {
        self.on_pipes().0.fire_timers(stalled);
    }

    fn flush(&mut self, _: &mut D) {
        let (service, io) = self.on_pipes();
        service.flush(io);
    }

    fn next_timer(&self) -> Option<Instant> {
        if self.io.has_work() {
            return Some(self.service.local.now);
        }
        ServiceOnShard::<Pipes>::next_timer(&self.service)
    }

    fn drain(&mut self, _: &mut D) {
        let (service, io) = self.on_pipes();
        service.drain(io);
    }

    fn abort(&mut self) {
        self.on_pipes().0.abort();
    }

    fn is_finished(&self) -> bool {
        ServiceOnShard::<Pipes>::is_finished(&self.service)
    }

    fn end_jobs(&mut self) -> bool {
        self.on_pipes().0.end_jobs()
    }

    fn publish(&mut self) {
        self.on_pipes().0.publish();
    }

    fn audit(&self) -> Audit {
        // Its sessions have no sockets of the shard's driver.
        Audit { slots: 0, ..ServiceOnShard::<Pipes>::audit(&self.service) }
    }
}
