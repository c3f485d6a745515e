//! Waiting: sentence 8.

use std::time::Duration;

use anyport_driver::Driver;

use crate::bed::{Bed, CLOSED, Seen, World};

const LONG: Duration = Duration::from_mins(10);
const MS: Duration = Duration::from_millis(1);
/// What a wait that should end at once may take on a busy machine.
const SOON: Duration = Duration::from_mins(1);

pub(crate) fn s08_a_wait_of_no_time_returns_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let start = bed.driver().now();
    for _ in 0..1_000 {
        bed.wait(Some(Duration::ZERO));
    }
    assert!(bed.driver().now() - start < SOON);
    assert!(bed.log.is_empty());
}

pub(crate) fn s08_a_bounded_wait_takes_its_time_and_returns<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    for timeout in [1, 5, 30].map(Duration::from_millis) {
        let start = bed.driver().now();
        bed.wait(Some(timeout));
        let waited = bed.driver().now() - start;
        assert!(waited >= timeout, "nothing happened, yet it waited only {waited:?} of {timeout:?}");
        assert!(waited < SOON);
    }
    assert!(bed.log.is_empty());
}

pub(crate) fn s08_a_wait_until_a_moment_that_has_come_returns_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let start = bed.driver().now();
    for _ in 0..1_000 {
        let now = bed.driver().now();
        bed.wait_until(now);
        bed.wait_until(start);
    }
    assert!(bed.driver().now() - start < SOON);
    assert!(bed.log.is_empty());
}

pub(crate) fn s08_waits_end_at_their_moments_whichever_were_asked_for_before<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    bed.settle();
    // The first one sets a timer that is far, and the next ones end before it.
    for (round, after) in [LONG, 20 * MS, 3 * MS, LONG, MS / 5, 3 * MS, LONG, MS].into_iter().enumerate() {
        let moment = bed.driver().now() + after;
        let start = bed.driver().now();
        if after == LONG {
            client.feed(b"!");
            let data = |bed: &Bed<W>| bed.count(receive, |seen| matches!(seen, Seen::Data(_)));
            let before = data(&bed);
            while data(&bed) == before {
                bed.wait_until(moment);
            }
        } else {
            let before = bed.log.len();
            bed.wait_until(moment);
            let now = bed.driver().now();
            assert!(now >= moment, "nothing happened, yet round {round} ended {:?} before", moment - now);
            assert_eq!(bed.log.len(), before);
        }
        assert!(bed.driver().now() - start < SOON, "round {round}");
    }
}

pub(crate) fn s08_a_completion_ends_the_wait<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    bed.settle();
    let start = bed.driver().now();
    client.feed(b"now");
    bed.wait(Some(LONG));
    assert!(bed.count(receive, |seen| matches!(seen, Seen::Data(_))) > 0);
    assert!(bed.driver().now() - start < SOON);
}

pub(crate) fn s08_a_wait_without_bound_ends_with_a_completion<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    let receive = bed.receive(socket);
    bed.settle();
    client.close();
    bed.wait(None);
    assert_eq!(bed.end_of(receive), Some(Seen::EndOfStream));
}

pub(crate) fn s08_what_was_submitted_completes_in_waits_of_no_time<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let send = bed.send(socket, b"hello");
    // The simulator's time would stand still: there it moves a little.
    let step = if W::NAME == "sim" { Duration::from_millis(1) } else { Duration::ZERO };
    bed.until("the bytes at the peer", |bed| {
        bed.wait(Some(step));
        client.has_received(b"hello")
    });
    assert_eq!(bed.end(send), Seen::sent(5));
}

pub(crate) fn s08_refusals_end_a_wait_too<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, _client) = bed.pair();
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    let start = bed.driver().now();
    let receive = bed.receive(socket);
    bed.wait(None);
    assert!(bed.end_of(receive).is_some());
    assert!(bed.driver().now() - start < SOON);
}

pub(crate) fn s08_thousands_of_completions_come_in_bounded_waits<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, _client) = bed.pair();
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    // The bed checks the bound of each wait.
    let tokens: Vec<_> = (0..10_000).map(|_| bed.receive(socket)).collect();
    bed.until("every refusal", |bed| tokens.iter().all(|token| bed.end_of(*token).is_some()));
}

pub(crate) fn s08_the_clock_does_not_go_back<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut last = bed.driver().now();
    for at in 0..200 {
        bed.wait(Some(Duration::from_micros(at)));
        let now = bed.driver().now();
        assert!(now >= last);
        last = now;
    }
}
