//! What a service counts. A shard counts in plain integers and publishes them once a turn.

use std::sync::Arc;

use anyport_core::{CloseReason, Losses};

use crate::sync::{
    atomic::{AtomicU64, Ordering, fence},
    yield_now,
};

/// Declares the counters that are not close reasons, once: as fields, and as an array in the same order.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counts of one service since the engine started, over one shard or summed over all.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
            /// Sessions that ended, and connections that were refused before they were sessions, by
            /// [`CloseReason::index`].
            pub closed: [u64; CloseReason::COUNT],
        }

        const PLAIN: usize = [$(stringify!($field)),*].len();

        impl Counters {
            fn plain(&self) -> [u64; PLAIN] {
                [$(self.$field),*]
            }

            fn of([$($field),*]: [u64; PLAIN], closed: [u64; CloseReason::COUNT]) -> Self {
                Self { $($field,)* closed }
            }
        }
    };
}

counters! {
    /// Sessions now.
    sessions,
    /// Connections accepted, those refused at capacity included.
    accepted,
    /// Connections that this side opened.
    connected,
    /// Connections that this side could not open.
    connect_failed,
    /// Times that accepting was short of something.
    accept_faults,
    /// Bytes received.
    bytes_received,
    /// Bytes that were handed to the system and that it took; a send that nobody waits for counts when it is handed over.
    bytes_sent,
    /// Frames given to the handler.
    frames_received,
    /// Messages queued for sending.
    frames_sent,
    /// Messages that were refused, once for each session that was to get them: by `send` and its kin, and of what was
    /// published to groups.
    frames_refused,
    /// Messages that a slow peer was not sent because they found no room ([`Overflow`](crate::Overflow)).
    messages_skipped,
    /// Queued messages that a slow peer was not sent because newer ones needed the room.
    messages_dropped,
    /// Queued messages that a newer one of the same key replaced.
    messages_conflated,
    /// Bytes that files took.
    bytes_appended,
    /// Records that `append` refused.
    appends_refused,
    /// Files that could not be opened, appended to, synced, rotated or closed in time.
    file_faults,
    /// Times that a session had more to give than one turn takes (`turn_frames_max`, `turn_bytes_max`).
    held_back,
    /// Times that a session was not read from because it sent more than its `rates` allow.
    rate_pauses,
    /// What shards took from their mailboxes: jobs that were posted, those for sessions that had gone included, and what
    /// shards send each other (connections that are handed over, what is published to groups).
    jobs,
    /// Posted jobs that were refused because a mailbox was full.
    jobs_refused,
    /// Turns of the shards.
    turns,
}

impl Counters {
    /// Sessions that ended for this reason, or connections that were refused for it
    /// ([`is_refusal`](CloseReason::is_refusal)); the numbers inside the reason do not matter.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }

    /// Sessions that ended, and connections that were refused, whatever the reason.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    pub(crate) fn add_losses(&mut self, losses: Losses) {
        self.messages_skipped += losses.skipped;
        self.messages_dropped += losses.dropped;
        self.messages_conflated += losses.conflated;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let (mut plain, mut closed) = (self.plain(), self.closed);
        for (mine, theirs) in plain.iter_mut().zip(other.plain()) {
            *mine += theirs;
        }
        for (mine, theirs) in closed.iter_mut().zip(other.closed) {
            *mine += theirs;
        }
        *self = Self::of(plain, closed);
    }
}

/// Where a shard publishes its counters.
#[derive(Debug, Default)]
pub(crate) struct Published(Versioned<PLAIN, { CloseReason::COUNT }>);

impl Published {
    /// Only the shard itself calls this.
    pub(crate) fn publish(&self, counters: &Counters, closed_changed: bool) {
        self.0.publish(counters.plain(), closed_changed.then_some(counters.closed));
    }

    pub(crate) fn read(&self) -> Counters {
        let (plain, closed) = self.0.read();
        Counters::of(plain, closed)
    }

    /// What the shards of a service have published, added up. Zeros if there are none.
    pub(crate) fn sum(shards: Option<&Vec<Arc<Self>>>) -> Counters {
        let mut sum = Counters::default();
        for shard in shards.into_iter().flatten() {
            sum.add(&shard.read());
        }
        sum
    }
}

/// Numbers that one thread publishes and others read, on cache lines of their own.
///
/// A reader sees the numbers of one turn, never a mix of two: the version is odd while they are written, and a
/// reader that finds it odd or changed reads again. The writer never waits.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Versioned<const PLAIN: usize, const RARE: usize> {
    version: AtomicU64,
    plain: [AtomicU64; PLAIN],
    rare: [AtomicU64; RARE],
}

impl<const PLAIN: usize, const RARE: usize> Default for Versioned<PLAIN, RARE> {
    fn default() -> Self {
        let zero = |_| AtomicU64::new(0);
        Self { version: zero(0), plain: std::array::from_fn(zero), rare: std::array::from_fn(zero) }
    }
}

// The model L5 (docs/concurrency.md) fails with any of these orderings weakened.
impl<const PLAIN: usize, const RARE: usize> Versioned<PLAIN, RARE> {
    /// Only one thread calls this. The rare ones are written only if they changed.
    pub(crate) fn publish(&self, plain: [u64; PLAIN], rare: Option<[u64; RARE]>) {
        // Relaxed: nobody else writes it.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Who reads one of the numbers below, and then the version, finds it odd or changed.
        fence(Ordering::Release);
        for (place, value) in self.plain.iter().zip(plain) {
            place.store(value, Ordering::Relaxed);
        }
        if let Some(rare) = rare {
            for (place, value) in self.rare.iter().zip(rare) {
                place.store(value, Ordering::Relaxed);
            }
        }
        // Who reads this version finds the numbers above, or later ones.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    pub(crate) fn read(&self) -> ([u64; PLAIN], [u64; RARE]) {
        let load = |place: &AtomicU64| place.load(Ordering::Relaxed);
        loop {
            let before = self.version.load(Ordering::Acquire);
            let numbers = (self.plain.each_ref().map(load), self.rare.each_ref().map(load));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return numbers;
            }
            yield_now();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_and_summed() {
        let mut counters = Counters { sessions: 3, turns: 7, frames_refused: 1, ..Counters::default() };
        counters.closed[CloseReason::PeerReset.index()] = 2;
        let published = Published::default();
        published.publish(&counters, true);
        assert_eq!(published.read(), counters);
        let mut sum = counters;
        sum.add(&counters);
        assert_eq!((sum.sessions, sum.turns, sum.closed_for(CloseReason::PeerReset)), (6, 14, 4));
    }
}
