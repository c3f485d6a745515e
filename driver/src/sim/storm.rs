//! Whole drivers in storms of faults, held to the contract: an echo service, peers and clients of its own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyport_core::{FaultKind, SendBatch};

use super::{
    Behaviour, FaultClass, FaultCounts, Faults, Rate, Sim, SimNet, SimPeer,
    random::{Drawn, hash},
};
use crate::{
    COMPLETIONS_MAX, Driver,
    options::{DriverConfig, ListenOptions, SocketOptions},
    types::{Completion, Lease, Op, OpKind, Outcome, Received, SocketKey, Token},
};

pub(super) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Four buffers, so that they run short.
pub(super) const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 64,
    receive_memory_bytes: 4 << 10,
    receive_buffer_bytes: 1 << 10,
    ..DriverConfig::DEFAULT
};

/// Waits of one phase; a phase that takes more hangs.
const WAITS_MAX: usize = 60_000;

/// The byte at a position of a stream that begins with `first`.
fn byte(first: u8, at: usize) -> u8 {
    first.wrapping_add((at * 7 + at / 256) as u8)
}

/// Bytes that must be the beginning of a stream.
#[derive(Default)]
struct Stream {
    first: u8,
    len: usize,
}

impl Stream {
    fn check(&mut self, bytes: &[u8]) {
        for byte_seen in bytes {
            self.first = if self.len == 0 { *byte_seen } else { self.first };
            assert_eq!(*byte_seen, byte(self.first, self.len), "a wrong byte at {}", self.len);
            self.len += 1;
        }
    }
}

/// A peer that writes a stream and reads its echo.
struct Client {
    peer: SimPeer,
    stream: Vec<u8>,
    written: usize,
    echo: Stream,
    buffer: Vec<u8>,
}

impl Client {
    /// Does what it can. True once it has seen the end.
    fn turn(&mut self) -> bool {
        self.written += self.peer.write(&self.stream[self.written..]);
        if self.written == self.stream.len() && self.peer.fault().is_none() {
            self.peer.shutdown_write();
        }
        self.buffer.clear();
        self.peer.read(&mut self.buffer);
        self.echo.check(&self.buffer);
        assert!(self.echo.len <= self.written, "more came back than was written");
        self.peer.is_reset() || self.peer.is_end_of_stream()
    }
}

/// What a socket of the driver is up to.
struct Agent {
    socket: SocketKey,
    received: Stream,
    /// What it has to send.
    to_send: Vec<u8>,
    /// A client, which sends a stream of its own; the others echo.
    is_client: bool,
    ended: bool,
    shut_down: bool,
    closing: bool,
    whims: u64,
}

/// A driver, what is in flight on it, and its peers.
pub(super) struct Storm {
    pub(super) net: SimNet,
    pub(super) sim: Sim,
    /// By token: the agent and the kind of operation. Agent 0 is the listener.
    in_flight: BTreeMap<u64, (usize, OpKind)>,
    agents: Vec<Option<Agent>>,
    clients: BTreeMap<u64, Client>,
    tokens: u64,
    /// Echoes that came back whole, to peers and to clients of the driver.
    pub(super) whole: usize,
    seed: u64,
    /// Agents close in the middle of things at times.
    abrupt: bool,
    pub(super) completions: Vec<Completion>,
}

impl Storm {
    /// Peers with these numbers and `own` clients of the driver itself connect to a service, each with a stream.
    pub(super) fn new(net: SimNet, seed: u64, peers: impl IntoIterator<Item = u64>, own: usize) -> Self {
        Self::with(CONFIG, net, seed, peers, own)
    }

