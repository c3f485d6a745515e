//! The smallest and fastest io_uring loop we know: one multishot accept into direct descriptors, one multishot
//! receive per connection out of provided buffers, a ring send straight from the buffer that was received
//! into, and one system call for as many of them as there are.
//!
//! One send per connection is in flight; what arrives meanwhile waits in a chain of buffers, so that the bytes
//! stay in order even when a send has to wait for room.
#![allow(unsafe_code)]

use std::{
    io,
    net::TcpListener,
    os::fd::{AsRawFd, RawFd},
};

use io_uring::{
    opcode,
    squeue::{Entry, Flags},
    types::{Fd, Fixed},
};

use crate::{
    ring::{self, Completion, Pool, Ring, TaskWork, token},
    sys,
};

/// What the loop does otherwise: each shows what one choice of the fastest loop is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// The fastest loop we know.
    None,
    /// A receive for each message, in place of one for all.
    OneShotReceive,
    /// SENDMSG with one piece, in place of SEND.
    GatheredSend,
    /// `SEND_ZC`: the kernel reads from our memory until a second completion.
    ZeroCopySend,
    /// Task work that is not deferred to the call that waits.
    CooperativeTaskWork,
    /// The kernel's own thread submits (SQPOLL).
    KernelThread,
}

impl Variant {
    fn task_work(self) -> TaskWork {
        match self {
            Self::CooperativeTaskWork => TaskWork::Cooperative,
            Self::KernelThread => TaskWork::KernelThread,
            _ => TaskWork::Deferred,
        }
    }
}

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32 * 1024;
const BUFFERS: u16 = 512;
/// The number and the size do not matter for small messages. Large ones want few and large buffers: a burst in
/// two buffers takes two sends. 4,096 of 4 KiB cost three times as much with 64 KiB in flight.
const BUFFER_SIZE: usize = 64 * 1024;
/// More than this the kernel may grant, but nobody here asks for.
const SESSIONS_MAX: u64 = 65_536;

const ACCEPT: u8 = 0;
const RECEIVE: u8 = 1;
const SEND: u8 = 2;
const CLOSE: u8 = 3;

/// The end of a chain of buffers.
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Session {
    /// The buffer being sent, followed by those that wait; NONE if nothing is.
    first: u16,
    last: u16,
    /// The receive has ended for good.
    ended: bool,
    /// A send failed: what else arrives is thrown away.
    broken: bool,
}

const FRESH: Session = Session { first: NONE, last: NONE, ended: false, broken: false };

/// A buffer between its receive and the end of its send.
#[derive(Clone, Copy)]
struct Filled {
    length: u32,
    next: u16,
}

/// Header and piece of a gathered send.
struct Gather {
    header: libc::msghdr,
    piece: libc::iovec,
}

struct Server {
    variant: Variant,
    listener: RawFd,
    accepting: bool,
    sessions: Vec<Session>,
    filled: Vec<Filled>,
    /// Sessions whose receive found no free buffer.
    starved: Vec<u32>,
    /// Dropped before the pool, which the kernel writes into while the ring lives.
    ring: Ring,
    pool: Pool,
    /// By buffer; the kernel reads them while its send is in flight.
    gathers: Box<[Gather]>,
}

pub fn run(listener: &TcpListener, variant: Variant) -> io::Result<()> {
    sys::set_nodelay(listener)?;
    let sessions_max = sys::raise_descriptor_limit()?.min(SESSIONS_MAX) as u32;
    let ring = Ring::with(variant.task_work(), SUBMISSIONS, COMPLETIONS, sessions_max)?;
    let pool = Pool::new(&ring, BUFFERS, BUFFER_SIZE)?;
    let gathers = if variant == Variant::GatheredSend { BUFFERS } else { 0 };
    let mut server = Server {
        variant,
        gathers: (0..gathers).map(|_| Gather::default()).collect(),
        listener: listener.as_raw_fd(),
        accepting: false,
        sessions: vec![FRESH; sessions_max as usize],
        filled: vec![Filled { length: 0, next: NONE }; BUFFERS as usize],
        starved: Vec::new(),
        ring,
        pool,
    };
    server.accept()?;
    let mut completions = Vec::with_capacity(COMPLETIONS as usize);
    loop {
        server.ring.wait()?;
        server.ring.collect(&mut completions);
        for completion in completions.drain(..) {
            server.complete(completion)?;
        }
        server.pool.publish();
        for slot in std::mem::take(&mut server.starved) {
            server.receive(slot)?;
        }
    }
}

impl Default for Gather {
    fn default() -> Self {
        // SAFETY: both are integers and pointers, for which zeros are valid.
        unsafe { std::mem::zeroed() }
    }
}

