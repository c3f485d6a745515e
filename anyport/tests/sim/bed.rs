//! What the cases share: a handler that does what lines say and writes down what it is told, and an engine with it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, Engine, Frame, Handler, Limits, Lines, Placement, Pressure, Remote, Server, Session,
    SessionId, Shard, Spread, TimerKey,
    sim::{Held, SimEngine, SimNet, SimPeer},
};

pub(crate) const ADDRESS: &str = "10.0.0.1:7000";
/// Longer than anything takes on a quiet network.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// What a timer may be late: the tick of the engine's wheel.
pub(crate) const TICK: Duration = Duration::from_nanos(1 << 16);

/// What a handler was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Open(SessionId),
    Frame(Vec<u8>),
    Pressure(Pressure),
    Close(SessionId, CloseReason),
    Timer(TimerKey),
    ConnectFailed,
}

/// What all handlers of an engine were told, with the time and the shard.
#[derive(Clone, Default)]
pub(crate) struct Diary(Arc<Mutex<Vec<(Instant, usize, Told)>>>);

impl Diary {
    pub(crate) fn lines(&self) -> MutexGuard<'_, Vec<(Instant, usize, Told)>> {
        self.0.lock().unwrap()
    }

    /// Everything told so far that `pick` picks.
    pub(crate) fn all<T>(&self, pick: impl FnMut(&(Instant, usize, Told)) -> Option<T>) -> Vec<T> {
        self.lines().iter().filter_map(pick).collect()
    }

    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        self.all(|(_, _, told)| if let Told::Frame(body) = told { Some(body.clone()) } else { None })
    }

    pub(crate) fn closes(&self) -> Vec<CloseReason> {
        self.all(|(_, _, told)| if let Told::Close(_, reason) = told { Some(*reason) } else { None })
    }

    pub(crate) fn opens(&self) -> Vec<(usize, SessionId)> {
        self.all(|(_, shard, told)| if let Told::Open(id) = told { Some((*shard, *id)) } else { None })
    }
}

/// Answers each line with the same, but for two that it obeys: `timer N` sets the timer N, in N ms; `send N` answers a
/// line of N bytes.
pub(crate) struct Obedient {
    pub(crate) diary: Diary,
}

impl Obedient {
    fn note(&self, shard: &Shard<'_, Self>, told: Told) {
        self.diary.lines().push((shard.now(), shard.index(), told));
    }
}

impl Handler for Obedient {
    type State = ();
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let id = session.id();
        self.note(&session.shard(), Told::Open(id));
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.note(&session.shard(), Told::Frame(frame.to_vec()));
        let line = str::from_utf8(&frame).unwrap();
        let number = line.split_once(' ').map_or(0, |(_, number)| number.parse().unwrap_or(0));
        match line.split(' ').next() {
            Some("timer") => {
                session.shard().set_timer(TimerKey(number as u16), Duration::from_millis(number));
            }
            Some("send") => {
                session.send(&vec![b'y'; number as usize]);
            }
            _ => {
                session.send(&frame);
            }
        }
    }

    fn on_pressure(&mut self, session: &mut Session<Self>, pressure: Pressure) {
        self.note(&session.shard(), Told::Pressure(pressure));
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        let id = session.id();
        self.note(&session.shard(), Told::Close(id, reason));
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        self.note(shard, Told::Timer(timer));
    }

    fn on_connect_failed(
        &mut self,
        shard: &mut Shard<Self>,
        _failure: &anyport::ConnectFailure,
    ) -> anyport::Reconnect {
        self.note(shard, Told::ConnectFailed);
        anyport::Reconnect::AsConfigured
    }
}

/// An engine with one obedient server.
pub(crate) struct Bed {
    pub(crate) net: SimNet,
    pub(crate) engine: SimEngine,
    pub(crate) remote: Remote<Obedient>,
    pub(crate) diary: Diary,
}

impl Bed {
    pub(crate) fn new(net: SimNet) -> Self {
        Self::with(net, 1, Spread::Auto, Limits::default())
    }

    pub(crate) fn with_limits(net: SimNet, limits: Limits) -> Self {
        Self::with(net, 1, Spread::Auto, limits)
    }

    pub(crate) fn with(net: SimNet, shards: usize, spread: Spread, limits: Limits) -> Self {
        Self::of(net, Engine::new().unwrap().shards(shards).unwrap().spread(spread), limits)
    }

    /// With the server added to `engine`.
    pub(crate) fn of(net: SimNet, engine: Engine, limits: Limits) -> Self {
        Self::placed(net, engine, Placement::Shard, limits)
    }

    /// With the server added to `engine`, and its handlers there.
    pub(crate) fn placed(net: SimNet, mut engine: Engine, placement: Placement, limits: Limits) -> Self {
        let diary = Diary::default();
        let told = diary.clone();
        let server = Server::bind(ADDRESS, Lines::new(64 << 10)).limits(limits).placement(placement);
        let remote = engine.add_server(server, move |_| Obedient { diary: told.clone() }).unwrap();
        let engine = engine.simulate(&net).unwrap();
        Self { net, engine, remote, diary }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.engine.address(0).unwrap()
    }

    /// A peer whose session is open.
    pub(crate) fn peer(&mut self) -> SimPeer {
        let sessions = self.engine.counters(0).sessions;
        let peer = self.net.connect(self.address()).unwrap();
        assert!(self.engine.run_until(SOON, |engine| engine.counters(0).sessions > sessions));
        peer
    }

    /// Writes a line and waits for the answer.
    pub(crate) fn ask(&mut self, peer: &mut SimPeer, line: &str) -> String {
        let bytes = format!("{line}\n");
        assert_eq!(self.engine.write(peer, bytes.as_bytes(), SOON), bytes.len());
        self.engine.read_line(peer, SOON)
    }

    /// Nothing is left once it has stopped.
    pub(crate) fn stop(mut self) {
        self.engine.check().unwrap();
        self.engine.stop().unwrap();
        assert_eq!(self.engine.held(), Held::default());
    }
}
