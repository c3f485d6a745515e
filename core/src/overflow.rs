//! What becomes of a message for which a slow peer's queue has no room, and of one that a newer one replaces.
//!
//! A message says so itself ([`Overflow`]). Those that may be lost are remembered while they are queued, as ranges of
//! the queue's bytes: killing one marks its range dead, and dead ranges are left out when the queue is next sent. So
//! nothing is moved while the peer is slow, order holds, and a session that sends nothing of the kind keeps nothing.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use crate::planted::{Bug, planted};

/// Messages for which an empty queue keeps room.
const ROOM_KEPT: usize = 64;
/// What remembering a message takes, about, beside its bytes.
const LOOSE_BYTES: usize = 64;

/// What to do with a message when the peer does not read fast enough.
///
/// The three that lose something keep to `high_water_bytes` of the send marks; the room from there to
/// `queue_max_bytes` stays for messages that must arrive. An empty queue is an exception: it takes every message up to
/// `queue_max_bytes`. So of these messages only one that is larger than `high_water_bytes` by itself puts a session under
/// pressure. Only what is queued can be dropped or replaced: what the system is sending goes out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Overflow {
    /// The message must arrive: above `queue_max_bytes` the session is closed (`SendQueueFull`).
    #[default]
    Close,
    /// This message is skipped.
    Skip,
    /// The oldest queued messages that may be lost make room; if that is not enough, this one is skipped.
    DropOldest,
    /// Replaces a queued message of the same key, whether there is room or not, and goes to the queue's end. If it is
    /// larger, or there is no such message, room is made as by [`DropOldest`](Self::DropOldest); one that replaces
    /// another is skipped only above `queue_max_bytes` or a budget. For values of which only the newest counts:
    /// positions, prices.
    Conflate {
        /// What the value is of: an entity, an instrument. Keys are of the session, whichever group they came by.
        key: u64,
    },
}

/// Messages that a session was not sent, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    /// Had no room when they came.
    pub skipped: u64,
    /// Made room for newer ones.
    pub dropped: u64,
    /// Were replaced by a newer one of the same key.
    pub conflated: u64,
}

impl Losses {
    /// All of them.
    pub fn total(self) -> u64 {
        self.skipped + self.dropped + self.conflated
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.skipped += other.skipped;
        self.dropped += other.dropped;
        self.conflated += other.conflated;
    }

    /// What came to them since they were `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            skipped: self.skipped - before.skipped,
            dropped: self.dropped - before.dropped,
            conflated: self.conflated - before.conflated,
        }
    }
}

/// One queued message that may be lost: where it lies in the queue's bytes.
#[derive(Debug)]
struct Loose {
    start: usize,
    size: usize,
    key: Option<u64>,
    /// Whose it is, for the counts; 0 if it is nobody's.
    group: u32,
    dead: bool,
}

/// The messages of a queue that may be lost. Ranges are of the batch that is being gathered.
#[derive(Debug, Default)]
pub(crate) struct LooseQueue {
    queue: VecDeque<Loose>,
    /// Number of the front one; numbers only grow.
    first: u64,
    keys: HashMap<u64, u64>,
    dead_bytes: usize,
    dead_count: usize,
    /// Those before this place in the queue are dead.
    dead_before: usize,
    pub(crate) losses: Losses,
    /// What was lost of what was queued for groups, until it is asked for.
    lost: Vec<(u32, Losses)>,
}

impl LooseQueue {
    /// Bytes of the gathered batch that are not to be sent.
    pub(crate) fn dead_bytes(&self) -> usize {
        self.dead_bytes
    }

    /// What those take that are not to be sent, with what it takes to remember them.
    pub(crate) fn dead_cost(&self) -> usize {
        self.dead_bytes + self.dead_count * LOOSE_BYTES
    }

    /// The queued message of this key, by number, and its size.
    pub(crate) fn of_key(&self, key: u64) -> Option<(u64, usize)> {
        let &number = self.keys.get(&key)?;
        Some((number, self.at(number).size))
    }

    fn at(&self, number: u64) -> &Loose {
        &self.queue[(number - self.first) as usize]
    }

    pub(crate) fn push(&mut self, start: usize, size: usize, key: Option<u64>, group: u32) {
        if let Some(key) = key {
            self.keys.insert(key, self.first + self.queue.len() as u64);
        }
        self.queue.push_back(Loose { start, size, key, group, dead: false });
    }

