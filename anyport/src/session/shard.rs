//! The shard that an event happens on, as a handler sees it.

use std::time::{Duration, Instant};

use anyport_core::SessionId;

use super::{Local, Session, TimerEvent};
use crate::handler::{Handler, TimerKey};

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

    /// Calls [`on_timer`](Handler::on_timer) once, not before `after` has passed and about 65 µs at most after
    /// the shard is free. Zero is the next turn.
    pub fn set_timer(&mut self, timer: TimerKey, after: Duration) {
        let deadline = self.local.deadline(after);
        self.local.wheel.set(deadline, TimerEvent::Shard(timer));
    }

    /// Drains and stops the whole engine, as a termination signal does.
    pub fn stop_engine(&self) {
        self.local.stop.drain();
    }
}
