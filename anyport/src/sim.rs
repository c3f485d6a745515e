//! An engine on a simulated network: one thread, no socket, virtual time, and one seed that replays it.
//!
//! A handler is tested as it is, inside the real engine; only the driver below it is the simulator. Time stands
//! still while nothing happens and jumps to what happens next, so a login time-out of 30 s takes no time at all.
//!
//! ```
//! use std::time::Duration;
//! use anyport::{prelude::*, sim::SimNet};
//!
//! struct Echo;
//! impl Handler for Echo {
//!     type State = ();
//!     type Codec = Lines;
//!     fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) { session.send(&frame); }
//! }
//!
//! let net = SimNet::new(7);
//! let mut engine = Engine::new()?.serve(Server::bind("10.0.0.1:7000", Lines::default()), |_shard| Echo)?.simulate(&net)?;
//! let mut peer = net.connect(engine.address(0).unwrap())?;
//! assert_eq!(engine.ask(&mut peer, b"hello\n", b"\n", Duration::from_secs(1)), b"hello\n");
//! engine.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What goes wrong on a network is drawn by [`Faults`] from the same seed. [`SimEngine::check`] looks whether the
//! engine keeps its own rules; it is worth calling in a test of a handler too, because a breach there is our bug.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_driver::{
    Address, DriverKind,
    relay::{Relay, Stepped},
    sim::Sim,
};

pub use anyport_driver::sim::{
    Behaviour, FaultClass, FaultCounts, FaultId, FaultSite, Faults, Rate, SimNet, SimPeer, SimPeerListener,
};

use crate::{
    counters::{Counters, Published},
    engine::{Engine, ShardPlan, Spread},
    error::{Error, Result},
    logic_pool::PoolCounters,
    offload::{Desk, OffloadError},
    recent::{Closed, Recent},
    shard_loop::ShardLoop,
    stop::{Phase, Stop},
};

/// Turns and moves of the clock that [`SimEngine::stop`] allows for each of its phases.
const STOP_STEPS_MAX: u64 = 10_000_000;

/// Turns in which the clock may stand still; each further one takes [`TURN_TIME`].
const TURNS_AT_ONCE_MAX: u32 = 1_000;
const TURN_TIME: Duration = Duration::from_micros(30);

impl Engine {
    /// Brings the engine to life on a simulated network instead of the system's. Nothing runs by itself: the
    /// caller steps it. Every server is listening when this returns.
    ///
    /// Addresses of services are those of the simulated network: any but the ones reserved for documentation.
    /// Choice of driver, pinning and signals do not apply.
    ///
    /// # Errors
    /// If there is no service, or an address cannot be listened on.
    pub fn simulate(self, net: &SimNet) -> Result<SimEngine> {
        if self.services.is_empty() {
            return Err(Error::NoServices);
        }
        let spread = self.spread_with(DriverKind::Sim)?;
        let (templates, logic) = self.place(net.seed());
        let mut engine = SimEngine {
            net: net.clone(),
            shards: Vec::new(),
            logic: Vec::new(),
            addresses: vec![None; templates.len()],
            recent: self.services.iter().map(|service| service.recent.clone()).collect(),
            published: self.services.into_iter().map(|service| service.published).collect(),
            stop: self.stop,
            desk: Arc::new(Desk::simulated(self.pool.unwrap_or_default())),
            turns_at_once: 0,
        };
        for shard in 0..self.shards {
            let plan = ShardPlan {
                shard,
                kind: DriverKind::Sim,
                config: self.config,
                hands_over: spread == Spread::HandOver && self.shards > 1,
                pin: None,
                templates: templates.clone(),
                addresses: engine.addresses.clone(),
                stop: engine.stop.clone(),
                seed: net.seed(),
                desk: Arc::clone(&engine.desk),
            };
            let mut running = plan.build(net.driver(self.config), |template, birth| template.on_sim(birth));
            for (known, bound) in engine.addresses.iter_mut().zip(running.start()?) {
                *known = known.take().or(bound);
            }
            engine.shards.push(Some(running));
        }
        for plan in logic {
            let clock = net.clone();
            let bound = engine.addresses[plan.service].clone();
            let mut running =
                plan.build(bound, Arc::clone(&engine.desk), Box::new(Stepped::new(move || clock.now())));
            running.start()?;
            engine.logic.push(Some(running));
        }
        Ok(engine)
    }
}

