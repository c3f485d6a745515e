//! Numbers by chance: from a stream, or from a hash of what they are for.

/// `SplitMix64` (Steele, Lea, Flood 2014): a counter that steps by the golden ratio, and a mixing function. Every
/// seed is good, 0 too; the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }
}

/// The mixing function: every bit of the result depends on every bit of the number. 0 stays 0.
#[inline]
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number that depends on both, and on nothing else.
#[inline]
pub(super) fn hash(one: u64, other: u64) -> u64 {
    mix(mix(one.wrapping_add(GOLDEN)) ^ other.wrapping_mul(GOLDEN))
}

/// A number by chance, still to be scaled to what it is for. 0 is always the least of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Drawn(pub(super) u64);

impl Drawn {
    /// Another one from it.
    pub(super) fn next(self) -> Self {
        Self(mix(self.0))
    }

    /// A number from 0 to `max`, both possible.
    #[inline]
    pub(super) fn up_to(self, max: u64) -> u64 {
        // The high half of a product: no division, and a bias far below what a simulation could notice.
        ((u128::from(self.0) * (u128::from(max) + 1)) >> 64) as u64
    }

    /// An index into `count` things.
    pub(super) fn below(self, count: usize) -> usize {
        self.up_to(count as u64 - 1) as usize
    }

    /// A number from `low` to `high`; every doubling on the way is as likely as another. In whole numbers, so that
    /// every machine gives the same.
    pub(super) fn log_uniform(self, low: u64, high: u64) -> u64 {
        let low = low.max(1);
        let doublings = (high / low).max(1).ilog2();
        let from = low << self.up_to(doublings.into());
        from + self.next().next().up_to(from.min(high - from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(7);
        let mut up_to = |max| Drawn(random.next()).up_to(max);
        let seen: std::collections::BTreeSet<_> = (0..1_000).map(|_| up_to(4)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(up_to(0), 0);
        let large = (0..1_000).map(|_| up_to(u64::MAX)).max();
        assert!(large > Some(u64::MAX / 2));
    }

    #[test]
    fn a_seed_gives_the_same_numbers_everywhere() {
        let mut random = Random::new(1_234_567);
        let first: Vec<_> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn log_uniform_numbers_fill_their_range() {
        let numbers: Vec<_> = (0..2_000).map(|n| Drawn(hash(1, n)).log_uniform(3, 3_000)).collect();
        assert!(numbers.iter().all(|number| (3..=3_000).contains(number)));
        assert!(numbers.iter().any(|number| *number < 6) && numbers.iter().any(|number| *number > 2_000));
        assert_eq!(Drawn(0).log_uniform(3, 3_000), 3);
        assert_eq!(Drawn(u64::MAX).log_uniform(5, 5), 5);
    }
}
