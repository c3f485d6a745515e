//! Messages that may be lost, against a model that keeps each message by itself.

use std::{collections::VecDeque, sync::Arc};

use anyport_core::{
    Action, ChunkPool, CloseReason, Connection, Losses, Overflow, Refusal, SendBatch, SendMarks, Sent, State,
};

const MARKS: SendMarks =
    SendMarks { high_water_bytes: 4_000, low_water_bytes: 2_000, queue_max_bytes: 9_000 };

/// Whose messages those by part are; the others are nobody's.
const GROUP: u32 = 7;

/// Numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct Message {
    bytes: Vec<u8>,
    overflow: Overflow,
    of_group: bool,
}

#[derive(Default)]
struct Model {
    queued: VecDeque<Message>,
    in_flight: usize,
    losses: Losses,
    /// What the group lost of what was queued.
    lost: Losses,
}

impl Model {
    fn bytes(&self) -> usize {
        self.in_flight + self.queued.iter().map(|message| message.bytes.len()).sum::<usize>()
    }

    fn send(&mut self, bytes: Vec<u8>, overflow: Overflow, of_group: bool) -> Sent {
        let size = bytes.len();
        if overflow == Overflow::Close {
            if self.bytes() + size > MARKS.queue_max_bytes {
                return Sent::Refused(Refusal::QueueFull);
            }
            self.queued.push_back(Message { bytes, overflow, of_group });
            return if self.bytes() > MARKS.high_water_bytes { Sent::High } else { Sent::Queued };
        }
        let same =
            |message: &Message| matches!(overflow, Overflow::Conflate { .. }) && message.overflow == overflow;
        let (replaced, limit) = match self.queued.iter().position(same) {
            Some(at) => (self.queued[at].bytes.len(), MARKS.high_water_bytes.max(self.bytes())),
            None => (0, MARKS.high_water_bytes),
        };
        while self.bytes() - replaced > 0 && self.bytes() - replaced + size > limit {
            let droppable = |message: &Message| message.overflow != Overflow::Close && !same(message);
            let oldest = self.queued.iter().position(droppable);
            let (Some(oldest), false) = (oldest, overflow == Overflow::Skip) else {
                if self.queued.iter().any(same) && self.bytes() - replaced + size <= MARKS.queue_max_bytes {
                    break;
                }
                self.losses.skipped += 1;
                return Sent::Skipped;
            };
            let dropped = self.queued.remove(oldest).unwrap();
            self.losses.dropped += 1;
            self.lost.dropped += u64::from(dropped.of_group);
        }
        if let Some(at) = self.queued.iter().position(same) {
            let replaced = self.queued.remove(at).unwrap();
            self.losses.conflated += 1;
            self.lost.conflated += u64::from(replaced.of_group);
        }
        self.queued.push_back(Message { bytes, overflow, of_group });
        if self.bytes() > MARKS.high_water_bytes { Sent::High } else { Sent::Queued }
    }
}

fn poll_send(connection: &mut Connection, pool: &mut ChunkPool) -> Option<Box<SendBatch>> {
    loop {
        match connection.poll_action(pool)? {
            Action::Send(batch) => return Some(batch),
            Action::Receive => {}
            other => panic!("{other:?} was not expected"),
        }
    }
}

