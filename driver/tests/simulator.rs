//! What is true of the simulator only: a seed replays everything, and time is virtual.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use anyport_driver::{
    Completion, Driver, DriverConfig, ListenOptions, Op, Outcome, Received, SendBatch, SocketKey,
    SocketOptions, Token,
    sim::{Behaviour, Sim, SimNet},
};

const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 64,
    receive_memory_bytes: 8 << 10,
    receive_buffer_bytes: 4 << 10,
    ..DriverConfig::DEFAULT
};
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A listener that accepts, token 0.
fn listening(driver: &mut Sim) -> (SocketKey, SocketAddr) {
    let (listener, address) = driver.listen(&ANY.into(), &ListenOptions::default()).unwrap();
    let address = address.ip().unwrap();
    driver.submit(Token(0), Op::Accept { listener });
    (listener, address)
}

/// Echoes what eight peers write, through a driver and its two buffers, and writes down all it sees.
fn trace(net: &SimNet) -> String {
    let mut driver = net.driver(CONFIG);
    let (listener, address) = listening(&mut driver);
    let mut peers: Vec<_> = (0..8).map(|_| net.connect(address).unwrap()).collect();
    let mut left: Vec<usize> = (0..8).map(|n| 1 + n * 3_000).collect();
    let mut trace = String::new();
    let mut sockets = Vec::new();
    let mut closed = 0;
    for _ in 0..100_000 {
        for (peer, left) in peers.iter_mut().zip(&mut left) {
            if *left > 0 {
                *left -= peer.write(&vec![7; *left]);
                if *left == 0 {
                    peer.shutdown_write();
                }
            }
        }
        let mut completions = Vec::new();
        driver.wait(Some(Duration::from_millis(1)), &mut completions).unwrap();
        for Completion { token, outcome } in completions {
            write!(trace, "{:?} {}: ", net, token.0).unwrap();
            match outcome {
                Outcome::Accepted(accepted) => {
                    writeln!(trace, "{accepted:?}").unwrap();
                    sockets.push(accepted.socket);
                    driver.submit(Token(sockets.len() as u64), Op::Receive { socket: accepted.socket });
                }
                Outcome::Received(Received::Data(lease)) => {
                    writeln!(trace, "{} bytes", lease.len()).unwrap();
                    driver.recycle(lease);
                }
                Outcome::Received(Received::EndOfStream) => {
                    let socket = sockets[token.0 as usize - 1];
                    driver.submit(token, Op::Close { socket });
                }
                other => {
                    writeln!(trace, "{other:?}").unwrap();
                    closed += 1;
                }
            }
        }
        if closed == 8 {
            driver.submit(Token(99), Op::Close { socket: listener });
            closed += 1;
        } else if driver.sockets() == 0 {
            return trace;
        }
    }
    panic!("seed {}: not done; seen so far:\n{trace}", net.seed());
}

#[test]
fn a_seed_replays_every_completion_and_its_time() {
    for seed in 0..20 {
        assert_eq!(trace(&SimNet::new(seed)), trace(&SimNet::new(seed)), "seed {seed}");
    }
    assert_ne!(trace(&SimNet::new(1)), trace(&SimNet::new(2)));
}

#[test]
fn time_is_virtual_and_moves_only_inside_wait() {
    let net = SimNet::new(1);
    let mut driver = net.driver(CONFIG);
    let start = driver.now();
    let mut completions = Vec::new();
    driver.wait(Some(Duration::from_hours(100)), &mut completions).unwrap();
    assert_eq!(driver.now() - start, Duration::from_hours(100));
    driver.wait(Some(Duration::ZERO), &mut completions).unwrap();
    driver.wait(None, &mut completions).unwrap();
    assert_eq!((driver.now() - start, completions.len()), (Duration::from_hours(100), 0));
    driver.wait(Some(Duration::MAX), &mut completions).unwrap();
    driver.wait(Some(Duration::MAX), &mut completions).unwrap();
    assert!(driver.now() > start + Duration::from_hours(100));
}

