//! The game over real sockets, on the driver that is taken here.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyport::Running;

use super::*;

/// A client that fails instead of hanging.
struct Client {
    peer: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn of(game: &Running) -> Self {
        let peer = TcpStream::connect(game.address(0).unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { peer, buffer: Vec::new() }
    }

    fn tells(&mut self, kind: u16, body: &[u8]) {
        let size = u16::try_from(body.len() + 4).unwrap();
        self.peer.write_all(&[&size.to_le_bytes(), &kind.to_le_bytes(), body].concat()).unwrap();
    }

    fn asks(&mut self, message: &impl Message) {
        let Frame { kind, body } = message.frame_in(&mut self.buffer);
        let body = body.to_vec();
        self.tells(kind, &body);
    }

    /// The body of the next message, which must be of this kind.
    fn hears<M: Message>(&mut self) -> M::Of<'_> {
        let mut header = [0; 4];
        self.peer.read_exact(&mut header).unwrap();
        let [size, _, kind, _] = header;
        assert_eq!(u16::from(kind), M::KIND);
        self.buffer.resize(usize::from(size) - 4, 0);
        self.peer.read_exact(&mut self.buffer).unwrap();
        M::decode(&self.buffer).unwrap()
    }

    /// True if the server has ended the session and said nothing before.
    fn is_thrown_out(&mut self) -> bool {
        match self.peer.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn start() -> Running {
    game("127.0.0.1:0").unwrap().start().unwrap()
}

#[test]
fn each_request_has_its_answer() {
    let game = start();
    let mut ann = Client::of(&game);
    ann.asks(&Login("ann"));
    assert_eq!(ann.hears::<Welcome>().0, 1);
    ann.asks(&Ping(u64::MAX - 1));
    ann.asks(&Sum(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]));
    ann.asks(&Sum(&[]));
    assert_eq!(ann.hears::<Ping>().0, u64::MAX - 1);
    assert_eq!(ann.hears::<Total>().0, 1 << 32);
    assert_eq!(ann.hears::<Total>().0, 0);
    game.stop().unwrap();
}

#[test]
fn a_request_that_nobody_knows_is_answered_too() {
    let game = start();
    let mut ann = Client::of(&game);
    for kind in [0, 7, u16::MAX] {
        ann.tells(kind, b"what is that");
        assert_eq!(ann.hears::<Unknown>().0, kind);
    }
    ann.asks(&Ping(5));
    assert_eq!(ann.hears::<Ping>().0, 5, "the session goes on");
    game.stop().unwrap();
}

#[test]
fn a_body_that_is_none_ends_the_session() {
    for (kind, body) in
        [(Login::KIND, &b"\xff"[..]), (Login::KIND, b""), (Ping::KIND, b"1"), (Sum::KIND, b"123")]
    {
        let game = start();
        let mut client = Client::of(&game);
        client.tells(kind, body);
        assert!(client.is_thrown_out(), "{kind} {body:?}");
        let counters = loop {
            let counters = game.counters(0);
            if counters.closed_total() == 1 {
                break counters;
            }
            std::thread::yield_now();
        };
        assert_eq!(counters.closed_for(CloseReason::MalformedFrame), 1);
        game.stop().unwrap();
    }
}

#[test]
fn who_has_no_name_adds_nothing() {
    let game = start();
    let mut client = Client::of(&game);
    client.asks(&Sum(&[1, 0, 0, 0]));
    assert!(client.is_thrown_out());
    game.stop().unwrap();
}
