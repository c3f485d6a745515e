//! Timers in virtual time: exact, without drift, and as many as a handler likes.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyport::{
    Engine, Frame, Handler, Limits, Rates, Raw, ReceiveRate, Remote, Server, Session, Shard, TimerKey,
    sim::{Held, SimEngine, SimNet, SimPeer},
};

use crate::bed::{ADDRESS, SOON, TICK};

/// When each timer fired, of sessions and of the shard.
#[derive(Clone, Default)]
struct Fired(Arc<Mutex<Vec<(u16, Instant)>>>);

impl Fired {
    fn note(&self, timer: TimerKey, now: Instant) {
        self.0.lock().unwrap().push((timer.0, now));
    }

    fn take(&self) -> Vec<(u16, Instant)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Clock {
    fired: Fired,
}

impl Handler for Clock {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send(&frame);
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        self.fired.note(timer, shard.now());
    }

    fn on_session_timer(&mut self, session: &mut Session<Self>, timer: TimerKey) {
        self.fired.note(timer, session.shard().now());
    }
}

struct Bed {
    net: SimNet,
    engine: SimEngine,
    remote: Remote<Clock>,
    fired: Fired,
}

impl Bed {
    fn new(seed: u64) -> Self {
        let (net, fired) = (SimNet::new(seed), Fired::default());
        let told = fired.clone();
        let mut engine = Engine::new().unwrap().shards(1).unwrap();
        let server = Server::bind(ADDRESS, Raw).limits(Limits::default());
        let remote = engine.add_server(server, move |_| Clock { fired: told.clone() }).unwrap();
        let engine = engine.simulate(&net).unwrap();
        Self { net, engine, remote, fired }
    }

    /// A peer whose session is open.
    fn peer(&mut self) -> SimPeer {
        let mut peer = self.net.connect(self.engine.address(0).unwrap()).unwrap();
        assert_eq!(self.engine.ask(&mut peer, b"x", b"x", SOON), b"x");
        peer
    }

