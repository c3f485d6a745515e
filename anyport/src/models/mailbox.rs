//! L1, the engine's half: no job is lost, whenever it is posted, and one poster's run in order. L2: a job that is posted
//! to a session runs on that session, or not at all.

use anyport_driver::model::{driver::Notice, explore, must_fail, spawn, weaken_each};

use super::{Event, Kicks, Plan, World, first_session};
use crate::{remote::Job, stop::Stop};

/// Jobs from two threads to a shard that may only be starting; the last of them ends the engine, so that a lost one
/// leaves the shard asleep for ever.
fn jobs_of_two_posters(notice: Notice) {
    let mut world = World::new(1);
    let log = world.log.clone();
    let post = |job: u8| {
        let (mail, log) = (world.mails[0].clone(), log.clone());
        move || {
            // As shards send to each other: the room that posted jobs need is modelled in L9.
            mail.send(Job::Shard(Box::new(move |_, shard| {
                log.note(Event::Ran(job, None));
                if log.ran().len() == 3 {
                    shard.stop_engine();
                }
            })))
        }
    };
    let (first, second, other) = (post(1), post(2), post(3));
    let shard = spawn(world.shard(0, Plan { notice, ..Plan::default() }));
    let poster = spawn(move || assert!(first() && second()));
    assert!(other());
    poster.join().unwrap();
    shard.join().unwrap();
    let in_order: Vec<_> = log.ran().into_iter().filter(|job| *job != 3).collect();
    assert_eq!(in_order, [1, 2]);
}

/// What is posted before the engine is told to end still runs. On a shard that others accept for: it has nothing to wait
/// for, and ends in the turn in which it sees the order.
pub(super) fn a_job_and_then(end: fn(&Stop)) {
    let mut world = World::new(2);
    world.hands_over = true;
    let (remote, log) = (world.remote(), world.log.clone());
    let shard = spawn(world.shard(1, Plan::default()));
    let ran = log.clone();
    remote
        .post_to_shard(1, move |_, _| ran.note(Event::Ran(1, None)))
        .expect("nobody has ended the engine yet");
    end(&world.stop);
    shard.join().unwrap();
    assert_eq!(log.ran(), [1], "a job was lost");
}

/// A session that closes at once, one that takes its slot, and a job for the first.
fn a_job_for_a_slot_that_is_used_again(by_id: bool) {
    let mut world = World::new(1);
    let (remote, log) = (world.remote(), world.log.clone());
    let plan = Plan { peers: (1, 1), kicks: Kicks::First, ..Plan::default() };
    let shard = spawn(world.shard(0, plan));
    let ran = log.clone();
    let posted = if by_id {
        remote.post(first_session(), move |_, session| ran.note(Event::Ran(1, Some(session.id()))))
    } else {
        // Whoever sits there.
        remote.post_to_shard(0, move |_, shard| {
            shard.for_each(|session| ran.note(Event::Ran(1, Some(session.id()))));
        })
    };
    assert!(posted.is_ok(), "nobody has ended the engine yet");
    world.stop.drain();
    shard.join().unwrap();
    let wrong = log.count(|event| matches!(event, Event::Ran(_, id) if *id != Some(first_session())));
    assert_eq!(wrong, 0, "ran on another session");
    assert!(log.ran().len() <= 1);
    world.assert_all_over();
}

#[test]
fn l1_no_job_is_lost() {
    explore("L1 no job is lost, io_uring", || jobs_of_two_posters(Notice::Always));
    explore("L1 no job is lost, readiness and IOCP", || jobs_of_two_posters(Notice::IfAny));
    explore("L1 a job before the end runs", || a_job_and_then(Stop::drain));
}

#[test]
fn l1_needs_every_ordering_of_the_mailbox() {
    weaken_each("src/remote/mailbox.rs", &[("L1", || jobs_of_two_posters(Notice::Always))]);
}

#[test]
fn l2_a_job_runs_on_its_own_session_or_not_at_all() {
    explore("L2 a job for a slot that is used again", || a_job_for_a_slot_that_is_used_again(true));
    must_fail("L2 planted: a job for a slot", "ran on another session", || {
        a_job_for_a_slot_that_is_used_again(false);
    });
}
