//! The server's side of a script: a handler that does what frames tell it, and tells the test what it saw.

use std::{collections::HashMap, net::SocketAddr, sync::mpsc::Sender, time::Duration};

use anyport::{
    CloseReason, DriverConfig, Encode, Engine, Frame, Handler, Limits, Remote, SendMarks, Server, Session,
    SessionId, Shard, SizeKind, SocketOptions, Spread, TimerKey,
};

/// Largest frame, header included.
pub(crate) const FRAME_BYTES_MAX: u16 = 8 << 10;
/// Bytes of a frame's header.
const HEADER_BYTES: usize = 4;
/// Sessions that [`Door::Narrow`] lets in at a time.
pub(crate) const NARROW_SESSIONS_MAX: usize = 2;
/// Marks that a script crosses often.
const SEND: SendMarks =
    SendMarks { high_water_bytes: 16 << 10, low_water_bytes: 8 << 10, queue_max_bytes: 64 << 10 };
/// Nothing in a script may wait for them: every session is ended by somebody.
const DEADLINE: Duration = Duration::from_mins(5);
/// Scripts that one engine plays before it is stopped: it must end in order, with nothing left.
pub(crate) const SCRIPTS_AN_ENGINE: u64 = 50;
/// A driver with eight receive buffers.
const SMALL: DriverConfig = DriverConfig {
    sockets_max: 1 << 10,
    receive_memory_bytes: 4 << 10,
    receive_buffer_bytes: 512,
    ..DriverConfig::DEFAULT
};
/// What a paused session is sent still fits.
pub(crate) const SMALL_SOCKET_BYTES: usize = 4 << 10;
/// Frames that no send queue here can hold.
const OVERFLOW: usize = 100;
/// The kind of frames that the server sends of its own.
const ANSWER: u16 = 100;

/// The services of an engine under test, in the order in which they are added: what is done as a session opens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Door {
    /// Nothing.
    Plain,
    /// It is greeted.
    Greeting,
    /// It is greeted and drained.
    Farewell,
    /// It is thrown out.
    Kicking,
    /// The handler panics.
    Panicking,
    /// Nothing; but one session above [`NARROW_SESSIONS_MAX`] is refused.
    Narrow,
}

impl Door {
    pub(crate) const ALL: [Self; 6] =
        [Self::Plain, Self::Greeting, Self::Farewell, Self::Kicking, Self::Panicking, Self::Narrow];

    /// The greeting, as it is on the wire.
    pub(crate) fn greeting(self) -> Vec<u8> {
        if matches!(self, Self::Greeting | Self::Farewell) {
            wire(ANSWER, &pattern(1, 300))
        } else {
            Vec::new()
        }
    }
}

/// What a frame tells the server to do. The discriminant is the frame's kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Nothing: it only carries bytes.
    Note {
        len: u16,
    },
    /// Send the same frame back.
    Echo {
        len: u16,
    },
    /// Send so many frames of such bodies.
    Burst {
        count: u16,
        size: u16,
    },
    /// Stop reading until a job resumes it.
    Pause,
    /// Stop reading until a timer resumes it.
    PauseFor {
        micros: u16,
    },
    /// Panic when the session's end is told.
    PanicAtClose,
    Drain,
    /// Send, then drain: all of it must arrive.
    AnswerAndDrain {
        size: u16,
    },
    Kick {
        number: u16,
    },
    /// Send, then throw out: nothing of it may arrive.
    AnswerAndKick {
        size: u16,
    },
    /// Close for one of [`CLOSE_REASONS`].
    Close {
        reason: u8,
    },
    Panic,
    /// Send more than the queue holds.
    Overflow,
}

/// What a handler may close for.
pub(crate) const CLOSE_REASONS: [CloseReason; 3] = [
    CloseReason::Stopped,
    CloseReason::IdleTimeout,
    CloseReason::ReceiveFailed(anyport::Fault::of(anyport::FaultKind::Unreachable)),
];

