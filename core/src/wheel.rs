//! Timers: a hierarchical wheel of six levels of 64 slots.
//!
//! Setting a timer, taking it back, and passing a tick in which nothing is due cost the same for one timer and for a
//! million. A timer that is taken back is gone at once: its entry is the next one to be used (R37). So memory follows
//! the most timers that were ever set at a time, and at steady state nothing is allocated.
//!
//! Entries lie in one table and are linked into lists, one for each slot of each level.

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

/// The time that so many ticks take, as far as nanoseconds in 64 bits go.
pub fn duration_of(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.saturating_mul(TICK.as_nanos() as u64))
}

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;
/// The place of an entry that is in no list.
const NOWHERE: u16 = u16::MAX;

/// Names one setting of one timer, until it fires or is taken back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerHandle {
    index: u32,
    /// Which use of the entry: a handle that is out of date finds nothing.
    generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    deadline: u64,
    key: K,
    generation: u32,
    /// In its slot's list; a free entry's `next` is the next free one.
    next: u32,
    previous: u32,
    /// Level times slots, plus slot.
    place: u16,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NONE, last: NONE };

/// The wheel. Time is in [`TICK`]s and comes from outside.
#[derive(Debug)]
pub struct TimerWheel<K> {
    levels: [[List; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    entries: Vec<Entry<K>>,
    /// Used entries that are free now; the last one freed is used first, because the cache still has it.
    free: u32,
    now: u64,
    len: usize,
    /// What [`next_tick`](Self::next_tick) says, unless something was set or taken back since it was looked up.
    next: Option<u64>,
    next_is_known: bool,
}

impl<K: Copy> Default for TimerWheel<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy> TimerWheel<K> {
    /// What one timer takes.
    pub const ENTRY_BYTES: usize = size_of::<Entry<K>>();

    /// An empty wheel at tick 0.
    pub fn new() -> Self {
        Self {
            levels: [[EMPTY; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            entries: Vec::new(),
            free: NONE,
            now: 0,
            len: 0,
            next: None,
            next_is_known: true,
        }
    }

    /// Timers set, and neither fired nor taken back.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that memory is held for: the most timers that were ever set at a time.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Sets a timer. A deadline that has passed fires at the next [`advance`](Self::advance). The handle is for
    /// [`cancel`](Self::cancel); who never takes the timer back need not keep it.
    ///
    /// # Panics
    /// If `u32::MAX` timers are set already.
    pub fn set(&mut self, deadline: u64, key: K) -> TimerHandle {
        self.len += 1;
        self.next_is_known = false;
        let index = self.free;
        if index == NONE {
            let index = u32::try_from(self.entries.len()).ok().filter(|&index| index != NONE);
            let index = index.expect("a wheel holds at most 2^32 - 1 timers");
            let entry = Entry { deadline, key, generation: 0, next: NONE, previous: NONE, place: NOWHERE };
            self.entries.push(entry);
            self.place(index);
            return TimerHandle { index, generation: 0 };
        }
        let entry = &mut self.entries[index as usize];
        self.free = entry.next;
        entry.deadline = deadline;
        entry.key = key;
        let generation = entry.generation;
        self.place(index);
        TimerHandle { index, generation }
    }

    /// When a timer fires; nothing if it has fired, or was taken back.
    pub fn deadline(&self, timer: TimerHandle) -> Option<u64> {
        let entry = self.entries.get(timer.index as usize)?;
        (entry.generation == timer.generation && entry.place != NOWHERE).then_some(entry.deadline)
    }

    /// Takes a timer back. False if it has fired, or was taken back before.
    pub fn cancel(&mut self, timer: TimerHandle) -> bool {
        if self.deadline(timer).is_none() {
            return false;
        }
        self.next_is_known = false;
        self.unlink(timer.index);
        self.release(timer.index);
        true
    }

    /// The level is chosen by the highest bit in which the deadline differs from now. The last level is a
    /// ring: it holds what lies up to 63 of its slots ahead, and what lies farther waits in its farthest slot
    /// and is placed anew when that comes round.
    fn place(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline.max(self.now);
        let differing = (deadline ^ self.now) | (SLOTS as u64 - 1);
        let level = (differing.ilog2() / SLOT_BITS).min(LEVELS as u32 - 1);
        let shift = SLOT_BITS * level;
        let farthest = (self.now >> shift).saturating_add(SLOTS as u64 - 1);
        let slot = (deadline >> shift).min(farthest) as usize % SLOTS;
        // At the end of the list: those of one tick fire in the order in which they were set.
        let ends = &mut self.levels[level as usize][slot];
        let last = std::mem::replace(&mut ends.last, index);
        let entry = &mut self.entries[index as usize];
        entry.next = NONE;
        entry.previous = last;
        entry.place = (level as usize * SLOTS + slot) as u16;
        if last == NONE {
            ends.first = index;
            self.occupied[level as usize] |= 1 << slot;
        } else {
            self.entries[last as usize].next = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { next, previous, place, .. } = self.entries[index as usize];
        let (level, slot) = (place as usize / SLOTS, place as usize % SLOTS);
        let list = &mut self.levels[level][slot];
        if previous == NONE {
            list.first = next;
        } else {
            self.entries[previous as usize].next = next;
        }
        if next == NONE {
            list.last = previous;
        } else {
            self.entries[next as usize].previous = previous;
        }
        if list.first == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }

    /// Frees an entry that is in no list any more.
    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.place = NOWHERE;
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
    }

    /// The tick at which the wheel wants to be advanced next: never after a deadline, possibly before one.
    #[inline]
    pub fn next_tick(&self) -> Option<u64> {
        if self.next_is_known { self.next } else { self.find_next() }
    }

    fn find_next(&self) -> Option<u64> {
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
    #[inline]
    pub fn advance(&mut self, now: u64, fired: &mut Vec<K>) {
        let now = now.max(self.now);
        // Mostly nothing is due, and what is next is known from the last time.
        if !self.next_is_known || self.next.is_some_and(|tick| tick <= now) {
            self.advance_to_due(now, fired);
        }
        self.now = now;
    }

    fn advance_to_due(&mut self, now: u64, fired: &mut Vec<K>) {
        loop {
            self.next = self.find_next();
            self.next_is_known = true;
            let Some(tick) = self.next.filter(|tick| *tick <= now) else { return };
            self.now = tick;
            // Upper levels first: what they hold for this tick comes down before it is fired.
            for level in (0..LEVELS).rev() {
                let slot = (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
                if self.occupied[level] & (1 << slot) == 0 {
                    continue;
                }
                self.occupied[level] &= !(1 << slot);
                // The whole list is taken out first: of the last level, some may come back to the same slot.
                let mut index = std::mem::replace(&mut self.levels[level][slot], EMPTY).first;
                while index != NONE {
                    let Entry { deadline, key, next, .. } = self.entries[index as usize];
                    if deadline <= tick {
                        self.release(index);
                        fired.push(key);
                    } else if planted(Bug::TimerLost) && level > 1 {
                        self.release(index);
                    } else {
                        self.place(index);
                    }
                    index = next;
                }
            }
        }
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

    #[test]
    fn a_timer_that_is_taken_back_does_not_fire_and_leaves_nothing() {
        let (mut wheel, mut fired) = (TimerWheel::new(), Vec::new());
        let handles = [70, 70, 70, 5_000, 1 << 40].map(|deadline| wheel.set(deadline, deadline));
        assert!(wheel.cancel(handles[1]) && !wheel.cancel(handles[1]));
        assert!(wheel.cancel(handles[3]) && wheel.cancel(handles[4]));
        assert_eq!((wheel.len(), wheel.next_tick()), (2, Some(64)));
        // The entry that was freed last is used first, and the old handle does not reach it.
        let again = wheel.set(80, 80);
        assert!(again != handles[4] && !wheel.cancel(handles[4]));
        wheel.advance(75, &mut fired);
        assert_eq!(fired, [70, 70]);
        assert!(!wheel.cancel(handles[0]), "it has fired");
        assert!(wheel.cancel(again));
        assert_eq!((wheel.len(), wheel.entries(), wheel.next_tick()), (0, 5, None));
    }

    #[test]
    fn ten_million_times_set_and_taken_back_hold_one_entry() {
        let mut wheel = TimerWheel::new();
        for round in 0..10_000_000_u64 {
            let timer = wheel.set(round * 31 % 1_000_003, ());
            assert!(wheel.cancel(timer));
        }
        assert_eq!((wheel.len(), wheel.entries()), (0, 1));
    }
}
