//! Sentences 1 to 3, 5, 6, 9: which packet, which thread, how many.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyport_driver::{CompletionPort, PortConfig, PortError, WaitEnd, blocking};

use crate::support::{Crew, PATIENCE, Task, shows_scheduling};

fn port<T: Send + 'static>(concurrency: usize, queue_max_packets: usize) -> CompletionPort<T> {
    CompletionPort::new(PortConfig { concurrency, queue_max_packets, ..PortConfig::default() }).unwrap()
}

#[test]
fn s1_packets_come_in_the_order_in_which_they_were_posted() {
    let port = port(1, 1000);
    for number in 0..1000 {
        port.post(number).unwrap();
    }
    let taken: Vec<u32> = (0..1000).map(|_| port.wait(Some(Duration::ZERO)).unwrap()).collect();
    assert!(taken.is_sorted(), "{taken:?}");
    assert_eq!(port.wait(Some(Duration::ZERO)), Err(WaitEnd::TimedOut));
}

#[test]
fn s1_packets_of_one_poster_reach_a_waiting_thread_in_order() {
    let port = Arc::new(port(1, 8));
    let posts = Arc::clone(&port);
    let poster = std::thread::spawn(move || (0..20_000_u32).for_each(|number| posts.post(number).unwrap()));
    for expected in 0..20_000 {
        assert_eq!(port.wait(Some(PATIENCE)), Ok(expected));
    }
    poster.join().unwrap();
}

#[test]
fn s2_the_thread_that_began_to_wait_last_is_woken_first() {
    const THREADS: usize = 5;
    // Windows counts a thread as waiting a moment before it does.
    let rounds = if cfg!(windows) { 20 } else { 1 };
    let mut order = Vec::new();
    for _ in 0..rounds {
        let crew = Crew::unwatched(THREADS, THREADS);
        let mut taken = Vec::new();
        for number in 0..THREADS as u32 {
            crew.post(number, Task::Run);
            taken.push(crew.next());
        }
        order = taken.iter().map(|taken| taken.worker).collect();
        for taken in taken {
            taken.let_go();
        }
        assert!(crew.end().into_iter().all(|end| matches!(end, Ok(WaitEnd::Closed))));
        if order.is_sorted_by(|first, second| first > second) {
            return;
        }
    }
    assert!(!shows_scheduling(), "threads were woken in the order {order:?}");
}

#[test]
fn s2_one_thread_does_all_the_work_that_one_can_do() {
    let crew = Crew::unwatched(2, 4);
    let mut workers = Vec::new();
    for number in 0..50 {
        crew.post(number, Task::Run);
        let taken = crew.next();
        workers.push(taken.worker);
        taken.let_go();
        crew.counters_when(|counters| counters.waiting == 4);
    }
    workers.dedup();
    crew.end();
    // Warm: the others were never touched.
    assert!(workers == [3] || cfg!(windows), "{workers:?}");
}

