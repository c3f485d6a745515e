//! What one seed stands for: a whole set-up, and a list of what happens from outside.

use std::{fmt, time::Duration};

use anyport::{
    Backoff, DriverConfig, Limits, Rates, SendMarks, Spread,
    sim::{Behaviour, Faults},
};

use crate::{chance::Chance, handler::Mood};

/// Which codec the services speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// [`anyport::Raw`].
    Raw,
    /// [`anyport::Lines`].
    Lines,
    /// [`anyport::Delimiter`], of two bytes.
    Delimiter,
    /// [`anyport::LengthPrefix`], of two bytes.
    LengthPrefix,
    /// [`anyport::SizeKind`].
    SizeKind,
}

/// When the client service opens its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dial {
    /// When the engine starts.
    Once,
    /// Then, and again.
    Again(Backoff),
    /// When it is told to.
    Manual,
}

/// Everything that does not happen at a time of its own.
#[derive(Clone, Debug)]
pub struct Config {
    /// Codec of both services.
    pub codec: Codec,
    /// Shards of the engine.
    pub shards: usize,
    /// How connections come to them.
    pub spread: Spread,
    /// Sizes of the drivers.
    pub driver: DriverConfig,
    /// Limits of both services.
    pub limits: Limits,
    /// Connections that the client service opens.
    pub clients: usize,
    /// When.
    pub dial: Dial,
    /// Logic threads of the server; none if its handlers run on the shards.
    pub logic_threads: Option<usize>,
    /// Largest body of a message, in bytes.
    pub body_max: usize,
    /// How the network behaves, and what goes wrong in it.
    pub behaviour: Behaviour,
    /// What the handler does of its own accord.
    pub mood: Mood,
    /// Acts between two looks at every rule.
    pub check_every: usize,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec, shards, spread, driver, limits, clients, dial, body_max, behaviour, mood, .. } =
            self;
        writeln!(
            f,
            "  codec {codec:?}, bodies of at most {body_max} bytes, {shards} shards, {spread:?}, {clients} clients"
        )?;
        writeln!(f, "  {dial:?}, logic threads {:?}", self.logic_threads)?;
        writeln!(f, "  {driver:?}")?;
        writeln!(f, "  {limits:?}")?;
        let Behaviour { delay_max, socket_buffer_bytes, step_bytes_max, faults, .. } = behaviour;
        writeln!(
            f,
            "  delays up to {delay_max:?}, socket buffers {socket_buffer_bytes:?}, steps up to {step_bytes_max} bytes"
        )?;
        write!(f, "  faults in a million:")?;
        for class in faults.classes() {
            write!(f, " {class} {}", faults.rate(class).times_per_million())?;
        }
        write!(f, "\n  the handler calls {:?} with eagerness {}", mood.calls, mood.eagerness)
    }
}

/// How a peer reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    /// Everything, at once.
    Eager,
    /// A few bytes at a time.
    Dribbling,
    /// Nothing.
    Dead,
}

/// Something that happens from outside the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// A peer connects to the server.
    Connect {
        /// Which.
        peer: u8,
        /// How it reads from now on.
        habit: Habit,
    },
    /// A peer writes the next bytes of its stream.
    Write {
        /// Which.
        peer: u8,
        /// How many, as far as there is room.
        bytes: u32,
    },
    /// A peer changes how it reads.
    Read {
        /// Which.
        peer: u8,
        /// From now on.
        habit: Habit,
    },
    /// A peer ends its direction, and goes on reading.
    HalfClose(u8),
    /// A peer closes, with a reset if it left something unread.
    Close(u8),
    /// A peer resets.
    Reset(u8),
    /// A peer writes what is no frame.
    Garbage {
        /// Which.
        peer: u8,
        /// It announces, or is, too large a frame.
        too_large: bool,
    },
    /// Another thread posts a job to a session that was there once.
    Post(u16),
    /// Another thread posts a job to a shard.
    PostToShard(u8),
    /// Another thread asks a session that was there once, or every shard.
    Ask(u16),
    /// Another thread asks for all sessions.
    List,
    /// Another thread closes a session that was there once.
    CloseSession(u16),
    /// Another thread drains a session that was there once.
    DrainSession(u16),
    /// Another thread publishes to a group.
    Publish(u16),
    /// Another thread tells the client to connect.
    ConnectClient,
    /// Another thread tells the client to wait no longer.
    ReconnectClient,
    /// Time passes, and no shard has a turn meanwhile.
    Stall(Duration),
    /// The engine is told to drain.
    Drain,
    /// The engine is told to abort.
    Abort,
}

