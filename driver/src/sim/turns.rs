//! What a simulated driver's socket does in its turn: one step of whatever is in flight on it.

use anyport_core::{
    Fault, FaultKind, SendBatch, SlabKey,
    planted::{Bug, planted},
};

use super::{
    driver::{CANCELLED, Receive, Sim, Socket, Stream, stream_of},
    faults::FaultClass,
    net::{Net, Opening, Owner},
};
use crate::types::{Accepted, Lease, OpKind, Outcome, Received, SocketKey};

/// What a receive finds.
enum Look {
    Nothing,
    Data(Lease),
    End(Received),
}

impl Sim {
    pub(super) fn turn(&mut self, key: SlabKey) {
        match self.sockets.get(key) {
            Some(Socket::Listener(_)) => self.turn_of_listener(key),
            Some(Socket::Opening(_)) => self.turn_of_opening(key),
            Some(Socket::Stream(_)) => self.turn_of_stream(key),
            // It left the driver since.
            None => {}
        }
    }

    fn turn_of_listener(&mut self, key: SlabKey) {
        let Some(Socket::Listener(state)) = self.sockets.get_mut(key) else { return };
        let listener = state.listening;
        self.net.borrow_mut().listener_turn_taken(listener);
        if let Some(close) = state.close {
            let accept = state.accept;
            if let Some(token) = accept {
                self.complete(token, Outcome::AcceptEnded(CANCELLED));
            }
            self.net.borrow_mut().close_listener(listener);
            self.remove(key);
            self.complete(close, Outcome::Closed(Ok(())));
            return;
        }
        let Some(token) = state.accept else { return };
        let rests_until = state.rests_until;
        if self.net.borrow().now < rests_until || self.net.borrow().listener(listener).backlog.is_empty() {
            return;
        }
        let faulted = self.net.borrow_mut().accept_faults(listener);
        if let Some((fault, until)) = faulted {
            state.rests_until = until;
            if !planted(Bug::DeafAfterFault) {
                self.net.borrow_mut().turn_at(until, self.number, key);
            }
            return self.complete(token, Outcome::AcceptFaulted(fault));
        }
        let accepted = self.accept_one(listener);
        let Some(Socket::Listener(state)) = self.sockets.get_mut(key) else { return };
        let is_short = matches!(accepted, Err(fault) if fault.is_shortage());
        let was_reported = std::mem::replace(&mut state.shortage_reported, is_short);
        match accepted {
            Ok(accepted) => self.complete(token, Outcome::Accepted(accepted)),
            Err(fault) if is_short && was_reported => {
                assert_eq!(fault.kind, FaultKind::NoDescriptors, "the only shortage here");
            }
            Err(fault) => self.complete(token, Outcome::AcceptFaulted(fault)),
        }
        if is_short {
            // Once, however many turns it has meanwhile.
            self.short.retain(|other| *other != key);
            self.short.push(key);
        } else {
            self.net.borrow_mut().notify_listener(listener);
        }
    }

    /// Accepts the oldest connection of a backlog that has one.
    fn accept_one(&mut self, listener: SlabKey) -> Result<Accepted, Fault> {
        let mut net = self.net.borrow_mut();
        let end = net.listener(listener).backlog[0];
        // Systems differ in whether a connection that was reset in the backlog is still accepted.
        if net.end(end).broken.is_some() && net.flip(end) {
            net.accept(listener, Owner::Outside);
            net.close(end);
            return Err(Fault::of(FaultKind::PeerReset));
        }
        let peer = net.peer_at(net.end(end).remote);
        let key = self
            .sockets
            .insert(Socket::Stream(Stream::new(end, true)))
            .map_err(|_| Fault::of(FaultKind::NoDescriptors))?;
        let owner = Owner::Driver { driver: self.number, socket: key };
        assert_eq!(net.accept(listener, owner), Some(end), "the oldest is still the oldest");
        Ok(Accepted { socket: SocketKey(key), peer })
    }

    fn turn_of_opening(&mut self, key: SlabKey) {
        let Some(Socket::Opening(connect)) = self.sockets.get_mut(key) else { return };
        let end = connect.end;
        self.net.borrow_mut().turn_taken(end);
        if let Some(close) = connect.close {
            if let Some(token) = connect.token.take() {
                // What had happened when it was given up may be told.
                let mut net = self.net.borrow_mut();
                let wins = net.end(end).opening == Opening::Done && net.flip(end);
                drop(net);
                let result = if wins { Ok(()) } else { Err(CANCELLED) };
                self.complete(token, Outcome::Connected(result));
            }
            self.net.borrow_mut().close(end);
            self.remove(key);
            return self.complete(close, Outcome::Closed(Ok(())));
        }
        let result = match self.net.borrow().end(end).opening {
            Opening::Attempts(_) => return,
            Opening::Done => Ok(()),
            Opening::Failed(fault) => Err(fault),
        };
        let Some(token) = connect.token.take() else { return };
        if result.is_ok() {
            *self.sockets.get_mut(key).expect("it has its turn") = Socket::Stream(Stream::new(end, false));
        }
        self.complete(token, Outcome::Connected(result));
    }

