//! Where handlers run: with the I/O, or on logic threads of their own. See docs/placement.md.

use std::{
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use anyport_core::SessionId;
use anyport_driver::{
    Address, Driver, DriverConfig,
    relay::{self, EndSeat, Parked, Pump, Relay, RelaySeat},
};

use crate::{
    engine::{AbortOnPanic, pin_thread},
    error::{Error, Result},
    offload::Desk,
    shard_loop::ShardLoop,
    stop::Stop,
    template::{ShardBirth, Template},
};

/// On which threads a service's handlers run. The handler's code is the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Placement {
    /// Where the data arrives: each shard has a handler, and the sessions that it accepted. The fastest, and the
    /// default.
    #[default]
    Shard,
    /// On threads of their own: the shards do the I/O of all, and each logic thread has a handler and its part of the
    /// sessions. With one thread all sessions are in one place, as in a game server with one world: any handler event
    /// may look at all of them, without a lock.
    ///
    /// What is called a shard elsewhere is a logic thread then: the number that the handler is made with,
    /// [`SessionId::shard`], [`Shard`](crate::Shard), [`Remote::shards`](crate::Remote::shards) and counters. A message
    /// is copied once more, and crosses to the logic thread and back with others: see docs/placement.md for the cost.
    Logic {
        /// How many, 1 to 256.
        threads: usize,
    },
}

impl Placement {
    /// On how many threads handlers run, in an engine with this many shards.
    pub(crate) fn threads(self, shards: usize) -> Result<usize> {
        match self {
            Self::Shard => Ok(shards),
            Self::Logic { threads } if (1..=SessionId::SHARDS_MAX).contains(&threads) => Ok(threads),
            Self::Logic { threads } => Err(Error::LogicThreads { threads }),
        }
    }
}

/// Links between the logic threads of a service and all shards.
pub(crate) struct Links {
    /// For each logic thread, its seats, in the order of the shards.
    pub(crate) relays: Vec<Vec<RelaySeat>>,
    /// For each shard, its seats, in the order of the logic threads.
    pub(crate) ends: Vec<Vec<EndSeat>>,
}

impl Links {
    pub(crate) fn new(threads: usize, shards: usize) -> Self {
        let mut ends: Vec<_> = (0..shards).map(|_| Vec::with_capacity(threads)).collect();
        let mut seat_of = |ends: &mut Vec<EndSeat>| {
            let (relay, end) = relay::link();
            ends.push(end);
            relay
        };
        let relays = (0..threads).map(|_| ends.iter_mut().map(&mut seat_of).collect()).collect();
        Self { relays, ends }
    }
}

/// What one logic thread is told.
pub(crate) struct LogicPlan {
    /// Among the logic threads of all services.
    pub(crate) number: usize,
    /// Among those of its service.
    pub(crate) thread: usize,
    pub(crate) service: usize,
    pub(crate) template: Arc<dyn Template>,
    pub(crate) seats: Vec<RelaySeat>,
    pub(crate) config: DriverConfig,
    pub(crate) stop: Stop,
    pub(crate) seed: u64,
}

pub(crate) type LogicThread = JoinHandle<Result<()>>;

impl LogicPlan {
    /// Starts the thread, bound to a processor if there is one for it, and waits until its service has started. The shards
    /// listen at `bound` for it.
    pub(crate) fn spawn(
        self,
        bound: Option<Address>,
        desk: Arc<Desk>,
        processor: Option<usize>,
    ) -> Result<LogicThread> {
        let number = self.number;
        let fail = |source| Error::LogicThread { thread: number, source };
        let (tell, told) = channel();
        let thread = std::thread::Builder::new()
            .name(format!("anyport-logic-{number}"))
            .spawn(move || {
                pin_thread(processor, "logic thread", number);
                self.run(bound, desk, &tell)
            })
            .map_err(fail)?;
        match told.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(fail(std::io::Error::other("it ended while it started"))),
        }
    }

    fn run(self, bound: Option<Address>, desk: Arc<Desk>, tell: &Sender<Result<()>>) -> Result<()> {
        let stop = self.stop.clone();
        let number = self.number;
        let _others = AbortOnPanic(stop.clone());
        let mut logic = self.build(bound, desk, Box::new(Parked::here()));
        if let Err(error) = logic.start() {
            let _ = tell.send(Err(error));
            return Ok(());
        }
        // The first turn wants connections: whoever connects from now on is one of those that this thread gets.
        let mut first = Some(logic.turn_at_once());
        let _ = tell.send(Ok(()));
        loop {
            match first.take().unwrap_or_else(|| logic.turn()) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(source) => {
                    let error = Error::LogicThread { thread: number, source };
                    log::error!("{error}; the engine stops");
                    stop.abort();
                    return Err(error);
                }
            }
        }
    }

    /// The service on its relay, not started.
    pub(crate) fn build(
        self,
        bound: Option<Address>,
        desk: Arc<Desk>,
        pump: Box<dyn Pump>,
    ) -> ShardLoop<Relay> {
        let now: Instant = pump.now();
        let io = Relay::new(self.seats, self.config, pump);
        let birth = ShardBirth {
            shard: self.thread,
            hands_over: false,
            bound,
            now,
            seed: self.seed,
            waker: io.waker(),
            desk,
        };
        let service = self.template.on_relay(&birth);
        ShardLoop::of_service(io, self.service, service, self.stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_a_range() {
        assert_eq!(Placement::Shard.threads(3).unwrap(), 3);
        assert_eq!(Placement::Logic { threads: 1 }.threads(3).unwrap(), 1);
        for threads in [0, 257] {
            let text = Placement::Logic { threads }.threads(3).unwrap_err().to_string();
            assert!(text.contains("1 to 256") && text.contains(&format!("not {threads}")), "{text}");
        }
    }

    #[test]
    fn every_thread_has_a_link_to_every_shard() {
        let links = Links::new(2, 3);
        assert_eq!(links.relays.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(links.ends.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    }
}