/// An act, and how many steps the engine makes after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happens.
    pub act: Act,
    /// Then the engine makes so many steps.
    pub steps: u16,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, then {} steps", self.act, self.steps)
    }
}

/// A seed, spelled out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that it follows from.
    pub seed: u64,
    /// The set-up.
    pub config: Config,
    /// What happens, in order.
    pub events: Vec<Event>,
}

/// Peers at a time, at most.
pub(crate) const PEERS: u64 = 12;

impl Plan {
    /// The plan of a seed, for about `steps` steps.
    pub fn of(seed: u64, steps: u64) -> Self {
        let mut chance = Chance::new(seed, 1);
        let config = Config::drawn(seed, &mut chance);
        let weights = Weights::drawn(&mut chance, &config);
        let pace = chance.size(1, 24);
        let mut events = Vec::new();
        let mut planned = 0;
        while planned < steps {
            let event = Event { act: weights.act(&mut chance), steps: chance.below(2 * pace) as u16 };
            // A step of the engine goes with about two of the network.
            planned += 1 + 2 * u64::from(event.steps);
            events.push(event);
        }
        if chance.one_in(2) {
            let at = chance.below(1 + events.len() as u64) as usize;
            events.splice(at..at, nap(&mut chance));
        }
        if chance.one_in(4) {
            let last = 1 + events.len() as u64 / chance.pick(&[1, 8]);
            // Also before the first connection of a client stands.
            let at = if chance.one_in(4) { 0 } else { events.len() - chance.below(last) as usize };
            events.splice(at..at, stop(&mut chance));
        }
        Self { seed, config, events }
    }
}

/// Everyone writes, and then no shard has a turn for long.
fn nap(chance: &mut Chance) -> Vec<Event> {
    let bytes = chance.size(20, 2_000) as u32;
    let write = |peer| Event { act: Act::Write { peer, bytes }, steps: 0 };
    let stall = Act::Stall(Duration::from_secs(chance.size(1, 3_600)));
    let nap = Event { act: stall, steps: chance.below(20) as u16 };
    (0..PEERS as u8).map(write).chain([nap]).collect()
}

/// The engine is told to end, while some are about to come.
fn stop(chance: &mut Chance) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..chance.below(6) {
        let peer = chance.below(PEERS) as u8;
        events.push(Event { act: Act::Close(peer), steps: 0 });
        let act = Act::Connect { peer, habit: habit(chance) };
        events.push(Event { act, steps: chance.below(8) as u16 });
    }
    let act = if chance.one_in(3) { Act::Abort } else { Act::Drain };
    events.push(Event { act, steps: 1 });
    events
}

impl Config {
    /// Shards of the server and of the client: threads that their handlers run on.
    pub fn shards_of_services(&self) -> [usize; 2] {
        [self.logic_threads.unwrap_or(self.shards), self.shards]
    }

