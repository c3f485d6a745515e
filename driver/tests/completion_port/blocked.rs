//! Sentences 4 and 8: who blocks, and who is dead.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(any(target_os = "linux", windows))]
use std::{io::Write, net::TcpStream, sync::Mutex};
use std::{sync::Arc, time::Duration};

use anyport_driver::{CompletionPort, PortConfig, WaitEnd, blocking};

use crate::support::{Bed, Crew, Task};

/// One may run, and two are there: whoever has the second packet has replaced whoever has the first.
fn is_replaced(crew: &Crew, task: Task) {
    crew.post(1, task);
    let first = crew.next();
    crew.post(2, Task::Run);
    let second = crew.next();
    assert_ne!(first.worker, second.worker);
    assert_eq!((first.number, second.number), (1, 2));
    second.let_go();
    first.let_go();
}

#[test]
fn s4_who_says_that_it_blocks_is_replaced() {
    for task in [Task::SayAndSleep, Task::SayTwiceAndSleep] {
        let crew = Crew::unwatched(1, 2);
        is_replaced(&crew, task);
        let counters = crew.counters_when(|counters| counters.waiting == 2);
        assert_eq!((counters.running, counters.blocked), (0, 0));
        assert!(counters.replaced == 1 || cfg!(windows), "{counters:?}");
        crew.end();
    }
}

#[test]
fn s4_a_thread_without_a_port_may_say_what_it_likes() {
    assert_eq!(blocking(|| blocking(|| 7)), 7);
    // And one whose port has gone.
    let port = CompletionPort::new(PortConfig::default()).unwrap();
    port.post(1).unwrap();
    assert_eq!(port.wait(None), Ok(1));
    drop(port);
    assert_eq!(blocking(|| 8), 8);
}

#[test]
fn s4_a_panic_in_what_blocks_ends_the_block() {
    let port = CompletionPort::new(PortConfig { concurrency: 1, ..PortConfig::default() }).unwrap();
    port.post(1).unwrap();
    port.wait(None).unwrap();
    let caught = std::panic::catch_unwind(|| blocking(|| panic!("on purpose")));
    assert!(caught.is_err());
    let counters = port.counters();
    assert_eq!((counters.running, counters.blocked), (1, 0), "{counters:?}");
}

/// Systems that do not tell what their threads do are told.
#[cfg(any(target_os = "linux", windows))]
fn watched(threads: usize) -> Crew {
    Crew::new(PortConfig { concurrency: 1, ..PortConfig::default() }, threads)
}

#[cfg(any(target_os = "linux", windows))]
#[test]
fn s4_who_says_nothing_is_found_asleep_on_a_channel() {
    let crew = watched(2);
    is_replaced(&crew, Task::Sleep(Bed::Channel));
    let counters = crew.counters_when(|counters| counters.waiting == 2);
    assert!(counters.replaced == 1 || cfg!(windows), "{counters:?}");
    // Three, one a millisecond, and so many more as the worker needs to fall asleep on a machine that is busy.
    assert!(counters.looks < 300, "{counters:?}");
    crew.end();
}

#[cfg(any(target_os = "linux", windows))]
#[test]
fn s4_who_says_nothing_is_found_asleep_on_a_socket() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let crew = watched(2);
    is_replaced(&crew, Task::Sleep(Bed::Socket(listener.accept().unwrap().0)));
    here.write_all(b"!").unwrap();
    crew.end();
}

#[cfg(any(target_os = "linux", windows))]
#[test]
fn s4_who_says_nothing_is_found_asleep_on_a_lock() {
    let lock = Arc::new(Mutex::new(()));
    let held = lock.lock().unwrap();
    let crew = watched(2);
    is_replaced(&crew, Task::Sleep(Bed::Lock(Arc::clone(&lock))));
    drop(held);
    crew.end();
}

/// All but one sleep, one after the other.
#[cfg(any(target_os = "linux", windows))]
#[test]
fn s4_every_thread_in_reserve_is_used() {
    let crew = watched(6);
    let mut sleepers = Vec::new();
    for number in 0..5 {
        crew.post(number, Task::Sleep(Bed::Channel));
        sleepers.push(crew.next());
    }
    crew.post(5, Task::Run);
    let last = crew.next();
    assert_eq!(last.number, 5);
    last.let_go();
    for sleeper in sleepers {
        sleeper.let_go();
    }
    crew.counters_when(|counters| counters.waiting == 6 && counters.running == 0 && counters.blocked == 0);
    crew.end();
}

