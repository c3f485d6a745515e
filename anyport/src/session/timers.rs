//! Timers that a handler sets, by their keys: of a session or of a shard.
//!
//! A timer has one entry in the wheel while it is set and none otherwise: moving it takes the old entry out (R37).
//! What is due is taken out of the wheel all at once and told one after the other; a timer that is moved or taken
//! back in between is known by its number, and is not told.

use std::time::Duration;

use anyport_core::{
    SlabKey, TimerHandle, TimerWheel,
    planted::{Bug, planted},
    wheel,
};

use super::{Local, TimerEvent};
use crate::handler::{Handler, TimerKey};

/// The timers of a session or of a shard, sorted by key. One that is not set keeps its place for the next time.
#[derive(Debug, Default)]
pub(crate) struct TimerTable {
    timers: Vec<Timer>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    key: TimerKey,
    /// Its entry in the wheel, or the one it had; the wheel knows which.
    handle: TimerHandle,
    /// Which setting this is; what is told carries it.
    nth: u32,
    is_set: bool,
    /// When it is due, in nanoseconds since the shard started. Kept, because a tick is too coarse to count with.
    due: u64,
    /// Nanoseconds from one time to the next; zero if it fires once.
    every: u64,
}

/// Whose a timer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Shard,
    Session(SlabKey),
}

/// What to set a timer to.
struct Setting {
    owner: Owner,
    key: TimerKey,
    nth: u32,
    now: u64,
    due: u64,
    every: u64,
}

impl TimerTable {
    fn find(&self, key: TimerKey) -> Result<usize, usize> {
        self.timers.binary_search_by_key(&key, |timer| timer.key)
    }

    fn set(&mut self, wheel: &mut TimerWheel<TimerEvent>, setting: &Setting) {
        let Setting { owner, key, nth, now, due, every } = *setting;
        let found = self.find(key);
        if let Ok(at) = found {
            self.timers[at].take_back(wheel);
        }
        let event = TimerEvent::User { owner, key, nth };
        let timer = Timer { key, handle: wheel.set(tick_of(now, due), event), nth, is_set: true, due, every };
        match found {
            Ok(at) => self.timers[at] = timer,
            Err(at) if self.timers.len() < self.timers.capacity() => self.timers.insert(at, timer),
            Err(_) => {
                // Before it grows: keys that are never used again must not hold memory.
                self.timers.retain(|timer| timer.is_set);
                let at = self.find(key).expect_err("it was not there before");
                self.timers.insert(at, timer);
            }
        }
    }

    fn cancel(&mut self, wheel: &mut TimerWheel<TimerEvent>, key: TimerKey) -> bool {
        self.find(key).is_ok_and(|at| self.timers[at].take_back(wheel))
    }

    /// Takes all of them out of the wheel.
    pub(crate) fn clear(&mut self, wheel: &mut TimerWheel<TimerEvent>) {
        for mut timer in self.timers.drain(..) {
            timer.take_back(wheel);
        }
    }

    /// True if the timer that came out of the wheel is to be told: it was not moved or taken back since. One that
    /// repeats is set anew.
    fn falls_due(
        &mut self,
        wheel: &mut TimerWheel<TimerEvent>,
        owner: Owner,
        told: (TimerKey, u32),
        now: u64,
    ) -> bool {
        let (key, nth) = told;
        let Ok(at) = self.find(key) else { return false };
        let timer = &mut self.timers[at];
        if !timer.is_set || timer.nth != nth {
            return false;
        }
        if timer.every == 0 {
            timer.is_set = false;
        } else {
            timer.due = next_due(timer.due, timer.every, now);
            timer.handle = wheel.set(tick_of(now, timer.due), TimerEvent::User { owner, key, nth });
        }
        true
    }
}

impl Timer {
    /// False if it was not set.
    fn take_back(&mut self, wheel: &mut TimerWheel<TimerEvent>) -> bool {
        // If it is due in this turn already it is out of the wheel, and what is told of it finds it not set.
        wheel.cancel(self.handle);
        std::mem::take(&mut self.is_set)
    }
}