impl Command {
    fn kind(self) -> u16 {
        match self {
            Self::Note { .. } => 0,
            Self::Echo { .. } => 1,
            Self::Burst { .. } => 2,
            Self::Pause => 3,
            Self::PauseFor { .. } => 4,
            Self::PanicAtClose => 5,
            Self::Drain => 6,
            Self::AnswerAndDrain { .. } => 7,
            Self::Kick { .. } => 8,
            Self::AnswerAndKick { .. } => 9,
            Self::Close { .. } => 10,
            Self::Panic => 11,
            Self::Overflow => 12,
        }
    }

    /// The body that carries it; `salt` makes bytes differ from frame to frame.
    pub(crate) fn body(self, salt: u64) -> Vec<u8> {
        let words = |words: [u16; 2]| words.into_iter().flat_map(u16::to_le_bytes).collect();
        match self {
            Self::Note { len } | Self::Echo { len } => pattern(salt, len),
            Self::Burst { count, size } => words([count, size]),
            Self::PauseFor { micros } => words([micros, 0]),
            Self::AnswerAndDrain { size } | Self::AnswerAndKick { size } => words([size, 0]),
            Self::Kick { number } => words([number, 0]),
            Self::Close { reason } => words([reason.into(), 0]),
            Self::Pause | Self::PanicAtClose | Self::Drain | Self::Panic | Self::Overflow => words([0, 0]),
        }
    }

    fn of(frame: &Frame) -> Self {
        let word = |at: usize| {
            let bytes = frame.body.get(2 * at..2 * at + 2).expect("scripts write whole commands");
            u16::from_le_bytes([bytes[0], bytes[1]])
        };
        let len = frame.body.len() as u16;
        match frame.kind {
            0 => Self::Note { len },
            1 => Self::Echo { len },
            2 => Self::Burst { count: word(0), size: word(1) },
            3 => Self::Pause,
            4 => Self::PauseFor { micros: word(0) },
            5 => Self::PanicAtClose,
            6 => Self::Drain,
            7 => Self::AnswerAndDrain { size: word(0) },
            8 => Self::Kick { number: word(0) },
            9 => Self::AnswerAndKick { size: word(0) },
            10 => Self::Close { reason: word(0) as u8 },
            11 => Self::Panic,
            12 => Self::Overflow,
            kind => panic!("a frame of kind {kind} was delivered, which no script writes"),
        }
    }

    /// The frame that carries it, as it is on the wire.
    pub(crate) fn wire(self, salt: u64) -> Vec<u8> {
        wire(self.kind(), &self.body(salt))
    }

    /// What the peer gets for it, as it is on the wire.
    pub(crate) fn answer(self, salt: u64) -> Vec<u8> {
        match self {
            Self::Echo { .. } => self.wire(salt),
            Self::Burst { count, size } => {
                (0..count).flat_map(|nth| wire(ANSWER, &pattern(nth.into(), size))).collect()
            }
            Self::AnswerAndDrain { size } => wire(ANSWER, &pattern(2, size)),
            _ => Vec::new(),
        }
    }

    /// How many bytes that is.
    pub(crate) fn answer_bytes(self) -> usize {
        let frame = |size: u16| HEADER_BYTES + usize::from(size);
        match self {
            Self::Echo { len } => frame(len),
            Self::Burst { count, size } => usize::from(count) * frame(size),
            Self::AnswerAndDrain { size } => frame(size),
            _ => 0,
        }
    }

    /// What the test is told when it is delivered.
    pub(crate) fn event(self, salt: u64) -> Event {
        Event::frame(&Frame { kind: self.kind(), body: &self.body(salt) })
    }
}

