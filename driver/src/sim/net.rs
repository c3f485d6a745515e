//! The network between simulated sockets: connections, listeners, and what happens when.
//!
//! It is TCP as its users see it: each end of a connection has two bounded buffers; steps at random times move
//! bytes from one end's outbox to the other's inbox, and the end of the stream after them. An end whose owner
//! closed it goes on alone until its outbox is empty; data that then arrives for it is answered with a reset.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use anyport_core::{FaultKind, Slab, SlabKey};

use super::{address, behaviour::Behaviour, queue::ByteQueue, random::Random};
use crate::options::{PortSharing, SocketOptions};

/// Ports for sockets that did not ask for one.
const PORTS: std::ops::RangeInclusive<u16> = 10_000..=u16::MAX;

/// Who acts on an end or a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A socket of a driver; it is told when there may be something to do.
    Driver { driver: usize, socket: SlabKey },
    /// Test code, which looks by itself; or a socket between two drivers.
    Outside,
    /// Accepted by nobody yet.
    Backlog,
    /// Closed by its owner.
    Nobody,
}

/// How far opening a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    Attempts(u32),
    Done,
    Failed(FaultKind),
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) opening: Opening,
    pub(super) outbox: ByteQueue,
    pub(super) inbox: ByteQueue,
    /// Our owner will write no more.
    pub(super) write_ended: bool,
    /// The other end's stream has ended, after what is in the inbox.
    pub(super) read_ended: bool,
    pub(super) reset: bool,
    owner: Owner,
    /// The other end, as long as it exists.
    peer: Option<SlabKey>,
    /// This end opened the connection, and holds the local port.
    opener: bool,
    /// The end of our stream has reached the other end.
    fin_delivered: bool,
    step_scheduled: bool,
    turn_scheduled: bool,
}

impl End {
    /// True if writing can lead to nothing.
    pub(super) fn is_write_dead(&self) -> bool {
        self.reset || self.write_ended
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) backlog: VecDeque<SlabKey>,
    backlog_max: usize,
    options: SocketOptions,
    sharing: PortSharing,
    owner: Owner,
    turn_scheduled: bool,
}

/// What happens at some time. Keys may be stale by then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// An end's attempt to connect reaches the listener.
    Attempt(SlabKey),
    /// Bytes, or the end of the stream, leave an end's outbox.
    Step(SlabKey),
    /// A reset reaches an end.
    Reset(SlabKey),
    /// A driver gets to look at one of its sockets.
    Turn { driver: usize, socket: SlabKey },
}

#[derive(Debug, Default)]
struct Port {
    due: VecDeque<SlabKey>,
    gone: bool,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) random: Random,
    pub(super) seed: u64,
    instance: u32,
    behaviour: Behaviour,
    start: Instant,
    /// Virtual time since the start.
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    events_scheduled: u64,
    ends: Slab<End>,
    listeners: Slab<Listening>,
    drivers: Vec<Port>,
    ports_used: BTreeSet<(u16, SocketAddr)>,
    port_next: u16,
    detached: Vec<(SlabKey, Weak<()>)>,
}

impl Net {
    pub(super) fn new(seed: u64, behaviour: Behaviour) -> Self {
        Self {
            random: Random::new(seed),
            seed,
            instance: crate::types::next_instance(),
            behaviour,
            start: Instant::now(),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            events_scheduled: 0,
            ends: Slab::new(u32::MAX - 1),
            listeners: Slab::new(u32::MAX - 1),
            drivers: Vec::new(),
            ports_used: BTreeSet::new(),
            port_next: *PORTS.start(),
            detached: Vec::new(),
        }
    }

    /// A number that no other net has.
    pub(super) fn instance(&self) -> u32 {
        self.instance
    }

    // Time and events.

    pub(super) fn now(&self) -> Instant {
        self.start + self.now
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now
    }

