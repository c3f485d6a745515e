//! The one source of chance in a simulation.

/// `SplitMix64` (Steele, Lea, Flood 2014): a counter that steps by the golden ratio, and a mixing function. Every
/// seed is good, 0 too; the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `max`, both possible.
    pub(super) fn up_to(&mut self, max: u64) -> u64 {
        // The high half of a product: no division, and a bias far below what a simulation could notice.
        ((u128::from(self.next()) * (u128::from(max) + 1)) >> 64) as u64
    }

    /// True once in `times` on average.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.up_to(times.max(1) - 1) == 0
    }

    /// How much of `most` bytes moves in one step: at least one byte; often all, at times a single byte.
    pub(super) fn part_of(&mut self, most: usize) -> usize {
        assert!(most > 0, "a step moves at least one byte");
        match self.up_to(7) {
            0 => 1,
            1..=3 => most,
            _ => 1 + self.up_to(most as u64 - 1) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(7);
        let seen: std::collections::BTreeSet<_> = (0..1_000).map(|_| random.up_to(4)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(random.up_to(0), 0);
        assert!((0..1_000).all(|_| (1..=9).contains(&random.part_of(9))));
        assert!((0..100).all(|_| random.part_of(1) == 1 && random.one_in(1)));
        let large = (0..1_000).map(|_| random.up_to(u64::MAX)).max();
        assert!(large > Some(u64::MAX / 2));
    }

    #[test]
    fn a_seed_gives_the_same_numbers_everywhere() {
        let mut random = Random::new(1_234_567);
        let first: Vec<_> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
