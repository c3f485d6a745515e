//! One run of one plan: the engine, its handlers and its peers on one network; first in bad weather, then in good.

mod outside;

use std::{sync::Arc, time::Duration};

use anyport::{
    Client, CloseReason, Counters, Delimiter, Engine, FaultKind, LengthPrefix, LengthWidth, Lines, Placement,
    PostError, Raw, Remote, Server, SizeKind,
    sim::{
        FaultClass::{
            self, CancelLate, Clog, Drought, Late, Receive, Reset, Send, Shutdown, Silence, SlowClose,
            TinyBuffer,
        },
        FaultCounts, FaultId, Rate, SimEngine, SimNet, SimPeerListener, Step,
    },
};

use crate::{
    handler::{Everything, Shared},
    ledger::{Alarm, Ledger, Record},
    panics,
    peers::Peer,
    plan::{Act, Codec, Dial, Habit, PEERS, Plan},
    stream::{Messages, Wire},
};

use outside::Asked;
pub(crate) use outside::OUTSIDE;

const SERVER: &str = "10.0.0.1:7000";
const UPSTREAM: &str = "10.0.0.2:9000";
/// Steps within which everything must have come to rest once the faults have ended.
const REST_STEPS_MAX: u64 = 5_000_000;
/// Steps within which something must have moved meanwhile.
const IDLE_STEPS_MAX: u64 = 100_000;
/// Time that the engine is given for that: it is virtual, and covers every deadline of a plan.
const REST_TIME: Duration = Duration::from_hours(12);
/// Time within which the first messages of a peer are heard, where nothing delays them.
const HEARD_WITHIN: Duration = Duration::from_millis(500);
/// Time that the end of an engine may take besides its deadlines: some delays of the network.
const END_SLACK: Duration = Duration::from_millis(500);
/// Times that a job is posted to a mailbox that is full.
const POSTS_MAX: usize = 10_000;
/// Connections that look whether places are free again.
const PROBES_MAX: usize = 50;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was wrong, if anything was.
    pub failure: Option<String>,
    /// Turns of shards, moves of the clock and events of the network.
    pub steps: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Virtual time that passed.
    pub elapsed: Duration,
    /// Hash of everything that happened in the network.
    pub digest: u64,
    /// Faults, by kind.
    pub faults: FaultCounts,
    /// Those that fired, in order.
    pub fired: Vec<FaultId>,
    /// What happened, if it was told.
    pub story: Vec<String>,
}

/// How to run a plan.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Faults that do not fire.
    pub suppressed: Vec<FaultId>,
    /// Tell what happens.
    pub tell: bool,
    /// Also keep a rule that is wrong: whoever looks for failures must find it broken.
    pub canary: bool,
}

/// Runs a plan to its end, or to the first thing that is wrong.
pub fn run(plan: &Plan, options: &Options) -> Outcome {
    match plan.config.codec {
        Codec::Raw => run_with(plan, options, Raw),
        Codec::Lines => run_with(plan, options, Lines::new(plan.config.body_max + 1)),
        Codec::Delimiter => run_with(plan, options, Delimiter::new("\0\n", plan.config.body_max + 2)),
        Codec::LengthPrefix => {
            let codec = LengthPrefix::builder(LengthWidth::U16).frame_size_max(plan.config.body_max + 2);
            run_with(plan, options, codec.build())
        }
        Codec::SizeKind => run_with(plan, options, SizeKind::new(plan.config.body_max as u16 + 4)),
    }
}

