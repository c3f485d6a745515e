//! Send batches and their pool against plain vectors.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use anyport_core::{ChunkPool, SendBatch, send};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Piece {
    /// Declares a size and writes that many bytes.
    Owned(usize),
    Shared(usize),
    /// Declares the first size and writes the second, as an encoder with a bug might.
    Lying(usize, usize),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        12 => 0..64_usize,
        8 => 0..2_000_usize,
        2 => prop::sample::select(vec![1_023, 1_024, 1_025, 8_191, 8_192, 8_193, 65_535, 65_536, 65_537]),
        1 => 0..=200 * 1_024_usize,
    ]
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        6 => size().prop_map(Piece::Owned),
        4 => size().prop_map(Piece::Shared),
        1 => (size(), size()).prop_map(|(said, wrote)| Piece::Lying(said, wrote)),
    ]
}

/// Bytes that differ from place to place, so that a piece out of order shows.
fn bytes(salt: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(31) ^ salt.wrapping_mul(17) ^ (at >> 8)) as u8).collect()
}

fn joined(batch: &SendBatch) -> Vec<u8> {
    batch.slices().flatten().copied().collect()
}

fn check(batch: &SendBatch, all: &[u8], sent: usize) {
    assert_eq!((batch.len(), batch.sent(), batch.remaining()), (all.len(), sent, all.len() - sent));
    assert_eq!(batch.is_empty(), all.is_empty());
    assert!(batch.slices().all(|piece| !piece.is_empty()), "an empty piece");
    assert!(joined(batch) == all[sent..], "other bytes than were appended");
    match batch.single() {
        Some(piece) => assert!(piece == &all[sent..], "`single` gives other bytes"),
        None => assert_ne!(batch.slices().count(), 1, "`single` misses a lone piece"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_is_the_concatenation_of_what_was_appended(
        rounds in prop::collection::vec(
            (prop::collection::vec(piece(), 0..12), prop::collection::vec(size(), 0..6), any::<bool>()),
            1..3,
        ),
    ) {
        let mut pool = ChunkPool::new();
        for (pieces, progress, finish) in rounds {
            let (mut batch, mut all) = (pool.take(), Vec::new());
            for (salt, piece) in pieces.iter().enumerate() {
                let (Piece::Owned(size) | Piece::Shared(size) | Piece::Lying(_, size)) = *piece;
                let new = bytes(salt, size);
                match *piece {
                    Piece::Shared(_) => batch.append_shared(Arc::from(&new[..]), &mut pool),
                    Piece::Owned(said) | Piece::Lying(said, _) => {
                        let wrote = batch.append(said, &mut pool, |out| out.extend_from_slice(&new));
                        prop_assert_eq!(wrote, size);
                    }
                }
                all.extend_from_slice(&new);
            }
            let mut sent = 0;
            check(&batch, &all, sent);
            for step in progress {
                let step = step.min(batch.remaining());
                batch.advance(step);
                sent += step;
                check(&batch, &all, sent);
            }
            if finish {
                batch.advance(batch.remaining());
                check(&batch, &all, all.len());
            }
            prop_assert_eq!(pool.batches_out(), 1);
            pool.give(batch);
            prop_assert_eq!(pool.batches_out(), 0);
        }
    }

    #[test]
    fn batches_of_one_pool_do_not_mix(
        turns in prop::collection::vec((0..4_usize, size(), any::<bool>()), 0..30),
    ) {
        let mut pool = ChunkPool::new();
        let mut open: [Option<(Box<SendBatch>, Vec<u8>)>; 4] = [None, None, None, None];
        for (salt, (at, size, give)) in turns.into_iter().enumerate() {
            let (mut batch, mut all) = open[at].take().unwrap_or_else(|| (pool.take(), Vec::new()));
            let new = bytes(salt, size);
            batch.append(size, &mut pool, |out| out.extend_from_slice(&new));
            all.extend_from_slice(&new);
            check(&batch, &all, 0);
            if give { pool.give(batch) } else { open[at] = Some((batch, all)) }
            prop_assert_eq!(pool.batches_out(), open.iter().flatten().count());
        }
        for (batch, all) in open.iter().flatten() {
            check(batch, all, 0);
        }
    }
}

#[test]
fn an_empty_message_may_follow_a_shared_one() {
    let mut pool = ChunkPool::new();
    let mut batch = pool.take();
    batch.append_shared(bytes(0, 5_000).into(), &mut pool);
    assert_eq!(batch.append(0, &mut pool, |_| {}), 0);
    check(&batch, &bytes(0, 5_000), 0);
}

#[test]
fn empty_shared_messages_take_no_place_in_the_batch() {
    let mut pool = ChunkPool::new();
    let mut batch = pool.take();
    for _ in 0..1_000 {
        batch.append_shared(Arc::from([]), &mut pool);
    }
    assert_eq!(format!("{batch:?}"), "SendBatch(0 of 0 bytes sent, 1 pieces)");
}

#[test]
fn small_shared_messages_do_not_become_a_piece_each() {
    let mut pool = ChunkPool::new();
    let (mut batch, mut all) = (pool.take(), Vec::new());
    for salt in 0..2_000 {
        let new = bytes(salt, 1 + salt % 40);
        batch.append_shared(Arc::from(&new[..]), &mut pool);
        batch.append(1, &mut pool, |out| out.push(7));
        all.extend_from_slice(&new);
        all.push(7);
    }
    check(&batch, &all, 0);
    let pieces = batch.slices().count();
    assert!(pieces <= 2 + all.len() / send::BLOCK_BYTES[0], "{pieces} pieces for {} bytes", all.len());
}

#[test]
fn an_encoder_that_panics_half_way_leaves_the_batch_as_it_was() {
    let mut pool = ChunkPool::new();
    let mut batch = pool.take();
    batch.append(3, &mut pool, |out| out.extend_from_slice(b"one"));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        batch.append(9, &mut pool, |out| {
            out.extend_from_slice(b"half of");
            panic!("an encoder's bug");
        })
    }));
    assert!(panicked.is_err());
    check(&batch, b"one", 0);
    batch.append(3, &mut pool, |out| out.extend_from_slice(b"two"));
    check(&batch, b"onetwo", 0);
}

#[test]
#[should_panic(expected = "removed bytes that were queued before")]
fn an_encoder_that_removes_what_others_queued_is_stopped_at_once() {
    let mut pool = ChunkPool::new();
    let mut batch = pool.take();
    batch.append(3, &mut pool, |out| out.extend_from_slice(b"one"));
    batch.append(3, &mut pool, |out| {
        out.clear();
        out.push(b'x');
    });
}
