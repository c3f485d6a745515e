//! Moving bytes: receive, send, and shut down.
//!
//! A receive holds no buffer while it waits (sentence 4): the kernel has a receive of no bytes, which completes when
//! there is something to read. The read itself does not wait and goes straight to receive memory, so no buffer is
//! ever the kernel's. A turn of one socket has a bound in bytes and in calls, so that one that floods cannot starve
//! the others (bug class R15).

use std::{io::Read, net::Shutdown};

use anyport_core::{Fault, FaultKind, SendBatch, SlabKey};

use super::{
    CANCELLED, INVALID, Iocp,
    errors::{fault_of, outcome},
    slots::Operation,
    socket::{Sending, Socket},
    winsock::{self, Started},
};
use crate::types::{Completion, Outcome, Received, SocketKey, Token};

/// Most bytes that one socket receives in one wait.
const RECEIVE_TURN_BYTES: usize = 256 << 10;
/// Most receive calls of one socket in one wait.
const RECEIVE_TURN_CALLS: usize = 16;
/// Most bytes that one socket sends at once in one wait or submit.
const SEND_TURN_BYTES: usize = 1 << 20;

impl Iocp {
    // ---- receive ----

    pub(super) fn submit_receive(&mut self, token: Token, SocketKey(key): SocketKey) {
        let usable = self.sockets.get(key).is_some_and(|socket| {
            socket.is_stream() && socket.receive.is_none() && self.finished.is_out(socket.receive_ends)
        });
        if !usable {
            self.finished.push(token, Outcome::Received(Received::Failed(INVALID)));
            return;
        }
        if let Err(fault) = self.ready_for_use(key) {
            self.end_receive(key, token, Received::Failed(fault));
            return;
        }
        let socket = self.sockets.get_mut(key).expect("looked up above");
        socket.receive = Some(token);
        if !socket.readable {
            self.arm(key);
        }
        self.enqueue_if_work(key);
    }