/// What one step of a simulated engine was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// This shard had a turn; the clock stood still. Logic threads are numbered behind the shards.
    Turn(usize),
    /// Nothing was left to do at this time: the clock moved on by so much.
    Time(Duration),
    /// Nothing is left to happen at all, until somebody outside does something.
    Rest,
}

/// An engine on a simulated network, stepped by its owner.
///
/// Dropping it closes every connection without a word to the handlers; [`stop`](Self::stop) ends it in order.
pub struct SimEngine {
    net: SimNet,
    /// `None` once a shard has ended, as its thread would have.
    shards: Vec<Option<ShardLoop<Sim>>>,
    /// Logic threads, which are no threads here.
    logic: Vec<Option<ShardLoop<Relay>>>,
    addresses: Vec<Option<Address>>,
    published: Vec<Vec<Arc<Published>>>,
    recent: Vec<Vec<Arc<Recent>>>,
    stop: Stop,
    desk: Arc<Desk>,
    /// Turns since the clock moved by itself.
    turns_at_once: u32,
}

impl SimEngine {
    /// The network it is on.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// The IP address and port at which a service listens, by the order in which services were added. `None` for
    /// clients, and for services at Unix sockets: see [`listens_at`](Self::listens_at).
    pub fn address(&self, service: usize) -> Option<SocketAddr> {
        self.listens_at(service)?.ip()
    }

    /// Where a service listens, by the order in which services were added. `None` for clients.
    pub fn listens_at(&self, service: usize) -> Option<&Address> {
        self.addresses.get(service)?.as_ref()
    }

    /// Counters of a service, summed over its shards. Zeros if there is no such service.
    pub fn counters(&self, service: usize) -> Counters {
        Published::sum(self.published.get(service))
    }

    /// What the pool does, and has done.
    pub fn pool_counters(&self) -> PoolCounters {
        self.desk.counters()
    }

    /// The sessions of a service that ended last, as [`Running::recently_closed`](crate::Running::recently_closed)
    /// gives them.
    pub fn recently_closed(&self, service: usize) -> Vec<Closed> {
        self.recent.get(service).map(|shards| Recent::of_all(shards)).unwrap_or_default()
    }

    /// A handle that ends the engine.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// True once every shard and logic thread has ended.
    pub fn is_finished(&self) -> bool {
        self.shards.iter().all(Option::is_none) && self.logic.iter().all(Option::is_none)
    }

    // ---- steps ----

    /// One step: a turn of a shard that has something to do, or the clock moves to what happens next. Which
    /// shard it is when several could is drawn by the network's seed.
    pub fn step(&mut self) -> Step {
        self.step_within(Duration::MAX)
    }

    /// A step that moves the clock by `most` at most. Where that is too short for anything to happen, the clock
    /// moves all the same.
    pub fn step_within(&mut self, most: Duration) -> Step {
        // What is due at this moment happens first.
        self.net.advance(Duration::ZERO);
        let now = self.net.now();
        self.do_offloaded(now);
        let busy = self.busy(now).count();
        if busy > 0 && self.turns_at_once >= TURNS_AT_ONCE_MAX {
            // Whoever always has something to do, as a timer of zero that sets itself again, sees time pass all the
            // same, as with every real clock.
            self.net.advance((TURN_TIME / busy as u32).min(most));
        }
        if busy > 0 {
            let nth = match busy {
                1 => 0,
                // Time passes: nobody waits longer than the others' turns take.
                _ if self.turns_at_once >= TURNS_AT_ONCE_MAX => self.turns_at_once as usize % busy,
                _ => self.net.draw(busy as u64 - 1) as usize,
            };
            let shard = self.busy(now).nth(nth).expect("it was counted");
            self.turn(shard);
            return Step::Turn(shard);
        }
        let of_logic = self.thinking().filter_map(|(_, logic)| logic.due_at());
        let of_shards = self.running().filter_map(|(_, shard)| shard.due_at());
        let timers = of_shards.chain(of_logic).chain(self.offloaded_due_at());
        let timer = timers.min().map(|due| due.saturating_duration_since(now));
        let Some(next) = timer.into_iter().chain(self.net.next_event_in()).min() else {
            return Step::Rest;
        };
        self.turns_at_once = 0;
        let by = next.min(most);
        self.net.advance(by);
        Step::Time(by)
    }

