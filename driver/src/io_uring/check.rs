//! Finding the ends that the kernel's receive misses.
//!
//! When a reset arrives together with data, a multishot receive reports the data and goes on waiting: it has
//! seen the one event there was (measured on Linux 6.18; an orderly end is not missed). Nothing would ever end
//! the session then. So a socket that has given data, and nothing since the last look, is looked at once: a
//! peek that does not wait tells whether it has ended. A socket costs one look each time it falls quiet, and an
//! idle one none.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{
    IoUring, outcome,
    socket::{Receiving, Socket, cancel},
    tag::Tag,
};
use crate::{Driver, types::SocketKey, unix::errno};

/// Time between two looks: a missed reset is noticed after one to two of these.
const INTERVAL: Duration = Duration::from_millis(500);

/// The sockets that gave data and are not known to be quiet.
pub(super) struct Checks {
    listed: Vec<SocketKey>,
    due: Option<Instant>,
    /// Where peeks put the byte that nobody reads; on the heap, so that it stays where it is.
    byte: Box<u8>,
}

impl Default for Checks {
    fn default() -> Self {
        Self { listed: Vec::new(), due: None, byte: Box::new(0) }
    }
}

impl Checks {
    /// The socket gave data, and its receive goes on.
    #[inline]
    pub(super) fn note(&mut self, key: SocketKey, socket: &mut Socket) {
        socket.fresh = true;
        if !std::mem::replace(&mut socket.listed, true) {
            self.listed.push(key);
        }
    }

    /// When the next look is due; the clock is set by the first wait that finds sockets listed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl IoUring {
    /// Looks at the sockets that have fallen quiet, when it is time.
    pub(super) fn check_quiet_sockets(&mut self) {
        if self.checks.listed.is_empty() {
            return;
        }
        let now = self.now();
        let due = *self.checks.due.get_or_insert(now + INTERVAL);
        if now < due {
            return;
        }
        // Taken out, and not allocated anew: this goes on as long as anybody receives.
        let mut listed = std::mem::take(&mut self.checks.listed);
        listed.retain(|key| {
            let Some(socket) = self.sockets.get_mut(key.0) else { return false };
            if std::mem::take(&mut socket.fresh) {
                return true;
            }
            socket.listed = false;
            if socket.receiving == Receiving::Armed && !socket.closing && !socket.checking {
                socket.checking = true;
                let entry = socket.check(*key, &raw mut *self.checks.byte);
                // SAFETY: the byte is on the heap, owned by the driver until everything in flight is joined,
                // and nobody reads it.
                unsafe { self.ring.push(&entry) };
            }
            false
        });
        self.checks.listed = listed;
        self.checks.due = (!self.checks.listed.is_empty()).then_some(now + INTERVAL);
    }

    /// A peek has come back. If the stream has ended, the receive that does not know it is cancelled, and ends as
    /// the peek did.
    pub(super) fn checked(&mut self, key: SocketKey, result: i32) {
        let socket = self.sockets.get_mut(key.0).expect("a slot is not freed while a check is in flight");
        socket.checking = false;
        let end = match outcome(result) {
            Ok(0) => Some(Ok(())),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::CANCELED) => None,
            Err(errno) => Some(Err(errno::fault(errno))),
        };
        if end.is_some() {
            socket.end_found = end;
            if socket.receiving == Receiving::Armed {
                socket.receiving = Receiving::Cancelling;
                // SAFETY: a cancel points at nothing.
                unsafe { self.ring.push_unowed(&cancel(Tag::Receive.with(key.0))) };
                self.ending.note(key);
            }
        }
        self.finish_close(key);
    }
}
