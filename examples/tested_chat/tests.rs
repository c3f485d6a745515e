//! Tests of the chat on a simulated network: no socket, no waiting, and a seed that replays each of them.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyport::{
    CloseReason,
    sim::{Behaviour, Faults, Held, SimEngine, SimNet, SimPeer, each_seed},
};

use super::{LOGIN_MAX, LOOK_EVERY, NO_NAME, chat};

/// Longer than anything takes in good weather. It is virtual: nobody waits for it.
const SOON: Duration = Duration::from_secs(1);

fn chat_on(net: &SimNet) -> (SimEngine, SocketAddr) {
    let engine = chat("10.0.0.1:7002").unwrap().simulate(net).unwrap();
    let address = engine.address(0).unwrap();
    (engine, address)
}

/// Somebody who has said a name, and was let in.
fn member(engine: &mut SimEngine, name: &str) -> SimPeer {
    let mut peer = engine.net().connect(engine.address(0).unwrap()).unwrap();
    assert_eq!(engine.read_line(&mut peer, SOON), "your name?\n");
    engine.write(&mut peer, format!("{name}\n").as_bytes(), SOON);
    assert_eq!(engine.read_line(&mut peer, SOON), format!("* {name} is here\n"));
    peer
}

/// The engine ends in order, and nothing is left behind.
fn stop(mut engine: SimEngine) {
    engine.check().unwrap();
    engine.stop().unwrap();
    assert_eq!(engine.held(), Held::default());
    let counters = engine.counters(0);
    assert_eq!((counters.sessions, counters.closed_total()), (0, counters.accepted));
}

#[test]
fn who_says_no_name_is_thrown_out_after_ten_seconds() {
    let net = SimNet::new(1);
    let (mut engine, address) = chat_on(&net);
    let mut named = member(&mut engine, "ann");
    let mut silent = net.connect(address).unwrap();

    engine.run_for(Duration::from_secs(9));
    assert_eq!(engine.counters(0).sessions, 2);

    assert_eq!(engine.read_to_end(&mut silent, SOON + 2 * LOOK_EVERY), b"your name?\n");
    assert!(net.elapsed() >= LOGIN_MAX);
    assert_eq!(engine.counters(0).closed_for(CloseReason::Kicked(NO_NAME)), 1);

    // Ann stays, a day later too.
    engine.run_for(Duration::from_hours(24));
    assert_eq!(engine.ask(&mut named, b"hello\n", b"\n", SOON), b"ann: hello\n");
    stop(engine);
}

#[test]
fn a_slow_reader_is_closed_and_the_others_miss_nothing() {
    let net = SimNet::new(2);
    let (mut engine, _) = chat_on(&net);
    let (mut ann, mut bob) = (member(&mut engine, "ann"), member(&mut engine, "bob"));
    assert_eq!(engine.read_line(&mut ann, SOON), "* bob is here\n");
    let slow = member(&mut engine, "slow");

    // The network keeps up to 512 KiB for somebody who does not read, and the chat 32 KiB.
    let flood = "x".repeat(1_000);
    let mut gone = [false; 2];
    for peer in [&mut ann, &mut bob] {
        assert_eq!(engine.read_line(peer, SOON), "* slow is here\n");
    }
    for _ in 0..1_000 {
        engine.write(&mut ann, format!("{flood}\n").as_bytes(), SOON);
        for (peer, gone) in [&mut ann, &mut bob].into_iter().zip(&mut gone) {
            let mut line = engine.read_line(peer, SOON);
            if line == "* slow has gone\n" {
                assert!(!std::mem::replace(gone, true), "it went twice");
                line = engine.read_line(peer, SOON);
            }
            assert_eq!(line, format!("ann: {flood}\n"));
        }
    }
    assert_eq!(gone, [true; 2]);
    assert_eq!(engine.counters(0).closed_for(CloseReason::SendQueueFull), 1);
    drop(slow);
    stop(engine);
}

#[test]
fn a_reset_in_the_middle_of_a_line_disturbs_nobody() {
    let net = SimNet::new(3);
    let (mut engine, _) = chat_on(&net);
    let (mut ann, mut bob) = (member(&mut engine, "ann"), member(&mut engine, "bob"));
    assert_eq!(engine.read_line(&mut ann, SOON), "* bob is here\n");

    engine.write(&mut bob, b"whole\nhal", SOON);
    assert_eq!(engine.read_line(&mut ann, SOON), "bob: whole\n");
    // The half line arrives, and stays one.
    assert_eq!(engine.read_line(&mut ann, SOON), "");
    bob.reset();

    // She hears of the end once, and nothing of the half line.
    assert_eq!(engine.read_line(&mut ann, SOON), "* bob has gone\n");
    assert_eq!(engine.ask(&mut ann, b"still here\n", b"\n", SOON), b"ann: still here\n");
    let counters = engine.counters(0);
    assert_eq!((counters.closed_for(CloseReason::PeerReset), counters.closed_total()), (1, 1));
    stop(engine);
}

// ---- in any weather ----

/// A guest in a storm: says its name, then counts, one number a line, and listens to the others.
struct Guest {
    peer: SimPeer,
    name: String,
    /// The next number that it says.
    next: u32,
    /// What is still to be written.
    outbox: Vec<u8>,
    /// What was heard of a line that is not whole yet.
    heard: Vec<u8>,
    /// The last number that was heard of each.
    last_of: HashMap<String, u32>,
}

