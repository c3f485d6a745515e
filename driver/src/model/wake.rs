//! L1, the driver's half: a wake is never lost, and what was written before it is seen (sentence 9 of the contract).

use std::sync::Arc;

use loom::{
    sync::{
        Notify,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{driver::Notice, explore, must_fail, weaken_each};
use crate::Waker;

/// What a sleeper does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// It blocks although it was woken before it fell asleep.
    BlocksAnyway,
    /// It does not say that it falls asleep.
    SaysNothing,
    /// It consumes the wake after it has looked for work.
    LooksFirst,
    /// Whoever has work wakes before handing it over.
    WakesFirst,
}

/// One that sleeps, and two that have work for it; it ends when it has all of both. Before it falls asleep it looks so
/// often whether it was woken, as drivers do that spin.
fn sleeper_and_two_wakers(notice: Notice, looks: u32, bug: Bug) {
    let signal = Arc::new(Notify::new());
    let raised = Arc::clone(&signal);
    let waker = Waker::new(move || {
        raised.notify();
        Ok(())
    });
    let work: Arc<[AtomicUsize; 2]> = Arc::default();
    let wakers: Vec<_> = (0..2)
        .map(|number| {
            let (waker, work) = (waker.clone(), Arc::clone(&work));
            thread::spawn(move || {
                if bug == Bug::WakesFirst {
                    waker.wake();
                    work[number].store(1, Ordering::Relaxed);
                } else {
                    work[number].store(1, Ordering::Relaxed);
                    waker.wake();
                }
            })
        })
        .collect();
    // Relaxed: only the waker may make it visible.
    let look = || work.iter().all(|work| work.load(Ordering::Relaxed) == 1);
    loop {
        let woken = (0..looks).any(|_| waker.is_notified());
        let falls_asleep = || !woken && waker.fall_asleep();
        let asleep = bug == Bug::SaysNothing || falls_asleep() || bug == Bug::BlocksAnyway;
        if asleep {
            signal.wait();
        }
        let early = look();
        match notice {
            Notice::Always => waker.awake(),
            Notice::IfAny => (asleep || waker.is_notified()) && waker.awake(),
        };
        if if bug == Bug::LooksFirst { early } else { look() } {
            break;
        }
    }
    for waker in wakers {
        waker.join().unwrap();
    }
}

#[test]
fn l1_a_wake_is_never_lost() {
    explore("L1 a wake is never lost, io_uring", || sleeper_and_two_wakers(Notice::Always, 0, Bug::None));
    explore("L1 a wake is never lost, readiness and IOCP", || {
        sleeper_and_two_wakers(Notice::IfAny, 0, Bug::None);
    });
    explore("L1 a wake is never lost, io_uring that spins", || {
        sleeper_and_two_wakers(Notice::Always, 1, Bug::None);
    });
    explore("L1 a wake is never lost, readiness and IOCP that spin", || {
        sleeper_and_two_wakers(Notice::IfAny, 1, Bug::None);
    });
}

#[test]
fn l1_finds_what_loses_a_wake() {
    for (name, bug) in [
        ("L1 planted: blocks although it was woken", Bug::BlocksAnyway),
        ("L1 planted: does not say that it sleeps", Bug::SaysNothing),
        ("L1 planted: looks before it is awake", Bug::LooksFirst),
        ("L1 planted: wakes, then hands over", Bug::WakesFirst),
    ] {
        must_fail(name, "deadlock", move || sleeper_and_two_wakers(Notice::Always, 0, bug));
    }
}

#[test]
fn l1_needs_every_ordering_of_the_waker() {
    weaken_each(
        "driver/src/wake.rs",
        &[
            ("L1", || sleeper_and_two_wakers(Notice::Always, 0, Bug::None)),
            ("L1", || sleeper_and_two_wakers(Notice::IfAny, 0, Bug::None)),
        ],
    );
}
