//! Groups, and what becomes of messages that slow peers do not read.

use std::time::Duration;

use anyport::{
    Counters, Engine, Frame, GroupInfo, Handler, Limits, Lines, Losses, Overflow, PostError, Reach, Remote,
    SendMarks, Sent, Server, Session, Spread,
    sim::{Behaviour, SimEngine, SimNet, SimPeer},
};

use crate::bed::{ADDRESS, SOON};

/// Obeys lines, several commands to a line, parted by semicolons: all of a line happen in one turn.
pub(crate) struct Rooms;

impl Rooms {
    fn obey(session: &mut Session<Self>, command: &str) {
        let mut words = command.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (verb, room, text) = (word(), word(), word());
        let id = session.id();
        let mut shard = session.shard();
        let group = shard.group(room);
        let frame = Frame { kind: 0, body: text.as_bytes() };
        let overflow = match verb {
            "skip" => Overflow::Skip,
            "drop" => Overflow::DropOldest,
            "value" => {
                let key = text.split(' ').next().and_then(|key| key.parse().ok()).unwrap_or(0);
                Overflow::Conflate { key }
            }
            _ => Overflow::Close,
        };
        match verb {
            "join" => assert!(session.join(&group)),
            "leave" => assert!(session.leave(&group)),
            "tell" => {
                let reach = shard.publish_except(&group, id, frame);
                assert_eq!(reach, Reach::Members(group.members() - usize::from(session.is_in(&group))));
            }
            "say" | "skip" | "drop" | "value" => {
                assert!(matches!(shard.publish_with(&group, frame, overflow), Reach::Members(_)));
            }
            "maybe" => drop(session.send_with(frame, Overflow::DropOldest)),
            "direct" => assert_eq!(session.send_frame(frame), Sent::Queued),
            "losses" => {
                let Losses { skipped, dropped, conflated } = session.losses();
                session.send(format!("lost {skipped} {dropped} {conflated}").as_bytes());
            }
            other => panic!("`{other}` is no command"),
        }
    }
}

impl Handler for Rooms {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = String::from_utf8(frame.to_vec()).unwrap();
        for command in line.split(';') {
            Self::obey(session, command.trim());
        }
    }
}

pub(crate) struct Bed {
    pub(crate) engine: SimEngine,
    pub(crate) remote: Remote<Rooms>,
}

impl Bed {
    pub(crate) fn new(shards: usize, net: &SimNet, limits: Limits) -> Self {
        let mut engine = Engine::new().unwrap().shards(shards).unwrap().spread(Spread::HandOver);
        let server = Server::bind(ADDRESS, Lines::new(100_000)).limits(limits);
        let remote = engine.add_server(server, |_| Rooms).unwrap();
        Self { engine: engine.simulate(net).unwrap(), remote }
    }

    pub(crate) fn peer(&mut self) -> SimPeer {
        self.engine.net().connect(ADDRESS.parse().unwrap()).unwrap()
    }

    pub(crate) fn say(&mut self, peer: &mut SimPeer, line: &str) {
        self.engine.write(peer, format!("{line}\n").as_bytes(), SOON);
    }

    /// What has arrived at a peer, line by line, when nothing moves any more.
    pub(crate) fn lines(&mut self, peer: &mut SimPeer) -> Vec<String> {
        let mut read = Vec::new();
        self.engine.run_until(SOON, |_| {
            peer.read(&mut read);
            false
        });
        String::from_utf8(read).unwrap().lines().map(str::to_owned).collect()
    }

    pub(crate) fn info(&self, name: &str) -> GroupInfo {
        let infos = self.remote.groups();
        infos.into_iter().find(|info| info.name == name).expect("the group has members")
    }

    pub(crate) fn counters(&self) -> Counters {
        self.engine.counters(0)
    }

    pub(crate) fn end(mut self) {
        self.engine.check().unwrap();
        self.engine.stop().unwrap();
        assert!(self.remote.groups().is_empty(), "groups outlive their members: {:?}", self.remote.groups());
    }
}

