//! The timer wheel against a sorted map.

use std::collections::BTreeSet;

use anyport_core::{TimerHandle, TimerWheel};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Turn {
    /// A timer this far from now.
    Set(u64),
    /// A timer at this tick, passed or not.
    SetAt(u64),
    /// Takes one back: this one of those set so far, fired or not.
    Cancel(u8),
    Advance(u64),
    /// To a tick that has passed: a clock that seems to go back.
    Back(u64),
    /// To the tick that the wheel asks for, so many times.
    Follow(u8),
}

/// Distances around the borders of the wheel's levels, and all between.
fn distance() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..200_u64,
        4 => 0..10_000_u64,
        4 => (0..42_u32, 0..4_u64, any::<bool>()).prop_map(|(power, off, below)| {
            if below { (1_u64 << power).saturating_sub(off) } else { (1 << power) + off }
        }),
        2 => 0..1_u64 << 38,
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        8 => distance().prop_map(Turn::Set),
        1 => prop_oneof![Just(u64::MAX), Just(u64::MAX - 1), Just(1_u64 << 63), 0..5_000_u64].prop_map(Turn::SetAt),
        3 => any::<u8>().prop_map(Turn::Cancel),
        5 => distance().prop_map(Turn::Advance),
        1 => distance().prop_map(Turn::Back),
        3 => any::<u8>().prop_map(Turn::Follow),
    ]
}

/// The wheel and what it must do: timers sorted by the tick at which they are due.
struct Pair {
    wheel: TimerWheel<u64>,
    due: BTreeSet<(u64, u64)>,
    /// The tick at which each key is due.
    ticks: Vec<u64>,
    handles: Vec<TimerHandle>,
    now: u64,
}

impl Pair {
    fn at(now: u64) -> Self {
        let mut wheel = TimerWheel::new();
        wheel.advance(now, &mut Vec::new());
        Self { wheel, due: BTreeSet::new(), ticks: Vec::new(), handles: Vec::new(), now }
    }

    fn set(&mut self, deadline: u64) {
        let (key, tick) = (self.ticks.len() as u64, deadline.max(self.now));
        self.handles.push(self.wheel.set(deadline, key));
        self.due.insert((tick, key));
        self.ticks.push(tick);
        self.check();
    }

    /// Takes one back, or finds that it has gone.
    fn cancel(&mut self, pick: u8) {
        if let Some(key) = (pick as usize).checked_rem(self.ticks.len()) {
            let is_set = self.due.remove(&(self.ticks[key], key as u64));
            assert_eq!(self.wheel.cancel(self.handles[key]), is_set, "{key}");
            self.check();
        }
    }

    fn advance(&mut self, to: u64) {
        let mut fired = Vec::new();
        self.wheel.advance(to, &mut fired);
        self.now = self.now.max(to);
        let ticks: Vec<u64> = fired.iter().map(|&key| self.ticks[key as usize]).collect();
        assert!(ticks.is_sorted(), "out of order: {ticks:?}");
        for (tick, key) in ticks.into_iter().zip(fired) {
            assert!(tick <= self.now, "{key} fired at {} and is due at {tick}", self.now);
            assert!(self.due.remove(&(tick, key)), "{key} fired twice");
        }
        if let Some(&(tick, key)) = self.due.first() {
            assert!(tick > self.now, "{key} was due at {tick}, it is {}", self.now);
        }
        // Otherwise a loop that sleeps until the next tick would not sleep at all.
        assert!(self.wheel.next_tick().is_none_or(|tick| tick > self.now), "asks for a tick that has passed");
        self.check();
    }

    fn check(&self) {
        assert!(self.wheel.entries() <= self.ticks.len());
        assert_eq!((self.wheel.len(), self.wheel.is_empty()), (self.due.len(), self.due.is_empty()));
        match (self.wheel.next_tick(), self.due.first()) {
            (None, None) => {}
            (Some(tick), Some(&(due, _))) => assert!((self.now..=due).contains(&tick), "{tick}, due {due}"),
            (tick, due) => panic!("the wheel asks for {tick:?}, due is {due:?}"),
        }
    }

