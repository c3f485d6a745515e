//! Each fault by itself: what it does, what it leaves alone, and that calm ends it.

use std::{io, net::SocketAddr, time::Duration};

use anyport_core::{Fault, FaultKind, SendBatch};

use super::{
    Behaviour, FaultClass, FaultSite, Faults, Rate, Sim, SimNet, SimPeer,
    storm::{ANY, CONFIG},
};
use crate::{
    Driver,
    options::{ListenOptions, SocketOptions},
    types::{Completion, Op, OpKind, Outcome, Received, SocketKey, Token},
};

const ACCEPT: Token = Token(1);
const RECEIVE: Token = Token(2);
const SEND: Token = Token(3);
const SHUTDOWN: Token = Token(4);
const CLOSE: Token = Token(5);
const CONNECT: Token = Token(6);
/// More waits than any of these tests needs.
const WAITS_MAX: usize = 10_000;

/// A net where one class of fault fires at every opportunity from the start.
fn always(seed: u64, class: FaultClass) -> SimNet {
    SimNet::with_behaviour(seed, Behaviour::default().with_faults(only(class)))
}

fn only(class: FaultClass) -> Faults {
    Faults::default().with(class, Rate::ALWAYS)
}

/// A listener that accepts.
fn listen(sim: &mut Sim) -> SocketAddr {
    let (listener, address) = sim.listen(&ANY.into(), &ListenOptions::default()).expect("listening works");
    sim.submit(ACCEPT, Op::Accept { listener });
    address.ip().expect("it listens at an address of IP")
}

/// An accepted connection.
fn pair(net: &SimNet, sim: &mut Sim) -> (SocketKey, SimPeer) {
    let address = listen(sim);
    let peer = net.connect_as(7, address).expect("the backlog has room");
    let Outcome::Accepted(accepted) = next(sim) else { panic!("not accepted") };
    (accepted.socket, peer)
}

/// The next outcome, whatever it is of.
#[track_caller]
fn next(sim: &mut Sim) -> Outcome {
    let mut completions = Vec::new();
    for _ in 0..WAITS_MAX {
        sim.wait(Some(Duration::from_secs(1)), &mut completions).expect("the driver works");
        assert!(completions.len() <= 1, "one at a time: {completions:?}");
        if let Some(Completion { outcome, .. }) = completions.pop() {
            return outcome;
        }
    }
    panic!("nothing comes");
}

/// What a receive gives until it ends, and how it ends.
fn receive_all(sim: &mut Sim, socket: SocketKey) -> (Vec<u8>, Received) {
    sim.submit(RECEIVE, Op::Receive { socket });
    let mut bytes = Vec::new();
    loop {
        match next(sim) {
            Outcome::Received(Received::Data(lease)) => {
                bytes.extend_from_slice(sim.bytes(&lease));
                sim.recycle(lease);
            }
            Outcome::Received(last) => return (bytes, last),
            other => panic!("{other:?}"),
        }
    }
}

fn quiet_pair(seed: u64) -> (SimNet, Sim, SocketKey, SimPeer) {
    let net = SimNet::new(seed);
    let mut sim = net.driver(CONFIG);
    let (socket, peer) = pair(&net, &mut sim);
    (net, sim, socket, peer)
}

/// Passes time until `done`.
#[track_caller]
fn until(net: &SimNet, mut done: impl FnMut() -> bool) {
    for _ in 0..WAITS_MAX {
        if done() {
            return;
        }
        net.advance(net.next_event_in().unwrap_or_default().min(Duration::from_secs(1)));
    }
    panic!("it does not happen");
}

#[test]
fn what_is_instant_takes_no_time() {
    let net = always(1, FaultClass::Instant);
    let mut sim = net.driver(CONFIG);
    let (socket, mut peer) = pair(&net, &mut sim);
    peer.write(b"hello");
    peer.shutdown_write();
    let (bytes, last) = receive_all(&mut sim, socket);
    assert_eq!(bytes, b"hello");
    assert!(matches!(last, Received::EndOfStream));
    assert_eq!(net.elapsed(), Duration::ZERO);
}

#[test]
fn what_is_late_comes_within_its_time() {
    let net = always(2, FaultClass::Late);
    let mut sim = net.driver(CONFIG);
    let (_, _peer) = pair(&net, &mut sim);
    assert!(net.elapsed() > Duration::from_millis(1) && net.elapsed() < Duration::from_secs(20));
    assert!(net.fault_counts().of(FaultClass::Late, FaultSite::Network) > 0);
}

