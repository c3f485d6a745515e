//! A client of a feed that must not miss anything: it connects again whenever the connection is lost, and asks for what
//! came meanwhile.
//!
//! The feed is in lines: `NUMBER TEXT`, each number one more than the last. Who connects says `from NUMBER` first, the
//! last one that it has.
//!
//! ```text
//! cargo run --release --example feed_client -- 127.0.0.1:7012 127.0.0.1:7013
//! ```

use std::{collections::HashMap, time::Duration};

use anyport::{Backoff, ConnectFailure, Reconnect, prelude::*};

/// What is known outlives every connection: it is the handler's, by the number of the connection.
struct Feed<F> {
    last: HashMap<usize, u64>,
    /// What is done with a message.
    take: F,
}

impl<F: FnMut(usize, u64, &str) + Send + 'static> Handler for Feed<F> {
    type State = ();
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let connection = session.connection_index().expect("it is of a client");
        let last = self.last.get(&connection).copied().unwrap_or(0);
        session.send(format!("from {last}").as_bytes());
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let connection = session.connection_index().expect("it is of a client");
        let line = String::from_utf8_lossy(&frame);
        let message =
            line.split_once(' ').and_then(|(number, text)| Some((number.parse::<u64>().ok()?, text)));
        let Some((number, text)) = message else {
            // Whatever that is, it is not the feed: later, perhaps.
            session.set_reconnect(Reconnect::After(Duration::from_mins(1)));
            return session.kick(1);
        };
        let last = self.last.entry(connection).or_default();
        if number > *last {
            *last = number;
            (self.take)(connection, number, text);
        }
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        let ConnectFailure { to, fault, attempt, next, .. } = failure;
        eprintln!("attempt {attempt} to reach {to} failed: {fault}; again in {:?}", next.unwrap_or_default());
        Reconnect::AsConfigured
    }
}

/// One connection, to any of the addresses.
fn feed<F: FnMut(usize, u64, &str) + Send + 'static>(
    addresses: Vec<String>,
    take: impl Fn() -> F + Send + Sync + 'static,
) -> anyport::Result<Engine> {
    let limits = Limits { idle_timeout: Some(Duration::from_secs(30)), ..Limits::default() };
    let client = Client::to_any(addresses, Lines::default()).reconnect(Backoff::default()).limits(limits);
    Engine::new()?.shards(1)?.connect(client, move |_shard| Feed { last: HashMap::new(), take: take() })
}

fn main() -> anyport::Result<()> {
    let addresses: Vec<_> = std::env::args().skip(1).collect();
    feed(addresses, || |_, number: u64, text: &str| println!("{number}: {text}"))?.run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        sync::mpsc::channel,
    };

    use super::*;

    /// The next connection of the client, and what it has.
    fn accept(listener: &TcpListener) -> (TcpStream, String) {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (stream, line)
    }

    #[test]
    fn nothing_is_missed_and_nothing_is_told_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (tell, told) = channel();
        let addresses = vec![listener.local_addr().unwrap().to_string(), free.to_string()];
        let engine = feed(addresses, move || {
            let tell = tell.clone();
            move |_, number: u64, text: &str| tell.send((number, text.to_owned())).unwrap()
        });
        let running = engine.unwrap().start().unwrap();
        let (mut server, asked) = accept(&listener);
        assert_eq!(asked, "from 0\n");
        server.write_all(b"1 one\n2 two\n").unwrap();
        let next = || told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((next(), next()), ((1, "one".to_owned()), (2, "two".to_owned())));
        // It is lost; the client comes back, past an address at which nobody is, and asks for the rest.
        drop(server);
        let (mut server, asked) = accept(&listener);
        assert_eq!(asked, "from 2\n");
        server.write_all(b"2 two\n3 three\n").unwrap();
        assert_eq!(next(), (3, "three".to_owned()));
        running.stop().unwrap();
    }
}
