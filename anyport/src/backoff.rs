//! When a connection is tried again.
//!
//! A server that restarts loses all its clients at once, and must not get them all back at once, again and again (R30).
//! So every wait is drawn: from the first wait up to three times the last one ("decorrelated jitter"), and at most the
//! cap. Clients that began together are soon spread evenly, and their peak falls as their waits grow.

use std::time::Duration;

use anyport_core::limits::InvalidLimit;

/// Each wait is at most so many times the one before.
const GROWTH: u64 = 3;

/// How a client's connections are tried again: [`Client::reconnect`](crate::Client::reconnect).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The shortest wait. Above zero. Default 100 ms.
    pub first: Duration,
    /// The longest wait. Not below `first`. Default 30 s.
    pub cap: Duration,
    /// Attempts in a row that may fail, or give a connection that is not stable, before the connection is given up.
    /// At least one. `None`, the default, never gives up.
    pub budget: Option<u32>,
    /// A connection that was open for so long was a stable one: what comes after it begins with the shortest waits
    /// and a whole budget. Default 10 s.
    pub stable_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            budget: None,
            stable_after: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// Checks the ranges.
    pub(crate) fn validate(&self) -> Result<(), InvalidLimit> {
        let wrong = |limit, rule, value: u128| {
            let value = usize::try_from(value).unwrap_or(usize::MAX);
            Err(InvalidLimit { limit, rule, value })
        };
        if self.first.is_zero() {
            return wrong("backoff.first", "must be above zero", 0);
        }
        if self.cap < self.first {
            let rule = "(in milliseconds) must not be below backoff.first";
            return wrong("backoff.cap", rule, self.cap.as_millis());
        }
        if self.budget == Some(0) {
            return wrong("backoff.budget", "must be above zero (None never gives up)", 0);
        }
        Ok(())
    }
}

/// Where a connection is in its attempts.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Attempts {
    /// Since the last stable connection.
    failed: u32,
    /// The last wait, in nanoseconds.
    waited: u64,
}

impl Attempts {
    /// Failures in a row.
    pub(crate) fn failed(self) -> u32 {
        self.failed
    }

    /// One more failed, or gave a connection that ended.
    pub(crate) fn count(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// How long to wait now; `None` once the budget is used up.
    pub(crate) fn wait(&mut self, backoff: &Backoff, random: &mut Random) -> Option<Duration> {
        if backoff.budget.is_some_and(|budget| self.failed >= budget) {
            return None;
        }
        let (first, cap) = (nanoseconds(backoff.first), nanoseconds(backoff.cap));
        let most = self.waited.max(first).saturating_mul(GROWTH).min(cap);
        self.waited = random.between(first, most.max(first));
        Some(Duration::from_nanos(self.waited))
    }

    /// A connection was stable.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Numbers from a seed (`SplitMix64`): waits are no secret, and the simulator must be able to repeat them.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both possible.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = u128::from(high - low) + 1;
        // The high half of the product: no modulo, and no bias that matters.
        let drawn = (u128::from(self.next()) * span) >> 64;
        low + drawn as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(backoff: &Backoff, seed: u64, count: usize) -> Vec<Option<Duration>> {
        let (mut attempts, mut random) = (Attempts::default(), Random::new(seed));
        let mut wait = || {
            attempts.count();
            attempts.wait(backoff, &mut random)
        };
        (0..count).map(|_| wait()).collect()
    }

    #[test]
    fn waits_grow_within_their_bounds_and_follow_from_the_seed() {
        let backoff = Backoff::default();
        for seed in 0..200 {
            let mut last = backoff.first;
            for wait in waits(&backoff, seed, 40) {
                let wait = wait.unwrap();
                assert!(
                    wait >= backoff.first && wait <= backoff.cap.min(last * 3),
                    "{wait:?} after {last:?}"
                );
                last = wait;
            }
            assert_eq!(waits(&backoff, seed, 40), waits(&backoff, seed, 40));
        }
    }

    #[test]
    fn a_thousand_clients_do_not_wait_alike() {
        let first: std::collections::BTreeSet<_> =
            (0..1_000).map(|seed| waits(&Backoff::default(), seed, 1)[0].unwrap()).collect();
        assert!(first.len() > 990, "{}", first.len());
        let early = first.iter().filter(|wait| **wait < Duration::from_millis(200)).count();
        assert!((350..650).contains(&early), "{early} of 1000 in the first half");
    }

    #[test]
    fn a_budget_ends_and_a_stable_connection_renews_it() {
        let backoff = Backoff { budget: Some(3), ..Backoff::default() };
        let given: Vec<_> = waits(&backoff, 1, 5).iter().map(Option::is_some).collect();
        assert_eq!(given, [true, true, false, false, false]);
        let (mut attempts, mut random) = (Attempts::default(), Random::new(1));
        for _ in 0..3 {
            attempts.count();
        }
        assert_eq!(attempts.wait(&backoff, &mut random), None);
        attempts.reset();
        attempts.count();
        let wait = attempts.wait(&backoff, &mut random).unwrap();
        assert!(wait <= backoff.first * 3, "{wait:?}");
    }

    #[test]
    fn the_longest_times_do_not_overflow() {
        let backoff = Backoff { first: Duration::from_secs(1), cap: Duration::MAX, ..Backoff::default() };
        assert!(waits(&backoff, 3, 1_000).iter().all(Option::is_some));
        let backoff = Backoff { first: Duration::MAX, cap: Duration::MAX, ..Backoff::default() };
        assert!(waits(&backoff, 3, 10).iter().all(Option::is_some));
        let mut attempts = Attempts { failed: u32::MAX, waited: 0 };
        attempts.count();
        assert_eq!(attempts.failed(), u32::MAX);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let limit = |backoff: Backoff| backoff.validate().unwrap_err().limit;
        Backoff::default().validate().unwrap();
        assert_eq!(limit(Backoff { first: Duration::ZERO, ..Backoff::default() }), "backoff.first");
        assert_eq!(limit(Backoff { cap: Duration::from_millis(1), ..Backoff::default() }), "backoff.cap");
        assert_eq!(limit(Backoff { budget: Some(0), ..Backoff::default() }), "backoff.budget");
    }
}
