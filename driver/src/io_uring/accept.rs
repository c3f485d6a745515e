//! Accepting and connecting: how sockets come into the driver.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Instant,
};

use anyport_core::{Fault, FaultKind, SlabKey};
use io_uring::{cqueue, opcode, types};
use rustix::io::Errno;

use super::{
    CANCELLED, INVALID, IoUring, accept_flags, outcome,
    sockaddr::RawAddress,
    socket::{Connecting, Descriptor, Line, Socket, close_direct},
    tag::Tag,
};
use crate::{
    address::{Address, PeerAddress},
    options::SocketOptions,
    posting::Posting,
    types::{Accepted, Completion, Outcome, SocketKey, Token},
    unix::{errno, socket as unix_socket},
};

/// Most accepts for those who stand in a queue already, in one turn.
const AT_ONCE_MAX: usize = 256;

/// One posted accept: the kernel writes the peer's address here.
pub(super) struct Accepting {
    listener: SocketKey,
    peer: RawAddress,
    accepts: Accepts,
}

/// Whom an accept is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepts {
    /// It waits until somebody comes.
    Whoever,
    /// Somebody who stands in the queue already, if he still does.
    AtOnce,
}

impl Accepting {
    pub(super) fn new(listener: SocketKey) -> Self {
        Self { listener, peer: RawAddress::empty(), accepts: Accepts::Whoever }
    }
}

impl IoUring {
    // ---- accept ----

    pub(super) fn submit_accept(&mut self, token: Token, key: SocketKey) {
        match self.open_socket(key).and_then(|socket| socket.listening.as_mut()) {
            Some(listening) if listening.posting.token.is_none() => {
                listening.posting.token = Some(token);
                self.short_of_accepts.push(key);
                self.top_up_accepts(true);
            }
            _ => self.queue(token, Outcome::AcceptEnded(INVALID)),
        }
    }

    /// Posts the accepts that a listener lacks, as far as there are places.
    ///
    /// Where accepts can wait, one waits for whoever comes. When it has found more than its own in the queue, as many as
    /// stand there are accepted at once. If many waited, those that are posted while somebody stands in the queue would be
    /// tried beside those that were woken for him: one in two was in vain, and made a socket for nothing.
    fn post_accepts(&mut self, key: SocketKey) {
        let places = (self.places as usize).saturating_sub(self.sockets.len() + self.posted);
        let Some(socket) = self.sockets.get_mut(key.0).filter(|socket| !socket.closing) else { return };
        let Descriptor::Plain(fd) = &socket.descriptor else {
            unreachable!("listeners are plain descriptors")
        };
        let Some(listening) = socket.listening.as_mut() else { return };
        let (waiting, at_once) = match &mut listening.line {
            Line::Unknown => (listening.posting.lacking(), 0),
            Line::Known { watched: true, .. } => (0, 0),
            Line::Known { crowded, .. } => (1, if std::mem::take(crowded) { length_of_queue(fd) } else { 0 }),
        };
        for _ in 0..at_once.min(places.saturating_sub(waiting)) {
            self.post_accept(key, Accepts::AtOnce);
        }
        // Behind them, so that it does not find whom they are for.
        for _ in 0..waiting.min(places) {
            self.post_accept(key, Accepts::Whoever);
        }
        if waiting > places {
            self.run_short(key);
        }
    }

    /// Posts accepts for the listeners that have used theirs.
    pub(super) fn replace_accepts(&mut self) {
        while let Some(key) = self.used_accepts.pop() {
            let listening = self.sockets.get(key.0).and_then(|socket| socket.listening.as_ref());
            if listening.is_some_and(|listening| listening.posting.rests_until().is_none()) {
                self.post_accepts(key);
            }
        }
    }

