//! Looking at sessions from outside, and ending them.

use anyport_core::{CloseReason, SessionId};

use super::{Answers, PostError, Remote};
use crate::{
    handler::Handler,
    info::SessionInfo,
    recent::{Closed, Recent},
};

/// # Looking
/// Each shard answers for its own sessions, in a turn of its own: the list is right for each session at the moment it
/// was looked at, and for no moment as a whole. A look walks over all sessions of the service, which holds up each
/// shard meanwhile: for about a millisecond with a hundred thousand.
impl<H: Handler> Remote<H> {
    /// Every session of the service: by shard, and there by slot.
    pub fn sessions(&self) -> Answers<SessionInfo> {
        self.find(|_| true)
    }

    /// The sessions that `filter` picks. It runs on the shards.
    pub fn find(
        &self,
        filter: impl Fn(&SessionInfo) -> bool + Send + Sync + 'static,
    ) -> Answers<SessionInfo> {
        self.gather(move |_, shard| shard.find(&filter))
    }

    /// Closes a session at once, for `reason`, unless it is ending already.
    ///
    /// # Errors
    /// As for [`post`](Self::post). That the session has gone is none.
    pub fn close(&self, id: SessionId, reason: CloseReason) -> Result<(), PostError> {
        self.post(id, move |_, session| session.close(reason))
    }

    /// Drains a session: what is queued goes out, then it ends.
    ///
    /// # Errors
    /// As for [`post`](Self::post). That the session has gone is none.
    pub fn drain(&self, id: SessionId) -> Result<(), PostError> {
        self.post(id, |_, session| session.drain())
    }

    /// The sessions that ended last, the very last one first: up to
    /// [`recent_closed_max`](crate::Limits::recent_closed_max) of each shard. Asks no shard, and stays after the end.
    pub fn recently_closed(&self) -> Vec<Closed> {
        Recent::of_all(&self.recent)
    }
}
