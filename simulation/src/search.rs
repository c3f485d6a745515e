//! Many seeds: on every processor, with progress, until one fails.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyport::sim::FaultCounts;

use crate::{
    plan::Plan,
    world::{Options, Outcome, run},
};

/// What to search.
#[derive(Clone, Debug)]
pub struct Search {
    /// The first seed.
    pub first: u64,
    /// How many seeds, unless time is up before.
    pub count: u64,
    /// About how many steps each is planned for.
    pub steps: u64,
    /// Stop after this time.
    pub time: Option<Duration>,
    /// Threads to use.
    pub threads: usize,
    /// Failing seeds after which it stops.
    pub failures_max: usize,
    /// Say how far it is, every two seconds.
    pub progress: bool,
    /// Also keep a rule that is wrong ([`Options::canary`]).
    pub canary: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Seeds that were run.
    pub seeds: u64,
    /// Their steps.
    pub steps: u64,
    /// Sessions that they opened.
    pub sessions: u64,
    /// Virtual time that passed in them.
    pub elapsed: Duration,
    /// How long it took.
    pub took: Duration,
    /// Faults that fired.
    pub faults: FaultCounts,
    /// Seeds that failed, in order, and how.
    pub failures: Vec<(u64, String)>,
    /// All digests in one, whatever the order in which the seeds ended.
    pub digest: u64,
}

impl Found {
    /// Steps, in millions.
    pub fn millions(&self) -> f64 {
        self.steps as f64 / 1e6
    }

    /// Millions of steps a second, of all threads together.
    pub fn rate(&self) -> f64 {
        self.millions() / self.took.as_secs_f64().max(1e-9)
    }

    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.sessions += outcome.sessions;
        self.elapsed += outcome.elapsed;
        self.faults += &outcome.faults;
        self.digest = self.digest.wrapping_add(crate::chance::mix(outcome.digest ^ seed));
        if let Some(failure) = outcome.failure {
            self.failures.push((seed, failure));
        }
    }
}

/// Runs seeds. `on_thread` is called first on each thread: what is planted is planted there.
pub fn search(search: &Search, on_thread: impl Fn() + Sync) -> Found {
    let began = Instant::now();
    let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let found = Mutex::new(Found::default());
    let is_late = || search.time.is_some_and(|time| began.elapsed() >= time);
    std::thread::scope(|scope| {
        for _ in 0..search.threads.max(1) {
            scope.spawn(|| {
                on_thread();
                while !over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= search.count || is_late() {
                        break;
                    }
                    let seed = search.first + number;
                    let options = Options { canary: search.canary, ..Options::default() };
                    let outcome = run(&Plan::of(seed, search.steps), &options);
                    let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    found.add(seed, outcome);
                    if found.failures.len() >= search.failures_max {
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        if search.progress {
            let mut told = Instant::now();
            while next.load(Ordering::Relaxed) < search.count && !over.load(Ordering::Relaxed) && !is_late() {
                std::thread::park_timeout(Duration::from_millis(50));
                if told.elapsed() >= Duration::from_secs(2) {
                    told = Instant::now();
                    let found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let rate = found.steps as f64 / began.elapsed().as_secs_f64() / 1e6;
                    eprintln!(
                        "{:>6.0} s  {:>8} seeds  {:>10.1} million steps ({rate:.2} a second)  {} failures",
                        began.elapsed().as_secs_f64(),
                        found.seeds,
                        found.steps as f64 / 1e6,
                        found.failures.len(),
                    );
                }
            }
        }
    });
    let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.took = began.elapsed();
    let order: BTreeSet<_> = std::mem::take(&mut found.failures).into_iter().collect();
    found.failures = order.into_iter().collect();
    found
}
