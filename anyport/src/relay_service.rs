//! A service whose handlers run on logic threads, on one shard: its I/O, and who gets which connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyport_driver::{
    Accepted, Address, Completion, Detached, Driver, DriverConfig, ListenOptions, Op, Outcome, PeerAddress,
    SocketKey, Token, Waker,
    relay::{EndSeat, RelayEnd},
};

use crate::{
    audit::Audit,
    error::{Error, Result},
    service_shard::ServiceOnShard,
    template::{OnShard, ShardBirth, Template, one_listens, share_port},
};

/// In the token of the listener, instead of an end's number.
const OWN: u64 = 0xffff;
/// In the token of a close whose end nobody waits for.
const STRAY: u64 = 1;

/// A service with logic threads, before it is on any shard.
pub(crate) struct RelayTemplate {
    service: u8,
    /// Where it listens, if it does.
    listens: Option<(Address, ListenOptions)>,
    config: DriverConfig,
    /// For each shard, until that is built.
    seats: Vec<Mutex<Vec<EndSeat>>>,
    gates: Arc<[Gate]>,
}

/// Where one shard leaves accepted connections for another.
#[derive(Default)]
struct Gate(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    connections: Vec<(Detached, PeerAddress)>,
    waker: Option<Waker>,
}

impl Gate {
    fn put(&self, detached: Detached, peer: PeerAddress) {
        let waker = {
            let mut gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            gate.connections.push((detached, peer));
            gate.waker.clone()
        };
        // A shard that is not up yet looks when it is.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn open(&self, waker: Waker) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).waker = Some(waker);
    }

    fn take(&self) -> Vec<(Detached, PeerAddress)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).connections)
    }
}

impl RelayTemplate {
    pub(crate) fn new(
        service: usize,
        listens: Option<(Address, ListenOptions)>,
        config: DriverConfig,
        ends: Vec<Vec<EndSeat>>,
    ) -> Self {
        let gates = ends.iter().map(|_| Gate::default()).collect();
        let seats = ends.into_iter().map(Mutex::new).collect();
        Self { service: service as u8, listens, config, seats, gates }
    }

    fn build(&self, birth: &ShardBirth) -> RelayService {
        let shards = self.seats.len();
        let seats = &self.seats[birth.shard];
        let seats = std::mem::take(&mut *seats.lock().unwrap_or_else(PoisonError::into_inner));
        let prefix = |end: usize| u32::from(self.service) << 24 | end as u32;
        let ends = seats
            .into_iter()
            .enumerate()
            .map(|(number, seat)| RelayEnd::new(seat, self.config, prefix(number), birth.waker.clone()));
        let mut listens = self.listens.clone();
        let mut hands_over = birth.hands_over;
        if let Some((address, listen)) = &mut listens {
            hands_over |= one_listens(address, shards);
            share_port(address, listen, birth, hands_over, shards);
        }
        let gates = if hands_over { Arc::clone(&self.gates) } else { Arc::default() };
        if let Some(gate) = gates.get(birth.shard) {
            gate.open(birth.waker.clone());
        }
        RelayService {
            service: self.service,
            shard: birth.shard,
            listens,
            ends: ends.collect(),
            // Shards begin with different threads.
            next_end: birth.shard,
            gates,
            next_gate: 0,
            listener: None,
            arrived: Vec::new(),
            accepts: false,
            closing: false,
        }
    }
}

/// One shard's part of a service with logic threads.
struct RelayService {
    service: u8,
    shard: usize,
    listens: Option<(Address, ListenOptions)>,
    /// One for each logic thread.
    ends: Vec<RelayEnd>,
    next_end: usize,
    /// Of all shards, if the first one accepts for all; else none.
    gates: Arc<[Gate]>,
    next_gate: usize,
    listener: Option<SocketKey>,
    /// What this turn accepted: handed on once it is known who accepts.
    arrived: Vec<Accepted>,
    /// Accepting has begun: a logic thread is there.
    accepts: bool,
    closing: bool,
}

impl RelayService {
    fn token(&self, which: u64) -> Token {
        Token(u64::from(self.service) << 56 | OWN << 32 | which)
    }

    /// A new connection: ours, or another shard's.
    fn accepted<D: Driver>(&mut self, io: &mut D, accepted: Accepted) {
        if !self.gates.is_empty() {
            let to = self.next_gate % self.gates.len();
            self.next_gate = self.next_gate.wrapping_add(1);
            if to != self.shard
                && let Some(detached) = io.detach(accepted.socket)
            {
                return self.gates[to].put(detached, accepted.peer);
            }
        }
        self.hand(io, accepted);
    }