    fn running(&self) -> impl Iterator<Item = (usize, &ShardLoop<Sim>)> {
        self.shards.iter().enumerate().filter_map(|(at, shard)| Some((at, shard.as_ref()?)))
    }

    fn thinking(&self) -> impl Iterator<Item = (usize, &ShardLoop<Relay>)> {
        self.logic.iter().enumerate().filter_map(|(at, logic)| Some((at, logic.as_ref()?)))
    }

    /// The shards that have something to do, and behind them the logic threads.
    fn busy(&self, now: Instant) -> impl Iterator<Item = usize> {
        let is_due = move |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let shards = self.running().filter(move |(_, shard)| shard.io().has_work() || is_due(shard.due_at()));
        let logic = self.thinking().filter(move |(_, logic)| logic.io().has_work() || is_due(logic.due_at()));
        shards.map(|(at, _)| at).chain(logic.map(|(at, _)| at + self.shards.len()))
    }

    fn turn(&mut self, shard: usize) {
        self.turns_at_once = self.turns_at_once.saturating_add(1);
        if let Some(at) = shard.checked_sub(self.shards.len()) {
            let logic = self.logic[at].as_mut().expect("only a running one has a turn");
            if logic.turn_at_once().expect("a relay's wait does not fail") {
                self.logic[at] = None;
            }
            return;
        }
        let running = self.shards[shard].as_mut().expect("only a running shard has a turn");
        let over = running.turn_at_once().expect("the simulator's wait does not fail");
        if over {
            self.shards[shard] = None;
            if self.is_finished() {
                self.end_offloaded();
            }
        }
    }

    // ---- offloaded work ----

    /// Does what is due, on this thread; results come in by the mailboxes. Work that hands in more is not met here:
    /// only handlers can.
    fn do_offloaded(&mut self, now: Instant) {
        let simulated = || self.desk.lock_simulated().expect("a simulated engine has a simulated pool");
        simulated().plan(now, |max| self.net.draw(max));
        loop {
            // Not locked while it runs: it is the user's.
            let Some(work) = simulated().take_due(now) else { return };
            let in_order = work.run();
            simulated().count_done(in_order);
        }
    }

    fn offloaded_due_at(&self) -> Option<Instant> {
        self.desk.lock_simulated()?.due_at()
    }

    /// The engine has ended: what was accepted is done, as the threads of a real one would; or dropped if it was aborted.
    fn end_offloaded(&mut self) {
        let simulated = || self.desk.lock_simulated().expect("a simulated engine has a simulated pool");
        let left = simulated().take_all();
        for work in left {
            if self.stop.phase() == Phase::Abort {
                work.refuse(OffloadError::Cancelled);
                simulated().count_cancelled();
            } else {
                let in_order = work.run();
                simulated().count_done(in_order);
            }
        }
    }

