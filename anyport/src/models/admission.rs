//! L6: `sessions_max` holds over all shards, and the count of live sessions comes back to zero.

use std::sync::Arc;

use anyport_core::CloseReason;
use anyport_driver::model::{explore, must_fail, spawn};

use super::{Kicks, Plan, World};
use crate::{
    admission::Live,
    counters::Counters,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Two shards with one peer each, and room for one session.
fn two_peers_and_one_place() {
    let mut world = World::new(2);
    world.sessions_max = 1;
    let plan = Plan { peers: (1, 0), ..Plan::default() };
    let shards = [spawn(world.shard(0, plan)), spawn(world.shard(1, plan))];
    world.stop.drain();
    for shard in shards {
        shard.join().unwrap();
    }
    let counted = world.counted();
    assert_eq!(counted.accepted, counted.closed_total(), "each is counted once");
    assert_eq!(counted.sessions, 0);
    world.assert_all_over();
}

/// One shard whose peers come one after the other and are thrown out at once, one with a peer of its own, and room for
/// one session: nobody is turned away while there is room.
fn a_place_that_is_free_is_given() {
    let mut world = World::new(2);
    world.sessions_max = 1;
    let plan = |peers| Plan { peers, kicks: Kicks::All, ..Plan::default() };
    let shards = [spawn(world.shard(0, plan((1, 1)))), spawn(world.shard(1, plan((1, 0))))];
    world.stop.drain();
    for shard in shards {
        shard.join().unwrap();
    }
    world.assert_all_over();
    let [first, second] = [0, 1].map(|shard| world.published[shard].read());
    let refused = |counters: &Counters| counters.closed_for(CloseReason::AtCapacity);
    if refused(&second) == second.accepted {
        assert_eq!(refused(&first), 0, "turned away by nobody's session");
    }
}

/// What a service does when it looks first and counts afterwards.
fn look_and_count(live: &Live, sessions_max: usize) -> bool {
    let room = live.now() < sessions_max;
    if room {
        live.count();
    }
    room
}

/// Three that ask for one of two places, one of whom leaves again.
fn three_and_two_places(admit: fn(&Live, usize) -> bool) {
    let live: Arc<Live> = Arc::default();
    let inside: Arc<AtomicUsize> = Arc::default();
    let others: Vec<_> = (0..2)
        .map(|number| {
            let (live, inside) = (Arc::clone(&live), Arc::clone(&inside));
            spawn(move || {
                if admit(&live, 2) {
                    assert!(inside.fetch_add(1, Ordering::Relaxed) < 2, "more than allowed");
                    if number == 0 {
                        inside.fetch_sub(1, Ordering::Relaxed);
                        live.leave();
                    }
                }
            })
        })
        .collect();
    if admit(&live, 2) {
        assert!(inside.fetch_add(1, Ordering::Relaxed) < 2, "more than allowed");
    }
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(live.now(), inside.load(Ordering::Relaxed));
}

/// What a service once did: it counts first, and takes that back.
fn count_and_look(live: &Live, sessions_max: usize) -> bool {
    live.count();
    let room = live.now() <= sessions_max;
    if !room {
        live.leave();
    }
    room
}

/// One that comes, leaves and comes again, one that comes, and one place: who is turned away had somebody before him.
fn nobody_is_turned_away_by_nobody(admit: fn(&Live, usize) -> bool) {
    let live: Arc<Live> = Arc::default();
    let other: Arc<AtomicUsize> = Arc::default();
    let thread = spawn({
        let (live, other) = (Arc::clone(&live), Arc::clone(&other));
        move || other.store(usize::from(admit(&live, 1)), Ordering::Relaxed)
    });
    let first = admit(&live, 1);
    if first {
        live.leave();
    }
    let again = admit(&live, 1);
    thread.join().unwrap();
    assert!(other.load(Ordering::Relaxed) == 1 || (first && again), "turned away by nobody");
}

#[test]
fn l6_sessions_max_holds_over_all_shards() {
    explore("L6 two peers and one place", two_peers_and_one_place);
    explore("L6 a place that is free is given", a_place_that_is_free_is_given);
    explore("L6 three and two places", || three_and_two_places(Live::admit));
    explore("L6 nobody is turned away by nobody", || nobody_is_turned_away_by_nobody(Live::admit));
    must_fail("L6 planted: counts, then looks", "turned away", || {
        nobody_is_turned_away_by_nobody(count_and_look);
    });
    must_fail("L6 planted: looks, then counts", "more than allowed", || three_and_two_places(look_and_count));
}