    fn post_accept(&mut self, key: SocketKey, accepts: Accepts) {
        let listener = self.sockets.get_mut(key.0).expect("looked up by the caller");
        let listening = listener.listening.as_mut().expect("it is a listener");
        let slot = listening.resting.pop().unwrap_or_else(|| {
            let accepting = Box::new(Accepting::new(key));
            self.accepting.insert(accepting).ok().expect("as many slots as user data can name")
        });
        self.push_accept(slot, accepts);
    }

    /// Hands one accept to the kernel.
    fn push_accept(&mut self, slot: SlabKey, accepts: Accepts) {
        let accepting = self.accepting.get_mut(slot).expect("the accept is there until its listener closes");
        accepting.peer.reset();
        accepting.accepts = accepts;
        let (address, len) = ((&raw mut accepting.peer.storage).cast(), &raw mut accepting.peer.len);
        let listener = self.sockets.get_mut(accepting.listener.0).expect("a listener outlives its accepts");
        let Descriptor::Plain(fd) = &listener.descriptor else {
            unreachable!("listeners are plain descriptors")
        };
        let listening = listener.listening.as_mut().expect("it is a listener");
        let accept = opcode::Accept::new(types::Fd(fd.as_raw_fd()), address, len);
        let accept = if listening.detachable {
            accept.flags(libc::SOCK_CLOEXEC)
        } else {
            accept.file_index(Some(types::DestinationSlot::auto_target()))
        };
        let entry = accept.build().user_data(Tag::Accept.with(slot));
        let entry = match (&mut listening.line, accepts) {
            (Line::Unknown, _) => entry,
            (Line::Known { .. }, Accepts::AtOnce) => accept_flags::at_once(entry),
            (Line::Known { watched, .. }, Accepts::Whoever) => {
                *watched = true;
                accept_flags::wait_first(entry)
            }
        };
        listening.posting.posted += 1;
        self.posted += 1;
        // SAFETY: address and length lie in a box of the slab that is removed only after this accept's
        // completion.
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn accepted(&mut self, slot: SlabKey, entry: &cqueue::Entry, out: &mut Vec<Completion>) {
        let result = outcome(entry.result());
        let accepting = self.accepting.get_mut(slot).expect("an accept completed that was posted");
        let (key, peer, accepts) = (accepting.listener, accepting.peer.peer(), accepting.accepts);
        let listener = self.sockets.get_mut(key.0).expect("a listener outlives its accepts");
        let closing = listener.closing;
        let listening = listener.listening.as_mut().expect("it is a listener");
        listening.posting.posted -= 1;
        self.posted -= 1;
        let token = listening.posting.token.expect("accepts are posted for a submitted accept");
        let detachable = listening.detachable;
        if let (Line::Known { watched, crowded }, Accepts::Whoever) = (&mut listening.line, accepts) {
            *watched = false;
            *crowded = cqueue::sock_nonempty(entry.flags());
        }
        let shortage = match result {
            Ok(number) if detachable => {
                // SAFETY: the kernel has just made this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(number.cast_signed()) };
                self.take_in(token, Descriptor::Plain(fd), peer, out).err()
            }
            Ok(slot) => self.take_in(token, Descriptor::Direct(slot), peer, out).err(),
            // The peer went away while it waited, or the call was interrupted: the next, please.
            Err(Errno::CONNABORTED | Errno::INTR | Errno::AGAIN | Errno::PROTO) => None,
            Err(Errno::CANCELED) if closing => None,
            // Whatever else it is, accepting goes on after a while (bug class R12).
            Err(errno) => Some(errno::fault(errno)),
        };
        if closing {
            self.accepting.remove(slot);
            return self.finish_close(key);
        }
        let listener = self.sockets.get_mut(key.0).expect("taking in takes none away");
        let listening = listener.listening.as_mut().expect("it is a listener");
        listening.resting.push(slot);
        if let Some(fault) = shortage {
            return self.back_off(key, fault, out);
        }
        if result.is_ok() {
            listening.posting.went_well();
        }
        // Whoever rests is on the other list.
        let used = accepts == Accepts::Whoever && listening.posting.rests_until().is_none();
        if used && !self.used_accepts.contains(&key) {
            self.used_accepts.push(key);
        }
    }

    /// Gives an accepted connection a slot.
    fn take_in(
        &mut self,
        token: Token,
        descriptor: Descriptor,
        peer: PeerAddress,
        out: &mut Vec<Completion>,
    ) -> Result<(), Fault> {
        match self.sockets.insert(Socket { movable: true, ..Socket::new(descriptor, None) }) {
            Ok(key) => {
                let accepted = Accepted { socket: SocketKey(key), peer };
                out.push(Completion { token, outcome: Outcome::Accepted(accepted) });
                Ok(())
            }
            Err(socket) => {
                if let Descriptor::Direct(slot) = socket.descriptor {
                    // SAFETY: a close points at nothing, and nobody else knows this slot.
                    unsafe { self.ring.push_unowed(&close_direct(slot)) };
                }
                Err(Fault::of(FaultKind::NoDescriptors))
            }
        }
    }

    fn note_short(&mut self, key: SocketKey) -> &mut Posting {
        if !self.short_of_accepts.contains(&key) {
            self.short_of_accepts.push(key);
        }
        let listener = self.sockets.get_mut(key.0).expect("a listener outlives its accepts");
        &mut listener.listening.as_mut().expect("it is a listener").posting
    }

    /// The listener has fewer accepts posted than it wants, for lack of places. It is told when it has none.
    fn run_short(&mut self, key: SocketKey) {
        if let Some(token) = self.note_short(key).no_place() {
            self.queue(token, Outcome::AcceptFaulted(Fault::of(FaultKind::NoDescriptors)));
        }
    }

    /// The system is short of something: accepts are posted again after a while, or when a socket closes. One
    /// report for each while.
    fn back_off(&mut self, key: SocketKey, fault: Fault, out: &mut Vec<Completion>) {
        let posting = self.note_short(key);
        if let Some(token) = posting.rest(Instant::now()) {
            out.push(Completion { token, outcome: Outcome::AcceptFaulted(fault) });
        }
        let until = posting.rests_until();
        self.retry_at = [self.retry_at, until].into_iter().flatten().min();
    }

    /// Posts accepts again for listeners whose time has come.
    pub(super) fn retry_accepts(&mut self) {
        if let Some(at) = self.retry_at
            && Instant::now() >= at
        {
            self.top_up_accepts(false);
        }
    }

    /// Posts the accepts that listeners lack, as far as there are places. `now` does not wait for the end of a
    /// back-off: a socket has closed, so what was short may be there.
    pub(super) fn top_up_accepts(&mut self, now: bool) {
        if self.short_of_accepts.is_empty() {
            return;
        }
        let time = Instant::now();
        self.retry_at = None;
        for key in std::mem::take(&mut self.short_of_accepts) {
            let Some(listening) = self.open_socket(key).and_then(|socket| socket.listening.as_mut()) else {
                continue;
            };
            let posting = &mut listening.posting;
            if let Some(at) = posting.rests_until().filter(|&at| !now && at > time) {
                self.retry_at = Some(self.retry_at.map_or(at, |other| other.min(at)));
                self.short_of_accepts.push(key);
                continue;
            }
            posting.take_up();
            self.post_accepts(key);
        }
    }

    // ---- connect ----

    pub(super) fn open_to_connect(
        &mut self,
        address: &Address,
        options: &SocketOptions,
    ) -> Result<SocketKey, Fault> {
        let fd = unix_socket::for_connect(address, options, unix_socket::Mode::Blocking)
            .map_err(|error| errno::fault(unix_socket::errno_of(&error)))?;
        let connecting = Some(Box::new(Connecting::Opened(address.clone())));
        let socket = Socket { connecting, ..Socket::new(Descriptor::Plain(fd), None) };
        let added = self.sockets.insert(socket);
        added.map(SocketKey).map_err(|_closed_by_dropping_it| Fault::of(FaultKind::NoDescriptors))
    }

    pub(super) fn submit_connect(&mut self, token: Token, key: SocketKey) {
        let Some(socket) = self.open_socket(key) else {
            return self.queue(token, Outcome::Connected(Err(INVALID)));
        };
        let (Some(connecting), Descriptor::Plain(fd)) = (&mut socket.connecting, &socket.descriptor) else {
            return self.queue(token, Outcome::Connected(Err(INVALID)));
        };
        let Connecting::Opened(to) = &**connecting else {
            return self.queue(token, Outcome::Connected(Err(INVALID)));
        };
        let raw = RawAddress::of(to);
        **connecting = Connecting::InFlight(token, raw);
        let Connecting::InFlight(_, address) = &**connecting else { unreachable!("set above") };
        let storage = (&raw const address.storage).cast();
        let entry = opcode::Connect::new(types::Fd(fd.as_raw_fd()), storage, address.len)
            .build()
            .user_data(Tag::Connect.with(key.0));
        // SAFETY: the address lies in a box of the socket's slot, which is kept as it is until this completion.
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn connected(&mut self, key: SocketKey, result: i32, out: &mut Vec<Completion>) {
        let socket = self.sockets.get_mut(key.0).expect("a slot is not freed while a connect is in flight");
        let connecting = socket.connecting.as_deref_mut().expect("a connect is on a socket that connects");
        let Connecting::InFlight(token, _) = *connecting else {
            unreachable!("a connect completed that was not in flight")
        };
        *connecting = Connecting::Failed;
        let result = match outcome(result) {
            _ if socket.closing => Err(CANCELLED),
            Ok(_) => {
                socket.connecting = None;
                Ok(())
            }
            Err(errno) => Err(errno::fault_of_connect(errno)),
        };
        out.push(Completion { token, outcome: Outcome::Connected(result) });
        self.finish_close(key);
    }

    // ---- moving ----

    /// A plain descriptor for a slot of the ring's table. Waits for the kernel: moving is rare.
    pub(super) fn install(&mut self, slot: u32) -> Result<OwnedFd, Errno> {
        let entry =
            opcode::FixedFdInstall::new(types::Fixed(slot), 0).build().user_data(Tag::Install.plain());
        // SAFETY: the entry points at nothing.
        unsafe { self.ring.push(&entry) };
        loop {
            self.ring.flush_and_wait(None).map_err(|error| unix_socket::errno_of(&error))?;
            if let Some(result) = self.ring.pick(Tag::Install.plain()) {
                self.ring.settle();
                let number = outcome(result)?;
                // SAFETY: the kernel has just made this descriptor for us.
                return Ok(unsafe { OwnedFd::from_raw_fd(number.cast_signed()) });
            }
        }
    }
}

/// How many stand in the queue of a listener, of those that can be accepted in one turn. None if the system does not say.
fn length_of_queue(listener: &OwnedFd) -> usize {
    /// The front of `struct tcp_info`: of a listener, the last of these is the length of its queue.
    const WORDS: usize = 7;
    let mut info = [0_u32; WORDS];
    let mut len = size_of_val(&info) as libc::socklen_t;
    let (fd, at) = (listener.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most `len` bytes, which is what is there.
    let result = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len) };
    if result == 0 { (info[WORDS - 1] as usize).min(AT_ONCE_MAX) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_length_of_a_queue_is_how_many_stand_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let descriptor = OwnedFd::from(listener.try_clone().unwrap());
        assert_eq!(length_of_queue(&descriptor), 0);
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        // The last packet of a handshake may be on its way still.
        for _ in 0..10_000_000 {
            if length_of_queue(&descriptor) == clients.len() {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(length_of_queue(&descriptor), 3);
        listener.accept().unwrap();
        assert_eq!(length_of_queue(&descriptor), 2);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(length_of_queue(&OwnedFd::from(one)), 0, "nobody knows");
    }
}
