//! A server for everybody, and a console for whoever may write to a file: two services of one engine, one of them at a
//! Unix socket. The file's permissions are the console's password.
//!
//! ```text
//! cargo run --release --example unix_socket
//! nc 127.0.0.1 7014                     # everybody
//! nc -U /tmp/anyport-console.sock       # you: `count`, `say TEXT`, `stop`
//! ```

use std::sync::{Arc, OnceLock};

use anyport::{Remote, prelude::*};

/// Echoes.
struct Public;

impl Handler for Public {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send(&frame);
    }
}

/// Takes orders.
struct Console {
    public: Remote<Public>,
    console: Arc<OnceLock<Remote<Console>>>,
}

impl Console {
    /// Asks each shard how many sessions it has; the answers come as they are found.
    fn count(&self, session: &mut Session<Self>) {
        for shard in 0..self.public.shards() {
            let (asker, console) = (session.id(), Arc::clone(&self.console));
            let _ = self.public.post_to_shard(shard, move |_, public| {
                let line = format!("shard {shard}: {} sessions", public.sessions());
                let console = console.get().expect("set before the engine starts");
                let _ = console.post(asker, move |_, session| {
                    session.send(line.as_bytes());
                });
            });
        }
    }

    /// Says something to every session of the other service.
    fn say(&self, text: &[u8]) {
        for shard in 0..self.public.shards() {
            let text = text.to_vec();
            let _ = self.public.post_to_shard(shard, move |_, public| {
                public.for_each(|session| {
                    session.send(&text);
                });
            });
        }
    }
}

impl Handler for Console {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        match frame.body {
            b"count" => self.count(session),
            b"stop" => session.shard().stop_engine(),
            body => match body.strip_prefix(b"say ") {
                Some(text) => self.say(text),
                None => {
                    session.send(b"count, say TEXT, or stop");
                }
            },
        }
    }
}

fn engine(public: &str, console: &str) -> anyport::Result<Engine> {
    let mut engine = Engine::new()?;
    let public = engine.add_server(Server::bind(public, Lines::default()), |_shard| Public)?;
    let myself = Arc::<OnceLock<_>>::default();
    // The owner may read and write, nobody else anything.
    let console = Server::bind(console, Lines::default()).unix_mode(0o600);
    let of_handlers = Arc::clone(&myself);
    let remote = engine.add_server(console, move |_shard| Console {
        public: public.clone(),
        console: Arc::clone(&of_handlers),
    })?;
    let _ = myself.set(remote);
    Ok(engine)
}

fn main() -> anyport::Result<()> {
    engine("0.0.0.0:7014", "unix:/tmp/anyport-console.sock")?.run()
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpStream,
        os::unix::net::UnixStream,
        time::Duration,
    };

    use super::*;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

    #[test]
    fn the_console_counts_speaks_and_stops() {
        let path = std::env::temp_dir().join(format!("anyport-console-{}.sock", std::process::id()));
        let engine = engine("127.0.0.1:0", &format!("unix:{}", path.display())).unwrap();
        let running = engine.start().unwrap();
        let guest = TcpStream::connect(running.address(0).unwrap()).unwrap();
        guest.set_read_timeout(PATIENCE).unwrap();
        let mut guest = BufReader::new(guest);
        let mut line = String::new();
        guest.get_mut().write_all(b"hello\n").unwrap();
        guest.read_line(&mut line).unwrap();
        assert_eq!(line, "hello\n");
        let console = UnixStream::connect(&path).unwrap();
        console.set_read_timeout(PATIENCE).unwrap();
        let mut console = BufReader::new(console);
        console.get_mut().write_all(b"count\n").unwrap();
        let mut sessions = 0;
        for _ in 0..running.shards() {
            line.clear();
            console.read_line(&mut line).unwrap();
            let words: Vec<_> = line.split(' ').collect();
            sessions += words[2].parse::<usize>().unwrap();
        }
        assert_eq!(sessions, 1);
        console.get_mut().write_all(b"say good night\n").unwrap();
        line.clear();
        guest.read_line(&mut line).unwrap();
        assert_eq!(line, "good night\n");
        console.get_mut().write_all(b"stop\n").unwrap();
        drop(console);
        drop(guest);
        running.join().unwrap();
        assert!(!path.exists());
    }
}
