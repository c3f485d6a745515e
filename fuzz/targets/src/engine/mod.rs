//! A whole engine on the simulator, where all chance comes from the bytes: what its peers do, what the network does,
//! and in which order things complete. Whatever happens, nothing panics; the engine keeps its rules between any two
//! steps; sessions open once, close once and keep the order of their bytes; and when the faults are over it ends.

mod handler;
mod peers;
mod wire;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyport::{
    Client, CloseReason, Codec, DriverConfig, Engine, Limits, Lines, Raw, Remote, SendMarks, Server,
    SizeKind, Spread,
    sim::{Behaviour, SimEngine, SimNet, SimPeerListener, Step},
};
use anyport_driver::sim::{FaultClass, Faults, Rate};

use self::{
    handler::{Ledger, Recorder, open},
    peers::Peer,
    wire::{FRAME_SIZE_MAX, Wire},
};
use crate::input::Input;

/// Where the engine's server listens.
const SERVER: &str = "10.0.0.1:7000";
/// Where something outside listens, for the engine's client.
const OUTSIDE_PORT: u16 = 9000;
/// Peers that one input may have.
const PEERS_MAX: usize = 40;
/// Steps that the engine may take until it has ended.
const STEPS_MAX: usize = 100_000;

/// The input is the shape of the engine, which faults there are, the length of a script and the script; the rest
/// decides what chance decides elsewhere.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let shape = Shape::draw(&mut input);
    match shape.wire {
        Wire::Raw => play(&shape, &Raw, &mut input),
        Wire::Lines => play(&shape, &Lines::new(FRAME_SIZE_MAX), &mut input),
        Wire::SizeKind => play(&shape, &SizeKind::new(FRAME_SIZE_MAX as u16), &mut input),
    }
}

struct Shape {
    wire: Wire,
    shards: usize,
    spread: Spread,
    clients: usize,
    limits: Limits,
    sockets_max: u32,
    faults: Vec<FaultClass>,
}

impl Shape {
    fn draw(input: &mut Input<'_>) -> Self {
        let (sizes, limits) = (input.byte(), input.byte());
        let faults = input.u32();
        let limits = Limits {
            sessions_max: if limits & 1 == 0 { 64 } else { 3 },
            idle_timeout: (limits & 2 != 0).then_some(Duration::from_secs(5)),
            drain_deadline: Duration::from_secs(2),
            linger: Duration::from_millis(500),
            send: SendMarks { high_water_bytes: 512, low_water_bytes: 128, queue_max_bytes: 4_096 },
            pause_reading_under_pressure: limits & 4 == 0,
            ..Limits::default()
        };
        let on = |class: &FaultClass| faults >> (*class as u32) & 1 == 1;
        Self {
            wire: [Wire::Raw, Wire::Lines, Wire::SizeKind][usize::from(sizes % 3)],
            shards: 1 + usize::from(sizes >> 2 & 1),
            spread: if sizes & 0x20 == 0 { Spread::ReusePort } else { Spread::HandOver },
            clients: usize::from(sizes >> 3 & 3),
            limits,
            sockets_max: if sizes & 0x80 == 0 { 64 } else { 6 },
            faults: FaultClass::ALL.into_iter().filter(on).collect(),
        }
    }

    fn behaviour(&self) -> Behaviour {
        // How often is the tape's affair: the rate only says how many of its bytes mean yes.
        let often = Rate::per_million(200_000);
        let faults = self.faults.iter().fold(Faults::default(), |faults, class| faults.with(*class, often));
        Behaviour::default()
            .with_socket_buffer_bytes(64..=4_096)
            .with_step_bytes_max(1_024)
            .with_faults(faults.with_times_max(Duration::from_secs(3)))
    }

    /// True if no operation on a connection fails unless the peer does something.
    fn is_orderly(&self) -> bool {
        let breaks = [FaultClass::Send, FaultClass::Receive, FaultClass::Shutdown];
        !self.faults.iter().any(|class| breaks.contains(class))
    }
}

