//! Mailboxes with limits, on every driver: who waits, who is refused, and that what was accepted runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::Instant,
};

use anyport::{DriverChoice, Engine, Frame, Handler, Limits, PostError, Raw, Remote, Server, Session};

use crate::support::{Bed, PATIENCE, placed};

on_every_driver! {
    a_full_mailbox_refuses_and_counts
    post_waits_for_room
    a_shard_that_posts_to_itself_is_refused_and_not_stuck
    before_the_start_nobody_waits
    a_job_for_all_runs_once_on_each
    what_was_accepted_runs_before_the_end
    whoever_waits_for_room_hears_of_the_end
}

struct Plain;

impl Handler for Plain {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send_frame(frame);
    }
}

fn bed(driver: DriverChoice, shards: usize, mailbox_max_jobs: usize) -> Bed<Plain> {
    Bed::start(driver, shards, Raw, Limits { mailbox_max_jobs, ..Limits::default() }, |_| Plain)
}

/// Holds the shard up until the sender is dropped.
fn hold(remote: &Remote<Plain>) -> Sender<()> {
    let (release, released) = channel::<()>();
    let (tell, told) = channel();
    let wait = move |_: &mut Plain, _: &mut anyport::Shard<Plain>| {
        tell.send(()).unwrap();
        let _ = released.recv();
    };
    remote.post_to_shard(0, wait).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    release
}

fn a_full_mailbox_refuses_and_counts(driver: DriverChoice) {
    let bed = bed(driver, 1, 4);
    let ran = Arc::new(AtomicU64::new(0));
    let post = || {
        let ran = Arc::clone(&ran);
        bed.remote.try_post_to_shard(0, move |_, _| {
            ran.fetch_add(1, Ordering::Relaxed);
        })
    };
    let held = hold(&bed.remote);
    // The job that holds the shard up may still have its place.
    let results: Vec<_> = (0..10).map(|_| post()).collect();
    let accepted = results.iter().filter(|result| result.is_ok()).count() as u64;
    assert!((3..=4).contains(&accepted), "{results:?}");
    assert!(results[accepted as usize..].iter().all(|result| *result == Err(PostError::Full)));
    assert_eq!(bed.remote.jobs_refused(), 10 - accepted);
    drop(held);
    let counters = bed.counters_when(|counters| counters.jobs == 1 + accepted);
    assert_eq!((counters.jobs_refused, ran.load(Ordering::Relaxed)), (10 - accepted, accepted));
    bed.running.stop().unwrap();
    assert_eq!(post(), Err(PostError::Ended));
}

fn post_waits_for_room(driver: DriverChoice) {
    let bed = bed(driver, 1, 8);
    let (done, told) = channel();
    thread::scope(|scope| {
        for poster in 0..4_u32 {
            let (remote, done) = (bed.remote.clone(), done.clone());
            scope.spawn(move || {
                for job in 0..1_000_u32 {
                    let done = done.clone();
                    remote.post_to_shard(0, move |_, _| done.send((poster, job)).unwrap()).unwrap();
                }
            });
        }
    });
    let mut next = [0; 4];
    for _ in 0..4_000 {
        let (poster, job) = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(job, next[poster as usize], "out of order");
        next[poster as usize] += 1;
    }
    bed.running.stop().unwrap();
}

fn a_shard_that_posts_to_itself_is_refused_and_not_stuck(driver: DriverChoice) {
    let bed = bed(driver, 1, 4);
    let (tell, told) = channel();
    let remote = bed.remote.clone();
    bed.remote
        .post_to_shard(0, move |_, _| {
            let results: Vec<_> = (0..10).map(|_| remote.post_to_shard(0, |_, _| ())).collect();
            let all = remote.post_to_all(|_, _| ());
            tell.send((results, all)).unwrap();
        })
        .unwrap();
    let (results, all) = told.recv_timeout(PATIENCE).unwrap();
    assert!(results[0].is_ok() && results[9] == Err(PostError::Full), "{results:?}");
    assert_eq!(all, Err(PostError::Full));
    bed.running.stop().unwrap();
}

