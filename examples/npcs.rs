//! A small world in lines: creatures walk about by a timer, and whoever is connected sees them. `look` shows all, the
//! name of one stops it or lets it walk on. Whoever says nothing for a while is spoken to.
//!
//! ```text
//! cargo run --release --example npcs
//! nc 127.0.0.1 7006
//! ```

use std::time::Duration;

use anyport::prelude::*;

/// The creatures' clock: one timer for all of them, which neither drifts nor makes up for a stall in a rush.
const WALK: TimerKey = TimerKey(0);
const WALK_EVERY: Duration = Duration::from_millis(500);
/// Of each session; every line moves it.
const BORED: TimerKey = TimerKey(0);
const BORED_AFTER: Duration = Duration::from_secs(20);

struct Creature {
    name: &'static str,
    at: (i32, i32),
    step: (i32, i32),
    walks: bool,
}

/// One shard, so that there is one world.
struct World {
    creatures: Vec<Creature>,
}

impl World {
    const SIZE: i32 = 8;

    fn new() -> Self {
        let creature = |name, step| Creature { name, at: (0, 0), step, walks: true };
        Self { creatures: vec![creature("rat", (1, 0)), creature("owl", (2, 1)), creature("ghost", (0, 3))] }
    }

    fn look(&self) -> String {
        let seen: Vec<_> =
            self.creatures.iter().map(|c| format!("{} {},{}", c.name, c.at.0, c.at.1)).collect();
        seen.join("; ")
    }
}

impl Handler for World {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        shard.set_repeating_timer(WALK, WALK_EVERY);
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, _walk: TimerKey) {
        for creature in self.creatures.iter_mut().filter(|creature| creature.walks) {
            let (at, step) = (&mut creature.at, creature.step);
            *at = ((at.0 + step.0) % Self::SIZE, (at.1 + step.1) % Self::SIZE);
        }
        let seen = self.look();
        shard.for_each(|session| {
            session.send(seen.as_bytes());
        });
    }

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.set_timer(BORED, BORED_AFTER);
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.set_timer(BORED, BORED_AFTER);
        if let Some(creature) = self.creatures.iter_mut().find(|creature| creature.name.as_bytes() == &*frame)
        {
            creature.walks = !creature.walks;
        }
        session.send(self.look().as_bytes());
    }

    fn on_session_timer(&mut self, session: &mut Session<Self>, _bored: TimerKey) {
        session.send(b"the ghost whispers: are you still there?");
    }
}

fn world(address: &str) -> anyport::Result<Engine> {
    Engine::new()?.shards(1)?.serve(Server::bind(address, Lines::default()), |_shard| World::new())
}

fn main() -> anyport::Result<()> {
    world("0.0.0.0:7006")?.run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport::sim::SimNet;

    #[test]
    fn creatures_walk_by_the_clock_and_whoever_is_silent_is_spoken_to() {
        let net = SimNet::new(1);
        let mut engine = world("10.0.0.1:7006").unwrap().simulate(&net).unwrap();
        let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
        assert_eq!(engine.read_line(&mut peer, WALK_EVERY * 2), "rat 1,0; owl 2,1; ghost 0,3\n");
        assert_eq!(engine.ask(&mut peer, b"rat\n", b"\n", WALK_EVERY / 2), b"rat 1,0; owl 2,1; ghost 0,3\n");
        assert_eq!(engine.read_line(&mut peer, WALK_EVERY * 2), "rat 1,0; owl 4,2; ghost 0,6\n");
        // Forty seconds; the rat stands.
        engine.run_for(BORED_AFTER * 2 + WALK_EVERY / 2);
        let mut seen = Vec::new();
        peer.read(&mut seen);
        let seen = String::from_utf8(seen).unwrap();
        assert_eq!(seen.matches("are you still there?").count(), 1, "once for each silence");
        assert_eq!(seen.matches("rat 1,0; owl").count(), 80, "two steps a second");
        engine.stop().unwrap();
    }
}