    fn with(
        config: DriverConfig,
        net: SimNet,
        seed: u64,
        peers: impl IntoIterator<Item = u64>,
        own: usize,
    ) -> Self {
        let mut sim = net.driver(config);
        let (listener, address) = (0..100)
            .find_map(|_| sim.listen(&ANY.into(), &ListenOptions::default()).ok())
            .expect("one of a hundred times listening works");
        let address = address.ip().expect("an address of IP");
        let mut storm = Self {
            net,
            sim,
            in_flight: BTreeMap::new(),
            agents: vec![None],
            clients: BTreeMap::new(),
            tokens: 0,
            whole: 0,
            seed,
            abrupt: false,
            completions: Vec::new(),
        };
        storm.submit(0, Op::Accept { listener });
        for number in peers {
            let peer = storm.net.connect_as(number, address).expect("the backlog has room");
            let stream = storm.stream(number);
            let client = Client { peer, stream, written: 0, echo: Stream::default(), buffer: Vec::new() };
            storm.clients.insert(number, client);
        }
        for number in 0..own {
            let Ok(socket) = storm.sim.open(&address.into(), &SocketOptions::default()) else { continue };
            let to_send = storm.stream(1_000 + number as u64);
            let agent = storm.agent(socket, to_send, true);
            storm.submit(agent, Op::Connect { socket });
        }
        storm
    }

    fn stream(&self, number: u64) -> Vec<u8> {
        let drawn = Drawn(hash(self.seed, number));
        let len = 1 + drawn.up_to(6_000) as usize;
        (0..len).map(|at| byte(number as u8, at)).collect()
    }

    fn agent(&mut self, socket: SocketKey, to_send: Vec<u8>, is_client: bool) -> usize {
        let received = Stream::default();
        let agent = Agent {
            socket,
            received,
            to_send,
            is_client,
            ended: false,
            shut_down: false,
            closing: false,
            whims: 0,
        };
        self.agents.push(Some(agent));
        self.agents.len() - 1
    }

    fn submit(&mut self, agent: usize, op: Op) {
        self.tokens += 1;
        self.in_flight.insert(self.tokens, (agent, op.kind()));
        self.sim.submit(Token(self.tokens), op);
    }

    fn has(&self, agent: usize, kind: OpKind) -> bool {
        self.in_flight.values().any(|in_flight| *in_flight == (agent, kind))
    }

    /// One wait, and all that follows from it. True once everything is at rest.
    pub(super) fn turn(&mut self) -> bool {
        let mut whole = 0;
        self.clients.retain(|_, client| {
            let done = client.turn();
            whole += usize::from(done && client.echo.len == client.stream.len());
            !done
        });
        self.whole += whole;
        let mut completions = std::mem::take(&mut self.completions);
        self.sim.wait(Some(Duration::from_millis(100)), &mut completions).expect("the driver works");
        assert!(completions.len() <= COMPLETIONS_MAX);
        for completion in completions.drain(..) {
            self.see(completion);
        }
        self.completions = completions;
        self.clients.is_empty() && self.agents.iter().all(Option::is_none)
    }

    /// Turns until everything is at rest, some time after `calm`, if ever.
    pub(super) fn run(&mut self, calm_after: usize) {
        for turn in 0..WAITS_MAX {
            if turn == calm_after {
                self.net.calm();
            }
            if self.turn() {
                return;
            }
        }
        panic!("not at rest: {:?}, {} peers, {:?}", self.in_flight, self.clients.len(), self.sim);
    }