fn run_with<C: Wire>(plan: &Plan, options: &Options, codec: C) -> Outcome {
    let net = SimNet::with_behaviour(plan.seed, plan.config.behaviour.clone());
    net.record_faults(true);
    net.suppress(options.suppressed.iter().copied());
    let mut ledger = Ledger::new(net.now(), plan.config.shards_of_services(), options.tell);
    ledger.canary = options.canary;
    let messages = Messages::new(plan.config.body_max);
    let shared = Arc::new(Shared::new(plan.seed, &plan.config, messages, ledger));
    let mut turns = 0;
    let ended = panics::caught(|| {
        World::new(plan, codec, &net, &shared)?.map_or(Ok(()), |world| world.run(&mut turns))
    });
    let failure = match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(said) => Some(format!("panic: {said}")),
    };
    let mut ledger = shared.ledger();
    Outcome {
        failure: ledger.failure.take().or(failure),
        steps: turns + net.steps(),
        sessions: ledger.records.len() as u64,
        elapsed: net.elapsed(),
        digest: net.digest(),
        faults: net.fault_counts(),
        fired: net.faults_fired(),
        story: ledger.story.take().unwrap_or_default(),
    }
}

struct World<'a, C: Wire> {
    plan: &'a Plan,
    codec: C,
    net: &'a SimNet,
    shared: &'a Arc<Shared>,
    engine: SimEngine,
    server: Remote<Everything<C>>,
    client: Option<Remote<Everything<C>>>,
    /// Where the client service connects to.
    upstream: SimPeerListener,
    peers: Vec<Option<Peer>>,
    /// The sessions' other ends that the upstream accepted.
    accepted: Vec<Peer>,
    /// How often each peer's place was taken.
    taken: [u64; PEERS as usize],
    labels: u64,
    jobs_posted: u64,
    /// Questions that were put, and not looked at.
    asked: Vec<Asked>,
    /// Strays that were published from outside.
    published: u32,
    /// The last job of each shard.
    posted: Vec<u64>,
    calm: bool,
    steps: u64,
}

type Checked = Result<(), String>;

impl<'a, C: Wire> World<'a, C> {
    /// `None` if the engine could not listen, because that is one of the faults.
    fn new(
        plan: &'a Plan,
        codec: C,
        net: &'a SimNet,
        shared: &'a Arc<Shared>,
    ) -> Result<Option<Self>, String> {
        let config = &plan.config;
        let text = |error: anyport::Error| format!("the engine does not start: {error}");
        let mut engine = Engine::new().and_then(|engine| engine.shards(config.shards)).map_err(text)?;
        engine = engine.spread(config.spread).driver_config(config.driver);
        let make = |number: usize| {
            let shared = Arc::clone(shared);
            let codec = codec.clone();
            move |shard| Everything::new(number, shard, codec.clone(), Arc::clone(&shared))
        };
        let server = Server::bind(SERVER, codec.clone()).limits(config.limits).backlog(8);
        let placement = config.logic_threads.map_or(Placement::Shard, |threads| Placement::Logic { threads });
        let server = server.placement(placement);
        let server = engine.add_server(server, make(0)).map_err(text)?;
        let client = if config.clients > 0 {
            let client =
                Client::to(UPSTREAM, codec.clone()).limits(config.limits).connections(config.clients);
            let client = match config.dial {
                Dial::Once => client,
                Dial::Again(backoff) => client.reconnect(backoff),
                Dial::Manual => client.manual(),
            };
            Some(engine.add_client(client, make(1)).map_err(text)?)
        } else {
            None
        };
        let may_fail = config.behaviour.faults.rate(FaultClass::Listen) != Rate::NEVER;
        let upstream = match net.listen(UPSTREAM.parse().expect("an address")) {
            Err(_) if may_fail => return Ok(None),
            upstream => upstream.map_err(|error| error.to_string())?,
        };
        let engine = match engine.simulate(net) {
            Err(anyport::Error::Listen { .. }) if may_fail => return Ok(None),
            engine => engine.map_err(text)?,
        };
        let peers = (0..PEERS).map(|_| None).collect();
        Ok(Some(Self {
            plan,
            codec,
            net,
            shared,
            engine,
            server,
            client,
            upstream,
            peers,
            accepted: Vec::new(),
            taken: [0; PEERS as usize],
            labels: 0,
            jobs_posted: 0,
            asked: Vec::new(),
            published: 0,
            posted: vec![0; plan.config.shards_of_services()[0]],
            calm: false,
            steps: 0,
        }))
    }

