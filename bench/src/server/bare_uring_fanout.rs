//! The io_uring loop of `bare_uring`, sending what arrives on a connection to all others: a send for each of them, all
//! from the buffer that was received into, and one system call for as many of them as there are.
//!
//! One send per connection is in flight; what arrives meanwhile waits in the connection's queue, so that the bytes stay
//! in order even when a send has to wait for room.
#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
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
    ring::{self, Completion, Pool, Ring, token},
    sys,
};

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32 * 1024;
const BUFFERS: u16 = 512;
const BUFFER_SIZE: usize = 64 * 1024;
/// More than this the kernel may grant, but nobody here asks for.
const SESSIONS_MAX: u64 = 65_536;

const ACCEPT: u8 = 0;
const RECEIVE: u8 = 1;
const SEND: u8 = 2;
const CLOSE: u8 = 3;

#[derive(Clone, Default)]
struct Session {
    /// Buffers to be sent; the first one is being sent.
    queue: VecDeque<u16>,
    /// The receive has ended for good: it is no member any more.
    ended: bool,
}

/// A buffer between its receive and the end of its last send.
#[derive(Clone, Copy, Default)]
struct Filled {
    length: u32,
    /// Members to whom it has not been sent.
    members: u32,
}

struct Server {
    listener: RawFd,
    sessions: Vec<Session>,
    /// The slots of those that are sent what others say.
    members: Vec<u32>,
    filled: Vec<Filled>,
    /// Sessions whose receive found no free buffer.
    starved: Vec<u32>,
    /// Dropped before the pool, which the kernel writes into while the ring lives.
    ring: Ring,
    pool: Pool,
}

pub fn run(listener: &TcpListener) -> io::Result<()> {
    sys::set_nodelay(listener)?;
    let sessions_max = sys::raise_descriptor_limit()?.min(SESSIONS_MAX) as u32;
    let ring = Ring::new(SUBMISSIONS, COMPLETIONS, sessions_max)?;
    let pool = Pool::new(&ring, BUFFERS, BUFFER_SIZE)?;
    let mut server = Server {
        listener: listener.as_raw_fd(),
        sessions: vec![Session::default(); sessions_max as usize],
        members: Vec::new(),
        filled: vec![Filled::default(); BUFFERS as usize],
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

impl Server {
    fn complete(&mut self, completion: Completion) -> io::Result<()> {
        let (kind, buffer, slot) = ring::split(completion.token);
        match kind {
            ACCEPT => self.accepted(completion),
            RECEIVE => self.received(slot, completion),
            SEND => self.sent(slot, buffer, completion.result),
            CLOSE => panic!("closing descriptor {slot} failed: {}", completion.result),
            _ => unreachable!("a token that nobody made"),
        }
    }

    fn accepted(&mut self, completion: Completion) -> io::Result<()> {
        if completion.result >= 0 {
            let slot = completion.result as u32;
            self.sessions[slot as usize].ended = false;
            self.members.push(slot);
            self.receive(slot)?;
        }
        if completion.more() { Ok(()) } else { self.accept() }
    }

    fn received(&mut self, slot: u32, completion: Completion) -> io::Result<()> {
        if completion.result > 0 {
            let buffer = completion.buffer().expect("a receive with bytes names a buffer");
            self.publish(slot, buffer, completion.result as u32)?;
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
        self.members.retain(|member| *member != slot);
        self.close_if_done(slot)
    }

    /// Sends what was received to all others.
    fn publish(&mut self, publisher: u32, buffer: u16, length: u32) -> io::Result<()> {
        let mut count = 0;
        self.filled[buffer as usize] = Filled { length, members: u32::MAX };
        for at in 0..self.members.len() {
            let member = self.members[at];
            if member == publisher {
                continue;
            }
            count += 1;
            let queue = &mut self.sessions[member as usize].queue;
            queue.push_back(buffer);
            if queue.len() == 1 {
                self.send(member, buffer)?;
            }
        }
        self.filled[buffer as usize].members = count;
        if count == 0 {
            self.pool.recycle(buffer);
        }
        Ok(())
    }

    fn sent(&mut self, slot: u32, buffer: u16, result: i32) -> io::Result<()> {
        let whole = result == self.filled[buffer as usize].length as i32;
        self.sessions[slot as usize].queue.pop_front();
        self.give_back(buffer);
        if !whole {
            // The connection is broken, which its receive will tell: what waits is thrown away.
            while let Some(waiting) = self.sessions[slot as usize].queue.pop_front() {
                self.give_back(waiting);
            }
        }
        match self.sessions[slot as usize].queue.front() {
            None => self.close_if_done(slot),
            Some(&next) => self.send(slot, next),
        }
    }

    fn give_back(&mut self, buffer: u16) {
        let members = &mut self.filled[buffer as usize].members;
        *members -= 1;
        if *members == 0 {
            self.pool.recycle(buffer);
        }
    }

    /// A session goes when its receive has ended and everything was sent.
    fn close_if_done(&mut self, slot: u32) -> io::Result<()> {
        let session = &self.sessions[slot as usize];
        if !session.ended || !session.queue.is_empty() {
            return Ok(());
        }
        let entry = opcode::Close::new(Fixed(slot)).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry.user_data(token(CLOSE, 0, slot)))
    }

    fn accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(self.listener)).allocate_file_index(true).build();
        self.push(entry.user_data(token(ACCEPT, 0, 0)))
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fixed(slot), ring::GROUP).build();
        self.push(entry.user_data(token(RECEIVE, 0, slot)))
    }

    fn send(&mut self, slot: u32, buffer: u16) -> io::Result<()> {
        let length = self.filled[buffer as usize].length;
        let entry = opcode::Send::new(Fixed(slot), self.pool.pointer(buffer), length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry.user_data(token(SEND, buffer, slot)))
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        // SAFETY: only a send points to memory: to a buffer of the pool, which outlives the ring, and which
        // `give_back` recycles only when all sends from it have completed.
        unsafe { self.ring.push(&entry) }
    }
}
