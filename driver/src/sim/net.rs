//! The network between simulated sockets: connections, listeners, and what happens when.
//!
//! It is TCP as its users see it: each end of a connection has two bounded buffers; steps at random times move
//! bytes from one end's outbox to the other's inbox, and the end of the stream after them. An end whose owner
//! closed it goes on alone until its outbox is empty; data that then arrives for it is answered with a reset.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, Slab, SlabKey};

use super::{
    address,
    behaviour::Behaviour,
    chance::{Chance, Dice, nanos},
    counts::FaultSite,
    digest::Digest,
    disk::Disk,
    events::{Event, Events},
    faults::{FaultClass, failure},
    queue::ByteQueue,
};
use crate::{
    address::{Address, PeerAddress},
    options::{ListenOptions, PortSharing, SocketOptions},
    types::OpKind,
};

/// Ports for sockets that did not ask for one.
const PORTS: std::ops::RangeInclusive<u16> = 10_000..=u16::MAX;

/// Connections from here on were numbered by the net: those that peers opened, then those of each driver.
pub(super) const PEERS_FIRST: u64 = 1 << 40;
const DRIVERS_FIRST: u64 = 1 << 41;
/// Most connections of one driver that have a label of their own.
const DRIVER_SHIFT: u32 = 36;
/// Most completions of a small batch.
const SMALL_BATCH_MAX: usize = 8;
/// Labels of what is no connection.
const LISTENERS_FIRST: u64 = 1 << 60;
const DRIVER_LABELS_FIRST: u64 = 1 << 61;
/// The label of whoever steps the net.
const STEPPER_LABEL: u64 = 1 << 62;

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
    Failed(Fault),
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
    /// The connection is over: why. What had arrived before can still be read.
    pub(super) broken: Option<Fault>,
    /// What is drawn for this end.
    pub(super) dice: Dice,
    pub(super) owner: Owner,
    /// The other end, as long as it exists.
    pub(super) peer: Option<SlabKey>,
    /// Nothing moves out of this end before.
    pub(super) clogged_until: u64,
    /// Nothing moves in or out any more, and this end gives up then.
    pub(super) silent_until: Option<u64>,
    /// This end opened the connection, and holds the local port.
    opener: bool,
    /// The end of our stream has reached the other end.
    fin_delivered: bool,
    pub(super) step_scheduled: bool,
    turn_scheduled: bool,
}

impl End {
    /// True if writing can lead to nothing.
    pub(super) fn is_write_dead(&self) -> bool {
        self.broken.is_some() || self.write_ended
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
    dice: Dice,
    turn_scheduled: bool,
}

/// What the net knows of a driver.
#[derive(Debug)]
pub(super) struct Port {
    due: VecDeque<SlabKey>,
    /// Files of it that go on.
    due_files: VecDeque<SlabKey>,
    gone: bool,
    dice: Dice,
    /// Connections that it opened.
    opened: u64,
    /// Its receives find no buffer before.
    pub(super) drought_until: u64,
    /// A drought ended, and the driver was not told yet.
    pub(super) rained: bool,
    /// It is woken for nothing.
    woken: bool,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) chance: Chance,
    /// What is drawn for whoever steps the net.
    stepper: Dice,
    pub(super) digest: Digest,
    pub(super) seed: u64,
    instance: u32,
    behaviour: Behaviour,
    pub(super) delay_max: u64,
    start: Instant,
    /// Virtual time since the start, in nanoseconds.
    pub(super) now: u64,
    pub(super) events: Events,
    /// Events that happened.
    pub(super) steps: u64,
    /// Submissions that were refused.
    pub(super) invalid_submissions: u64,
    pub(super) ends: Slab<End>,
    listeners: Slab<Listening>,
    pub(super) drivers: Vec<Port>,
    connections_labelled: u64,
    listeners_labelled: u64,
    ports_used: BTreeSet<(u16, SocketAddr)>,
    port_next: u16,
    /// Paths of Unix sockets that were named: the first has the number 0.
    paths: Vec<PathBuf>,
    detached: Vec<(SlabKey, Weak<()>)>,
    pub(super) disk: Disk,
}

