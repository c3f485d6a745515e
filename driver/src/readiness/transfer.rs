//! Moving bytes: receive, send, and shut down.
//!
//! A turn of one socket has a bound in bytes and in calls, so that one that floods cannot starve the others
//! (bug class R15); what is left goes to the back of the queue, for the next wait.

use std::{io::IoSlice, os::fd::OwnedFd};

use anyport_core::{Fault, FaultKind, SendBatch, SlabKey};
use rustix::{
    io::Errno,
    net::{self, RecvFlags, SendFlags, Shutdown},
};

use super::Readiness;
use crate::{
    types::{Completion, Outcome, Received, SocketKey, Token},
    unix::errno::fault,
};

/// Most bytes that one socket receives in one wait.
const RECEIVE_TURN_BYTES: usize = 256 << 10;
/// Most receive calls of one socket in one wait.
const RECEIVE_TURN_CALLS: usize = 16;
/// Most bytes that one socket sends in one wait or submit.
const SEND_TURN_BYTES: usize = 1 << 20;
/// Most pieces in one gathered send.
const PIECES_MAX: usize = 64;

/// A peer that is gone must give an error, not a signal.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;
/// There the socket itself is told so, when it is added.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::empty();

/// How far a send came.
enum Progress {
    Done,
    /// The system has no room: an edge will tell when it has.
    Blocked,
    /// The turn's bound was reached.
    TurnOver,
    Failed(Fault),
}

/// Sends until all is taken, there is no room, or the turn is over. The batch keeps count.
fn send_turn(fd: &OwnedFd, batch: &mut SendBatch) -> Progress {
    let mut bound = SEND_TURN_BYTES;
    while batch.remaining() > 0 {
        if bound == 0 {
            return Progress::TurnOver;
        }
        let result = match batch.single() {
            Some(bytes) => net::send(fd, &bytes[..bytes.len().min(bound)], SEND_FLAGS),
            None => send_gathered(fd, batch, bound),
        };
        match result {
            Ok(count) if count > 0 => {
                batch.advance(count);
                bound = bound.saturating_sub(count);
            }
            Ok(_) | Err(Errno::AGAIN) => return Progress::Blocked,
            Err(Errno::INTR) => {}
            Err(errno) => return Progress::Failed(fault(errno)),
        }
    }
    Progress::Done
}

fn send_gathered(fd: &OwnedFd, batch: &SendBatch, bound: usize) -> Result<usize, Errno> {
    let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
    let (mut count, mut bytes) = (0, 0);
    for (piece, slice) in pieces.iter_mut().zip(batch.slices()) {
        let slice = &slice[..slice.len().min(bound - bytes)];
        *piece = IoSlice::new(slice);
        count += 1;
        bytes += slice.len();
        if bytes == bound {
            break;
        }
    }
    net::sendmsg(fd, &pieces[..count], &mut net::SendAncillaryBuffer::default(), SEND_FLAGS)
}

impl Readiness {
    pub(super) fn submit_receive(&mut self, token: Token, SocketKey(key): SocketKey) {
        match self.sockets.get_mut(key) {
            Some(socket)
                if socket.is_stream()
                    && socket.receive.is_none()
                    && self.finished.is_out(socket.receive_ends) =>
            {
                socket.movable = false;
                socket.receive = Some(token);
                self.enqueue_if_work(key);
            }
            _ => {
                let fault = Fault::of(FaultKind::InvalidSocket);
                self.finished.push(token, Outcome::Received(Received::Failed(fault)));
            }
        }
    }