    fn run(mut self, steps: &mut u64) -> Checked {
        let result = self.run_storm().and_then(|()| self.run_calm());
        *steps = self.steps;
        result
    }

    // ---- the first phase: anything may happen ----

    fn run_storm(&mut self) -> Checked {
        for (at, event) in self.plan.events.iter().enumerate() {
            self.act(event.act);
            for _ in 0..event.steps {
                if self.step() == Step::Rest {
                    break;
                }
            }
            self.read()?;
            self.failed()?;
            if at % self.plan.config.check_every == 0 {
                self.engine.check()?;
            }
        }
        self.engine.check()
    }

    fn step(&mut self) -> Step {
        self.steps += 1;
        self.engine.step_within(Duration::from_secs(1))
    }

    /// The first thing that was wrong so far.
    fn failed(&mut self) -> Checked {
        let ledger = &mut *self.shared.ledger();
        for at in std::mem::take(&mut ledger.ended_by_itself) {
            self.look_at_reason(ledger, at)?;
        }
        ledger.failure.clone().map_or(Ok(()), Err)
    }

    /// The network, or the peer, must have done what a session was told as its end.
    fn look_at_reason(&self, ledger: &Ledger, at: usize) -> Checked {
        let record = &ledger.records[at];
        let Some(reason) = record.closed else { return Ok(()) };
        if reason == CloseReason::IdleTimeout {
            return self.look_at_idle(record);
        }
        let fault = match reason {
            CloseReason::ReceiveFailed(fault) | CloseReason::SendFailed(fault) => Some(fault.kind),
            _ => None,
        };
        let fired = self.net.faults_fired();
        let own = matches!(fault, Some(FaultKind::Cancelled | FaultKind::InvalidSocket));
        let by_peer = [CloseReason::PeerClosed, CloseReason::PeerReset];
        let caused = match ledger.connections.get(&record.address) {
            _ if own => false,
            Some(&connection) => {
                has_failed(&fired, connection) || by_peer.iter().any(|cause| ledger.has_cause(at, *cause))
            }
            // A client's: its connection has a number of the network's own.
            None => self.plan.config.behaviour.faults.classes().next().is_some(),
        };
        let id = record.id;
        if caused {
            Ok(())
        } else {
            Err(format!("session {id} ended as {reason:?}, and nothing caused that"))
        }
    }

    /// Who is closed as idle has said nothing that could have been heard: looked at where nothing delays it.
    fn look_at_idle(&self, record: &Record) -> Checked {
        let config = &self.plan.config;
        let rarely = config.limits.idle_timeout.is_some_and(|limit| limit < Duration::from_secs(1));
        let delays = [Clog, Silence, Late, Drought, CancelLate, TinyBuffer, SlowClose];
        let delayed = delays.iter().any(|class| config.behaviour.faults.rate(*class) != Rate::NEVER);
        if !C::FRAMED || rarely || delayed || record.held_back {
            return Ok(());
        }
        let is_its = |peer: &&Peer| peer.socket.local_address() == record.address;
        let Some(peer) = self.peers.iter().flatten().find(is_its) else { return Ok(()) };
        let Some(wrote_at) = peer.wrote_at else { return Ok(()) };
        let unheard = peer.whole_messages() - record.received;
        let time = record.closed_at.saturating_sub(wrote_at);
        if unheard == 0 || time < HEARD_WITHIN {
            return Ok(());
        }
        let id = record.id;
        Err(format!(
            "session {id} was closed as idle, and {unheard} messages of its peer were not heard in {time:?}"
        ))
    }

