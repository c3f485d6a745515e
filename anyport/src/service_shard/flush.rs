//! What the machines ask for, carried out at the end of the turn.

use std::time::Duration;

use anyport_core::{
    Action, Fault, SlabKey,
    planted::{Bug, planted},
};
use anyport_driver::{Driver, Op, OpKind, SendBatch, Token};

use super::{ServiceShard, token};
use crate::{
    handler::{Handler, Pressure},
    session::{Local, TimerEvent},
};

impl<H: Handler> ServiceShard<H> {
    #[inline]
    pub(super) fn sent(&mut self, key: SlabKey, batch: Box<SendBatch>, result: Result<(), Fault>) {
        let Local { sessions, limits, pool, tick, counters, .. } = &mut self.local;
        let slot = sessions.get_mut(key).expect("a slot is not freed while a send is in flight");
        if slot.connection.is_lazy() {
            // All of it was counted when it was handed over.
            let missing = batch.remaining() as u64;
            counters.bytes_sent -= missing;
            slot.traffic.bytes_sent -= missing;
        } else {
            let bytes = batch.sent() as u64;
            counters.bytes_sent += bytes;
            slot.traffic.bytes_sent += bytes;
        }
        if slot.connection.is_choked() {
            // We do not listen to it, but it reads: it is there.
            slot.received_at = *tick;
        }
        let relieved = slot.connection.handle_sent(batch, result, &limits.send, pool);
        let tells_relief =
            relieved && std::mem::take(&mut slot.pressure_told) && !planted(Bug::ReliefNotTold);
        let tells_sent = slot.connection.has_sent_token();
        if tells_relief {
            self.call(key, |handler, session| handler.on_pressure(session, Pressure::Relieved));
        }
        if tells_relief || tells_sent {
            self.tell_sent(key);
        }
        // Mostly there is nothing more to do for it.
        self.local.mark_if_work(key);
    }

    /// Tells the handler which of the frames that it asked about were taken.
    fn tell_sent(&mut self, key: SlabKey) {
        while let Some(token) = self.local.slot(key).connection.next_sent_token() {
            self.call(key, |handler, session| handler.on_sent(session, token));
        }
    }

    /// Until no session has anything left: a handler's `on_close` may touch other sessions, and they are flushed in the
    /// same turn; what it publishes is given to the members.
    pub(super) fn flush_sessions<D: Driver>(&mut self, io: &mut D) {
        while !self.local.dirty.is_empty() || !self.local.groups.is_settled() {
            self.local.distribute();
            let meanwhile = std::mem::take(&mut self.settled);
            let mut dirty = std::mem::replace(&mut self.local.dirty, meanwhile);
            for key in dirty.drain(..) {
                self.flush_session(io, key);
            }
            self.settled = dirty;
        }
    }

    /// Carries out what a session's machine asks for.
    pub(super) fn flush_session<D: Driver>(&mut self, io: &mut D, key: SlabKey) {
        let Some(slot) = self.local.sessions.get_mut(key) else { return };
        if slot.pressure_rose || slot.backlog.is_some() {
            self.tell_before_flush(key);
        } else {
            slot.dirty = false;
        }
        let token = token(self.local.service, key);
        while let Some(action) = self.submit_all(io, key, token) {
            match action {
                Action::StartDeadline => self.set_deadline(key, self.local.limits.drain_deadline),
                Action::StartLinger => self.set_deadline(key, self.local.limits.linger),
                Action::Finished(reason) => return self.finish(key, reason),
                _ => unreachable!("submitted"),
            }
        }
        if self.rules.is_some() {
            self.note_reading(key);
        }
        // An empty message was sent as soon as it was queued.
        if self.local.slot(key).connection.has_sent_token() {
            self.tell_sent(key);
        }
    }

    /// What the handler has to hear before its session is flushed, and what waited for it.
    #[inline(never)]
    fn tell_before_flush(&mut self, key: SlabKey) {
        let slot = self.local.slot(key);
        // What rose and fell in one turn is not told: nobody would hear of its relief.
        if std::mem::take(&mut slot.pressure_rose)
            && slot.connection.under_pressure()
            && (!std::mem::replace(&mut slot.pressure_told, true) || planted(Bug::PressureToldTwice))
        {
            self.call(key, |handler, session| handler.on_pressure(session, Pressure::High));
        }
        self.deliver_backlog(key);
        // Only now: what the handler has just answered is polled below. A pressure that rose with it is told in
        // another pass.
        let slot = self.local.slot(key);
        slot.dirty = false;
        if slot.pressure_rose {
            self.local.mark(key);
        }
    }

    /// Hands to the driver what a session's machine asks of it, until it asks for something else or for nothing more.
    #[inline]
    fn submit_all<D: Driver>(&mut self, io: &mut D, key: SlabKey, token: Token) -> Option<Action> {
        let Local { sessions, pool, tick, counters, .. } = &mut self.local;
        let slot = sessions.get_mut(key).expect("freed only when it is finished");
        let socket = slot.socket;
        loop {
            let Some(action) = slot.connection.poll_action(pool) else {
                self.held_up |= slot.connection.is_held_up();
                return None;
            };
            match action {
                Action::Receive => {
                    slot.received_at = *tick;
                    io.submit(token, Op::Receive { socket });
                }
                Action::CancelReceive => {
                    slot.received_at = *tick;
                    io.cancel(socket, OpKind::Receive);
                }
                Action::Send(batch) => {
                    if batch.is_lazy() {
                        counters.bytes_sent += batch.len() as u64;
                        slot.traffic.bytes_sent += batch.len() as u64;
                    }
                    io.submit(token, Op::Send { socket, batch });
                    // It asks for nothing behind that.
                    if slot.connection.is_quiet() {
                        return None;
                    }
                }
                Action::Shutdown => io.submit(token, Op::Shutdown { socket }),
                Action::Close => io.submit(token, Op::Close { socket }),
                other => return Some(other),
            }
        }
    }

    pub(super) fn set_deadline(&mut self, key: SlabKey, after: Duration) {
        if planted(Bug::NoDrainDeadline) {
            return;
        }
        let deadline = self.local.deadline(after);
        self.local.set_due(key, deadline, TimerEvent::DrainDeadline(key));
    }
}
