//! Shards, spreading, clients, and what comes from other threads.

use anyport::{
    Client, CloseReason, Engine, Limits, Lines, Server, Spread,
    sim::{Held, SimNet, SimPeer},
};

use crate::bed::{ADDRESS, Bed, Diary, Obedient, SOON, Told};

const UPSTREAM: &str = "10.0.0.2:9000";

/// Peers that were answered, and how many sessions each of four shards opened for them.
fn spread_over_four(spread: Spread, peers: usize) -> [usize; 4] {
    let mut bed = Bed::with(SimNet::new(1), 4, spread, Limits::default());
    let mut all: Vec<_> = (0..peers).map(|_| bed.peer()).collect();
    for (number, peer) in all.iter_mut().enumerate() {
        let line = format!("line {number}");
        assert_eq!(bed.ask(peer, &line), format!("{line}\n"));
    }
    let mut opened = [0; 4];
    for (shard, id) in bed.diary.opens() {
        assert_eq!(usize::from(id.shard()), shard);
        opened[shard] += 1;
    }
    drop(all);
    bed.stop();
    opened
}

#[test]
fn handing_over_is_exactly_even() {
    assert_eq!(spread_over_four(Spread::HandOver, 40), [10; 4]);
}

#[test]
fn sharing_a_port_reaches_every_shard() {
    let opened = spread_over_four(Spread::ReusePort, 100);
    assert_eq!(opened.iter().sum::<usize>(), 100);
    assert!(opened.iter().all(|count| *count > 0), "{opened:?}");
}

fn client_to(
    address: &str,
    connections: usize,
    shards: usize,
    net: &SimNet,
) -> (anyport::sim::SimEngine, Diary) {
    let diary = Diary::default();
    let told = diary.clone();
    let client = Client::to(address, Lines::default()).connections(connections);
    let engine = Engine::new().unwrap().shards(shards).unwrap();
    let engine = engine.connect(client, move |_| Obedient { diary: told.clone() }).unwrap();
    (engine.simulate(net).unwrap(), diary)
}

#[test]
fn a_client_is_answered_by_a_listener_of_the_test() {
    let net = SimNet::new(2);
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    let (mut engine, diary) = client_to(UPSTREAM, 6, 2, &net);
    assert_eq!(engine.address(0), None, "a client listens nowhere");
    let mut accepted: Vec<SimPeer> = Vec::new();
    assert!(engine.run_until(SOON, |engine| {
        accepted.extend(upstream.accept());
        accepted.len() == 6 && engine.counters(0).connected == 6
    }));
    for peer in &mut accepted {
        assert_eq!(engine.ask(peer, b"from above\n", b"\n", SOON), b"from above\n");
    }
    let shards: Vec<_> = diary.opens().into_iter().map(|(shard, _)| shard).collect();
    assert_eq!(shards.iter().filter(|shard| **shard == 0).count(), 3);
    // A connection that ends is not opened again.
    accepted.pop().unwrap().close();
    assert!(engine.run_until(SOON, |engine| engine.counters(0).sessions == 5));
    engine.check().unwrap();
    engine.stop().unwrap();
    assert_eq!(engine.held(), Held::default());
    assert_eq!(diary.closes().iter().filter(|reason| **reason == CloseReason::PeerClosed).count(), 1);
    assert_eq!(diary.closes().iter().filter(|reason| **reason == CloseReason::Drained).count(), 5);
}

#[test]
fn a_client_that_nobody_listens_to_is_told_so() {
    let net = SimNet::new(3);
    let (mut engine, diary) = client_to(UPSTREAM, 3, 1, &net);
    assert!(engine.run_until(SOON, |engine| engine.counters(0).connect_failed == 3));
    assert_eq!(diary.all(|line| (line.2 == Told::ConnectFailed).then_some(())).len(), 3);
    engine.stop().unwrap();
    assert_eq!(engine.held(), Held::default());
}