    fn see(&mut self, completion: Completion) {
        let token = completion.token.0;
        let Some(&(agent, kind)) = self.in_flight.get(&token) else {
            panic!("s03: {completion:?} of no operation in flight")
        };
        if completion.outcome.is_terminal() {
            self.in_flight.remove(&token);
        }
        let seen_of = match &completion.outcome {
            Outcome::Accepted(_) | Outcome::AcceptFaulted(_) | Outcome::AcceptEnded(_) => OpKind::Accept,
            Outcome::Connected(_) => OpKind::Connect,
            Outcome::Received(_) => OpKind::Receive,
            Outcome::Sent(..) => OpKind::Send,
            Outcome::ShutDown(_) => OpKind::Shutdown,
            Outcome::Closed(_) => OpKind::Close,
            Outcome::Appended(..) | Outcome::Synced(_) | Outcome::Rotated(_) | Outcome::FileClosed(_) => {
                unreachable!("the storm has no files")
            }
        };
        assert_eq!(seen_of, kind, "s02: an outcome of another kind");
        match completion.outcome {
            Outcome::Accepted(accepted) => {
                let agent = self.agent(accepted.socket, Vec::new(), false);
                self.go_on(agent);
            }
            Outcome::AcceptFaulted(fault) => assert_ne!(fault.kind, FaultKind::InvalidSocket),
            Outcome::AcceptEnded(fault) => panic!("s07: accepting ended: {fault}"),
            Outcome::Connected(Ok(())) => self.go_on(agent),
            Outcome::Received(Received::Data(lease)) => self.see_data(agent, lease),
            Outcome::Received(Received::EndOfStream) => {
                let state = self.agents[agent].as_mut().expect("not closed");
                state.ended = true;
                self.whole += usize::from(state.is_client && !state.closing);
                self.go_on(agent);
            }
            Outcome::Received(Received::Failed(fault)) => self.see_fault(agent, Err(fault.kind)),
            Outcome::Sent(batch, result) => {
                assert!(result.is_err() || batch.remaining() == 0, "s05: in success not all was taken");
                let state = self.agents[agent].as_mut().expect("not closed");
                state.to_send.drain(..batch.sent());
                self.see_fault(agent, result.map_err(|fault| fault.kind));
            }
            Outcome::Connected(Err(fault)) => self.close(agent, fault.kind),
            Outcome::ShutDown(result) => self.see_fault(agent, result.map_err(|fault| fault.kind)),
            Outcome::Appended(..) | Outcome::Synced(_) | Outcome::Rotated(_) | Outcome::FileClosed(_) => {
                unreachable!("the storm has no files")
            }
            Outcome::Closed(result) => {
                assert_eq!(result, Ok(()));
                assert!(!self.in_flight.values().any(|(of, _)| *of == agent), "s10: close did not join");
                self.agents[agent] = None;
            }
        }
    }

    fn see_data(&mut self, agent: usize, lease: Lease) {
        let state = self.agents[agent].as_mut().expect("s10: data after closed");
        let bytes = self.sim.bytes(&lease);
        assert!(!bytes.is_empty() && !state.ended, "s03: data after the end");
        state.received.check(bytes);
        if !state.is_client {
            state.to_send.extend_from_slice(bytes);
        }
        self.sim.recycle(lease);
        self.go_on(agent);
    }

    fn see_fault(&mut self, agent: usize, result: Result<(), FaultKind>) {
        match result {
            Ok(()) | Err(FaultKind::Cancelled) => self.go_on(agent),
            Err(kind) => self.close(agent, kind),
        }
    }

    fn close(&mut self, agent: usize, why: FaultKind) {
        assert_ne!(why, FaultKind::InvalidSocket, "s11: nothing here is invalid");
        let state = self.agents[agent].as_mut().expect("not closed");
        if !std::mem::replace(&mut state.closing, true) {
            let socket = state.socket;
            self.submit(agent, Op::Close { socket });
        }
    }

