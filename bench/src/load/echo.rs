//! Connections that stay open; each keeps `depth` messages in flight.

use std::{net::SocketAddrV4, time::Instant};

use super::{
    Patience, Until, Visit,
    client::{Client, Event},
    connect,
};
use crate::error::Fault;

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
        let mut client = Client::new(server, connections, (depth * size_bytes) as usize)?;
        connect(&mut client, 0..connections)?;
        let due = vec![0; connections as usize];
        Ok(Self { client, depth, size_bytes, due, events: Vec::new() })
    }

    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        let Self { client, depth, size_bytes, due, events } = self;
        closed_loop(client, *depth, *size_bytes, due, events, until)
    }
}

/// Each connection of the client, one for each of `due`, keeps `depth` messages in flight.
pub fn closed_loop(
    client: &mut Client,
    depth: u32,
    size_bytes: u32,
    due: &mut [u32],
    events: &mut Vec<(u32, Event)>,
    until: Until,
) -> Result<Visit, Fault> {
    let start = Instant::now();
    let deadline = until.deadline(start);
    let size = u64::from(size_bytes);
    let mut operations = 0;
    let mut asked = due.len() as u64 * u64::from(depth);
    let mut sends = due.len() as u64;
    let mut patience = Patience::new();
    for connection in 0..due.len() as u32 {
        client.send(connection, depth * size_bytes)?;
    }
    while client.outstanding() > 0 || sends > 0 {
        client.wait(events)?;
        patience.check(!events.is_empty(), client.outstanding())?;
        let begin_more = Instant::now() < deadline;
        for (connection, event) in events.drain(..) {
            let due = &mut due[connection as usize];
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
            if begin_more && *due > 0 && !client.is_sending(connection) {
                client.send(connection, *due * size_bytes)?;
                asked += u64::from(std::mem::take(due));
                sends += 1;
            }
        }
    }
    assert_eq!(operations, asked, "every message sent was counted once when it came back");
    // The next visit begins with a full depth again.
    due.fill(0);
    Ok(Visit { operations, wall: start.elapsed(), latency: None })
}