#[test]
fn a_reset_is_seen_at_both_ends_and_after_what_had_arrived() {
    let (net, mut sim, socket, mut peer) = quiet_pair(3);
    peer.write(b"before");
    net.advance(Duration::from_secs(1));
    net.set_faults(only(FaultClass::Reset));
    peer.write(b"after");
    let (bytes, last) = receive_all(&mut sim, socket);
    assert!(matches!(last, Received::Failed(Fault { kind: FaultKind::PeerReset, .. })), "{last:?}");
    assert_eq!(bytes, b"before");
    until(&net, || peer.is_reset());
    assert_eq!(peer.write(b"more"), 0);
    sim.submit(SEND, Op::Send { socket, batch: SendBatch::of(b"more") });
    assert!(matches!(next(&mut sim), Outcome::Sent(_, Err(Fault { kind: FaultKind::PeerReset, .. }))));
}

#[test]
fn a_clog_holds_one_direction_and_then_lets_go() {
    let (net, mut sim, socket, mut peer) = quiet_pair(4);
    net.set_faults(only(FaultClass::Clog));
    peer.write(b"x");
    until(&net, || net.fault_counts().total(FaultClass::Clog) > 0);
    net.set_faults(Faults::default());
    let clogged_at = net.now();
    sim.submit(SEND, Op::Send { socket, batch: SendBatch::of(b"y") });
    let mut received = Vec::new();
    assert!(matches!(next(&mut sim), Outcome::Sent(_, Ok(()))));
    until(&net, || peer.read(&mut received) > 0);
    let other_took = net.now() - clogged_at;
    sim.submit(RECEIVE, Op::Receive { socket });
    assert!(matches!(next(&mut sim), Outcome::Received(Received::Data(_))));
    assert!(other_took < Duration::from_millis(1), "{other_took:?}");
    let took = net.now() - clogged_at;
    assert!(took > Duration::from_millis(1) && took < Duration::from_secs(31), "{took:?}");
}

#[test]
fn silence_ends_as_timed_out_at_both_ends_or_with_calm() {
    for calms in [false, true] {
        let (net, mut sim, socket, mut peer) = quiet_pair(5);
        net.set_faults(only(FaultClass::Silence));
        let written_at = net.now();
        peer.write(b"x");
        sim.submit(RECEIVE, Op::Receive { socket });
        until(&net, || net.fault_counts().total(FaultClass::Silence) > 0);
        if calms {
            net.calm();
            assert!(matches!(next(&mut sim), Outcome::Received(Received::Data(_))));
            net.advance(Duration::from_mins(10));
            assert_eq!(peer.fault(), None);
            continue;
        }
        let Outcome::Received(Received::Failed(fault)) = next(&mut sim) else { panic!("it goes on") };
        assert_eq!(fault.kind, FaultKind::TimedOut);
        assert!(net.now() - written_at >= Duration::from_mins(2));
        until(&net, || peer.fault().is_some_and(|fault| fault.kind == FaultKind::TimedOut));
    }
}

#[test]
fn a_silent_end_whose_other_end_went_is_reset_by_calm() {
    let (net, mut sim, socket, mut peer) = quiet_pair(6);
    net.set_faults(only(FaultClass::Silence));
    peer.write(b"x");
    until(&net, || net.fault_counts().total(FaultClass::Silence) > 0);
    peer.reset();
    sim.submit(RECEIVE, Op::Receive { socket });
    let mut completions = Vec::new();
    sim.wait(Some(Duration::from_secs(10)), &mut completions).expect("the driver works");
    assert!(completions.is_empty(), "nothing passes: {completions:?}");
    net.calm();
    assert!(matches!(
        next(&mut sim),
        Outcome::Received(Received::Failed(Fault { kind: FaultKind::PeerReset, .. }))
    ));
}

#[test]
fn a_tiny_buffer_takes_64_bytes_at_most() {
    let net = always(7, FaultClass::TinyBuffer);
    let mut sim = net.driver(CONFIG);
    let (socket, mut peer) = pair(&net, &mut sim);
    let taken = peer.write(&[7; 1_000]);
    assert!((1..=64).contains(&taken), "{taken}");
    let mut left = 1_000 - taken;
    sim.submit(RECEIVE, Op::Receive { socket });
    let mut received = 0;
    while received < 1_000 {
        left -= peer.write(&vec![7; left]);
        let Outcome::Received(Received::Data(lease)) = next(&mut sim) else { panic!("it ends") };
        assert!(lease.len() <= 64);
        received += lease.len();
        sim.recycle(lease);
    }
    assert_eq!((received, left), (1_000, 0));
}

