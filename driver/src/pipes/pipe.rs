//! One connection in memory: two bounded buffers, and how its two ends see each other.

use std::{
    collections::VecDeque,
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyport_core::SlabKey;

/// Bytes that each direction holds.
pub(super) const CAPACITY: usize = 64 << 10;

/// What both ends know.
#[derive(Debug, Default)]
pub(super) struct State {
    /// To the driver's end.
    pub(super) inbound: VecDeque<u8>,
    /// To the peer's end.
    pub(super) outbound: VecDeque<u8>,
    /// The peer writes no more.
    pub(super) peer_ended: bool,
    /// The driver's end writes no more.
    pub(super) driver_ended: bool,
    /// The peer is gone: what is sent reaches nobody.
    pub(super) peer_gone: bool,
    /// The driver's end is gone.
    pub(super) driver_gone: bool,
    /// One end went with something unread: the other sees a reset.
    pub(super) broken: bool,
    /// The driver's socket, once it is accepted.
    pub(super) socket: Option<SlabKey>,
    /// The driver was told that there may be something to do, and has not looked yet.
    pub(super) announced: bool,
}

#[derive(Debug, Default)]
pub(super) struct Pipe {
    state: Mutex<State>,
    /// The peer may get on.
    changed: Condvar,
}

impl Pipe {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of the other side leaves a whole state: nothing in here panics in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the peer look again.
    pub(super) fn notify_peer(&self) {
        self.changed.notify_all();
    }

    /// Waits until the driver's end did something; an error if that takes longer than `timeout`.
    pub(super) fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> io::Result<MutexGuard<'a, State>> {
        let Some(timeout) = timeout else {
            return Ok(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
        };
        let (state, result) =
            self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(state) }
    }
}

/// Moves what fits from the front of a buffer. Gives how much.
pub(super) fn take(from: &mut VecDeque<u8>, into: &mut [u8]) -> usize {
    let count = from.len().min(into.len());
    let (front, back) = from.as_slices();
    let split = front.len().min(count);
    into[..split].copy_from_slice(&front[..split]);
    into[split..count].copy_from_slice(&back[..count - split]);
    from.drain(..count);
    count
}

/// Appends what there is room for. Gives how much.
pub(super) fn give(into: &mut VecDeque<u8>, bytes: &[u8]) -> usize {
    let count = bytes.len().min(CAPACITY.saturating_sub(into.len()));
    into.extend(&bytes[..count]);
    count
}
