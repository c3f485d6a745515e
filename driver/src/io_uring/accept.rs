//! Accepting and connecting: how sockets come into the driver.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Instant,
};

use anyport_core::{Fault, FaultKind, SlabKey};
use io_uring::{opcode, types};
use rustix::io::Errno;

use super::{
    CANCELLED, INVALID, IoUring, outcome,
    sockaddr::RawAddress,
    socket::{Connecting, Descriptor, Socket, close_direct},
    tag::Tag,
};
use crate::{
    address::{Address, PeerAddress},
    options::SocketOptions,
    posting::Posting,
    types::{Accepted, Completion, Outcome, SocketKey, Token},
    unix::{errno, socket as unix_socket},
};

/// One posted accept: the kernel writes the peer's address here.
pub(super) struct Accepting {
    listener: SocketKey,
    peer: RawAddress,
}

impl Accepting {
    pub(super) fn new(listener: SocketKey) -> Self {
        Self { listener, peer: RawAddress::empty() }
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

    fn post_accept(&mut self, listener: SocketKey) {
        let accepting = Box::new(Accepting::new(listener));
        let slot = self.accepting.insert(accepting).ok().expect("as many slots as user data can name");
        self.push_accept(slot);
    }

    /// Hands one accept to the kernel.
    fn push_accept(&mut self, slot: SlabKey) {
        let accepting = self.accepting.get_mut(slot).expect("the accept is there until its listener closes");
        accepting.peer.reset();
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
        listening.posting.posted += 1;
        self.posted += 1;
        // SAFETY: address and length lie in a box of the slab that is removed only after this accept's
        // completion.
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn accepted(&mut self, slot: SlabKey, result: i32, out: &mut Vec<Completion>) {
        let result = outcome(result);
        let accepting = self.accepting.get_mut(slot).expect("an accept completed that was posted");
        let (key, peer) = (accepting.listener, accepting.peer.peer());
        let listener = self.sockets.get_mut(key.0).expect("a listener outlives its accepts");
        let closing = listener.closing;
        let listening = listener.listening.as_mut().expect("it is a listener");
        listening.posting.posted -= 1;
        self.posted -= 1;
        let token = listening.posting.token.expect("accepts are posted for a submitted accept");
        let detachable = listening.detachable;
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
        if let Some(fault) = shortage {
            self.accepting.remove(slot);
            return self.back_off(key, fault, out);
        }
        if result.is_ok() {
            self.end_back_off(key);
        }
        if self.has_place() {
            self.push_accept(slot);
        } else {
            self.accepting.remove(slot);
            self.run_short(key);
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

    /// True if one more socket could be taken in, counting those that are on their way.
    fn has_place(&self) -> bool {
        self.sockets.len() + self.posted < self.places as usize
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

    fn end_back_off(&mut self, key: SocketKey) {
        if let Some(listening) = self.sockets.get_mut(key.0).and_then(|socket| socket.listening.as_mut()) {
            listening.posting.went_well();
        }
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
            let lacking = posting.lacking();
            for _ in 0..lacking {
                if !self.has_place() {
                    self.run_short(key);
                    break;
                }
                self.post_accept(key);
            }
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
