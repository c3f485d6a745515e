//! A chat in lines: what one says, all others read. The first line is the name.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7001
//! ```

use anyport::prelude::*;

/// One shard, so that all sessions meet in one place.
struct Chat;

/// What is kept of a session: its name, once it has one.
#[derive(Default)]
struct Guest {
    name: String,
}

impl Chat {
    fn tell_all(shard: &mut Shard<Self>, line: &str) {
        shard.for_each(|guest| {
            if !guest.state().name.is_empty() {
                guest.send(line.as_bytes());
            }
        });
    }
}

impl Handler for Chat {
    type State = Guest;
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.send(b"your name?");
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let said = String::from_utf8_lossy(&frame).trim().to_owned();
        if said.is_empty() {
            return;
        }
        if session.state().name.is_empty() {
            session.state().name.clone_from(&said);
            return Self::tell_all(&mut session.shard(), &format!("* {said} is here"));
        }
        let line = format!("{}: {said}", session.state().name);
        Self::tell_all(&mut session.shard(), &line);
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        let name = std::mem::take(&mut session.state().name);
        if !name.is_empty() {
            Self::tell_all(&mut session.shard(), &format!("* {name} has gone"));
        }
    }
}

fn main() -> anyport::Result<()> {
    Engine::new()?.shards(1)?.serve(Server::bind("0.0.0.0:7001", Lines::default()), |_shard| Chat)?.run()
}
