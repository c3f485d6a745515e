//! The logic half with the links' other ends held by hand.

use std::{collections::VecDeque, time::Duration};

use anyport_core::{Fault, FaultKind};

use super::*;
use crate::{
    PeerAddress,
    relay::{EndSeat, Parked, Stepped, link},
    types::{Completion, Outcome, Received},
};

const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 8,
    receive_memory_bytes: 64 << 10,
    receive_buffer_bytes: 16 << 10,
    ..DriverConfig::DEFAULT
};
const ACCEPT: Token = Token(7);
const RECEIVE: Token = Token(8);

fn relay(links: usize) -> (Relay, Vec<EndSeat>) {
    let (seats, ends) = (0..links).map(|_| link()).unzip();
    (Relay::new(seats, CONFIG, Box::new(Parked::here())), ends)
}

/// One that nobody may wait with.
fn stepped() -> (Relay, EndSeat) {
    let (seat, end) = link();
    let start = Instant::now();
    (Relay::new(vec![seat], CONFIG, Box::new(Stepped::new(move || start))), end)
}

fn address() -> Address {
    "127.0.0.1:4000".parse().expect("an address")
}

fn poll(relay: &mut Relay) -> Vec<Completion> {
    let mut completions = Vec::new();
    relay.wait(Some(Duration::ZERO), &mut completions).expect("parking does not fail");
    completions
}

#[test]
fn a_link_with_more_news_than_a_wait_takes_does_not_keep_another_from_its_turn() {
    let (mut relay, mut ends) = relay(2);
    for end in &mut ends {
        end.news.push(&mut VecDeque::from([News::Door { address: Box::new(address()) }]));
    }
    let (listener, _) = relay.listen(&address(), &ListenOptions::default()).expect("it was announced");
    relay.submit(ACCEPT, Op::Accept { listener });
    let mut one = VecDeque::from([News::Accepted { listener: 0, peer: PeerAddress::Unix }]);
    ends[1].news.push(&mut one);
    let mut accepted = 0;
    for _ in 0..4 {
        let faulted = || Outcome::AcceptFaulted(Fault::of(FaultKind::NoDescriptors));
        let news = |_| News::Outcome { socket: 0, outcome: faulted() };
        ends[0].news.push(&mut (0..=COMPLETIONS_MAX).map(news).collect());
        let completions = poll(&mut relay);
        assert_eq!(completions.len(), COMPLETIONS_MAX, "link 0 has more than enough");
        accepted += completions
            .iter()
            .filter(|Completion { outcome, .. }| matches!(outcome, Outcome::Accepted(_)))
            .count();
    }
    assert_eq!(accepted, 1, "link 1 had its turn");
}

#[test]
fn connections_are_dealt_to_the_links_in_turn_however_often_it_waits_in_between() {
    for waits in 0..4 {
        let (mut relay, _ends) = relay(3);
        let links: Vec<_> = (0..6)
            .map(|_| {
                for _ in 0..waits {
                    poll(&mut relay);
                }
                let key = relay.open(&address(), &SocketOptions::default()).expect("there is room");
                relay.place_of(key).0
            })
            .collect();
        assert_eq!(links, [0, 1, 2, 0, 1, 2], "{waits} waits");
    }
}

#[test]
fn what_cannot_be_waited_for_is_not_ordered() {
    let (mut relay, end) = stepped();
    let error = relay.open_file("a.log".as_ref(), &FileOptions::default()).expect_err("nobody can wait");
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    let error = relay.listen(&address(), &ListenOptions::default()).expect_err("nobody can wait");
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert_eq!(relay.sockets(), 0);
    poll(&mut relay);
    let mut orders = VecDeque::new();
    assert!(end.orders.take(&mut orders));
    assert!(orders.is_empty(), "the other side would carry it out");
}

#[test]
fn a_relay_whose_links_have_ended_rests_whatever_it_is_asked() {
    let (mut relay, mut end) = stepped();
    let data = [
        News::Door { address: Box::new(address()) },
        News::Accepted { listener: 0, peer: PeerAddress::Unix },
        News::Buffer { bytes: vec![0; 40 << 10], pieces: 1 },
        News::Data { socket: 1, len: 40 << 10 },
    ];
    let mut news: VecDeque<_> = data.into();
    let rest = news.split_off(1);
    end.news.push(&mut news);
    let (listener, _) = relay.listen(&address(), &ListenOptions::default()).expect("it was announced");
    relay.submit(ACCEPT, Op::Accept { listener });
    let mut rest = rest;
    let mut received = rest.split_off(1);
    end.news.push(&mut rest);
    let Some(Completion { outcome: Outcome::Accepted(accepted), .. }) = poll(&mut relay).pop() else {
        panic!("it was accepted");
    };
    relay.submit(RECEIVE, Op::Receive { socket: accepted.socket });
    received.push_back(News::Door { address: Box::new(address()) });
    end.news.push(&mut received);
    let Some(Completion { outcome: Outcome::Received(Received::Data(lease)), .. }) = poll(&mut relay).pop()
    else {
        panic!("it was received");
    };
    drop(end);
    for _ in 0..3 {
        poll(&mut relay);
    }
    // More than it keeps back, for somebody who is not there.
    relay.recycle(lease);
    assert!(relay.open_file("a.log".as_ref(), &FileOptions::default()).is_err());
    assert!(relay.listen(&address(), &ListenOptions::default()).is_err(), "the door went with its shard");
    poll(&mut relay);
    assert!(!relay.has_work(), "there is nobody to give anything to");
}