impl Net {
    pub(super) fn new(seed: u64, tape: Option<Vec<u8>>, behaviour: Behaviour) -> Self {
        let chance = Chance::new(seed, behaviour.faults.clone(), tape);
        Self {
            stepper: chance.dice(STEPPER_LABEL),
            chance,
            digest: Digest::default(),
            seed,
            instance: crate::types::next_instance(),
            delay_max: nanos(behaviour.delay_max),
            behaviour,
            start: Instant::now(),
            now: 0,
            events: Events::default(),
            steps: 0,
            invalid_submissions: 0,
            ends: Slab::new(u32::MAX - 1),
            listeners: Slab::new(u32::MAX - 1),
            drivers: Vec::new(),
            connections_labelled: 0,
            listeners_labelled: 0,
            ports_used: BTreeSet::new(),
            port_next: *PORTS.start(),
            paths: Vec::new(),
            detached: Vec::new(),
            disk: Disk::default(),
        }
    }

    /// A number that no other net has.
    pub(super) fn instance(&self) -> u32 {
        self.instance
    }

    /// A number from 0 to `max` for whoever steps the net.
    pub(super) fn draw(&mut self, max: u64) -> u64 {
        self.chance.up_to(&mut self.stepper, max)
    }

    // Time and events.

    pub(super) fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// When the next event is due.
    pub(super) fn next_event(&self) -> Option<u64> {
        self.events.next_at()
    }

    /// Moves the clock forward to `at`.
    pub(super) fn advance_to(&mut self, at: u64) {
        assert!(at >= self.now, "time went back from {} ns to {at} ns", self.now);
        self.now = at;
    }

    /// Lets everything happen that is due by now.
    pub(super) fn run_due(&mut self) {
        if !self.detached.is_empty() {
            self.close_dropped_detached();
        }
        while let Some((at, event)) = self.events.pop_due(self.now) {
            self.steps += 1;
            self.digest.add(at);
            self.digest.add(event.code());
            match event {
                Event::Attempt(end) => self.attempt(end),
                Event::Step(end) => self.step(end),
                Event::Reset(end) => self.break_end(end, Fault::of(FaultKind::PeerReset)),
                Event::Timeout(end) => self.give_up(end),
                Event::Turn { driver, socket } => {
                    let port = &mut self.drivers[driver as usize];
                    if !port.gone {
                        port.due.push_back(socket);
                    }
                }
                Event::File { driver, file } => {
                    let port = &mut self.drivers[driver as usize];
                    if !port.gone {
                        port.due_files.push_back(file);
                    }
                }
                Event::Rain { driver } => self.drivers[driver as usize].rained = true,
                Event::Wake { driver } => self.drivers[driver as usize].woken = true,
            }
        }
    }

    pub(super) fn schedule_at(&mut self, at: u64, event: Event) {
        self.events.push(at.max(self.now), event);
    }

    /// What `after` from now is.
    pub(super) fn later(&self, after: u64) -> u64 {
        self.now.saturating_add(after)
    }

    /// When the wait that begins now has lasted for a moment: time passes even for a driver that is woken all the
    /// time.
    pub(super) fn in_a_moment(&self) -> u64 {
        self.later(self.delay_max.max(1))
    }

    /// Schedules what happens to an end soon, which exists.
    pub(super) fn soon(&mut self, end: SlabKey, event: Event) {
        let dice = &mut self.ends.get_mut(end).expect("an end lives as long as its owner").dice;
        let at = self.now.saturating_add(delay(&mut self.chance, dice, self.delay_max));
        self.events.push(at, event);
    }

    // Chance.

    /// The less quiet of two choices at an end, half of the time.
    pub(super) fn flip(&mut self, end: SlabKey) -> bool {
        self.up_to(end, 1) == 1
    }

    /// A number from 0 to `max` for an end.
    pub(super) fn up_to(&mut self, end: SlabKey, max: u64) -> u64 {
        let dice = &mut self.ends.get_mut(end).expect("an end lives as long as its owner").dice;
        self.chance.up_to(dice, max)
    }

