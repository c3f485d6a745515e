//! What an application is to the engine.

use std::time::Duration;

use anyport_core::{CloseReason, Codec, Fault, Frame};
use anyport_driver::Address;

use crate::{
    append_file::{FileEvent, FileId},
    session::{Session, Shard},
};

/// Names a timer of a session, or of a shard; each has keys of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerKey(pub u16);

/// How full a session's send queue is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressure {
    /// It rose above `high_water_bytes`.
    High,
    /// It fell to `low_water_bytes`.
    Relieved,
}

/// A connection that could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectFailure {
    /// Which of the client's connections ([`Session::connection_index`]).
    pub connection: usize,
    /// Where to.
    pub to: Address,
    /// Why not.
    pub fault: Fault,
    /// Which attempt in a row it was, from 1, since the connection was last a stable one.
    pub attempt: u32,
    /// When the next one is, as configured; `None` if there is to be none.
    pub next: Option<Duration>,
}

/// What follows a connection that could not be opened, or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reconnect {
    /// What the client was configured for: with [`reconnect`](crate::Client::reconnect) another attempt, as long as its
    /// budget lasts; without it none.
    #[default]
    AsConfigured,
    /// Another attempt after this time, whatever was configured.
    After(Duration),
    /// None.
    Never,
}

/// An application: what to do when something happens to a session.
///
/// Each shard has a handler of its own, made by the function given to [`serve`](crate::Engine::serve), and calls
/// it from one thread: `&mut self` needs no lock. A handler only records what it wants; sends, closes and
/// timers take effect at the end of the shard's turn, so that nothing is re-entered and sends are gathered.
///
/// A handler that panics loses the session that the event was about
/// ([`HandlerPanicked`](CloseReason::HandlerPanicked)) and no other.
pub trait Handler: Sized + Send + 'static {
    /// Your data in every session.
    type State: Default + Send + 'static;
    /// Where frames begin and end.
    type Codec: Codec;

    /// The shard starts, before its first session.
    fn on_start(&mut self, _shard: &mut Shard<Self>) {}

    /// A session opened: accepted, or connected.
    fn on_open(&mut self, _session: &mut Session<Self>) {}

    /// A frame arrived. It lies in the receive buffer: copy what you keep.
    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame);

    /// The send queue rose above its high mark, or fell to its low one again.
    fn on_pressure(&mut self, _session: &mut Session<Self>, _pressure: Pressure) {}

    /// The system has taken all of a frame that was sent with [`send_notify`](Session::send_notify).
    fn on_sent(&mut self, _session: &mut Session<Self>, _token: u64) {}

    /// The engine is to end: nobody is accepted any more. Each session is told next
    /// ([`on_session_drain`](Self::on_session_drain)). Timers and jobs go on until the last session has ended.
    fn on_drain(&mut self, _shard: &mut Shard<Self>) {}

    /// The engine is to end, and this session with it: a last message to it can be sent now. It goes on as before for
    /// [`drain_grace`](crate::Limits::drain_grace), then it drains; with a grace of zero, at once. Not called for a
    /// session that drains or closes already, nor when it is drained for another reason than the end of the engine.
    fn on_session_drain(&mut self, _session: &mut Session<Self>) {}

    /// A session ended. Called once for each [`on_open`](Self::on_open), last; nothing can be sent any more.
    fn on_close(&mut self, _session: &mut Session<Self>, _reason: CloseReason) {}

    /// A timer of the shard is due ([`Shard::set_timer`]).
    fn on_timer(&mut self, _shard: &mut Shard<Self>, _timer: TimerKey) {}

    /// A timer of the session is due ([`Session::set_timer`]). Not called for a session that drains or closes.
    fn on_session_timer(&mut self, _session: &mut Session<Self>, _timer: TimerKey) {}

    /// Something became of a file of this shard ([`Shard::open_file`]).
    fn on_file(&mut self, _shard: &mut Shard<Self>, _file: FileId, _event: FileEvent) {}

    /// A client's connection could not be opened. Decides whether it is tried again.
    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, _failure: &ConnectFailure) -> Reconnect {
        Reconnect::AsConfigured
    }
}