    fn act(&mut self, act: Act) {
        self.shared.ledger().tell(self.net.now(), || format!("{act:?}"));
        match act {
            Act::Connect { peer, habit } => self.connect(peer, habit),
            Act::Write { peer, bytes } => {
                if let Some(peer) = self.peer(peer) {
                    let (shared, codec) = (Arc::clone(self.shared), self.codec.clone());
                    let peer = self.peers[peer].as_mut().expect("it is there");
                    if peer.write(&shared, &codec, bytes as usize) > 0 {
                        peer.wrote_at = Some(self.shared.ledger().awake(self.net.now()));
                    }
                }
            }
            Act::Read { peer, habit } => {
                if let Some(peer) = self.peer(peer) {
                    self.peers[peer].as_mut().expect("it is there").habit = habit;
                }
            }
            Act::HalfClose(peer) => {
                if let Some(peer) = self.peer(peer) {
                    self.caused(peer, CloseReason::PeerClosed);
                    self.peers[peer].as_mut().expect("it is there").half_close();
                }
            }
            Act::Close(peer) => {
                if let Some(peer) = self.peer(peer) {
                    self.caused(peer, CloseReason::PeerClosed);
                    self.peers[peer].take().expect("it is there").socket.close();
                }
            }
            Act::Reset(peer) => {
                if let Some(peer) = self.peer(peer) {
                    self.caused(peer, CloseReason::PeerReset);
                    self.peers[peer].take().expect("it is there").socket.reset();
                }
            }
            Act::Garbage { peer, too_large } => self.garbage(peer, too_large),
            Act::Post(pick) => self.post(pick),
            Act::PostToShard(shard) => self.post_to_shard(shard),
            Act::Ask(pick) => self.ask(pick),
            Act::List => self.list(),
            Act::CloseSession(pick) => self.end_session(pick, false),
            Act::DrainSession(pick) => self.end_session(pick, true),
            Act::Publish(pick) => self.publish(pick),
            Act::ConnectClient => self.connect_client(),
            Act::ReconnectClient => self.reconnect_client(),
            Act::Stall(time) => self.stall(time),
            Act::Drain => self.stop(CloseReason::Drained),
            Act::Abort => self.stop(CloseReason::Stopped),
        }
    }

    fn peer(&self, peer: u8) -> Option<usize> {
        let peer = peer as usize % self.peers.len();
        self.peers[peer].is_some().then_some(peer)
    }

    fn caused(&self, peer: usize, reason: CloseReason) {
        let Some(peer) = &self.peers[peer] else { return };
        self.shared.ledger().caused_by_peer(peer.socket.local_address(), peer.session, reason);
    }

    fn connect(&mut self, peer: u8, habit: Habit) {
        let peer = peer as usize % self.peers.len();
        if self.peers[peer].is_some() {
            return;
        }
        // A place and how often it was taken: so other peers keep their labels when one goes.
        self.taken[peer] += 1;
        let label = (self.taken[peer] << 8) | peer as u64;
        let Some(address) = self.engine.address(0) else { return };
        // Refused once the engine has stopped listening.
        if let Ok(connected) = self.net.connect_as(label, address) {
            self.shared.ledger().connections.insert(connected.local_address(), label);
            self.peers[peer] = Some(Peer::new(connected, label, habit));
        }
    }

    fn garbage(&mut self, peer: u8, too_large: bool) {
        let Some(at) = self.peer(peer) else { return };
        let (shared, codec) = (Arc::clone(self.shared), self.codec.clone());
        let peer = self.peers[at].as_mut().expect("it is there");
        if peer.write_garbage(&shared, &codec, too_large) {
            self.caused(at, if too_large { CloseReason::FrameTooLarge } else { CloseReason::MalformedFrame });
        }
    }

