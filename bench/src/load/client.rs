//! The client's end of many connections to one server: opens, sends, compares, closes.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use io_uring::{
    opcode,
    squeue::{Entry, Flags},
    types::{DestinationSlot, Fixed},
};

use crate::{
    error::Fault,
    ring::{self, Completion, Pool, Ring, token},
};

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32 * 1024;
/// The largest buffer that one receive fills.
const BUFFER_MAX_BYTES: usize = 64 * 1024;

/// Powers of two.
const BUFFERS_MIN: usize = 64;
const BUFFERS_MAX: usize = 2048;
const BUFFERS_MAX_BYTES: usize = 8 << 20;

/// The stream of each connection is cut out of random bytes that repeat after a prime number of them; each
/// connection starts somewhere else. So a byte lost, doubled or led to the wrong connection shows.
const PERIOD: usize = 65_521;

/// Connections start from 127.0.0.2, 127.0.0.3, ..., each of which has its own ports.
const SOURCES: u32 = 250;

const OPEN: u8 = 1;
const CONNECT: u8 = 2;
const RECEIVE: u8 = 3;
const SEND: u8 = 4;
const SHUTDOWN: u8 = 5;
const CLOSE: u8 = 6;

/// Waits are cut into pieces, so that silence is noticed.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// What happened on a connection.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Connected,
    /// So many bytes came, all of them right; they end at this place of the stream.
    Received {
        length: u32,
        end: u64,
    },
    /// The last send went out entirely.
    Sent,
    /// The server has ended the stream.
    Ended,
    /// Our descriptor is free.
    Closed,
}

/// How far the stream of one connection has come.
#[derive(Clone, Copy, Default)]
struct Stream {
    sent: u64,
    received: u64,
    sending: u32,
}

pub struct Client {
    /// Dropped before all that it points to.
    ring: Ring,
    pool: Pool,
    pattern: Box<[u8]>,
    server: Box<libc::sockaddr_in>,
    sources: Box<[libc::sockaddr_in]>,
    /// Gives each connection of a slot another source.
    opened: u32,
    streams: Vec<Stream>,
    completions: Vec<Completion>,
    /// Bytes sent that have not come back.
    outstanding: u64,
    /// Whose stream a connection is sent.
    comes_back: ComesBack,
    /// `poll` was called, and brought nothing the last time.
    idle: bool,
}

/// What a server does with what it receives.
#[derive(Clone, Copy, Debug)]
enum ComesBack {
    /// It sends it back.
    ToSender,
    /// It sends what connection 0 says to so many others.
    ToOthers(u64),
}

/// Points to an option that is switched on.
static ON: i32 = 1;

impl Client {
    /// Prepares `connections` slots for sends of at most `burst_bytes`.
    pub fn new(server: SocketAddrV4, connections: u32, burst_bytes: usize) -> Result<Self, Fault> {
        let ring = Ring::new(SUBMISSIONS, COMPLETIONS, connections);
        Self::with_ring(ring, server, connections, burst_bytes)
    }

    /// As `new`, for a loader that mostly calls `poll`.
    pub fn to_be_polled(server: SocketAddrV4, connections: u32, burst_bytes: usize) -> Result<Self, Fault> {
        let ring = Ring::to_be_polled(SUBMISSIONS, COMPLETIONS, connections);
        Self::with_ring(ring, server, connections, burst_bytes)
    }

    fn with_ring(
        ring: io::Result<Ring>,
        server: SocketAddrV4,
        connections: u32,
        burst_bytes: usize,
    ) -> Result<Self, Fault> {
        let ring = ring.map_err(|source| Fault::Loader { what: "ring with direct descriptors", source })?;
        let buffer_size = burst_bytes.next_power_of_two().clamp(2048, BUFFER_MAX_BYTES);
        let buffers = buffers(connections, buffer_size);
        let pool = Pool::new(&ring, buffers, buffer_size)
            .map_err(|source| Fault::Loader { what: "buffer ring", source })?;
        let sources = (0..SOURCES).map(|n| socket_address(SocketAddrV4::new(source(n), 0))).collect();
        Ok(Self {
            ring,
            pool,
            pattern: pattern(burst_bytes),
            server: Box::new(socket_address(server)),
            sources,
            opened: 0,
            streams: vec![Stream::default(); connections as usize],
            completions: Vec::with_capacity(COMPLETIONS as usize),
            outstanding: 0,
            comes_back: ComesBack::ToSender,
            idle: false,
        })
    }

    /// As `new`, for a server that sends what connection 0 says to all others.
    pub fn of_publisher(server: SocketAddrV4, connections: u32, burst_bytes: usize) -> Result<Self, Fault> {
        let mut client = Self::new(server, connections, burst_bytes)?;
        client.comes_back = ComesBack::ToOthers(u64::from(connections) - 1);
        Ok(client)
    }

