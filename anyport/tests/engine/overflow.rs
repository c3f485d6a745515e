//! `Session::send_with`: what a slow peer may lose. All is queued in one turn, so no peer has to be slow.

use anyport::{
    CloseReason, Counters, DriverChoice, Frame, Handler, Limits, Lines, Losses, Overflow, SendMarks, Sent,
    Session,
};

use crate::support::{Bed, Event, Events, Peer};

on_every_driver! {
    what_must_arrive_closes_when_it_does_not_fit
    what_may_be_skipped_is_skipped_when_it_does_not_fit
    the_oldest_of_what_may_be_dropped_make_room
    a_newer_value_takes_the_place_of_an_older_one
}

/// Room for five lines of [`WIRE`] bytes that may be lost, and for ten that must arrive.
const MARKS: SendMarks = SendMarks { high_water_bytes: 500, low_water_bytes: 100, queue_max_bytes: 1_000 };
/// A line and its end.
const WIRE: usize = 100;

/// Sends numbered lines when it hears a number: as many, each in its own way.
struct Loose {
    overflow: fn(usize) -> Overflow,
    tell: std::sync::mpsc::Sender<Event>,
}

fn line(number: usize) -> Vec<u8> {
    format!("{number:0>size$}\n", size = WIRE - 1).into_bytes()
}

fn lines(numbers: impl IntoIterator<Item = usize>) -> Vec<u8> {
    numbers.into_iter().flat_map(line).collect()
}

impl Handler for Loose {
    type State = (Vec<Sent>, Losses);
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let count: usize = str::from_utf8(&frame).unwrap().parse().unwrap();
        for number in 0..count {
            let body = line(number);
            let frame = Frame { kind: 0, body: &body[..WIRE - 1] };
            let sent = session.send_with(frame, (self.overflow)(number));
            session.state().0.push(sent);
        }
        session.state().1 = session.losses();
        // What must arrive has room above the mark.
        session.send(b"end");
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        self.tell.send(Event::Close(reason)).unwrap();
    }
}

/// What eight lines in one turn came to: the answers to each, and what was lost; what came is `wanted`.
fn eight(driver: DriverChoice, overflow: fn(usize) -> Overflow, wanted: &[u8]) -> (Vec<Sent>, Losses) {
    let (bed, _events) = bed(driver, overflow);
    let mut peer = bed.peer();
    peer.send(b"8\n");
    peer.expect(wanted);
    peer.expect(b"end\n");
    let mut seen = bed.remote.ask_all(|_, shard| {
        let mut seen = None;
        shard.for_each(|session| seen = Some(std::mem::take(session.state())));
        seen
    });
    let (sent, losses) = seen.wait_timeout(crate::support::PATIENCE).unwrap().remove(0).unwrap();
    let lost = |counters: &Counters| Losses {
        skipped: counters.messages_skipped,
        dropped: counters.messages_dropped,
        conflated: counters.messages_conflated,
    };
    bed.counters_when(|counters| lost(counters) == losses);
    bed.running.stop().unwrap();
    (sent, losses)
}

fn bed(driver: DriverChoice, overflow: fn(usize) -> Overflow) -> (Bed<Loose>, Events) {
    let (tell, events) = Events::new();
    let limits = Limits { send: MARKS, ..Limits::default() };
    let make = move |_| Loose { overflow, tell: tell.clone() };
    (Bed::start(driver, 1, Lines::default(), limits, make), events)
}

fn what_must_arrive_closes_when_it_does_not_fit(driver: DriverChoice) {
    let (bed, events) = bed(driver, |_| Overflow::Close);
    let mut fits: Peer = bed.peer();
    fits.send(b"9\n");
    fits.expect(&lines(0..9));
    let mut does_not = bed.peer();
    does_not.send(b"11\n");
    assert_eq!(does_not.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::SendQueueFull);
    let counters = bed.counters_when(|counters| counters.closed_total() == 1);
    // The eleventh, and the end after it.
    assert_eq!((counters.frames_refused, counters.messages_skipped), (2, 0));
    bed.running.stop().unwrap();
}

fn what_may_be_skipped_is_skipped_when_it_does_not_fit(driver: DriverChoice) {
    let (sent, losses) = eight(driver, |_| Overflow::Skip, &lines(0..5));
    assert_eq!(losses, Losses { skipped: 3, ..Losses::default() });
    assert!(sent[..5].iter().all(|sent| *sent == Sent::Queued), "{sent:?}");
    assert!(sent[5..].iter().all(|sent| *sent == Sent::Skipped), "{sent:?}");
}

fn the_oldest_of_what_may_be_dropped_make_room(driver: DriverChoice) {
    let (sent, losses) = eight(driver, |_| Overflow::DropOldest, &lines(3..8));
    assert_eq!(losses, Losses { dropped: 3, ..Losses::default() });
    assert!(sent.iter().all(|sent| *sent == Sent::Queued), "{sent:?}");
}

fn a_newer_value_takes_the_place_of_an_older_one(driver: DriverChoice) {
    // Three keys: of each the newest is sent, at its place among the newer ones, though there was room for five.
    let by_three = |number| Overflow::Conflate { key: number as u64 % 3 };
    let (sent, losses) = eight(driver, by_three, &lines(5..8));
    assert_eq!(losses, Losses { conflated: 5, ..Losses::default() });
    assert!(sent.iter().all(|sent| *sent == Sent::Queued), "{sent:?}");
    // Where each has a key of its own, the oldest make room.
    let (_, losses) = eight(driver, |number| Overflow::Conflate { key: number as u64 }, &lines(3..8));
    assert_eq!(losses, Losses { dropped: 3, ..Losses::default() });
}
