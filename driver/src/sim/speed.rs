//! How fast the simulator is: a measurement, for whoever changes it.

use std::time::{Duration, Instant};

use super::{
    Behaviour, FaultClass, Faults, Rate, SimNet,
    storm::{ANY, CONFIG},
};
use crate::{
    Driver, SendBatch,
    options::{DriverConfig, ListenOptions},
    types::{Op, Outcome, Received, Token},
};

/// Echoes of 64 bytes on 64 connections, until there were `steps` events. How many there were.
fn echo(net: &SimNet, steps: u64) -> u64 {
    const MESSAGE: [u8; 64] = [7; 64];
    let config = DriverConfig { sockets_max: 128, receive_memory_bytes: 4 << 20, ..CONFIG };
    let mut sim = net.driver(config);
    let (listener, address) = sim.listen(&ANY.into(), &ListenOptions::default()).expect("a free port");
    let address = address.ip().expect("an address of IP");
    sim.submit(Token(0), Op::Accept { listener });
    let mut peers: Vec<_> = (0..64).map(|_| net.connect(address).expect("room in the backlog")).collect();
    let mut sockets = vec![listener];
    let (mut completions, mut received) = (Vec::new(), Vec::new());
    let mut owed = vec![MESSAGE.len(); peers.len()];
    while net.steps() < steps {
        for (peer, owed) in peers.iter_mut().zip(&mut owed) {
            received.clear();
            *owed += peer.read(&mut received);
            if *owed > 0 {
                *owed -= peer.write(&MESSAGE[..(*owed).min(MESSAGE.len())]);
            }
        }
        for _ in 0..8 {
            sim.wait(Some(Duration::from_millis(1)), &mut completions).expect("the driver works");
            for completion in completions.drain(..) {
                match completion.outcome {
                    Outcome::Accepted(accepted) => {
                        sockets.push(accepted.socket);
                        let socket = accepted.socket;
                        sim.submit(Token(sockets.len() as u64 - 1), Op::Receive { socket });
                    }
                    Outcome::Received(Received::Data(lease)) => {
                        let socket = sockets[completion.token.0 as usize];
                        let batch = SendBatch::of(sim.bytes(&lease));
                        sim.recycle(lease);
                        sim.submit(completion.token, Op::Send { socket, batch });
                    }
                    Outcome::Sent(..) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    net.steps()
}

/// Connections that come, write a little and go, until there were `steps` events. How many there were.
fn churn(net: &SimNet, steps: u64) -> u64 {
    let mut sim = net.driver(CONFIG);
    let (listener, address) = sim.listen(&ANY.into(), &ListenOptions::default()).expect("a free port");
    let address = address.ip().expect("an address of IP");
    sim.submit(Token(0), Op::Accept { listener });
    let mut sockets = Vec::new();
    let mut completions = Vec::new();
    while net.steps() < steps {
        for _ in 0..16 {
            let mut peer = net.connect(address).expect("room in the backlog");
            peer.write(b"hello");
        }
        let mut closed = 0;
        while closed < 16 {
            sim.wait(Some(Duration::from_millis(1)), &mut completions).expect("the driver works");
            for completion in completions.drain(..) {
                match completion.outcome {
                    Outcome::Accepted(accepted) => {
                        sockets.push(accepted.socket);
                        let socket = accepted.socket;
                        sim.submit(Token(sockets.len() as u64 - 1), Op::Receive { socket });
                    }
                    Outcome::Received(Received::Data(lease)) => sim.recycle(lease),
                    Outcome::Received(_) => {
                        let socket = sockets[completion.token.0 as usize];
                        sim.submit(completion.token, Op::Close { socket });
                    }
                    Outcome::Closed(_) => closed += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        sockets.clear();
    }
    net.steps()
}

/// Faults that no connection ends with, at the rates of a swarm's middle.
fn lively() -> Faults {
    let classes = [
        FaultClass::Instant,
        FaultClass::SpuriousTurn,
        FaultClass::SpuriousWake,
        FaultClass::SmallBatch,
        FaultClass::Drought,
    ];
    let faults = Faults::default().with_times_max(Duration::from_millis(1));
    classes.into_iter().fold(faults, |faults, class| faults.with(class, Rate::per_million(50_000)))
}

#[test]
#[ignore = "a measurement: cargo test --release -p anyport-driver --lib speed -- --ignored --nocapture"]
fn events_per_second() {
    const STEPS: u64 = 5_000_000;
    type Load = fn(&SimNet, u64) -> u64;
    let loads: [(&str, Load, Faults); 3] = [
        ("echo", echo, Faults::default()),
        ("echo with faults", echo, lively()),
        ("churn", churn, Faults::default()),
    ];
    for (name, load, faults) in loads {
        let net = SimNet::with_behaviour(1, Behaviour::default().with_faults(faults));
        let started = Instant::now();
        let steps = load(&net, STEPS);
        let milliseconds = started.elapsed().as_millis().max(1) as u64;
        println!("{name}: {} thousand events/s", steps / milliseconds);
        assert!(steps >= STEPS);
    }
}