fn before_the_start_nobody_waits(driver: DriverChoice) {
    let mut engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let limits = Limits { mailbox_max_jobs: 2, ..Limits::default() };
    let remote = engine
        .add_server(Server::bind("127.0.0.1:0", Raw).limits(limits).placement(placed(1)), |_| Plain)
        .unwrap();
    let (done, told) = channel();
    let post = |number: u8| {
        let done = done.clone();
        remote.post_to_shard(0, move |_, _| done.send(number).unwrap())
    };
    assert_eq!([post(1), post(2), post(3)], [Ok(()), Ok(()), Err(PostError::Full)]);
    let running = engine.start().unwrap();
    assert_eq!((told.recv_timeout(PATIENCE), told.recv_timeout(PATIENCE)), (Ok(1), Ok(2)));
    assert_eq!(post(4), Ok(()));
    assert_eq!(told.recv_timeout(PATIENCE), Ok(4));
    running.stop().unwrap();
}

fn a_job_for_all_runs_once_on_each(driver: DriverChoice) {
    let bed = bed(driver, 3, 100);
    let (tell, told) = channel();
    bed.remote.post_to_all(move |_, shard| tell.send(shard.index()).unwrap()).unwrap();
    // The job is dropped after its last run, and its end of the channel with it.
    let mut ran: Vec<_> = told.iter().collect();
    ran.sort_unstable();
    assert_eq!(ran, [0, 1, 2]);
    bed.running.stop().unwrap();
    assert_eq!(bed.remote.post_to_all(|_, _| ()), Err(PostError::Ended));
}

fn what_was_accepted_runs_before_the_end(driver: DriverChoice) {
    // More than one turn takes, while posters go on until they hear that it is over.
    let bed = bed(driver, 2, 100_000);
    let (accepted, ran) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = bed.running.stopper();
    let held = hold(&bed.remote);
    let posters: Vec<_> = (0..3)
        .map(|poster| {
            let (remote, accepted, ran) = (bed.remote.clone(), Arc::clone(&accepted), Arc::clone(&ran));
            thread::spawn(move || {
                for shard in (0..2).cycle() {
                    let ran = Arc::clone(&ran);
                    let job = move |_: &mut Plain, _: &mut anyport::Shard<Plain>| {
                        ran.fetch_add(1, Ordering::Relaxed);
                    };
                    match remote.post_to_shard((shard + poster) % 2, job) {
                        Ok(()) => accepted.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return assert_eq!(error, PostError::Ended),
                    };
                }
            })
        })
        .collect();
    while accepted.load(Ordering::Relaxed) < 5_000 {
        thread::yield_now();
    }
    stop.drain();
    drop(held);
    bed.running.join().unwrap();
    for poster in posters {
        poster.join().unwrap();
    }
    assert_eq!(ran.load(Ordering::Relaxed), accepted.load(Ordering::Relaxed));
}

fn whoever_waits_for_room_hears_of_the_end(driver: DriverChoice) {
    // Whether one that has begun sleeps already cannot be seen: of so many ends, some find them all asleep.
    for _ in 0..10 {
        they_hear_of_the_end(driver);
    }
}

fn they_hear_of_the_end(driver: DriverChoice) {
    let bed = bed(driver, 1, 1);
    let held = hold(&bed.remote);
    let stop = bed.running.stopper();
    let (begin, started) = channel();
    let (hear, heard) = channel();
    for _ in 0..4 {
        let (remote, begin, hear) = (bed.remote.clone(), begin.clone(), hear.clone());
        thread::spawn(move || {
            begin.send(()).unwrap();
            // Until it is refused: each of them sleeps for room again and again.
            while remote.post_to_shard(0, |_, _| ()).is_ok() {}
            hear.send(remote.try_post_to_shard(0, |_, _| ())).unwrap();
        });
    }
    for _ in 0..4 {
        started.recv_timeout(PATIENCE).unwrap();
    }
    let start = Instant::now();
    while bed.remote.try_post_to_shard(0, |_, _| ()) != Err(PostError::Full) {
        assert!(start.elapsed() < PATIENCE, "there is still room");
        thread::yield_now();
    }
    stop.abort();
    drop(held);
    bed.running.join().unwrap();
    for _ in 0..4 {
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Err(PostError::Ended)), "it still waits");
    }
}