/// One run; gives what was lost.
fn run(seed: u64) -> Losses {
    let mut draw = Draw(seed);
    let (mut connection, mut pool, mut model) = (Connection::open(false), ChunkPool::new(), Model::default());
    let mut lost = Losses::default();
    let mut flying: Option<Box<SendBatch>> = None;
    for step in 0..600_u32 {
        match draw.below(10) {
            0 => {
                if let Some(mut batch) = flying.take() {
                    batch.advance(batch.remaining());
                    connection.handle_sent(batch, Ok(()), &MARKS, &mut pool);
                    model.in_flight = 0;
                }
            }
            1 | 2 if flying.is_none() => {
                flying = poll_send(&mut connection, &mut pool);
                let wanted: Vec<u8> = model.queued.drain(..).flat_map(|message| message.bytes).collect();
                let got: Vec<u8> =
                    flying.iter().flat_map(|batch| batch.slices()).flatten().copied().collect();
                assert_eq!(got, wanted, "seed {seed}, step {step}");
                model.in_flight = wanted.len();
            }
            _ => {
                let size = [1, 40, 300, 1_500, 4_100][draw.below(5) as usize] + draw.below(9) as usize;
                let bytes = vec![step as u8; size];
                let overflow = match draw.below(8) {
                    0 => Overflow::Skip,
                    1 | 2 => Overflow::DropOldest,
                    3..6 => Overflow::Conflate { key: draw.below(4) },
                    _ => Overflow::Close,
                };
                if overflow == Overflow::Close && model.bytes() + size > MARKS.queue_max_bytes {
                    continue;
                }
                let by_part = draw.below(2) == 0;
                let sent = send(&mut connection, &mut pool, &bytes, overflow, by_part);
                assert_eq!(
                    sent,
                    model.send(bytes, overflow, by_part),
                    "seed {seed}, step {step}, {overflow:?}"
                );
            }
        }
        assert_eq!(connection.queued_bytes(), model.bytes(), "seed {seed}, step {step}");
        assert_eq!(connection.losses(), model.losses, "seed {seed}, step {step}");
        while let Some((group, more)) = connection.next_lost() {
            assert_eq!(group, GROUP);
            lost.add(more);
        }
        assert_eq!(lost, model.lost, "seed {seed}, step {step}");
    }
    assert_eq!(connection.state(), State::Open);
    connection.losses()
}

fn send(
    connection: &mut Connection,
    pool: &mut ChunkPool,
    bytes: &[u8],
    overflow: Overflow,
    by_part: bool,
) -> Sent {
    // The part lies inside its edition, as a message among others does.
    let edition = Arc::new([&b"before"[..], bytes, b"behind"].concat());
    let range = 6..6 + bytes.len();
    match (overflow, by_part) {
        (Overflow::Close, true) => connection.send_part(&edition, range, &MARKS, pool),
        (Overflow::Close, false) => {
            connection.send(bytes.len(), &MARKS, pool, |out| out.extend_from_slice(bytes))
        }
        (_, true) => connection.send_loose(bytes.len(), overflow, GROUP, &MARKS, pool, |batch, pool| {
            batch.append_part(&edition, range, pool);
        }),
        (_, false) => connection.send_loose(bytes.len(), overflow, 0, &MARKS, pool, |batch, pool| {
            batch.append(bytes.len(), pool, |out| out.extend_from_slice(bytes));
        }),
    }
}

#[test]
fn what_is_sent_and_what_is_lost_is_as_the_model_says() {
    let mut all = Losses::default();
    for seed in 0..400 {
        let losses = run(seed);
        all.add(losses);
    }
    assert!(
        all.skipped > 1_000 && all.dropped > 1_000 && all.conflated > 1_000,
        "too little was lost: {all:?}"
    );
}

#[test]
fn conflation_of_one_key_does_not_grow_the_queue() {
    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    send(&mut connection, &mut pool, b"in flight", Overflow::Close, false);
    let batch = poll_send(&mut connection, &mut pool).expect("something is queued");
    for round in 0..100_000_u32 {
        let sent =
            send(&mut connection, &mut pool, &round.to_le_bytes(), Overflow::Conflate { key: 7 }, false);
        assert_eq!(sent, Sent::Queued);
    }
    assert_eq!(connection.queued_bytes(), batch.len() + 4);
    assert!(pool.bytes_out() < 200_000, "{} bytes are kept for one value", pool.bytes_out());
    assert_eq!(connection.losses(), Losses { conflated: 99_999, ..Losses::default() });
}

