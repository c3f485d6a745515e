//! Handlers on logic threads, on the simulator: every order in which shards and logic threads can have their turns.

use std::time::Duration;

use anyport::{
    Client, CloseReason, DriverConfig, Engine, Limits, Lines, Placement, Server, Spread,
    sim::{Behaviour, FaultClass, Faults, Held, Rate, SimNet, Step, each_seed},
};

use crate::bed::{ADDRESS, Bed, Diary, Obedient, SOON, Told};

fn engine(shards: usize, spread: Spread) -> Engine {
    Engine::new().unwrap().shards(shards).unwrap().spread(spread)
}

fn bed(net: SimNet, shards: usize, threads: usize, spread: Spread, limits: Limits) -> Bed {
    Bed::placed(net, engine(shards, spread), Placement::Logic { threads }, limits)
}

/// Everything that takes longer, or happens when nobody expects it, and breaks no connection.
fn weather(seed: u64) -> SimNet {
    let rate = Rate::per_million(200_000);
    let faults = [FaultClass::SpuriousTurn, FaultClass::SmallBatch, FaultClass::Late, FaultClass::CancelLate]
        .into_iter()
        .chain([FaultClass::SlowClose, FaultClass::Drought, FaultClass::Clog])
        .fold(Faults::default().with_times_max(Duration::from_millis(2)), |faults, class| {
            faults.with(class, rate)
        });
    SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults))
}

#[test]
fn a_session_lives_through_its_whole_life_on_a_logic_thread() {
    let mut bed = bed(SimNet::new(1), 1, 1, Spread::Auto, Limits::default());
    let mut peer = bed.peer();
    assert_eq!(bed.ask(&mut peer, "hello"), "hello\n");
    bed.engine.write(&mut peer, b"timer 5\n", SOON);
    bed.engine.run_for(SOON);
    peer.shutdown_write();
    bed.engine.run_for(SOON);
    assert!(peer.is_end_of_stream());
    assert_eq!(bed.diary.closes(), [CloseReason::PeerClosed]);
    assert!(bed.diary.lines().iter().any(|(_, _, told)| matches!(told, Told::Timer(_))));
    bed.engine.check().unwrap();
    assert_eq!(bed.engine.counters(0).frames_received, 2);
    bed.engine.stop().unwrap();
    assert_eq!(bed.engine.held(), Held::default());
}

#[test]
fn connections_are_dealt_to_the_logic_threads_in_turn_and_named_after_them() {
    for (shards, spread) in [(1, Spread::Auto), (4, Spread::ReusePort), (4, Spread::HandOver)] {
        let mut bed = bed(SimNet::new(2), shards, 2, spread, Limits::default());
        let mut peers: Vec<_> = (0..32).map(|_| bed.peer()).collect();
        for peer in &mut peers {
            assert_eq!(bed.ask(peer, "hello"), "hello\n");
        }
        let opens = bed.diary.opens();
        assert!(opens.iter().all(|(thread, id)| *thread == id.shard() as usize));
        let first = opens.iter().filter(|(thread, _)| *thread == 0).count();
        // Each shard deals in turn.
        assert!(first.abs_diff(16) <= shards, "{first} of 32 with {spread:?}");
        assert_eq!(bed.remote.shards(), 2);
        bed.engine.stop().unwrap();
        assert_eq!(bed.engine.held(), Held::default());
    }
}

#[test]
fn streams_are_exact_in_any_weather_and_with_any_order_of_turns() {
    each_seed(0..30, |seed| {
        let spread = if seed.is_multiple_of(2) { Spread::ReusePort } else { Spread::HandOver };
        let (shards, threads) = (1 + seed as usize % 4, 1 + seed as usize % 3);
        // Little memory: what arrives waits for the logic threads now and then.
        let config = DriverConfig {
            receive_memory_bytes: 8 << 10,
            receive_buffer_bytes: 1 << 10,
            ..DriverConfig::default()
        };
        let engine = engine(shards, spread).driver_config(config);
        let mut bed = Bed::placed(weather(seed), engine, Placement::Logic { threads }, Limits::default());
        let mut peers: Vec<_> = (0..6).map(|_| (bed.peer(), 0, Vec::new())).collect();
        let lines: Vec<u8> =
            (0..400).flat_map(|at| format!("{at} {:x<1$}\n", "", at % 90).into_bytes()).collect();
        let done = bed.engine.run_until(Duration::from_mins(10), |engine| {
            engine.check().unwrap();
            for (peer, written, read) in &mut peers {
                *written += peer.write(&lines[*written..]);
                peer.read(read);
            }
            peers.iter().all(|(_, _, read)| read.len() >= lines.len())
        });
        assert!(done, "the echo stopped");
        assert!(peers.iter().all(|(_, _, read)| *read == lines), "other bytes than were sent");
        bed.engine.stop().unwrap();
        assert_eq!(bed.engine.held(), Held::default());
        assert_eq!(bed.diary.closes().len(), 6);
    });
}

