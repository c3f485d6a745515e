//! Timers: a hierarchical wheel of six levels of 64 slots.
//!
//! Setting a timer and passing a tick in which nothing is due cost the same for one timer and for a million.
//! There is no cancel: a key whose timer is no longer wanted is ignored by its owner when it fires, which is
//! why each owner keeps one timer per purpose and moves the deadline lazily.

use std::time::Duration;

use crate::planted::{Bug, planted};

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;

/// Length of a tick: 2^16 ns, about 65.5 µs.
pub const TICK: Duration = Duration::from_nanos(1 << 16);

/// Ticks since the wheel's start that `since_start` covers, rounded up: a timer never fires early.
pub fn ticks_up(since_start: Duration) -> u64 {
    if planted(Bug::TimerTooEarly) {
        return ticks_down(since_start);
    }
    u64::try_from(since_start.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX)
}

/// Whole ticks since the wheel's start that have passed after `since_start`.
pub fn ticks_down(since_start: Duration) -> u64 {
    u64::try_from(since_start.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    deadline: u64,
    key: K,
}

/// The wheel. Time is in [`TICK`]s and comes from outside.
#[derive(Debug)]
pub struct TimerWheel<K> {
    levels: [[Vec<Entry<K>>; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    now: u64,
    len: usize,
}

impl<K: Copy> Default for TimerWheel<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy> TimerWheel<K> {
    /// An empty wheel at tick 0.
    pub fn new() -> Self {
        Self {
            levels: std::array::from_fn(|_| std::array::from_fn(|_| Vec::new())),
            occupied: [0; LEVELS],
            now: 0,
            len: 0,
        }
    }

    /// Timers set and not yet fired.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer. A deadline that has passed fires at the next [`advance`](Self::advance).
    pub fn set(&mut self, deadline: u64, key: K) {
        self.len += 1;
        self.place(Entry { deadline, key });
    }

    /// The level is chosen by the highest bit in which the deadline differs from now. The last level is a
    /// ring: it holds what lies up to 63 of its slots ahead, and what lies farther waits in its farthest slot
    /// and is placed anew when that comes round.
    fn place(&mut self, entry: Entry<K>) {
        let deadline = entry.deadline.max(self.now);
        let differing = (deadline ^ self.now) | (SLOTS as u64 - 1);
        let level = (differing.ilog2() / SLOT_BITS).min(LEVELS as u32 - 1);
        let shift = SLOT_BITS * level;
        let farthest = (self.now >> shift).saturating_add(SLOTS as u64 - 1);
        let slot = (deadline >> shift).min(farthest) as usize % SLOTS;
        self.levels[level as usize][slot].push(entry);
        self.occupied[level as usize] |= 1 << slot;
    }

    /// The tick at which the wheel wants to be advanced next: never after a deadline, possibly before one.
    pub fn next_tick(&self) -> Option<u64> {
        (0..LEVELS).filter_map(|level| self.next_of_level(level)).min().map(|tick| tick.max(self.now))
    }

    fn next_of_level(&self, level: usize) -> Option<u64> {
        let shift = SLOT_BITS * level as u32;
        let current = (self.now >> shift) as u32 % SLOTS as u32;
        let ahead = self.occupied[level].rotate_right(current);
        if ahead == 0 {
            return None;
        }
        let distance = u64::from(ahead.trailing_zeros());
        if planted(Bug::TimerTooLate) && level > 0 {
            return Some(((self.now >> shift) + distance + 1) << shift);
        }
        Some(((self.now >> shift) + distance) << shift)
    }

    /// Moves time to `now` and appends the keys that are due to `fired`, in the order of their ticks.
    ///
    /// Time never goes back: a `now` that has passed counts as the present one.
    pub fn advance(&mut self, now: u64, fired: &mut Vec<K>) {
        let now = now.max(self.now);
        while let Some(tick) = self.next_tick() {
            if tick > now {
                break;
            }
            self.now = tick;
            // Upper levels first: what they hold for this tick comes down before it is fired.
            for level in (0..LEVELS).rev() {
                let slot = (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
                if self.occupied[level] & (1 << slot) == 0 {
                    continue;
                }
                self.occupied[level] &= !(1 << slot);
                let mut entries = std::mem::take(&mut self.levels[level][slot]);
                for entry in entries.drain(..) {
                    if entry.deadline <= tick {
                        self.len -= 1;
                        fired.push(entry.key);
                        if planted(Bug::TimerTwice) {
                            fired.push(entry.key);
                        }
                    } else if planted(Bug::TimerLost) && level > 1 {
                        self.len -= 1;
                    } else {
                        self.place(entry);
                    }
                }
                // Keep the buffer for the next time round, unless `place` has begun a new one.
                let place = &mut self.levels[level][slot];
                if place.is_empty() && entries.capacity() <= 64 {
                    *place = entries;
                }
            }
        }
        self.now = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_round_so_that_no_timer_is_early() {
        assert_eq!((ticks_up(Duration::ZERO), ticks_up(Duration::from_nanos(1))), (0, 1));
        assert_eq!((ticks_down(TICK), ticks_down(Duration::from_nanos((1 << 16) - 1))), (1, 0));
        assert_eq!(ticks_up(Duration::MAX), u64::MAX);
    }

    #[test]
    fn timers_fire_at_their_tick_at_every_distance() {
        for distance in
            [0, 1, 63, 64, 65, 4_095, 4_096, 262_143, 262_145, 1 << 30, (1 << 36) - 1, 1 << 36, 1 << 40]
        {
            for start in [0, 1, 63, 1_000_003] {
                let mut wheel = TimerWheel::new();
                let mut fired = Vec::new();
                wheel.advance(start, &mut fired);
                wheel.set(start + distance, 'x');
                let mut steps = 0;
                while fired.is_empty() {
                    let tick = wheel.next_tick().expect("a timer is set");
                    assert!(tick <= start + distance, "due at {}, wheel says {tick}", start + distance);
                    wheel.advance(tick, &mut fired);
                    steps += 1;
                    assert!(steps < 2_000, "distance {distance} from {start} takes too many steps");
                }
                assert_eq!(wheel.next_tick(), None);
            }
        }
    }

    #[test]
    fn a_deadline_that_has_passed_fires_at_once() {
        let mut wheel = TimerWheel::new();
        let mut fired = Vec::new();
        wheel.advance(1_000, &mut fired);
        wheel.set(3, 'x');
        wheel.advance(1_000, &mut fired);
        assert_eq!(fired, ['x']);
        assert!(wheel.is_empty());
    }
}
