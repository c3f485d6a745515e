//! Cancelling again what a cancel did not find.
//!
//! The kernel looks for an operation where operations wait. One that was found ready is on its way to be tried once
//! more, and no cancel looks there; tried again, it may wait for ever (seen on Linux 6.18 with a send whose socket
//! had room again the moment it was to wait: the cancel answers `ENOENT`, or ends only the socket's other
//! operations). So what is to end is looked at after each call into the kernel, and cancelled again until it
//! has ended.

use std::time::{Duration, Instant};

use super::{
    IoUring,
    socket::{self, Receiving},
    tag::Tag,
};
use crate::types::SocketKey;

/// The longest sleep while a cancelled operation has not ended.
const PATIENCE: Duration = Duration::from_millis(1);

/// The sockets with operations that are to end.
#[derive(Default)]
pub(super) struct Ending {
    sockets: Vec<SocketKey>,
    /// How many of them were cancelled before the last call into the kernel.
    submitted: usize,
}

impl Ending {
    /// A cancel was queued for this socket.
    pub(super) fn note(&mut self, key: SocketKey) {
        self.sockets.push(key);
    }

    /// The kernel has every cancel that was queued.
    pub(super) fn note_submitted(&mut self) {
        self.submitted = self.sockets.len();
    }

    /// When to look again at the latest.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        (!self.sockets.is_empty()).then(|| now + PATIENCE)
    }
}

impl IoUring {
    /// Cancels again what was cancelled and has not ended.
    pub(super) fn cancel_again(&mut self) {
        let submitted = std::mem::take(&mut self.ending.submitted);
        let mut left = 0;
        for at in 0..submitted {
            let key = self.ending.sockets[at];
            if self.push_cancels(key) {
                self.ending.sockets[left] = key;
                left += 1;
            }
        }
        self.ending.sockets.drain(left..submitted);
    }

    /// False if nothing on the socket is to end any more.
    fn push_cancels(&mut self, key: SocketKey) -> bool {
        let Some(socket) = self.sockets.get(key.0) else { return false };
        let all = socket.closing.then(|| socket.cancel_all());
        let receive = !socket.closing && socket.receiving == Receiving::Cancelling;
        let send = !socket.closing && socket.send_cancelled && socket.batch.is_some();
        let receive = receive.then(|| socket::cancel(Tag::Receive.with(key.0)));
        let send = send.then(|| socket::cancel(Tag::Send.with(key.0)));
        let mut any = false;
        for entry in [all, receive, send].into_iter().flatten() {
            // SAFETY: a cancel points at nothing.
            unsafe { self.ring.push_unowed(&entry) };
            any = true;
        }
        any
    }
}