/// A thread that runs, and has no processor most of the time: others have the one that it is bound to.
#[cfg(target_os = "linux")]
#[test]
fn s4_who_computes_is_never_taken_for_blocked() {
    const LOOKS: u64 = 60;
    let port = Arc::new(CompletionPort::new(PortConfig { concurrency: 1, ..PortConfig::default() }).unwrap());
    let processor = anyport_driver::machine::processors()[0];
    let over = Arc::new(AtomicBool::new(false));
    let bound = |work: Box<dyn FnOnce() + Send>| {
        std::thread::spawn(move || {
            anyport_driver::machine::pin_thread(processor).unwrap();
            work();
        })
    };
    let compute = |over: &AtomicBool| while !over.load(Ordering::Acquire) {};
    let (worker_port, worker_over) = (Arc::clone(&port), Arc::clone(&over));
    let worker = bound(Box::new(move || {
        worker_port.wait(None).unwrap();
        compute(&worker_over);
    }));
    let rivals: Vec<_> = (0..3)
        .map(|_| {
            let over = Arc::clone(&over);
            bound(Box::new(move || compute(&over)))
        })
        .collect();
    port.post(1).unwrap();
    let start = std::time::Instant::now();
    while port.counters().running == 0 {
        assert!(start.elapsed() < crate::support::PATIENCE, "the worker did not begin");
        std::thread::yield_now();
    }
    // Somebody who could take over waits, and a packet.
    let reserve_port = Arc::clone(&port);
    let reserve = std::thread::spawn(move || reserve_port.wait(None));
    port.post(2).unwrap();
    while port.counters().looks < LOOKS {
        assert!(start.elapsed() < crate::support::PATIENCE, "nobody looks");
        std::thread::yield_now();
    }
    let counters = port.counters();
    over.store(true, Ordering::Release);
    assert_eq!((counters.replaced, counters.blocked, counters.queued), (0, 0, 1), "{counters:?}");
    worker.join().unwrap();
    for rival in rivals {
        rival.join().unwrap();
    }
    assert_eq!(reserve.join().unwrap(), Ok(2), "it gets the packet when the worker has ended");
}

#[test]
fn s4_nobody_looks_while_no_packet_waits() {
    let crew = Crew::new(PortConfig { concurrency: 1, ..PortConfig::default() }, 3);
    for number in 0..20 {
        crew.post(number, Task::Sleep(Bed::Channel));
        crew.next().let_go();
        crew.counters_when(|counters| counters.waiting == 3);
    }
    assert_eq!(crew.port.counters().looks, 0);
    crew.end();
}

#[test]
fn s8_a_thread_that_ends_with_a_packet_does_not_count() {
    for task in [Task::Panic, Task::Return] {
        let crew = Crew::unwatched(1, 2);
        crew.post(1, task);
        assert_eq!(crew.next().number, 1);
        crew.post(2, Task::Run);
        let second = crew.next();
        assert_eq!(second.number, 2);
        second.let_go();
        let ends = crew.end();
        let closed = ends.iter().filter(|end| matches!(end, Ok(WaitEnd::Closed))).count();
        assert_eq!(closed, 1);
    }
}

#[test]
fn s8_a_thread_that_ends_in_what_blocks_does_not_count_either() {
    let port = Arc::new(CompletionPort::new(PortConfig { concurrency: 1, ..PortConfig::default() }).unwrap());
    let dies = Arc::clone(&port);
    port.post(1).unwrap();
    let thread = std::thread::spawn(move || {
        dies.wait(None).unwrap();
        blocking(|| panic!("on purpose"));
    });
    assert!(thread.join().is_err());
    let counters = port.counters();
    assert_eq!((counters.running, counters.blocked, counters.waiting), (0, 0, 0), "{counters:?}");
    assert_eq!(port.wait(Some(Duration::ZERO)), Err(WaitEnd::TimedOut));
}
