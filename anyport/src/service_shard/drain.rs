//! The end of a service on a shard, in phases: sessions are told, have their grace, and drain. docs/stopping.md has the
//! picture.

use anyport_core::{
    CloseReason, SlabKey,
    planted::{Bug, planted},
};
use anyport_driver::{Driver, Op};

use super::ServiceShard;
use crate::{handler::Handler, session::TimerEvent};

impl<H: Handler> ServiceShard<H> {
    /// The engine is to end: nobody comes any more, and whoever is there is told.
    pub(super) fn begin_end<D: Driver>(&mut self, io: &mut D) {
        self.ending = true;
        self.stop_dialing();
        if let Some(socket) = self.listener {
            io.submit(self.listener_token(), Op::Close { socket });
        }
        self.call_shard(Handler::on_drain);
        let grace = self.local.limits.drain_grace;
        self.for_each_key(|this, key| {
            if this.local.slot(key).connection.is_open() {
                this.call(key, Handler::on_session_drain);
            } else if !grace.is_zero() {
                // It has not opened, or is ending already: there is nothing to wait for.
                this.drain_session(key);
            }
        });
        if grace.is_zero() {
            self.drain_sessions();
        } else {
            let deadline = self.local.deadline(grace);
            self.local.wheel.set(deadline, TimerEvent::GraceOver);
        }
    }

    /// The grace is over: what is queued goes out, each session within its own deadline.
    pub(super) fn drain_sessions(&mut self) {
        // What was published before is sent before they drain.
        self.local.distribute();
        self.for_each_key(Self::drain_session);
    }

    fn drain_session(&mut self, key: SlabKey) {
        if self.puts_off_drain(key) {
            return;
        }
        self.local.slot(key).connection.drain(CloseReason::Drained);
        if !planted(Bug::DrainNotFlushed) {
            self.local.mark(key);
        }
    }
}
