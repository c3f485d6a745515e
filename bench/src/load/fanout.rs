//! One connection publishes; all others are sent what it says. A message is in flight until all of them have it.

use std::{collections::VecDeque, net::SocketAddrV4, time::Instant};

use super::{
    Patience, Until, Visit,
    client::{Client, Event},
    connect,
};
use crate::{error::Fault, workload::FANOUT_BYTES};

const PUBLISHER: u32 = 0;

pub struct Fanout {
    client: Client,
    members: u32,
    depth: u32,
    /// For each message in flight, the first one first: members that have it.
    arrived: VecDeque<u32>,
    /// Messages that all members have.
    delivered: u64,
    events: Vec<(u32, Event)>,
}

impl Fanout {
    pub fn open(server: SocketAddrV4, members: u32, depth: u32) -> Result<Self, Fault> {
        let mut client = Client::of_publisher(server, members + 1, (depth * FANOUT_BYTES) as usize)?;
        // The publisher comes last: whoever accepts in order has all members when it says its first word.
        connect(&mut client, 1..members + 1)?;
        connect(&mut client, PUBLISHER..PUBLISHER + 1)?;
        Ok(Self { client, members, depth, arrived: VecDeque::new(), delivered: 0, events: Vec::new() })
    }

    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        let start = Instant::now();
        let deadline = until.deadline(start);
        let size = u64::from(FANOUT_BYTES);
        let before = self.delivered;
        let mut due = self.depth;
        let mut patience = Patience::new();
        self.publish(&mut due)?;
        while self.client.outstanding() > 0 || self.client.is_sending(PUBLISHER) {
            self.client.wait(&mut self.events)?;
            patience.check(!self.events.is_empty(), self.client.outstanding())?;
            for (connection, event) in self.events.drain(..) {
                match event {
                    Event::Received { length, end } => {
                        for message in (end - u64::from(length)) / size..end / size {
                            self.arrived[(message - self.delivered) as usize] += 1;
                        }
                    }
                    Event::Sent => {}
                    Event::Ended => return Err(Fault::Closed { connection }),
                    Event::Connected | Event::Closed => unreachable!("only asked for elsewhere"),
                }
            }
            while self.arrived.front() == Some(&self.members) {
                self.arrived.pop_front();
                self.delivered += 1;
                due += 1;
            }
            if due > 0 && !self.client.is_sending(PUBLISHER) && Instant::now() < deadline {
                self.publish(&mut due)?;
            }
        }
        let operations = (self.delivered - before) * u64::from(self.members);
        Ok(Visit { operations, wall: start.elapsed(), latency: None })
    }

    /// Sends all that is due.
    fn publish(&mut self, due: &mut u32) -> Result<(), Fault> {
        self.client.send(PUBLISHER, *due * FANOUT_BYTES)?;
        self.arrived.extend(std::iter::repeat_n(0, *due as usize));
        *due = 0;
        Ok(())
    }
}
