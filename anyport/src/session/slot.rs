//! One session in its shard's slab.

use anyport_core::{Codec, Connection, Reassembly, TimerHandle};
use anyport_driver::{PeerAddress, SocketKey};

use super::{timers::TimerTable, watch::Watch};
use crate::{group::Memberships, handler::Handler, info::Traffic};

pub(crate) type DecoderOf<H> = <<H as Handler>::Codec as Codec>::Decoder;
pub(crate) type EncoderOf<H> = <<H as Handler>::Codec as Codec>::Encoder;

/// One session in its shard's slab.
pub(crate) struct Slot<H: Handler> {
    pub(crate) connection: Connection,
    pub(crate) socket: SocketKey,
    /// Out of the slot while a chunk is decoded: the handler may send meanwhile.
    pub(crate) decoder: Option<DecoderOf<H>>,
    pub(crate) encoder: EncoderOf<H>,
    pub(crate) reassembly: Reassembly,
    /// Bytes that arrived while the session was paused, held or under pressure: they wait for the handler. Bounded
    /// by what the driver had received before receiving was cancelled.
    pub(crate) backlog: Option<Box<Backlog>>,
    /// Its entry in the wheel: for idleness while it is open, for its deadline while it drains. Taken out when it ends,
    /// so that sessions that come and go leave nothing in the wheel for as long as their time-outs are (R37).
    pub(crate) due: Option<TimerHandle>,
    /// That entry is a drain's deadline, and not for idleness.
    pub(crate) due_is_of_drain: bool,
    /// Those that the handler has set; nothing for a session that never had one.
    pub(crate) timers: Option<Box<TimerTable>>,
    /// Tick at which it opened, or its socket did.
    pub(crate) opened_at: u64,
    pub(crate) traffic: Traffic,
    /// Tick at which bytes last arrived, or from which on they can again.
    pub(crate) received_at: u64,
    /// Deadlines and rates, if the service has any.
    pub(crate) watch: Option<Box<Watch>>,
    /// What the session has had of its turn.
    pub(crate) spent: Spent,
    pub(crate) peer: PeerAddress,
    pub(crate) dirty: bool,
    /// `on_open` was called, so `on_close` is owed.
    pub(crate) opened: bool,
    /// Pressure rose and the handler has not been told.
    pub(crate) pressure_rose: bool,
    /// The handler was told that it rose, and is owed the relief.
    pub(crate) pressure_told: bool,
    /// The groups that it is in.
    pub(crate) memberships: Option<Box<Memberships>>,
    pub(crate) state: H::State,
}

impl<H: Handler> Slot<H> {
    /// True if there is something to do for it at the end of the turn.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !self.connection.is_quiet() || self.backlog.is_some() || self.pressure_rose
    }
}

/// What a session has had of a turn. Of a turn that is over, nothing; the numbers of turns are used again, and who
/// meets an old one by chance waits a turn longer.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Spent {
    pub(crate) turn: u16,
    pub(crate) frames: u16,
    pub(crate) bytes: u32,
}

/// Bytes that wait for the handler.
#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) bytes: Vec<u8>,
    /// How many of them the handler has had.
    pub(crate) delivered: usize,
}

/// Backlogs that a shard keeps for reuse, and the most bytes of each: a stream that is held back and goes on, over and
/// over, costs no memory that the system has to find and clear each time.
const BACKLOGS_KEPT: usize = if cfg!(guard_pages) { 0 } else { 4 };
const BACKLOG_KEPT_BYTES: usize = 1 << 20;

/// Backlogs that no session has.
#[derive(Default)]
pub(crate) struct Backlogs(Vec<Backlog>);

impl Backlogs {
    /// An empty one.
    pub(crate) fn take(&mut self) -> Backlog {
        self.0.pop().unwrap_or_default()
    }

    /// Takes one back.
    #[cfg_attr(guard_pages, expect(clippy::absurd_extreme_comparisons, reason = "nothing is kept"))]
    pub(crate) fn give(&mut self, mut backlog: Backlog) {
        if self.0.len() < BACKLOGS_KEPT && backlog.bytes.capacity() <= BACKLOG_KEPT_BYTES {
            backlog.bytes.clear();
            backlog.delivered = 0;
            self.0.push(backlog);
        }
    }
}