    fn post(&mut self, pick: u16) {
        let (id, is_client) = {
            let ledger = self.shared.ledger();
            let recent = ledger.records.len().min(16);
            let Some(back) = (pick as usize).checked_rem(recent) else { return };
            let record = &ledger.records[ledger.records.len() - 1 - back];
            (record.id, record.id.service() == 1)
        };
        let Some(remote) = (if is_client { self.client.as_ref() } else { Some(&self.server) }) else {
            return;
        };
        let _ = remote.post(id, move |handler, session| {
            let got = session.id();
            let known = session.state().record;
            let mut ledger = handler.shared.ledger();
            ledger.jobs_run += 1;
            ledger.ensure(got == id, || format!("a job for session {id} ran on session {got}"));
            let is_live = known.is_some_and(|at| ledger.records[at].closed.is_none());
            ledger.ensure(is_live, || format!("a job ran on session {id}, which had ended"));
            drop(ledger);
            handler.posted(session);
        });
    }

    fn post_to_shard(&mut self, shard: u8) {
        let shard = shard as usize % self.posted.len();
        self.jobs_posted += 1;
        let number = self.jobs_posted;
        let posted = self.server.post_to_shard(shard, move |handler, on| {
            let mut ledger = handler.shared.ledger();
            ledger.ensure(on.index() == shard, || {
                format!("a job for shard {shard} ran on shard {}", on.index())
            });
            let before = std::mem::replace(&mut ledger.job_of_shard[shard], number);
            ledger
                .ensure(before < number, || format!("job {number} ran on shard {shard} after job {before}"));
            drop(ledger);
            handler.posted_to_shard(on);
        });
        // What is refused does not run.
        if posted.is_ok() {
            self.posted[shard] = number;
        }
    }

    fn stall(&mut self, time: Duration) {
        let from = self.net.now();
        self.net.advance(time);
        self.shared.ledger().stall(from, self.net.now());
    }

    fn stop(&mut self, reason: CloseReason) {
        {
            let mut ledger = self.shared.ledger();
            // What is aborted is not drained any more.
            if ledger.stopping != Some(CloseReason::Stopped) {
                ledger.stopping = Some(reason);
            }
        }
        let stopper = self.engine.stopper();
        if reason == CloseReason::Stopped { stopper.abort() } else { stopper.drain() }
    }

    /// Every peer reads as its habit is.
    fn read(&mut self) -> Checked {
        while let Some(peer) = self.upstream.accept() {
            self.labels += 1;
            self.accepted.push(Peer::new(peer, self.labels << 8 | 0xff, Habit::Eager));
        }
        let (shared, codec) = (self.shared, self.codec.clone());
        if !self.calm {
            for peer in &mut self.accepted {
                peer.write(shared, &codec, 100);
            }
        }
        for peer in self.peers.iter_mut().flatten().chain(&mut self.accepted) {
            peer.read(shared, &codec)?;
        }
        Ok(())
    }

    // ---- the second phase: no faults, and everything comes to rest ----

    fn run_calm(&mut self) -> Checked {
        self.net.calm();
        self.calm = true;
        self.shared.ledger().calm = true;
        for peer in self.peers.iter_mut().flatten() {
            peer.habit = Habit::Eager;
        }
        self.resume_all();
        self.rest("the faults ended")?;
        // Once more: what the handlers lost on the way to it counts too.
        self.resume_all();
        self.rest("all is quiet")?;
        self.look_at_answers()?;
        self.look_at_lists()?;
        self.look_at_peers()?;
        if self.shared.ledger().stopping.is_none() {
            // Several at once, to shards that nothing else wakes.
            for job in 0..3 * self.posted.len() {
                self.post_to_shard(job as u8);
            }
            self.rest("jobs were posted")?;
        }
        self.look_at_ends()?;
        let stopping = self.shared.ledger().stopping.is_some();
        match self.plan.seed % 2 {
            _ if stopping => {}
            0 => {
                self.leave()?;
                self.probe()?;
            }
            _ => return self.end_in_time(),
        }
        self.end()
    }