#[test]
fn members_on_every_shard_get_what_is_published_in_order() {
    let net = SimNet::new(1);
    let mut bed = Bed::new(3, &net, Limits::default());
    let mut peers: Vec<_> = (0..7).map(|_| bed.peer()).collect();
    for peer in &mut peers {
        bed.say(peer, "join lobby");
        assert!(bed.lines(peer).is_empty());
    }
    assert_eq!(bed.info("lobby").members, 7);
    bed.say(&mut peers[2], "say lobby one; tell lobby two; say lobby three");
    for (at, peer) in peers.iter_mut().enumerate() {
        let wanted: &[&str] = if at == 2 { &["one", "three"] } else { &["one", "two", "three"] };
        assert_eq!(bed.lines(peer), wanted, "peer {at}");
    }
    let info = bed.info("lobby");
    assert_eq!((info.published, info.delivered, info.losses), (3, 20, Losses::default()));
    assert_eq!(bed.counters().frames_sent, 20);
    drop(peers);
    bed.engine.run_for(SOON);
    bed.end();
}

#[test]
fn direct_messages_joins_and_leaves_keep_their_place_among_those_of_groups() {
    let net = SimNet::new(2);
    let mut bed = Bed::new(1, &net, Limits::default());
    let (mut one, mut other) = (bed.peer(), bed.peer());
    bed.say(&mut other, "join a; join b");
    bed.lines(&mut other);
    bed.say(
        &mut one,
        "say a 1; join a; say a 2; direct - 3; say b 4; join b; say b 5; say a 6; leave a; say a 7; direct - 8; say b 9",
    );
    assert_eq!(bed.lines(&mut one), ["2", "3", "5", "6", "8", "9"]);
    assert_eq!(bed.lines(&mut other), ["1", "2", "4", "5", "6", "7", "9"]);
    drop((one, other));
    bed.engine.run_for(SOON);
    bed.end();
}

#[test]
fn a_group_without_members_reaches_nobody_and_leaves_nothing() {
    let net = SimNet::new(3);
    let mut bed = Bed::new(2, &net, Limits::default());
    let mut peer = bed.peer();
    bed.say(&mut peer, "say nobody hello; direct - still here");
    assert_eq!(bed.lines(&mut peer), ["still here"]);
    assert!(bed.remote.groups().is_empty());
    drop(peer);
    bed.end();
}

/// Marks for slow readers: little room.
pub(crate) fn tight() -> Limits {
    let send = SendMarks { high_water_bytes: 4_000, low_water_bytes: 2_000, queue_max_bytes: 20_000 };
    Limits { send, ..Limits::default() }
}

/// One reads, one does not; both are members of `room`. What is published goes beyond what the network and the queue of
/// the slow one hold. Gives what each was sent in the end.
fn slow_and_fast(
    verb: &str,
    text: impl Fn(usize) -> String,
    count: usize,
) -> (Vec<String>, Vec<String>, Bed) {
    let mut behaviour = Behaviour::default();
    behaviour.socket_buffer_bytes = 2_000..=2_000;
    let net = SimNet::with_behaviour(4, behaviour);
    let mut bed = Bed::new(2, &net, tight());
    let (mut publisher, mut slow, mut fast) = (bed.peer(), bed.peer(), bed.peer());
    for member in [&mut slow, &mut fast] {
        bed.say(member, "join room");
        bed.lines(member);
    }
    let mut got = Vec::new();
    for number in 0..count {
        bed.say(&mut publisher, &format!("{verb} room {}", text(number)));
        got.extend(bed.lines(&mut fast));
        bed.engine.check().unwrap();
    }
    let mut late = bed.lines(&mut slow);
    bed.say(&mut slow, "losses");
    late.extend(bed.lines(&mut slow));
    (late, got, bed)
}

fn hundred(number: usize) -> String {
    format!("{number} {}", "x".repeat(100))
}

