//! Budgets of bytes that are used up: who pays, and who does not.

use std::time::Duration;

use anyport::{
    CloseReason, Frame, Limits, Overflow, Refusal, Sent,
    sim::{Behaviour, SimNet, SimPeer},
};

use crate::bed::{Bed, SOON};

/// The smallest budget that there is.
const BUDGET: usize = 64 << 10;

/// One shard with a budget, on a network that takes 2,000 bytes of a peer that does not read.
fn bed(seed: u64) -> Bed {
    let behaviour = Behaviour::default().with_socket_buffer_bytes(2_000..=2_000);
    let limits = Limits { service_queue_max_bytes: Some(BUDGET), ..Limits::default() };
    Bed::with_limits(SimNet::with_behaviour(seed, behaviour), limits)
}

/// Peers that ask for `bytes` each, all in one batch that is in flight, and do not read.
fn stuck(bed: &mut Bed, peers: usize, bytes: usize) -> Vec<SimPeer> {
    let mut ask = |_| {
        let mut peer = bed.peer();
        peer.write(format!("send {bytes}\n").as_bytes());
        bed.engine.run_for(SOON);
        peer
    };
    (0..peers).map(&mut ask).collect()
}

fn end(mut bed: Bed, peers: impl Sized) {
    drop(peers);
    bed.engine.run_for(Duration::from_secs(20));
    bed.stop();
}

#[test]
fn what_is_in_flight_costs_one_slow_reader_and_not_all() {
    let mut bed = bed(1);
    let slow = stuck(&mut bed, 10, 6_200);
    let mut reader = bed.peer();
    assert_eq!(bed.ask(&mut reader, "send 5000").len(), 5_001);
    assert_eq!(bed.diary.closes(), [CloseReason::SendBudget]);
    // The room of the one is used before another pays.
    assert_eq!(bed.ask(&mut reader, "send 5000").len(), 5_001);
    assert_eq!(bed.diary.closes(), [CloseReason::SendBudget]);
    end(bed, (slow, reader));
}

#[test]
fn who_is_closing_already_pays_before_anybody_else() {
    let mut bed = bed(2);
    let mut slow = stuck(&mut bed, 10, 6_200);
    let mut reader = bed.peer();
    // In one turn: a slow one goes, and the reader asks.
    let gone = bed.diary.opens()[0].1;
    let asks = bed.diary.opens()[10].1;
    let posted = bed.remote.post_to_shard(0, move |_, shard| {
        shard.session(gone).unwrap().kick(7);
        shard.session(asks).unwrap().send(&[b'y'; 5_000]);
    });
    posted.unwrap();
    assert_eq!(bed.engine.read_line(&mut reader, SOON).len(), 5_001);
    assert_eq!(bed.diary.closes(), [CloseReason::Kicked(7)]);
    slow.remove(0);
    end(bed, (slow, reader));
}

#[test]
fn what_may_be_lost_and_what_is_for_nobody_costs_nobody_his_place() {
    let mut bed = bed(3);
    let slow = stuck(&mut bed, 10, 6_200);
    let ends = bed.peer();
    let (tell, told) = std::sync::mpsc::channel();
    let asks = bed.diary.opens()[10].1;
    let posted = bed.remote.post_to_shard(0, move |_, shard| {
        let mut session = shard.session(asks).unwrap();
        let hint = Frame { kind: 0, body: &[b'y'; 5_000] };
        let lost = [Overflow::Skip, Overflow::DropOldest, Overflow::Conflate { key: 1 }];
        let mut sent = lost.map(|overflow| session.send_with(hint, overflow)).to_vec();
        session.drain();
        sent.extend([session.send_frame(hint), session.send_shared(hint.body.into())]);
        sent.push(session.send_with(hint, Overflow::Skip));
        tell.send(sent).unwrap();
    });
    posted.unwrap();
    bed.engine.run_for(SOON);
    let refused = Sent::Refused(Refusal::NotOpen);
    let skipped = Sent::Skipped;
    assert_eq!(told.try_recv().unwrap(), [skipped, skipped, skipped, refused, refused, refused]);
    assert!(!bed.diary.closes().contains(&CloseReason::SendBudget), "{:?}", bed.diary.closes());
    end(bed, (slow, ends));
}
