//! What a service counts. A shard counts in plain integers and publishes them once a turn.

use std::sync::atomic::{AtomicU64, Ordering};

use anyport_core::CloseReason;

/// The counters that are not close reasons, in the order in which they are published.
const PLAIN: usize = 11;

/// Counts of one service since the engine started, over one shard or summed over all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Sessions now.
    pub sessions: u64,
    /// Connections accepted, those refused at capacity included.
    pub accepted: u64,
    /// Connections that this side opened.
    pub connected: u64,
    /// Connections that this side could not open.
    pub connect_failed: u64,
    /// Times that accepting was short of something.
    pub accept_faults: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes that the system took for sending.
    pub bytes_sent: u64,
    /// Frames given to the handler.
    pub frames_received: u64,
    /// Messages queued for sending.
    pub frames_sent: u64,
    /// Messages that `send` refused.
    pub frames_refused: u64,
    /// Turns of the shards.
    pub turns: u64,
    /// Sessions that ended, by [`CloseReason::index`].
    pub closed: [u64; CloseReason::COUNT],
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

    fn plain(&self) -> [u64; PLAIN] {
        [
            self.sessions,
            self.accepted,
            self.connected,
            self.connect_failed,
            self.accept_faults,
            self.bytes_received,
            self.bytes_sent,
            self.frames_received,
            self.frames_sent,
            self.frames_refused,
            self.turns,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut plain = self.plain();
        for (sum, value) in plain.iter_mut().zip(other.plain()) {
            *sum += value;
        }
        let mut closed = self.closed;
        for (sum, value) in closed.iter_mut().zip(other.closed) {
            *sum += value;
        }
        *self = Self::of(plain, closed);
    }

    fn of(plain: [u64; PLAIN], closed: [u64; CloseReason::COUNT]) -> Self {
        let [
            sessions,
            accepted,
            connected,
            connect_failed,
            accept_faults,
            bytes_received,
            bytes_sent,
            frames_received,
            frames_sent,
            frames_refused,
            turns,
        ] = plain;
        Self {
            sessions,
            accepted,
            connected,
            connect_failed,
            accept_faults,
            bytes_received,
            bytes_sent,
            frames_received,
            frames_sent,
            frames_refused,
            turns,
            closed,
        }
    }
}

/// Where a shard publishes its counters. On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Published {
    plain: [AtomicU64; PLAIN],
    closed: [AtomicU64; CloseReason::COUNT],
}

impl Published {
    pub(crate) fn publish(&self, counters: &Counters, closed_changed: bool) {
        for (place, value) in self.plain.iter().zip(counters.plain()) {
            place.store(value, Ordering::Relaxed);
        }
        if closed_changed {
            for (place, value) in self.closed.iter().zip(counters.closed) {
                place.store(value, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn read(&self) -> Counters {
        let load = |place: &AtomicU64| place.load(Ordering::Relaxed);
        Counters::of(self.plain.each_ref().map(load), self.closed.each_ref().map(load))
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