    /// When the next event is due.
    pub(super) fn next_event(&self) -> Option<Duration> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Moves the clock forward to `at`.
    pub(super) fn advance_to(&mut self, at: Duration) {
        assert!(at >= self.now, "time went back from {:?} to {at:?}", self.now);
        self.now = at;
    }

    /// Lets everything happen that is due by now.
    pub(super) fn run_due(&mut self) {
        self.close_dropped_detached();
        while let Some(&Reverse((at, _, event))) = self.events.peek()
            && at <= self.now
        {
            self.events.pop();
            match event {
                Event::Attempt(end) => self.attempt(end),
                Event::Step(end) => self.step(end),
                Event::Reset(end) => self.receive_reset(end),
                Event::Turn { driver, socket } => {
                    let port = &mut self.drivers[driver];
                    if !port.gone {
                        port.due.push_back(socket);
                    }
                }
            }
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.events_scheduled += 1;
        self.events.push(Reverse((self.now + after, self.events_scheduled, event)));
    }

    fn delay(&mut self) -> Duration {
        let max = self.behaviour.delay_max.as_nanos().min(u128::from(u64::MAX)) as u64;
        Duration::from_nanos(self.random.up_to(max))
    }

    pub(super) fn delay_max(&self) -> Duration {
        self.behaviour.delay_max
    }

    fn schedule_soon(&mut self, event: Event) {
        let delay = self.delay();
        self.schedule(delay, event);
    }

    /// The size of one step of at most `most` bytes.
    pub(super) fn part_of(&mut self, most: usize) -> usize {
        self.random.part_of(most.min(self.behaviour.step_bytes_max.max(1)))
    }

    // Drivers.

    pub(super) fn add_driver(&mut self) -> usize {
        self.drivers.push(Port::default());
        self.drivers.len() - 1
    }

    pub(super) fn remove_driver(&mut self, driver: usize) {
        self.drivers[driver] = Port { gone: true, ..Port::default() };
    }

    /// True if it is the turn of a socket of the driver.
    pub(super) fn has_due(&self, driver: usize) -> bool {
        !self.drivers[driver].due.is_empty()
    }

    /// A socket of the driver whose turn it is.
    pub(super) fn next_due(&mut self, driver: usize) -> Option<SlabKey> {
        self.drivers[driver].due.pop_front()
    }

    /// Gives the owner of an end a turn soon, if it is a driver.
    pub(super) fn notify(&mut self, end: SlabKey) {
        if let Some(state) = self.ends.get_mut(end)
            && let Owner::Driver { driver, socket } = state.owner
            && !std::mem::replace(&mut state.turn_scheduled, true)
        {
            self.schedule_soon(Event::Turn { driver, socket });
        }
    }

    /// The same for a listener.
    pub(super) fn notify_listener(&mut self, listener: SlabKey) {
        if let Some(state) = self.listeners.get_mut(listener)
            && let Owner::Driver { driver, socket } = state.owner
            && !std::mem::replace(&mut state.turn_scheduled, true)
        {
            self.schedule_soon(Event::Turn { driver, socket });
        }
    }

    /// The owner of an end takes its turn: from now on it can be given another.
    pub(super) fn turn_taken(&mut self, end: SlabKey) {
        self.end_mut(end).turn_scheduled = false;
    }

    /// The same for a listener.
    pub(super) fn listener_turn_taken(&mut self, listener: SlabKey) {
        self.listener_mut(listener).turn_scheduled = false;
    }

    // Listeners.

    pub(super) fn listen(
        &mut self,
        mut address: SocketAddr,
        options: &crate::options::ListenOptions,
        owner: Owner,
    ) -> Result<SlabKey, FaultKind> {
        if address::is_nobodys(address.ip()) {
            return Err(FaultKind::AddressNotAvailable);
        }
        if address.port() == 0 {
            let port = self.free_port(|net, port| {
                let address = SocketAddr::new(address.ip(), port);
                net.listeners.iter().all(|(_, other)| !address::overlap(address, other.address))
            });
            address.set_port(port.ok_or(FaultKind::AddressInUse)?);
        }
        let joins = options.port == PortSharing::Further;
        let taken = self.listeners.iter().any(|(_, other)| {
            let shared = joins && other.sharing != PortSharing::Alone;
            address::overlap(address, other.address) && !shared
        });
        if taken {
            return Err(FaultKind::AddressInUse);
        }
        let listening = Listening {
            address,
            backlog: VecDeque::new(),
            backlog_max: options.backlog.max(1) as usize,
            options: options.socket,
            sharing: options.port,
            owner,
            turn_scheduled: false,
        };
        self.listeners.insert(listening).map_err(|_| FaultKind::NoDescriptors)
    }

    pub(super) fn listener(&self, listener: SlabKey) -> &Listening {
        self.listeners.get(listener).expect("a listener lives as long as its owner")
    }

    pub(super) fn listener_mut(&mut self, listener: SlabKey) -> &mut Listening {
        self.listeners.get_mut(listener).expect("a listener lives as long as its owner")
    }

    pub(super) fn set_listener_owner(&mut self, listener: SlabKey, owner: Owner) {
        self.listener_mut(listener).owner = owner;
    }

    /// Closes a listener; connections that nobody accepted are reset.
    pub(super) fn close_listener(&mut self, listener: SlabKey) {
        let listening = self.listeners.remove(listener).expect("a listener lives as long as its owner");
        for end in listening.backlog {
            self.abort(end);
        }
    }

    /// Takes the oldest connection out of the backlog.
    pub(super) fn accept(&mut self, listener: SlabKey, owner: Owner) -> Option<SlabKey> {
        let end = self.listener_mut(listener).backlog.pop_front()?;
        self.set_owner(end, owner);
        Some(end)
    }

    fn listener_for(&mut self, to: SocketAddr) -> Option<SlabKey> {
        let scored =
            |(key, state): (SlabKey, &Listening)| Some((address::match_score(state.address, to)?, key));
        let best = self.listeners.iter().filter_map(scored).map(|(score, _)| score).max()?;
        let equal: Vec<_> =
            self.listeners.iter().filter_map(scored).filter(|(score, _)| *score == best).collect();
        let choice = self.random.up_to(equal.len() as u64 - 1) as usize;
        Some(equal[choice].1)
    }

    fn free_port(&mut self, is_free: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        for _ in PORTS {
            let port = self.port_next;
            self.port_next = if port == *PORTS.end() { *PORTS.start() } else { port + 1 };
            if is_free(self, port) {
                return Some(port);
            }
        }
        None
    }

    // Ends.

    pub(super) fn end(&self, end: SlabKey) -> &End {
        self.ends.get(end).expect("an end lives as long as its owner")
    }

    pub(super) fn end_mut(&mut self, end: SlabKey) -> &mut End {
        self.ends.get_mut(end).expect("an end lives as long as its owner")
    }

    pub(super) fn set_owner(&mut self, end: SlabKey, owner: Owner) {
        let state = self.end_mut(end);
        state.owner = owner;
        state.turn_scheduled = false;
    }

    /// An end that will connect to `to`. It does nothing before [`attempt_soon`](Self::attempt_soon) or
    /// [`attempt`](Self::attempt).
    pub(super) fn open(
        &mut self,
        to: SocketAddr,
        options: &SocketOptions,
        owner: Owner,
    ) -> Result<SlabKey, FaultKind> {
        let to = address::destination(to);
        let port = self.free_port(|net, port| !net.ports_used.contains(&(port, to)));
        let port = port.ok_or(FaultKind::AddressInUse)?;
        self.ports_used.insert((port, to));
        let end = self.new_end(SocketAddr::new(to.ip(), port), to, options, owner, true);
        self.ends.insert(end).map_err(|_| FaultKind::NoDescriptors)
    }

    fn new_end(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        options: &SocketOptions,
        owner: Owner,
        opener: bool,
    ) -> End {
        let outbox = self.buffer(options.send_buffer_bytes);
        let inbox = self.buffer(options.receive_buffer_bytes);
        End {
            local,
            remote,
            opening: if opener { Opening::Attempts(0) } else { Opening::Done },
            outbox,
            inbox,
            write_ended: false,
            read_ended: false,
            reset: false,
            owner,
            peer: None,
            opener,
            fin_delivered: false,
            step_scheduled: false,
            turn_scheduled: false,
        }
    }

    fn buffer(&mut self, bytes: Option<usize>) -> ByteQueue {
        let (low, high) = self.behaviour.socket_buffer_bytes.clone().into_inner();
        ByteQueue::new(
            bytes.unwrap_or_else(|| low + self.random.up_to(high.saturating_sub(low) as u64) as usize),
        )
    }

    pub(super) fn attempt_soon(&mut self, end: SlabKey) {
        self.schedule_soon(Event::Attempt(end));
    }

    /// One attempt of an end to connect. Its [`Opening`] says what came of it.
    pub(super) fn attempt(&mut self, end: SlabKey) {
        let Some(client) = self.ends.get(end) else { return };
        let Opening::Attempts(attempts) = client.opening else { return };
        let (local, to) = (client.local, client.remote);
        let opening = if address::is_nobodys(to.ip()) {
            Opening::Failed(FaultKind::Unreachable)
        } else if let Some(listener) = self.listener_for(to) {
            if self.has_room(listener) {
                self.establish(end, local, listener);
                Opening::Done
            } else if attempts + 1 < self.behaviour.connect_attempts_max {
                self.schedule(self.behaviour.connect_retry_after, Event::Attempt(end));
                Opening::Attempts(attempts + 1)
            } else {
                Opening::Failed(FaultKind::TimedOut)
            }
        } else {
            Opening::Failed(FaultKind::Refused)
        };
        self.end_mut(end).opening = opening;
        if !matches!(opening, Opening::Attempts(_)) {
            self.notify(end);
        }
    }

    fn has_room(&self, listener: SlabKey) -> bool {
        let listening = self.listener(listener);
        listening.backlog.len() < listening.backlog_max
    }

    fn establish(&mut self, client: SlabKey, client_address: SocketAddr, listener: SlabKey) {
        let Listening { address, options, .. } = *self.listener(listener);
        let to = self.end(client).remote;
        let local = address::seen_by(address, to);
        let remote = address::seen_by(address, client_address);
        let server = self.new_end(local, remote, &options, Owner::Backlog, false);
        let server = self.ends.insert(End { peer: Some(client), ..server }).expect("room for two ends");
        self.end_mut(client).peer = Some(server);
        self.listener_mut(listener).backlog.push_back(server);
        self.notify_listener(listener);
    }

    /// Puts as many of `bytes` as fit into an end's outbox.
    pub(super) fn write(&mut self, end: SlabKey, bytes: &[u8]) -> usize {
        let state = self.end_mut(end);
        assert_ne!(state.owner, Owner::Nobody, "a closed end is not written to");
        if state.is_write_dead() {
            return 0;
        }
        let count = state.outbox.push(bytes);
        self.step_soon(end);
        count
    }

    /// Takes bytes out of an end's inbox.
    pub(super) fn read(&mut self, end: SlabKey, out: &mut [u8]) -> usize {
        let state = self.end_mut(end);
        let count = state.inbox.pop(out);
        if let Some(peer) = state.peer {
            self.step_soon(peer);
        }
        count
    }

    /// Ends an end's own direction, after what it wrote.
    pub(super) fn end_writing(&mut self, end: SlabKey) {
        self.end_mut(end).write_ended = true;
        self.step_soon(end);
    }

    /// The owner lets go of an end. What it wrote still arrives, unless it leaves something unread: then the
    /// other end sees a reset, as with every real system.
    pub(super) fn close(&mut self, end: SlabKey) {
        let state = self.end_mut(end);
        if state.reset || !state.inbox.is_empty() || state.opening != Opening::Done {
            self.abort(end);
            return;
        }
        state.write_ended = true;
        state.owner = Owner::Nobody;
        if state.peer.is_none() || (state.fin_delivered && state.outbox.is_empty()) {
            self.free(end);
        } else {
            self.step_soon(end);
        }
    }

    /// Frees an end at once; the other one sees a reset.
    pub(super) fn abort(&mut self, end: SlabKey) {
        let peer = self.end(end).peer;
        self.free(end);
        if let Some(peer) = peer {
            self.schedule_soon(Event::Reset(peer));
        }
    }

    fn free(&mut self, end: SlabKey) {
        let state = self.ends.remove(end).expect("an end is freed once");
        if state.opener {
            let held = self.ports_used.remove(&(state.local.port(), state.remote));
            assert!(held, "an opener holds its local port");
        }
        if let Some(peer) = state.peer {
            self.end_mut(peer).peer = None;
        }
    }

    /// Schedules the next step of an end's outbox, if there is anything to move.
    fn step_soon(&mut self, end: SlabKey) {
        let state = self.end_mut(end);
        let has_work = !state.outbox.is_empty() || (state.write_ended && !state.fin_delivered);
        if has_work && !state.reset && !state.step_scheduled && state.opening == Opening::Done {
            state.step_scheduled = true;
            self.schedule_soon(Event::Step(end));
        }
    }

    fn step(&mut self, end: SlabKey) {
        let Some(state) = self.ends.get_mut(end) else { return };
        state.step_scheduled = false;
        if state.reset {
            return;
        }
        let waiting = state.outbox.len();
        let Some(peer) = state.peer else {
            // The other end is gone altogether: data is answered with a reset.
            state.fin_delivered |= waiting == 0 && state.write_ended;
            if waiting > 0 {
                self.schedule_soon(Event::Reset(end));
            } else if state.owner == Owner::Nobody {
                self.free(end);
            }
            return;
        };
        if self.end(peer).owner == Owner::Nobody && waiting > 0 {
            self.abort(peer);
            return;
        }
        let room = self.end(peer).inbox.room();
        let mut moved = 0;
        if waiting > 0 && room > 0 {
            moved = self.part_of(waiting.min(room));
            let mut outbox = std::mem::replace(&mut self.end_mut(end).outbox, ByteQueue::new(1));
            outbox.move_to(&mut self.end_mut(peer).inbox, moved);
            self.end_mut(end).outbox = outbox;
            self.notify(end);
            self.notify(peer);
        }
        let together = moved == 0 || self.random.one_in(2);
        let state = self.end_mut(end);
        if state.outbox.is_empty() && state.write_ended && !state.fin_delivered && together {
            state.fin_delivered = true;
            self.end_mut(peer).read_ended = true;
            self.notify(peer);
        }
        let state = self.end(end);
        if state.owner == Owner::Nobody && state.fin_delivered {
            self.free(end);
        } else if room > moved || state.outbox.is_empty() {
            self.step_soon(end);
        }
    }

    fn receive_reset(&mut self, end: SlabKey) {
        let Some(state) = self.ends.get_mut(end) else { return };
        state.reset = true;
        state.outbox.clear();
        if state.owner == Owner::Nobody {
            self.free(end);
        } else {
            self.notify(end);
        }
    }

    // Sockets between two drivers.

    /// Takes note of an end that is in nobody's hands, until `alive` is dropped or somebody adopts it.
    pub(super) fn detach(&mut self, end: SlabKey, alive: &Arc<()>) {
        self.set_owner(end, Owner::Outside);
        self.detached.push((end, Arc::downgrade(alive)));
    }

    pub(super) fn adopt(&mut self, end: SlabKey, owner: Owner) {
        self.detached.retain(|(key, _)| *key != end);
        self.set_owner(end, owner);
    }

    fn close_dropped_detached(&mut self) {
        let mut at = 0;
        while at < self.detached.len() {
            if self.detached[at].1.strong_count() == 0 {
                let (end, _) = self.detached.remove(at);
                self.close(end);
            } else {
                at += 1;
            }
        }
    }
}
