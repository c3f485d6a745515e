//! Waking: sentence 9.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyport_driver::Driver;

use crate::bed::{Bed, World, pattern};

/// Far longer than any case waits.
const LONG: Duration = Duration::from_mins(10);
/// What a wait that should end at once may take on a busy machine.
const SOON: Duration = Duration::from_mins(1);

pub(crate) fn s09_a_wake_before_the_wait_ends_it<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let waker = bed.driver().waker();
    let start = bed.driver().now();
    for _ in 0..20 {
        waker.wake();
        bed.wait(Some(LONG));
    }
    assert!(bed.driver().now() - start < SOON, "a wake was not noticed");
    assert!(bed.log.is_empty());
}

pub(crate) fn s09_many_wakes_end_one_wait<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let waker = bed.driver().waker();
    for _ in 0..1_000 {
        waker.clone().wake();
    }
    let start = bed.driver().now();
    bed.wait(Some(LONG));
    assert!(bed.driver().now() - start < SOON);
    // All of them were for that wait: the next one blocks.
    let start = bed.driver().now();
    bed.wait(Some(Duration::from_millis(20)));
    assert!(bed.driver().now() - start >= Duration::from_millis(20));
}

pub(crate) fn s09_a_wake_from_another_thread_ends_the_wait<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (send, receive) = mpsc::channel();
    for round in 0..100 {
        let (waker, send) = (bed.driver().waker(), send.clone());
        let thread = thread::spawn(move || {
            send.send(round).expect("the case listens");
            waker.wake();
        });
        let started = Instant::now();
        // The simulator's time passes in a moment: it may wait more than once.
        loop {
            bed.wait(Some(LONG));
            if receive.try_recv() == Ok(round) {
                break;
            }
            assert!(started.elapsed() < SOON, "the wake was lost");
            thread::yield_now();
        }
        thread.join().expect("it only wakes");
    }
}

pub(crate) fn s09_no_wake_of_four_threads_is_lost<W: World>(seed: u64) {
    four_threads_wake(Bed::<W>::new(seed));
}

pub(crate) fn four_threads_wake<W: World>(mut bed: Bed<W>) {
    const THREADS: u64 = 4;
    const POSTS: u64 = 1_000;
    let (send, receive) = mpsc::channel();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (waker, send) = (bed.driver().waker(), send.clone());
            thread::spawn(move || {
                for post in 0..POSTS {
                    send.send(thread * POSTS + post).expect("the case listens");
                    waker.wake();
                    if post % 16 == 0 {
                        // Lets the driver fall asleep now and then.
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let started = Instant::now();
    let mut posts = Vec::new();
    while posts.len() < (THREADS * POSTS) as usize {
        bed.wait(Some(LONG));
        posts.extend(receive.try_iter());
        assert!(started.elapsed() < SOON, "a wake was lost after {} posts", posts.len());
    }
    posts.sort_unstable();
    assert!(posts.into_iter().eq(0..THREADS * POSTS));
    for thread in threads {
        thread.join().expect("it only posts");
    }
}

pub(crate) fn s09_wakes_do_not_disturb_completions<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let waker = bed.driver().waker();
    let (there, back) = (pattern(seed, 1 << 20), pattern(seed + 1, 1 << 20));
    client.feed(&there);
    let send = bed.send(socket, &back);
    bed.until("all bytes both ways", |bed| {
        waker.wake();
        client.pump();
        bed.received(receive).len() == there.len() && client.received.len() == back.len()
    });
    assert!(bed.received(receive) == there && client.received == back);
    assert_eq!(bed.end(send), crate::bed::Seen::sent(back.len()));
}

pub(crate) fn s09_a_waker_outlives_its_driver<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let waker = bed.driver().waker();
    bed.drop_driver();
    for _ in 0..100 {
        waker.wake();
    }
    // Nor does it disturb a driver that came later, on the same descriptors perhaps.
    let mut later = Bed::<W>::on(bed.world.clone(), seed, bed.config);
    waker.wake();
    let (socket, mut client) = later.pair();
    later.send_to(socket, &mut client, b"undisturbed");
    thread::spawn(move || waker.wake()).join().expect("it only wakes");
}