fn numbers(lines: &[String]) -> Vec<usize> {
    lines.iter().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

pub(crate) fn losses(lines: &[String]) -> [usize; 3] {
    let last = lines.last().expect("it was asked what was lost").strip_prefix("lost ").expect("and answered");
    let mut numbers = last.split(' ').map(|number| number.parse().unwrap());
    std::array::from_fn(|_| numbers.next().unwrap())
}

#[test]
fn by_default_a_member_that_does_not_read_is_closed_and_the_others_get_everything() {
    let (_, got, bed) = slow_and_fast("say", hundred, 400);
    assert_eq!(numbers(&got), (0..400).collect::<Vec<_>>());
    assert_eq!(bed.counters().closed_for(anyport::CloseReason::SendQueueFull), 1);
    assert_eq!(bed.info("room").members, 1);
    bed.end();
}

#[test]
fn what_is_skipped_is_counted_exactly_and_the_rest_comes_in_order() {
    let (late, got, bed) = slow_and_fast("skip", hundred, 200);
    assert_eq!(numbers(&got), (0..200).collect::<Vec<_>>());
    let [skipped, dropped, conflated] = losses(&late);
    let came = numbers(&late);
    assert_eq!((came.len() + skipped, dropped, conflated), (200, 0, 0));
    assert_eq!(came, (0..came.len()).collect::<Vec<_>>(), "the first ones are kept");
    let info = bed.info("room");
    assert_eq!(info.losses, Losses { skipped: skipped as u64, ..Losses::default() });
    assert_eq!(info.delivered, (200 + came.len()) as u64);
    assert_eq!(bed.counters().messages_skipped, skipped as u64);
    bed.end();
}

#[test]
fn dropping_the_oldest_keeps_the_newest() {
    let (late, _, bed) = slow_and_fast("drop", hundred, 200);
    let [skipped, dropped, conflated] = losses(&late);
    let came = numbers(&late);
    assert_eq!((skipped, came.len() + dropped, conflated), (0, 200, 0));
    assert_eq!(came.last(), Some(&199));
    assert!(came.windows(2).all(|pair| pair[0] < pair[1]), "{came:?}");
    assert_eq!(bed.info("room").losses.dropped, dropped as u64);
    bed.end();
}

#[test]
fn of_each_value_the_newest_comes_and_every_other_is_counted() {
    let (late, _, bed) = slow_and_fast("value", |number| format!("{} {number}", number % 3), 300);
    let [skipped, dropped, conflated] = losses(&late);
    assert_eq!((skipped, dropped), (0, 0));
    let values: Vec<_> = late[..late.len() - 1].iter().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(values.len() + conflated, 300);
    for (key, newest) in [("0", "297"), ("1", "298"), ("2", "299")] {
        let last = values.iter().rev().find(|(of, _)| *of == key).unwrap();
        assert_eq!(last.1, newest, "the newest value of {key}");
    }
    assert_eq!(bed.counters().messages_conflated, conflated as u64);
    bed.end();
}

#[test]
fn two_values_of_a_key_in_one_turn_are_one() {
    let net = SimNet::new(5);
    let mut bed = Bed::new(2, &net, Limits::default());
    let (mut publisher, mut member) = (bed.peer(), bed.peer());
    bed.say(&mut member, "join feed");
    bed.lines(&mut member);
    bed.say(&mut publisher, "value feed 7 old; value feed 8 other; value feed 7 new");
    assert_eq!(bed.lines(&mut member), ["8 other", "7 new"]);
    let info = bed.info("feed");
    assert_eq!((info.delivered, info.losses.conflated), (2, 1));
    drop((publisher, member));
    bed.engine.run_for(SOON);
    bed.end();
}

#[test]
fn a_budget_that_is_used_up_costs_those_who_read_least() {
    let mut behaviour = Behaviour::default();
    behaviour.socket_buffer_bytes = 2_000..=2_000;
    let net = SimNet::with_behaviour(6, behaviour);
    let limits = Limits { service_queue_max_bytes: Some(64 << 10), ..Limits::default() };
    let mut bed = Bed::new(1, &net, limits);
    let mut publisher = bed.peer();
    let mut slow: Vec<_> = (0..10).map(|_| bed.peer()).collect();
    let mut fast: Vec<_> = (0..10).map(|_| bed.peer()).collect();
    for peer in slow.iter_mut().chain(&mut fast) {
        bed.say(peer, "join room");
        bed.lines(peer);
    }
    for number in 0..400 {
        bed.say(&mut publisher, &format!("say room {}", hundred(number)));
        for peer in &mut fast {
            let lines = bed.lines(peer);
            assert_eq!(numbers(&lines), [number]);
        }
        bed.engine.check().unwrap();
    }
    let closed = bed.counters().closed_for(anyport::CloseReason::SendBudget);
    assert!(closed > 0 && bed.info("room").members == 20 - closed as usize, "{closed} were closed");
    drop((slow, fast, publisher));
    bed.engine.run_for(Duration::from_secs(20));
    bed.end();
}

#[test]
fn what_another_group_says_in_the_same_turn_costs_nobody_his_place() {
    let behaviour = Behaviour::default().with_socket_buffer_bytes(2_000..=2_000);
    let net = SimNet::with_behaviour(9, behaviour);
    let limits = Limits { service_queue_max_bytes: Some(128 << 10), ..Limits::default() };
    let mut bed = Bed::new(1, &net, limits);
    let (mut publisher, mut late, mut reader) = (bed.peer(), bed.peer(), bed.peer());
    let mut many: Vec<_> = (0..40).map(|_| bed.peer()).collect();
    for peer in &mut many {
        bed.say(peer, "join many");
        bed.lines(peer);
    }
    bed.say(&mut late, "join late");
    bed.say(&mut reader, "join reader");
    // One has much to read yet, and may: there is room for it.
    let large = "x".repeat(70_000);
    bed.say(&mut publisher, &format!("say late {large}"));
    // Then some is for one and little for many. All of it for all of them would be above the budget.
    let some = "y".repeat(3_500);
    bed.say(&mut publisher, &format!("say reader {some}; say many hello"));
    for peer in &mut many {
        assert_eq!(bed.lines(peer), ["hello"]);
    }
    assert_eq!(bed.lines(&mut reader), [some]);
    assert_eq!(bed.lines(&mut late), [large]);
    assert_eq!(bed.counters().closed_total(), 0);
    drop((publisher, late, reader, many));
    bed.engine.run_for(Duration::from_secs(20));
    bed.end();
}

/// Peers that join, leave and publish at random, against a model that knows what each must get: on one shard, everything,
/// in order.
#[test]
fn whatever_they_do_everyone_gets_what_is_for_them_in_order() {
    for seed in 0..60 {
        random_rooms(seed);
    }
}

fn random_rooms(seed: u64) {
    let net = SimNet::new(seed);
    let mut bed = Bed::new(1, &net, Limits::default());
    let mut peers: Vec<_> = (0..5).map(|_| bed.peer()).collect();
    let mut rooms = vec![[false; 4]; peers.len()];
    let mut wanted: Vec<Vec<String>> = vec![Vec::new(); peers.len()];
    let mut draw = seed;
    let mut below = |bound: u64| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((draw >> 33) % bound) as usize
    };
    let mut said = 0;
    for _ in 0..40 {
        let who = below(peers.len() as u64);
        let mut line = Vec::new();
        for _ in 0..=below(8) {
            let room = below(4);
            let text = format!("{said}");
            said += 1;
            match below(5) {
                0 => {
                    let verb = if rooms[who][room] { "leave" } else { "join" };
                    rooms[who][room] = !rooms[who][room];
                    line.push(format!("{verb} {room}"));
                }
                1 => {
                    wanted[who].push(text.clone());
                    line.push(format!("direct - {text}"));
                }
                kind => {
                    let verb = if kind == 2 { "tell" } else { "say" };
                    let members = (0..peers.len()).filter(|&peer| rooms[peer][room]);
                    for peer in members.filter(|&peer| verb == "say" || peer != who) {
                        wanted[peer].push(text.clone());
                    }
                    line.push(format!("{verb} {room} {text}"));
                }
            }
        }
        bed.say(&mut peers[who], &line.join(";"));
        bed.engine.run_for(Duration::from_millis(2));
        bed.engine.check().unwrap();
    }
    for (at, peer) in peers.iter_mut().enumerate() {
        assert_eq!(bed.lines(peer), wanted[at], "seed {seed}, peer {at}");
    }
    drop(peers);
    bed.engine.run_for(SOON);
    bed.end();
}

