//! How many bytes the send queues of a service, and of an engine, may hold together.
//!
//! A shard takes what it needs from the common budget in grains and gives back what it no longer needs at the end of a
//! turn: the budget is never exceeded, and a message for which the grain has room touches nothing that shards share.

use std::sync::Arc;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Largest grain.
const GRAIN_MAX_BYTES: usize = 256 << 10;

/// Bytes that several shards share.
///
/// Relaxed throughout: it guards no memory, and what changes it sees its newest value whatever the ordering.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, used: AtomicUsize::new(0) })
    }

    fn take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one service on one shard has taken from its budgets.
#[derive(Debug)]
pub(crate) struct Purse {
    budgets: Vec<Arc<Budget>>,
    granted: usize,
    grain: usize,
}

impl Purse {
    /// A purse that `shards` of a service have each.
    pub(crate) fn new(budgets: Vec<Arc<Budget>>, shards: usize) -> Self {
        let smallest = budgets.iter().map(|budget| budget.max).min().unwrap_or(0);
        let grain = (smallest / (8 * shards.max(1))).clamp(1, GRAIN_MAX_BYTES);
        Self { budgets, granted: 0, grain }
    }

    /// How many bytes may be queued now.
    pub(crate) fn allowance(&self) -> usize {
        if self.budgets.is_empty() { usize::MAX } else { self.granted }
    }

    /// Takes more, so that `bytes` may be queued in all. False if there is not as much.
    pub(crate) fn raise(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.granted);
        missing == 0 || self.take(missing.next_multiple_of(self.grain)) || self.take(missing)
    }

    fn take(&mut self, bytes: usize) -> bool {
        for (at, budget) in self.budgets.iter().enumerate() {
            if !budget.take(bytes) {
                self.budgets[..at].iter().for_each(|budget| budget.give(bytes));
                return false;
            }
        }
        self.granted += bytes;
        true
    }

    /// Gives back what is far above the `bytes` that are queued, and everything if none are: shards where nothing waits
    /// must not keep the others from sending. True if the allowance changed.
    pub(crate) fn lower(&mut self, bytes: usize) -> bool {
        let spare = if bytes > 0 { 2 * self.grain } else { 0 };
        let keep = bytes + spare;
        if self.budgets.is_empty() || self.granted <= keep + spare {
            return false;
        }
        self.give(self.granted - keep);
        true
    }

    fn give(&mut self, bytes: usize) {
        self.budgets.iter().for_each(|budget| budget.give(bytes));
        self.granted -= bytes;
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.give(self.granted);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn grains_are_taken_and_given_back_and_the_budget_holds() {
        let (service, engine) = (Budget::new(100_000), Budget::new(60_000));
        let budgets = vec![Arc::clone(&service), Arc::clone(&engine)];
        let (mut first, mut second) = (Purse::new(budgets.clone(), 2), Purse::new(budgets, 2));
        assert!(first.raise(50_000) && first.allowance() >= 50_000);
        assert!(!second.raise(20_000), "the engine's budget was exceeded");
        assert_eq!(second.allowance(), 0);
        assert!(second.raise(60_000 - first.allowance()));
        assert!(first.lower(0) && second.raise(20_000));
        assert!(engine.used.load(Ordering::Relaxed) <= 60_000);
        drop((first, second));
        assert_eq!((service.used.load(Ordering::Relaxed), engine.used.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn shards_where_nothing_waits_keep_nothing_of_a_small_budget() {
        let budget = Budget::new(64 << 10);
        let mut purses: Vec<_> = (0..32).map(|_| Purse::new(vec![Arc::clone(&budget)], 32)).collect();
        for purse in &mut purses {
            assert!(purse.raise(100), "all shards can send at once");
        }
        for purse in &mut purses {
            assert!(purse.lower(0) && purse.allowance() == 0);
        }
        assert!(purses[31].raise(64 << 10), "the queues are empty, and one shard has all of it");
        assert!(!purses[0].raise(1) && !purses[31].lower(64 << 10));
    }

    #[test]
    fn without_a_budget_there_is_no_limit() {
        let purse = Purse::new(Vec::new(), 4);
        assert_eq!(purse.allowance(), usize::MAX);
    }
}