    /// The size of one step of at most `most` bytes.
    pub(super) fn part_of(&mut self, end: SlabKey, most: usize) -> usize {
        let dice = &mut self.ends.get_mut(end).expect("an end lives as long as its owner").dice;
        self.chance.part_of(dice, most.min(self.behaviour.step_bytes_max.max(1)))
    }

    // Drivers.

    pub(super) fn add_driver(&mut self) -> usize {
        let number = self.drivers.len();
        self.drivers.push(Port {
            due: VecDeque::new(),
            due_files: VecDeque::new(),
            gone: false,
            dice: self.chance.dice(DRIVER_LABELS_FIRST + number as u64),
            opened: 0,
            drought_until: 0,
            rained: false,
            woken: false,
        });
        number
    }

    pub(super) fn remove_driver(&mut self, driver: usize) {
        self.drivers[driver].due = VecDeque::new();
        self.drivers[driver].due_files = VecDeque::new();
        self.drivers[driver].gone = true;
    }

    /// True if a driver has something to do now.
    pub(super) fn has_due(&self, driver: usize) -> bool {
        let port = &self.drivers[driver];
        !port.due.is_empty()
            || !port.due_files.is_empty()
            || port.rained
            || port.woken
            || self.next_event().is_some_and(|at| at <= self.now)
    }

    /// A socket of the driver whose turn it is.
    pub(super) fn next_due(&mut self, driver: usize) -> Option<SlabKey> {
        self.drivers[driver].due.pop_front()
    }

    /// A file of the driver that goes on.
    pub(super) fn next_due_file(&mut self, driver: usize) -> Option<SlabKey> {
        self.drivers[driver].due_files.pop_front()
    }

    /// How many of `count` completions a wait delivers, at least one. It may lead to another wait for nothing.
    pub(super) fn batch_of(&mut self, driver: usize, count: usize) -> usize {
        let dice = &mut self.drivers[driver].dice;
        if self.chance.fires(dice, FaultClass::SpuriousWake, FaultSite::Wait).is_some() {
            let after = self.chance.up_to(dice, self.delay_max);
            self.events.push(self.now.saturating_add(after), Event::Wake { driver: driver as u32 });
        }
        let small =
            if count > 1 { self.chance.fires(dice, FaultClass::SmallBatch, FaultSite::Wait) } else { None };
        small.map_or(count, |drawn| {
            count.min(SMALL_BATCH_MAX - drawn.up_to(SMALL_BATCH_MAX as u64 - 1) as usize)
        })
    }

    /// True once after a driver was woken for nothing.
    pub(super) fn takes_wake(&mut self, driver: usize) -> bool {
        std::mem::take(&mut self.drivers[driver].woken)
    }

    /// Gives the owner of an end a turn soon, if it is a driver.
    pub(super) fn notify(&mut self, end: SlabKey) {
        if let Some(state) = self.ends.get_mut(end)
            && let Owner::Driver { driver, socket } = state.owner
            && !std::mem::replace(&mut state.turn_scheduled, true)
        {
            let event = Event::Turn { driver: driver as u32, socket };
            let delay_max = self.delay_max;
            let after = delay(&mut self.chance, &mut state.dice, delay_max);
            self.events.push(self.now.saturating_add(after), event);
            let dice = &mut state.dice;
            if self.chance.fires(dice, FaultClass::SpuriousTurn, FaultSite::Network).is_some() {
                let after = delay(&mut self.chance, dice, delay_max);
                self.events.push(self.now.saturating_add(after), event);
            }
        }
    }

    /// The same for a listener.
    pub(super) fn notify_listener(&mut self, listener: SlabKey) {
        if let Some(state) = self.listeners.get_mut(listener)
            && let Owner::Driver { driver, socket } = state.owner
            && !std::mem::replace(&mut state.turn_scheduled, true)
        {
            let after = delay(&mut self.chance, &mut state.dice, self.delay_max);
            self.events.push(self.now.saturating_add(after), Event::Turn { driver: driver as u32, socket });
        }
    }

