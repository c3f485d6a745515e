//! How much may come in a time: token buckets of two integers. Time is an argument, in ticks of the
//! [wheel](crate::wheel).

use crate::wheel::TICK;

/// Billionths of a token: what a bucket counts in, so that nothing is lost to rounding.
const TOKEN: i64 = 1_000_000_000;

/// What fills a bucket, and how much it holds. One for all buckets of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Billionths of a token that a tick brings.
    per_tick: i64,
    /// Billionths of a token in a full bucket.
    capacity: i64,
}

impl Flow {
    /// So many tokens a second; a full bucket holds `burst` of them, one at least.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let nanoseconds = TICK.as_nanos() as i64;
        Self { per_tick: i64::from(per_second) * nanoseconds, capacity: i64::from(burst.max(1)) * TOKEN }
    }

    /// Tokens worth waiting for when a bucket is empty: what a hundredth of a second brings, so that a stream that is
    /// held to its rate is looked at a hundred times a second and not once for each token.
    pub fn portion(&self) -> u32 {
        let per_second = self.per_tick / TICK.as_nanos() as i64;
        let most = self.capacity / TOKEN;
        u32::try_from((per_second / 100).clamp(1, most)).unwrap_or(u32::MAX)
    }
}

/// A bucket of tokens. It may be in debt: what has arrived has arrived, and is paid for later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    level: i64,
    at: u64,
}

impl Bucket {
    /// A full one, at tick `now`.
    pub fn full(flow: &Flow, now: u64) -> Self {
        Self { level: flow.capacity, at: now }
    }

    /// Lets in what has come since it was last asked. Time that goes back brings nothing.
    fn fill(&mut self, flow: &Flow, now: u64) {
        let ticks = i64::try_from(now.saturating_sub(self.at)).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(flow.per_tick.saturating_mul(ticks)).min(flow.capacity);
        self.at = self.at.max(now);
    }

    /// Whole tokens in it at tick `now`; none if it is in debt.
    pub fn tokens(&mut self, flow: &Flow, now: u64) -> u32 {
        self.fill(flow, now);
        u32::try_from(self.level / TOKEN).unwrap_or(0)
    }

    /// Takes `tokens` at tick `now`, whether they are there or not.
    pub fn charge(&mut self, flow: &Flow, now: u64, tokens: u32) {
        self.fill(flow, now);
        self.level = self.level.saturating_sub(i64::from(tokens) * TOKEN);
    }

    /// True if more was taken than there was, and what has come since has not paid for it.
    pub fn is_in_debt(&self) -> bool {
        self.level < 0
    }

    /// Takes one token at tick `now` if there is one.
    pub fn take(&mut self, flow: &Flow, now: u64) -> bool {
        let there = self.tokens(flow, now) > 0;
        if there {
            self.level -= TOKEN;
        }
        there
    }

    /// Ticks from when it was last asked until `tokens` are in it, or it is full.
    pub fn ticks_until(&self, flow: &Flow, tokens: u32) -> u64 {
        let wanted = (i64::from(tokens) * TOKEN).min(flow.capacity);
        let missing = u64::try_from(wanted.saturating_sub(self.level)).unwrap_or(0);
        missing.div_ceil(flow.per_tick.max(1).cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheel::ticks_down;
    use std::time::Duration;

    const SECOND: u64 = 15_259;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        assert_eq!(ticks_down(Duration::from_secs(1)) + 1, SECOND);
        let flow = Flow::new(10, 5);
        let mut bucket = Bucket::full(&flow, 0);
        assert_eq!((0..100).filter(|_| bucket.take(&flow, 0)).count(), 5);
        let mut passed = 0;
        for tick in 0..=100 * SECOND {
            passed += u32::from(bucket.take(&flow, tick));
        }
        assert_eq!(passed, 1_000, "ten a second for a hundred seconds");
        // However long nothing comes, no more than a burst waits.
        assert_eq!(bucket.tokens(&flow, u64::MAX), 5);
    }

    #[test]
    fn a_debt_is_paid_and_the_wait_is_exact() {
        let flow = Flow::new(1_000, 2_000);
        let mut bucket = Bucket::full(&flow, 7);
        bucket.charge(&flow, 7, 2_000);
        assert!(!bucket.is_in_debt());
        bucket.charge(&flow, 7, 5_000);
        assert!(bucket.is_in_debt());
        let wait = bucket.ticks_until(&flow, 1);
        assert_eq!(bucket.tokens(&flow, 7 + wait - 1), 0);
        assert_eq!(bucket.tokens(&flow, 7 + wait), 1);
        // Of a full bucket's worth at most.
        let full = bucket.ticks_until(&flow, u32::MAX);
        assert_eq!(bucket.tokens(&flow, 7 + wait + full), 2_000);
        assert_eq!(bucket.ticks_until(&flow, 10), 0);
    }

    #[test]
    fn the_largest_numbers_and_a_clock_that_goes_back_do_not_overflow() {
        let flow = Flow::new(u32::MAX, u32::MAX);
        let mut bucket = Bucket::full(&flow, u64::MAX);
        for _ in 0..10 {
            bucket.charge(&flow, 0, u32::MAX);
        }
        assert_eq!(bucket.tokens(&flow, 3), 0);
        assert!(bucket.ticks_until(&flow, u32::MAX) > 0);
        let mut bucket = Bucket::full(&flow, 0);
        bucket.charge(&flow, 0, u32::MAX);
        assert_eq!(bucket.tokens(&flow, u64::MAX), u32::MAX);
    }

    #[test]
    fn what_is_worth_waiting_for_is_a_hundredth_of_a_second_within_a_burst() {
        let portions = [(1, 1), (50, 100), (1_000, 1_000), (1_000_000, 5)];
        assert_eq!(portions.map(|(rate, burst)| Flow::new(rate, burst).portion()), [1, 1, 10, 5]);
    }
}