fn play<C: Codec>(shape: &Shape, codec: &C, input: &mut Input<'_>) {
    let script = usize::from(input.u16() % 512);
    let mut script = Input::new(input.take(script));
    let net = SimNet::with_tape(input.rest().to_vec(), shape.behaviour());
    let Some(mut world) = World::new(shape, codec, net) else { return };
    while let Some(step) = script.next() {
        world.act(step, &mut script);
        world.run([0, 1, 2, 4, 8, 16, 40, 100][usize::from(step >> 5)]);
    }
    world.welcome();
    world.end(script.flag(), shape.is_orderly());
}

struct World<C: Codec> {
    wire: Wire,
    net: SimNet,
    engine: SimEngine,
    remote: Remote<Recorder<C>>,
    outside: SimPeerListener,
    ledger: Arc<Mutex<Ledger>>,
    peers: Vec<Peer>,
    services: usize,
    idle_timeout: Option<Duration>,
    stopping: bool,
    aborted: bool,
}

impl<C: Codec> World<C> {
    /// `None` if the faults do not let it listen.
    fn new(shape: &Shape, codec: &C, net: SimNet) -> Option<Self> {
        let ledger = Arc::<Mutex<Ledger>>::default();
        let make = {
            let (ledger, wire, limits) = (Arc::clone(&ledger), shape.wire, shape.limits);
            move |_| Recorder::new(Arc::clone(&ledger), wire, limits)
        };
        // Few buffers, and small ones: shortages are what is interesting.
        let config = DriverConfig {
            sockets_max: shape.sockets_max,
            receive_memory_bytes: 2_048,
            receive_buffer_bytes: 512,
            ..DriverConfig::DEFAULT
        };
        let outside = net.listen(([10, 0, 0, 2], OUTSIDE_PORT).into()).expect("nobody else listens there");
        let engine = Engine::new().expect("it needs nothing of the system");
        let mut engine =
            engine.shards(shape.shards).expect("one or two").driver_config(config).spread(shape.spread);
        let server = Server::bind(SERVER, codec.clone()).limits(shape.limits).backlog(4);
        let remote = engine.add_server(server, make.clone()).expect("the limits are valid");
        if shape.clients > 0 {
            let client = Client::to(format!("10.0.0.2:{OUTSIDE_PORT}"), codec.clone())
                .limits(shape.limits)
                .connections(shape.clients);
            engine.add_client(client, make).expect("the limits are valid");
        }
        let engine = engine.simulate(&net).ok()?;
        let services = 1 + usize::from(shape.clients > 0);
        let (wire, idle_timeout) = (shape.wire, shape.limits.idle_timeout);
        Some(Self {
            wire,
            net,
            engine,
            remote,
            outside,
            ledger,
            peers: Vec::new(),
            services,
            idle_timeout,
            stopping: false,
            aborted: false,
        })
    }

    fn act(&mut self, step: u8, script: &mut Input<'_>) {
        match step & 0x1f {
            0..=4 if self.peers.len() < PEERS_MAX => {
                let address = self.engine.address(0).expect("the server listens");
                if let Ok(peer) = self.net.connect(address) {
                    self.peers.push(Peer::new(peer, true));
                }
            }
            5 | 6 if self.peers.len() < PEERS_MAX => {
                if let Some(peer) = self.outside.accept() {
                    self.peers.push(Peer::new(peer, false));
                }
            }
            7..=13 => {
                let wire = self.wire;
                let (what, size) = (what(script), usize::from(script.byte() % 240));
                self.peer(script, |peer, _| peer.say(wire, what, u16::from(step), size));
            }
            14 => {
                let count = usize::from(script.byte() % 16);
                let bytes = script.take(count);
                self.peer(script, |peer, _| peer.babble(bytes));
            }
            15 => self.peer(script, |peer, _| peer.write()),
            16 | 17 => {
                let most = usize::from(script.byte()) * 16;
                self.peer(script, |peer, ledger| peer.read(most, ledger));
            }
            18 => self.peer(script, |peer, _| peer.shut_down()),
            19 => self.peer(script, |peer, _| peer.close()),
            20 => self.peer(script, |peer, _| peer.reset()),
            21 | 22 => self.advance(script.byte()),
            23 | 24 => self.post(script),
            25 => {
                let (shard, jobs) = (usize::from(script.byte() % 3), 1 + script.byte() % 3);
                for _ in 0..jobs {
                    let posted = self
                        .remote
                        .post_to_shard(shard, |recorder, shard| {
                            recorder.ledger().jobs_ran += 1;
                            shard.for_each(|session| recorder.act(session, b'e', 9, b"to all"));
                        })
                        .is_ok();
                    open(&self.ledger).jobs_posted += usize::from(posted);
                }
            }
            26 if script.byte() < 64 => {
                self.stopping = true;
                self.engine.stopper().drain();
            }
            27 if script.byte() < 32 => {
                (self.stopping, self.aborted) = (true, true);
                self.engine.stopper().abort();
            }
            28 => {
                for peer in &mut self.peers {
                    peer.finish(&open(&self.ledger));
                }
            }
            // Nothing but the engine's steps.
            _ => {}
        }
    }

