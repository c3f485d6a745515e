//! The other end of connections in memory: for bots, and tests, on threads of their own.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyport_core::SlabKey;

use super::pipe::{Pipe, State, give, take};
use crate::wake::Waker;

/// Connections that wait to be accepted, at most.
const BACKLOG_MAX: usize = 4096;

/// Opens connections to one [`Pipes`](super::Pipes) driver, from any thread. Cheap to clone.
#[derive(Clone)]
pub struct PipeHub {
    shared: Arc<Shared>,
}

struct Shared {
    door: Mutex<Door>,
    /// The driver's own waker, and that of the driver in whose loop it is looked at.
    wakers: [OnceLock<Waker>; 2],
}

#[derive(Default)]
pub(super) struct Door {
    pub(super) backlog: std::collections::VecDeque<Arc<Pipe>>,
    /// Sockets whose peers did something.
    pub(super) ready: Vec<SlabKey>,
    pub(super) closed: bool,
}

impl PipeHub {
    /// A hub without a driver yet: connections wait for one.
    pub fn new() -> Self {
        let wakers = [OnceLock::new(), OnceLock::new()];
        Self { shared: Arc::new(Shared { door: Mutex::default(), wakers }) }
    }

    /// Also wakes this driver when there is something to do: the one whose turns look at the pipes.
    pub fn wake_too(&self, waker: Waker) {
        let _ = self.shared.wakers[1].set(waker);
    }

    pub(super) fn wake(&self, waker: Waker) {
        let _ = self.shared.wakers[0].set(waker);
    }

    pub(super) fn door(&self) -> MutexGuard<'_, Door> {
        self.shared.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        for waker in self.shared.wakers.iter().filter_map(OnceLock::get) {
            waker.wake();
        }
    }

    /// Opens a connection. It stands at once, accepted or not.
    ///
    /// # Errors
    /// `ConnectionRefused` once the driver has gone or its listener was closed; `WouldBlock` if 4096 connections wait to
    /// be accepted already.
    pub fn connect(&self) -> io::Result<PipePeer> {
        let pipe = Arc::<Pipe>::default();
        let mut door = self.door();
        if door.closed {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if door.backlog.len() >= BACKLOG_MAX {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        door.backlog.push_back(Arc::clone(&pipe));
        drop(door);
        self.wake_all();
        Ok(PipePeer { pipe, hub: self.clone(), blocks: true, timeout: None })
    }

    /// A peer did something: the driver is to look.
    fn announce(&self, mut state: MutexGuard<'_, State>) {
        let socket = state.socket.filter(|_| !state.announced);
        state.announced |= socket.is_some();
        drop(state);
        if let Some(socket) = socket {
            self.door().ready.push(socket);
            self.wake_all();
        }
    }
}

impl Default for PipeHub {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PipeHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeHub").finish_non_exhaustive()
    }
}

/// One end of a connection in memory. Reads and writes as a socket does; dropping it closes it: in order if everything
/// that came was read, else the other end sees a reset.
pub struct PipePeer {
    pipe: Arc<Pipe>,
    hub: PipeHub,
    blocks: bool,
    timeout: Option<Duration>,
}

impl PipePeer {
    /// Whether reads and writes that cannot be done now fail with `WouldBlock` instead of waiting. At first they wait.
    /// Whoever steps a simulated engine on the same thread must not wait.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.blocks = !nonblocking;
    }

    /// How long a read or a write waits at most, before it fails with `TimedOut`. Without bound at first.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Ends our direction after what was written; reading goes on.
    pub fn shutdown_write(&mut self) {
        let mut state = self.pipe.lock();
        state.peer_ended = true;
        self.hub.announce(state);
    }

    /// Does `step` until it gives something.
    fn transfer(&self, mut step: impl FnMut(&mut State) -> Option<io::Result<usize>>) -> io::Result<usize> {
        let mut state = self.pipe.lock();
        let mut until = None;
        loop {
            if let Some(result) = step(&mut state) {
                self.hub.announce(state);
                return result;
            }
            if !self.blocks {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let left = self.timeout.map(|timeout| {
                let now = Instant::now();
                // A time that no clock reaches is never over.
                let until = *until.get_or_insert(now.checked_add(timeout));
                until.map_or(timeout, |until| until.saturating_duration_since(now))
            });
            state = self.pipe.wait(state, left)?;
        }
    }
}

impl io::Read for PipePeer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.transfer(|state| {
            let count = take(&mut state.outbound, into);
            if count > 0 || into.is_empty() {
                return Some(Ok(count));
            }
            if state.broken {
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            state.driver_ended.then_some(Ok(0))
        })
    }
}

impl io::Write for PipePeer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.transfer(|state| {
            if state.broken || state.driver_gone || state.peer_ended {
                return Some(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = give(&mut state.inbound, bytes);
            (count > 0 || bytes.is_empty()).then_some(Ok(count))
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PipePeer {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        state.broken |= !state.outbound.is_empty();
        state.peer_ended = true;
        state.peer_gone = true;
        self.hub.announce(state);
    }
}

impl fmt::Debug for PipePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipePeer").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::atomic::AtomicBool, sync::atomic::Ordering};

    use super::*;

    #[test]
    fn a_time_out_does_not_begin_anew_with_every_look() {
        let mut peer = PipeHub::new().connect().unwrap();
        peer.set_timeout(Some(Duration::from_millis(20)));
        let (pipe, over) = (Arc::clone(&peer.pipe), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let begun = Instant::now();
                while !over.load(Ordering::Acquire) {
                    assert!(begun.elapsed() < Duration::from_secs(10), "the read waits still");
                    pipe.notify_peer();
                    std::thread::yield_now();
                }
            });
            let error = peer.read(&mut [0]).unwrap_err();
            over.store(true, Ordering::Release);
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
