//! Requests and responses with types: size and kind on the wire, a method for each kind in the program.
//!
//! ```text
//! cargo run --release --example request_response
//! cargo test -p anyport --example request_response
//! ```

use anyport::{Message, MessageError, Router, prelude::*};

/// The first request: who it is. Borrows the name from the receive buffer.
struct Login<'a>(&'a str);
/// The answer: how many requests this shard has had.
struct Welcome(u64);
/// Comes back as it is.
struct Ping(u64);
/// Some numbers to add, as they lie in the receive buffer.
struct Sum<'a>(&'a [u8]);
/// Their sum.
struct Total(u64);
/// The answer to a request that nobody knows.
struct Unknown(u16);

impl Message for Login<'_> {
    const KIND: u16 = 1;
    type Of<'a> = Login<'a>;

    fn decode(body: &[u8]) -> Result<Login<'_>, MessageError> {
        match str::from_utf8(body)? {
            "" => Err(MessageError("nobody is called nothing")),
            name => Ok(Login(name)),
        }
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
}

impl Message for Sum<'_> {
    const KIND: u16 = 4;
    type Of<'a> = Sum<'a>;

    fn decode(body: &[u8]) -> Result<Sum<'_>, MessageError> {
        if body.len().is_multiple_of(4) {
            Ok(Sum(body))
        } else {
            Err(MessageError("numbers have four bytes"))
        }
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}

/// Messages that are one number.
macro_rules! numbers {
    ($($name:ident($number:ty) = $kind:literal,)*) => {
        $(impl Message for $name {
            const KIND: u16 = $kind;
            type Of<'a> = Self;

            fn decode(body: &[u8]) -> Result<Self, MessageError> {
                Ok(Self(<$number>::from_le_bytes(body.try_into()?)))
            }
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0.to_le_bytes());
            }
        })*
    };
}

numbers! { Welcome(u64) = 2, Ping(u64) = 3, Total(u64) = 5, Unknown(u16) = 6, }

struct Game {
    routes: &'static Router<Self>,
    requests: u64,
}

/// What is kept of a session: its name, once it has said it.
#[derive(Default)]
struct Player {
    name: String,
}

/// The number of the kick for whoever asks before saying a name.
const NOT_LOGGED_IN: u16 = 1;

impl Game {
    fn routes() -> &'static Router<Self> {
        let known = Router::new().on::<Login>(Self::login).on::<Ping>(Self::ping).on::<Sum>(Self::sum);
        known.unknown(Self::unknown).leak()
    }

    fn login(&mut self, session: &mut Session<Self>, Login(name): Login) {
        self.requests += 1;
        name.clone_into(&mut session.state().name);
        session.send_message(&Welcome(self.requests));
    }

    fn ping(&mut self, session: &mut Session<Self>, Ping(number): Ping) {
        self.requests += 1;
        session.send_message(&Ping(number));
    }

    fn sum(&mut self, session: &mut Session<Self>, Sum(numbers): Sum) {
        self.requests += 1;
        if session.state().name.is_empty() {
            return session.kick(NOT_LOGGED_IN);
        }
        let numbers = numbers.as_chunks().0.iter().map(|number| u64::from(u32::from_le_bytes(*number)));
        session.send_message(&Total(numbers.sum()));
    }

    fn unknown(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.requests += 1;
        session.send_message(&Unknown(frame.kind));
    }
}

impl Handler for Game {
    type State = Player;
    type Codec = SizeKind;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.routes.dispatch(self, session, frame);
    }
}

fn game(address: &str) -> anyport::Result<Engine> {
    let routes = Game::routes();
    Engine::new()?
        .serve(Server::bind(address, SizeKind::default()), move |_shard| Game { routes, requests: 0 })
}

fn main() -> anyport::Result<()> {
    game("0.0.0.0:7004")?.run()
}

#[cfg(test)]
#[path = "request_response/tests.rs"]
mod tests;