    fn peer(&mut self, script: &mut Input<'_>, act: impl FnOnce(&mut Peer, &Ledger)) {
        let which = usize::from(script.byte());
        // The latest first: it is the one that most is still to happen to.
        let nth = which % self.peers.len().max(1);
        if let Some(peer) = self.peers.iter_mut().rev().nth(nth) {
            act(peer, &open(&self.ledger));
        }
    }

    /// A job for a session, which may have gone.
    fn post(&mut self, script: &mut Input<'_>) {
        let (which, what) = (usize::from(script.byte()), what(script));
        let id = {
            let ledger = open(&self.ledger);
            ledger.sessions.iter().rev().nth(which % ledger.sessions.len().max(1)).map(|record| record.id)
        };
        // A client's session is of another service: it is not found there.
        if let Some(id) = id {
            let _ = self.remote.post(id, move |recorder, session| {
                recorder.ledger().ensure(session.id() == id, || "a job for another session".into());
                recorder.act(session, what, 7, b"a job");
            });
        }
    }

    /// Some time passes, at most as much as some thousand steps take.
    fn advance(&mut self, how_long: u8) {
        let millis = [1, 20, 100, 600, 2_500, 6_000, 40_000, 200_000][usize::from(how_long % 8)];
        self.pass(Duration::from_millis(millis), 3_000);
    }

