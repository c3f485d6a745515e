//! One world on one thread: everybody in it is in one map, without a lock, while every processor does I/O.
//!
//! ```text
//! cargo run --release --example world
//! nc 127.0.0.1 7005
//! ```
//!
//! `go 3 -1` moves you by that much, and everybody within sight reads it; `who` says who is there. The handler has
//! nothing in it that tells where it runs: take `placement` away, and each shard is a world of its own.

use std::collections::BTreeMap;

use anyport::{Placement, prelude::*};

/// As far as one sees, in steps.
const SIGHT: i32 = 10;

/// The world: one handler has it, because there is one logic thread.
#[derive(Default)]
struct World {
    positions: BTreeMap<SessionId, (i32, i32)>,
    born: u32,
}

impl World {
    /// Tells everybody who sees this place.
    fn tell(&self, session: &mut Session<Self>, (x, y): (i32, i32), text: &str) {
        let sees = |at: &(i32, i32)| at.0.abs_diff(x) <= SIGHT as u32 && at.1.abs_diff(y) <= SIGHT as u32;
        let mut shard = session.shard();
        for (id, _) in self.positions.iter().filter(|(_, at)| sees(at)) {
            if let Some(mut neighbour) = shard.session(*id) {
                neighbour.send(text.as_bytes());
            }
        }
    }

    fn go(&mut self, session: &mut Session<Self>, by: (i32, i32)) {
        let (id, number) = (session.id(), *session.state());
        let at = self.positions.entry(id).or_default();
        *at = (at.0.saturating_add(by.0), at.1.saturating_add(by.1));
        let (x, y) = *at;
        self.tell(session, (x, y), &format!("{number} is at {x} {y}"));
    }
}

impl Handler for World {
    /// The number of who came.
    type State = u32;
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.born += 1;
        *session.state() = self.born;
        self.go(session, (0, 0));
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = String::from_utf8_lossy(&frame);
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["go", x, y] => match (x.parse(), y.parse()) {
                (Ok(x), Ok(y)) => self.go(session, (x, y)),
                _ => drop(session.send(b"? go X Y, in steps")),
            },
            ["who"] => drop(session.send(format!("{} are here", self.positions.len()).as_bytes())),
            _ => drop(session.send(b"? go X Y, or who")),
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        let Some(at) = self.positions.remove(&session.id()) else { return };
        let text = format!("{} has gone", *session.state());
        self.tell(session, at, &text);
    }
}

fn server(address: &str) -> Server<Lines> {
    Server::bind(address, Lines::new(256)).placement(Placement::Logic { threads: 1 })
}

fn main() -> anyport::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7005".to_owned());
    Engine::new()?.serve(server(&address), |_| World::default())?.run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpStream,
    };

    fn line(from: &mut BufReader<TcpStream>) -> String {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn all_are_in_one_world_whichever_shard_has_their_connection() {
        let engine = Engine::new().unwrap().shards(4).unwrap();
        let running = engine.serve(server("127.0.0.1:0"), |_| World::default()).unwrap().start().unwrap();
        let address = running.address(0).unwrap();
        let connect = |number: usize| {
            let mut peer = BufReader::new(TcpStream::connect(address).unwrap());
            peer.get_ref().set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            assert_eq!(line(&mut peer), format!("{number} is at 0 0\n"));
            peer
        };
        let mut peers: Vec<_> = (1..=16).map(connect).collect();
        peers[0].get_mut().write_all(b"go 3 -1\n").unwrap();
        for (at, peer) in peers.iter_mut().enumerate() {
            // Those who came after it are seen first.
            for number in at + 2..=16 {
                assert_eq!(line(peer), format!("{number} is at 0 0\n"));
            }
            assert_eq!(line(peer), "1 is at 3 -1\n");
        }
        peers[15].get_mut().write_all(b"go 100 0\nwho\n").unwrap();
        assert_eq!(
            (line(&mut peers[15]), line(&mut peers[15])),
            ("16 is at 100 0\n".into(), "16 are here\n".into())
        );
        drop(peers.pop());
        peers[0].get_mut().write_all(b"jump\n").unwrap();
        assert_eq!(line(&mut peers[0]), "? go X Y, or who\n", "nobody in sight went");
        running.stop().unwrap();
    }
}