    /// Lets virtual time pass, with all that happens in it.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.net.elapsed() + time;
        self.run_until(time, |_| false);
        let left = end.saturating_sub(self.net.elapsed());
        self.net.advance(left);
    }

    /// Steps until `condition` holds, for `within` of virtual time at most. True if it came to hold.
    pub fn run_until(&mut self, within: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let end = self.net.elapsed().saturating_add(within);
        let mut last_turns = 0;
        loop {
            if condition(self) {
                return true;
            }
            let left = end.saturating_sub(self.net.elapsed());
            match self.step_within(left) {
                Step::Rest => return false,
                // What is due at the last moment still happens.
                Step::Turn(_) if left.is_zero() && last_turns < TURNS_AT_ONCE_MAX => last_turns += 1,
                Step::Turn(_) | Step::Time(_) if !left.is_zero() => {}
                Step::Turn(_) | Step::Time(_) => return condition(self),
            }
        }
    }

    /// Drains, as [`Running::stop`](crate::Running::stop) does, and steps until every shard has ended. Sessions
    /// that take longer than their drain deadline are closed by it.
    ///
    /// # Errors
    /// If a shard has not ended after ten million steps: that is a bug of anyport, and worth a report.
    pub fn stop(&mut self) -> Result<()> {
        self.stop.drain();
        for _ in 0..STOP_STEPS_MAX {
            if self.is_finished() {
                return Ok(());
            }
            if self.step() == Step::Rest {
                break;
            }
        }
        let shard = self.running().next().map_or(0, |(at, _)| at);
        Err(Error::Shard {
            shard,
            source: std::io::Error::other("it did not end after it was told to drain"),
        })
    }

    // ---- the other side, for tests ----

    /// Writes all of `bytes` on the peer's side, in parts as there is room, for `within` of virtual time at most.
    /// Gives how many were taken.
    pub fn write(&mut self, peer: &mut SimPeer, bytes: &[u8], within: Duration) -> usize {
        let mut written = 0;
        self.run_until(within, |_| {
            written += peer.write(&bytes[written..]);
            written == bytes.len() || peer.is_reset()
        });
        written
    }

    /// Reads on the peer's side until what was read ends with `end`, the stream ends, or `within` of virtual
    /// time has passed. Gives what was read.
    pub fn read(&mut self, peer: &mut SimPeer, end: &[u8], within: Duration) -> Vec<u8> {
        let mut read = Vec::new();
        self.run_until(within, |_| {
            peer.read(&mut read);
            read.ends_with(end) || peer.is_end_of_stream() || peer.is_reset()
        });
        read
    }

    /// Reads one line on the peer's side, its end included, and nothing after it; what came, if the stream ends or
    /// `within` of virtual time passes before it is whole. Bytes that are no UTF-8 are replaced.
    pub fn read_line(&mut self, peer: &mut SimPeer, within: Duration) -> String {
        let mut line = Vec::new();
        self.run_until(within, |_| {
            while !line.ends_with(b"\n") && peer.read_at_most(1, &mut line) > 0 {}
            line.ends_with(b"\n") || peer.is_end_of_stream() || peer.is_reset()
        });
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Reads on the peer's side until the stream ends, in order or by a reset, or `within` of virtual time has
    /// passed. Gives what was read.
    pub fn read_to_end(&mut self, peer: &mut SimPeer, within: Duration) -> Vec<u8> {
        let mut read = Vec::new();
        self.run_until(within, |_| {
            peer.read(&mut read);
            peer.is_end_of_stream() || peer.is_reset()
        });
        read
    }

    /// [`write`](Self::write)s, then [`read`](Self::read)s.
    pub fn ask(&mut self, peer: &mut SimPeer, bytes: &[u8], end: &[u8], within: Duration) -> Vec<u8> {
        self.write(peer, bytes, within);
        self.read(peer, end, within)
    }

    // ---- rules ----

    /// Looks whether the engine keeps its rules between turns: every buffer and batch has one owner, every
    /// session waits for something that is under way, limits hold, counters balance, listeners listen.
    ///
    /// # Errors
    /// Says which rule is broken, and by whom. It is a bug of anyport.
    pub fn check(&self) -> std::result::Result<(), String> {
        for (at, shard) in self.running() {
            let io = shard.io();
            let mut slots = 0;
            for (number, service) in shard.services().iter().enumerate() {
                let audit = service.audit();
                if let Some(breach) = audit.breach {
                    return Err(format!("shard {at}, service {number}: {breach}"));
                }
                slots += audit.slots;
            }
            check_driver(io, slots).map_err(|breach| format!("shard {at}: {breach}"))?;
        }
        for (at, logic) in self.thinking() {
            let audit = logic.services()[0].audit();
            let breach = audit.breach.or_else(|| check_relay(logic.io(), audit.slots).err());
            if let Some(breach) = breach {
                return Err(format!("logic thread {at}, service {}: {breach}", logic.first()));
            }
        }
        Ok(())
    }

    /// What the engine still holds: sessions, connections being opened, send batches, sockets and receive buffers,
    /// those of listeners included. Zero once it has finished.
    pub fn held(&self) -> Held {
        let mut held = Held::default();
        for (_, shard) in self.running() {
            use anyport_driver::Driver as _;
            held.sockets += shard.io().sockets();
            held.buffers += shard.io().leases_out() - shard.io().leases_ready();
            for service in shard.services() {
                let audit = service.audit();
                held.sessions += audit.slots;
                held.batches += audit.batches;
                held.timers += audit.timers;
            }
        }
        for (_, logic) in self.thinking() {
            use anyport_driver::Driver as _;
            held.buffers += logic.io().leases_out();
            let audit = logic.services()[0].audit();
            held.sessions += audit.slots;
            held.batches += audit.batches;
            held.timers += audit.timers;
        }
        held
    }
}