/// The tick at which something that is due at `due` fires.
fn tick_of(now: u64, due: u64) -> u64 {
    // Rounding up would wait for the next tick: whoever asks for zero wants the next turn.
    if due <= now {
        wheel::ticks_down(Duration::from_nanos(now))
    } else {
        wheel::ticks_up(Duration::from_nanos(due))
    }
}

/// The next time after `now` in steps of `every` from `due`: those that were missed are left out.
fn next_due(due: u64, every: u64, now: u64) -> u64 {
    let missed = now.saturating_sub(due) / every;
    due.saturating_add(every.saturating_mul(missed.saturating_add(1)))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<H: Handler> Local<H> {
    fn nanoseconds_now(&self) -> u64 {
        nanoseconds(self.now.saturating_duration_since(self.started))
    }

    /// Sets or moves a timer: `after` until the first time, `every` between all others, zero if there are none.
    pub(crate) fn set_timer(&mut self, owner: Owner, key: TimerKey, after: Duration, every: Duration) {
        let now = self.nanoseconds_now();
        let due = now.saturating_add(nanoseconds(after));
        self.timers_set = self.timers_set.wrapping_add(1);
        let setting = Setting { owner, key, nth: self.timers_set, now, due, every: nanoseconds(every) };
        match owner {
            Owner::Shard => self.timers.set(&mut self.wheel, &setting),
            Owner::Session(session) => {
                let Some(slot) = self.sessions.get_mut(session) else { return };
                // What ends has no use for timers.
                if slot.connection.is_open() {
                    slot.timers.get_or_insert_default().set(&mut self.wheel, &setting);
                }
            }
        }
    }

    /// False if it is not set.
    pub(crate) fn cancel_timer(&mut self, owner: Owner, key: TimerKey) -> bool {
        self.table(owner).is_some_and(|(timers, wheel)| timers.cancel(wheel, key))
    }

    /// True if a timer that came out of the wheel is to be told to the handler.
    pub(crate) fn timer_falls_due(&mut self, owner: Owner, key: TimerKey, nth: u32) -> bool {
        let now = self.nanoseconds_now();
        if let Owner::Session(session) = owner
            && !planted(Bug::SessionTimerAfterEnd)
            && !self.sessions.get(session).is_some_and(|slot| slot.connection.is_open())
        {
            return false;
        }
        self.table(owner).is_some_and(|(timers, wheel)| timers.falls_due(wheel, owner, (key, nth), now))
    }

    fn table(&mut self, owner: Owner) -> Option<(&mut TimerTable, &mut TimerWheel<TimerEvent>)> {
        let table = match owner {
            Owner::Shard => &mut self.timers,
            Owner::Session(session) => self.sessions.get_mut(session)?.timers.as_deref_mut()?,
        };
        Some((table, &mut self.wheel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Session::set_timer` says so.
    #[test]
    fn a_timer_takes_as_much_memory_as_is_said() {
        assert_eq!((size_of::<Timer>(), TimerWheel::<TimerEvent>::ENTRY_BYTES), (32, 48));
    }

    /// A table on its wheel, and what it tells.
    #[derive(Default)]
    struct Bench {
        table: TimerTable,
        wheel: TimerWheel<TimerEvent>,
        sets: u32,
        now: u64,
    }

    impl Bench {
        fn set(&mut self, key: u16, after: u64, every: u64) {
            self.sets += 1;
            let due = self.now.saturating_add(after);
            let (owner, key, nth) = (Owner::Shard, TimerKey(key), self.sets);
            self.table.set(&mut self.wheel, &Setting { owner, key, nth, now: self.now, due, every });
        }

        /// Moves time on, and gives the keys that are told; `then` is called with each.
        fn advance(&mut self, to: u64, mut then: impl FnMut(&mut Self, u16)) -> Vec<u16> {
            self.now = to;
            let (mut fired, mut told) = (Vec::new(), Vec::new());
            self.wheel.advance(wheel::ticks_down(Duration::from_nanos(to)), &mut fired);
            for event in fired {
                let TimerEvent::User { owner, key, nth } = event else { panic!("{event:?}") };
                if self.table.falls_due(&mut self.wheel, owner, (key, nth), to) {
                    told.push(key.0);
                    then(self, key.0);
                }
            }
            told
        }
    }

    const TICK: u64 = wheel::TICK.as_nanos() as u64;

    #[test]
    fn a_timer_that_is_due_and_taken_back_or_moved_in_the_same_turn_is_not_told() {
        let mut bench = Bench::default();
        for key in 0..4 {
            bench.set(key, 10 * TICK, 0);
        }
        let told = bench.advance(20 * TICK, |bench, key| {
            if key == 0 {
                assert!(bench.table.cancel(&mut bench.wheel, TimerKey(1)));
                assert!(!bench.table.cancel(&mut bench.wheel, TimerKey(1)));
                bench.set(2, 5 * TICK, 0);
                // Of a timer that has just been told nothing is left to take back.
                assert!(!bench.table.cancel(&mut bench.wheel, TimerKey(0)));
            }
        });
        assert_eq!(told, [0, 3]);
        assert_eq!(bench.advance(25 * TICK, |_, _| {}), [2]);
        assert!(bench.wheel.is_empty());
    }

    #[test]
    fn a_timer_of_zero_that_sets_itself_fires_once_a_turn() {
        let mut bench = Bench::default();
        bench.set(7, 0, 0);
        for _ in 0..3 {
            assert_eq!(bench.advance(5, |bench, key| bench.set(key, 0, 0)), [7]);
        }
        assert_eq!(bench.wheel.len(), 1);
    }

    #[test]
    fn one_that_repeats_neither_drifts_nor_bunches_up() {
        let mut bench = Bench::default();
        // Not a multiple of a tick.
        let every = 1_000_000;
        bench.set(1, every, every);
        for time in 1..=1_000 {
            assert_eq!(bench.advance(time * every - 1, |_, _| {}), [], "early");
            assert_eq!(bench.advance(time * every + TICK, |_, _| {}), [1]);
        }
        // A stall of ten and a half: told once, and then in step again.
        assert_eq!(bench.advance(1_010 * every + every / 2, |_, _| {}), [1]);
        assert_eq!(bench.advance(1_011 * every - 1, |_, _| {}), []);
        assert_eq!(bench.advance(1_011 * every + TICK, |_, _| {}), [1]);
        assert!(bench.table.cancel(&mut bench.wheel, TimerKey(1)));
        assert_eq!(bench.advance(2_000 * every, |_, _| {}), []);
        assert!(bench.wheel.is_empty());
    }

    #[test]
    fn one_that_repeats_faster_than_time_passes_fires_once_a_tick() {
        let mut bench = Bench::default();
        bench.set(1, 1, 1);
        assert_eq!(bench.advance(0, |_, _| {}), []);
        for tick in 1..10 {
            assert_eq!(bench.advance(tick * TICK, |_, _| {}), [1]);
            assert!(bench.wheel.next_tick() > Some(tick), "it would not let the shard sleep");
        }
    }

    #[test]
    fn the_end_of_time_is_not_passed() {
        let mut bench = Bench { now: u64::MAX - 10, ..Bench::default() };
        bench.set(1, u64::MAX, 0);
        bench.set(2, u64::MAX, u64::MAX);
        assert_eq!(next_due(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(nanoseconds(Duration::MAX), u64::MAX);
        assert_eq!(bench.wheel.len(), 2);
    }

    #[test]
    fn keys_that_are_not_used_again_hold_no_memory() {
        let mut bench = Bench::default();
        for round in 0..1_000_000_u32 {
            bench.set(round as u16, 10 * TICK, 0);
            assert!(bench.table.cancel(&mut bench.wheel, TimerKey(round as u16)));
        }
        assert!(bench.table.timers.capacity() <= 8, "{}", bench.table.timers.capacity());
        bench.set(9, 1, 0);
        bench.table.clear(&mut bench.wheel);
        assert_eq!((bench.wheel.len(), bench.wheel.entries()), (0, 1));
    }
}