    /// Gives a socket of a driver a turn at a certain time, besides those that it has a reason for.
    pub(super) fn turn_at(&mut self, at: u64, driver: usize, socket: SlabKey) {
        self.schedule_at(at, Event::Turn { driver: driver as u32, socket });
    }

    /// The owner of an end takes its turn: from now on it can be given another.
    pub(super) fn turn_taken(&mut self, end: SlabKey) {
        self.end_mut(end).turn_scheduled = false;
    }

    /// The same for a listener.
    pub(super) fn listener_turn_taken(&mut self, listener: SlabKey) {
        self.listener_mut(listener).turn_scheduled = false;
    }

    // Addresses.

    /// What stands for an address in this network: itself, unless it is a path.
    pub(super) fn place_of(&mut self, address: &Address) -> SocketAddr {
        match address {
            Address::Ip(ip) => *ip,
            Address::Unix(path) => {
                let known = self.paths.iter().position(|other| other == path);
                address::of_path(known.unwrap_or_else(|| {
                    self.paths.push(path.clone());
                    self.paths.len() - 1
                }))
            }
        }
    }

    /// The address that this stands for.
    pub(super) fn address_at(&self, place: SocketAddr) -> Address {
        let path = address::path_of(place).and_then(|number| self.paths.get(number));
        path.map_or(Address::Ip(place), |path| Address::Unix(path.clone()))
    }

    /// Who is told to be at the other end of a connection from `place`.
    pub(super) fn peer_at(&self, place: SocketAddr) -> PeerAddress {
        self.address_at(place).as_peer()
    }

    // Listeners.

