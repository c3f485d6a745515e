//! The open loop's timetable: when each message is due, whether the server keeps up or not.
//!
//! Messages are dealt to a shard's connections in turn: message `k` belongs to connection `k % connections`, and
//! each connection sends its own in order. So a connection that is behind knows when its next message was due
//! without keeping a queue of what is owed, and does not hold up the others.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times and counts of a run lie far below 2^53"
)]

use crate::bench::crew::Seat;

/// When the messages of one shard are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timetable {
    period_ns: f64,
    first_ns: f64,
    connections: u64,
    /// Messages made due so far.
    due: u64,
}

/// A loader's share of the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) seat: Seat,
    pub(crate) connections: u64,
    pub(crate) connections_total: u64,
}

impl Timetable {
    /// `rate` is that of all connections of all shards together. Shards are offset against each other.
    pub(crate) fn new(rate: u64, share: Share) -> Self {
        let connections = share.connections.max(1);
        let period_ns = 1e9 * share.connections_total as f64 / (rate as f64 * connections as f64);
        let first_ns = period_ns * share.seat.index as f64 / share.seat.count as f64;
        Self { period_ns, first_ns, connections, due: 0 }
    }

    /// When message `message` is due, in nanoseconds from the start.
    pub(crate) fn due_at(&self, message: u64) -> u64 {
        (message as f64).mul_add(self.period_ns, self.first_ns) as u64
    }

    /// How many messages are due up to and at `now_ns`.
    pub(crate) fn due_by(&self, now_ns: u64) -> u64 {
        let since_first = now_ns as f64 - self.first_ns;
        if since_first < 0.0 { 0 } else { (since_first / self.period_ns) as u64 + 1 }
    }

    /// Makes the next message due, if it is by `now_ns`, and gives the connection that is to send it.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<usize> {
        if !self.is_behind(now_ns) {
            return None;
        }
        let connection = self.due % self.connections;
        self.due += 1;
        Some(connection as usize)
    }

    /// True while messages are to be made due by `now_ns`.
    pub(crate) fn is_behind(&self, now_ns: u64) -> bool {
        self.due < self.due_by(now_ns)
    }

    /// The time for which a connection's next message is due, if it has been made due.
    pub(crate) fn owed(&self, connection: u64, sent: u64) -> Option<u64> {
        let message = sent * self.connections + connection;
        (message < self.due).then(|| self.due_at(message))
    }

    /// How many messages a connection owes by `now_ns`.
    pub(crate) fn owed_count(&self, connection: u64, sent: u64, now_ns: u64) -> u64 {
        let dealt = (self.due_by(now_ns) + self.connections - 1 - connection) / self.connections;
        dealt.saturating_sub(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timetable(rate: u64, connections: u64) -> Timetable {
        Timetable::new(
            rate,
            Share { seat: Seat { index: 0, count: 1 }, connections, connections_total: connections },
        )
    }

    #[test]
    fn messages_are_due_at_fixed_times_and_dealt_in_turn() {
        let mut table = timetable(1000, 3);
        assert_eq!((table.due_by(0), table.due_by(999_999), table.due_by(1_000_000)), (1, 1, 2));
        let dealt: Vec<_> = std::iter::from_fn(|| table.next(4_000_000)).collect();
        assert_eq!(dealt, [0, 1, 2, 0, 1]);
        assert_eq!(table.next(4_999_999), None);
        assert_eq!((table.owed(0, 0), table.owed(0, 1), table.owed(0, 2)), (Some(0), Some(3_000_000), None));
    }

    #[test]
    fn what_a_connection_owes_is_counted_without_a_queue() {
        let table = timetable(1000, 3);
        // Due by 4 ms are messages 0 to 4: connections 0 and 1 have two, connection 2 has one.
        let owed = [0, 1, 2].map(|connection| table.owed_count(connection, 0, 4_000_000));
        assert_eq!(owed, [2, 2, 1]);
        assert_eq!(table.owed_count(0, 2, 4_000_000), 0);
    }

    #[test]
    fn shards_share_the_rate_by_their_connections() {
        let share =
            |index, connections| Share { seat: Seat { index, count: 2 }, connections, connections_total: 3 };
        let second = 1_000_000_000;
        let first = Timetable::new(3000, share(0, 2)).due_by(second - 1);
        let other = Timetable::new(3000, share(1, 1)).due_by(second - 1);
        assert_eq!((first, other), (2000, 1000));
    }
}