#[test]
fn an_accept_fault_keeps_the_connection_and_accepting_goes_on() {
    for seed in 0..50 {
        let net = always(seed, FaultClass::Accept);
        let mut sim = net.driver(CONFIG);
        let address = listen(&mut sim);
        let mut peer = net.connect_as(seed, address).expect("the backlog has room");
        for round in 0..3 {
            let before = net.now();
            let Outcome::AcceptFaulted(fault) = next(&mut sim) else { panic!("accepted") };
            assert_ne!(fault.code, 0);
            assert!(round == 0 || net.now() - before >= Duration::from_millis(10));
        }
        net.calm();
        let Outcome::Accepted(accepted) = next(&mut sim) else { panic!("lost") };
        peer.write(b"x");
        sim.submit(RECEIVE, Op::Receive { socket: accepted.socket });
        assert!(matches!(next(&mut sim), Outcome::Received(Received::Data(_))));
    }
}

#[test]
fn a_driver_cannot_open_connect_or_listen_when_told() {
    let mut kinds = std::collections::HashSet::new();
    for seed in 0..50 {
        let net = always(seed, FaultClass::Connect);
        let mut sim = net.driver(CONFIG);
        let address = listen(&mut sim);
        let socket = sim.open(&address.into(), &SocketOptions::default()).expect("opening works");
        sim.submit(CONNECT, Op::Connect { socket });
        let Outcome::Connected(Err(fault)) = next(&mut sim) else { panic!("connected") };
        kinds.insert(fault.kind);
        sim.submit(CLOSE, Op::Close { socket });
        assert!(matches!(next(&mut sim), Outcome::Closed(Ok(()))));
        net.set_faults(only(FaultClass::Open).with(FaultClass::Listen, Rate::ALWAYS));
        assert!(sim.open(&address.into(), &SocketOptions::default()).is_err());
        let error: io::Error =
            sim.listen(&ANY.into(), &ListenOptions::default()).expect_err("listening fails");
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<Fault>());
        assert!(fault.is_some_and(|fault| fault.code != 0), "{error}");
        net.calm();
        assert!(sim.open(&address.into(), &SocketOptions::default()).is_ok());
        assert!(sim.listen(&ANY.into(), &ListenOptions::default()).is_ok());
    }
    assert!(kinds.len() >= 5, "{kinds:?}");
}

#[test]
fn a_receive_fault_loses_no_byte_that_had_arrived() {
    let mut kinds = std::collections::HashSet::new();
    for seed in 0..50 {
        let (net, mut sim, socket, mut peer) = quiet_pair(seed);
        peer.write(b"hello");
        net.advance(Duration::from_secs(1));
        net.set_faults(only(FaultClass::Receive));
        let (mut bytes, last) = receive_all(&mut sim, socket);
        let Received::Failed(fault) = last else { panic!("{last:?}") };
        kinds.insert(fault.kind);
        net.calm();
        peer.shutdown_write();
        let broken = !bytes.is_empty();
        let (rest, last) = receive_all(&mut sim, socket);
        bytes.extend(rest);
        assert_eq!(bytes, b"hello");
        assert!(broken == matches!(last, Received::Failed(_)), "{fault}, then {last:?}");
        assert!(!broken || matches!(fault.kind, FaultKind::TimedOut | FaultKind::PeerReset), "{fault}");
    }
    assert!(kinds.len() >= 4, "{kinds:?}");
}

#[test]
fn a_send_that_fails_says_how_much_arrives() {
    for seed in 0..50 {
        let (net, mut sim, socket, mut peer) = quiet_pair(seed);
        net.set_faults(only(FaultClass::Send));
        sim.submit(SEND, Op::Send { socket, batch: SendBatch::of(&[7; 500]) });
        let Outcome::Sent(batch, Err(fault)) = next(&mut sim) else { panic!("sent") };
        assert_ne!(fault.kind, FaultKind::Cancelled);
        assert!(batch.remaining() > 0);
        net.calm();
        sim.submit(CLOSE, Op::Close { socket });
        assert!(matches!(next(&mut sim), Outcome::Closed(Ok(()))));
        let mut received = Vec::new();
        until(&net, || {
            peer.read(&mut received);
            peer.is_end_of_stream()
        });
        assert_eq!(received.len(), batch.sent());
    }
}