    /// Follows the wheel's ticks until the next timer fires.
    fn follow(&mut self) {
        let Some(&(due, _)) = self.due.first() else { return };
        // For each timer a slot a level, and one more for every turn of the last level.
        let bound = self.due.len() as u64 * (8 + (due - self.now) / (63 << 30) * 2);
        let mut steps = 0;
        let left = self.due.len();
        while self.due.len() == left {
            let tick = self.wheel.next_tick().expect("a timer is set");
            self.advance(tick);
            steps += 1;
            assert!(steps <= bound, "{steps} steps, and the timer at {due} has not fired at {}", self.now);
        }
    }
}

fn run(start: u64, turns: &[Turn]) -> Pair {
    let mut pair = Pair::at(start);
    for &turn in turns {
        match turn {
            Turn::Set(distance) => pair.set(pair.now.saturating_add(distance)),
            Turn::SetAt(tick) => pair.set(tick),
            Turn::Cancel(pick) => pair.cancel(pick),
            Turn::Advance(distance) => pair.advance(pair.now.saturating_add(distance)),
            Turn::Back(distance) => pair.advance(pair.now.saturating_sub(distance)),
            Turn::Follow(times) => {
                for _ in 0..times % 8 {
                    // Timers at the end of time are never reached by steps.
                    if pair.due.first().is_some_and(|&(due, _)| due - pair.now < 1 << 45) {
                        pair.follow();
                    }
                }
            }
        }
    }
    pair
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn timers_fire_in_order_and_never_early(
        start in prop_oneof![Just(0), distance(), any::<u64>()],
        turns in prop::collection::vec(turn(), 0..80),
    ) {
        let mut pair = run(start, &turns);
        while pair.due.first().is_some_and(|&(due, _)| due - pair.now < 1 << 45) {
            pair.follow();
        }
    }

    #[test]
    fn the_end_of_time_is_reached(
        before in 0..1_u64 << 40,
        deadlines in prop::collection::vec(prop_oneof![Just(0), 0..100_u64, 0..1_u64 << 40], 1..20),
    ) {
        let mut pair = Pair::at(u64::MAX - before);
        for deadline in deadlines {
            pair.set(u64::MAX - deadline);
        }
        pair.advance(u64::MAX - before / 2);
        pair.advance_to_the_last_tick();
    }
}

impl Pair {
    /// The very last tick has no next one: only what fires is checked.
    fn advance_to_the_last_tick(&mut self) {
        let mut fired = Vec::new();
        self.wheel.advance(u64::MAX, &mut fired);
        let ticks: Vec<u64> = fired.iter().map(|&key| self.ticks[key as usize]).collect();
        assert!(ticks.is_sorted(), "out of order: {ticks:?}");
        assert_eq!(fired.len(), self.due.len());
        assert_eq!((self.wheel.len(), self.wheel.next_tick()), (0, None));
    }
}

#[test]
fn a_timer_that_moves_its_deadline_lazily_costs_one_entry() {
    // One key, whose owner moves the deadline with every packet and sets the timer anew only when it fires.
    let (mut wheel, mut fired) = (TimerWheel::new(), Vec::new());
    let (idle, mut deadline, mut now) = (1_000_u64, 1_000_u64, 0_u64);
    wheel.set(deadline, ());
    for packet in 1..20_000_u64 {
        now += packet % 7;
        deadline = now + idle;
        wheel.advance(now, &mut fired);
        for () in fired.drain(..) {
            wheel.set(deadline, ());
        }
        assert_eq!(wheel.len(), 1);
    }
    wheel.advance(deadline, &mut fired);
    assert_eq!(fired.len(), 1);
}

#[test]
fn the_last_tick_of_all_may_be_now() {
    let mut pair = Pair::at(u64::MAX);
    pair.set(u64::MAX);
    pair.advance_to_the_last_tick();
}

#[test]
fn a_timer_that_is_due_fires_though_the_clock_goes_back() {
    let (mut wheel, mut fired) = (TimerWheel::new(), Vec::new());
    wheel.advance(1_812, &mut fired);
    wheel.set(0, 'x');
    wheel.advance(1_811, &mut fired);
    assert_eq!(fired, ['x']);
}
