//! Connections that come and go: connect, one echo, FIN, wait for the server's FIN, close.
//!
//! The loader ends the stream first and waits for the server to do the same, so that the work of closing falls
//! into the visit that caused it.

use std::{net::SocketAddrV4, time::Instant};

use super::{
    Patience, Until, Visit,
    client::{Client, Event},
};
use crate::error::Fault;

const SIZE_BYTES: u32 = 64;

pub struct Churn {
    client: Client,
    /// By lane, each of which has one connection at a time: the server has echoed everything.
    echoed: Vec<bool>,
    events: Vec<(u32, Event)>,
}

impl Churn {
    pub fn open(server: SocketAddrV4, lanes: u32) -> Result<Self, Fault> {
        let client = Client::new(server, lanes, SIZE_BYTES as usize)?;
        Ok(Self { client, echoed: vec![false; lanes as usize], events: Vec::new() })
    }

    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        let start = Instant::now();
        let deadline = until.deadline(start);
        let mut operations = 0;
        let mut open = self.echoed.len() as u64;
        let mut patience = Patience::new();
        for lane in 0..self.echoed.len() as u32 {
            self.client.open(lane)?;
        }
        while open > 0 {
            self.client.wait(&mut self.events)?;
            patience.check(!self.events.is_empty(), open)?;
            for (lane, event) in self.events.drain(..) {
                match event {
                    Event::Connected => {
                        self.echoed[lane as usize] = false;
                        self.client.send(lane, SIZE_BYTES)?;
                    }
                    Event::Sent => {}
                    Event::Received { end, .. } if end < u64::from(SIZE_BYTES) => {}
                    Event::Received { .. } => {
                        self.echoed[lane as usize] = true;
                        self.client.finish(lane)?;
                    }
                    Event::Ended if self.echoed[lane as usize] => self.client.close(lane)?,
                    Event::Ended => return Err(Fault::Closed { connection: lane }),
                    Event::Closed => {
                        operations += 1;
                        if Instant::now() < deadline {
                            self.client.open(lane)?;
                        } else {
                            open -= 1;
                        }
                    }
                }
            }
        }
        Ok(Visit { operations, wall: start.elapsed(), latency: None })
    }
}
