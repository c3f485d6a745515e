//! A server that writes down what is asked of it before it answers, and does not answer what it cannot write down.
//!
//! ```text
//! cargo run --release --example audit_log
//! cargo test -p anyport --example audit_log
//! ```
//!
//! The trail is appended to without waiting for the disk: what a turn of the shard brings goes there together. An order
//! is confirmed once its line is on the medium, so that a confirmed one outlives a loss of power.

use anyport::{AppendFile, Appended, FileEvent, FileId, prelude::*};

/// The trail, in files of 64 MiB, the last eight of them.
fn trail() -> AppendFile {
    AppendFile::at("audit.log").rotate_at_bytes(64 << 20).keep(7).private()
}

#[derive(Default)]
struct Orders {
    trail: Option<FileId>,
    /// Who waits for the sync under way, and who for the next one.
    waiting: Vec<SessionId>,
    waiting_for_next: Vec<SessionId>,
}

impl Handler for Orders {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        self.trail = shard.open_file(&trail());
    }

    fn on_frame(&mut self, session: &mut Session<Self>, order: Frame) {
        let line = format!("{} {}\n", session.id(), String::from_utf8_lossy(&order));
        let written = self.trail.map(|trail| session.append(trail, line.as_bytes()));
        if written != Some(Appended::Queued) {
            session.send(b"not now: your order cannot be written down");
            return;
        }
        self.waiting_for_next.push(session.id());
        if self.waiting.is_empty() {
            self.sync(&mut session.shard());
        }
    }

    fn on_file(&mut self, shard: &mut Shard<Self>, _trail: FileId, event: FileEvent) {
        match event {
            FileEvent::Synced => {
                for id in std::mem::take(&mut self.waiting) {
                    if let Some(mut session) = shard.session(id) {
                        session.send(b"confirmed");
                    }
                }
                if !self.waiting_for_next.is_empty() {
                    self.sync(shard);
                }
            }
            // Told once. Orders are refused from now on, until somebody makes room and starts this again.
            FileEvent::Failed { .. } => {
                let all = [std::mem::take(&mut self.waiting), std::mem::take(&mut self.waiting_for_next)];
                for id in all.concat() {
                    if let Some(mut session) = shard.session(id) {
                        session.send(b"lost: your order may not be written down");
                    }
                }
            }
            _ => {}
        }
    }
}

impl Orders {
    /// One sync for all that came while the last one was under way.
    fn sync(&mut self, shard: &mut Shard<Self>) {
        if let Some(trail) = self.trail {
            self.waiting = std::mem::take(&mut self.waiting_for_next);
            shard.sync_file(trail);
        }
    }
}

/// One shard: one trail.
fn server(address: &str) -> anyport::Result<Engine> {
    Engine::new()?.shards(1)?.serve(Server::bind(address, Lines::default()), |_shard| Orders::default())
}

fn main() -> anyport::Result<()> {
    println!("orders at 127.0.0.1:7008, one a line; the trail is audit.log");
    server("127.0.0.1:7008")?.run()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyport::sim::{Held, SimEngine, SimNet};

    use super::server;

    const SOON: Duration = Duration::from_secs(1);

    fn orders_on(net: &SimNet) -> SimEngine {
        server("10.0.0.1:7008").unwrap().simulate(net).unwrap()
    }

    #[test]
    fn what_is_confirmed_is_on_the_medium() {
        let net = SimNet::new(1);
        let mut engine = orders_on(&net);
        let mut peers: Vec<_> = (0..3).map(|_| net.connect(engine.address(0).unwrap()).unwrap()).collect();
        for round in 0..20 {
            for (at, peer) in peers.iter_mut().enumerate() {
                peer.write(format!("{round} of {at}\n").as_bytes());
            }
            for (at, peer) in peers.iter_mut().enumerate() {
                assert_eq!(engine.read_line(peer, SOON), "confirmed\n");
                let trail = String::from_utf8(net.file_synced("audit.log").unwrap()).unwrap();
                assert!(trail.lines().any(|line| line.ends_with(&format!(" {round} of {at}"))));
            }
        }
        engine.check().unwrap();
        engine.stop().unwrap();
        assert_eq!(engine.held(), Held::default());
        assert_eq!(net.file("audit.log").unwrap().split(|byte| *byte == b'\n').count(), 60 + 1);
    }

    #[test]
    fn without_room_no_order_is_confirmed_and_everyone_is_answered() {
        let net = SimNet::new(2);
        net.set_disk_room(Some(40));
        let mut engine = orders_on(&net);
        let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
        let answers: Vec<_> = (0..6)
            .map(|at| {
                engine.write(&mut peer, format!("order {at}\n").as_bytes(), SOON);
                engine.read_line(&mut peer, SOON)
            })
            .collect();
        let confirmed = answers.iter().take_while(|answer| *answer == "confirmed\n").count();
        assert!(confirmed == 2 && answers[2].starts_with("lost: "), "{answers:?}");
        assert!(answers[3..].iter().all(|answer| answer.starts_with("not now: ")), "{answers:?}");
        engine.stop().unwrap();
    }
}
