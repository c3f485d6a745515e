//! What is going to happen, in order of time.

use std::{cmp::Ordering, collections::BinaryHeap};

use anyport_core::SlabKey;

/// What happens at some time. Keys may be stale by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// An end's attempt to connect reaches the listener.
    Attempt(SlabKey),
    /// Bytes, or the end of the stream, leave an end's outbox.
    Step(SlabKey),
    /// A reset reaches an end.
    Reset(SlabKey),
    /// An end has waited too long for the other one.
    Timeout(SlabKey),
    /// A driver gets to look at one of its sockets.
    Turn { driver: u32, socket: SlabKey },
    /// A driver goes on with one of its files.
    File { driver: u32, file: SlabKey },
    /// A driver's drought is over.
    Rain { driver: u32 },
    /// A driver's wait ends for nothing.
    Wake { driver: u32 },
}

impl Event {
    /// A number for the digest.
    pub(super) fn code(self) -> u64 {
        const NO_KEY: SlabKey = SlabKey { index: 0, generation: 0 };
        let (kind, key) = match self {
            Self::Attempt(key) => (1, key),
            Self::Step(key) => (2, key),
            Self::Reset(key) => (3, key),
            Self::Timeout(key) => (4, key),
            Self::Turn { driver, socket } => (5 + (u64::from(driver) << 4), socket),
            Self::File { driver, file } => (8 + (u64::from(driver) << 4), file),
            Self::Rain { driver } => (6 + (u64::from(driver) << 4), NO_KEY),
            Self::Wake { driver } => (7 + (u64::from(driver) << 4), NO_KEY),
        };
        (u64::from(key.index) << 32 | u64::from(key.generation)).wrapping_add(kind << 40)
    }
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    /// What was scheduled first happens first.
    order: u64,
    event: Event,
}

impl Scheduled {
    fn when(&self) -> (u64, u64) {
        (self.at, self.order)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.when() == other.when()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The soonest is the greatest: the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.when().cmp(&self.when())
    }
}

/// Events to come.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Scheduled>,
    scheduled: u64,
}

impl Events {
    pub(super) fn push(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.heap.push(Scheduled { at, order: self.scheduled, event });
    }

    /// When the next one is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|next| next.at)
    }

    /// The next one that is due by `now`, and when it was.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<(u64, Event)> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|next| (next.at, next.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_scheduling() {
        let mut events = Events::default();
        for (at, driver) in [(5, 1), (3, 2), (5, 3), (0, 4), (3, 5)] {
            events.push(at, Event::Rain { driver });
        }
        assert_eq!(events.next_at(), Some(0));
        let due: Vec<_> = std::iter::from_fn(|| events.pop_due(4)).collect();
        let rain = |at, driver| (at, Event::Rain { driver });
        assert_eq!(due, [rain(0, 4), rain(3, 2), rain(3, 5)]);
        assert_eq!((events.next_at(), events.pop_due(5)), (Some(5), Some(rain(5, 1))));
    }
}
