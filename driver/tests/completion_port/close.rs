//! Sentences 7 and 10: the end of a port, and of packets.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use anyport_driver::{CompletionPort, PortConfig, PortError, WaitEnd};

use crate::support::{Crew, PATIENCE, Packet, Task, counters_when, shows_scheduling};

fn port<T: Send + 'static>() -> CompletionPort<T> {
    CompletionPort::new(PortConfig { concurrency: 1, ..PortConfig::default() }).unwrap()
}

#[test]
fn s7_close_wakes_everybody_who_waits() {
    let crew = Crew::unwatched(2, 8);
    let port = Arc::clone(&crew.port);
    assert!(crew.end().into_iter().all(|end| matches!(end, Ok(WaitEnd::Closed))));
    // Whoever comes later is told as well; closing again changes nothing.
    port.close();
    assert_eq!(port.wait(None).unwrap_err(), WaitEnd::Closed);
    assert_eq!(port.wait(Some(Duration::ZERO)).unwrap_err(), WaitEnd::Closed);
    assert_eq!(port.counters().waiting, 0);
}

#[test]
fn s7_a_closed_port_takes_nothing_and_hands_out_what_it_has() {
    let port = port();
    port.post(1).unwrap();
    port.post(2).unwrap();
    port.close();
    for posted in [port.post(3), port.try_post(3)] {
        assert!(matches!(posted, Err(PortError::Closed(3))), "{posted:?}");
    }
    assert_eq!([port.wait(None), port.wait(None)], [Ok(1), Ok(2)]);
    assert_eq!(port.wait(None), Err(WaitEnd::Closed));
    assert_eq!((port.counters().posted, port.counters().refused), (2, 2));
}

#[test]
fn s7_threads_in_reserve_stay_until_the_last_packet_is_taken() {
    let crew = Crew::unwatched(1, 3);
    crew.post(1, Task::SayAndSleep);
    let sleeper = crew.next();
    for number in 2..=3 {
        crew.post(number, Task::Run);
    }
    let runner = crew.next();
    crew.port.close();
    if shows_scheduling() {
        let counters = crew.port.counters();
        assert_eq!((counters.waiting, counters.queued), (1, 1), "{counters:?}");
    }
    runner.let_go();
    let last = crew.next();
    assert!(last.number == 3 || !shows_scheduling());
    last.let_go();
    sleeper.let_go();
    assert!(crew.end().into_iter().all(|end| matches!(end, Ok(WaitEnd::Closed))));
}

#[test]
fn s7_what_is_queued_can_be_taken_back() {
    let port = port();
    (0..5).for_each(|number| port.post(number).unwrap());
    port.close();
    assert_eq!(port.wait(None), Ok(0));
    assert_eq!(port.take_queued(), [1, 2, 3, 4]);
    assert_eq!(port.wait(None), Err(WaitEnd::Closed));
    assert!(port.take_queued().is_empty());
}

#[test]
fn s7_what_is_queued_can_be_taken_back_while_as_many_run_as_may() {
    let crew = Crew::unwatched(1, 1);
    crew.post(0, Task::Run);
    let runs = crew.next();
    (1..=3).for_each(|number| crew.post(number, Task::Run));
    let numbers = |queued: Vec<Packet>| queued.iter().map(|packet| packet.number).collect::<Vec<_>>();
    assert_eq!(numbers(crew.port.take_queued()), [1, 2, 3]);
    // What is posted afterwards is handed out, and nothing twice.
    crew.post(4, Task::Run);
    runs.let_go();
    let later = crew.next();
    assert_eq!(later.number, 4);
    crew.post(5, Task::Run);
    crew.port.close();
    assert_eq!(numbers(crew.port.take_queued()), [5]);
    later.let_go();
    assert!(crew.end().into_iter().all(|end| matches!(end, Ok(WaitEnd::Closed))));
}

#[test]
fn s7_what_was_taken_back_leaves_no_trace() {
    let port = port();
    (0..5).for_each(|number| port.post(number).unwrap());
    assert_eq!(port.take_queued(), [0, 1, 2, 3, 4]);
    assert_eq!(port.wait(Some(Duration::ZERO)), Err(WaitEnd::TimedOut));
    port.post(5).unwrap();
    assert_eq!(port.counters().queued, 1);
    assert_eq!([port.wait(None), port.wait(Some(Duration::ZERO))], [Ok(5), Err(WaitEnd::TimedOut)]);
}

#[test]
fn s7_close_ends_the_wait_of_posters() {
    let config = PortConfig { concurrency: 1, queue_max_packets: 1, ..PortConfig::default() };
    let port = Arc::new(CompletionPort::new(config).unwrap());
    port.post(0).unwrap();
    let posters: Vec<_> = (1..=3)
        .map(|number| {
            let port = Arc::clone(&port);
            std::thread::spawn(move || port.post(number))
        })
        .collect();
    counters_when(&port, |counters| counters.posting == 3);
    port.close();
    for poster in posters {
        assert!(matches!(poster.join().unwrap(), Err(PortError::Closed(_))));
    }
    assert_eq!(port.counters().posting, 0);
    assert_eq!(port.wait(Some(PATIENCE)), Ok(0));
}

/// A packet, and who still has it.
fn packet() -> (Arc<u32>, Weak<u32>) {
    let packet = Arc::new(7);
    let watch = Arc::downgrade(&packet);
    (packet, watch)
}

#[test]
fn s10_what_is_queued_is_dropped_with_the_port() {
    let port = port();
    let mut watches = Vec::new();
    for _ in 0..10 {
        let (packet, watch) = packet();
        port.post(packet).unwrap();
        watches.push(watch);
    }
    drop(port.wait(None).unwrap());
    assert_eq!(watches.iter().filter(|watch| watch.strong_count() == 1).count(), 9);
    drop(port);
    assert!(watches.iter().all(|watch| watch.strong_count() == 0));
}

#[test]
fn s10_a_packet_that_was_refused_is_the_posters() {
    let port = port();
    let (packet, watch) = packet();
    port.close();
    let back = port.post(packet).unwrap_err().into_packet();
    drop(port);
    assert_eq!((*back, watch.strong_count()), (7, 1));
    drop(back);
    assert_eq!(watch.strong_count(), 0);
}

#[test]
fn s10_a_closed_port_leaks_nothing_either() {
    let port = port();
    let (packet, watch) = packet();
    port.post(packet).unwrap();
    port.close();
    drop(port);
    assert_eq!(watch.strong_count(), 0);
}
