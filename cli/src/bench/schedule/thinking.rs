//! Connections that think: on each, messages are due at random intervals of their own, the same ones for a seed.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::bench::pattern::scramble;

/// When the messages of connections that think are due.
#[derive(Debug)]
pub(crate) struct Thinking {
    times: Times,
    connections: Vec<Connection>,
    /// The time of each connection's first message that was not made due, and the connection's place.
    coming: BinaryHeap<Reverse<(u64, usize)>>,
}

/// How long is thought before which message.
#[derive(Clone, Copy, Debug)]
struct Times {
    min_ns: u64,
    max_ns: u64,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    /// The same whatever loader it is on.
    name: u64,
    /// Messages made due so far.
    due: u64,
    /// The first message that is not known to have been sent, and its time.
    unsent: (u64, u64),
}

impl Times {
    fn draw(self, name: u64, message: u64) -> u64 {
        scramble(scramble(self.seed ^ scramble(name)) ^ message)
    }

    /// Before its first message a connection waits for a part of the longest time, so that they do not all begin at
    /// once.
    fn first(self, name: u64) -> u64 {
        self.draw(name, 0) % self.max_ns
    }

    /// Between a message and the one before it.
    fn before(self, name: u64, message: u64) -> u64 {
        self.min_ns + self.draw(name, message) % (self.max_ns - self.min_ns + 1)
    }
}

impl Connection {
    /// Goes on to the first message that was not sent.
    fn pass(&mut self, sent: u64, times: Times) {
        while self.unsent.0 < sent {
            let (message, at_ns) = self.unsent;
            self.unsent = (message + 1, at_ns + times.before(self.name, message + 1));
        }
    }
}

impl Thinking {
    /// Think times from `min_ns` to `max_ns`, which is above zero, for connections of these names.
    pub(crate) fn new(min_ns: u64, max_ns: u64, seed: u64, names: impl Iterator<Item = u64>) -> Self {
        let times = Times { min_ns, max_ns, seed };
        let connections: Vec<_> =
            names.map(|name| Connection { name, due: 0, unsent: (0, times.first(name)) }).collect();
        let first = connections.iter().enumerate();
        let coming = first.map(|(place, connection)| Reverse((connection.unsent.1, place))).collect();
        Self { times, connections, coming }
    }

    /// See [`Schedule`](super::Schedule).
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<usize> {
        let Reverse((due_ns, place)) = *self.coming.peek().filter(|next| next.0.0 <= now_ns)?;
        self.coming.pop();
        let connection = &mut self.connections[place];
        connection.due += 1;
        let then_ns = due_ns + self.times.before(connection.name, connection.due);
        self.coming.push(Reverse((then_ns, place)));
        Some(place)
    }

    /// See [`Schedule`](super::Schedule).
    pub(crate) fn is_behind(&self, now_ns: u64) -> bool {
        self.coming.peek().is_some_and(|next| next.0.0 <= now_ns)
    }

    /// See [`Schedule`](super::Schedule).
    pub(crate) fn owed(&mut self, connection: u64, sent: u64) -> Option<u64> {
        let connection = &mut self.connections[connection as usize];
        connection.pass(sent, self.times);
        (sent < connection.due).then_some(connection.unsent.1)
    }

    /// See [`Schedule`](super::Schedule).
    pub(crate) fn owed_count(&self, connection: u64, sent: u64, now_ns: u64) -> u64 {
        let mut connection = self.connections[connection as usize];
        connection.pass(sent, self.times);
        let first = connection.unsent.0;
        while connection.unsent.1 <= now_ns {
            connection.pass(connection.unsent.0 + 1, self.times);
        }
        connection.unsent.0 - first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn thinking(seed: u64) -> Thinking {
        Thinking::new(SECOND / 10, SECOND / 2, seed, 0..3)
    }

    /// Every message that is due by then, as the connection and the time.
    fn due(thinking: &mut Thinking, now_ns: u64) -> Vec<(usize, u64)> {
        let mut sent = [0; 3];
        let mut all = Vec::new();
        while let Some(place) = thinking.next(now_ns) {
            let at_ns = thinking.owed(place as u64, sent[place]).expect("it was just made due");
            sent[place] += 1;
            all.push((place, at_ns));
        }
        all
    }

    #[test]
    fn intervals_lie_between_the_two_and_come_in_order() {
        let all = due(&mut thinking(7), 100 * SECOND);
        assert!(all.is_sorted_by_key(|&(_, at_ns)| at_ns));
        for connection in 0..3 {
            let times: Vec<_> =
                all.iter().filter(|(place, _)| *place == connection).map(|&(_, at)| at).collect();
            let intervals = times.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(intervals.clone().all(|gap| (SECOND / 10..=SECOND / 2).contains(&gap)));
            // 100 s of 0.3 s each on the average.
            assert!((300..370).contains(&times.len()), "{}", times.len());
            assert!(intervals.min() < Some(SECOND / 8), "the whole range is used");
        }
    }

    #[test]
    fn a_seed_gives_the_same_times_and_another_others() {
        assert_eq!(due(&mut thinking(1), 20 * SECOND), due(&mut thinking(1), 20 * SECOND));
        assert_ne!(due(&mut thinking(1), 20 * SECOND), due(&mut thinking(2), 20 * SECOND));
    }

    #[test]
    fn what_was_not_sent_is_owed_with_the_time_for_which_it_was_due() {
        let mut thinking = thinking(1);
        let times: Vec<_> = due(&mut self::thinking(1), 20 * SECOND);
        let of_first: Vec<_> = times.iter().filter(|(place, _)| *place == 0).map(|&(_, at)| at).collect();
        assert_eq!(thinking.owed(0, 0), None, "nothing was made due");
        assert!(thinking.is_behind(20 * SECOND));
        while thinking.next(20 * SECOND).is_some() {}
        assert!(!thinking.is_behind(20 * SECOND));
        assert_eq!(thinking.owed_count(0, 0, 20 * SECOND), of_first.len() as u64);
        assert_eq!(thinking.owed(0, 5), Some(of_first[5]));
        assert_eq!(thinking.owed_count(0, 5, 20 * SECOND), of_first.len() as u64 - 5);
        assert_eq!(thinking.owed(0, of_first.len() as u64), None);
    }

    #[test]
    fn a_fixed_time_is_possible() {
        let mut fixed = Thinking::new(SECOND, SECOND, 1, 0..1);
        let times: Vec<_> = due(&mut fixed, 10 * SECOND).into_iter().map(|(_, at)| at).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == SECOND));
    }
}
