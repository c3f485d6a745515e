//! A chat in lines that throws out whoever says no name in time, and its tests: on a simulated network, in virtual
//! time, in any weather (`tests.rs`). docs/testing.md goes through them.
//!
//! ```text
//! cargo run --release --example tested_chat
//! cargo test -p anyport --example tested_chat
//! ```

use std::time::{Duration, Instant};

use anyport::{SendMarks, prelude::*};

#[cfg(test)]
mod tests;

/// Who has said no name for this long is thrown out, at the next look.
const LOGIN_MAX: Duration = Duration::from_secs(10);
/// How often the shard looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK: TimerKey = TimerKey(0);
/// The number of the kick.
const NO_NAME: u16 = 1;

/// One shard, so that all sessions meet in one place.
struct Chat;

/// What is kept of a session.
#[derive(Default)]
struct Guest {
    opened: Option<Instant>,
    /// Empty until it has said one.
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

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        shard.set_timer(LOOK, LOOK_EVERY);
    }

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.state().opened = Some(session.shard().now());
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

    fn on_timer(&mut self, shard: &mut Shard<Self>, _look: TimerKey) {
        let now = shard.now();
        shard.for_each(|guest| {
            let Guest { opened, name } = guest.state();
            let waits = opened.map_or(Duration::ZERO, |opened| now - opened);
            if name.is_empty() && waits >= LOGIN_MAX {
                guest.kick(NO_NAME);
            }
        });
        shard.set_timer(LOOK, LOOK_EVERY);
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        let name = std::mem::take(&mut session.state().name);
        if !name.is_empty() {
            Self::tell_all(&mut session.shard(), &format!("* {name} has gone"));
        }
    }
}

/// The chat on an address: what `main` runs, and the tests.
fn chat(address: &str) -> anyport::Result<Engine> {
    let send = SendMarks { high_water_bytes: 8 << 10, low_water_bytes: 4 << 10, queue_max_bytes: 32 << 10 };
    let server = Server::bind(address, Lines::default()).limits(Limits { send, ..Limits::default() });
    Engine::new()?.shards(1)?.serve(server, |_shard| Chat)
}

fn main() -> anyport::Result<()> {
    chat("0.0.0.0:7002")?.run()
}
