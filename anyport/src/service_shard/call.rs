//! Calling the handler: what panics costs one session.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyport_core::{
    CloseReason, SlabKey,
    planted::{Bug, planted},
};

use super::ServiceShard;
use crate::{
    handler::Handler,
    session::{Session, Shard},
};

impl<H: Handler> ServiceShard<H> {
    /// Calls the handler about a session. A panic costs that session, and nothing else.
    #[inline]
    pub(super) fn call(&mut self, key: SlabKey, event: impl FnOnce(&mut H, &mut Session<'_, H>)) {
        let Self { handler, local, .. } = self;
        let result =
            catch_unwind(AssertUnwindSafe(|| event(handler, &mut Session { key, local: &mut *local })));
        if result.is_err() {
            self.handler_panicked(key);
        }
    }

    #[cold]
    pub(super) fn handler_panicked(&mut self, key: SlabKey) {
        let id = self.local.id(key);
        self.log_limit.note_error(self.local.now, || {
            format!("a handler panicked in an event of session {id}; it is closed")
        });
        if !planted(Bug::PanicForgiven) {
            self.local.slot(key).connection.close(CloseReason::HandlerPanicked);
        }
        self.local.mark(key);
    }

    /// Calls the handler about the shard.
    pub(super) fn call_shard(&mut self, event: impl FnOnce(&mut H, &mut Shard<'_, H>)) {
        let Self { handler, local, .. } = self;
        if catch_unwind(AssertUnwindSafe(|| event(handler, &mut Shard { local }))).is_err() {
            let shard = self.local.shard;
            self.log_limit
                .note_error(self.local.now, || format!("a handler panicked in an event of shard {shard}"));
        }
    }
}