/// Runs a test once for each seed, and says which one it was that failed. With `ANYPORT_SEED=7` in the environment
/// it runs with the seed 7 and no other, whatever `seeds` are: so a failure is replayed.
///
/// ```
/// # use anyport::sim::{Behaviour, Faults, SimNet, each_seed};
/// each_seed(0..200, |seed| {
///     let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(Faults::drawn(seed)));
///     // An engine on it, and what must hold in any weather.
///     # assert_eq!(net.seed(), seed);
/// });
/// ```
///
/// # Panics
/// If the test does; or if `ANYPORT_SEED` is no number.
pub fn each_seed(seeds: impl IntoIterator<Item = u64>, mut test: impl FnMut(u64)) {
    let mut run = |seed| {
        let failing = SaysSeed(seed);
        test(seed);
        drop(failing);
    };
    match std::env::var("ANYPORT_SEED") {
        Ok(seed) => run(seed.parse().expect("ANYPORT_SEED must be a number, as in ANYPORT_SEED=7")),
        Err(_) => seeds.into_iter().for_each(run),
    }
}

/// Says the seed if it goes in a panic.
struct SaysSeed(u64);

impl Drop for SaysSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} failed; ANYPORT_SEED={seed} replays it");
        }
    }
}

fn check_relay(io: &Relay, slots: usize) -> std::result::Result<(), String> {
    use anyport_driver::Driver as _;
    if io.sockets() < slots {
        return Err(format!("{slots} sessions have only {} sockets", io.sockets()));
    }
    if io.leases_out() > 0 {
        return Err(format!("{} receive buffers were kept over a turn", io.leases_out()));
    }
    Ok(())
}

fn check_driver(io: &Sim, slots: usize) -> std::result::Result<(), String> {
    use anyport_driver::Driver as _;
    let (sockets, leases) = (io.sockets(), io.leases_out() - io.leases_ready());
    if sockets + io.closes_ready() < slots {
        return Err(format!("{slots} sessions have only {sockets} sockets"));
    }
    if io.invalid_submissions() > 0 {
        return Err(
            "an operation was submitted on a socket that was not there, or not in a state for it".to_owned()
        );
    }
    if leases > 0 {
        return Err(format!("{leases} receive buffers were kept over a turn"));
    }
    Ok(())
}

/// What a simulated engine holds: [`SimEngine::held`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Sessions, and connections that are being opened.
    pub sessions: usize,
    /// Send batches, queued or in flight.
    pub batches: usize,
    /// Sockets, listeners included.
    pub sockets: usize,
    /// Receive buffers that the engine has not given back.
    pub buffers: usize,
    /// Timers and time-outs that are set.
    pub timers: usize,
}

impl std::fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimEngine")
            .field("net", &self.net)
            .field("shards", &self.shards.len())
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
