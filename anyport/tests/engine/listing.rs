//! Looking at sessions from outside and ending them, on every driver.

use std::{
    collections::HashSet,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyport::{
    CloseReason, DriverChoice, Frame, Handler, Limits, Raw, Sent, Session, SessionId, State, Traffic,
};

use crate::support::{Bed, PATIENCE, Peer};

on_every_driver! {
    sessions_are_listed_with_what_went_over_them
    sessions_are_found_by_what_they_are
    a_session_is_closed_or_drained_from_outside
    the_last_that_ended_are_remembered
    what_ended_can_be_looked_at_after_the_end
}

struct Known {
    opened: std::sync::mpsc::Sender<SessionId>,
}

impl Handler for Known {
    type State = ();
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.opened.send(session.id()).unwrap();
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send_frame(frame);
    }
}

fn bed(driver: DriverChoice, shards: usize, limits: Limits) -> (Bed<Known>, Receiver<SessionId>) {
    let (opened, ids) = channel();
    let bed = Bed::start(driver, shards, Raw, limits, move |_| Known { opened: opened.clone() });
    (bed, ids)
}

fn join(bed: &Bed<Known>, ids: &Receiver<SessionId>) -> (Peer, SessionId) {
    let peer = bed.peer();
    (peer, ids.recv_timeout(PATIENCE).unwrap())
}

fn sessions_are_listed_with_what_went_over_them(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 2, Limits::default());
    let mut peers: Vec<_> = (0..5).map(|_| join(&bed, &ids)).collect();
    for (number, (peer, _)) in peers.iter_mut().enumerate() {
        for _ in 0..number {
            peer.send(b"12345");
            peer.expect(b"12345");
        }
    }
    // That the system has taken what the peer has read is told in a later turn.
    let all = loop {
        let all = bed.remote.sessions().wait().unwrap();
        assert_eq!(all.len(), 5);
        if all.iter().all(|info| info.queued_bytes == 0) {
            break all;
        }
    };
    for (number, (peer, id)) in peers.iter().enumerate() {
        let info = all.iter().find(|info| info.id == *id).unwrap();
        let (bytes, frames) = (number as u64 * 5, number as u64);
        let traffic = Traffic {
            bytes_received: bytes,
            bytes_sent: bytes,
            frames_received: frames,
            frames_sent: frames,
        };
        assert_eq!((info.traffic, info.state), (traffic, State::Open));
        assert_eq!(info.peer.to_string(), peer.0.local_addr().unwrap().to_string());
        assert!(info.age <= PATIENCE * 10, "{:?}", info.age);
    }
    assert!(all.is_sorted_by_key(|info| info.id.shard()));
    bed.running.stop().unwrap();
}

fn sessions_are_found_by_what_they_are(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 2, Limits::default());
    let mut peers: Vec<_> = (0..6).map(|_| join(&bed, &ids)).collect();
    let wanted: HashSet<_> = peers.iter().skip(3).map(|(_, id)| *id).collect();
    for (peer, _) in &mut peers[3..] {
        peer.send(b"more than nothing");
        peer.expect(b"more than nothing");
    }
    let found = bed.remote.find(|info| info.traffic.bytes_received > 0).wait().unwrap();
    assert_eq!(found.into_iter().map(|info| info.id).collect::<HashSet<_>>(), wanted);
    let (_, first) = peers[0];
    let inside =
        bed.remote.ask_shard(first.shard().into(), move |_, shard| shard.find(|info| info.id == first));
    assert_eq!(inside.wait().unwrap().len(), 1);
    bed.running.stop().unwrap();
}

fn a_session_is_closed_or_drained_from_outside(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 2, Limits::default());
    let ((mut first, one), (mut second, two)) = (join(&bed, &ids), join(&bed, &ids));
    bed.remote.post(two, |_, session| assert_eq!(session.send(b"goodbye"), Sent::Queued)).unwrap();
    bed.remote.drain(two).unwrap();
    assert_eq!(second.rest(), b"goodbye");
    bed.remote.close(one, CloseReason::Kicked(7)).unwrap();
    assert_eq!(first.rest(), b"");
    drop((first, second));
    let counters = bed.counters_when(|counters| counters.sessions == 0);
    assert_eq!(
        (counters.closed_for(CloseReason::Kicked(0)), counters.closed_for(CloseReason::Drained)),
        (1, 1)
    );
    // Both are gone, and saying it again is nothing.
    bed.remote.close(one, CloseReason::Kicked(8)).unwrap();
    bed.remote.drain(two).unwrap();
    bed.running.stop().unwrap();
}

fn the_last_that_ended_are_remembered(driver: DriverChoice) {
    let limits = Limits { recent_closed_max: 3, ..Limits::default() };
    let (bed, ids) = bed(driver, 1, limits);
    assert_eq!(bed.remote.recently_closed(), []);
    let mut ended = Vec::new();
    for number in 1..=5_u16 {
        let (mut peer, id) = join(&bed, &ids);
        let bytes = vec![b'x'; number.into()];
        peer.send(&bytes);
        peer.expect(&bytes);
        bed.remote.close(id, CloseReason::Kicked(number)).unwrap();
        peer.rest();
        bed.counters_when(|counters| counters.closed_total() == u64::from(number));
        ended.push((id, CloseReason::Kicked(number), u64::from(number)));
    }
    let closed = bed.remote.recently_closed();
    let told: Vec<_> =
        closed.iter().map(|closed| (closed.id, closed.reason, closed.traffic.bytes_received)).collect();
    ended.reverse();
    assert_eq!(told, ended[..3]);
    assert!(closed.iter().all(|closed| closed.lasted < PATIENCE * 10 && closed.peer.ip().is_some()));
    bed.running.stop().unwrap();
}

fn what_ended_can_be_looked_at_after_the_end(driver: DriverChoice) {
    let (mut bed, ids) = bed(driver, 2, Limits { drain_deadline: Duration::ZERO, ..Limits::default() });
    let peers: Vec<_> = (0..4).map(|_| join(&bed, &ids)).collect();
    bed.running.stopper().abort();
    bed.running.wait().unwrap();
    let closed = bed.running.recently_closed(0);
    assert_eq!(closed, bed.remote.recently_closed());
    assert!(closed.is_sorted_by_key(|closed| std::cmp::Reverse(closed.at)));
    let told: HashSet<_> = closed.iter().map(|closed| (closed.id, closed.reason)).collect();
    assert_eq!(told, peers.iter().map(|(_, id)| (*id, CloseReason::Stopped)).collect());
    assert_eq!(bed.running.recently_closed(1), []);
}
