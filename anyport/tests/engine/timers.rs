//! Timers that handlers set, on every driver: of sessions and of shards.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use anyport::{CloseReason, DriverChoice, Frame, Handler, Limits, Lines, Session, Shard, TimerKey};

use crate::support::{Bed, PATIENCE};

on_every_driver! {
    a_timer_of_a_session_fires_once_and_not_early
    a_timer_that_is_set_again_is_moved
    a_timer_that_is_taken_back_does_not_fire
    a_timer_that_repeats_goes_on_until_it_is_taken_back
    timers_of_a_session_go_with_it
    a_repeating_timer_of_zero_costs_its_session_and_no_other
    a_shard_repeats_and_takes_back
}

/// What came of a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Session(u16, Instant),
    Shard(u16),
    Close(CloseReason),
}

/// Sets timers as lines say: `once KEY MS`, `every KEY MS`, `cancel KEY` (answered), `end`.
struct Clocked {
    tell: Sender<Told>,
}

impl Handler for Clocked {
    type State = u32;
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = str::from_utf8(&frame).unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u16>().unwrap();
        let time = |at: usize| Duration::from_millis(number(at).into());
        match words[0] {
            "once" => session.set_timer(TimerKey(number(1)), time(2)),
            "every" => session.set_repeating_timer(TimerKey(number(1)), time(2)),
            "cancel" => {
                let was_set = session.cancel_timer(TimerKey(number(1)));
                session.send(was_set.to_string().as_bytes());
            }
            "shard" => session.shard().set_repeating_timer(TimerKey(number(1)), time(2)),
            "end" => session.drain(),
            other => panic!("{other}"),
        }
    }

    fn on_session_timer(&mut self, session: &mut Session<Self>, timer: TimerKey) {
        *session.state() += 1;
        self.tell.send(Told::Session(timer.0, session.shard().now())).unwrap();
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        self.tell.send(Told::Shard(timer.0)).unwrap();
        assert!(shard.cancel_timer(timer) && !shard.cancel_timer(timer));
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        // Whoever is asked for the end may still hold the test's other end.
        let _ = self.tell.send(Told::Close(reason));
    }
}

fn clocked(driver: DriverChoice) -> (Bed<Clocked>, Receiver<Told>) {
    let (tell, told) = channel();
    let bed =
        Bed::start(driver, 1, Lines::default(), Limits::default(), move |_| Clocked { tell: tell.clone() });
    (bed, told)
}

/// The key of the next timer of a session.
fn next(told: &Receiver<Told>) -> u16 {
    match told.recv_timeout(PATIENCE).unwrap() {
        Told::Session(key, _) => key,
        other => panic!("{other:?}"),
    }
}

fn a_timer_of_a_session_fires_once_and_not_early(driver: DriverChoice) {
    let (bed, told) = clocked(driver);
    let start = Instant::now();
    let mut peer = bed.peer();
    peer.send(b"once 3 60\nonce 1 20\nonce 2 40\nonce 0 0\n");
    for (key, after) in [(0, 0), (1, 20), (2, 40), (3, 60)] {
        assert_eq!(next(&told), key);
        assert!(start.elapsed() >= Duration::from_millis(after));
    }
    // Each has fired and is set no more.
    peer.send(b"cancel 3\n");
    peer.expect(b"false\n");
    drop(peer);
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Told::Close(_))));
    bed.running.stop().unwrap();
}

fn a_timer_that_is_set_again_is_moved(driver: DriverChoice) {
    let (bed, told) = clocked(driver);
    let mut peer = bed.peer();
    // The first would come before the second, and another one between.
    peer.send(b"once 1 1\nonce 1 80\nonce 2 40\n");
    assert_eq!((next(&told), next(&told)), (2, 1));
    peer.send(b"cancel 1\n");
    peer.expect(b"false\n");
    bed.running.stop().unwrap();
}

fn a_timer_that_is_taken_back_does_not_fire(driver: DriverChoice) {
    let (bed, told) = clocked(driver);
    let mut peer = bed.peer();
    peer.send(b"once 1 10\nonce 2 30\nevery 3 10\ncancel 1\ncancel 1\ncancel 3\ncancel 9\n");
    peer.expect(b"true\nfalse\ntrue\nfalse\n");
    assert_eq!(next(&told), 2);
    drop(peer);
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Told::Close(_))), "nothing came between");
    bed.running.stop().unwrap();
}

fn a_timer_that_repeats_goes_on_until_it_is_taken_back(driver: DriverChoice) {
    let (bed, told) = clocked(driver);
    let mut peer = bed.peer();
    peer.send(b"every 5 3\n");
    let mut last = None;
    for _ in 0..20 {
        let Told::Session(5, at) = told.recv_timeout(PATIENCE).unwrap() else { panic!("not the timer") };
        assert!(last.replace(at).is_none_or(|last| last < at), "twice in one turn");
    }
    peer.send(b"cancel 5\n");
    peer.expect(b"true\n");
    drop(peer);
    // What had fired before it was taken back may still be on its way; then comes the end.
    while told.recv_timeout(PATIENCE).unwrap() != Told::Close(CloseReason::PeerClosed) {}
    bed.running.stop().unwrap();
}

fn timers_of_a_session_go_with_it(driver: DriverChoice) {
    let (bed, told) = clocked(driver);
    let (mut ends, mut stays) = (bed.peer(), bed.peer());
    ends.send(b"every 1 5\n");
    assert_eq!(next(&told), 1);
    ends.send(b"once 2 20\nend\n");
    assert_eq!(ends.rest(), b"");
    drop(ends);
    while told.recv_timeout(PATIENCE).unwrap() != Told::Close(CloseReason::Drained) {}
    // Later than both would have fired.
    stays.send(b"once 3 40\n");
    assert_eq!(next(&told), 3);
    bed.running.stop().unwrap();
}

fn a_repeating_timer_of_zero_costs_its_session_and_no_other(driver: DriverChoice) {
    let (bed, told) = clocked(driver);
    let (mut wrong, mut right) = (bed.peer(), bed.peer());
    wrong.send(b"every 1 0\n");
    assert_eq!(wrong.rest(), b"");
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Told::Close(CloseReason::HandlerPanicked)));
    right.send(b"every 1 1\n");
    assert_eq!(next(&told), 1);
    bed.running.stop().unwrap();
}

fn a_shard_repeats_and_takes_back(driver: DriverChoice) {
    let (bed, told) = clocked(driver);
    let mut peer = bed.peer();
    peer.send(b"shard 4 5\nshard 5 5\nonce 6 60\n");
    let mut all: Vec<_> = (0..3).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    // Each takes itself back when it fires: once each, and long before the session's.
    assert!(matches!(all.pop(), Some(Told::Session(6, _))));
    assert_eq!(all, [Told::Shard(4), Told::Shard(5)]);
    bed.running.stop().unwrap();
}
