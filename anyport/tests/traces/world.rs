//! What a script acts on: the peers' side of an engine's connections, and what the handlers tell.
//!
//! A call that waits returns as soon as there is something, and gives up at a bound that only a bug reaches.

use std::{net::SocketAddr, time::Duration};

use anyport::SessionId;

use crate::handler::{Door, Event, Job, Whose};

/// Longer than anything here takes, in the world's own time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One connection of the running script, counted from 0.
pub(crate) type Peer = usize;

/// What waiting for a peer's bytes came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrived {
    Bytes,
    /// The stream ended in order.
    End,
    Reset,
    /// Nothing came while patience lasted.
    Nothing,
}

pub(crate) trait World {
    /// Forgets the peers of the script before.
    fn begin(&mut self);
    /// Connects, and gives the new peer's address.
    fn connect(&mut self, door: Door) -> SocketAddr;
    /// Writes all of it, unless the connection has been ended by the other side.
    fn write(&mut self, peer: Peer, bytes: &[u8]);
    fn half_close(&mut self, peer: Peer);
    /// Closes in order, if all that arrived was read.
    fn close(&mut self, peer: Peer);
    fn reset(&mut self, peer: Peer);
    /// Waits until something arrives at a peer, and appends it to `bytes`.
    fn read(&mut self, peer: Peer, bytes: &mut Vec<u8>) -> Arrived;
    /// Waits for the next event of any session.
    fn next_event(&mut self) -> Option<(Whose, Event)>;
    /// Sends a job to a session.
    fn post(&mut self, door: Door, session: SessionId, job: Job);
}