#[test]
fn services_of_one_engine_reach_each_other() {
    let net = SimNet::new(4);
    let (below, above) = (Diary::default(), Diary::default());
    let (told_below, told_above) = (below.clone(), above.clone());
    let mut engine = Engine::new().unwrap().shards(2).unwrap();
    let server = Server::bind(ADDRESS, Lines::default());
    engine.add_server(server, move |_| Obedient { diary: told_below.clone() }).unwrap();
    let client = Client::to(ADDRESS, Lines::default());
    let remote = engine.add_client(client, move |_| Obedient { diary: told_above.clone() }).unwrap();
    let mut engine = engine.simulate(&net).unwrap();
    assert!(engine.run_until(SOON, |engine| engine.counters(1).connected == 1));
    let (_, id) = above.opens()[0];
    assert!(
        remote
            .post(id, |_, session| {
                session.send(b"send 10");
            })
            .is_ok()
    );
    // The client echoes what it is answered, and so on.
    assert!(engine.run_until(SOON, |_| below.frames().len() >= 3 && above.frames().len() >= 3));
    assert_eq!(below.frames()[..2], [b"send 10".to_vec(), b"yyyyyyyyyy".to_vec()]);
    engine.stop().unwrap();
    assert_eq!((below.closes(), above.closes()), (vec![CloseReason::Drained], vec![CloseReason::Drained]));
    assert_eq!(engine.held(), Held::default());
}

#[test]
fn jobs_from_other_threads_run_on_their_shard_in_order() {
    let mut bed = Bed::with(SimNet::new(5), 3, Spread::HandOver, Limits::default());
    let mut peers: Vec<_> = (0..3).map(|_| bed.peer()).collect();
    let opens = bed.diary.opens();
    let remote = bed.remote.clone();
    let poster = std::thread::spawn(move || {
        for (shard, id) in opens {
            for number in 0..10 {
                assert!(
                    remote
                        .post(id, move |_, session| {
                            assert_eq!(session.shard().index(), shard);
                            session.send(format!("job {number}").as_bytes());
                        })
                        .is_ok()
                );
            }
            assert!(
                remote
                    .post_to_shard(shard, move |_, shard_of_job| {
                        assert_eq!(shard_of_job.index(), shard);
                        shard_of_job.for_each(|session| {
                            session.send(b"for all");
                        });
                    })
                    .is_ok()
            );
        }
    });
    poster.join().unwrap();
    for peer in &mut peers {
        for number in 0..10 {
            assert_eq!(bed.engine.read_line(peer, SOON), format!("job {number}\n"));
        }
        assert_eq!(bed.engine.read_line(peer, SOON), "for all\n");
    }
    bed.stop();
}

#[test]
fn a_job_for_a_session_that_has_gone_does_nothing() {
    let mut bed = Bed::new(SimNet::new(6));
    let peer = bed.peer();
    let (_, gone) = bed.diary.opens()[0];
    peer.close();
    assert!(bed.engine.run_until(SOON, |engine| engine.counters(0).sessions == 0));
    // The next one has its place, and not its jobs.
    let mut next = bed.peer();
    assert!(
        bed.remote
            .post(gone, |_, session| {
                session.send(b"for the one before");
            })
            .is_ok()
    );
    assert_eq!(bed.ask(&mut next, "for me"), "for me\n");
    assert!(bed.remote.post_to_shard(1, |_, _| ()).is_err(), "there is no such shard");
    let remote = bed.remote.clone();
    bed.stop();
    assert!(remote.post_to_shard(0, |_, _| ()).is_err(), "the engine has ended");
}

#[test]
fn a_service_without_a_network_is_stepped_as_any_other() {
    use std::io::{Read, Write};
    let (net, diary) = (SimNet::new(21), Diary::default());
    let told = diary.clone();
    let mut engine = Engine::new().unwrap().shards(2).unwrap();
    let server = Server::offline(Lines::default());
    let remote = engine.add_server(server, move |_| Obedient { diary: told.clone() }).unwrap();
    let mut engine = engine.simulate(&net).unwrap();
    let mut peers: Vec<_> = (0..4).map(|_| remote.open_offline().unwrap()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.set_nonblocking(true);
        peer.write_all(format!("line {number}\n").as_bytes()).unwrap();
        let mut got = Vec::new();
        assert!(engine.run_until(SOON, |_| {
            let mut piece = [0; 100];
            let count = peer.read(&mut piece).unwrap_or(0);
            got.extend_from_slice(&piece[..count]);
            got.ends_with(b"\n")
        }));
        assert_eq!(got, format!("line {number}\n").as_bytes());
    }
    let shards: Vec<_> = diary.opens().into_iter().map(|(shard, _)| shard).collect();
    assert_eq!(shards.iter().filter(|shard| **shard == 0).count(), 2);
    engine.check().unwrap();
    drop(peers);
    assert!(engine.run_until(SOON, |engine| engine.counters(0).sessions == 0));
    engine.stop().unwrap();
    assert_eq!(engine.held(), Held::default());
    assert_eq!(diary.closes(), [CloseReason::PeerClosed; 4]);
}
