//! What a service counts. A shard counts in plain integers and publishes them once a turn.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use anyport_core::CloseReason;

/// Declares the counters that are not close reasons, once: as fields, and as an array in the same order.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counts of one service since the engine started, over one shard or summed over all.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
            /// Sessions that ended, by [`CloseReason::index`].
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
    /// Bytes that the system took for sending.
    bytes_sent,
    /// Frames given to the handler.
    frames_received,
    /// Messages queued for sending.
    frames_sent,
    /// Messages that `send` refused.
    frames_refused,
    /// Turns of the shards.
    turns,
}

impl Counters {
    /// Sessions that ended for this reason; the numbers inside the reason do not matter.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }

    /// Sessions that ended, whatever the reason.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
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

/// Where a shard publishes its counters. On cache lines of its own.
///
/// A reader sees the counters of one turn, never a mix of two: the version is odd while they are written, and a
/// reader that finds it odd or changed reads again. The shard never waits.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Published {
    version: AtomicU64,
    plain: [AtomicU64; PLAIN],
    closed: [AtomicU64; CloseReason::COUNT],
}

impl Published {
    /// Only the shard itself calls this.
    pub(crate) fn publish(&self, counters: &Counters, closed_changed: bool) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, value) in self.plain.iter().zip(counters.plain()) {
            place.store(value, Ordering::Relaxed);
        }
        if closed_changed {
            for (place, value) in self.closed.iter().zip(counters.closed) {
                place.store(value, Ordering::Relaxed);
            }
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    pub(crate) fn read(&self) -> Counters {
        let load = |place: &AtomicU64| place.load(Ordering::Relaxed);
        loop {
            let before = self.version.load(Ordering::Acquire);
            let counters = Counters::of(self.plain.each_ref().map(load), self.closed.each_ref().map(load));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return counters;
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
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
