//! Everything together for a while.

use anyport_driver::{Driver, DriverConfig, SocketKey};

use crate::bed::{Bed, CLOSED, Chance, Client, Peer, Seen, World, pattern};

const CONNECTIONS: usize = 200;

/// One echoed connection.
struct Echo<W: World> {
    socket: SocketKey,
    client: Client<W>,
    bytes: Vec<u8>,
    fed: usize,
    receive: u64,
    echoed: usize,
    send: Option<u64>,
    close: Option<u64>,
}

impl<W: World> Echo<W> {
    /// Does what can be done. True once the connection is closed and the peer has every byte.
    fn turn(&mut self, bed: &mut Bed<W>, chance: &mut Chance) -> bool {
        if self.client.push() && self.fed < self.bytes.len() {
            let next = (self.fed + chance.of(1..20_000)).min(self.bytes.len());
            self.client.feed(&self.bytes[self.fed..next]);
            self.fed = next;
            if next == self.bytes.len() {
                self.client.push();
            }
        }
        if self.fed == self.bytes.len() && self.client.push() && self.close.is_none() {
            self.client.peer.shutdown_write();
        }
        self.client.pull_at_most(chance.of(0..60_000));
        if self.send.is_none_or(|token| bed.end_of(token).is_some()) {
            let received = bed.received(self.receive);
            if received.len() > self.echoed {
                let piece = received[self.echoed..].to_vec();
                self.echoed += piece.len();
                self.send = Some(bed.send(self.socket, &piece));
            } else if self.close.is_none() && bed.end_of(self.receive) == Some(Seen::EndOfStream) {
                self.close = Some(bed.close(self.socket));
            }
        }
        self.client.end.is_some() && self.close.is_some_and(|token| bed.end_of(token) == Some(CLOSED))
    }
}

pub(crate) fn s05_two_hundred_connections_echo_every_byte<W: World>(seed: u64) {
    let config = DriverConfig {
        sockets_max: 256,
        receive_memory_bytes: 64 << 10,
        receive_buffer_bytes: 4 << 10,
        ..DriverConfig::DEFAULT
    };
    let mut bed = Bed::<W>::with(seed, config);
    let mut chance = Chance::new(seed);
    let mut echoes: Vec<_> = bed
        .pairs(CONNECTIONS)
        .into_iter()
        .map(|(socket, client)| Echo {
            socket,
            client,
            bytes: pattern(chance.next(), chance.of(1..20_000)),
            fed: 0,
            receive: bed.receive(socket),
            echoed: 0,
            send: None,
            close: None,
        })
        .collect();
    bed.until("every echo", |bed| {
        let done = echoes.iter_mut().map(|echo| echo.turn(bed, &mut chance)).filter(|done| *done).count();
        done == CONNECTIONS
    });
    for echo in &echoes {
        assert!(echo.client.received == echo.bytes, "other bytes than were sent");
        assert_eq!(echo.client.end, Some(crate::bed::End::EndOfStream));
    }
    assert_eq!((bed.driver().sockets(), bed.driver().leases_out()), (1, 0));
    assert_eq!(bed.operations_in_flight(), 1);
}

pub(crate) fn s10_connections_that_churn_leave_nothing_behind<W: World>(seed: u64) {
    let config = DriverConfig {
        sockets_max: 40,
        receive_memory_bytes: 16 << 10,
        receive_buffer_bytes: 2 << 10,
        ..DriverConfig::DEFAULT
    };
    let mut bed = Bed::<W>::with(seed, config);
    let mut chance = Chance::new(seed);
    let mut open = Vec::new();
    for round in 0..400 {
        let (socket, mut client) = bed.pair();
        let receive = bed.receive(socket);
        client.feed(&pattern(round, chance.of(1..5_000)));
        bed.send(socket, &pattern(round, chance.of(1..5_000)));
        let client = match chance.of(0..4) {
            0 => {
                client.reset();
                None
            }
            1 => {
                client.close();
                None
            }
            _ => Some(client),
        };
        open.push((socket, receive, client));
        if chance.of(0..3) == 0 {
            bed.step();
        }
        while open.len() > 20 {
            let (socket, receive, client) = open.remove(chance.of(0..open.len()));
            let close = bed.close(socket);
            assert_eq!(bed.end(close), CLOSED);
            assert!(bed.end_of(receive).is_some());
            drop(client);
        }
    }
    for (socket, ..) in open {
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
    }
    assert_eq!((bed.driver().sockets(), bed.driver().leases_out()), (1, 0));
    assert_eq!(bed.operations_in_flight(), 1);
}
