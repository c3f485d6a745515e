//! How engines start or do not, and how they end.

use std::time::Duration;

use anyport::{
    CloseReason, Engine, Error, Limits, Lines, Server, Spread,
    sim::{Held, SimNet, Step},
};

use crate::bed::{ADDRESS, Bed, Diary, Obedient, SOON};

fn engine() -> Engine {
    let server = Server::bind(ADDRESS, Lines::default());
    Engine::new().unwrap().shards(2).unwrap().serve(server, |_| Obedient { diary: Diary::default() }).unwrap()
}

#[test]
fn an_engine_without_a_service_says_so() {
    let error = Engine::new().unwrap().simulate(&SimNet::new(1)).unwrap_err();
    assert!(matches!(error, Error::NoServices), "{error}");
}

#[test]
fn an_address_in_use_or_nobodys_is_an_error_and_holds_nothing() {
    let net = SimNet::new(2);
    let address = ADDRESS.parse().unwrap();
    let taken = net.listen(address).unwrap();
    for spread in [Spread::ReusePort, Spread::HandOver] {
        let error = engine().spread(spread).simulate(&net).unwrap_err();
        assert!(matches!(&error, Error::Listen { address: at, .. } if *at == address.into()), "{error}");
    }
    drop(taken);
    let server = Server::bind("192.0.2.1:7000", Lines::default());
    let nobodys = Engine::new().unwrap().serve(server, |_| Obedient { diary: Diary::default() }).unwrap();
    assert!(matches!(nobodys.simulate(&net).unwrap_err(), Error::Listen { .. }));
    // What failed left nothing behind: the address is free.
    let mut engine = engine().simulate(&net).unwrap();
    assert_eq!(engine.address(0), Some(address));
    engine.stop().unwrap();
}

#[test]
fn a_stop_drains_and_takes_as_long_as_a_deadline_allows() {
    let limits = Limits { drain_deadline: Duration::from_secs(5), ..Limits::default() };
    let mut bed = Bed::with(SimNet::new(3), 2, Spread::HandOver, limits);
    let (mut deaf, mut polite) = (bed.peer(), bed.peer());
    // More than the network keeps for one who does not read.
    for _ in 0..20 {
        bed.engine.write(&mut deaf, b"send 50000\n", SOON);
    }
    assert_eq!(bed.ask(&mut polite, "hello"), "hello\n");
    bed.engine.run_for(SOON);
    let (before, sessions) = (bed.net.now(), bed.engine.held().sessions);
    assert_eq!(sessions, 2);
    bed.engine.stop().unwrap();
    let took = bed.net.now() - before;
    assert!(took >= limits.drain_deadline && took < limits.drain_deadline + SOON, "{took:?}");
    assert!(bed.engine.is_finished());
    assert_eq!(bed.engine.held(), Held::default());
    let reasons = bed.diary.closes();
    assert!(
        reasons.contains(&CloseReason::DrainDeadline) && reasons.contains(&CloseReason::Drained),
        "{reasons:?}"
    );
    assert!(polite.is_end_of_stream());
    // What has ended takes no more turns, and stopping it again is nothing.
    assert_eq!(bed.engine.step_within(Duration::ZERO), Step::Time(Duration::ZERO));
    bed.engine.stop().unwrap();
    assert!(bed.net.connect(ADDRESS.parse().unwrap()).is_err(), "nobody listens any more");
}

#[test]
fn dropping_an_engine_closes_its_connections_without_a_word() {
    let mut bed = Bed::with(SimNet::new(4), 2, Spread::HandOver, Limits::default());
    let mut peers: Vec<_> = (0..4).map(|_| bed.peer()).collect();
    for peer in &mut peers {
        assert_eq!(bed.ask(peer, "hello"), "hello\n");
        // One more, which the engine does not come to any more.
        peer.write(b"and then\n");
    }
    let Bed { net, engine, diary, .. } = bed;
    drop(engine);
    net.advance(SOON);
    for peer in &mut peers {
        peer.read(&mut Vec::new());
        assert!(peer.is_end_of_stream() || peer.is_reset());
    }
    assert_eq!(diary.closes(), []);
    // Another takes its place.
    let mut next = Bed::new(net);
    let mut peer = next.peer();
    assert_eq!(next.ask(&mut peer, "again"), "again\n");
    drop(peer);
    next.stop();
}