    fn pass(&mut self, time: Duration, steps_max: usize) {
        let end = self.net.elapsed() + time;
        for _ in 0..steps_max {
            let left = end.saturating_sub(self.net.elapsed());
            if left.is_zero() || self.step(left) == Step::Rest {
                break;
            }
        }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.step(Duration::MAX) == Step::Rest {
                break;
            }
        }
    }

    /// One step, and all that must hold after it.
    fn step(&mut self, most: Duration) -> Step {
        let step = self.engine.step_within(most);
        if let Err(breach) = self.engine.check() {
            panic!("a rule is broken after {step:?}: {breach}");
        }
        let ledger = open(&self.ledger);
        if let Some(breach) = &ledger.breach {
            panic!("the handler saw something wrong in {step:?}: {breach}");
        }
        let jobs = (ledger.jobs_ran, ledger.jobs_posted);
        drop(ledger);
        // A shard that has ended runs no jobs any more.
        let left = step == Step::Rest && jobs.0 < jobs.1 && !self.stopping;
        assert!(!left, "it rests, and jobs wait: {jobs:?}");
        assert_eq!(self.net.invalid_submissions(), 0, "an operation on a socket that does not allow it");
        step
    }

    /// Everybody writes and reads until nothing has moved for longer than a fault delays it.
    fn come_to_rest(&mut self) {
        let (mut moved, mut still) = (0, 0);
        // Through buffers of one byte it takes a while.
        for _ in 0..2_000_000 {
            self.pass(Duration::from_millis(100), STEPS_MAX);
            for peer in &mut self.peers {
                peer.write();
                peer.read(usize::MAX, &open(&self.ledger));
            }
            let received = (0..self.services).map(|service| self.engine.counters(service).bytes_received);
            let read: usize = self.peers.iter().map(Peer::bytes_moved).sum();
            let now = received.sum::<u64>() + read as u64;
            still = if now == moved { still + 1 } else { 0 };
            moved = now;
            if still == 50 {
                return;
            }
        }
        panic!("bytes go on moving: {:?}", self.engine);
    }

    /// The faults are over. Whoever is still there gets all that was said, and a newcomer is served, unless the engine has been told to end.
    fn welcome(&mut self) {
        self.net.calm();
        if self.stopping {
            return;
        }
        self.come_to_rest();
        for peer in &self.peers {
            peer.judge_alive(self.wire, &open(&self.ledger));
        }
        // Longer than anything lasts that a fault began, and than any limit.
        let long = Duration::from_mins(10);
        if self.idle_timeout.is_some() {
            // Whoever is paused is silent because nobody listens. Who is listened to again may ask for a pause again.
            for _ in 0..64 {
                for shard in 0..2 {
                    let _ = self.remote.post_to_shard(shard, |handler, shard| {
                        shard.for_each(|session| handler.resume(session));
                    });
                }
                self.pass(Duration::from_secs(1), STEPS_MAX);
            }
            self.pass(long, STEPS_MAX);
            assert_eq!(
                self.engine.held().sessions,
                0,
                "nothing was said for {long:?}, and sessions are open"
            );
        }
        for shard in 0..2 {
            let _ = self.remote.post_to_shard(shard, |_, shard| {
                shard.for_each(|session| session.close(CloseReason::Stopped));
            });
        }
        for peer in &mut self.peers {
            peer.close();
        }
        self.pass(long, STEPS_MAX);
        while self.outside.accept().is_some() {}
        let address = self.engine.address(0).expect("the server listens");
        for _ in 0..2 {
            let mut peer = Peer::new(self.net.connect(address).expect("nobody else waits"), true);
            self.pass(Duration::from_secs(2), STEPS_MAX);
            peer.read(usize::MAX, &open(&self.ledger));
            assert!(
                peer.was_served(),
                "the faults are over, and a newcomer is not served: {:?}",
                self.engine
            );
            self.peers.push(peer);
        }
    }

    /// The faults are over: it ends, and everything it held is given back.
    fn end(mut self, leave: bool, orderly: bool) {
        self.stopping = true;
        self.engine.stopper().drain();
        if leave {
            for peer in &mut self.peers {
                peer.close();
            }
        }
        for _ in 0..STEPS_MAX {
            if self.engine.is_finished() {
                break;
            }
            let step = self.step(Duration::MAX);
            assert!(
                step != Step::Rest || self.engine.is_finished(),
                "it rests, and has not ended: {:?}",
                self.engine
            );
            while let Some(peer) = self.outside.accept() {
                self.peers.push(Peer::new(peer, false));
            }
            for peer in &mut self.peers {
                peer.finish(&open(&self.ledger));
            }
            let held = self.engine.held();
            assert!(held.sessions > 0 || held.batches + held.buffers == 0, "{held:?}");
        }
        assert!(self.engine.is_finished(), "it does not end: {:?}", self.engine);
        // What the last sessions sent is still on its way.
        self.net.advance(Duration::from_mins(1));
        let ledger = open(&self.ledger);
        for peer in &mut self.peers {
            peer.finish(&ledger);
        }
        for record in &ledger.sessions {
            assert!(record.closed.is_some(), "never told that it ended: {record:?}");
        }
        for peer in &self.peers {
            peer.judge(self.wire, &ledger, orderly && !self.aborted);
        }
        let closed: u64 =
            (0..self.services).map(|service| self.engine.counters(service).closed_total()).sum();
        assert!(closed >= ledger.sessions.len() as u64, "{closed} counted of {}", ledger.sessions.len());
        for service in 0..self.services {
            let counters = self.engine.counters(service);
            assert_eq!(counters.sessions, 0, "service {service} counts sessions that are not there");
            assert!(counters.accepted == 0 || counters.accepted == counters.closed_total(), "{counters:?}");
        }
    }
}

/// What a message or a job asks for: an echo in half of the cases.
fn what(script: &mut Input<'_>) -> u8 {
    *b"qkprnsbltxbs".get(usize::from(script.byte() % 24)).unwrap_or(&b'e')
}