    /// The engine ends under load: some peers do not read, and none ends its direction.
    fn end_in_time(&mut self) -> Checked {
        let (shared, codec) = (Arc::clone(self.shared), self.codec.clone());
        for (at, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            peer.habit = if at % 2 == 0 { Habit::Dead } else { Habit::Eager };
            peer.write(&shared, &codec, 5_000);
        }
        let began = self.net.elapsed();
        self.end()?;
        let took = self.net.elapsed().saturating_sub(began);
        let limits = self.plan.config.limits;
        let most = limits.drain_grace + limits.drain_deadline + limits.linger + END_SLACK;
        if took > most {
            Err(format!("to drain took {took:?}, and should take {most:?} at most"))
        } else {
            Ok(())
        }
    }

    /// Steps until nothing is left to happen, or only what is far away. Steps without progress are bounded.
    fn rest(&mut self, after: &str) -> Checked {
        let end = self.net.elapsed() + REST_TIME;
        let (mut progress, mut idle) = (self.progress(), 0);
        for _ in 0..REST_STEPS_MAX {
            let step = self.step();
            self.read()?;
            self.failed()?;
            if step == Step::Rest || self.net.elapsed() >= end {
                return self.engine.check();
            }
            idle += 1;
            if idle == IDLE_STEPS_MAX {
                let now = self.progress();
                if now == progress {
                    return Err(format!(
                        "{idle} steps after {after}, nothing moves, and it has not come to rest"
                    ));
                }
                (progress, idle) = (now, 0);
            }
        }
        let (server, client) = (self.engine.counters(0), self.engine.counters(1));
        Err(format!(
            "{REST_STEPS_MAX} steps after {after}, it has not come to rest: {} and {} bytes were received, {} and {} sent",
            server.bytes_received, client.bytes_received, server.bytes_sent, client.bytes_sent
        ))
    }

    /// Grows with everything that a test would wait for.
    fn progress(&self) -> u64 {
        let bytes: u64 = self.peers.iter().flatten().chain(&self.accepted).map(|peer| peer.received).sum();
        let counters = [self.engine.counters(0), self.engine.counters(1)];
        let of = |of: &Counters| of.bytes_received + of.bytes_sent + of.accepted + of.closed_total();
        bytes + counters.iter().map(of).sum::<u64>()
    }

    fn resume_all(&mut self) {
        let paused: Vec<_> = {
            let ledger = self.shared.ledger();
            let alive = ledger.records.iter().filter(|record| record.closed.is_none());
            alive.map(|record| record.id).collect()
        };
        for id in paused {
            let remote = if id.service() == 1 { self.client.as_ref() } else { Some(&self.server) };
            let Some(remote) = remote else { continue };
            // A mailbox may be full: its shard takes some then.
            for _ in 0..POSTS_MAX {
                let posted = remote.post(id, |handler, session| {
                    handler.pause(session, false);
                    handler.note_losses(session);
                });
                if posted != Err(PostError::Full) {
                    break;
                }
                self.steps += 1;
                self.engine.step_within(Duration::from_secs(1));
            }
        }
    }