    /// True for a connection that is to be sent nothing.
    fn is_publisher(&self, slot: u32) -> bool {
        slot == 0 && matches!(self.comes_back, ComesBack::ToOthers(_))
    }

    /// Whose stream a connection is sent.
    fn origin(&self, slot: u32) -> u32 {
        match self.comes_back {
            ComesBack::ToSender => slot,
            ComesBack::ToOthers(_) => 0,
        }
    }

    /// Bytes sent that have not come back, over all connections.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Whether a send is on its way.
    pub fn is_sending(&self, slot: u32) -> bool {
        self.streams[slot as usize].sending != 0
    }

    /// Opens a connection: `Connected` follows.
    pub fn open(&mut self, slot: u32) -> Result<(), Fault> {
        self.streams[slot as usize] = Stream::default();
        let address_size = size_of::<libc::sockaddr_in>() as u32;
        let source: *const libc::sockaddr_in = &raw const self.sources[(self.opened % SOURCES) as usize];
        self.opened = self.opened.wrapping_add(1);
        let place = DestinationSlot::try_from_slot_target(slot).expect("slots are below the table's size");
        let stream = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).file_index(Some(place)).build();
        let option = |level, name| {
            let size = size_of_val(&ON) as u32;
            opcode::SetSockOpt::new(Fixed(slot), level as u32, name as u32, (&raw const ON).cast(), size)
                .build()
        };
        let chain = [
            stream,
            option(libc::IPPROTO_TCP, libc::TCP_NODELAY),
            // The port is chosen by `connect`, which knows that only the whole pair must be unused.
            option(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
            opcode::Bind::new(Fixed(slot), source.cast(), address_size).build(),
        ];
        self.ring.reserve(chain.len() + 1).map_err(loader)?;
        for entry in chain {
            let flags = Flags::IO_LINK | Flags::SKIP_SUCCESS;
            self.push(entry.flags(flags).user_data(token(OPEN, 0, slot)))?;
        }
        let entry = opcode::Connect::new(Fixed(slot), (&raw const *self.server).cast(), address_size).build();
        self.push(entry.user_data(token(CONNECT, 0, slot)))
    }

    /// Sends the next `length` bytes of the stream: `Sent` follows, before which no other send may begin.
    pub fn send(&mut self, slot: u32, length: u32) -> Result<(), Fault> {
        let stream = &mut self.streams[slot as usize];
        assert!(stream.sending == 0, "one send at a time");
        let bytes = window(&self.pattern, slot, stream.sent, length);
        let entry = opcode::Send::new(Fixed(slot), bytes.as_ptr(), length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        stream.sending = length;
        stream.sent += u64::from(length);
        self.outstanding += u64::from(length)
            * match self.comes_back {
                ComesBack::ToSender => 1,
                ComesBack::ToOthers(others) => others,
            };
        self.push(entry.user_data(token(SEND, 0, slot)))
    }

    /// Ends our half of the stream, which puts a FIN on the wire: `Ended` follows when the server did likewise.
    pub fn finish(&mut self, slot: u32) -> Result<(), Fault> {
        let entry = opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry.user_data(token(SHUTDOWN, 0, slot)))
    }

    /// Gives the descriptor back, after `Ended`: `Closed` follows.
    pub fn close(&mut self, slot: u32) -> Result<(), Fault> {
        self.push(opcode::Close::new(Fixed(slot)).build().user_data(token(CLOSE, 0, slot)))
    }

    /// Submits, waits for a while, and adds what happened to `events`, with the slot of each.
    pub fn wait(&mut self, events: &mut Vec<(u32, Event)>) -> Result<(), Fault> {
        self.ring.wait_at_most(WAIT_MAX).map_err(loader)?;
        self.collect(events)
    }

    /// As `wait`, but does not wait, and makes no system call unless there is a reason.
    pub fn poll(&mut self, events: &mut Vec<(u32, Event)>) -> Result<(), Fault> {
        self.ring.poll(self.idle).map_err(loader)?;
        self.collect(events)
    }

    fn collect(&mut self, events: &mut Vec<(u32, Event)>) -> Result<(), Fault> {
        let mut completions = mem::take(&mut self.completions);
        self.ring.collect(&mut completions);
        self.idle = completions.is_empty();
        for completion in completions.drain(..) {
            let (_, _, slot) = ring::split(completion.token);
            if let Some(event) = self.complete(slot, completion)? {
                events.push((slot, event));
            }
        }
        self.completions = completions;
        self.pool.publish();
        Ok(())
    }

