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
    /// Sessions in front that are there and wait for theirs.
    asked: HashSet<SessionId>,
}

impl Handler for Front {
    type State = Option<SessionId>;
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        // Nothing is read before there is somebody to give it to.
        session.pause();
        let (id, shard) = (session.id(), session.shard().index());
        // Known there before the connection is. If it is refused, `on_close` takes this back.
        let asked = self.back.post_to_shard(shard, move |back, _| {
            back.asked.insert(id);
        });
        if asked.is_err() || self.back.connect_on(shard, None, Some(id)).is_err() {
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
        // Who is not asked for any more finds that out in `on_open`.
        if !self.asked.remove(&front)
            && let Some(back) = self.open.remove(&front)
            && let Some(mut session) = shard.session(back)
        {
            session.drain();
        }
    }
}

impl Handler for Back {
    type State = Option<SessionId>;
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let (id, front) = (session.id(), session.state().expect("it was opened for somebody"));
        if !self.asked.remove(&front) {
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
        if let Some(front) = front.filter(|front| self.asked.remove(front)) {
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

/// A proxy with so many connections to the target at most, and how to reach both of its sides.
fn proxy(address: &str, target: &str, most: usize) -> anyport::Result<(Engine, Remote<Back>, Remote<Front>)> {
    let front = Arc::<OnceLock<Remote<Front>>>::default();
    let limits = Limits { sessions_max: most, ..Limits::default() };
    let mut engine = Engine::new()?;
    let of_back = Arc::clone(&front);
    let back = engine.add_client(Client::to(target, Raw).manual().limits(limits), move |_shard| Back {
        front: Arc::clone(&of_back),
        open: HashMap::new(),
        asked: HashSet::new(),
    })?;
    let of_front = back.clone();
    let server =
        engine.add_server(Server::bind(address, Raw), move |_shard| Front { back: of_front.clone() })?;
    let _ = front.set(server.clone());
    Ok((engine, back, server))
}

fn main() -> anyport::Result<()> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    proxy("0.0.0.0:7011", &target, Limits::default().sessions_max)?.0.run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    use super::*;

    fn patient(stream: TcpStream) -> TcpStream {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    const MANY: usize = 1_000;

    fn start(target: &TcpListener, most: usize) -> (anyport::Running, Remote<Back>, Remote<Front>) {
        let target = target.local_addr().unwrap().to_string();
        let (engine, back, front) = proxy("127.0.0.1:0", &target, most).unwrap();
        (engine.start().unwrap(), back, front)
    }

    /// Reads the end of a stream on which nothing comes.
    fn ends(client: TcpStream) {
        match patient(client).read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }

    fn sessions<H: Handler>(remote: &Remote<H>) -> usize {
        remote.ask_all(|_, shard| shard.sessions()).wait().unwrap().iter().sum()
    }

    /// When no session is left, nothing is remembered of any.
    fn nothing_is_left(back: &Remote<Back>, front: &Remote<Front>) {
        let patience = Instant::now() + Duration::from_secs(20);
        while sessions(front) + sessions(back) > 0 {
            assert!(Instant::now() < patience, "sessions that do not end");
            std::thread::yield_now();
        }
        // What the sessions posted when they ended was posted before this.
        let left = back.ask_all(|back, _| back.asked.len() + back.open.len()).wait().unwrap();
        assert_eq!(left.iter().sum::<usize>(), 0);
    }

    #[test]
    fn bytes_go_both_ways_and_the_ends_end_together() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let (running, ..) = start(&target, MANY);
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
        let (running, ..) = start(&target, MANY);
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
        let (engine, back, front) = proxy("127.0.0.1:0", &free.to_string(), MANY).unwrap();
        let running = engine.start().unwrap();
        for _ in 0..20 {
            ends(TcpStream::connect(running.address(1).unwrap()).unwrap());
        }
        nothing_is_left(&back, &front);
        running.stop().unwrap();
    }

    #[test]
    fn nothing_is_left_of_those_whose_target_ends_first() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let (running, back, front) = start(&target, MANY);
        for _ in 0..20 {
            let client = TcpStream::connect(running.address(1).unwrap()).unwrap();
            drop(target.accept().unwrap());
            ends(client);
        }
        nothing_is_left(&back, &front);
        running.stop().unwrap();
    }

    #[test]
    fn nothing_is_left_of_those_for_whom_there_is_no_room() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let (running, back, front) = start(&target, 1);
        let stays = TcpStream::connect(running.address(1).unwrap()).unwrap();
        let behind = target.accept().unwrap();
        for _ in 0..20 {
            ends(TcpStream::connect(running.address(1).unwrap()).unwrap());
        }
        drop((stays, behind));
        nothing_is_left(&back, &front);
        running.stop().unwrap();
    }
}