#[test]
fn tokens_come_when_the_system_took_their_bytes_and_not_after_a_failure() {
    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    send(&mut connection, &mut pool, b"first", Overflow::Close, false);
    connection.notify(1);
    let mut batch = poll_send(&mut connection, &mut pool).unwrap();
    send(&mut connection, &mut pool, b"second", Overflow::Close, false);
    connection.notify(2);
    connection.notify(3);
    assert_eq!(connection.next_sent_token(), None);
    batch.advance(5);
    connection.handle_sent(batch, Ok(()), &MARKS, &mut pool);
    assert_eq!((connection.next_sent_token(), connection.next_sent_token()), (Some(1), None));
    let batch = poll_send(&mut connection, &mut pool).unwrap();
    let fault = anyport_core::Fault::of(anyport_core::FaultKind::PeerReset);
    connection.handle_sent(batch, Err(fault), &MARKS, &mut pool);
    assert_eq!(connection.next_sent_token(), None);
    assert_eq!(connection.reason(), Some(CloseReason::PeerReset));
}

#[test]
fn a_send_that_nobody_waits_for_is_lazy_and_holds_up_who_comes_to_wait() {
    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    let sent_out = |connection: &mut Connection, pool: &mut ChunkPool| {
        send(connection, pool, b"an answer", Overflow::Close, false);
        poll_send(connection, pool).expect("something is queued")
    };
    let mut batch = sent_out(&mut connection, &mut pool);
    assert!(batch.is_lazy() && connection.is_lazy() && !connection.is_held_up());
    // More is queued behind it: its end lets something happen.
    send(&mut connection, &mut pool, b"more", Overflow::Close, false);
    assert!(connection.is_held_up());
    batch.advance(9);
    connection.handle_sent(batch, Ok(()), &MARKS, &mut pool);
    assert!(!connection.is_held_up() && !connection.is_lazy());
    let mut batch = poll_send(&mut connection, &mut pool).unwrap();
    batch.advance(4);
    connection.handle_sent(batch, Ok(()), &MARKS, &mut pool);

    // The handler asked to be told, or the session drains: somebody waits from the beginning.
    send(&mut connection, &mut pool, b"an answer", Overflow::Close, false);
    connection.notify(1);
    let mut batch = poll_send(&mut connection, &mut pool).unwrap();
    assert!(!batch.is_lazy() && !connection.is_held_up());
    batch.advance(9);
    connection.handle_sent(batch, Ok(()), &MARKS, &mut pool);
    assert_eq!(connection.next_sent_token(), Some(1));

    // It begins to drain while one is in flight, and a batch that comes back is somebody's again.
    let batch = sent_out(&mut connection, &mut pool);
    assert!(batch.is_lazy());
    connection.drain(CloseReason::Drained);
    assert!(connection.is_held_up());
    pool.give(batch);
    assert!(!pool.take().is_lazy());
}

#[test]
fn above_the_allowance_what_must_arrive_closes_and_the_rest_is_skipped() {
    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    pool.set_allowance(100);
    assert_eq!(send(&mut connection, &mut pool, &[1; 90], Overflow::Close, false), Sent::Queued);
    assert_eq!(send(&mut connection, &mut pool, &[2; 20], Overflow::DropOldest, false), Sent::Skipped);
    assert_eq!(connection.state(), State::Open);
    let sent = send(&mut connection, &mut pool, &[2; 20], Overflow::Close, true);
    assert_eq!(sent, Sent::Refused(Refusal::OverBudget));
    assert_eq!(connection.reason(), Some(CloseReason::SendBudget));
    assert!(matches!(connection.poll_action(&mut pool), Some(Action::Close)));
    assert_eq!((pool.bytes_out(), pool.batches_out()), (0, 0));
}

/// All that would be sent now.
fn wire(connection: &mut Connection, pool: &mut ChunkPool) -> Vec<u8> {
    let batch = poll_send(connection, pool).expect("something is queued");
    batch.slices().flatten().copied().collect()
}