    pub(super) fn listen(
        &mut self,
        mut address: SocketAddr,
        options: &ListenOptions,
        by_driver: bool,
    ) -> Result<SlabKey, Fault> {
        let mut dice = self.chance.dice(LISTENERS_FIRST + self.listeners_labelled);
        self.listeners_labelled += 1;
        if by_driver && let Some(drawn) = self.chance.fires(&mut dice, FaultClass::Listen, FaultSite::Listen)
        {
            return Err(failure(FaultClass::Listen, drawn).0);
        }
        if address::is_nobodys(address.ip()) {
            return Err(Fault::of(FaultKind::AddressNotAvailable));
        }
        if address.port() == 0 {
            let port = self.free_port(|net, port| {
                let address = SocketAddr::new(address.ip(), port);
                net.listeners.iter().all(|(_, other)| !address::overlap(address, other.address))
            });
            address.set_port(port.ok_or(Fault::of(FaultKind::AddressInUse))?);
        }
        let joins = options.port == PortSharing::Further;
        let taken = self.listeners.iter().any(|(_, other)| {
            let shared = joins && other.sharing != PortSharing::Alone;
            address::overlap(address, other.address) && !shared
        });
        if taken {
            return Err(Fault::of(FaultKind::AddressInUse));
        }
        let listening = Listening {
            address,
            backlog: VecDeque::new(),
            backlog_max: options.backlog.max(1) as usize,
            options: options.socket,
            sharing: options.port,
            owner: Owner::Outside,
            dice,
            turn_scheduled: false,
        };
        self.listeners.insert(listening).map_err(|_| Fault::of(FaultKind::NoDescriptors))
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

    /// The listener that a connection of `end` to `to` reaches: any of those that match best.
    fn listener_for(&mut self, end: SlabKey, to: SocketAddr) -> Option<SlabKey> {
        let scored =
            |(key, state): (SlabKey, &Listening)| Some((address::match_score(state.address, to)?, key));
        let best = self.listeners.iter().filter_map(scored).map(|(score, _)| score).max()?;
        let equal = |(score, key)| (score == best).then_some(key);
        let count = self.listeners.iter().filter_map(scored).filter_map(equal).count();
        let choice = self.up_to(end, count as u64 - 1) as usize;
        self.listeners.iter().filter_map(scored).filter_map(equal).nth(choice)
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

    /// The label of the next connection that a peer opens and gives none.
    pub(super) fn next_connection(&mut self) -> u64 {
        self.connections_labelled += 1;
        PEERS_FIRST + self.connections_labelled - 1
    }

    /// An end of a driver that will connect to `to`. Opening may fail here.
    pub(super) fn open_by_driver(
        &mut self,
        driver: usize,
        to: SocketAddr,
        options: &SocketOptions,
    ) -> Result<SlabKey, Fault> {
        let opened = self.drivers[driver].opened;
        self.drivers[driver].opened += 1;
        let connection = DRIVERS_FIRST + ((driver as u64) << DRIVER_SHIFT) + opened;
        let mut dice = self.chance.dice(connection << 1);
        if let Some(drawn) = self.chance.fires(&mut dice, FaultClass::Open, FaultSite::Open) {
            return Err(failure(FaultClass::Open, drawn).0);
        }
        self.open(connection, to, options)
    }

    /// An end that will connect to `to`. It does nothing before [`attempt_soon`](Self::attempt_soon) or
    /// [`attempt`](Self::attempt).
    pub(super) fn open(
        &mut self,
        connection: u64,
        to: SocketAddr,
        options: &SocketOptions,
    ) -> Result<SlabKey, Fault> {
        let to = address::destination(to);
        let port = self.free_port(|net, port| !net.ports_used.contains(&(port, to)));
        let port = port.ok_or(Fault::of(FaultKind::AddressInUse))?;
        self.ports_used.insert((port, to));
        let local = SocketAddr::new(to.ip(), port);
        let end = self.new_end(connection << 1, local, to, options);
        let end = End { opening: Opening::Attempts(0), opener: true, ..end };
        Ok(self.ends.insert(end).expect("more ends than 2^32"))
    }

    /// An end that is connected and has no other end yet.
    fn new_end(&mut self, label: u64, local: SocketAddr, remote: SocketAddr, options: &SocketOptions) -> End {
        let mut dice = self.chance.dice(label);
        let tiny = self.chance.fires(&mut dice, FaultClass::TinyBuffer, FaultSite::Network);
        let (low, high) = match tiny {
            Some(drawn) => (1, 1 + drawn.up_to(63) as usize),
            None => self.behaviour.socket_buffer_bytes.clone().into_inner(),
        };
        let mut buffer = |bytes: Option<usize>| {
            let spread = high.saturating_sub(low) as u64;
            // The quiet choice is the largest.
            let drawn = low + (spread - self.chance.up_to(&mut dice, spread)) as usize;
            ByteQueue::new(bytes.unwrap_or(drawn))
        };
        let (outbox, inbox) = (buffer(options.send_buffer_bytes), buffer(options.receive_buffer_bytes));
        End {
            local,
            remote,
            opening: Opening::Done,
            outbox,
            inbox,
            write_ended: false,
            read_ended: false,
            broken: None,
            dice,
            owner: Owner::Outside,
            peer: None,
            clogged_until: 0,
            silent_until: None,
            opener: false,
            fin_delivered: false,
            step_scheduled: false,
            turn_scheduled: false,
        }
    }

    pub(super) fn attempt_soon(&mut self, end: SlabKey) {
        self.soon(end, Event::Attempt(end));
    }

    /// One attempt of an end to connect. Its [`Opening`] says what came of it.
    pub(super) fn attempt(&mut self, end: SlabKey) {
        let Some(client) = self.ends.get_mut(end) else { return };
        let Opening::Attempts(attempts) = client.opening else { return };
        let (local, to) = (client.local, client.remote);
        let opening = if let Some(fault) = self.connect_faults(end, attempts) {
            Opening::Failed(fault)
        } else if address::is_nobodys(to.ip()) {
            Opening::Failed(Fault::of(FaultKind::Unreachable))
        } else if let Some(listener) = self.listener_for(end, to) {
            if self.has_room(listener) {
                self.establish(end, local, listener);
                Opening::Done
            } else if attempts + 1 < self.behaviour.connect_attempts_max {
                let at = self.later(nanos(self.behaviour.connect_retry_after));
                self.schedule_at(at, Event::Attempt(end));
                Opening::Attempts(attempts + 1)
            } else {
                Opening::Failed(Fault::of(FaultKind::TimedOut))
            }
        } else {
            Opening::Failed(Fault::of(FaultKind::Refused))
        };
        self.end_mut(end).opening = opening;
        if !matches!(opening, Opening::Attempts(_)) {
            self.notify(end);
        }
    }

    /// The fault that a driver's connect ends with, if one fires.
    fn connect_faults(&mut self, end: SlabKey, attempts: u32) -> Option<Fault> {
        let state = self.ends.get_mut(end).filter(|end| matches!(end.owner, Owner::Driver { .. }))?;
        let site = FaultSite::Op(OpKind::Connect);
        let drawn = (attempts == 0).then(|| self.chance.fires(&mut state.dice, FaultClass::Connect, site))?;
        drawn.map(|drawn| failure(FaultClass::Connect, drawn).0)
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
        let server = self.new_end(self.end(client).dice.label | 1, local, remote, &options);
        let server = End { peer: Some(client), owner: Owner::Backlog, ..server };
        let server = self.ends.insert(server).expect("more ends than 2^32");
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
        if state.broken.is_some() || !state.inbox.is_empty() || state.opening != Opening::Done {
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

    /// Frees an end at once; the other one sees a reset, if anything still reaches it.
    pub(super) fn abort(&mut self, end: SlabKey) {
        let peer = self.end(end).peer;
        self.free(end);
        if let Some(peer) = peer
            && self.end(peer).silent_until.is_none()
        {
            self.soon(peer, Event::Reset(peer));
        }
    }

    pub(super) fn free(&mut self, end: SlabKey) {
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
    pub(super) fn step_soon(&mut self, end: SlabKey) {
        let state = self.end_mut(end);
        let has_work = !state.outbox.is_empty() || (state.write_ended && !state.fin_delivered);
        let may_move = state.broken.is_none() && state.silent_until.is_none();
        if has_work && may_move && !state.step_scheduled && state.opening == Opening::Done {
            state.step_scheduled = true;
            self.soon(end, Event::Step(end));
        }
    }

    fn step(&mut self, end: SlabKey) {
        let Some(state) = self.ends.get_mut(end) else { return };
        state.step_scheduled = false;
        if state.broken.is_some() || state.silent_until.is_some() {
            return;
        }
        let (waiting, peer) = (state.outbox.len(), state.peer);
        let Some(peer) = peer.filter(|peer| self.end(*peer).broken.is_none()) else {
            // The other end is gone: data is answered with a reset.
            let state = self.end_mut(end);
            state.fin_delivered |= waiting == 0 && state.write_ended;
            if waiting > 0 {
                self.soon(end, Event::Reset(end));
            } else if self.end(end).owner == Owner::Nobody {
                self.free(end);
            }
            return;
        };
        if self.end(peer).owner == Owner::Nobody && waiting > 0 {
            self.abort(peer);
            return;
        }
        if self.step_faults(end) {
            return;
        }
        let room = self.end(peer).inbox.room();
        let mut moved = 0;
        if waiting > 0 && room > 0 {
            moved = self.part_of(end, waiting.min(room));
            let mut outbox = std::mem::replace(&mut self.end_mut(end).outbox, ByteQueue::new(1));
            outbox.move_to(&mut self.end_mut(peer).inbox, moved);
            self.end_mut(end).outbox = outbox;
            self.digest.add(moved as u64);
            self.notify(end);
            self.notify(peer);
        }
        let state = self.end_mut(end);
        let ends = state.outbox.is_empty() && state.write_ended && !state.fin_delivered;
        // The end of the stream comes together with the last bytes, or later.
        if ends && (moved == 0 || !self.flip(end)) {
            self.end_mut(end).fin_delivered = true;
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

/// When something that happens soon does.
pub(super) fn delay(chance: &mut Chance, dice: &mut Dice, max: u64) -> u64 {
    let after = chance.up_to(dice, max);
    if chance.fires(dice, FaultClass::Instant, FaultSite::Network).is_some() {
        return 0;
    }
    let late = chance.lasts(dice, FaultClass::Late, FaultSite::Network, |faults| faults.late_max);
    after + late.unwrap_or(0)
}
