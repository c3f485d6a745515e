//! Shards and logic threads that look for more before they sleep.

use std::{
    sync::mpsc::{Sender, channel},
    time::{Duration, Instant},
};

use anyport::{
    DriverChoice, DriverConfig, Engine, Frame, Handler, Lines, Remote, Running, Server, Session, TimerKey,
};

use crate::support::{PATIENCE, Peer, own_address, placed};

on_every_driver! {
    who_looks_before_it_sleeps_answers_is_woken_and_keeps_time
}

const TIMER: TimerKey = TimerKey(1);
const LATER: Duration = Duration::from_millis(3);

/// Answers lines, and sets a timer for each.
struct Prompt {
    tell: Sender<Duration>,
}

impl Handler for Prompt {
    type State = Option<Instant>;
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        *session.state() = Some(session.shard().now());
        session.set_timer(TIMER, LATER);
        session.send_frame(frame);
    }

    fn on_session_timer(&mut self, session: &mut Session<Self>, _timer: TimerKey) {
        let set = session.state().expect("it was set with the timer");
        self.tell.send(session.shard().now() - set).unwrap();
    }
}

fn start(driver: DriverChoice, tell: Sender<Duration>) -> (Running, Remote<Prompt>) {
    let mut engine =
        Engine::new().unwrap().shards(1).unwrap().driver(driver).spin(DriverConfig::SPIN_MAX).unwrap();
    let server = Server::bind(own_address().to_string(), Lines::default()).placement(placed(1));
    let remote = engine.add_server(server, move |_| Prompt { tell: tell.clone() }).unwrap();
    (engine.start().unwrap(), remote)
}

fn who_looks_before_it_sleeps_answers_is_woken_and_keeps_time(driver: DriverChoice) {
    let (tell, told) = channel();
    let (running, remote) = start(driver, tell);
    let mut peer = Peer::connect(running.address(0).unwrap());
    for round in 0..50 {
        let line = format!("{round}\n");
        peer.send(line.as_bytes());
        peer.expect(line.as_bytes());
        // Jobs come while it looks, and while it sleeps.
        let (answer, answered) = channel();
        remote.post_to_shard(0, move |_, _| answer.send(round).unwrap()).unwrap();
        assert_eq!(answered.recv_timeout(PATIENCE), Ok(round));
        if round % 10 == 0 {
            assert!(told.recv_timeout(PATIENCE).unwrap() >= LATER, "a timer fired early");
        }
    }
    running.stop().unwrap();
}

#[test]
fn nobody_looks_for_longer_than_a_millisecond() {
    let spin = |us| Engine::new().unwrap().spin(Duration::from_micros(us));
    assert!(spin(0).is_ok() && spin(1_000).is_ok());
    let text = spin(1_001).err().expect("it is too long").to_string();
    assert!(text.contains("spin") && text.contains("0 to 1000") && text.contains("1001"), "{text}");
}