    /// Gives the kernel a receive of no bytes, unless it has one.
    fn arm(&mut self, key: SlabKey) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.pre_receive.is_some() {
            return;
        }
        let (slot, overlapped) = self.slots.take(Operation::PreReceive(key));
        // SAFETY: the slot is kept until the packet.
        match unsafe { winsock::pre_receive(socket.handle(), overlapped) } {
            Started::Done(_) if socket.skips_packets => {
                self.slots.abandon(slot);
                socket.readable = true;
            }
            Started::Pending | Started::Done(_) => socket.pre_receive = Some(slot),
            Started::Failed(fault) => {
                self.slots.abandon(slot);
                socket.readable = true;
                socket.failed = Some(fault);
            }
        }
    }

    /// The zero-byte receive ended: there is something to read, if only why there is nothing more.
    pub(super) fn pre_received(&mut self, status: i32, key: SlabKey) {
        let socket = self.sockets.get_mut(key).expect("a socket outlives its operations");
        socket.pre_receive = None;
        if socket.closing.is_some() {
            return self.finish_close(key);
        }
        socket.readable = true;
        if let Err(fault) = outcome(status)
            && fault.kind != FaultKind::Other
        {
            socket.failed = Some(fault);
        }
        self.enqueue_if_work(key);
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
            let end = match (socket.handle().read(space), socket.failed) {
                (Ok(count @ 1..), failed) => {
                    let lease = self.arena.take(count);
                    out.push(Completion { token, outcome: Outcome::Received(Received::Data(lease)) });
                    bytes += count;
                    if count < room && failed.is_none() {
                        // All that was there: the kernel tells when there is more.
                        return self.rearm(key);
                    }
                    continue;
                }
                // After a failed wait for data there is no orderly end, whatever the read says.
                (Ok(_), Some(fault)) => Received::Failed(fault),
                (Ok(_), None) => Received::EndOfStream,
                (Err(error), failed) if error.kind() == std::io::ErrorKind::WouldBlock => match failed {
                    Some(fault) => Received::Failed(fault),
                    None => return self.rearm(key),
                },
                (Err(error), _) => {
                    let fault = fault_of(&error);
                    socket.failed = Some(fault);
                    Received::Failed(fault)
                }
            };
            socket.receive = None;
            out.push(Completion { token, outcome: Outcome::Received(end) });
            return;
        }
        if self.wanting_memory.is_empty() && self.arena.has_space() {
            self.enqueue_if_work(key);
        } else {
            self.want_memory(key);
        }
    }

    /// The socket is empty: it is served again when the kernel says so, or at the next wait if that is at once.
    fn rearm(&mut self, key: SlabKey) {
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.readable = false;
        }
        self.arm(key);
        self.enqueue_if_work(key);
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

    /// Ends the receive at once: the kernel's receive of no bytes takes nothing, and stays for the next one.
    pub(super) fn cancel_receive(&mut self, SocketKey(key): SocketKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && let Some(token) = socket.receive.take()
        {
            self.end_receive(key, token, Received::Failed(CANCELLED));
        }
    }

    fn end_receive(&mut self, key: SlabKey, token: Token, end: Received) {
        let ticket = self.finished.push(token, Outcome::Received(end));
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.receive_ends = ticket;
        }
    }

    // ---- send ----

    pub(super) fn submit_send(&mut self, token: Token, SocketKey(key): SocketKey, batch: Box<SendBatch>) {
        let usable = self.sockets.get(key).is_some_and(|socket| {
            socket.is_stream() && socket.send.is_none() && self.finished.is_out(socket.send_ends)
        });
        if !usable {
            self.finished.push(token, Outcome::Sent(batch, Err(INVALID)));
            return;
        }
        match self.ready_for_use(key) {
            Ok(()) => self.send_turn(key, token, batch),
            Err(fault) => self.end_send(key, token, batch, Err(fault)),
        }
    }

    /// Hands the batch to the kernel, again while it takes it at once and the turn lasts.
    fn send_turn(&mut self, key: SlabKey, token: Token, mut batch: Box<SendBatch>) {
        let mut bytes = 0;
        while batch.remaining() > 0 {
            let socket = self.sockets.get_mut(key).expect("a send is on a socket that is there");
            if bytes >= SEND_TURN_BYTES {
                socket.send = Some(Sending::TurnOver(token, batch));
                return self.enqueue_if_work(key);
            }
            let (slot, overlapped) = self.slots.take(Operation::Send(key, batch));
            let Operation::Send(_, in_slot) = self.slots.operation(slot) else {
                unreachable!("it was put there above")
            };
            // SAFETY: the slot owns the batch, and is released by the packet.
            let started = unsafe { winsock::send(socket.handle(), in_slot, overlapped) };
            if matches!(started, Started::Pending)
                || (matches!(started, Started::Done(_)) && !socket.skips_packets)
            {
                socket.send = Some(Sending::InKernel { token, slot, cancelled: false });
                return;
            }
            let Operation::Send(_, taken_back) = self.slots.abandon(slot) else {
                unreachable!("it was put there above")
            };
            batch = taken_back;
            match started {
                Started::Done(count) => {
                    batch.advance(count as usize);
                    bytes += count as usize;
                }
                Started::Failed(fault) => return self.end_send(key, token, batch, Err(fault)),
                Started::Pending => unreachable!("returned above"),
            }
        }
        self.end_send(key, token, batch, Ok(()));
    }

    /// A send's packet.
    pub(super) fn sent(&mut self, status: i32, bytes: u32, key: SlabKey, mut batch: Box<SendBatch>) {
        let socket = self.sockets.get_mut(key).expect("a socket outlives its operations");
        let Some(Sending::InKernel { token, cancelled, .. }) = socket.send.take() else {
            unreachable!("a packet of a send that is not in flight")
        };
        let is_closing = socket.closing.is_some();
        // What was sent before a cancel or a fault is counted too (sentence 6).
        batch.advance((bytes as usize).min(batch.remaining()));
        let result = match outcome(status) {
            Ok(()) if batch.remaining() == 0 => Ok(()),
            Ok(()) if !cancelled && !is_closing => return self.send_turn(key, token, batch),
            _ if cancelled || is_closing => Err(CANCELLED),
            Ok(()) => unreachable!("handled above"),
            Err(fault) => Err(fault),
        };
        self.end_send(key, token, batch, result);
        self.finish_close(key);
    }

    /// Goes on with a send whose last turn was over.
    pub(super) fn send_again(&mut self, key: SlabKey) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        match socket.send.take() {
            Some(Sending::TurnOver(token, batch)) => self.send_turn(key, token, batch),
            other => socket.send = other,
        }
    }

    pub(super) fn cancel_send(&mut self, SocketKey(key): SocketKey) {
        let Some(socket) = self.sockets.get_mut(key).filter(|socket| socket.closing.is_none()) else {
            return;
        };
        match socket.send.take() {
            Some(Sending::InKernel { token, slot, cancelled }) => {
                socket.send = Some(Sending::InKernel { token, slot, cancelled: true });
                if !cancelled {
                    winsock::cancel(socket.handle(), self.slots.overlapped(slot));
                    self.ending.push(key);
                }
            }
            Some(Sending::TurnOver(token, batch)) => self.end_send(key, token, batch, Err(CANCELLED)),
            None => {}
        }
    }

    /// Cancels again what a cancel did not find. Wine sends a part when there is room, and waits for more; a cancel that
    /// comes in between ends nothing.
    pub(super) fn cancel_again(&mut self) {
        let Self { ending, sockets, slots, .. } = self;
        ending.retain(|key| {
            let socket = sockets.get(*key).filter(|socket| socket.closing.is_none());
            let Some(Sending::InKernel { slot, cancelled: true, .. }) =
                socket.and_then(|it| it.send.as_ref())
            else {
                return false;
            };
            winsock::cancel(socket.expect("it was just seen").handle(), slots.overlapped(*slot));
            true
        });
    }

    pub(super) fn end_send(
        &mut self,
        key: SlabKey,
        token: Token,
        batch: Box<SendBatch>,
        result: Result<(), Fault>,
    ) {
        let ticket = self.finished.push(token, Outcome::Sent(batch, result));
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.send_ends = ticket;
            self.shut_down_after_send(key);
        }
    }

    // ---- shut down ----

    pub(super) fn submit_shutdown(&mut self, token: Token, SocketKey(key): SocketKey) {
        let finished = &self.finished;
        match self.sockets.get_mut(key) {
            Some(socket)
                if socket.is_stream()
                    && socket.shutdown.is_none()
                    && finished.is_out(socket.shutdown_ends) =>
            {
                socket.movable = false;
                socket.shutdown = Some(token);
                self.shut_down_after_send(key);
            }
            _ => {
                self.finished.push(token, Outcome::ShutDown(Err(INVALID)));
            }
        }
    }

    /// Shuts down, if that was asked for, once no send is in flight (sentence 12).
    fn shut_down_after_send(&mut self, key: SlabKey) {
        let Some(socket) = self.sockets.get_mut(key).filter(|socket: &&mut Socket| socket.is_stream()) else {
            return;
        };
        if socket.send.is_some() {
            return;
        }
        if let Some(token) = socket.shutdown.take() {
            let result = socket.handle().shutdown(Shutdown::Write).map_err(|error| fault_of(&error));
            socket.shutdown_ends = self.finished.push(token, Outcome::ShutDown(result));
        }
    }
}
