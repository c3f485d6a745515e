//! When the messages of an open loop are due, and on which connection.
//!
//! The gaps are those of a Poisson process, and each message falls on any of the connections: what many clients do that
//! know nothing of each other. Messages at even distances would never queue below saturation, and would hide what a
//! server does with the bursts that chance makes.

/// An endless sequence of messages, the same for the same seed.
pub struct Schedule {
    random: Random,
    /// Mean, in ns.
    gap_ns: f64,
    connections: u32,
    at_ns: f64,
}

impl Schedule {
    /// `rate` messages a second, from a moment 0 on.
    pub fn new(seed: u64, rate: f64, connections: u32) -> Self {
        let mut schedule = Self { random: Random::new(seed), gap_ns: 1e9 / rate, connections, at_ns: 0.0 };
        schedule.advance();
        schedule
    }

    /// When the next message is due.
    pub fn at_ns(&self) -> u64 {
        self.at_ns as u64
    }

    /// The next message: when, and on which connection.
    pub fn take(&mut self) -> (u64, u32) {
        let at = self.at_ns();
        self.advance();
        // The upper half of the product is a number below `connections`.
        let slot = ((self.random.next() >> 32) * u64::from(self.connections)) >> 32;
        (at, slot as u32)
    }

    fn advance(&mut self) {
        self.at_ns -= self.gap_ns * self.random.share().ln();
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// Seeds next to each other give sequences that have nothing in common.
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, at most 1.
    fn share(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        let messages = |seed| {
            let mut schedule = Schedule::new(seed, 1000.0, 10);
            std::iter::repeat_with(move || schedule.take()).take(100).collect::<Vec<_>>()
        };
        assert_eq!(messages(1), messages(1));
        assert_ne!(messages(1), messages(2));
        assert!(messages(1).is_sorted_by_key(|message| message.0));
    }

    /// 100,000 messages at 50,000 a second take 2 s, a part of e of the gaps is longer than the mean, and every
    /// connection has its share.
    #[test]
    fn gaps_and_connections_are_those_of_chance() {
        let mut schedule = Schedule::new(7, 50_000.0, 10);
        let (mut before, mut long, mut messages) = (0, 0, [0; 10]);
        for _ in 0..100_000 {
            let (at, slot) = schedule.take();
            long += u32::from(at - before > 20_000);
            messages[slot as usize] += 1;
            before = at;
        }
        assert!((1_980_000_000..2_020_000_000).contains(&before), "{before}");
        assert!((36_000..37_600).contains(&long), "{long}");
        assert!(messages.iter().all(|count| (9500..10_500).contains(count)), "{messages:?}");
    }
}