#[test]
fn whatever_breaks_every_session_ends_once_and_nothing_is_held() {
    each_seed(0..60, |seed| {
        let faults = Faults::drawn(seed).with(FaultClass::Listen, Rate::NEVER);
        let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults));
        let spread = if seed.is_multiple_of(2) { Spread::ReusePort } else { Spread::HandOver };
        let limits = Limits { idle_timeout: Some(SOON), ..Limits::default() };
        let mut bed = bed(net, 1 + seed as usize % 3, 1 + seed as usize % 2, spread, limits);
        let mut peers = Vec::new();
        for round in 0..40_u64 {
            peers.extend(bed.net.connect(ADDRESS.parse().unwrap()));
            for peer in &mut peers {
                peer.write(b"hello\nsend 3000\n");
                peer.read(&mut Vec::new());
            }
            let at = (seed + round) as usize;
            if at.is_multiple_of(3) && !peers.is_empty() {
                let peer = peers.swap_remove(at % peers.len());
                if at.is_multiple_of(2) { peer.reset() } else { peer.close() }
            }
            for _ in 0..50 {
                bed.engine.step();
                bed.engine.check().unwrap();
            }
        }
        bed.engine.stop().unwrap();
        assert_eq!(bed.engine.held(), Held::default());
        let (opens, closes) = (bed.diary.opens().len(), bed.diary.closes().len());
        assert_eq!(opens, closes, "sessions that opened, and that closed");
    });
}

#[test]
fn a_seed_is_replayed_to_the_last_step() {
    let steps = |seed: u64| {
        let mut bed = bed(weather(seed), 3, 2, Spread::HandOver, Limits::default());
        let mut peers: Vec<_> = (0..5).map(|_| bed.peer()).collect();
        let mut steps = Vec::new();
        for _ in 0..2_000 {
            for peer in &mut peers {
                peer.write(b"again\n");
                peer.read(&mut Vec::new());
            }
            steps.push(bed.engine.step());
        }
        steps
    };
    assert!(
        steps(5).iter().any(|step| matches!(step, Step::Turn(at) if *at >= 3)),
        "no logic thread had a turn"
    );
    assert_eq!(steps(5), steps(5));
    assert_ne!(steps(5), steps(6));
}

#[test]
fn clients_open_their_connections_from_logic_threads() {
    let net = SimNet::new(7);
    let (there, here) = (Diary::default(), Diary::default());
    let (at_server, at_client) = (there.clone(), here.clone());
    let server = Server::bind(ADDRESS, Lines::default());
    let client = Client::to(ADDRESS, Lines::default()).connections(5);
    let mut engine = engine(2, Spread::Auto);
    engine.add_server(server, move |_| Obedient { diary: at_server.clone() }).unwrap();
    let client = client.placement(Placement::Logic { threads: 2 });
    let remote = engine.add_client(client, move |_| Obedient { diary: at_client.clone() }).unwrap();
    let mut engine = engine.simulate(&net).unwrap();
    engine.run_for(SOON);
    assert_eq!((there.opens().len(), here.opens().len()), (5, 5));
    let (_, id) = here.opens()[0];
    let hello = |_: &mut Obedient, session: &mut anyport::Session<Obedient>| {
        session.send(b"hello");
    };
    remote.post(id, hello).unwrap();
    // The two answer each other for ever; a moment is enough.
    engine.run_until(SOON, |_| !here.frames().is_empty());
    assert_eq!((there.frames()[0].as_slice(), here.frames()[0].as_slice()), (&b"hello"[..], &b"hello"[..]));
    engine.check().unwrap();
    engine.stop().unwrap();
    assert_eq!(engine.held(), Held::default());
}

#[test]
fn a_connection_to_nobody_fails_on_its_logic_thread() {
    let diary = Diary::default();
    let told = diary.clone();
    let client = Client::to(ADDRESS, Lines::default()).placement(Placement::Logic { threads: 1 });
    let engine = engine(2, Spread::Auto).connect(client, move |_| Obedient { diary: told.clone() }).unwrap();
    let mut engine = engine.simulate(&SimNet::new(8)).unwrap();
    engine.run_for(SOON);
    assert!(diary.lines().iter().any(|(_, _, told)| *told == Told::ConnectFailed));
    engine.stop().unwrap();
}

#[test]
fn an_address_in_use_is_an_error_and_holds_nothing() {
    let net = SimNet::new(9);
    let taken = net.listen(ADDRESS.parse().unwrap()).unwrap();
    let placed = |spread| {
        let server = Server::bind(ADDRESS, Lines::default()).placement(Placement::Logic { threads: 2 });
        engine(2, spread).serve(server, |_| Obedient { diary: Diary::default() }).unwrap().simulate(&net)
    };
    for spread in [Spread::ReusePort, Spread::HandOver] {
        let error = placed(spread).unwrap_err();
        assert!(matches!(error, anyport::Error::Listen { .. }), "{error}");
    }
    drop(taken);
    placed(Spread::Auto).unwrap().stop().unwrap();
}