    /// Whatever a peer wrote has been given to the handler, and the other way round.
    fn look_at_peers(&mut self) -> Checked {
        let ledger = &mut *self.shared.ledger();
        let fired = self.net.faults_fired();
        for peer in self.peers.iter().flatten().chain(&self.accepted) {
            let (address, reset) = (peer.socket.local_address(), peer.socket.is_reset());
            let Some(at) = ledger.record_of(address, peer.session) else {
                let gone = reset || peer.socket.is_end_of_stream() || ledger.stopping.is_some();
                let refused = self.engine.counters(0).closed_for(CloseReason::AtCapacity) > 0;
                // A driver without room leaves connections where they wait.
                let full = self.plan.config.driver.sockets_max < 100;
                if gone || refused || full || peer.socket.peer_address().port() != 7000 {
                    continue;
                }
                return Err(format!("peer {address} is connected, and has no session"));
            };
            let record = &ledger.records[at];
            let id = record.id;
            let failed =
                ledger.connections.get(&address).is_none_or(|&connection| has_failed(&fired, connection));
            let ended_well = !record.cut
                && !failed
                && matches!(record.closed, Some(CloseReason::PeerClosed | CloseReason::Drained));
            // Who hears of an orderly end was sent everything that went before it.
            let is_whole = record.closed.is_none() || (ended_well && peer.socket.is_end_of_stream());
            if !reset && is_whole && peer.received != record.sent_bytes {
                let (sent, received) = (record.sent_bytes, peer.received);
                return Err(format!(
                    "session {id} sent {sent} bytes, and its peer {address} has {received} of them"
                ));
            }
            if record.closed.is_none() && !reset && C::FRAMED {
                ledger.look_at_strays(at)?;
                if peer.is_inside_frame() {
                    return Err(format!(
                        "peer {address} has a part of a message, and the rest does not come"
                    ));
                }
            }
            if record.closed.is_none() && !peer.write_over && !reset && C::FRAMED {
                let (written, received) = (peer.whole_messages(), record.received);
                if written != received {
                    return Err(format!(
                        "peer {address} wrote {written} messages, and session {id} got {received}"
                    ));
                }
            }
            // Its last words were heard before its end.
            if record.closed == Some(CloseReason::PeerClosed)
                && peer.half_closed
                && C::FRAMED
                && !failed
                && !record.cut
                && record.received != peer.whole_messages()
            {
                let (written, received) = (peer.whole_messages(), record.received);
                return Err(format!(
                    "session {id} ended with its peer's end of stream, and got {received} of the {written} messages \
                     before it"
                ));
            }
            if record.closed.is_none() && (peer.garbage || peer.half_closed || reset) {
                return Err(format!("session {id} is open, and its peer {address} has ended its direction"));
            }
        }
        Ok(())
    }

    /// What was to end has ended, and what was to be done was done.
    fn look_at_ends(&self) -> Checked {
        let ledger = self.shared.ledger();
        let idle = self.plan.config.limits.idle_timeout;
        let now = self.net.now();
        for record in ledger.records.iter().filter(|record| record.closed.is_none()) {
            let id = record.id;
            if record.ending {
                return Err(format!(
                    "session {id} was told to end as {:?}, and is still there",
                    record.exact
                ));
            }
            let overdue = |alarm: &&Alarm| alarm.due + Duration::from_secs(1) < now;
            if let Some(alarm) = record.alarms.values().find(overdue) {
                return Err(format!(
                    "a timer of session {id} was due {:?} ago, and did not come",
                    now - alarm.due
                ));
            }
            if record.results_due > 0 {
                return Err(format!("session {id} waits for {} results, and none comes", record.results_due));
            }
            if !record.tokens.is_empty() {
                return Err(format!("session {id} was not told that {:?} were sent", record.tokens));
            }
            if idle.is_some() {
                return Err(format!(
                    "session {id} has been idle for {REST_TIME:?}, and the limit is {idle:?}"
                ));
            }
        }
        if let Some(connection) = ledger.forgotten_connection(now).filter(|_| ledger.stopping.is_none()) {
            return Err(format!("connection {connection} was to be opened again, and nobody does"));
        }
        for (shard, (&posted, &run)) in self.posted.iter().zip(&ledger.job_of_shard).enumerate() {
            if posted != run && ledger.stopping.is_none() {
                return Err(format!(
                    "job {posted} was posted to shard {shard} last, and the last that ran is {run}"
                ));
            }
        }
        Ok(())
    }

