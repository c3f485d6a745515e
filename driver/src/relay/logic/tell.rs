//! News, as they are told: which operation they are about, and what they end.

use anyport_core::{Fault, FaultKind};

use super::{
    super::wire::{News, Order},
    Gone, Relay,
    files::FILES,
    socket::{Place, Role, ends_of},
};
use crate::{
    PeerAddress,
    types::{Accepted, Completion, Outcome, Received, Token},
};

impl Relay {
    /// Appends what is known to `out`, which takes `limit` in all. The link whose turn it is
    /// comes first.
    pub(super) fn deliver(&mut self, out: &mut Vec<Completion>, limit: usize) {
        self.deliver_finished(out, limit);
        let links = self.links.len();
        for by in 0..links {
            let at = (self.turn + by) % links;
            while out.len() < limit {
                let Some(news) = self.links[at].arrived.pop_front() else { break };
                self.tell(at, news, out);
            }
            if self.links[at].gone == Gone::Ending && self.links[at].arrived.is_empty() {
                self.end_link(at);
                self.deliver_finished(out, limit);
            }
        }
    }

    fn deliver_finished(&mut self, out: &mut Vec<Completion>, limit: usize) {
        let count = self.finished.len().min(limit.saturating_sub(out.len()));
        out.extend(self.finished.drain(..count));
    }

    fn tell(&mut self, at: usize, news: News, out: &mut Vec<Completion>) {
        let link = &mut self.links[at];
        match news {
            News::Data { socket, len } => {
                let (buffer, offset) = link.reading;
                link.reading.1 += len;
                let (_, socket) = link.sockets.at_mut(socket).expect("its close is told after its data");
                let token = socket.token(Place::Stream);
                let lease = self.buffers.lease(buffer, offset, len);
                out.push(Completion { token, outcome: Outcome::Received(Received::Data(lease)) });
            }
            News::Buffer { bytes, pieces } => link.reading = (self.buffers.take_in(bytes, pieces, at), 0),
            News::Outcome { socket, outcome } => self.tell_outcome(at, socket, outcome, out),
            News::Accepted { listener, peer } => self.tell_accepted(at, listener, peer, out),
            News::Starving => link.starving = true,
            News::Door { address } => link.announced.push(*address),
            News::File { number, outcome } => self.tell_of_file(number, outcome, out),
        }
    }

    fn tell_accepted(&mut self, at: usize, listener: u32, peer: PeerAddress, out: &mut Vec<Completion>) {
        let Some(token) = self.token_of_listener(at, listener) else {
            // It closed meanwhile; its end comes behind this.
            return self.order(at, Order::Refuse);
        };
        let outcome = if let Some(key) = self.insert(at, Role::Stream) {
            self.order(at, Order::Name { socket: key.index });
            Outcome::Accepted(Accepted { socket: self.key_of(at, key), peer })
        } else {
            self.order(at, Order::Refuse);
            Outcome::AcceptFaulted(Fault::of(FaultKind::NoDescriptors))
        };
        out.push(Completion { token, outcome });
    }

    /// The token of the accept on a listener, or on the door that it is a part of.
    fn token_of_listener(&mut self, at: usize, name: u32) -> Option<Token> {
        let (_, socket) = self.links[at].sockets.at_mut(name)?;
        let socket = match socket.role {
            Role::Door(number) => {
                let (link, key) = self.doors[number as usize].parts[0];
                self.links[link].sockets.get_mut(key)?
            }
            _ => socket,
        };
        socket.has(Place::Stream).then(|| socket.token(Place::Stream))
    }

    fn tell_outcome(&mut self, at: usize, name: u32, outcome: Outcome, out: &mut Vec<Completion>) {
        let (key, socket) = self.links[at].sockets.at_mut(name).expect("nothing is told after its close");
        if let Role::Door(number) = socket.role {
            return self.tell_of_door(number, outcome, out);
        }
        let place = Place::of_outcome(&outcome);
        if !outcome.is_terminal() {
            out.push(Completion { token: socket.token(place), outcome });
            return;
        }
        let token = socket.end(place).expect("the other side answers what it was asked, once");
        match outcome {
            Outcome::Connected(Ok(())) => socket.role = Role::Stream,
            Outcome::Connected(Err(_)) => socket.role = Role::Failed,
            Outcome::Closed(_) => self.remove(at, key),
            _ => {}
        }
        out.push(Completion { token, outcome });
    }

    /// What ends ends when the last part of it does.
    pub(super) fn tell_of_door(&mut self, number: u32, outcome: Outcome, out: &mut Vec<Completion>) {
        let door = &mut self.doors[number as usize];
        let (link, key) = door.parts[0];
        let socket = self.links[link].sockets.get_mut(key).expect("its parts go together");
        match &outcome {
            Outcome::AcceptEnded(_) => {
                door.ended += 1;
                if door.ended < door.parts.len() {
                    return;
                }
            }
            Outcome::Closed(_) => {
                door.closed += 1;
                if door.closed < door.parts.len() {
                    return;
                }
            }
            _ => {
                let token = socket.token(Place::Stream);
                return out.push(Completion { token, outcome });
            }
        }
        let Some(token) = socket.end(Place::of_outcome(&outcome)) else { return };
        if matches!(outcome, Outcome::Closed(_)) {
            for (link, key) in std::mem::take(&mut door.parts) {
                self.remove(link, key);
            }
        }
        out.push(Completion { token, outcome });
    }

    /// The other side of a link has gone, and with it all that was there: what is in flight ends.
    #[cold]
    fn end_link(&mut self, at: usize) {
        self.links[at].gone = Gone::Ended;
        self.links[at].orders.clear();
        self.links[at].announced.clear();
        let mut out = Vec::new();
        for name in 0..self.links[at].sockets.index_end() {
            let Some((_, socket)) = self.links[at].sockets.at_mut(name) else { continue };
            if let Role::Door(number) = socket.role {
                let door = &self.doors[number as usize];
                let (link, key) = door.parts[0];
                let Some(first) = self.links[link].sockets.get_mut(key) else { continue };
                // Its other parts go on accepting, if there are any.
                let (accepting, closing) = (first.has(Place::Stream), first.has(Place::Close));
                if accepting {
                    self.tell_of_door(number, Outcome::AcceptEnded(Fault::of(FaultKind::Other)), &mut out);
                }
                if closing {
                    self.tell_of_door(number, Outcome::Closed(Ok(())), &mut out);
                }
                continue;
            }
            for outcome in ends_of(socket) {
                self.tell_outcome(at, name, outcome, &mut out);
            }
        }
        if at == FILES {
            self.end_files(&mut out);
        }
        self.finished.extend(out);
    }
}
