//! Large messages, echoed as one stream in each direction: both are full at once.
//!
//! Each connection always has the next part of a message on its way out while those before it come back, up to a limit,
//! so that neither side ever waits for the other to change direction.

use std::{net::SocketAddrV4, time::Instant};

use super::{
    Patience, Until, Visit,
    client::{Client, Event},
    connect,
};
use crate::{error::Fault, workload::STREAM_BYTES};

/// One send. Less than a message, so that what the loader sends from and receives into stays in its cache: it is the
/// server's memory that is to be measured.
const PART_BYTES: u32 = 128 * 1024;
/// Of a message.
const PARTS: u32 = STREAM_BYTES / PART_BYTES;
/// What one connection has in flight at most: more than both directions of a socket hold.
const IN_FLIGHT_MAX: u32 = 3 * PARTS;

pub struct Stream {
    client: Client,
    connections: Vec<Connection>,
    events: Vec<(u32, Event)>,
}

#[derive(Clone, Copy, Default)]
struct Connection {
    /// Parts that are on their way out, or have not come back.
    in_flight: u32,
    /// Parts of the message begun last that have not begun.
    left: u32,
}

impl Stream {
    pub fn open(server: SocketAddrV4, connections: u32) -> Result<Self, Fault> {
        let mut client = Client::new(server, connections, PART_BYTES as usize)?;
        connect(&mut client, 0..connections)?;
        let connections = vec![Connection::default(); connections as usize];
        Ok(Self { client, connections, events: Vec::new() })
    }

    /// An operation is a message there and back, and only whole messages are sent.
    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        let start = Instant::now();
        let deadline = until.deadline(start);
        // How many pieces of this size the bytes of a stream from `end - length` to `end` complete.
        let complete = |size: u32, length: u32, end: u64| {
            end / u64::from(size) - (end - u64::from(length)) / u64::from(size)
        };
        let mut operations = 0;
        let mut sends = 0_u64;
        let mut patience = Patience::new();
        for slot in 0..self.connections.len() as u32 {
            sends += u64::from(self.send_next(slot, true)?);
        }
        // The echo of a part may be complete before the end of its send is told.
        while self.client.outstanding() > 0 || sends > 0 {
            self.client.wait(&mut self.events)?;
            patience.check(!self.events.is_empty(), self.client.outstanding())?;
            let begin_more = Instant::now() < deadline;
            let mut events = std::mem::take(&mut self.events);
            for (slot, event) in events.drain(..) {
                match event {
                    Event::Received { length, end } => {
                        operations += complete(STREAM_BYTES, length, end);
                        let parts = complete(PART_BYTES, length, end) as u32;
                        self.connections[slot as usize].in_flight -= parts;
                    }
                    Event::Sent => sends -= 1,
                    Event::Ended => return Err(Fault::Closed { connection: slot }),
                    Event::Connected | Event::Closed => unreachable!("only asked for elsewhere"),
                }
                sends += u64::from(self.send_next(slot, begin_more)?);
            }
            self.events = events;
        }
        assert!(
            self.connections.iter().all(|connection| connection.in_flight == 0 && connection.left == 0),
            "nothing in flight means that every message was sent and came back whole"
        );
        Ok(Visit { operations, wall: start.elapsed(), latency: None })
    }

    /// Sends the next part, if the connection has room for it and, with `begin`, for a new message. True if it did.
    fn send_next(&mut self, slot: u32, begin: bool) -> Result<bool, Fault> {
        let connection = &mut self.connections[slot as usize];
        if connection.left == 0 && begin {
            connection.left = PARTS;
        }
        let room = connection.left > 0 && connection.in_flight < IN_FLIGHT_MAX;
        if !room || self.client.is_sending(slot) {
            return Ok(false);
        }
        connection.left -= 1;
        connection.in_flight += 1;
        self.client.send(slot, PART_BYTES)?;
        Ok(true)
    }
}
