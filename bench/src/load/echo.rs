//! Connections that stay open; each keeps `depth` messages in flight.

use std::{net::SocketAddrV4, time::Instant};

use super::{
    Patience, Until, Visit,
    client::{Client, Event},
};
use crate::error::Fault;

/// More connects at once would overflow the backlog of some servers, and a dropped SYN costs a second.
const CONNECTING_MAX: u32 = 256;

pub struct Echo {
    client: Client,
    depth: u32,
    size_bytes: u32,
    /// By connection: messages that may go out as soon as the send before them has ended.
    due: Vec<u32>,
    events: Vec<(u32, Event)>,
}

impl Echo {
    pub fn open(server: SocketAddrV4, connections: u32, depth: u32, size_bytes: u32) -> Result<Self, Fault> {
        let client = Client::new(server, connections, (depth * size_bytes) as usize)?;
        let due = vec![0; connections as usize];
        let mut echo = Self { client, depth, size_bytes, due, events: Vec::new() };
        echo.connect()?;
        Ok(echo)
    }

    fn connect(&mut self) -> Result<(), Fault> {
        let connections = self.due.len() as u32;
        let (mut begun, mut done) = (0, 0);
        let mut patience = Patience::new();
        while done < connections {
            while begun < connections && begun - done < CONNECTING_MAX {
                self.client.open(begun)?;
                begun += 1;
            }
            self.client.wait(&mut self.events)?;
            patience.check(!self.events.is_empty(), u64::from(begun - done))?;
            for (connection, event) in self.events.drain(..) {
                match event {
                    Event::Connected => done += 1,
                    _ => return Err(Fault::Closed { connection }),
                }
            }
        }
        Ok(())
    }

    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        let start = Instant::now();
        let deadline = until.deadline(start);
        let size = u64::from(self.size_bytes);
        let mut operations = 0;
        let mut asked = self.due.len() as u64 * u64::from(self.depth);
        let mut sends = self.due.len() as u64;
        let mut patience = Patience::new();
        for connection in 0..self.due.len() as u32 {
            self.client.send(connection, self.depth * self.size_bytes)?;
        }
        while self.client.outstanding() > 0 || sends > 0 {
            self.client.wait(&mut self.events)?;
            patience.check(!self.events.is_empty(), self.client.outstanding())?;
            let begin_more = Instant::now() < deadline;
            for (connection, event) in self.events.drain(..) {
                let due = &mut self.due[connection as usize];
                match event {
                    Event::Received { length, end } => {
                        let complete = end / size - (end - u64::from(length)) / size;
                        operations += complete;
                        *due += complete as u32;
                    }
                    Event::Sent => sends -= 1,
                    Event::Ended => return Err(Fault::Closed { connection }),
                    Event::Connected | Event::Closed => unreachable!("only asked for elsewhere"),
                }
                if begin_more && *due > 0 && !self.client.is_sending(connection) {
                    self.client.send(connection, *due * self.size_bytes)?;
                    asked += u64::from(std::mem::take(due));
                    sends += 1;
                }
            }
        }
        assert_eq!(operations, asked, "every message sent was counted once when it came back");
        // The next visit begins with a full depth again.
        self.due.fill(0);
        Ok(Visit { operations, wall: start.elapsed() })
    }
}