    /// All peers go: no session may stay.
    fn leave(&mut self) -> Checked {
        self.shared.ledger().leaving = true;
        for at in 0..self.peers.len() {
            self.caused(at, CloseReason::PeerClosed);
            self.peers[at] = None;
        }
        self.let_go();
        self.rest("the peers went")?;
        let counters = [self.engine.counters(0), self.engine.counters(1)];
        let ledger = self.shared.ledger();
        if ledger.stopping.is_some() {
            return Ok(());
        }
        if let Some(record) = ledger.records.iter().find(|record| record.closed.is_none()) {
            return Err(format!("session {} is still there, and its peer is not", record.id));
        }
        let left = counters[0].sessions + counters[1].sessions;
        if left > 0 {
            Err(format!("the counters say that {left} sessions are there, and none is"))
        } else {
            Ok(())
        }
    }

    /// The upstream's connections, and the probes, go.
    fn let_go(&mut self) {
        for peer in self.accepted.drain(..) {
            let address = peer.socket.local_address();
            self.shared.ledger().caused_by_peer(address, peer.session, CloseReason::PeerClosed);
        }
    }

    /// Every place is free again, and the listeners listen.
    fn probe(&mut self) -> Checked {
        if self.shared.ledger().stopping.is_some() {
            return Ok(());
        }
        let config = &self.plan.config;
        let sockets = config.driver.sockets_max as usize - 1;
        let count = PROBES_MAX.min(config.limits.sessions_max).min(sockets - config.clients);
        let address = self.engine.address(0).expect("a server has an address");
        let before = self.shared.ledger().records.len();
        for _ in 0..count {
            self.labels += 1;
            let label = self.labels << 8 | 0xfe;
            let peer = self.net.connect_as(label, address);
            let peer = peer.map_err(|error| format!("a probe cannot connect: {error}"))?;
            self.accepted.push(Peer::new(peer, label, Habit::Eager));
            self.rest("a probe connected")?;
        }
        let refused = self.engine.counters(0).closed_for(CloseReason::AtCapacity);
        let opened = self.shared.ledger().records.len() - before;
        if opened != count {
            return Err(format!(
                "{count} probes connected at the end, and {opened} sessions opened ({refused} connections were refused \
                 so far, sessions_max is {})",
                config.limits.sessions_max
            ));
        }
        self.let_go();
        self.rest("the probes went")
    }

    /// The engine ends, and holds nothing any more.
    fn end(&mut self) -> Checked {
        self.stop(CloseReason::Drained);
        for _ in 0..REST_STEPS_MAX {
            if self.engine.is_finished() {
                break;
            }
            if self.step() == Step::Rest {
                break;
            }
            self.read()?;
            self.failed()?;
        }
        self.failed()?;
        if !self.engine.is_finished() {
            return Err(format!("it was told to drain, and is at rest with {:?}", self.engine.held()));
        }
        let counters = [self.engine.counters(0), self.engine.counters(1)];
        let ledger = self.shared.ledger();
        if let Some(record) = ledger.records.iter().find(|record| record.closed.is_none()) {
            return Err(format!("the engine ended, and session {} was not told its end", record.id));
        }
        let opened = ledger.records.len() as u64;
        let began: u64 = counters.iter().map(|of| of.accepted + of.connected).sum();
        let ended: u64 = counters.iter().map(Counters::closed_total).sum();
        let failed: u64 = counters.iter().map(|of| of.connect_failed).sum();
        let bytes = counters.iter().map(|of| of.sessions).sum::<u64>();
        if began < opened || ended > began || ended < opened || bytes != 0 || failed < ledger.connect_failed {
            return Err(format!(
                "the counters do not balance: {counters:?}, and {opened} sessions were opened"
            ));
        }
        Ok(())
    }
}

/// True if a fault fired that can end a connection.
fn has_failed(fired: &[FaultId], connection: u64) -> bool {
    let ends = [Receive, Reset, Send, Shutdown, Silence];
    fired.iter().any(|fault| fault.label >> 1 == connection && ends.contains(&fault.class))
}
