//! The connection: a client service with one session, and the handle by which the input's thread sends.

use std::{
    io::{self, Write},
    marker::PhantomData,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, sync_channel},
    },
};

use anyport::{
    CloseReason, Codec, ConnectFailure, Frame, Handler, Pressure, Reconnect, Refusal, Remote, Sent, Session,
    SessionId, Shard,
};

use super::{
    screen::Screen,
    words::{Message, show},
};
use crate::args::CodecName;

/// What the main thread waits for.
#[derive(Debug)]
pub(crate) enum Event {
    Opened(SessionId),
    Failed(ConnectFailure),
    Closed(CloseReason),
    /// The input has ended, or a line of it could not be sent.
    InputEnded(Result<(), String>),
    /// Nobody reads what is printed, or it cannot be written.
    OutputEnded(io::Error),
    /// A termination signal.
    Interrupted,
}

/// Where what arrives is printed.
pub(crate) enum Sink {
    /// Standard output, with nothing that would be a command if it is a terminal.
    Output { is_terminal: bool },
    /// Above the line that is being typed.
    Terminal(Screen),
}

/// What the threads share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Frames that arrived.
    pub(crate) arrived: AtomicU64,
    gate: Mutex<Gate>,
    changed: Condvar,
}

/// Whether the input's thread may send.
#[derive(Clone, Copy, Default)]
struct Gate {
    under_pressure: bool,
    ended: bool,
}

impl Shared {
    fn set(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits while the peer is slower than the input.
    fn wait_for_room(&self) {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |gate: &mut Gate| gate.under_pressure && !gate.ended;
        drop(self.changed.wait_while(gate, waits).unwrap_or_else(PoisonError::into_inner));
    }
}

/// The handler of the one session.
pub(crate) struct Line<C> {
    codec: CodecName,
    sink: Sink,
    shared: Arc<Shared>,
    events: Sender<Event>,
    of: PhantomData<C>,
}

impl<C: Codec> Line<C> {
    pub(crate) fn new(codec: CodecName, sink: Sink, shared: Arc<Shared>, events: Sender<Event>) -> Self {
        Self { codec, sink, shared, events, of: PhantomData }
    }

    fn tell(&self, event: Event) {
        // The main thread goes first only when it is done.
        let _ = self.events.send(event);
    }

    fn print(&self, session: &mut Session<Self>, frame: &Frame) -> io::Result<()> {
        match &self.sink {
            // This blocks the shard if nobody reads: then nothing is read from the peer, either.
            Sink::Output { is_terminal } => {
                let mut out = io::stdout().lock();
                out.write_all(&show(self.codec, frame, *is_terminal))?;
                out.flush()
            }
            Sink::Terminal(screen) => {
                screen.print(String::from_utf8_lossy(&show(self.codec, frame, true)).into_owned());
                if !screen.has_room() {
                    session.pause();
                }
                Ok(())
            }
        }
    }

    /// The terminal has taken what waited: reads again, unless as much has come meanwhile.
    pub(crate) fn relieved(&self, session: &mut Session<Self>) {
        if matches!(&self.sink, Sink::Terminal(screen) if screen.has_room()) {
            session.resume();
        }
    }
}

impl<C: Codec> Handler for Line<C> {
    type State = ();
    type Codec = C;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.tell(Event::Opened(session.id()));
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        self.tell(Event::Failed(failure.clone()));
        Reconnect::AsConfigured
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if let Err(error) = self.print(session, &frame) {
            self.tell(Event::OutputEnded(error));
        }
        self.shared.arrived.fetch_add(1, Ordering::Relaxed);
    }

    fn on_pressure(&mut self, _session: &mut Session<Self>, pressure: Pressure) {
        if pressure == Pressure::Relieved {
            self.shared.set(|gate| gate.under_pressure = false);
        }
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        self.shared.set(|gate| gate.ended = true);
        if let Sink::Terminal(screen) = &self.sink
            && reason != CloseReason::Drained
        {
            screen.print(format!("* the connection ended: {reason}; press Enter to leave\n"));
        }
        self.tell(Event::Closed(reason));
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unsent {
    TooLarge,
    Malformed,
    Ended,
}

/// Sends on the session from another thread.
pub(crate) struct Speaker<C: Codec> {
    pub(crate) remote: Remote<Line<C>>,
    pub(crate) session: SessionId,
    pub(crate) shared: Arc<Shared>,
}

impl<C: Codec> Speaker<C> {
    /// True once nothing can be sent any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner).ended
    }

    /// Sends a message, as soon as the peer has taken most of those before it.
    pub(crate) fn send(&self, message: Message) -> Result<(), Unsent> {
        self.shared.wait_for_room();
        let (answer, answered) = sync_channel(1);
        // If the session has gone, the job is dropped, and its end of the channel with it.
        let _ = self.remote.post(self.session, move |line, session| {
            let sent = session.send_kind(message.kind, &message.body);
            if sent == Sent::High {
                line.shared.set(|gate| gate.under_pressure = true);
            }
            let _ = answer.send(sent);
        });
        match answered.recv() {
            Ok(Sent::Refused(Refusal::FrameTooLarge)) => Err(Unsent::TooLarge),
            Ok(Sent::Refused(Refusal::FrameMalformed)) => Err(Unsent::Malformed),
            Ok(Sent::Refused(_)) | Err(_) => Err(Unsent::Ended),
            Ok(_) => Ok(()),
        }
    }
}
