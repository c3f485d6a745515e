//! How many bytes the send queues of a service, and of an engine, may hold together.
//!
//! A shard takes what it needs from the common budget in grains and gives back what it no longer needs at the end of a
//! turn: the budget is never exceeded, and a message touches nothing that shards share.

use std::sync::Arc;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Largest grain.
const GRAIN_MAX_BYTES: usize = 256 << 10;
/// Smallest grain.
const GRAIN_MIN_BYTES: usize = 4 << 10;

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
        let grain = (smallest / (8 * shards.max(1))).clamp(GRAIN_MIN_BYTES, GRAIN_MAX_BYTES);
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

    /// Gives back what is far above the `bytes` that are queued. True if the allowance changed.
    pub(crate) fn lower(&mut self, bytes: usize) -> bool {
        let keep = bytes + 2 * self.grain;
        if self.budgets.is_empty() || self.granted <= keep + 2 * self.grain {
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
    fn without_a_budget_there_is_no_limit() {
        let purse = Purse::new(Vec::new(), 4);
        assert_eq!(purse.allowance(), usize::MAX);
    }
}