    /// To the next logic thread that accepts.
    fn hand<D: Driver>(&mut self, io: &mut D, accepted: Accepted) {
        let ends = self.ends.len();
        let accepting =
            (0..ends).map(|by| (self.next_end + by) % ends).find(|&at| self.ends[at].is_accepting());
        let Some(at) = accepting else {
            return io.submit(self.token(STRAY), Op::Close { socket: accepted.socket });
        };
        self.next_end = (at + 1) % ends;
        self.ends[at].accepted(accepted);
    }

    /// Begins to accept when the first logic thread does, and closes the listener when none does any more.
    fn follow_ends<D: Driver>(&mut self, io: &mut D) {
        let Some(listener) = self.listener else { return };
        let wanted = self.ends.iter().any(RelayEnd::is_accepting);
        if wanted && !self.accepts {
            self.accepts = true;
            io.submit(self.token(0), Op::Accept { listener });
        }
        // Before the first one comes, they may all have gone: the engine could not start.
        let over = if self.accepts { !wanted } else { self.ends.iter().all(RelayEnd::is_gone) };
        if over && !std::mem::replace(&mut self.closing, true) {
            io.submit(self.token(0), Op::Close { socket: listener });
        }
    }
}

impl<D: Driver> ServiceOnShard<D> for RelayService {
    fn start(&mut self, io: &mut D) -> Result<Option<Address>> {
        let Some((address, listen)) = self.listens.clone() else { return Ok(None) };
        let here = self.gates.is_empty() || self.shard == 0;
        let bound = if here {
            let fail = |source| Error::Listen { address: address.clone(), source };
            let (listener, bound) = io.listen(&address, &listen).map_err(fail)?;
            self.listener = Some(listener);
            bound
        } else {
            address
        };
        for end in &mut self.ends {
            end.announce(bound.clone());
            // The logic threads start next, and look for it.
            end.flush();
        }
        Ok(here.then_some(bound))
    }

    fn set_now(&mut self, _: Instant) {}

    fn complete(&mut self, io: &mut D, completion: Completion) {
        let end = completion.token.0 >> 32 & OWN;
        if end != OWN {
            return self.ends[end as usize].complete(io, completion);
        }
        match completion.outcome {
            Outcome::Accepted(accepted) => self.arrived.push(accepted),
            Outcome::AcceptFaulted(fault) => {
                if let Some(end) = self.ends.iter_mut().find(|end| end.is_accepting()) {
                    end.accept_faulted(fault);
                }
            }
            Outcome::Closed(_) if completion.token == self.token(0) => self.listener = None,
            _ => {}
        }
    }

    fn run_jobs(&mut self, io: &mut D) -> bool {
        for end in &mut self.ends {
            end.take_orders(io);
        }
        self.follow_ends(io);
        let mut arrived = std::mem::take(&mut self.arrived);
        for accepted in arrived.drain(..) {
            self.accepted(io, accepted);
        }
        self.arrived = arrived;
        if let Some(gate) = self.gates.get(self.shard) {
            for (detached, peer) in gate.take() {
                if let Some(socket) = io.adopt(detached) {
                    self.hand(io, Accepted { socket, peer });
                }
            }
        }
        false
    }

    fn fire_timers(&mut self, _: bool) {}

    fn flush(&mut self, _: &mut D) {
        for end in &mut self.ends {
            end.flush();
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        None
    }

    // The logic threads end what is theirs, and then their ends here.
    fn drain(&mut self, _: &mut D) {}

    fn abort(&mut self) {}

    fn is_finished(&self) -> bool {
        self.listener.is_none() && self.ends.iter().all(RelayEnd::is_finished)
    }

    fn end_jobs(&mut self) -> bool {
        true
    }

    fn publish(&mut self) {}

    fn audit(&self) -> Audit {
        Audit::default()
    }
}

impl Template for RelayTemplate {
    #[cfg(target_os = "linux")]
    fn on_io_uring(&self, birth: &ShardBirth) -> OnShard<anyport_driver::io_uring::IoUring> {
        Box::new(self.build(birth))
    }

    #[cfg(unix)]
    fn on_readiness(&self, birth: &ShardBirth) -> OnShard<anyport_driver::readiness::Readiness> {
        Box::new(self.build(birth))
    }

    #[cfg(windows)]
    fn on_iocp(&self, birth: &ShardBirth) -> OnShard<anyport_driver::iocp::Iocp> {
        Box::new(self.build(birth))
    }

    fn on_sim(&self, birth: &ShardBirth) -> OnShard<anyport_driver::sim::Sim> {
        Box::new(self.build(birth))
    }

    fn on_relay(&self, _: &ShardBirth) -> OnShard<anyport_driver::relay::Relay> {
        unreachable!("the I/O of a service is on shards")
    }
}
