//! A proxy: for each connection that is accepted one is opened to the target, and bytes go both ways.
//!
//! The two ends of a pair live on one shard, and tell each other what happens by posts: no lock, and what is posted runs
//! in the order in which it was. Who reads slowly slows down who writes, at the other end.
//!
//! ```text
//! cargo run --release --example proxy -- 127.0.0.1:7000
//! nc 127.0.0.1 7011
//! ```

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use anyport::{ConnectFailure, Reconnect, Remote, prelude::*};

/// The side that is connected to. A session's state is the other end, once that is open.
struct Front {
    back: Remote<Back>,
}

/// The side that connects. A session's state is the other end, for which it was opened.
struct Back {
    front: Arc<OnceLock<Remote<Front>>>,
    /// By the session in front: that behind it.
    open: HashMap<SessionId, SessionId>,
    /// Sessions in front that went before there was one behind them.
    gone: HashSet<SessionId>,
}

impl Handler for Front {
    type State = Option<SessionId>;
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        // Nothing is read before there is somebody to give it to.
        session.pause();
        let (id, shard) = (session.id(), session.shard().index());
        if self.back.connect_on(shard, None, Some(id)).is_err() {
            session.drain();
        }
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let bytes = frame.to_vec();
        let back = session.state().expect("reading begins when the other end is open");
        let posted = self.back.post(back, move |_, other| {
            other.send(&bytes);
        });
        if posted.is_err() {
            session.drain();
        }
    }

    fn on_pressure(&mut self, session: &mut Session<Self>, pressure: Pressure) {
        if let Some(back) = *session.state() {
            let _ = self.back.post(back, move |_, other| slow_down(other, pressure));
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        let (id, shard) = (session.id(), session.shard().index());
        let _ = self.back.post_to_shard(shard, move |back, shard| back.front_has_gone(shard, id));
    }
}

impl Back {
    fn front(&self) -> &Remote<Front> {
        self.front.get().expect("set before the engine starts")
    }

    fn front_has_gone(&mut self, shard: &mut Shard<Self>, front: SessionId) {
        match self.open.remove(&front) {
            Some(back) => {
                if let Some(mut session) = shard.session(back) {
                    session.drain();
                }
            }
            None => {
                self.gone.insert(front);
            }
        }
    }
}

impl Handler for Back {
    type State = Option<SessionId>;
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let (id, front) = (session.id(), session.state().expect("it was opened for somebody"));
        if self.gone.remove(&front) {
            return session.drain();
        }
        self.open.insert(front, id);
        let _ = self.front().post(front, move |_, other| {
            *other.state() = Some(id);
            other.resume();
        });
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let bytes = frame.to_vec();
        let front = session.state().expect("it was opened for somebody");
        let posted = self.front().post(front, move |_, other| {
            other.send(&bytes);
        });
        if posted.is_err() {
            session.drain();
        }
    }

    fn on_pressure(&mut self, session: &mut Session<Self>, pressure: Pressure) {
        let front = session.state().expect("it was opened for somebody");
        let _ = self.front().post(front, move |_, other| slow_down(other, pressure));
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        let front = session.state().expect("it was opened for somebody");
        // If it is not there, the front went first.
        if self.open.remove(&front).is_some() {
            let _ = self.front().post(front, |_, other| other.drain());
        }
    }

    fn on_connect_failed(&mut self, shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        let front = shard.connecting_state(failure.connection).and_then(|front| *front);
        if let Some(front) = front.filter(|front| !self.gone.remove(front)) {
            let _ = self.front().post(front, |_, other| other.drain());
        }
        Reconnect::Never
    }
}

/// One end's queue is too full, or is not any more: the other end is read from accordingly.
fn slow_down<H: Handler>(other: &mut Session<H>, pressure: Pressure) {
    match pressure {
        Pressure::High => other.pause(),
        Pressure::Relieved => other.resume(),
    }
}

fn proxy(address: &str, target: &str) -> anyport::Result<Engine> {
    let front = Arc::<OnceLock<Remote<Front>>>::default();
    let mut engine = Engine::new()?;
    let of_back = Arc::clone(&front);
    let back = engine.add_client(Client::to(target, Raw).manual(), move |_shard| Back {
        front: Arc::clone(&of_back),
        open: HashMap::new(),
        gone: HashSet::new(),
    })?;
    let server = engine.add_server(Server::bind(address, Raw), move |_shard| Front { back: back.clone() })?;
    let _ = front.set(server);
    Ok(engine)
}

fn main() -> anyport::Result<()> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    proxy("0.0.0.0:7011", &target)?.run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
        time::Duration,
    };

    use super::*;

    fn patient(stream: TcpStream) -> TcpStream {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    #[test]
    fn bytes_go_both_ways_and_the_ends_end_together() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let engine = proxy("127.0.0.1:0", &target.local_addr().unwrap().to_string()).unwrap();
        let running = engine.start().unwrap();
        let address = running.address(1).unwrap();
        for round in 0..10 {
            let mut client = patient(TcpStream::connect(address).unwrap());
            // Before there is another end.
            client.write_all(b"early ").unwrap();
            let mut server = patient(target.accept().unwrap().0);
            client.write_all(b"and late").unwrap();
            let mut got = [0; 14];
            server.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"early and late");
            server.write_all(b"answer").unwrap();
            let mut got = [0; 6];
            client.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"answer");
            let (mut goes, mut stays) = if round % 2 == 0 { (client, server) } else { (server, client) };
            goes.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stays.read(&mut [0]).unwrap(), 0);
            drop(stays);
            assert_eq!(goes.read(&mut [0]).unwrap(), 0);
        }
        running.stop().unwrap();
    }

    #[test]
    fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
        const BYTES: usize = 30_000_000;
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let engine = proxy("127.0.0.1:0", &target.local_addr().unwrap().to_string()).unwrap();
        let running = engine.start().unwrap();
        let mut client = TcpStream::connect(running.address(1).unwrap()).unwrap();
        let mut server = patient(target.accept().unwrap().0);
        let writer = std::thread::spawn(move || {
            let piece: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
            for _ in 0..BYTES / piece.len() {
                client.write_all(&piece).unwrap();
            }
        });
        let (mut got, mut buffer) = (0, vec![0; 100_000]);
        while got < BYTES {
            let most = buffer.len() - got % buffer.len();
            let count = server.read(&mut buffer[..most]).unwrap();
            assert!(count > 0, "the stream ended after {got} bytes");
            for (at, byte) in buffer[..count].iter().enumerate() {
                assert_eq!(*byte, ((got + at) % 100_000 % 251) as u8);
            }
            got += count;
        }
        writer.join().unwrap();
        running.stop().unwrap();
    }

    #[test]
    fn where_nobody_listens_the_connection_ends() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let running = proxy("127.0.0.1:0", &free.to_string()).unwrap().start().unwrap();
        let mut client = patient(TcpStream::connect(running.address(1).unwrap()).unwrap());
        match client.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        running.stop().unwrap();
    }
}
