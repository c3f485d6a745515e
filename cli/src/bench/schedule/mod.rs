//! When messages are due, whether the server keeps up or not.
//!
//! A message that cannot leave when it is due, because too many are under way, leaves as soon as it can, and counts
//! from when it was due: a server that stalls is charged for all that it kept waiting, and not for one message of each
//! connection ("coordinated omission").

mod thinking;
mod timetable;

pub(crate) use thinking::Thinking;
pub(crate) use timetable::{Share, Timetable};

/// Messages that one turn makes due at most, so that answers are read in between.
pub(crate) const DUE_PER_TURN: u64 = 16 << 10;

/// When the messages of one loader are due. Times are nanoseconds from the start.
#[derive(Debug)]
pub(crate) enum Schedule {
    /// At a rate, dealt to the connections in turn.
    Even(Timetable),
    /// At random times on each connection.
    Thinking(Thinking),
}

impl Schedule {
    /// Makes the next message due, if it is by `now_ns`, and gives the connection that is to send it.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<usize> {
        match self {
            Self::Even(table) => table.next(now_ns),
            Self::Thinking(thinking) => thinking.next(now_ns),
        }
    }

    /// True while messages are to be made due by `now_ns`.
    pub(crate) fn is_behind(&self, now_ns: u64) -> bool {
        match self {
            Self::Even(table) => table.is_behind(now_ns),
            Self::Thinking(thinking) => thinking.is_behind(now_ns),
        }
    }

    /// The time for which a connection's next message is due, if it has been made due. `sent` is how many it has
    /// sent, and never falls.
    pub(crate) fn owed(&mut self, connection: u64, sent: u64) -> Option<u64> {
        match self {
            Self::Even(table) => table.owed(connection, sent),
            Self::Thinking(thinking) => thinking.owed(connection, sent),
        }
    }

    /// How many messages a connection owes by `now_ns`.
    pub(crate) fn owed_count(&self, connection: u64, sent: u64, now_ns: u64) -> u64 {
        match self {
            Self::Even(table) => table.owed_count(connection, sent, now_ns),
            Self::Thinking(thinking) => thinking.owed_count(connection, sent, now_ns),
        }
    }
}