    /// Runs `then` with the shard, now; gives the time of it.
    fn on_shard(&mut self, then: impl FnOnce(&mut Shard<'_, Clock>) + Send + 'static) -> Instant {
        assert!(self.remote.post_to_shard(0, |_, shard| then(shard)).is_ok());
        self.engine.run_for(Duration::ZERO);
        self.net.now()
    }

    fn stop(mut self) {
        self.engine.check().unwrap();
        self.engine.stop().unwrap();
        assert_eq!(self.engine.held(), Held::default());
    }
}

/// Never early, and a tick late at most.
#[track_caller]
fn assert_exact(at: Instant, due: Instant) {
    assert!(
        at >= due && at <= due + TICK,
        "{:?} late, {:?} early",
        at.checked_duration_since(due),
        due.checked_duration_since(at)
    );
}

#[test]
fn never_early_and_at_most_a_tick_late() {
    let mut bed = Bed::new(1);
    // All distances: around ticks and the levels of the wheel, up to days.
    let distances: Vec<Duration> = (0..48)
        .flat_map(|power| [1_u64 << power, (1 << power) - 1, (1 << power) + 1, (1 << power) / 3 * 2])
        .map(Duration::from_nanos)
        .collect();
    let set = distances.clone();
    let start = bed.on_shard(move |shard| {
        for (key, after) in set.into_iter().enumerate() {
            shard.set_timer(TimerKey(key as u16), after);
        }
    });
    bed.engine.run_for(Duration::from_hours(100));
    let fired = bed.fired.take();
    assert_eq!(fired.len(), distances.len());
    for (key, at) in fired {
        assert_exact(at, start + distances[key as usize]);
    }
    bed.stop();
}

#[test]
fn one_that_repeats_does_not_drift_over_a_day() {
    let mut bed = Bed::new(2);
    let peer = bed.peer();
    // No multiple of a tick.
    let every = Duration::from_micros(777_777);
    let start = bed.on_shard(move |shard| {
        shard.set_repeating_timer(TimerKey(0), every);
        shard.for_each(|session| session.set_repeating_timer(TimerKey(1), every * 3));
    });
    let day = Duration::from_hours(24);
    bed.engine.run_for(day);
    let fired = bed.fired.take();
    for (key, step) in [(0, every), (1, every * 3)] {
        let times: Vec<_> = fired.iter().filter(|(of, _)| *of == key).map(|(_, at)| *at).collect();
        assert_eq!(times.len() as u128, day.as_nanos() / step.as_nanos());
        for (nth, at) in times.into_iter().enumerate() {
            assert_exact(at, start + step * (nth as u32 + 1));
        }
    }
    // The session goes, its timer with it.
    peer.close();
    bed.engine.run_for(SOON);
    bed.fired.take();
    bed.engine.run_for(SOON * 10);
    assert!(bed.fired.take().iter().all(|(key, _)| *key == 0));
    bed.stop();
}

#[test]
fn after_a_stall_a_repeating_timer_is_told_once_and_is_in_step_again() {
    let mut bed = Bed::new(3);
    let every = Duration::from_millis(10);
    let start = bed.on_shard(move |shard| shard.set_repeating_timer(TimerKey(0), every));
    bed.engine.run_for(every * 5 + TICK);
    assert_eq!(bed.fired.take().len(), 5);
    // The shard has no turn meanwhile.
    bed.net.advance(Duration::from_millis(1_234));
    bed.engine.run_for(Duration::ZERO);
    let late = bed.fired.take();
    assert_eq!(late.len(), 1, "told once for all that it missed");
    bed.engine.run_for(every * 3);
    let after: Vec<_> = bed.fired.take().into_iter().map(|(_, at)| at).collect();
    assert_eq!(after.len(), 3);
    for (nth, at) in after.into_iter().enumerate() {
        assert_exact(at, start + every * (129 + nth as u32));
    }
    bed.stop();
}

#[test]
fn a_timer_at_the_end_of_time_is_no_trouble() {
    let mut bed = Bed::new(4);
    let _peer = bed.peer();
    bed.on_shard(|shard| {
        shard.set_timer(TimerKey(0), Duration::MAX);
        shard.set_repeating_timer(TimerKey(1), Duration::MAX);
        shard.for_each(|session| {
            session.set_timer(TimerKey(2), Duration::from_nanos(u64::MAX));
            session.set_repeating_timer(TimerKey(3), Duration::MAX);
        });
    });
    bed.engine.run_for(Duration::from_hours(24 * 365));
    assert_eq!(bed.fired.take(), []);
    bed.stop();
}

#[test]
fn setting_a_timer_with_every_frame_holds_one_entry() {
    let mut bed = Bed::new(5);
    let _peer = bed.peer();
    let start = bed.on_shard(|shard| {
        shard.for_each(|session| {
            for round in 0..1_000_000_u64 {
                session.set_timer(TimerKey(round as u16 % 4), Duration::from_millis(1_000 + round % 500));
            }
            assert!(session.cancel_timer(TimerKey(1)));
        });
    });
    bed.engine.run_for(Duration::from_secs(2));
    let mut fired = bed.fired.take();
    fired.sort_by_key(|(key, _)| *key);
    // The last setting of each is what counts.
    let last = |key: u64| start + Duration::from_millis(1_000 + (999_996 + key) % 500);
    assert_eq!(fired.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [0, 2, 3]);
    for (key, at) in fired {
        assert_exact(at, last(key.into()));
    }
    bed.stop();
}

/// Sessions that come and go, under time-outs of an hour: once the last has gone, the wheel has nothing of them.
#[test]
fn sessions_that_have_gone_leave_nothing_in_the_wheel() {
    let limits = Limits {
        idle_timeout: Some(Duration::from_hours(1)),
        drain_deadline: Duration::from_hours(1),
        linger: Duration::from_hours(1),
        handshake_timeout: Some(Duration::from_hours(1)),
        frame_timeout: Some(Duration::from_hours(1)),
        receive_rate_min: Some(ReceiveRate { bytes_per_second: 1, window: Duration::from_hours(1) }),
        rates: Rates { messages_per_second: Some(1), burst: Duration::from_secs(2), ..Rates::default() },
        ..Limits::default()
    };
    let mut bed = crate::bed::Bed::with_limits(SimNet::new(11), limits);
    for nth in 0..200 {
        let mut peer = bed.peer();
        assert!(bed.engine.held().timers > 0, "an open session has a time-out");
        if nth % 4 > 0 {
            assert_eq!(bed.ask(&mut peer, "hello"), "hello\n");
        }
        if nth % 4 == 2 {
            // Above its rate, and in the middle of a line.
            peer.write(b"1\n2\n3\n4\n5");
            bed.engine.run_for(TICK);
        }
        if nth % 4 == 3 {
            // The server ends it: it drains, then lingers until the peer goes.
            let id = *bed.diary.opens().last().map(|(_, id)| id).unwrap();
            bed.remote.drain(id).unwrap();
            bed.engine.run_for(SOON);
        }
        drop(peer);
        bed.engine.run_for(SOON);
    }
    let held = bed.engine.held();
    assert_eq!((held.sessions, held.timers), (0, 0));
    bed.stop();
}