#[test]
fn a_newer_value_that_is_larger_comes_in_the_olders_place() {
    const VALUE: Overflow = Overflow::Conflate { key: 7 };
    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    assert_eq!(send(&mut connection, &mut pool, &[1; 50], VALUE, false), Sent::Queued);
    // What must arrive came behind it, up to above the high mark.
    assert_eq!(send(&mut connection, &mut pool, &[2; 5_000], Overflow::Close, false), Sent::High);
    assert_eq!(send(&mut connection, &mut pool, &[3; 51], VALUE, false), Sent::High);
    assert_eq!(connection.losses(), Losses { conflated: 1, ..Losses::default() });
    // But nothing goes beyond what a queue may hold.
    assert_eq!(send(&mut connection, &mut pool, &[4; 8_000], VALUE, false), Sent::Skipped);
    assert_eq!(wire(&mut connection, &mut pool), [vec![2; 5_000], vec![3; 51]].concat());

    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    pool.set_allowance(150);
    for (bytes, overflow) in [(&[1; 50][..], VALUE), (&[2; 80], Overflow::Close), (&[3; 70], VALUE)] {
        assert_eq!(send(&mut connection, &mut pool, bytes, overflow, false), Sent::Queued);
    }
    // The budget holds all the same.
    assert_eq!(pool.bytes_out(), 150);
    assert_eq!(send(&mut connection, &mut pool, &[4; 71], VALUE, false), Sent::Skipped);
    assert_eq!(wire(&mut connection, &mut pool), [vec![2; 80], vec![3; 70]].concat());
}

#[test]
fn an_encoder_that_panics_loses_its_own_message_only() {
    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    send(&mut connection, &mut pool, b"must arrive,", Overflow::Close, false);
    connection.notify(1);
    send(&mut connection, &mut pool, b"old", Overflow::Conflate { key: 7 }, false);
    send(&mut connection, &mut pool, b"new", Overflow::Conflate { key: 7 }, false);
    let mut panics = || {
        connection.send_loose(5, Overflow::Skip, 0, &MARKS, &mut pool, |batch, pool| {
            batch.append(5, pool, |_| panic!("as encoders do"));
        })
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut panics)).is_err());
    assert_eq!(connection.losses(), Losses { conflated: 1, ..Losses::default() });
    let mut batch = poll_send(&mut connection, &mut pool).unwrap();
    assert_eq!(batch.slices().flatten().copied().collect::<Vec<_>>(), b"must arrive,new");
    batch.advance(batch.remaining());
    connection.handle_sent(batch, Ok(()), &MARKS, &mut pool);
    assert_eq!((connection.next_sent_token(), pool.bytes_out()), (Some(1), 0));
}

#[test]
fn values_without_end_take_little_to_remember() {
    let (mut connection, mut pool) = (Connection::open(false), ChunkPool::new());
    send(&mut connection, &mut pool, b"in flight", Overflow::Close, false);
    let batch = poll_send(&mut connection, &mut pool).expect("something is queued");
    for _ in 0..10_000_u32 {
        send(&mut connection, &mut pool, b"v", Overflow::Conflate { key: 7 }, false);
        assert!(pool.bytes_out() < batch.len() + 2_000, "{} dead ones are remembered", pool.bytes_out());
    }
}

/// Each defect that is put into this on purpose breaks the model.
#[cfg(planted_bugs)]
#[test]
fn what_is_planted_is_found() {
    use anyport_core::planted::{Bug, plant};

    for bug in [Bug::SkipNotCounted, Bug::NewestDropped, Bug::LooseWithoutLimit, Bug::ConflatedKept] {
        plant(Some(bug));
        let found = (0..400).any(|seed| std::panic::catch_unwind(|| run(seed)).is_err());
        plant(None);
        assert!(found, "{} is not found", bug.name());
    }
}
