//! L3: what crosses from one shard to another. Bytes that several sessions send are there until the last of them has
//! been sent, and freed once; a connection that is handed over is adopted or closed.

use std::sync::{Arc, Weak};

use anyport_driver::model::{explore, must_fail, spawn};

use super::{Event, Plan, World};

/// What every session sends; long enough not to be copied.
pub(super) const MESSAGE: [u8; 2000] = [7; 2000];

/// A message to the sessions of two shards, while the engine ends.
fn a_broadcast() {
    let mut world = World::new(2);
    let plan = Plan { peers: (1, 0), ..Plan::default() };
    let message: Arc<[u8]> = Arc::from(MESSAGE);
    let watched = Arc::downgrade(&message);
    let remote = world.remote();
    for shard in 0..2 {
        let message = Arc::clone(&message);
        let _ = remote.post_to_shard(shard, move |_, shard| {
            shard.for_each(|session| {
                session.send_shared(Arc::clone(&message));
            });
        });
    }
    let shards = [spawn(world.shard(0, plan)), spawn(world.shard(1, plan))];
    drop(message);
    world.stop.drain();
    for shard in shards {
        shard.join().unwrap();
    }
    assert_eq!(watched.strong_count(), 0, "bytes that nobody frees");
    world.assert_all_over();
}

/// The same, by jobs that do not own what they send.
fn a_broadcast_of_borrowed_bytes() {
    let mut world = World::new(1);
    let shard = spawn(world.shard(0, Plan { peers: (1, 0), ..Plan::default() }));
    let message: Arc<[u8]> = Arc::from(MESSAGE);
    let borrowed: Weak<[u8]> = Arc::downgrade(&message);
    let (remote, log) = (world.remote(), world.log.clone());
    let ran = log.clone();
    let _ = remote.post_to_shard(0, move |_, _| {
        ran.note(Event::Ran(u8::from(borrowed.upgrade().is_some()), None));
    });
    drop(message);
    world.stop.drain();
    shard.join().unwrap();
    assert_eq!(log.ran(), [1], "freed before it was sent");
}

/// Two connections, the second of which the first shard hands to the other one, while the engine ends.
fn a_connection_is_handed_over() {
    let mut world = World::new(2);
    world.hands_over = true;
    let second = spawn(world.shard(1, Plan::default()));
    let first = spawn(world.shard(0, Plan { peers: (2, 0), ..Plan::default() }));
    world.stop.drain();
    first.join().unwrap();
    second.join().unwrap();
    // The mailboxes' senders are still alive here, as a `Remote` of the application may be.
    world.assert_all_over();
}

/// The same, and the engine ends when both are sessions: one that is not adopted leaves both shards asleep for ever.
fn both_connections_become_sessions() {
    let mut world = World::new(2);
    world.hands_over = true;
    let plan = |peers| Plan { peers, stops_at: Some(2), ..Plan::default() };
    let first = spawn(world.shard(0, plan((2, 0))));
    let second = spawn(world.shard(1, plan((0, 0))));
    first.join().unwrap();
    second.join().unwrap();
    world.assert_all_over();
    assert_eq!((world.log.opened(), world.counted().accepted), (2, 2));
}

/// The same, with a shard that ends without giving up its mailbox.
fn a_connection_for_a_mailbox_that_stays() {
    let mut world = World::new(2);
    world.hands_over = true;
    let stays = world.mailboxes[1].take();
    let first = spawn(world.shard(0, Plan { peers: (2, 0), ..Plan::default() }));
    world.stop.drain();
    first.join().unwrap();
    world.assert_all_over();
    drop(stays);
}

#[test]
fn l3_shared_bytes_are_freed_once_and_not_before_they_are_sent() {
    explore("L3 a broadcast", a_broadcast);
    must_fail("L3 planted: bytes that the job does not own", "freed before", a_broadcast_of_borrowed_bytes);
}

#[test]
fn l3_a_connection_that_is_handed_over_is_adopted_or_closed() {
    explore("L3 a connection is handed over", a_connection_is_handed_over);
    explore("L3 both connections become sessions", both_connections_become_sessions);
    must_fail(
        "L3 planted: a mailbox that stays",
        "connections that were lost",
        a_connection_for_a_mailbox_that_stays,
    );
}
