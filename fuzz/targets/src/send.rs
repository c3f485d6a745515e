//! Send batches and the pool they come from, against plain vectors.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use anyport_core::{
    ChunkPool, SendBatch,
    send::{BLOCK_BYTES, CHUNK_BYTES},
};

use crate::input::Input;

/// Batches that are open at the same time.
const OPEN: usize = 4;
/// Bytes that one input may append: more of the same shows nothing new, and costs time.
const BYTES_MAX: usize = 1 << 19;

/// The input is steps: append to a batch, let the system take some of it, give it back, take and give tails.
pub fn run(bytes: &[u8]) {
    let (mut input, mut pool) = (Input::new(bytes), ChunkPool::new());
    let mut open: [Option<Open>; OPEN] = [const { None }; OPEN];
    let (mut appended, mut tails) = (0, Vec::new());
    while let Some(step) = input.next() {
        let place = &mut open[usize::from(step) / 64];
        match step % 64 {
            what @ 0..48 => {
                let size = size(&mut input);
                appended += size;
                if appended > BYTES_MAX {
                    break;
                }
                let batch = place.get_or_insert_with(|| Open::new(&mut pool));
                match what {
                    0..20 => batch.append(size, size, &mut pool),
                    20..36 => batch.append_shared(size, &mut pool),
                    // Declares one size and writes another, as an encoder with a bug might.
                    36..44 => batch.append(usize::from(input.byte()) * 9, size, &mut pool),
                    _ => batch.append_half(size, &mut pool),
                }
            }
            48..56 => {
                if let Some(batch) = place {
                    batch.advance(size(&mut input));
                }
            }
            56..60 => {
                if let Some(Open { batch, .. }) = place.take() {
                    pool.give(batch);
                }
            }
            60 | 61 => tails.push(tail(&mut pool, size(&mut input))),
            _ => pool.give_tail(tails.pop().unwrap_or_default()),
        }
        let taken = open.iter().flatten().count();
        assert_eq!(pool.batches_out(), taken, "batches taken and not given back");
    }
    for open in open.into_iter().flatten() {
        open.check();
        pool.give(open.batch);
    }
    assert_eq!(pool.batches_out(), 0);
    for _ in 0..OPEN {
        let batch = pool.take();
        assert!(batch.is_empty() && batch.single() == Some(&[]), "a batch that brings something along");
    }
}

/// Sizes around those at which the pool's classes change, and all small ones.
fn size(input: &mut Input<'_>) -> usize {
    match input.byte() {
        small @ 0..160 => usize::from(small),
        middle @ 160..224 => usize::from(middle - 159) * 64,
        around @ 224..236 => CHUNK_BYTES + 6 - usize::from(around - 224),
        around @ 236..248 => BLOCK_BYTES[0] + 6 - usize::from(around - 236),
        around @ 248..255 => BLOCK_BYTES[1] + 3 - usize::from(around - 248),
        255 => 100_000,
    }
}

/// A buffer for the tail of a cut frame, with something in it.
fn tail(pool: &mut ChunkPool, size: usize) -> Vec<u8> {
    let mut tail = pool.take_tail();
    assert!(tail.is_empty() && tail.capacity() == CHUNK_BYTES, "a tail of another shape");
    tail.resize(size, 7);
    tail
}

/// A batch, all that was appended to it, and how much of it was taken.
struct Open {
    batch: Box<SendBatch>,
    all: Vec<u8>,
    sent: usize,
}

impl Open {
    fn new(pool: &mut ChunkPool) -> Self {
        let batch = pool.take();
        assert!(batch.is_empty() && batch.sent() == 0, "a batch that brings something along");
        Self { batch, all: Vec::new(), sent: 0 }
    }

    /// Bytes that differ from place to place, so that a piece out of order shows.
    fn more(&self, size: usize) -> Vec<u8> {
        (self.all.len()..self.all.len() + size).map(|at| (at % 251) as u8).collect()
    }

    fn append(&mut self, said: usize, size: usize, pool: &mut ChunkPool) {
        // What is in flight is not appended to.
        if self.sent == 0 {
            let bytes = self.more(size);
            let wrote = self.batch.append(said, pool, |out| out.extend_from_slice(&bytes));
            assert_eq!(wrote, size);
            self.all.extend_from_slice(&bytes);
            self.check();
        }
    }

    fn append_shared(&mut self, size: usize, pool: &mut ChunkPool) {
        if self.sent == 0 {
            let bytes: Arc<[u8]> = self.more(size).into();
            self.batch.append_shared(bytes.clone(), pool);
            // Small ones are copied, for large ones there is one more owner.
            assert_eq!(Arc::strong_count(&bytes), 1 + usize::from(size > CHUNK_BYTES));
            self.all.extend_from_slice(&bytes);
            self.check();
        }
    }

    /// The encoder fails half-way: nothing of its message stays.
    fn append_half(&mut self, size: usize, pool: &mut ChunkPool) {
        if self.sent == 0 {
            let write = |out: &mut Vec<u8>| {
                out.resize(out.len() + size / 2, 0xee);
                // Without the hook, which a fuzzer takes for a crash.
                std::panic::resume_unwind(Box::new("an encoder's bug"));
            };
            let appended = catch_unwind(AssertUnwindSafe(|| self.batch.append(size, pool, write)));
            assert!(appended.is_err());
            self.check();
        }
    }

    fn advance(&mut self, count: usize) {
        let count = count.min(self.batch.remaining());
        self.batch.advance(count);
        self.sent += count;
        self.check();
    }

    fn check(&self) {
        let Self { batch, all, sent } = self;
        assert_eq!((batch.len(), batch.sent(), batch.remaining()), (all.len(), *sent, all.len() - sent));
        assert_eq!(batch.is_empty(), all.is_empty());
        let (mut rest, mut pieces) = (&all[*sent..], 0);
        for piece in batch.slices() {
            assert!(!piece.is_empty(), "an empty piece");
            rest = rest.strip_prefix(piece).expect("other bytes than were appended");
            pieces += 1;
        }
        assert!(rest.is_empty(), "{} bytes are missing", rest.len());
        match batch.single() {
            Some(piece) => assert!(piece == &all[*sent..], "`single` gives other bytes"),
            None => assert_ne!(pieces, 1, "`single` misses a lone piece"),
        }
    }
}
