//! What one shard of the loader counts, and the sum over all.

use anyport::CloseReason;
use hdrhistogram::Histogram;

/// Longest latency that is told apart: a bit more than an hour. Longer ones count as this.
const LATENCY_NS_MAX: u64 = 1 << 42;
/// Digits to which latencies are kept.
const DIGITS: u8 = 3;

/// Counts of a run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// In nanoseconds, of what belongs to the time that was measured.
    pub(crate) latency: Histogram<u64>,
    /// In nanoseconds, how long connections took to open, if the load counts that.
    pub(crate) connecting: Histogram<u64>,
    /// What was done while it was measured, in the unit of the load: messages, deliveries, cycles.
    pub(crate) done: u64,
    /// Messages that came back, or lines that were delivered, in all.
    pub(crate) answered: u64,
    /// Lines that were published in all, where each is delivered to many.
    pub(crate) sent: u64,
    /// Payload bytes that came back and were right, in all.
    pub(crate) bytes_checked: u64,
    /// Messages that were sent and did not come back.
    pub(crate) unanswered: u64,
    /// Open loop: messages that were due and not sent, because the server was too far behind.
    pub(crate) not_sent: u64,
    /// Open loop: how late a message was sent at most.
    pub(crate) late_max_ns: u64,
    /// Connections that ended before the run did, by [`CloseReason::index`].
    pub(crate) lost: [u64; CloseReason::COUNT],
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are in order");
        Self {
            connecting: latency.clone(),
            latency,
            done: 0,
            answered: 0,
            sent: 0,
            bytes_checked: 0,
            unanswered: 0,
            not_sent: 0,
            late_max_ns: 0,
            lost: [0; CloseReason::COUNT],
        }
    }

    /// Counts a latency.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.latency.saturating_record(nanos.max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.connecting.add(&other.connecting).expect("all histograms have the same bounds");
        self.done += other.done;
        self.answered += other.answered;
        self.sent += other.sent;
        self.bytes_checked += other.bytes_checked;
        self.unanswered += other.unanswered;
        self.not_sent += other.not_sent;
        self.late_max_ns = self.late_max_ns.max(other.late_max_ns);
        for (sum, count) in self.lost.iter_mut().zip(other.lost) {
            *sum += count;
        }
    }

    pub(crate) fn lost_total(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// Names and counts of the reasons for which connections were lost.
    pub(crate) fn lost_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = CloseReason::ALL.map(|reason| (reason.name(), self.lost[reason.index()]));
        counts.into_iter().filter(|&(_, count)| count > 0)
    }
}