    /// Starts what an agent can do next; cancels at times.
    fn go_on(&mut self, agent: usize) {
        let (receives, sends, shuts_down) = (
            self.has(agent, OpKind::Receive),
            self.has(agent, OpKind::Send),
            self.has(agent, OpKind::Shutdown),
        );
        let state = self.agents[agent].as_mut().expect("not closed");
        let (socket, ended) = (state.socket, state.ended);
        // Whims depend on this connection only.
        state.whims += 1;
        let whim = hash(state.received.first.into(), state.whims);
        if state.closing {
            return;
        }
        let ends = !sends && !shuts_down && state.to_send.is_empty();
        let batch = (!sends && !shuts_down && !ends).then(|| SendBatch::of(&state.to_send));
        let finishes = ends && state.is_client && !std::mem::replace(&mut state.shut_down, ends);
        if !ended && !receives {
            self.submit(agent, Op::Receive { socket });
        }
        if let Some(batch) = batch {
            self.submit(agent, Op::Send { socket, batch });
        } else if ends && ended {
            self.close(agent, FaultKind::Cancelled);
        } else if finishes {
            self.submit(agent, Op::Shutdown { socket });
        }
        match Drawn(hash(self.seed, whim)).up_to(40) {
            2 if self.abrupt => self.close(agent, FaultKind::Cancelled),
            0 => self.sim.cancel(socket, OpKind::Receive),
            1 => self.sim.cancel(socket, OpKind::Send),
            _ => {}
        }
    }

    /// Nothing is left of anything but the listener.
    pub(super) fn assert_nothing_left(&mut self) {
        // Ends that their owners closed go on alone for as long as they have something to say, and connections may
        // still wait to be accepted.
        let mut turns = 0;
        while self.net.next_event_in().is_some() || self.sim.has_work() {
            assert!(turns < WAITS_MAX, "something always goes on: {:?}", self.sim);
            turns += 1;
            self.turn();
        }
        assert_eq!((self.sim.sockets(), self.sim.leases_out(), self.in_flight.len()), (1, 0, 1));
        assert_eq!(self.net.invalid_submissions(), 0);
        let net = self.net.net.borrow();
        let left: Vec<_> = net.ends.iter().map(|(_, end)| end).collect();
        assert!(left.is_empty(), "ends of connections are left: {left:?}");
    }
}

/// A storm of eight peers and three clients.
fn storm(seed: u64, faults: Faults) -> Storm {
    let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults));
    Storm::new(net, seed, 0..8, 3)
}

#[test]
fn without_faults_every_echo_comes_back_whole() {
    for seed in 0..20 {
        let mut storm = storm(seed, Faults::default());
        storm.run(usize::MAX);
        storm.assert_nothing_left();
        assert_eq!(storm.whole, 8 + 3, "seed {seed}");
        assert_eq!(storm.net.fault_counts(), FaultCounts::default());
    }
}

#[test]
fn every_class_fires_at_each_of_its_sites_and_keeps_the_contract() {
    for class in FaultClass::ALL.into_iter().filter(|class| !class.is_of_files()) {
        let mut counts = FaultCounts::default();
        for seed in 0..25 {
            let faults = Faults::default().with(class, Rate::per_million(150_000));
            let mut storm = storm(seed, faults);
            storm.abrupt = seed % 2 == 0;
            storm.run(usize::MAX);
            storm.assert_nothing_left();
            counts += &storm.net.fault_counts();
        }
        for site in FaultCounts::sites(class) {
            assert!(counts.of(class, *site) > 0, "{class} never fired at {site:?}\n{counts}");
        }
        let sites = FaultCounts::sites(class).iter().map(|site| counts.of(class, *site)).sum::<u64>();
        assert_eq!(sites, counts.total(class), "{class} fired elsewhere\n{counts}");
    }
}

#[test]
fn swarms_of_faults_keep_the_contract_and_come_to_rest() {
    for seed in 0..150 {
        let mut storm = storm(seed, Faults::drawn(seed));
        storm.abrupt = seed % 3 == 0;
        storm.run(50 + seed as usize);
        storm.assert_nothing_left();
    }
}

