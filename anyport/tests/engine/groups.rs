//! Groups, and the ways to send.

use std::sync::mpsc::Sender;

use anyport::{CloseReason, DriverChoice, Frame, Handler, Limits, Lines, Overflow, SendMarks, Sent, Session};

use crate::support::{Bed, Event, Events, Peer};

on_every_driver! {
    a_room_over_two_shards
    whoever_leaves_says_goodbye_to_its_rooms
    a_member_that_does_not_read_is_closed_and_the_others_get_everything
    newest_values_reach_a_slow_peer_and_the_rest_is_counted
    a_token_comes_back_when_its_frame_was_taken
    a_message_in_parts_and_a_last_word
}

/// `join`; `say TEXT`; `tell TEXT` (not to oneself); `bye`.
struct Room {
    tell: Sender<Event>,
}

impl Handler for Room {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let (verb, text) = match frame.iter().position(|byte| *byte == b' ') {
            Some(space) => (&frame[..space], &frame[space + 1..]),
            None => (&frame[..], &b""[..]),
        };
        let body = Frame { kind: 0, body: text };
        let id = session.id();
        let mut shard = session.shard();
        let room = shard.group("room");
        match verb {
            b"join" => {
                assert!(session.join(&room) && session.is_in(&room) && !session.join(&room));
                session.send(b"joined");
            }
            b"say" => drop(shard.publish(&room, body)),
            b"tell" => drop(shard.publish_except(&room, id, body)),
            b"value" => {
                // Enough at once to fill the queue of a peer that does not read.
                shard.publish_with(&room, body, Overflow::Conflate { key: u64::from(text[0]) });
            }
            b"token" => assert_eq!(session.send_notify(body, 77), Sent::Queued),
            b"parts" => drop(session.send_vectored(0, &[b"one ", b"", b"and ", text])),
            b"bye" => drop(session.drain_with(body)),
            _ => panic!("no such command"),
        }
    }

    fn on_sent(&mut self, _session: &mut Session<Self>, token: u64) {
        assert_eq!(token, 77);
        self.tell.send(Event::Other("sent")).unwrap();
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        for room in session.groups() {
            session.shard().publish(&room, Frame { kind: 0, body: b"somebody left" });
        }
        let _ = self.tell.send(Event::Close(reason));
    }
}

fn bed(driver: DriverChoice, shards: usize, limits: Limits) -> (Bed<Room>, Events) {
    let (tell, events) = Events::new();
    (Bed::start(driver, shards, Lines::new(200_000), limits, move |_| Room { tell: tell.clone() }), events)
}

fn joined(bed: &Bed<Room>) -> Peer {
    let mut peer = bed.peer();
    peer.send(b"join\n");
    peer.expect(b"joined\n");
    peer
}

fn a_room_over_two_shards(driver: DriverChoice) {
    let (bed, _events) = bed(driver, 2, Limits::default());
    let mut peers: Vec<_> = (0..30).map(|_| joined(&bed)).collect();
    assert_eq!(bed.remote.groups()[0].members, 30);
    for round in 0..20 {
        let line = format!("line {round}\n");
        peers[round].send(format!("say {line}tell and {line}").as_bytes());
        for (at, peer) in peers.iter_mut().enumerate() {
            peer.expect(line.as_bytes());
            if at != round {
                peer.expect(format!("and {line}").as_bytes());
            }
        }
    }
    bed.remote.publish(&bed.remote.group("room"), 0, b"from outside").unwrap();
    for peer in &mut peers {
        peer.expect(b"from outside\n");
    }
    let info = &bed.remote.groups()[0];
    assert_eq!((info.published, info.delivered), (41, 30 * 41 - 20));
    drop(peers);
    bed.counters_when(|counters| counters.sessions == 0);
    assert!(bed.remote.groups().is_empty());
    bed.running.stop().unwrap();
}

fn whoever_leaves_says_goodbye_to_its_rooms(driver: DriverChoice) {
    let (bed, events) = bed(driver, 2, Limits::default());
    let mut peers: Vec<_> = (0..6).map(|_| joined(&bed)).collect();
    peers.pop().unwrap().reset();
    assert_eq!(events.next_close(), CloseReason::PeerReset);
    for peer in &mut peers {
        peer.expect(b"somebody left\n");
    }
    assert_eq!(bed.remote.groups()[0].members, 5);
    bed.running.stop().unwrap();
}

/// Marks that a few large lines fill, whatever the system's buffers hold.
fn marks() -> Limits {
    let send = SendMarks { high_water_bytes: 500_000, low_water_bytes: 100_000, queue_max_bytes: 2_000_000 };
    Limits { send, ..Limits::default() }
}

