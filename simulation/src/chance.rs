//! Chance that is a function of a key: what is drawn for one session does not change when another one goes.

/// The mixing function of `SplitMix64` (Steele, Lea, Flood 2014).
pub(crate) fn mix(key: u64) -> u64 {
    let mut mixed = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A stream of numbers that belongs to one key.
#[derive(Clone, Debug)]
pub(crate) struct Chance {
    key: u64,
    drawn: u64,
}

impl Chance {
    /// The stream of `key`, and of `of` in it.
    pub(crate) fn new(key: u64, of: u64) -> Self {
        Self { key: mix(mix(key) ^ of), drawn: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.key.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` to `high`, both possible; small ones as likely as large ones of each size.
    pub(crate) fn size(&mut self, low: u64, high: u64) -> u64 {
        let (from, to) = ((low + 1).ilog2(), (high + 1).ilog2());
        let bits = from + self.below(u64::from(to - from) + 1) as u32;
        let (first, last) = ((1 << bits) - 1, (1u64 << (bits + 1)) - 2);
        let (first, last) = (first.max(low), last.min(high));
        first + self.below(last - first + 1)
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times.max(1)) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_in_their_range_and_reach_its_ends() {
        let mut chance = Chance::new(1, 2);
        let seen: std::collections::BTreeSet<_> = (0..2_000).map(|_| chance.size(3, 9)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8, 9]);
        assert!((0..2_000).map(|_| chance.size(0, 100_000)).all(|size| size <= 100_000));
        assert_eq!(chance.size(5, 5), 5);
    }

    #[test]
    fn a_key_has_its_own_numbers() {
        let first = |key, of| Chance::new(key, of).next();
        assert_eq!(first(1, 2), first(1, 2));
        assert!(first(1, 2) != first(1, 3) && first(1, 2) != first(2, 2));
    }
}