#[test]
fn a_publish_says_how_many_it_reaches_and_refuses_what_the_codec_cannot_carry() {
    let net = SimNet::new(8);
    let mut bed = Bed::new(1, &net, Limits::default());
    let mut peer = bed.peer();
    bed.say(&mut peer, "join room");
    bed.lines(&mut peer);
    let (tell, told) = std::sync::mpsc::channel();
    let posted = bed.remote.post_to_shard(0, move |_, shard| {
        let group = shard.group("room");
        let large = vec![b'x'; 200_000];
        let reaches = [
            shard.publish(&group, Frame { kind: 0, body: b"hello" }),
            shard.publish(&group, Frame { kind: 0, body: &large }),
            shard.publish(&shard.group("empty"), Frame { kind: 0, body: b"hello" }),
        ];
        tell.send(reaches).unwrap();
    });
    posted.unwrap();
    assert_eq!(bed.lines(&mut peer), ["hello"]);
    let refused = Reach::Refused(anyport::Refusal::FrameTooLarge);
    assert_eq!(told.try_recv().unwrap(), [Reach::Members(1), refused, Reach::Members(0)]);
    let group = bed.remote.group("room");
    bed.remote.publish(&group, 0, b"from outside").unwrap();
    bed.remote.try_publish(&group, 0, b"and again").unwrap();
    assert_eq!(bed.lines(&mut peer), ["from outside", "and again"]);
    drop(peer);
    bed.engine.run_for(SOON);
    bed.engine.stop().unwrap();
    assert_eq!(bed.remote.publish(&group, 0, b"too late"), Err(PostError::Ended));
}