    fn turn_of_stream(&mut self, key: SlabKey) {
        let Some(stream) = self.stream(SocketKey(key)) else { return };
        let (end, receives, sends) = (stream.end, stream.receive.is_some(), stream.send.is_some());
        self.net.borrow_mut().turn_taken(end);
        // Both directions are independent: either may come first, or wait for another turn.
        let order = self.net.borrow_mut().up_to(end, 3);
        let mut again = match order {
            0 => self.step_receive(key) | self.step_send(key),
            1 => self.step_send(key) | self.step_receive(key),
            2 => self.step_receive(key) | sends,
            _ => self.step_send(key) | receives,
        };
        again |= self.step_shutdown(key);
        let Some(stream) = self.stream(SocketKey(key)) else { return };
        if let Some(token) = stream.close
            && (stream.is_idle() || planted(Bug::CloseDoesNotJoin))
        {
            if self.may_close(key, end) {
                self.net.borrow_mut().close(end);
                self.remove(key);
                self.complete(token, Outcome::Closed(Ok(())));
            }
        } else if again && !(stream.is_idle() && stream.close.is_none()) {
            self.net.borrow_mut().notify(end);
        }
    }

    /// True if a close that has joined everything may end now; otherwise there is a turn for it later.
    fn may_close(&mut self, key: SlabKey, end: SlabKey) -> bool {
        let mut net = self.net.borrow_mut();
        let stream = stream_of(&mut self.sockets, key).expect("it has its turn");
        if stream.closes_at.is_none() {
            let until = net.lingers(end, FaultClass::SlowClose, OpKind::Close, |faults| faults.late_max);
            stream.closes_at = Some(until.unwrap_or(net.now));
            if let Some(until) = until {
                net.turn_at(until, self.number, key);
            }
        }
        stream.closes_at.is_some_and(|at| at <= net.now)
    }

    /// One step of receiving. True if there may be another at once.
    fn step_receive(&mut self, key: SlabKey) -> bool {
        let now = self.net.borrow().now;
        let Some(stream) = self.stream(SocketKey(key)) else { return false };
        let (end, closing) = (stream.end, stream.close.is_some());
        let Some(Receive { token, cancelled_at }) = stream.receive else { return false };
        let cancelled = cancelled_at.is_some_and(|at| at <= now) || stream.is_joined(now);
        // What had happened when the cancel came is reported first.
        let looks = !cancelled || self.net.borrow_mut().flip(end);
        let seen = match looks.then(|| self.net.borrow_mut().receive_faults(end)) {
            Some(None) => self.look(key, end),
            Some(Some(fault)) => Look::End(Received::Failed(fault)),
            None => Look::Nothing,
        };
        let last = match seen {
            Look::Data(lease) => {
                self.complete(token, Outcome::Received(Received::Data(lease)));
                None
            }
            Look::End(received) => Some(received),
            Look::Nothing => None,
        };
        let more = looks && last.is_none() && !self.net.borrow().end(end).inbox.is_empty();
        let last = last.or(cancelled.then_some(Received::Failed(CANCELLED)));
        let Some(last) = last else {
            let dry = self.stream(SocketKey(key)).expect("it has its turn").dry;
            return (more && !dry) || self.has_ended(end);
        };
        self.leave_dry(key);
        self.stream(SocketKey(key)).expect("it has its turn").receive = None;
        if planted(Bug::CancelEatsData) && matches!(last, Received::Failed(CANCELLED)) {
            let mut net = self.net.borrow_mut();
            net.read(end, &mut [0; 64]);
        }
        self.complete(token, Outcome::Received(last));
        closing
    }

    /// True if only the end of the stream is left to report.
    fn has_ended(&self, end: SlabKey) -> bool {
        let net = self.net.borrow();
        let end = net.end(end);
        end.inbox.is_empty() && (end.read_ended || end.broken.is_some())
    }

    /// What there is to receive.
    fn look(&mut self, key: SlabKey, end: SlabKey) -> Look {
        let (waiting, broken, read_ended) = {
            let net = self.net.borrow();
            let end = net.end(end);
            (end.inbox.len(), end.broken, end.read_ended)
        };
        if waiting == 0 {
            return if let Some(fault) = broken {
                Look::End(Received::Failed(fault))
            } else if read_ended {
                Look::End(Received::EndOfStream)
            } else {
                Look::Nothing
            };
        }
        if !self.takes_buffer(key, end) {
            return Look::Nothing;
        }
        let mut net = self.net.borrow_mut();
        let len = net.part_of(end, waiting.min(self.buffers.size()));
        Look::Data(self.buffers.lease(len, |memory| {
            let read = net.read(end, memory);
            assert_eq!(read, len, "what waits can be read");
        }))
    }

    /// Buffers that may be given out now.
    fn buffers_to_give(&self) -> usize {
        if self.net.borrow().is_drought(self.number) { 0 } else { self.buffers.free() }
    }