impl Server {
    fn complete(&mut self, completion: Completion) -> io::Result<()> {
        let (kind, buffer, slot) = ring::split(completion.token);
        match kind {
            ACCEPT => self.accepted(completion),
            RECEIVE => self.received(slot, completion),
            SEND if completion.is_notification() => {
                self.pool.recycle(buffer);
                Ok(())
            }
            SEND => self.sent(slot, buffer, completion),
            CLOSE => panic!("closing descriptor {slot} failed: {}", completion.result),
            _ => unreachable!("a token that nobody made"),
        }
    }

    fn accepted(&mut self, completion: Completion) -> io::Result<()> {
        if completion.result >= 0 {
            let slot = completion.result as u32;
            self.sessions[slot as usize] = FRESH;
            self.receive(slot)?;
        }
        if !completion.more() {
            self.accepting = false;
            // With no descriptor left, the next close takes accepting up again.
            if completion.result != -libc::ENFILE {
                self.accept()?;
            }
        }
        Ok(())
    }

    fn received(&mut self, slot: u32, completion: Completion) -> io::Result<()> {
        if completion.result > 0 {
            let buffer = completion.buffer().expect("a receive with bytes names a buffer");
            self.filled[buffer as usize] = Filled { length: completion.result as u32, next: NONE };
            let session = &mut self.sessions[slot as usize];
            if session.broken {
                self.pool.recycle(buffer);
            } else if session.first == NONE {
                session.first = buffer;
                session.last = buffer;
                self.send(slot, buffer)?;
            } else {
                self.filled[session.last as usize].next = buffer;
                session.last = buffer;
            }
            return if completion.more() { Ok(()) } else { self.receive(slot) };
        }
        if let Some(buffer) = completion.buffer() {
            self.pool.recycle(buffer);
        }
        if completion.result == -libc::ENOBUFS {
            self.starved.push(slot);
            return Ok(());
        }
        self.sessions[slot as usize].ended = true;
        self.close_if_done(slot)
    }

    fn sent(&mut self, slot: u32, buffer: u16, completion: Completion) -> io::Result<()> {
        let Filled { length, next } = self.filled[buffer as usize];
        // Of a zero-copy send a notification follows: the buffer is the kernel's until then.
        if !completion.more() {
            self.pool.recycle(buffer);
        }
        let result = completion.result;
        let session = &mut self.sessions[slot as usize];
        session.first = next;
        if result != length as i32 {
            session.broken = true;
            let mut waiting = std::mem::replace(&mut session.first, NONE);
            while waiting != NONE {
                self.pool.recycle(waiting);
                waiting = self.filled[waiting as usize].next;
            }
        }
        match self.sessions[slot as usize].first {
            NONE => self.close_if_done(slot),
            next => self.send(slot, next),
        }
    }

    /// A session goes when its receive has ended and everything received was sent.
    fn close_if_done(&mut self, slot: u32) -> io::Result<()> {
        let session = self.sessions[slot as usize];
        if !session.ended || session.first != NONE {
            return Ok(());
        }
        let entry = opcode::Close::new(Fixed(slot)).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry.user_data(token(CLOSE, 0, slot)))?;
        if self.accepting { Ok(()) } else { self.accept() }
    }

    fn accept(&mut self) -> io::Result<()> {
        self.accepting = true;
        let entry = opcode::AcceptMulti::new(Fd(self.listener)).allocate_file_index(true).build();
        self.push(entry.user_data(token(ACCEPT, 0, 0)))
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = if self.variant == Variant::OneShotReceive {
            let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), BUFFER_SIZE as u32);
            entry.buf_group(ring::GROUP).build().flags(Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(Fixed(slot), ring::GROUP).build()
        };
        self.push(entry.user_data(token(RECEIVE, 0, slot)))
    }

    fn send(&mut self, slot: u32, buffer: u16) -> io::Result<()> {
        let length = self.filled[buffer as usize].length;
        let (bytes, flags) = (self.pool.pointer(buffer), libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        let entry = match self.variant {
            Variant::GatheredSend => {
                let Gather { header, piece } = &mut self.gathers[buffer as usize];
                *piece = libc::iovec { iov_base: bytes.cast_mut().cast(), iov_len: length as usize };
                header.msg_iov = piece;
                header.msg_iovlen = 1;
                opcode::SendMsg::new(Fixed(slot), header).flags(flags as u32).build()
            }
            Variant::ZeroCopySend => opcode::SendZc::new(Fixed(slot), bytes, length).flags(flags).build(),
            _ => opcode::Send::new(Fixed(slot), bytes, length).flags(flags).build(),
        };
        self.push(entry.user_data(token(SEND, buffer, slot)))
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        // SAFETY: only a send points to memory: to a buffer of the pool, which outlives the ring, and which is
        // recycled only when the kernel has done with it; if it is gathered, to that buffer's header and piece,
        // which are on the heap and are not touched before the buffer is used again.
        unsafe { self.ring.push(&entry) }
    }
}