    fn drawn(seed: u64, chance: &mut Chance) -> Self {
        let shards = chance.pick(&[1, 1, 2, 3]);
        let receive_buffer_bytes = chance.pick(&[16, 64, 700, 4 << 10, 64 << 10]);
        let buffers = chance.pick(&[1, 2, 3, 16]);
        let driver = DriverConfig {
            sockets_max: chance.pick(&[6, 16, 100, 100]),
            receive_buffer_bytes,
            receive_memory_bytes: receive_buffer_bytes * buffers,
            ..DriverConfig::DEFAULT
        };
        let body_max = chance.pick(&[40, 200, 1_500, 8_000]);
        Self {
            codec: chance.pick(&[
                Codec::Raw,
                Codec::Raw,
                Codec::Lines,
                Codec::Lines,
                Codec::SizeKind,
                Codec::SizeKind,
                Codec::Delimiter,
                Codec::LengthPrefix,
            ]),
            shards,
            spread: chance.pick(&[Spread::ReusePort, Spread::HandOver]),
            driver,
            limits: limits(chance, body_max),
            clients: chance.pick(&[0, 0, 1, 3]),
            dial: dial(chance),
            logic_threads: chance.pick(&[None, None, None, Some(1), Some(2)]),
            body_max,
            behaviour: Self::behaviour(seed, chance),
            mood: Mood::drawn(chance),
            check_every: chance.pick(&[1, 4, 32]),
        }
    }

    fn behaviour(seed: u64, chance: &mut Chance) -> Behaviour {
        let capacity = chance.pick(&[4, 100, 4 << 10, 64 << 10]);
        let faults = if chance.one_in(4) { Faults::default() } else { Faults::drawn(seed) };
        Behaviour::default()
            .with_delay_max(Duration::from_micros(chance.pick(&[1, 100, 10_000])))
            .with_socket_buffer_bytes(1.max(capacity / 4)..=capacity)
            .with_step_bytes_max(chance.pick(&[2, 50, 64 << 10]).max(capacity / 64))
            .with_faults(faults)
    }
}

fn dial(chance: &mut Chance) -> Dial {
    match chance.below(4) {
        0 | 1 => Dial::Once,
        2 => {
            let first = Duration::from_millis(chance.pick(&[1, 100, 5_000]));
            Dial::Again(Backoff {
                first,
                cap: first * chance.pick(&[1, 10]),
                budget: chance.pick(&[None, None, Some(1), Some(4)]),
                stable_after: Duration::from_millis(chance.pick(&[0, 10, 10_000])),
            })
        }
        _ => Dial::Manual,
    }
}

fn limits(chance: &mut Chance, body_max: usize) -> Limits {
    let queue_max_bytes = chance.size(body_max as u64 * 2, 60_000) as usize;
    let high_water_bytes = chance.size(1, queue_max_bytes as u64) as usize;
    let send = SendMarks {
        queue_max_bytes,
        high_water_bytes,
        low_water_bytes: chance.below(high_water_bytes as u64 + 1) as usize,
    };
    let millis = |chance: &mut Chance, of: &[u64]| Duration::from_millis(chance.pick(of));
    Limits {
        sessions_max: chance.pick(&[3, 8, 50, 50]).max(3),
        idle_timeout: chance.one_in(3).then(|| millis(chance, &[1, 50, 5_000, 5_000])),
        drain_deadline: millis(chance, &[0, 1, 100, 10_000]),
        linger: millis(chance, &[0, 1, 1_000]),
        send,
        pause_reading_under_pressure: chance.one_in(2),
        turn_frames_max: chance.pick(&[1, 64, 1_024, 1_024, 1_024, 1_024]),
        turn_bytes_max: chance.pick(&[100, 4 << 10, 256 << 10, 256 << 10, 256 << 10]),
        handshake_timeout: chance.one_in(6).then(|| millis(chance, &[50, 5_000])),
        frame_timeout: chance.one_in(6).then(|| millis(chance, &[50, 5_000])),
        drain_grace: millis(chance, &[0, 0, 0, 1, 200]),
        mailbox_max_jobs: chance.pick(&[1, 8, 65_536, 65_536]),
        recent_closed_max: chance.pick(&[0, 1, 64]),
        rates: rates(chance),
        service_queue_max_bytes: chance.one_in(6).then(|| chance.size(64 << 10, 256 << 10) as usize),
        ..Limits::default()
    }
}