fn a_member_that_does_not_read_is_closed_and_the_others_get_everything(driver: DriverChoice) {
    let (bed, events) = bed(driver, 2, marks());
    let (_slow, mut fast, mut publisher) = (joined(&bed), joined(&bed), bed.peer());
    let mut round = 0;
    loop {
        let line = format!("{round} {}", "x".repeat(150_000));
        publisher.send(format!("say {line}\n").as_bytes());
        let came = fast.line();
        if came == "somebody left" {
            assert_eq!(fast.line(), line);
            break;
        }
        assert!(came == line, "round {round} is not what came");
        round += 1;
        assert!(round < 2_000, "the slow one is still there");
    }
    assert_eq!(events.next_close(), CloseReason::SendQueueFull);
    bed.running.stop().unwrap();
}

fn newest_values_reach_a_slow_peer_and_the_rest_is_counted(driver: DriverChoice) {
    let (bed, _events) = bed(driver, 2, marks());
    let (mut slow, mut fast, mut publisher) = (joined(&bed), joined(&bed), bed.peer());
    let mut last = String::new();
    let mut rounds = 0;
    while bed.running.counters(0).messages_conflated < 20 {
        last = format!("k{rounds} {}", "x".repeat(150_000));
        publisher.send(format!("value {last}\n").as_bytes());
        fast.expect(format!("{last}\n").as_bytes());
        rounds += 1;
        assert!(rounds < 2_000, "nothing was conflated");
    }
    // The slow one reads all that there is for it: the last of it is the newest value.
    let mut came = 0;
    loop {
        let line = slow.line();
        came += 1;
        if line == last {
            break;
        }
    }
    let counters = bed.counters_when(|counters| counters.messages_conflated + came == rounds);
    assert_eq!((counters.messages_skipped, counters.messages_dropped), (0, 0));
    bed.running.stop().unwrap();
}

fn a_token_comes_back_when_its_frame_was_taken(driver: DriverChoice) {
    let (bed, events) = bed(driver, 1, Limits::default());
    let mut peer = bed.peer();
    peer.send(b"token hello\n");
    peer.expect(b"hello\n");
    assert_eq!(events.next(), Event::Other("sent"));
    bed.running.stop().unwrap();
}

fn a_message_in_parts_and_a_last_word(driver: DriverChoice) {
    let (bed, events) = bed(driver, 1, Limits::default());
    let mut peer = bed.peer();
    peer.send(b"parts other\nbye see you\n");
    assert_eq!(peer.rest(), b"one and other\nsee you\n");
    drop(peer);
    assert_eq!(events.next_close(), CloseReason::Drained);
    bed.running.stop().unwrap();
}

#[test]
fn a_group_of_another_service_is_a_mistake_that_says_so() {
    struct Other;
    impl Handler for Other {
        type State = ();
        type Codec = Lines;
        fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
            // Both services have a group at the same place of their tables.
            let group = session.shard().group(std::str::from_utf8(&frame).unwrap());
            assert!(session.join(&group));
            session.send_frame(frame);
        }
    }
    let mut engine = anyport::Engine::new().unwrap().shards(1).unwrap();
    let server = || anyport::Server::bind("127.0.0.1:0", Lines::default());
    let first = engine.add_server(server(), |_| Other).unwrap();
    let second = engine.add_server(server(), |_| Other).unwrap();
    let running = engine.start().unwrap();
    let mut peers = [0, 1].map(|service| Peer::connect(running.address(service).unwrap()));
    for peer in &mut peers {
        peer.send(b"mine\n");
        peer.expect(b"mine\n");
    }
    let (tell, told) = std::sync::mpsc::channel();
    first.post_to_shard(0, move |_, shard| tell.send(shard.group("mine")).unwrap()).unwrap();
    let group = told.recv_timeout(crate::support::PATIENCE).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let other = second.clone();
    let posted = second.post_to_shard(0, move |_, shard| {
        let panic = |call: &mut dyn FnMut()| {
            let call = std::panic::AssertUnwindSafe(call);
            let panic = std::panic::catch_unwind(call).expect_err("it was taken");
            tell.send(panic.downcast_ref::<String>().cloned()).unwrap();
        };
        panic(&mut || {
            let _ = other.publish(&group, 0, b"for the others");
        });
        panic(&mut || {
            let _ = shard.publish(&group, Frame { kind: 0, body: b"for the others" });
        });
        shard.for_each_member(&group, |_| panic!("it has no members in this service"));
        shard.for_each(|session| {
            panic(&mut || {
                let _ = session.join(&group);
            });
            assert!(!session.is_in(&group) && !session.leave(&group));
            assert_eq!(session.groups().len(), 1);
            session.send(b"ours");
        });
    });
    posted.unwrap();
    for _ in 0..3 {
        let text = told.recv_timeout(crate::support::PATIENCE).unwrap().expect("it says something");
        assert!(text.contains("group `mine` is of another service"), "{text}");
    }
    peers[1].expect(b"ours\n");
    assert_eq!(first.groups()[0].published, 0);
    running.stop().unwrap();
}