    /// True if there is a buffer for a socket that has data: not if sockets that ran dry before it are to have them
    /// all. It then joins their queue.
    fn takes_buffer(&mut self, key: SlabKey, end: SlabKey) -> bool {
        let free = self.buffers_to_give();
        let stream = stream_of(&mut self.sockets, key).expect("it has its turn");
        if stream.dry {
            let place = self.dry.iter().take(free).position(|other| *other == key);
            stream.dry = place.is_none();
            place.map(|place| self.dry.remove(place)).is_some()
        } else {
            let dry = self.dry.len() >= free || self.net.borrow_mut().begins_drought(self.number, end);
            stream.dry = dry;
            if dry {
                self.dry.push_back(key);
            }
            !dry
        }
    }

    fn leave_dry(&mut self, key: SlabKey) {
        if let Some(stream) = stream_of(&mut self.sockets, key)
            && std::mem::take(&mut stream.dry)
        {
            self.dry.retain(|other| *other != key);
            self.grant_buffers();
        }
    }

    /// Gives a turn to the sockets that free buffers are meant for.
    pub(super) fn grant_buffers(&mut self) {
        if self.dry.is_empty() || planted(Bug::StarvedForever) {
            return;
        }
        for key in self.dry.iter().take(self.buffers_to_give()) {
            match self.sockets.get(*key) {
                Some(Socket::Stream(stream)) => self.net.borrow_mut().notify(stream.end),
                _ => unreachable!("what leaves the driver leaves the queue"),
            }
        }
    }

    /// One step of sending. True if there may be another at once.
    fn step_send(&mut self, key: SlabKey) -> bool {
        let now = self.net.borrow().now;
        let Some(stream) = self.stream(SocketKey(key)) else { return false };
        let end = stream.end;
        let joined = stream.is_joined(now);
        let Some(mut send) = stream.send.take() else { return false };
        let cancelled = send.cancelled_at.is_some_and(|at| at <= now) || joined;
        let mut net = self.net.borrow_mut();
        let goes_on = !cancelled || net.flip(end);
        let dead = net.end(end).is_write_dead();
        let moves = goes_on && !dead && send.batch.remaining() > 0;
        let fault = if moves { net.fails(end, FaultClass::Send, OpKind::Send) } else { None };
        let room = net.end(end).outbox.room();
        if moves && room > 0 {
            let part = net.part_of(end, room.min(send.batch.remaining()));
            // A send that fails was not taken as a whole.
            let part = if fault.is_some() { part.min(send.batch.remaining() - 1) } else { part };
            write_front(&mut net, end, &mut send.batch, part);
        }
        let room = net.end(end).outbox.room();
        let broken = net.end(end).broken;
        drop(net);
        let result = if let Some(fault) = fault {
            Err(fault)
        } else if goes_on && dead {
            Err(broken.unwrap_or(Fault::of(FaultKind::PeerReset)))
        } else if goes_on && send.batch.remaining() == 0 {
            Ok(())
        } else if cancelled {
            Err(CANCELLED)
        } else {
            self.stream(SocketKey(key)).expect("it has its turn").send = Some(send);
            return room > 0;
        };
        if planted(Bug::EndOfOperationLost) && result.is_err() {
            return true;
        }
        self.complete(send.token, Outcome::Sent(send.batch, result));
        true
    }

    /// Shuts down once nothing is being sent. True if closing can go on.
    fn step_shutdown(&mut self, key: SlabKey) -> bool {
        let Some(stream) = self.stream(SocketKey(key)) else { return false };
        if stream.send.is_some() {
            return false;
        }
        let (end, closing) = (stream.end, stream.close.is_some());
        let Some(token) = stream.shutdown.take() else { return false };
        let mut net = self.net.borrow_mut();
        let result = if let Some(fault) = net.end(end).broken {
            Err(fault)
        } else if closing && net.flip(end) {
            Err(CANCELLED)
        } else if let Some(fault) = net.fails(end, FaultClass::Shutdown, OpKind::Shutdown) {
            Err(fault)
        } else {
            net.end_writing(end);
            Ok(())
        };
        drop(net);
        self.complete(token, Outcome::ShutDown(result));
        if planted(Bug::EndOfOperationTwice) {
            self.complete(token, Outcome::ShutDown(result));
        }
        true
    }

    /// Frees the slot of a socket whose end or listener is in other hands by now.
    pub(super) fn remove(&mut self, key: SlabKey) {
        self.leave_dry(key);
        self.short.retain(|other| *other != key);
        self.sockets.remove(key).expect("a socket is removed once");
        if planted(Bug::DeafWhenFull) {
            self.short.clear();
        }
        // There is room for another socket.
        for key in std::mem::take(&mut self.short) {
            let Some(Socket::Listener(state)) = self.sockets.get(key) else {
                unreachable!("what leaves the driver leaves the list")
            };
            self.net.borrow_mut().notify_listener(state.listening);
        }
    }
}

/// Writes the next `count` bytes of a batch, which fit.
fn write_front(net: &mut Net, end: SlabKey, batch: &mut SendBatch, count: usize) {
    let mut left = count;
    for piece in batch.slices() {
        let run = left.min(piece.len());
        let written = net.write(end, &piece[..run]);
        assert_eq!(written, run, "it fits");
        left -= run;
        if left == 0 {
            break;
        }
    }
    batch.advance(count);
}
