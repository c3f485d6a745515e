//! What can be seen of a session from outside.

use std::time::Duration;

use anyport_core::{SessionId, State};
use anyport_driver::PeerAddress;

/// What went over a session. 32 bytes of each; counting costs an addition on a cache line that the message touches
/// anyway.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes that were handed to the system and that it took; a send that nobody waits for counts when it is handed over.
    pub bytes_sent: u64,
    /// Frames given to the handler.
    pub frames_received: u64,
    /// Messages queued for sending.
    pub frames_sent: u64,
}

/// A session as it is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Its other end.
    pub peer: PeerAddress,
    /// Since it opened.
    pub age: Duration,
    /// Where it is in its life.
    pub state: State,
    /// What went over it.
    pub traffic: Traffic,
    /// Bytes queued that the system has not taken yet.
    pub queued_bytes: usize,
}