fn rates(chance: &mut Chance) -> Rates {
    let mut rates = Rates::default();
    if chance.one_in(10) {
        rates.messages_per_second = Some(chance.size(20, 2_000) as u32);
    }
    if chance.one_in(10) {
        rates.bytes_per_second = Some(chance.size(1_000, 100_000) as u32);
    }
    rates
}

/// How often each act happens, against the others.
struct Weights {
    of: Vec<(u64, Kind)>,
    sum: u64,
    codec: Codec,
}

#[derive(Clone, Copy)]
enum Kind {
    Connect,
    Write,
    Read,
    HalfClose,
    Close,
    Reset,
    Garbage,
    Post,
    PostToShard,
    Ask,
    List,
    CloseSession,
    DrainSession,
    Publish,
    ConnectClient,
    ReconnectClient,
    Stall,
}

impl Weights {
    fn drawn(chance: &mut Chance, config: &Config) -> Self {
        let mut of = vec![(20 + chance.below(30), Kind::Connect), (100, Kind::Write)];
        for (weight, kind) in [
            (20, Kind::Read),
            (8, Kind::HalfClose),
            (8, Kind::Close),
            (8, Kind::Reset),
            (4, Kind::Garbage),
            (20, Kind::Post),
            (6, Kind::PostToShard),
            (8, Kind::Ask),
            (2, Kind::List),
            (4, Kind::CloseSession),
            (4, Kind::DrainSession),
            (8, Kind::Publish),
            (6, Kind::ConnectClient),
            (4, Kind::ReconnectClient),
            (6, Kind::Stall),
        ] {
            // Each is off for about half of the seeds: what all together hide, some alone show.
            if chance.one_in(2) {
                of.push((1 + chance.below(weight), kind));
            }
        }
        Self { sum: of.iter().map(|(weight, _)| weight).sum(), of, codec: config.codec }
    }

    fn act(&self, chance: &mut Chance) -> Act {
        let mut left = chance.below(self.sum);
        let (_, kind) = self
            .of
            .iter()
            .find(|(weight, _)| {
                let found = left < *weight;
                left = left.saturating_sub(*weight);
                found
            })
            .expect("the weights sum up");
        let peer = chance.below(PEERS) as u8;
        match kind {
            Kind::Connect => Act::Connect { peer, habit: habit(chance) },
            Kind::Write => Act::Write { peer, bytes: chance.size(1, 20_000) as u32 },
            Kind::Read => Act::Read { peer, habit: habit(chance) },
            Kind::HalfClose => Act::HalfClose(peer),
            Kind::Close => Act::Close(peer),
            Kind::Reset => Act::Reset(peer),
            Kind::Garbage if self.codec == Codec::Raw => Act::Reset(peer),
            Kind::Garbage => {
                Act::Garbage { peer, too_large: self.codec != Codec::SizeKind || chance.one_in(2) }
            }
            Kind::Post => Act::Post(chance.next() as u16),
            Kind::PostToShard => Act::PostToShard(chance.next() as u8),
            Kind::Ask => Act::Ask(chance.next() as u16),
            Kind::List => Act::List,
            Kind::CloseSession => Act::CloseSession(chance.next() as u16),
            Kind::DrainSession => Act::DrainSession(chance.next() as u16),
            Kind::Publish => Act::Publish(chance.next() as u16),
            Kind::ConnectClient => Act::ConnectClient,
            Kind::ReconnectClient => Act::ReconnectClient,
            Kind::Stall => {
                let most = chance.pick(&[1_000_000, 100_000_000, 60_000_000_000, 3_600_000_000_000]);
                Act::Stall(Duration::from_nanos(chance.below(most)))
            }
        }
    }
}

fn habit(chance: &mut Chance) -> Habit {
    chance.pick(&[Habit::Eager, Habit::Eager, Habit::Eager, Habit::Dribbling, Habit::Dead])
}