/// What a job tells the server to do to a session, from outside its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    Send {
        size: u16,
    },
    Kick {
        number: u16,
    },
    Drain,
    /// Reads again, after [`Command::Pause`]. Nothing is told: it races with ends of the session, lawfully.
    Resume,
    /// The same, and sends: to a peer that reset the connection meanwhile.
    ResumeAndSend {
        size: u16,
    },
}

impl Job {
    /// What the peer gets for it, as it is on the wire.
    pub(crate) fn answer(self) -> Vec<u8> {
        if let Self::Send { size } = self { wire(ANSWER, &pattern(3, size)) } else { Vec::new() }
    }

    /// Does it.
    pub(crate) fn run(self, handler: &Obedient, session: &mut Session<'_, Obedient>) {
        if !matches!(self, Self::Resume | Self::ResumeAndSend { .. }) {
            handler.tell(session, Event::Job(self));
        }
        match self {
            Self::Send { size } => {
                session.send_kind(ANSWER, &pattern(3, size));
            }
            Self::Kick { number } => session.kick(number),
            Self::Drain => session.drain(),
            Self::Resume => resume(session),
            Self::ResumeAndSend { size } => {
                resume(session);
                session.send_kind(ANSWER, &pattern(3, size));
            }
        }
    }
}

fn resume(session: &mut Session<'_, Obedient>) {
    session.state().paused = false;
    session.resume();
}

/// A callback, as the test is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Open(SessionId),
    Frame {
        kind: u16,
        len: usize,
        hash: u64,
    },
    /// A frame was delivered to a paused session.
    WhilePaused,
    Job(Job),
    Close(CloseReason),
}

impl Event {
    fn frame(frame: &Frame) -> Self {
        Self::Frame { kind: frame.kind, len: frame.body.len(), hash: hash(frame.body) }
    }
}

/// Whose an event is: two peers may have the same address, if they came through different doors.
pub(crate) type Whose = (Door, SocketAddr);

/// Where events come out.
pub(crate) type Tell = Sender<(Whose, Event)>;

/// Obeys commands.
pub(crate) struct Obedient {
    door: Door,
    tell: Tell,
    /// Which session a timer is to resume.
    timers: HashMap<TimerKey, SessionId>,
    timer_next: u16,
}

/// What the handler keeps in a session.
#[derive(Default)]
pub(crate) struct Mind {
    paused: bool,
    panics_at_close: bool,
}

impl Obedient {
    fn tell(&self, session: &mut Session<'_, Self>, event: Event) {
        // Whoever is not listening any more does not want to know.
        let _ = self.tell.send(((self.door, session.peer_address().socket().expect("it came by IP")), event));
    }

    fn obey(&mut self, session: &mut Session<'_, Self>, command: Command, frame: Frame) {
        match command {
            Command::Note { .. } => {}
            Command::Echo { .. } => {
                session.send_frame(frame);
            }
            Command::Burst { count, size } => {
                for nth in 0..count {
                    session.send_kind(ANSWER, &pattern(nth.into(), size));
                }
            }
            Command::Pause => {
                session.state().paused = true;
                session.pause();
            }
            Command::PauseFor { micros } => {
                let timer = TimerKey(self.timer_next);
                self.timer_next = self.timer_next.wrapping_add(1);
                self.timers.insert(timer, session.id());
                session.state().paused = true;
                session.pause();
                session.shard().set_timer(timer, Duration::from_micros(micros.into()));
            }
            Command::PanicAtClose => session.state().panics_at_close = true,
            Command::Drain => session.drain(),
            Command::AnswerAndDrain { size } => {
                session.send_kind(ANSWER, &pattern(2, size));
                session.drain();
            }
            Command::Kick { number } => session.kick(number),
            Command::AnswerAndKick { size } => {
                session.send_kind(ANSWER, &pattern(2, size));
                session.kick(4);
            }
            Command::Close { reason } => session.close(CLOSE_REASONS[reason as usize]),
            Command::Panic => panic_quietly(),
            Command::Overflow => {
                for _ in 0..OVERFLOW {
                    session.send_kind(ANSWER, &[0; 1 << 10]);
                }
            }
        }
    }
}