#[test]
fn a_shutdown_that_fails_does_not_happen() {
    let (net, mut sim, socket, mut peer) = quiet_pair(10);
    net.set_faults(only(FaultClass::Shutdown));
    sim.submit(SHUTDOWN, Op::Shutdown { socket });
    assert!(matches!(next(&mut sim), Outcome::ShutDown(Err(_))));
    net.calm();
    sim.submit(SEND, Op::Send { socket, batch: SendBatch::of(b"x") });
    assert!(matches!(next(&mut sim), Outcome::Sent(_, Ok(()))));
    sim.submit(SHUTDOWN, Op::Shutdown { socket });
    assert!(matches!(next(&mut sim), Outcome::ShutDown(Ok(()))));
    until(&net, || peer.read(&mut Vec::new()) == 0 && peer.is_end_of_stream());
}

#[test]
fn a_drought_keeps_data_waiting_and_calm_ends_it() {
    for calms in [false, true] {
        let (net, mut sim, socket, mut peer) = quiet_pair(11);
        net.set_faults(only(FaultClass::Drought));
        peer.write(b"x");
        sim.submit(RECEIVE, Op::Receive { socket });
        let mut completions = Vec::new();
        sim.wait(Some(Duration::from_millis(1)), &mut completions).expect("the driver works");
        assert!(completions.is_empty() && net.fault_counts().total(FaultClass::Drought) == 1);
        let dry_at = net.now();
        if calms {
            net.calm();
            assert!(sim.has_work());
        } else {
            net.set_faults(Faults::default());
        }
        assert!(matches!(next(&mut sim), Outcome::Received(Received::Data(_))));
        let took = net.now() - dry_at;
        assert!(took < if calms { Duration::from_millis(1) } else { Duration::from_secs(1) }, "{took:?}");
    }
}

#[test]
fn a_late_cancel_lets_the_operation_go_on() {
    let mut won = 0;
    for seed in 0..30 {
        let (net, mut sim, socket, mut peer) = quiet_pair(seed);
        net.set_faults(only(FaultClass::CancelLate));
        sim.submit(RECEIVE, Op::Receive { socket });
        sim.cancel(socket, OpKind::Receive);
        let cancelled_at = net.now();
        net.advance(Duration::from_millis(500));
        peer.write(b"x");
        let mut outcome = next(&mut sim);
        if let Outcome::Received(Received::Data(lease)) = outcome {
            won += 1;
            sim.recycle(lease);
            outcome = next(&mut sim);
        }
        assert!(matches!(
            outcome,
            Outcome::Received(Received::Failed(Fault { kind: FaultKind::Cancelled, .. }))
        ));
        assert!(net.now() - cancelled_at <= Duration::from_secs(11));
        assert_eq!(net.fault_counts().of(FaultClass::CancelLate, FaultSite::Op(OpKind::Receive)), 1);
    }
    assert!(won > 15, "the data came first in {won} of 30");
}

#[test]
fn a_slow_close_still_joins_and_ends() {
    let (net, mut sim, socket, _peer) = quiet_pair(12);
    net.set_faults(only(FaultClass::SlowClose));
    sim.submit(RECEIVE, Op::Receive { socket });
    sim.submit(CLOSE, Op::Close { socket });
    assert!(matches!(
        next(&mut sim),
        Outcome::Received(Received::Failed(Fault { kind: FaultKind::Cancelled, .. }))
    ));
    let joined_at = net.now();
    assert!(matches!(next(&mut sim), Outcome::Closed(Ok(()))));
    let took = net.now() - joined_at;
    assert!(took > Duration::from_millis(1) && took < Duration::from_secs(11), "{took:?}");
    assert_eq!(sim.sockets(), 1);
}

#[test]
fn spurious_turns_and_wakes_give_nothing_and_do_not_spin() {
    let net = SimNet::with_behaviour(
        13,
        Behaviour::default()
            .with_faults(only(FaultClass::SpuriousWake).with(FaultClass::SpuriousTurn, Rate::ALWAYS)),
    );
    let mut sim = net.driver(CONFIG);
    let (socket, _peer) = pair(&net, &mut sim);
    sim.submit(RECEIVE, Op::Receive { socket });
    let mut wait = || {
        let (started_at, mut completions) = (net.now(), Vec::new());
        sim.wait(Some(Duration::from_hours(1)), &mut completions).expect("the driver works");
        assert!(completions.is_empty(), "{completions:?}");
        net.now() - started_at
    };
    // The accept was delivered: the wait after it ends early. Then all is at rest.
    assert!(wait() < Duration::from_millis(1));
    assert_eq!((wait(), net.next_event_in()), (Duration::from_hours(1), None));
    assert_eq!(net.fault_counts().total(FaultClass::SpuriousWake), 1);
    assert!(net.fault_counts().total(FaultClass::SpuriousTurn) > 0);
}

