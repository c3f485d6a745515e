//! The smallest server: every byte goes back to where it came from.
//!
//! ```text
//! cargo run --release --example echo
//! nc 127.0.0.1 7000
//! ```

use anyport::prelude::*;

struct Echo;

impl Handler for Echo {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send(&frame);
    }
}

fn main() -> anyport::Result<()> {
    Engine::new()?.serve(Server::bind("0.0.0.0:7000", Raw), |_shard| Echo)?.run()
}
