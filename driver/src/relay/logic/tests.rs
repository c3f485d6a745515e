//! The logic half with the links' other ends held by hand.

use std::{collections::VecDeque, time::Duration};

use anyport_core::{Fault, FaultKind};

use super::*;
use crate::{
    PeerAddress,
    relay::{EndSeat, Parked, link},
    types::{Completion, Outcome},
};

const CONFIG: DriverConfig =
    DriverConfig { sockets_max: 8, receive_memory_bytes: 64 << 10, receive_buffer_bytes: 16 << 10 };
const ACCEPT: Token = Token(7);

fn relay(links: usize) -> (Relay, Vec<EndSeat>) {
    let (seats, ends) = (0..links).map(|_| link()).unzip();
    (Relay::new(seats, CONFIG, Box::new(Parked::here())), ends)
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
