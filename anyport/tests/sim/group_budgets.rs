//! Groups, and the budgets of a service and of an engine.

use anyport::{
    CloseReason, Engine, Limits, Lines, Server,
    sim::{Behaviour, SimNet, SimPeer},
};

use crate::{
    bed::SOON,
    groups::{Bed, Rooms},
};

/// What a service with so small a budget may queue in all.
const BUDGET_BYTES: usize = 64 << 10;

fn bed(seed: u64) -> Bed {
    let behaviour = Behaviour::default().with_socket_buffer_bytes(2_000..=2_000);
    let limits = Limits { service_queue_max_bytes: Some(BUDGET_BYTES), ..Limits::default() };
    Bed::new(1, &SimNet::with_behaviour(seed, behaviour), limits)
}

fn members(bed: &mut Bed, group: &str, count: usize) -> Vec<SimPeer> {
    let mut peers: Vec<_> = (0..count).map(|_| bed.peer()).collect();
    for peer in &mut peers {
        bed.say(peer, &format!("join {group}"));
        bed.lines(peer);
    }
    peers
}

fn end(mut bed: Bed, peers: Vec<SimPeer>) {
    drop(peers);
    bed.engine.run_for(20 * SOON);
    bed.end();
}

#[test]
fn what_a_turn_said_before_a_direct_message_or_a_leave_has_its_room() {
    let mut bed = bed(1);
    let (mut one, mut other) = (bed.peer(), bed.peer());
    // The first bytes of all: nothing was granted yet.
    bed.say(&mut one, "join lobby; say lobby ann came; direct - welcome");
    assert_eq!(bed.lines(&mut one), ["ann came", "welcome"]);
    // More than what was granted leaves.
    let large = "x".repeat(20_000);
    bed.say(&mut other, &format!("join lobby; say lobby {large}; leave lobby"));
    assert_eq!(bed.lines(&mut other), [&*large]);
    assert_eq!(bed.lines(&mut one), [&*large]);
    assert_eq!(bed.counters().closed_total(), 0);
    end(bed, vec![one, other]);
}

#[test]
fn a_member_of_two_groups_has_room_for_what_both_say_in_a_turn() {
    let mut bed = bed(2);
    let mut both = members(&mut bed, "a", 1);
    bed.say(&mut both[0], "join b");
    let mut publisher = bed.peer();
    let (little, much) = ("x".repeat(100), "y".repeat(10_000));
    bed.say(&mut publisher, &format!("say a {little}; say b {much}; skip a {little}; drop b {much}"));
    assert_eq!(bed.lines(&mut both[0]), [&*little, &*much, &*little, &*much]);
    assert_eq!(bed.counters().closed_total(), 0);
    both.push(publisher);
    end(bed, both);
}

#[test]
fn as_many_members_are_kept_as_the_budget_has_room_for() {
    let mut bed = bed(3);
    let mut all = members(&mut bed, "room", 100);
    let mut publisher = bed.peer();
    let text = "x".repeat(999);
    bed.say(&mut publisher, &format!("say room {text}"));
    let got = all.iter_mut().map(|peer| bed.lines(peer)).filter(|lines| *lines == [&*text]).count();
    assert_eq!(got, BUDGET_BYTES / 1_000);
    assert_eq!(bed.counters().closed_for(CloseReason::SendBudget), 100 - got as u64);
    all.push(publisher);
    end(bed, all);
}

#[test]
fn what_the_system_has_of_one_makes_room_for_all_that_come() {
    let mut bed = bed(6);
    // The system has nearly all that they hold.
    let mut deaf = members(&mut bed, "deaf", 3);
    let mut publisher = bed.peer();
    bed.say(&mut publisher, &format!("say deaf {}", "x".repeat(20_000)));
    let text = "y".repeat(18_000);
    let mut readers = members(&mut bed, "room", 1);
    for _ in 0..3 {
        bed.say(&mut publisher, &format!("say room {text}"));
        assert_eq!(bed.lines(&mut readers[0]), [&*text]);
        assert_eq!(bed.counters().closed_for(CloseReason::SendBudget), 1);
    }
    deaf.append(&mut readers);
    deaf.push(publisher);
    end(bed, deaf);
}

#[test]
fn what_may_be_lost_is_lost_when_the_budget_is_used_up_and_closes_nobody() {
    let mut bed = bed(4);
    // They do not read, and hold little each and nearly everything together.
    let mut deaf = members(&mut bed, "deaf", 6);
    let mut readers = members(&mut bed, "room", 1);
    let mut publisher = bed.peer();
    bed.say(&mut publisher, &format!("say deaf {}", "x".repeat(10_000)));
    let text = "y".repeat(30_000);
    bed.say(&mut publisher, &format!("say room 1; skip room {text}; drop room {text}; value room 7 {text}"));
    assert_eq!(bed.lines(&mut readers[0]), ["1"]);
    assert_eq!(bed.info("room").losses.skipped, 3);
    assert_eq!(bed.counters().closed_total(), 0);
    deaf.append(&mut readers);
    deaf.push(publisher);
    end(bed, deaf);
}

#[test]
fn services_share_the_budget_of_their_engine() {
    let behaviour = Behaviour::default().with_socket_buffer_bytes(2_000..=2_000);
    let net = SimNet::with_behaviour(5, behaviour);
    let address = |service: usize| format!("10.0.0.1:{}", 9_000 + service);
    let mut engine = Engine::new().unwrap().shards(1).unwrap().send_budget(BUDGET_BYTES).unwrap();
    for service in 0..2 {
        let server = Server::bind(address(service), Lines::new(100_000));
        engine.add_server(server, |_| Rooms).unwrap();
    }
    let mut engine = engine.simulate(&net).unwrap();
    let connect = |service: usize| net.connect(address(service).parse().unwrap()).unwrap();
    let mut say = |peer: &mut SimPeer, line: &str| {
        engine.write(peer, format!("{line}\n").as_bytes(), SOON);
        engine.run_for(SOON);
        [0, 1].map(|service| engine.counters(service).closed_for(CloseReason::SendBudget))
    };
    let mut deaf: Vec<_> = (0..6).map(|_| connect(0)).collect();
    let (mut first, mut second, mut member) = (connect(0), connect(1), connect(1));
    for peer in deaf.iter_mut().chain([&mut member]) {
        assert_eq!(say(peer, "join room"), [0, 0]);
    }
    let text = "x".repeat(2_500);
    for _ in 0..4 {
        assert_eq!(say(&mut first, &format!("say room {text}")), [0, 0]);
    }
    // What those of the first service do not read is missing in the second, which closes its own for it.
    assert_eq!(say(&mut second, &format!("say room {}", "y".repeat(30_000))), [0, 1]);
    // The first service has room for most of this, and closes one to have it for all.
    assert_eq!(say(&mut first, &format!("say room {text}{text}")), [1, 1]);
    drop((deaf, first, second, member));
    engine.run_for(20 * SOON);
    engine.check().unwrap();
    engine.stop().unwrap();
}

#[test]
fn a_budget_that_is_too_small_is_refused() {
    let error = Engine::new().unwrap().send_budget(BUDGET_BYTES - 1).map(drop).unwrap_err().to_string();
    assert!(["send_budget", "65536", "65535"].iter().all(|part| error.contains(part)), "{error}");
    assert!(Engine::new().unwrap().send_budget(BUDGET_BYTES).is_ok());
}