#[test]
fn a_small_batch_has_8_at_most_and_the_rest_comes_later() {
    let net = always(14, FaultClass::SmallBatch);
    let mut sim = net.driver(CONFIG);
    let address = listen(&mut sim);
    let _peers: Vec<_> = (0..40).map(|_| net.connect(address).expect("room")).collect();
    net.advance(Duration::from_secs(1));
    let mut accepted = 0;
    let mut completions = Vec::new();
    while accepted < 40 {
        net.advance(Duration::from_millis(1));
        sim.wait(Some(Duration::ZERO), &mut completions).expect("the driver works");
        assert!(completions.len() <= 8);
        accepted += completions.drain(..).count();
    }
    // Refused submissions are complete at once: here are more than 8.
    let socket = sim.listen(&ANY.into(), &ListenOptions::default()).expect("listening works").0;
    for _ in 0..20 {
        sim.submit(RECEIVE, Op::Receive { socket });
    }
    assert_eq!((sim.invalid_submissions(), net.invalid_submissions()), (20, 20));
    let mut waits = 0;
    while sim.has_work() {
        completions.clear();
        sim.wait(Some(Duration::ZERO), &mut completions).expect("the driver works");
        assert!((1..=8).contains(&completions.len()));
        waits += 1;
    }
    assert!(waits >= 3, "{waits}");
}

#[test]
fn a_suppressed_fault_does_not_fire() {
    let run = |suppressed: &[super::FaultId]| {
        let net = always(15, FaultClass::Shutdown);
        net.record_faults(true);
        net.suppress(suppressed.iter().copied());
        let mut sim = net.driver(CONFIG);
        let (socket, _peer) = pair(&net, &mut sim);
        sim.submit(SHUTDOWN, Op::Shutdown { socket });
        let Outcome::ShutDown(result) = next(&mut sim) else { panic!("another outcome") };
        (net.faults_fired(), result)
    };
    let (fired, result) = run(&[]);
    assert!(result.is_err());
    assert_eq!(fired.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shutdown@15#0"]);
    assert_eq!(run(&fired), (Vec::new(), Ok(())));
}

#[test]
fn a_stepping_engine_sees_what_is_to_come() {
    let net = SimNet::new(16);
    let mut sim = net.driver(CONFIG);
    assert!(!sim.has_work() && net.next_event_in().is_none());
    let address = listen(&mut sim);
    let _peer = net.connect(address).expect("the backlog has room");
    let mut accepted = false;
    for _ in 0..100 {
        if sim.has_work() {
            let mut completions = Vec::new();
            sim.wait(Some(Duration::ZERO), &mut completions).expect("the driver works");
            accepted |= completions.iter().any(|it| matches!(it.outcome, Outcome::Accepted(_)));
        } else if let Some(next) = net.next_event_in() {
            let (before, steps) = (net.now(), net.steps());
            net.advance(next);
            assert_eq!(net.now() - before, next);
            assert!(net.steps() > steps);
        }
    }
    assert!(accepted && !sim.has_work() && net.next_event_in().is_none());
    sim.waker().wake();
    assert!(sim.has_work());
    sim.wait(Some(Duration::ZERO), &mut Vec::new()).expect("the driver works");
    assert!(!sim.has_work());
}

#[test]
fn a_listener_at_the_cap_may_have_many_turns() {
    let net = SimNet::new(17);
    let mut sim = net.driver(crate::options::DriverConfig { sockets_max: 2, ..CONFIG });
    let address = listen(&mut sim);
    let mut peers = Vec::new();
    let mut completions = Vec::new();
    for _ in 0..10 {
        peers.push(net.connect(address).expect("the backlog has room"));
        sim.wait(Some(Duration::from_millis(1)), &mut completions).expect("the driver works");
    }
    let [
        Completion { outcome: Outcome::Accepted(accepted), .. },
        Completion { outcome: Outcome::AcceptFaulted(fault), .. },
    ] = &completions[..]
    else {
        panic!("{completions:?}")
    };
    assert_eq!(fault.kind, FaultKind::NoDescriptors);
    sim.submit(CLOSE, Op::Close { socket: accepted.socket });
    assert!(matches!(next(&mut sim), Outcome::Closed(Ok(()))));
    assert!(matches!(next(&mut sim), Outcome::Accepted(_)));
}