#[test]
fn s3_never_more_run_than_may() {
    const PACKETS: usize = 400;
    let port = Arc::new(port(2, PACKETS));
    let now = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let (port, now) = (Arc::clone(&port), Arc::clone(&now));
            std::thread::spawn(move || {
                let [running, most] = &*now;
                while port.wait(None).is_ok() {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for packet in 0..PACKETS {
        port.post(packet).unwrap();
    }
    port.close();
    for thread in threads {
        thread.join().unwrap();
    }
    // A lock that a worker waits for in the standard library is a block like any other: on Windows, too.
    let most = now[1].load(Ordering::SeqCst);
    assert!(most <= 2 || cfg!(windows), "{most} ran at once");
}

#[test]
fn s3_a_packet_stays_queued_while_as_many_run_as_may() {
    let crew = Crew::unwatched(2, 4);
    for number in 0..3 {
        crew.post(number, Task::Run);
    }
    let (first, second) = (crew.next(), crew.next());
    if shows_scheduling() {
        let counters = crew.port.counters();
        assert_eq!((counters.queued, counters.running, counters.waiting), (1, 2, 2), "{counters:?}");
        assert!(crew.taken_now().is_none());
    }
    first.let_go();
    let third = crew.next();
    assert!(third.number == 2 || !shows_scheduling());
    second.let_go();
    third.let_go();
    crew.end();
}

#[test]
fn s3_waiting_at_another_port_ends_it_at_the_first() {
    let (first, second) = (Arc::new(port(1, 2)), port::<()>(1, 2));
    first.post(1).unwrap();
    first.post(2).unwrap();
    assert_eq!(first.wait(None), Ok(1));
    let waits = Arc::clone(&first);
    // It waits behind this thread, which runs; and has its packet once this one waits elsewhere.
    let other = std::thread::spawn(move || waits.wait(Some(PATIENCE)));
    assert_eq!(second.wait(Some(Duration::ZERO)), Err(WaitEnd::TimedOut));
    assert_eq!(other.join().unwrap(), Ok(2));
    assert_eq!(first.counters().running, 0);
}

#[test]
fn s5_who_comes_back_is_one_too_many_until_somebody_waits_again() {
    let crew = Crew::unwatched(1, 2);
    crew.post(1, Task::SayAndSleep);
    let sleeper = crew.next();
    crew.post(2, Task::Run);
    let runner = crew.next();
    let runner_worker = runner.worker;
    assert_ne!(sleeper.worker, runner_worker);
    // It comes back, is let go at once, and waits again; nobody new is woken for what is queued.
    crew.post(3, Task::Run);
    sleeper.let_go();
    if shows_scheduling() {
        let counters = crew.counters_when(|counters| counters.waiting == 1);
        assert_eq!((counters.queued, counters.running, counters.blocked), (1, 1, 0), "{counters:?}");
    }
    runner.let_go();
    let third = crew.next();
    assert!(third.worker == runner_worker || !shows_scheduling(), "whoever runs goes on");
    third.let_go();
    crew.end();
}

#[test]
fn s6_a_full_port_gives_the_packet_back() {
    let port = port(1, 2);
    port.try_post("first").unwrap();
    port.try_post("second").unwrap();
    let error = port.try_post("third").unwrap_err();
    assert!(matches!(error, PortError::Full("third")), "{error}");
    assert!(error.to_string().contains("queue_max_packets"), "{error}");
    assert_eq!(error.into_packet(), "third");
    assert_eq!(port.counters().refused, 1);
    // A thread of the port would wait for itself.
    assert_eq!(port.wait(None), Ok("first"));
    port.post("third").unwrap();
    assert_eq!(port.post("fourth").unwrap_err().into_packet(), "fourth");
    let nothing = PortConfig { queue_max_packets: 0, ..PortConfig::default() };
    assert!(CompletionPort::<()>::new(nothing).unwrap_err().to_string().contains("queue_max_packets"));
}

#[test]
fn s6_a_poster_waits_for_room() {
    let port = Arc::new(port(1, 1));
    port.post(0_u32).unwrap();
    let posters: Vec<_> = (1..=3)
        .map(|number| {
            let port = Arc::clone(&port);
            std::thread::spawn(move || port.post(number))
        })
        .collect();
    let mut taken: Vec<_> = (0..4).map(|_| port.wait(Some(PATIENCE)).unwrap()).collect();
    for poster in posters {
        poster.join().unwrap().unwrap();
    }
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2, 3]);
    assert_eq!((port.counters().posted, port.counters().refused), (4, 0));
}

#[test]
fn s9_no_wake_up_is_lost_whatever_the_threads_do() {
    const POSTERS: u32 = 3;
    const EACH: u32 = 5_000;
    let port = Arc::new(port(2, 16));
    let takers: Vec<_> = (0..6_u32)
        .map(|taker| {
            let port = Arc::clone(&port);
            std::thread::spawn(move || {
                let mut taken = Vec::new();
                for round in taker.. {
                    // From none to 1 ms, so that many give up in the very moment in which they are handed something.
                    let timeout = Duration::from_micros(u64::from(round % 7) * 170);
                    match port.wait(Some(timeout)) {
                        Ok(packet) if round % 3 == 0 => blocking(|| taken.push(packet)),
                        Ok(packet) => taken.push(packet),
                        Err(WaitEnd::TimedOut) => {}
                        Err(WaitEnd::Closed) => break,
                    }
                }
                taken
            })
        })
        .collect();
    std::thread::scope(|scope| {
        for poster in 0..POSTERS {
            let port = &port;
            scope.spawn(move || {
                for number in 0..EACH {
                    port.post(poster * EACH + number).unwrap();
                }
            });
        }
    });
    port.close();
    let mut taken: Vec<u32> = takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect();
    taken.sort_unstable();
    assert!(taken.into_iter().eq(0..POSTERS * EACH), "packets were lost, or came twice");
    let counters = port.counters();
    assert_eq!((counters.queued, counters.running, counters.blocked), (0, 0, 0), "{counters:?}");
}