#[test]
fn after_calm_nothing_fires_and_no_one_waits_for_long() {
    for seed in 0..50 {
        let faults = [FaultClass::Clog, FaultClass::Silence, FaultClass::Drought]
            .into_iter()
            .fold(Faults::default(), |faults, class| faults.with(class, Rate::per_million(300_000)));
        let mut storm = storm(seed, faults);
        for _ in 0..20 {
            storm.turn();
        }
        storm.net.calm();
        let (counts, calm_at) = (storm.net.fault_counts(), storm.net.now());
        storm.run(usize::MAX);
        assert_eq!(storm.net.fault_counts(), counts);
        let took = storm.net.now() - calm_at;
        assert!(took < Duration::from_secs(1), "seed {seed}: at rest only after {took:?}");
        assert_eq!(storm.whole, 8 + 3, "seed {seed}: these faults lose nothing");
    }
}

#[test]
fn a_seed_gives_the_same_digest_and_faults() {
    let run = |seed| {
        let mut storm = storm(seed, Faults::drawn(seed));
        storm.net.record_faults(true);
        storm.run(200);
        (storm.net.digest(), storm.net.steps(), storm.net.faults_fired())
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).0, run(2).0);
}

/// A number that differs tells that what is drawn changed, or how: if that was meant, write the new ones here. That no
/// system and no build differs from another is what this is for.
#[test]
fn digests_are_the_same_on_every_system_and_in_every_build() {
    let digest = |seed| {
        let mut storm = storm(seed, Faults::drawn(seed));
        storm.run(200);
        storm.net.digest()
    };
    assert_eq!(
        [1, 2, 3].map(digest),
        [15_463_026_986_718_405_738, 7_962_125_731_315_757_923, 5_360_705_193_115_288_709]
    );
}

#[test]
fn any_tape_gives_a_legal_run_and_an_empty_one_a_quiet_run() {
    let faults = FaultClass::ALL
        .into_iter()
        .fold(Faults::default(), |faults, class| faults.with(class, Rate::per_million(100_000)));
    for seed in 0..100 {
        let len = Drawn(hash(seed, 0)).up_to(10_000);
        let bytes: Vec<u8> = (0..len).map(|at| hash(seed, 1 + at) as u8).collect();
        let net = SimNet::with_tape(bytes, Behaviour::default().with_faults(faults.clone()));
        let mut storm = Storm::new(net, seed, 0..4, 2);
        storm.abrupt = seed % 3 == 0;
        storm.run(usize::MAX);
        storm.assert_nothing_left();
    }
    for tape in [Vec::new(), vec![0; 1_000]] {
        let net = SimNet::with_tape(tape, Behaviour::default().with_faults(faults.clone()));
        let mut storm = Storm::new(net, 7, 0..4, 2);
        storm.run(usize::MAX);
        assert_eq!(storm.net.fault_counts(), FaultCounts::default());
        assert_eq!(storm.whole, 4 + 2);
    }
}

/// The faults of a storm that the driver cannot mix up among connections: those of single ends.
fn fired_without(seed: u64, without: u64) -> Vec<super::FaultId> {
    let faults = [FaultClass::Late, FaultClass::Clog, FaultClass::Reset, FaultClass::TinyBuffer]
        .into_iter()
        .fold(Faults::default(), |faults, class| faults.with(class, Rate::per_million(30_000)));
    let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults));
    net.record_faults(true);
    let config = DriverConfig { receive_memory_bytes: 64 << 10, ..CONFIG };
    let peers = (0..6).filter(|number| *number != without);
    let mut storm = Storm::with(config, net, seed, peers, 0);
    storm.run(usize::MAX);
    let fired = storm.net.faults_fired().into_iter();
    // The listener is everybody's.
    let mut fired: Vec<_> = fired.filter(|id| id.label / 2 != without && id.label < 1 << 60).collect();
    fired.sort();
    fired
}

#[test]
fn leaving_a_connection_out_leaves_the_faults_of_the_others() {
    for seed in 0..20 {
        let shortened = fired_without(seed, 3);
        let mut all = fired_without(seed, 99);
        all.retain(|id| id.label / 2 != 3);
        assert_eq!(shortened, all, "seed {seed}");
    }
}
