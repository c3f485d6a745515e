//! The sessions that ended last: what is left of them to look at.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyport_core::{CloseReason, SessionId};
use anyport_driver::PeerAddress;

use crate::info::Traffic;

/// A session that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed {
    /// Its id.
    pub id: SessionId,
    /// Its other end.
    pub peer: PeerAddress,
    /// Why it ended.
    pub reason: CloseReason,
    /// When it ended, by the clock of its shard: the turn's time.
    pub at: Instant,
    /// From its opening to its end.
    pub lasted: Duration,
    /// What went over it.
    pub traffic: Traffic,
}

/// The last sessions of a service on one shard, oldest first. Locked for a moment when a session ends, and by whoever
/// looks; never for a message.
#[derive(Debug)]
pub(crate) struct Recent {
    ring: Mutex<VecDeque<Closed>>,
    closed_max: usize,
}

impl Recent {
    pub(crate) fn new(closed_max: usize) -> Self {
        Self { ring: Mutex::new(VecDeque::with_capacity(closed_max)), closed_max }
    }

    /// Keeps one more, and forgets the oldest if there are too many.
    pub(crate) fn keep(&self, closed: Closed) {
        if self.closed_max == 0 {
            return;
        }
        let mut ring = self.ring();
        if ring.len() == self.closed_max {
            ring.pop_front();
        }
        ring.push_back(closed);
    }

    /// Those of all shards, the last one first.
    pub(crate) fn of_all(shards: &[Arc<Self>]) -> Vec<Closed> {
        let mut all: Vec<Closed> = Vec::new();
        for shard in shards {
            // Those that ended in one turn have the same time, and keep this order.
            all.extend(shard.ring().iter().rev());
        }
        all.sort_by_key(|closed| std::cmp::Reverse(closed.at));
        all
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Closed>> {
        // Nothing in between could leave half of an entry.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use anyport_core::SlabKey;

    use super::*;

    /// `Limits::recent_closed_max` says what one takes.
    #[test]
    fn one_takes_as_much_as_is_said() {
        let size = size_of::<Closed>();
        assert!(size <= 120, "{size} bytes");
    }

    #[test]
    fn the_last_ones_are_kept_and_the_ring_does_not_grow() {
        let recent = Recent::new(3);
        let capacity = recent.ring().capacity();
        let start = Instant::now();
        for index in 0..10 {
            recent.keep(Closed {
                id: SessionId::new(0, 0, SlabKey { index, generation: 1 }),
                peer: PeerAddress::Unix,
                reason: CloseReason::PeerClosed,
                // Two in each turn.
                at: start + Duration::from_secs(u64::from(index / 2)),
                lasted: Duration::ZERO,
                traffic: Traffic::default(),
            });
        }
        let kept: Vec<_> =
            Recent::of_all(&[Arc::new(recent)]).iter().map(|closed| closed.id.slot().index).collect();
        assert_eq!(kept, [9, 8, 7]);
        assert!(capacity >= 3);
        let none = Recent::new(0);
        assert_eq!(none.ring().capacity(), 0);
    }
}
