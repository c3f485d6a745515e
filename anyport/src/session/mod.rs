//! What a handler sees: the session that an event is about, and the shard around it.

mod dial;
mod local;
mod send;
mod shard;
mod slot;
mod timers;
mod watch;

use std::time::Duration;

use anyport_core::{CloseReason, SessionId, SlabKey};
use anyport_driver::PeerAddress;

pub(crate) use local::{Local, TimerEvent};
pub use shard::Shard;
pub(crate) use slot::{Backlogs, EncoderOf, Slot, Spent};
pub(crate) use timers::{Owner, TimerTable};
pub(crate) use watch::{Deadline, Fired, Rules, Watch};

use crate::{
    group::Group,
    handler::{Handler, TimerKey},
    info::SessionInfo,
};

/// The session that an event is about.
pub struct Session<'a, H: Handler> {
    pub(crate) key: SlabKey,
    pub(crate) local: &'a mut Local<H>,
}

impl<H: Handler> Session<'_, H> {
    /// Its id, never used again for another.
    pub fn id(&self) -> SessionId {
        self.local.id(self.key)
    }

    /// Your data in this session.
    pub fn state(&mut self) -> &mut H::State {
        &mut self.local.slot(self.key).state
    }

    /// The other end: who connected, or where to. Who connects to a Unix socket has no address.
    pub fn peer_address(&mut self) -> PeerAddress {
        self.local.slot(self.key).peer
    }

    /// How old it is, what went over it, what is queued.
    pub fn info(&self) -> SessionInfo {
        self.local.info(self.key)
    }

    /// True until it drains or closes.
    pub fn is_open(&mut self) -> bool {
        self.local.slot(self.key).connection.is_open()
    }

    /// The shard around it.
    pub fn shard(&mut self) -> Shard<'_, H> {
        Shard { local: self.local }
    }

    /// Puts it into a group. What was published before is not sent to it. False if it is in it already, or is ending.
    ///
    /// # Panics
    /// If the group is of another service.
    pub fn join(&mut self, group: &Group) -> bool {
        self.local.join(self.key, group)
    }

    /// Takes it out of a group. What was published before is still sent to it. False if it was not in it. A session
    /// that ends leaves by itself, after [`on_close`](Handler::on_close).
    pub fn leave(&mut self, group: &Group) -> bool {
        self.local.leave(self.key, group)
    }

    /// The groups that it is in.
    pub fn groups(&mut self) -> Vec<Group> {
        self.local.groups_of(self.key)
    }

    /// True if it is in the group.
    pub fn is_in(&self, group: &Group) -> bool {
        self.local.is_in(self.key, group)
    }

    /// Calls [`on_session_timer`](Handler::on_session_timer) once, not before `after` has passed and about 65 µs at
    /// most after the shard is free. Zero is this turn, if it has not come to its timers yet, or the next. Setting the
    /// same key again moves the timer, also one that is due in this turn and was not told yet; one that repeated is
    /// told once then.
    ///
    /// A session's timers end when it drains or closes; setting one then does nothing. Each key that is set takes 32
    /// bytes of the session and 48 of the shard, a session without timers 8.
    pub fn set_timer(&mut self, timer: TimerKey, after: Duration) {
        self.local.set_timer(Owner::Session(self.key), timer, after, Duration::ZERO);
    }

    /// Calls [`on_session_timer`](Handler::on_session_timer) every `every` from now on, the first time when it has
    /// passed once. It does not drift: the times are multiples of `every` from now. What a stall made it miss is
    /// left out: it is told once after it, and then in step again.
    ///
    /// # Panics
    /// If `every` is zero: that would keep the processor busy for ever.
    pub fn set_repeating_timer(&mut self, timer: TimerKey, every: Duration) {
        assert!(!every.is_zero(), "a repeating timer needs an interval above zero");
        self.local.set_timer(Owner::Session(self.key), timer, every, every);
    }

    /// Takes a timer back: it is not told any more, though it were due in this turn. False if it was not set.
    pub fn cancel_timer(&mut self, timer: TimerKey) -> bool {
        self.local.cancel_timer(Owner::Session(self.key), timer)
    }

    /// Stops reading from the peer: no frame is given to the handler until [`resume`](Self::resume).
    pub fn pause(&mut self) {
        self.local.slot(self.key).connection.pause(true);
        self.local.mark(self.key);
    }

    /// Reads again after [`pause`](Self::pause).
    pub fn resume(&mut self) {
        self.local.slot(self.key).connection.pause(false);
        self.local.mark(self.key);
    }

    /// Ends it gracefully: what is queued goes out, then our direction of the stream ends, then the peer's; the
    /// drain deadline bounds both.
    pub fn drain(&mut self) {
        self.settle();
        self.local.slot(self.key).connection.drain(CloseReason::Drained);
        self.local.mark(self.key);
    }

    /// Throws the peer out at once, with a number of the application's own. What is queued is dropped.
    pub fn kick(&mut self, number: u16) {
        self.close(CloseReason::Kicked(number));
    }

    /// Ends it at once for `reason`, unless it is ending already: the first cause stays.
    pub fn close(&mut self, reason: CloseReason) {
        self.local.slot(self.key).connection.close(reason);
        self.local.mark(self.key);
    }
}
