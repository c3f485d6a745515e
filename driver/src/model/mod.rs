//! What the concurrency models stand on; only with `--cfg loom`, and no part of the crate otherwise.
//!
//! The code under test is the real one. What is put in its place here is only what it stands on: atomics that loom
//! steps through ([`atomic`]), the standard library's channel and cell reduced to what they promise ([`channel`],
//! [`cell`]), and a driver that a [`Waker`](crate::Waker) wakes and that has no sockets of the system ([`driver`]).
//! What each model shows is in `docs/concurrency.md`.

pub mod atomic;
pub mod cell;
pub mod channel;
pub mod driver;
#[cfg(test)]
mod port;
pub mod thread;
#[cfg(test)]
mod wake;

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

pub use loom;

use atomic::{Site, Weakened};

/// Most steps of one schedule. A model that needs more has a loop that waits for ever.
const BRANCHES_MAX: usize = 20_000;
/// Preemptions of a schedule, unless `LOOM_MAX_PREEMPTIONS` says otherwise: what a bug needs is two or three.
const PREEMPTIONS: usize = 3;
/// Stack of a model's thread, in words.
const STACK_WORDS: usize = 64 << 10;
/// Name of the threads on which a model is expected to fail.
const PLANTED: &str = "planted";

/// Runs `model` under every schedule with at most three preemptions. Panics as the model does.
pub fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let began = Instant::now();
    let count = Arc::new(AtomicUsize::new(0));
    check(&count, model);
    println!("{name}: {} schedules, {:.1?}", count.load(Ordering::Relaxed), began.elapsed());
}

/// Runs a model that has a bug planted in it: loom must find it, and what it says must contain `expected`.
pub fn must_fail(name: &str, expected: &str, model: impl Fn() + Send + Sync + 'static) {
    match attempt(None, model) {
        (count, Some(found)) => {
            assert!(found.contains(expected), "{name}: found something else: {found}");
            println!("{name}: found after {count} schedules");
        }
        (count, None) => panic!("{name}: {count} schedules, and the planted bug was not found"),
    }
}

/// Weakens the orderings that `models` use in `file` one step, one after the other, and says which model notices.
/// Panics if none notices one.
pub fn weaken_each(file: &str, models: &[(&str, fn())]) {
    let mut sites: Vec<Site> = Vec::new();
    for (_, model) in models {
        sites.extend(std::thread::scope(|scope| {
            let seen = scope.spawn(|| {
                check(&Arc::default(), *model);
                atomic::sites_seen()
            });
            seen.join().expect("the model holds as it stands")
        }));
    }
    sites.retain(|site| site.file.ends_with(file));
    sites.sort();
    sites.dedup();
    assert!(!sites.is_empty(), "no atomic of {file} was reached");
    let mut unnoticed = Vec::new();
    for site in sites {
        for weaker in site.weaker() {
            let found = models.iter().find_map(|(name, model)| {
                let weakened = Weakened { site, to: *weaker };
                let (count, found) = attempt(Some(weakened), *model);
                found.map(|found| {
                    format!("{name} after {count} schedules: {}", found.lines().next().unwrap_or(""))
                })
            });
            match found {
                Some(found) => println!("{site} -> {weaker:?}: noticed by {found}"),
                None => unnoticed.push(format!("{site} -> {weaker:?}")),
            }
        }
    }
    assert!(unnoticed.is_empty(), "no model notices that these are weakened: {unnoticed:#?}");
}

/// Starts a thread of a model, with a stack that an engine's turn fits on: loom's own is 32 KiB.
pub fn spawn(body: impl FnOnce() + Send + 'static) -> loom::thread::JoinHandle<()> {
    let thread = loom::thread::Builder::new().stack_size(STACK_WORDS);
    thread.spawn(body).expect("loom starts what it is given")
}

fn check(count: &Arc<AtomicUsize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = BRANCHES_MAX;
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    let count = Arc::clone(count);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
}

/// Runs a model that may fail, on a thread of its own, because a failure leaves loom's state behind. Gives how many
/// schedules were run, and what was found.
fn attempt(weakened: Option<Weakened>, model: impl Fn() + Send + Sync + 'static) -> (usize, Option<String>) {
    quiet();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let thread = std::thread::Builder::new().name(PLANTED.into()).spawn(move || {
        atomic::weaken(weakened);
        panic::catch_unwind(AssertUnwindSafe(|| check(&counted, model)))
    });
    let ended = thread.expect("the system has a thread").join().and_then(|result| result);
    let found = ended.err().map(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    });
    (count.load(Ordering::Relaxed), found)
}

/// Keeps panics that are looked for out of the output.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(PLANTED) {
                usual(info);
            }
        }));
    });
}