    fn complete(&mut self, slot: u32, completion: Completion) -> Result<Option<Event>, Fault> {
        let (kind, _, _) = ring::split(completion.token);
        let result = completion.result;
        let broke = |operation| Fault::Broke { connection: slot, operation, errno: -result };
        match kind {
            RECEIVE => self.arrived(slot, completion),
            // The later links of a broken chain are cancelled; the first one told the reason.
            OPEN | CONNECT if result == -libc::ECANCELED => Ok(None),
            OPEN | CONNECT if result < 0 => Err(Fault::Connect { errno: -result }),
            CONNECT => {
                self.receive(slot)?;
                Ok(Some(Event::Connected))
            }
            SEND if result < 0 => Err(broke("send")),
            SEND => {
                let expected = mem::take(&mut self.streams[slot as usize].sending);
                assert!(result as u32 == expected, "MSG_WAITALL sends all or fails");
                Ok(Some(Event::Sent))
            }
            SHUTDOWN => Err(broke("shutdown")),
            CLOSE if result < 0 => Err(broke("close")),
            CLOSE => Ok(Some(Event::Closed)),
            _ => unreachable!("a token that nobody made"),
        }
    }

    /// Compares what came with what was sent.
    fn arrived(&mut self, slot: u32, completion: Completion) -> Result<Option<Event>, Fault> {
        let result = completion.result;
        if result <= 0 {
            if let Some(buffer) = completion.buffer() {
                self.pool.recycle(buffer);
            }
            return match result {
                0 => Ok(Some(Event::Ended)),
                _ if result == -libc::ENOBUFS => self.receive(slot).map(|()| None),
                _ => Err(Fault::Broke { connection: slot, operation: "receive", errno: -result }),
            };
        }
        let buffer = completion.buffer().expect("a receive with bytes names a buffer");
        let length = result as u32;
        let origin = self.origin(slot);
        let sent_in_all = self.streams[origin as usize].sent;
        let after = self.streams[slot as usize].received + u64::from(length);
        if after > sent_in_all || self.is_publisher(slot) {
            return Err(Fault::TooMuch { connection: slot, sent: sent_in_all, received: after });
        }
        let stream = &mut self.streams[slot as usize];
        let received = self.pool.bytes(buffer, length as usize);
        let sent = window(&self.pattern, origin, stream.received, length);
        if received != sent {
            let first = received.iter().zip(sent).position(|(a, b)| a != b).unwrap_or(0);
            return Err(Fault::WrongByte {
                connection: slot,
                offset: stream.received + first as u64,
                sent: sent[first],
                received: received[first],
            });
        }
        stream.received = after;
        self.outstanding -= u64::from(length);
        self.pool.recycle(buffer);
        if !completion.more() {
            self.receive(slot)?;
        }
        Ok(Some(Event::Received { length, end: after }))
    }

    fn receive(&mut self, slot: u32) -> Result<(), Fault> {
        let entry = opcode::RecvMulti::new(Fixed(slot), ring::GROUP).build();
        self.push(entry.user_data(token(RECEIVE, 0, slot)))
    }

    fn push(&mut self, entry: Entry) -> Result<(), Fault> {
        // SAFETY: operations point to `pattern`, `server`, `sources` (on the heap, never changed, dropped
        // after the ring has cancelled everything) and to the static `ON`.
        unsafe { self.ring.push(&entry) }.map_err(loader)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ring.cancel_all();
    }
}

fn loader(source: io::Error) -> Fault {
    Fault::Loader { what: "io_uring_enter", source }
}

fn source(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + n)
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// Receive buffers of a client: two for each connection, in bounds. The kernel takes them in turn, so that more than
/// are needed would only lead the loader through more memory than its cache holds.
fn buffers(connections: u32, size: usize) -> u16 {
    let most = (BUFFERS_MAX_BYTES / size).min(BUFFERS_MAX);
    (connections as usize * 2).next_power_of_two().clamp(BUFFERS_MIN, most) as u16
}

/// One period of random bytes, and as much again as the longest send or receive, so that every window is in one
/// piece.
fn pattern(burst_bytes: usize) -> Box<[u8]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(PERIOD)
    .collect();
    period.iter().cycle().take(PERIOD + burst_bytes.max(BUFFER_MAX_BYTES)).copied().collect()
}

/// What the stream of a connection holds at an offset.
fn window(pattern: &[u8], slot: u32, offset: u64, length: u32) -> &[u8] {
    let begin = ((u64::from(slot) * 7919 + offset) % PERIOD as u64) as usize;
    &pattern[begin..begin + length as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_continue_each_other() {
        let pattern = pattern(1024);
        let whole = window(&pattern, 3, PERIOD as u64 - 100, 1000);
        let first = window(&pattern, 3, PERIOD as u64 - 100, 600);
        let rest = window(&pattern, 3, PERIOD as u64 + 500, 400);
        assert_eq!(whole, [first, rest].concat());
    }

    #[test]
    fn connections_differ() {
        let pattern = pattern(64);
        assert_ne!(window(&pattern, 0, 0, 64), window(&pattern, 1, 0, 64));
        assert_ne!(window(&pattern, 0, 0, 64), window(&pattern, 0, 64, 64));
    }
}