/// A panic without a word on the console.
fn panic_quietly() {
    std::panic::resume_unwind(Box::new("as the script wanted"));
}

impl Handler for Obedient {
    type State = Mind;
    type Codec = SizeKind;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let id = session.id();
        self.tell(session, Event::Open(id));
        match self.door {
            Door::Plain | Door::Narrow => {}
            Door::Greeting => {
                session.send_kind(ANSWER, &pattern(1, 300));
            }
            Door::Farewell => {
                session.send_kind(ANSWER, &pattern(1, 300));
                session.drain();
            }
            Door::Kicking => session.kick(3),
            Door::Panicking => panic_quietly(),
        }
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if session.state().paused {
            self.tell(session, Event::WhilePaused);
        }
        self.tell(session, Event::frame(&frame));
        self.obey(session, Command::of(&frame), frame);
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        let id = self.timers.remove(&timer).expect("a timer fires once");
        if let Some(mut session) = shard.session(id) {
            resume(&mut session);
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        self.tell(session, Event::Close(reason));
        if session.state().panics_at_close {
            panic_quietly();
        }
    }
}

/// How an engine is set up. Nothing of it may be seen in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Setup {
    /// As it comes, on two shards: sessions of one script meet on one, and live apart on two.
    Usual,
    /// Receive memory that runs dry, buffers that cut every larger frame, sends that go out in parts.
    Small,
    /// One shard accepts, and hands connections over; small in the same way.
    HandedOver,
}

impl Setup {
    /// Scripts with neighbouring seeds share a setup, and so can share an engine.
    pub(crate) fn of(seed: u64) -> Self {
        [Self::Usual, Self::Small, Self::HandedOver][(seed / SCRIPTS_AN_ENGINE % 3) as usize]
    }

    /// An engine with a server for each door, all at `address`, which has port 0.
    pub(crate) fn engine(self, address: &str, tell: &Tell) -> (Engine, Vec<Remote<Obedient>>) {
        let mut engine = Engine::new().unwrap().shards(2).unwrap();
        let mut options = SocketOptions::default();
        if self != Self::Usual {
            engine = engine.driver_config(SMALL);
            options.receive_buffer_bytes = Some(SMALL_SOCKET_BYTES);
            options.send_buffer_bytes = Some(SMALL_SOCKET_BYTES);
        }
        if self == Self::HandedOver {
            engine = engine.spread(Spread::HandOver);
        }
        let add = |door| {
            let mut limits =
                Limits { drain_deadline: DEADLINE, linger: DEADLINE, send: SEND, ..Limits::default() };
            if door == Door::Narrow {
                limits.sessions_max = NARROW_SESSIONS_MAX;
            }
            let server = Server::bind(address, SizeKind::new(FRAME_BYTES_MAX));
            let tell = tell.clone();
            let make = move |_| Obedient { door, tell: tell.clone(), timers: HashMap::new(), timer_next: 0 };
            engine.add_server(server.limits(limits).socket_options(options), make).unwrap()
        };
        let remotes = Door::ALL.map(add).into();
        (engine, remotes)
    }
}

/// Bytes that differ from place to place, and from salt to salt.
fn pattern(salt: u64, len: u16) -> Vec<u8> {
    let mut bytes = vec![0; len.into()];
    for (at, word) in bytes.chunks_mut(8).enumerate() {
        let mixed = (at as u64 ^ salt.rotate_left(20)).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 29).to_le_bytes();
        word.copy_from_slice(&mixed[..word.len()]);
    }
    bytes
}

/// A frame as it is on the wire.
fn wire(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    SizeKind::new(FRAME_BYTES_MAX).encode(&Frame { kind, body }, &mut wire);
    wire
}

/// FNV-1a: tells bytes apart in one number that a person can compare.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}
