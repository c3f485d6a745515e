//! Services without a network: sessions with whoever is in the same process.

use std::{
    io::{ErrorKind, Read, Write},
    sync::mpsc::channel,
};

use anyport::{
    Client, CloseReason, ConnectError, DriverChoice, Engine, Limits, Lines, OfflinePeer, PeerAddress, Raw,
    Remote, Running, Server, ServiceKind,
};

use crate::support::{Echo, Event, Events, PATIENCE, Peer, pattern, placed};

on_every_driver! {
    many_peers_on_threads_of_their_own_are_answered
    a_service_without_a_network_stands_beside_one_that_has_one
    more_than_the_buffers_hold_comes_back_whole
    limits_and_close_reasons_are_those_of_every_session
    a_stop_drains_and_then_nothing_opens
}

fn start(driver: DriverChoice, shards: usize, limits: Limits) -> (Running, Remote<Echo<Lines>>, Events) {
    let (tell, told) = Events::new();
    let mut engine = Engine::new().unwrap().shards(shards).unwrap().driver(driver);
    let server = Server::offline(Lines::default()).limits(limits).placement(placed(shards));
    let remote = engine.add_server(server, move |_| Echo::new(tell.clone())).unwrap();
    (engine.start().unwrap(), remote, told)
}

fn open<C: anyport::Codec>(remote: &Remote<Echo<C>>) -> OfflinePeer {
    let mut peer = remote.open_offline().unwrap();
    peer.set_timeout(Some(PATIENCE));
    peer
}

fn ask(peer: &mut OfflinePeer, line: &str) {
    peer.write_all(line.as_bytes()).unwrap();
    let mut got = vec![0; line.len()];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, line.as_bytes());
}

fn many_peers_on_threads_of_their_own_are_answered(driver: DriverChoice) {
    let (running, remote, _told) = start(driver, 2, Limits::default());
    assert_eq!((running.address(0), running.kinds()), (None, &[ServiceKind::Offline][..]));
    let bots: Vec<_> = (0..8)
        .map(|bot| {
            let remote = remote.clone();
            std::thread::spawn(move || {
                let mut peer = open(&remote);
                for round in 0..100 {
                    ask(&mut peer, &format!("bot {bot}, round {round}\n"));
                }
            })
        })
        .collect();
    for bot in bots {
        bot.join().unwrap();
    }
    running.stop().unwrap();
}

fn a_service_without_a_network_stands_beside_one_that_has_one(driver: DriverChoice) {
    let (tell, _told) = channel();
    let (other, _other_told) = channel();
    let mut engine = Engine::new().unwrap().shards(2).unwrap().driver(driver);
    engine
        .add_server(Server::bind("127.0.0.1:0", Lines::default()).placement(placed(2)), move |_| {
            Echo::new(other.clone())
        })
        .unwrap();
    let remote = engine
        .add_server(Server::offline(Lines::default()).placement(placed(2)), move |_| Echo::new(tell.clone()))
        .unwrap();
    // Before the start a session waits for it.
    let mut early = open(&remote);
    let running = engine.start().unwrap();
    ask(&mut early, "early\n");
    let mut socket = Peer::connect(running.address(0).unwrap());
    socket.send(b"by a socket\n");
    socket.expect(b"by a socket\n");
    let (ask_shard, answer) = channel();
    for shard in 0..2 {
        let mut peer = remote.open_offline_on(shard).unwrap();
        peer.set_timeout(Some(PATIENCE));
        ask(&mut peer, "hello\n");
        let told = ask_shard.clone();
        let posted = remote.post_to_shard(shard, move |_, shard| {
            shard.for_each(|session| assert_eq!(session.peer_address(), PeerAddress::Unix));
            told.send(shard.sessions()).unwrap();
        });
        posted.unwrap();
        assert!(answer.recv_timeout(PATIENCE).unwrap() >= 1);
    }
    assert!(matches!(remote.open_offline_on(2), Err(ConnectError::Ended)));
    drop(socket);
    running.stop().unwrap();
    // Only those that are offline have such sessions.
    let (tell, _told) = channel();
    let mut engine = Engine::new().unwrap().driver(driver);
    let client = Client::to("127.0.0.1:1", Lines::default()).manual();
    let remote = engine.add_client(client, move |_| Echo::new(tell.clone())).unwrap();
    let error = remote.open_offline().unwrap_err();
    assert!(matches!(error, ConnectError::NotOffline { kind: ServiceKind::ClientManual }), "{error}");
}

fn more_than_the_buffers_hold_comes_back_whole(driver: DriverChoice) {
    let (tell, _told) = channel();
    let mut engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let remote = engine
        .add_server(Server::offline(Raw).placement(placed(1)), move |_| Echo::new(tell.clone()))
        .unwrap();
    let running = engine.start().unwrap();
    let mut peer = open(&remote);
    let sent = pattern(3_000_000);
    let (mut written, mut got) = (0, Vec::new());
    peer.set_nonblocking(true);
    let start = std::time::Instant::now();
    while got.len() < sent.len() {
        assert!(start.elapsed() < PATIENCE, "{} of {}", got.len(), sent.len());
        match peer.write(&sent[written..]) {
            Ok(count) => written += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut piece = [0; 10_000];
        match peer.read(&mut piece) {
            Ok(count) => got.extend_from_slice(&piece[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!(got == sent);
    peer.set_nonblocking(false);
    peer.shutdown_write();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    drop(peer);
    running.stop().unwrap();
}

fn limits_and_close_reasons_are_those_of_every_session(driver: DriverChoice) {
    let limits = Limits { sessions_max: 1, ..Limits::default() };
    let (running, remote, told) = start(driver, 1, limits);
    let mut first = open(&remote);
    ask(&mut first, "first\n");
    let mut refused = open(&remote);
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    assert!(matches!(told.next(), Event::Open));
    // Something unread is a reset, as with sockets.
    first.write_all(b"never read\n").unwrap();
    while running.counters(0).frames_sent < 2 {
        std::thread::yield_now();
    }
    drop(first);
    assert_eq!(told.next_close(), CloseReason::PeerReset);
    let counters = running.counters(0);
    assert_eq!(counters.closed_for(CloseReason::AtCapacity), 1);
    running.stop().unwrap();
}

fn a_stop_drains_and_then_nothing_opens(driver: DriverChoice) {
    let (running, remote, told) = start(driver, 2, Limits::default());
    let mut peer = open(&remote);
    ask(&mut peer, "hello\n");
    let stop = running.stopper();
    stop.drain();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    drop(peer);
    assert_eq!(told.next_close(), CloseReason::Drained);
    running.join().unwrap();
    assert!(matches!(remote.open_offline(), Err(ConnectError::Ended)));
}

#[test]
fn an_engine_that_does_not_accept_is_full_and_has_no_sessions() {
    let (tell, _told) = Events::new();
    let mut engine = Engine::new().unwrap().shards(1).unwrap();
    let server = Server::offline(Lines::default());
    let remote = engine.add_server(server, move |_| Echo::new(tell.clone())).unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        assert!(waiting.len() <= 4_096, "nothing bounds those who wait");
        match remote.open_offline() {
            Ok(peer) => waiting.push(peer),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, ConnectError::Full), "{refused}");
    assert_eq!(waiting.len(), 4_096);
}
