//! An open loop: messages are sent when a schedule says so, whatever has come back until then.
//!
//! The latency of a message counts from the moment for which it was scheduled. Where a server (or the loader) falls
//! behind, messages wait, and their waiting is part of their latency: nothing is left out because somebody was slow.
//!
//! The loader never sleeps during a visit: it polls its ring on its own processor. Asleep, it was woken so late that it
//! sent 43 % of 50,000 messages a second more than 50 µs after their moment, with the finest timers too (polling: 4 %,
//! on the same disturbed machine); the median doubled, from 44 to 96 µs, the ratios of the servers stayed.

use std::{collections::VecDeque, net::SocketAddrV4, time::Instant};

use hdrhistogram::Histogram;

use super::{
    Latencies, Patience, Until, Visit,
    client::{Client, Event},
    connect, echo,
    schedule::Schedule,
};
use crate::{error::Fault, workload::OPEN_BYTES};

/// A message that the loader gave to the kernel so long after its moment is counted as late.
const LATE_NS: u64 = 50_000;
/// Messages that one turn sends at most, so that none of them waits for many others.
const TURN_MAX: usize = 16;
/// Messages that one send carries at most, if they had to wait for the one before.
const SEND_MAX: u32 = 64;

/// Latencies are kept to three digits between these.
const LATENCY_MIN_NS: u64 = 1000;
const LATENCY_MAX_NS: u64 = 60_000_000_000;

pub struct Open {
    client: Client,
    /// Messages a second.
    rate: f64,
    /// The same numbers for every server: the n-th visit of each has the same schedule.
    visits: u64,
    connections: Vec<Connection>,
    histogram: Histogram<u64>,
    events: Vec<(u32, Event)>,
}

#[derive(Default)]
struct Connection {
    /// Messages that go out as soon as the send before them has ended.
    due: u32,
    /// For each message not yet back, the first one first: its moment, in ns since the visit began.
    scheduled: VecDeque<u64>,
}

impl Open {
    pub fn connected(server: SocketAddrV4, connections: u32) -> Result<Self, Fault> {
        let mut client = Client::to_be_polled(server, connections, (SEND_MAX * OPEN_BYTES) as usize)?;
        connect(&mut client, 0..connections)?;
        let histogram = Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, 3);
        Ok(Self {
            client,
            rate: 0.0,
            visits: 0,
            connections: (0..connections).map(|_| Connection::default()).collect(),
            histogram: histogram.expect("bounds and digits that a histogram can have"),
            events: Vec::new(),
        })
    }

    /// Messages a second from now on; 0 stands for as many as the server can do, one on each connection at a time.
    pub fn offer(&mut self, rate: f64) {
        self.rate = rate;
    }

    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        if self.rate == 0.0 {
            let mut due = vec![0; self.connections.len()];
            return echo::closed_loop(&mut self.client, 1, OPEN_BYTES, &mut due, &mut self.events, until);
        }
        self.visits += 1;
        let mut schedule = Schedule::new(self.visits, self.rate, self.connections.len() as u32);
        self.histogram.reset();
        let start = Instant::now();
        let end = until.deadline(start).duration_since(start).as_nanos() as u64;
        let size = u64::from(OPEN_BYTES);
        let (mut operations, mut sends, mut late) = (0, 0_u64, 0);
        let mut given = Vec::with_capacity(TURN_MAX);
        let mut patience = Patience::new();
        loop {
            let now = start.elapsed().as_nanos() as u64;
            while schedule.at_ns() <= now.min(end) && given.len() < TURN_MAX {
                let (at, slot) = schedule.take();
                let connection = &mut self.connections[slot as usize];
                connection.scheduled.push_back(at);
                if self.client.is_sending(slot) {
                    connection.due += 1;
                } else {
                    self.client.send(slot, OPEN_BYTES)?;
                    sends += 1;
                    given.push(at);
                }
            }
            if schedule.at_ns() > end && self.client.outstanding() == 0 && sends == 0 {
                break;
            }
            self.client.poll(&mut self.events)?;
            let arrived = !self.events.is_empty();
            if arrived || !given.is_empty() {
                let now = start.elapsed().as_nanos() as u64;
                late += given.drain(..).filter(|at| now - at > LATE_NS).count() as u64;
                for (slot, event) in self.events.drain(..) {
                    let connection = &mut self.connections[slot as usize];
                    match event {
                        Event::Received { length, end } => {
                            let complete = end / size - (end - u64::from(length)) / size;
                            operations += complete;
                            for at in connection.scheduled.drain(..complete as usize) {
                                self.histogram.saturating_record(now - at);
                            }
                        }
                        Event::Sent => sends -= 1,
                        Event::Ended => return Err(Fault::Closed { connection: slot }),
                        Event::Connected | Event::Closed => unreachable!("only asked for elsewhere"),
                    }
                    if connection.due > 0 && !self.client.is_sending(slot) {
                        let count = connection.due.min(SEND_MAX);
                        connection.due -= count;
                        self.client.send(slot, count * OPEN_BYTES)?;
                        sends += 1;
                    }
                }
            }
            let outstanding = self.client.outstanding();
            patience.check(arrived || outstanding == 0, outstanding)?;
        }
        let wall = start.elapsed();
        assert_eq!(operations, self.histogram.len(), "every message was timed once");
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        let latency = Latencies { p50_ns: at(0.5), p99_ns: at(0.99), p999_ns: at(0.999), late };
        Ok(Visit { operations, wall, latency: Some(latency) })
    }
}