#[test]
fn a_wait_ends_at_the_first_completion_not_at_the_time_out() {
    let net = SimNet::new(3);
    let mut driver = net.driver(CONFIG);
    let (_, address) = listening(&mut driver);
    let _peer = net.connect(address).unwrap();
    let start = driver.now();
    let mut completions = Vec::new();
    driver.wait(Some(Duration::from_hours(1)), &mut completions).unwrap();
    assert_eq!(completions.len(), 1);
    assert!(driver.now() - start <= Behaviour::default().delay_max);
}

#[test]
fn a_full_backlog_makes_connecting_wait_and_give_up() {
    let net = SimNet::new(4);
    let mut driver = net.driver(CONFIG);
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let (_, address) = driver.listen(&ANY.into(), &options).unwrap();
    let address = address.ip().unwrap();
    let _first = net.connect(address).unwrap();
    assert_eq!(net.connect(address).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    let start = driver.now();
    let socket = driver.open(&address.into(), &SocketOptions::default()).unwrap();
    driver.submit(Token(1), Op::Connect { socket });
    let mut completions = Vec::new();
    driver.wait(None, &mut completions).unwrap();
    assert!(matches!(&completions[..], [Completion { outcome: Outcome::Connected(Err(_)), .. }]));
    assert!(driver.now() - start >= Duration::from_secs(4));
    assert_eq!(driver.sockets(), 2);
}

#[test]
fn drivers_share_a_net_and_its_clock() {
    let net = SimNet::new(5);
    let (mut server, mut client) = (net.driver(CONFIG), net.driver(CONFIG));
    let (_, address) = listening(&mut server);
    let socket = client.open(&address.into(), &SocketOptions::default()).unwrap();
    client.submit(Token(1), Op::Connect { socket });
    let mut completions = Vec::new();
    client.wait(None, &mut completions).unwrap();
    server.wait(None, &mut completions).unwrap();
    assert_eq!(server.now(), client.now());
    let [
        Completion { outcome: Outcome::Connected(Ok(())), .. },
        Completion { outcome: Outcome::Accepted(_), .. },
    ] = completions[..]
    else {
        panic!("{completions:?}")
    };
    client.submit(Token(2), Op::Send { socket, batch: SendBatch::of(b"hello") });
    client.wait(None, &mut completions).unwrap();
    assert!(matches!(completions[2].outcome, Outcome::Sent(_, Ok(()))));
}

#[test]
fn a_step_is_bounded_by_the_behaviour_and_a_buffer_by_its_options() {
    let mut behaviour = Behaviour::default();
    behaviour.step_bytes_max = 10;
    behaviour.delay_max = Duration::ZERO;
    let net = SimNet::with_behaviour(6, behaviour);
    let mut driver = net.driver(CONFIG);
    let options = SocketOptions { receive_buffer_bytes: Some(100), ..SocketOptions::default() };
    let (listener, address) =
        driver.listen(&ANY.into(), &ListenOptions { socket: options, ..ListenOptions::default() }).unwrap();
    driver.submit(Token(0), Op::Accept { listener });
    let mut peer = net.connect(address.ip().unwrap()).unwrap();
    assert_eq!(peer.write(&[1; 3_000]), 3_000);
    let mut completions = Vec::new();
    for _ in 0..100 {
        driver.wait(Some(Duration::from_millis(1)), &mut completions).unwrap();
    }
    let Outcome::Accepted(accepted) = completions.remove(0).outcome else { panic!("not accepted") };
    driver.submit(Token(1), Op::Receive { socket: accepted.socket });
    driver.wait(None, &mut completions).unwrap();
    let Outcome::Received(Received::Data(lease)) = completions.remove(0).outcome else { panic!("no data") };
    assert!(lease.len() <= 10);
    driver.recycle(lease);
    drop(driver);
    net.advance(Duration::from_secs(1));
    assert!(peer.is_reset(), "the driver went with bytes unread");
}
