//! Clients that connect again, and those that are told when to.

use std::{
    io::ErrorKind,
    net::TcpListener,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use anyport::{
    Backoff, Client, CloseReason, ConnectError, ConnectFailure, DriverChoice, Engine, FaultKind, Frame,
    Handler, Limits, Lines, Reconnect, Remote, Running, Session, Shard,
};

use crate::support::{Nobody, PATIENCE, Peer, placed};

/// Short waits: what is awaited is the event.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(1),
    cap: Duration::from_millis(50),
    budget: None,
    stable_after: Duration::from_secs(10),
};

#[derive(Debug)]
enum Told {
    Opened(usize, String),
    Closed(usize, CloseReason),
    Failed(ConnectFailure),
}

/// Tells what happens.
struct Feed(Sender<Told>);

impl Handler for Feed {
    type State = String;
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let connection = session.connection_index().unwrap();
        let _ = self.0.send(Told::Opened(connection, session.state().clone()));
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        match frame.body {
            b"leave" => {
                session.set_reconnect(Reconnect::Never);
                session.drain();
            }
            _ => drop(session.send(frame.body)),
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        let _ = self.0.send(Told::Closed(session.connection_index().unwrap(), reason));
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        let _ = self.0.send(Told::Failed(failure.clone()));
        Reconnect::AsConfigured
    }
}

fn start(driver: DriverChoice, client: Client<Lines>) -> (Running, Remote<Feed>, Receiver<Told>) {
    let (tell, told) = channel();
    let mut engine = Engine::new().unwrap().shards(2).unwrap().driver(driver);
    let remote = engine.add_client(client.placement(placed(2)), move |_| Feed(tell.clone())).unwrap();
    (engine.start().unwrap(), remote, told)
}

fn next(told: &Receiver<Told>) -> Told {
    told.recv_timeout(PATIENCE).expect("something happens")
}

fn opened(told: &Receiver<Told>) -> (usize, String) {
    match next(told) {
        Told::Opened(connection, note) => (connection, note),
        other => panic!("{other:?}"),
    }
}

fn accept(listener: &TcpListener) -> Peer {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Peer(stream)
}

fn a_lost_connection_comes_back_until_it_is_told_not_to(driver: DriverChoice) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (running, remote, told) = start(driver, Client::to(address, Lines::default()).reconnect(BACKOFF));
    for _ in 0..5 {
        let mut peer = accept(&listener);
        assert_eq!(opened(&told).0, 0);
        peer.send(b"hello\n");
        peer.expect(b"hello\n");
        drop(peer);
        assert!(matches!(next(&told), Told::Closed(0, CloseReason::PeerClosed)));
    }
    let mut peer = accept(&listener);
    opened(&told);
    peer.send(b"leave\n");
    assert!(peer.rest().is_empty());
    drop(peer);
    assert!(matches!(next(&told), Told::Closed(0, CloseReason::Drained)));
    // Nor when those that wait are hurried: each shard has begun what it was to, and then looked at what came of it.
    remote.reconnect_now().unwrap();
    for _ in 0..2 {
        remote.ask_all(|_, _| ()).wait_timeout(PATIENCE).unwrap();
    }
    listener.set_nonblocking(true).unwrap();
    let nobody = listener.accept().expect_err("it was told not to come back");
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
    running.stop().unwrap();
    assert!(told.try_recv().is_err(), "it was told not to come back");
}

fn who_finds_nobody_tries_again_until_somebody_listens(driver: DriverChoice) {
    let nobody = Nobody::new();
    let address = nobody.address();
    let client = Client::to(address.to_string(), Lines::default()).reconnect(BACKOFF).connections(2);
    let (running, remote, told) = start(driver, client);
    for _ in 0..6 {
        let Told::Failed(failure) = next(&told) else { panic!("somebody listened") };
        assert_eq!((failure.to, failure.fault.kind), (address.into(), FaultKind::Refused));
        assert!(failure.next.is_some_and(|next| next >= BACKOFF.first && next <= BACKOFF.cap));
    }
    let listener = nobody.listen();
    remote.reconnect_now().unwrap();
    let _peers = (accept(&listener), accept(&listener));
    let mut open = Vec::new();
    while open.len() < 2 {
        if let Told::Opened(connection, _) = next(&told) {
            open.push(connection);
        }
    }
    open.sort_unstable();
    assert_eq!(open, [0, 1]);
    running.stop().unwrap();
}

fn a_stop_does_not_wait_for_who_waits(driver: DriverChoice) {
    let nobody = Nobody::new();
    let address = nobody.address().to_string();
    let hour = Duration::from_hours(1);
    let backoff = Backoff { first: hour, cap: hour, ..BACKOFF };
    let (running, _remote, told) = start(driver, Client::to(address, Lines::default()).reconnect(backoff));
    assert!(matches!(next(&told), Told::Failed(failure) if failure.next == Some(hour)));
    running.stop().unwrap();
}

fn a_manual_client_connects_when_told(driver: DriverChoice) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let limits = Limits { sessions_max: 3, ..Limits::default() };
    let client = Client::to(address, Lines::default()).manual().limits(limits);
    let (running, remote, told) = start(driver, client);
    assert_eq!(running.kinds(), [anyport::ServiceKind::ClientManual]);
    for round in 0..4 {
        remote.connect_with(None, format!("round {round}")).unwrap();
        let mut peer = accept(&listener);
        let (connection, note) = opened(&told);
        assert_eq!(note, format!("round {round}"));
        peer.send(b"leave\n");
        assert!(peer.rest().is_empty());
        drop(peer);
        assert!(matches!(next(&told), Told::Closed(of, CloseReason::Drained) if of == connection));
    }
    remote.connect_to(&elsewhere.local_addr().unwrap().to_string()).unwrap();
    let _peer = accept(&elsewhere);
    opened(&told);
    remote.connect_on(1, None, "on shard 1".to_owned()).unwrap();
    let _other = accept(&listener);
    let (connection, note) = opened(&told);
    assert_eq!((connection % 2, note.as_str()), (1, "on shard 1"));
    assert!(matches!(remote.connect_to("nowhere"), Err(ConnectError::Address(_))));
    assert!(matches!(remote.connect_on(2, None, String::new()), Err(ConnectError::Ended)));
    running.stop().unwrap();
    assert!(remote.connect().is_err());
}

on_every_driver! {
    a_lost_connection_comes_back_until_it_is_told_not_to
    who_finds_nobody_tries_again_until_somebody_listens
    a_stop_does_not_wait_for_who_waits
    a_manual_client_connects_when_told
}