    /// Leaves a queued message out, and counts it.
    pub(crate) fn lose(&mut self, number: u64, count: fn(&mut Losses) -> &mut u64) {
        *count(&mut self.losses) += 1;
        let group = self.kill(number);
        if group == 0 {
            return;
        }
        if self.lost.last().is_none_or(|(last, _)| *last != group) {
            self.lost.push((group, Losses::default()));
        }
        let (_, losses) = self.lost.last_mut().expect("it was just made");
        *count(losses) += 1;
    }

    /// A group that lost something since this was last asked, and what.
    pub(crate) fn next_lost(&mut self) -> Option<(u32, Losses)> {
        self.lost.pop()
    }

    fn kill(&mut self, number: u64) -> u32 {
        let loose = &mut self.queue[(number - self.first) as usize];
        debug_assert!(!loose.dead, "a message is killed once");
        loose.dead = true;
        self.dead_bytes += loose.size;
        self.dead_count += 1;
        let group = loose.group;
        if let Some(key) = loose.key
            && self.keys.get(&key) == Some(&number)
        {
            self.keys.remove(&key);
        }
        group
    }

    /// The oldest message that is still to be sent, other than `kept`.
    pub(crate) fn oldest(&mut self, kept: Option<u64>) -> Option<u64> {
        while self.queue.get(self.dead_before).is_some_and(|loose| loose.dead) {
            self.dead_before += 1;
        }
        let first = self.first;
        let number = |(place, loose): (usize, &Loose)| (!loose.dead).then_some(first + place as u64);
        let mut alive = self.queue.iter().enumerate().skip(self.dead_before).filter_map(number);
        let droppable = |number: &u64| Some(*number) != kept;
        if planted(Bug::NewestDropped) { alive.rfind(droppable) } else { alive.find(droppable) }
    }

    /// The dead ranges, in order.
    pub(crate) fn dead(&self) -> impl Iterator<Item = Range<usize>> {
        self.queue.iter().filter(|loose| loose.dead).map(|loose| loose.start..loose.start + loose.size)
    }

    /// The dead ranges have been taken out of the batch.
    pub(crate) fn forget_dead(&mut self) {
        let mut gone = 0;
        self.keys.clear();
        self.queue.retain_mut(|loose| {
            if loose.dead {
                gone += loose.size;
            }
            loose.start -= if loose.dead { 0 } else { gone };
            !loose.dead
        });
        self.forget_counts();
        for (place, loose) in self.queue.iter().enumerate() {
            if let Some(key) = loose.key {
                self.keys.insert(key, self.first + place as u64);
            }
        }
        self.shrink();
    }

    fn forget_counts(&mut self) {
        (self.dead_bytes, self.dead_count, self.dead_before) = (0, 0, 0);
    }

    /// Lets go of what the worst moment took.
    fn shrink(&mut self) {
        self.queue.shrink_to(ROOM_KEPT);
        self.keys.shrink_to(ROOM_KEPT);
    }

    /// The batch has gone: nothing of it can be lost any more.
    pub(crate) fn clear(&mut self) {
        if !self.queue.is_empty() {
            self.first += self.queue.len() as u64;
            self.queue.clear();
            self.keys.clear();
            self.shrink();
        }
        self.forget_counts();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst_moment() -> LooseQueue {
        let mut loose = LooseQueue::default();
        (0..10_000).for_each(|at| loose.push(4 * at, 4, Some(at as u64), 0));
        assert!(loose.queue.capacity() >= 10_000 && loose.keys.capacity() >= 10_000);
        loose
    }

    #[test]
    fn the_room_of_the_worst_moment_is_not_kept() {
        let kept = |loose: &LooseQueue| loose.queue.capacity().max(loose.keys.capacity());
        let mut loose = worst_moment();
        loose.clear();
        assert!(kept(&loose) < 4 * ROOM_KEPT, "room for {}", kept(&loose));
        let mut loose = worst_moment();
        for number in 0..9_990 {
            loose.kill(number);
        }
        loose.forget_dead();
        assert!(kept(&loose) < 4 * ROOM_KEPT, "room for {}", kept(&loose));
        assert_eq!((loose.of_key(9_990), loose.of_key(9_989)), (Some((0, 4)), None));
    }
}
