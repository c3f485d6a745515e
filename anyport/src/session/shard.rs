//! The shard that an event happens on, as a handler sees it.

use std::time::{Duration, Instant};

use anyport_core::{Frame, Overflow, SessionId};

use super::{Local, Owner, Session};
use crate::{
    group::{Group, Reach},
    handler::{Handler, TimerKey},
    info::SessionInfo,
};

/// The shard that an event happens on: the sessions of your service that live on it.
pub struct Shard<'a, H: Handler> {
    pub(crate) local: &'a mut Local<H>,
}

impl<H: Handler> Shard<'_, H> {
    /// Which shard it is, from 0.
    pub fn index(&self) -> usize {
        self.local.shard as usize
    }

    /// The time of this turn; one reading for all its events.
    pub fn now(&self) -> Instant {
        self.local.now
    }

    /// Sessions of this service on this shard, closing ones included.
    pub fn sessions(&self) -> usize {
        self.local.sessions.len()
    }

    /// The session with this id, or `None` if it has gone or lives on another shard.
    pub fn session(&mut self, id: SessionId) -> Option<Session<'_, H>> {
        if id.shard() != self.local.shard || id.service() != self.local.service {
            return None;
        }
        let key = id.slot();
        self.local.sessions.get(key)?;
        Some(Session { key, local: self.local })
    }

    /// Calls `each` for every open session of this service on this shard.
    pub fn for_each(&mut self, mut each: impl FnMut(&mut Session<'_, H>)) {
        for index in 0..self.local.sessions.index_end() {
            if let Some((key, slot)) = self.local.sessions.at_mut(index)
                && slot.connection.is_open()
            {
                each(&mut Session { key, local: self.local });
            }
        }
    }

    /// The sessions of this service on this shard that `filter` picks, closing ones included.
    pub fn find(&self, filter: impl Fn(&SessionInfo) -> bool) -> Vec<SessionInfo> {
        let opened = self.local.sessions.iter().filter(|(_, slot)| slot.opened);
        opened.map(|(key, _)| self.local.info(key)).filter(filter).collect()
    }

    /// Calls [`on_timer`](Handler::on_timer) once, not before `after` has passed and about 65 µs at most after
    /// the shard is free. Zero is this turn, if it has not come to its timers yet, or the next. Setting the same key
    /// again moves the timer.
    pub fn set_timer(&mut self, timer: TimerKey, after: Duration) {
        self.local.set_timer(Owner::Shard, timer, after, Duration::ZERO);
    }

    /// Calls [`on_timer`](Handler::on_timer) every `every` from now on, as
    /// [`Session::set_repeating_timer`] does for a session.
    ///
    /// # Panics
    /// If `every` is zero: that would keep the processor busy for ever.
    pub fn set_repeating_timer(&mut self, timer: TimerKey, every: Duration) {
        assert!(!every.is_zero(), "a repeating timer needs an interval above zero");
        self.local.set_timer(Owner::Shard, timer, every, every);
    }

    /// Takes a timer back: it is not told any more, though it were due in this turn. False if it was not set.
    pub fn cancel_timer(&mut self, timer: TimerKey) -> bool {
        self.local.cancel_timer(Owner::Shard, timer)
    }

    /// The group of this name in this service; made if there is none. Keep the handle where messages are published:
    /// looking a name up takes a lock that the shards share.
    pub fn group(&self, name: &str) -> Group {
        self.local.groups.group(name)
    }

    /// Sends a message to every member of a group, on every shard, at the end of the turn. Members get the messages of
    /// one publisher in the order in which it published them, whatever groups it published to; on the publisher's own
    /// shard also in order with what was sent to them singly. It is encoded once, by the service's codec.
    ///
    /// # Panics
    /// If the group is of another service.
    pub fn publish(&mut self, group: &Group, frame: Frame) -> Reach {
        self.local.publish(group, &frame, Overflow::Close, None)
    }

    /// As [`publish`](Self::publish), to everybody but one. [`Reach::Members`] does not count that one if it lives on this
    /// shard; whether one on another shard is a member is not known here.
    ///
    /// # Panics
    /// If the group is of another service.
    pub fn publish_except(&mut self, group: &Group, except: SessionId, frame: Frame) -> Reach {
        self.local.publish(group, &frame, Overflow::Close, Some(except))
    }

    /// As [`publish`](Self::publish); what becomes of it at a member that does not read fast enough is `overflow`'s to
    /// say.
    ///
    /// # Panics
    /// If the group is of another service.
    pub fn publish_with(&mut self, group: &Group, frame: Frame, overflow: Overflow) -> Reach {
        self.local.publish(group, &frame, overflow, None)
    }

    /// Calls `each` for every open member of a group that lives on this shard.
    pub fn for_each_member(&mut self, group: &Group, mut each: impl FnMut(&mut Session<'_, H>)) {
        for key in self.local.members_here(group) {
            let open = self.local.sessions.get(key).is_some_and(|slot| slot.connection.is_open());
            if open {
                each(&mut Session { key, local: self.local });
            }
        }
    }

    /// Drains and stops the whole engine, as a termination signal does.
    pub fn stop_engine(&self) {
        self.local.stop.drain();
    }

    /// Drains and stops the whole engine, and closes whatever is left after `within`.
    pub fn stop_engine_within(&self, within: Duration) {
        self.local.stop.drain_within(within);
    }
}
