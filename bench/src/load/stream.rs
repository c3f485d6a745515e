//! Large messages, echoed as one stream in each direction: both are full at once.
//!
//! Each connection always has the next message on its way out while those before it come back, up to a limit, so that
//! neither side ever waits for the other to change direction.

use std::{net::SocketAddrV4, time::Instant};

use super::{
    Patience, Until, Visit,
    client::{Client, Event},
    connect,
};
use crate::{error::Fault, workload::STREAM_BYTES};

/// Messages that one connection has in flight at most: one on its way out, the others somewhere between.
const IN_FLIGHT_MAX: u32 = 3;

pub struct Stream {
    client: Client,
    /// By connection: messages sent, or being sent, that have not come back.
    in_flight: Vec<u32>,
    events: Vec<(u32, Event)>,
}

impl Stream {
    pub fn open(server: SocketAddrV4, connections: u32) -> Result<Self, Fault> {
        let mut client = Client::new(server, connections, STREAM_BYTES as usize)?;
        connect(&mut client, 0..connections)?;
        Ok(Self { client, in_flight: vec![0; connections as usize], events: Vec::new() })
    }

    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        let start = Instant::now();
        let deadline = until.deadline(start);
        let size = u64::from(STREAM_BYTES);
        let mut operations = 0;
        let mut patience = Patience::new();
        for connection in 0..self.in_flight.len() as u32 {
            self.send(connection)?;
        }
        // The echo of a message may be complete before the end of its send is told.
        let mut sends = self.in_flight.len() as u64;
        while self.client.outstanding() > 0 || sends > 0 {
            self.client.wait(&mut self.events)?;
            patience.check(!self.events.is_empty(), self.client.outstanding())?;
            let begin_more = Instant::now() < deadline;
            let mut events = std::mem::take(&mut self.events);
            for (connection, event) in events.drain(..) {
                match event {
                    Event::Received { length, end } => {
                        let complete = end / size - (end - u64::from(length)) / size;
                        operations += complete;
                        self.in_flight[connection as usize] -= complete as u32;
                    }
                    Event::Sent => sends -= 1,
                    Event::Ended => return Err(Fault::Closed { connection }),
                    Event::Connected | Event::Closed => unreachable!("only asked for elsewhere"),
                }
                let room = self.in_flight[connection as usize] < IN_FLIGHT_MAX;
                if begin_more && room && !self.client.is_sending(connection) {
                    self.send(connection)?;
                    sends += 1;
                }
            }
            self.events = events;
        }
        Ok(Visit { operations, wall: start.elapsed(), latency: None })
    }

    fn send(&mut self, connection: u32) -> Result<(), Fault> {
        self.in_flight[connection as usize] += 1;
        self.client.send(connection, STREAM_BYTES)
    }
}