    /// Reads what is there, within the turn's bounds.
    pub(super) fn receive_turn(&mut self, key: SlabKey, out: &mut Vec<Completion>, limit: usize) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let Some(token) = socket.receive else { return };
        let mut bytes = 0;
        for _ in 0..RECEIVE_TURN_CALLS {
            // One buffer a turn while others wait for memory: everyone comes round (bug class R14).
            let memory_is_short = !self.wanting_memory.is_empty() && bytes > 0;
            if bytes >= RECEIVE_TURN_BYTES || out.len() >= limit || memory_is_short {
                break;
            }
            let Some(space) = self.arena.space() else { break };
            let room = space.len();
            let received = match net::recv(&socket.fd, space, RecvFlags::empty()) {
                Ok((_, 0)) => {
                    // A further receive finds the end of the stream again, without an edge.
                    socket.read_closed = true;
                    Received::EndOfStream
                }
                Ok((_, count)) => {
                    let lease = self.arena.take(count);
                    out.push(Completion { token, outcome: Outcome::Received(Received::Data(lease)) });
                    bytes += count;
                    self.received_bytes += count;
                    if count < room && !socket.read_closed {
                        // All that was there: what comes later makes a new edge. No call only to see EAGAIN.
                        socket.readable = false;
                        return;
                    }
                    continue;
                }
                Err(Errno::AGAIN) => {
                    socket.readable = false;
                    return;
                }
                Err(Errno::INTR) => continue,
                Err(errno) => Received::Failed(fault(errno)),
            };
            socket.receive = None;
            out.push(Completion { token, outcome: Outcome::Received(received) });
            return;
        }
        if self.wanting_memory.is_empty() && self.arena.has_space() {
            self.enqueue_if_work(key);
        } else {
            self.want_memory(key);
        }
    }

    /// Puts a socket at the end of the queue for receive memory (sentence 4).
    pub(super) fn want_memory(&mut self, key: SlabKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && !socket.wants_memory
        {
            socket.wants_memory = true;
            self.wanting_memory.push_back(key);
        }
    }

    pub(super) fn cancel_receive(&mut self, SocketKey(key): SocketKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && let Some(token) = socket.receive.take()
        {
            let fault = Fault::of(FaultKind::Cancelled);
            socket.receive_ends = self.finished.push(token, Outcome::Received(Received::Failed(fault)));
        }
    }

    /// Sends at once: nothing is gained by waiting. Only the completion waits.
    pub(super) fn submit_send(&mut self, token: Token, SocketKey(key): SocketKey, mut batch: Box<SendBatch>) {
        let socket = match self.sockets.get_mut(key) {
            Some(socket)
                if socket.is_stream() && socket.send.is_none() && self.finished.is_out(socket.send_ends) =>
            {
                socket
            }
            _ => {
                let fault = Fault::of(FaultKind::InvalidSocket);
                self.finished.push(token, Outcome::Sent(batch, Err(fault)));
                return;
            }
        };
        socket.movable = false;
        let result = match send_turn(&socket.fd, &mut batch) {
            Progress::Done => Ok(()),
            Progress::Failed(fault) => Err(fault),
            progress @ (Progress::Blocked | Progress::TurnOver) => {
                socket.writable = matches!(progress, Progress::TurnOver);
                match socket.watch_writing(self.poll.registry(), key) {
                    Ok(()) => {
                        // By the time it ends somebody may wait for it.
                        batch.set_lazy(false);
                        socket.send = Some((token, batch));
                        self.enqueue_if_work(key);
                        return;
                    }
                    Err(error) => Err(fault(crate::unix::socket::errno_of(&error))),
                }
            }
        };
        socket.send_ends = self.finished.push(token, Outcome::Sent(batch, result));
    }

    /// Goes on with a send that found no room before.
    pub(super) fn send_again(&mut self, key: SlabKey, out: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let Some((token, mut batch)) = socket.send.take() else { return };
        let result = match send_turn(&socket.fd, &mut batch) {
            Progress::Done => Ok(()),
            Progress::Failed(fault) => Err(fault),
            progress @ (Progress::Blocked | Progress::TurnOver) => {
                socket.writable = matches!(progress, Progress::TurnOver);
                socket.send = Some((token, batch));
                self.enqueue_if_work(key);
                return;
            }
        };
        out.push(Completion { token, outcome: Outcome::Sent(batch, result) });
        self.shut_down_after_send(key);
    }

    pub(super) fn cancel_send(&mut self, SocketKey(key): SocketKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && let Some((token, batch)) = socket.send.take()
        {
            let result = Err(Fault::of(FaultKind::Cancelled));
            socket.send_ends = self.finished.push(token, Outcome::Sent(batch, result));
            self.shut_down_after_send(key);
        }
    }

    pub(super) fn submit_shutdown(&mut self, token: Token, SocketKey(key): SocketKey) {
        match self.sockets.get_mut(key) {
            Some(socket)
                if socket.is_stream()
                    && socket.shutdown.is_none()
                    && self.finished.is_out(socket.shutdown_ends) =>
            {
                socket.movable = false;
                socket.shutdown = Some(Box::new(token));
                if socket.send.is_none() {
                    self.shut_down_after_send(key);
                }
            }
            _ => {
                let result = Err(Fault::of(FaultKind::InvalidSocket));
                self.finished.push(token, Outcome::ShutDown(result));
            }
        }
    }

    /// Shuts down, if that was asked for, now that no send is in flight (sentence 12).
    fn shut_down_after_send(&mut self, key: SlabKey) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if let Some(token) = socket.shutdown.take() {
            let result = net::shutdown(&socket.fd, Shutdown::Write).map_err(fault);
            socket.shutdown_ends = self.finished.push(*token, Outcome::ShutDown(result));
        }
    }
}
