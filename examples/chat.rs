//! A chat with rooms, in lines: what one says, all others in the room read. The first line is the name; `/join ROOM`
//! goes to another room.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7001
//! ```
//!
//! A room is a group: its members may be on any shard, and nothing here knows. `anyport serve chat` is a chat with private
//! messages, names that are taken once, and limits (`cli/src/serve/chat`).

use anyport::{Group, prelude::*};

struct Chat;

/// What is kept of a session.
#[derive(Default)]
struct Guest {
    /// Empty until it has said one.
    name: String,
    room: Option<Group>,
}

impl Chat {
    /// Goes to a room, which is made if there is none.
    fn enter(session: &mut Session<Self>, room: &str) {
        Self::leave(session);
        let room = session.shard().group(room);
        session.join(&room);
        session.send(format!("* you are in {}", room.name()).as_bytes());
        session.state().room = Some(room);
        Self::say(session, "* is here");
    }

    fn leave(session: &mut Session<Self>) {
        Self::say(session, "* has gone");
        if let Some(room) = session.state().room.take() {
            session.leave(&room);
        }
    }

    /// Says something to all others in the room.
    fn say(session: &mut Session<Self>, text: &str) {
        let id = session.id();
        let Guest { name, room: Some(room) } = session.state() else { return };
        let (line, room) = (format!("{name}: {text}"), room.clone());
        session.shard().publish_except(&room, id, Frame { kind: 0, body: line.as_bytes() });
    }
}

impl Handler for Chat {
    type State = Guest;
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.send(b"your name?");
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = String::from_utf8_lossy(&frame).trim().to_owned();
        if session.state().name.is_empty() && !line.is_empty() {
            session.state().name = line;
            Self::enter(session, "lobby");
        } else if let Some(room) = line.strip_prefix("/join ") {
            Self::enter(session, room);
        } else if !line.is_empty() {
            Self::say(session, &line);
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        Self::leave(session);
    }
}

fn chat(address: &str) -> anyport::Result<Engine> {
    Engine::new()?.serve(Server::bind(address, Lines::default()), |_shard| Chat)
}

fn main() -> anyport::Result<()> {
    chat("0.0.0.0:7001")?.run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpStream,
        time::Duration,
    };

    use super::*;

    fn says(stream: &BufReader<TcpStream>, line: &str) {
        stream.get_ref().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    #[track_caller]
    fn hears(stream: &mut BufReader<TcpStream>, expected: &str) {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected);
    }

    #[test]
    fn rooms_are_apart_on_any_shard() {
        let running = chat("127.0.0.1:0").unwrap().start().unwrap();
        let address = running.address(0).unwrap();
        let named = |name: &str| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
            let mut stream = BufReader::new(stream);
            hears(&mut stream, "your name?");
            says(&stream, name);
            hears(&mut stream, "* you are in lobby");
            stream
        };
        let mut ann = named("ann");
        let mut bob = named("bob");
        hears(&mut ann, "bob: * is here");
        says(&ann, "hello");
        hears(&mut bob, "ann: hello");
        says(&bob, "/join garden");
        hears(&mut bob, "* you are in garden");
        hears(&mut ann, "bob: * has gone");
        says(&ann, "for the lobby alone");
        says(&ann, "/join garden");
        hears(&mut bob, "ann: * is here");
        hears(&mut ann, "* you are in garden");
        drop(ann);
        hears(&mut bob, "ann: * has gone");
        drop(bob);
        running.stop().unwrap();
    }
}