impl Guest {
    fn new(net: &SimNet, address: SocketAddr, name: &str) -> Self {
        let peer = net.connect(address).unwrap();
        let (outbox, name) = (format!("{name}\n").into_bytes(), name.to_owned());
        Self { peer, name, next: 0, outbox, heard: Vec::new(), last_of: HashMap::new() }
    }

    fn says(&mut self, numbers: u32) {
        for number in self.next..self.next + numbers {
            self.outbox.extend_from_slice(format!("{number}\n").as_bytes());
        }
        self.next += numbers;
    }

    fn writes(&mut self) {
        let written = self.peer.write(&self.outbox);
        self.outbox.drain(..written);
    }

    /// Reads what is there. Panics at a gap: everybody must be heard in order, from the moment one is in until one's
    /// end.
    fn reads(&mut self) {
        self.peer.read(&mut self.heard);
        let whole = self.heard.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let whole: Vec<_> = self.heard.drain(..whole).collect();
        for line in str::from_utf8(&whole).unwrap().lines() {
            let Some((name, number)) = line.split_once(": ") else { continue };
            let number = number.parse().unwrap();
            if let Some(before) = self.last_of.insert(name.to_owned(), number) {
                assert_eq!(number, before + 1, "{} missed something that {name} said", self.name);
            }
        }
    }

    /// True if its connection is over.
    fn has_ended(&self) -> bool {
        self.peer.is_reset() || self.peer.is_end_of_stream()
    }

    /// True if it has heard everything that `name` has said, who has said `numbers` numbers.
    fn has_heard(&self, name: &str, numbers: u32) -> bool {
        self.last_of.get(name).is_some_and(|last| last + 1 == numbers)
    }

    /// True if everything that it said came back to it.
    fn has_heard_itself(&self) -> bool {
        self.has_heard(&self.name, self.next)
    }
}

/// The chat in the weather of a seed; `None` if it cannot even listen in it.
fn chat_in_weather(seed: u64) -> Option<(SimNet, SimEngine, SocketAddr)> {
    let weather = Behaviour::default().with_faults(Faults::drawn(seed));
    let net = SimNet::with_behaviour(seed, weather.with_socket_buffer_bytes(1 << 10..=4 << 10));
    let engine = chat("10.0.0.1:7002").unwrap().simulate(&net).ok()?;
    let address = engine.address(0).unwrap();
    Some((net, engine, address))
}

/// In which everything must have come to rest after a storm. Virtual, too.
const PATIENCE: Duration = Duration::from_mins(10);

#[test]
fn in_any_weather_nobody_misses_a_line() {
    each_seed(0..200, |seed| {
        let Some((net, mut engine, address)) = chat_in_weather(seed) else { return };
        let names = ["ann", "bob", "cat", "dan"];
        let mut guests = names.map(|name| Guest::new(&net, address, name));
        for guest in &mut guests {
            guest.says(20);
        }

        // Anything may happen. What must hold always is looked at all the time.
        for _ in 0..1_000 {
            engine.step();
            guests.iter_mut().for_each(Guest::writes);
            guests.iter_mut().for_each(Guest::reads);
            engine.check().unwrap();
        }

        // The sky clears: whoever is still there is listened to now, within a bounded time.
        net.calm();
        let heard = engine.run_until(PATIENCE, |_| {
            guests.iter_mut().for_each(Guest::writes);
            guests.iter_mut().for_each(Guest::reads);
            guests.iter().all(|guest| guest.has_ended() || guest.has_heard_itself())
        });
        assert!(heard, "somebody was not listened to");

        // And everybody hears whoever comes then.
        let mut eve = Guest::new(&net, address, "eve");
        eve.says(1);
        let heard = engine.run_until(PATIENCE, |_| {
            eve.writes();
            guests.iter_mut().for_each(Guest::reads);
            guests.iter().all(|guest| guest.has_ended() || guest.has_heard("eve", 1))
        });
        assert!(heard, "somebody did not hear who came last");
        stop(engine);
    });
}

#[test]
fn the_slow_and_the_silent_go_in_any_weather() {
    each_seed(0..200, |seed| {
        let Some((net, mut engine, address)) = chat_in_weather(seed) else { return };
        let _silent = net.connect(address).unwrap();
        let mut slow = Guest::new(&net, address, "slow");
        let mut loud = Guest::new(&net, address, "loud");
        let mut cut = net.connect(address).unwrap();
        loud.says(500);
        engine.run_until(PATIENCE, |_| {
            slow.writes();
            loud.writes();
            loud.reads();
            loud.has_ended() || loud.has_heard_itself()
        });
        engine.check().unwrap();
        // One who goes in the middle of a line. It is not a number: whoever is told it fails.
        engine.write(&mut cut, b"cut\n0\n1\nhalf a li", SOON);
        engine.run_for(SOON);
        cut.reset();

        // The sky clears. By and by the slow one has come in, or was thrown out because its name came too late.
        net.calm();
        engine.run_for(LOGIN_MAX + LOOK_EVERY);
        // More than the network and the chat keep together for somebody who does not read.
        loud.says(4_000);
        engine.run_until(PATIENCE, |_| {
            slow.writes();
            loud.writes();
            loud.reads();
            loud.has_ended() || loud.has_heard_itself()
        });
        assert!(loud.has_ended() || loud.has_heard_itself(), "the slow one kept the loud one back");

        // The silent one is thrown out, if its connection held for so long; so is the slow one, as long as somebody
        // is loud. So one is there at most.
        assert!(engine.counters(0).sessions <= 1, "{:?}", engine.counters(0));
        stop(engine);
    });
}
