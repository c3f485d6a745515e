//! L9: whoever waits for room in a mailbox gets it, or hears of the end. What was accepted runs, whenever the shard ends,
//! and what was refused does not.

use anyport_driver::model::{explore, spawn, weaken_each};

use super::{Event, Plan, World};
use crate::{remote::PostError, stop::Stop};

/// A mailbox for one job, and one who posts two: the second ends the engine, so that whoever sleeps for room that is
/// there sleeps for ever.
fn the_second_job_waits_for_the_first() {
    let mut world = World::with_room(1, 1);
    let (remote, log, stop) = (world.remote(), world.log.clone(), world.stop.clone());
    let shard = spawn(world.shard(0, Plan::default()));
    let ran = log.clone();
    remote.post_to_shard(0, move |_, _| ran.note(Event::Ran(1, None))).expect("there is room for one");
    let ran = log.clone();
    let second = remote.post_to_shard(0, move |_, shard| {
        ran.note(Event::Ran(2, None));
        shard.stop_engine();
    });
    match second {
        Ok(()) => {}
        // The shard is only starting: nobody waits for that.
        Err(PostError::Full) => stop.drain(),
        Err(PostError::Ended) => panic!("nobody has ended the engine yet"),
    }
    shard.join().unwrap();
    assert_eq!(log.ran(), if second.is_ok() { vec![1, 2] } else { vec![1] });
}

/// One who posts, and waits for room, while another ends the engine.
fn posting_while_it_ends(end: fn(&Stop), jobs_max: usize) {
    let mut world = World::with_room(1, jobs_max);
    let (remote, log) = (world.remote(), world.log.clone());
    let shard = spawn(world.shard(0, Plan::default()));
    let ran = log.clone();
    let poster = spawn(move || {
        let accepted: Vec<u8> = [1, 2]
            .into_iter()
            .filter(|&job| {
                let ran = ran.clone();
                remote.post_to_shard(0, move |_, _| ran.note(Event::Ran(job, None))).is_ok()
            })
            .collect();
        ran.note(Event::Accepted(accepted.len()));
    });
    end(&world.stop);
    poster.join().unwrap();
    shard.join().unwrap();
    let accepted = log.count(|event| matches!(event, Event::Ran(..)));
    assert_eq!(
        log.count(|event| *event == Event::Accepted(accepted)),
        1,
        "accepted, and not run: {:?}",
        log.ran()
    );
    assert!(log.ran().is_sorted());
}

#[test]
fn l9_whoever_waits_for_room_gets_it_or_hears_of_the_end() {
    explore("L9 the second job waits", the_second_job_waits_for_the_first);
    explore("L9 posting while it drains", || posting_while_it_ends(Stop::drain, 1));
    explore("L9 posting while it aborts", || posting_while_it_ends(Stop::abort, 2));
}

#[test]
fn l9_needs_every_ordering_of_the_room() {
    weaken_each("src/remote/room.rs", &[("L9", the_second_job_waits_for_the_first)]);
}
