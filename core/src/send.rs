//! The send path of a session: messages are encoded once into pooled chunks, gathered while a send is in
//! flight, and leave as one [`SendBatch`].
//!
//! A batch moves by value: from the session into the driver, and back with the completion. What the kernel
//! reads therefore cannot be freed or changed meanwhile (the send buffer on the stack that IOCP servers fall over).

use std::{fmt, ops::Range, sync::Arc};

use crate::planted::{Bug, planted};

/// Capacity of the chunk that every batch carries: a turn's worth of small messages. Small, so that a
/// thousand batches in flight stay close together in the cache.
pub const CHUNK_BYTES: usize = 1 << 10;
/// Capacities of the chunks that larger messages go to; above the last, a message gets a chunk of its own
/// that is not pooled.
pub const BLOCK_BYTES: [usize; 2] = [8 << 10, 64 << 10];

/// Batches, blocks and tails that a pool keeps for reuse; more are freed. With guard pages everything is freed, so that
/// whoever still uses it is found.
const BATCHES_KEPT: usize = if cfg!(guard_pages) { 0 } else { 16 << 10 };
const BLOCKS_KEPT: [usize; 2] = if cfg!(guard_pages) { [0; 2] } else { [512, 128] };
const TAILS_KEPT: usize = if cfg!(guard_pages) { 0 } else { 4 << 10 };

/// Shared messages up to this size are copied: that costs less than a piece of its own in the gathered send,
/// and a queue of small ones holds no block for each.
const SHARED_COPIED_BYTES: usize = CHUNK_BYTES;
/// A part of an edition that is less than one in so many of its bytes is copied to stand behind others.
const PART_OF_EDITION: usize = 4;
/// The same for one that goes first: who keeps up holds the edition for a moment, and a copy costs all of them.
const FIRST_PART_OF_EDITION: usize = 16;
/// Pieces for which a pooled batch keeps room.
const PIECES_KEPT: usize = 64;

/// What `send` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Queued; it leaves at the end of the turn.
    Queued,
    /// Queued, and the queue is above `high_water_bytes`: slow down until the pressure is relieved.
    High,
    /// Not queued, as its [`Overflow`](crate::Overflow) says: the peer does not read fast enough.
    Skipped,
    /// Not queued.
    Refused(Refusal),
}

/// Why a message was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The session is draining or closing.
    NotOpen,
    /// The queue would have risen above `queue_max_bytes`; the session closes with `SendQueueFull`.
    QueueFull,
    /// The codec cannot carry a frame of this size.
    FrameTooLarge,
    /// The codec cannot carry this body, whatever its limit: [`Fixed`](crate::Fixed) has another size,
    /// [`Delimiter`](crate::Delimiter) would find its delimiter in it. A line in the log, at debug, says what is wrong.
    FrameMalformed,
    /// All queues of the service, or of the engine, hold as much as they may together; the session closes with
    /// `SendBudget`.
    OverBudget,
}

/// Bytes that were encoded once for many sessions: what a turn published to groups.
pub type Edition = Arc<Vec<u8>>;

enum Segment {
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
    Part(Edition, Range<usize>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Part(edition, range) => &edition[range.clone()],
        }
    }
}

/// Bytes to send, in order, in one operation. Comes from a [`ChunkPool`] and goes back to one.
pub struct SendBatch {
    /// Pooled together with the batch: one small message needs nothing else.
    head: Vec<u8>,
    more: Vec<Segment>,
    len: usize,
    sent: usize,
    lazy: bool,
}

impl SendBatch {
    fn new() -> Self {
        Self { head: Vec::with_capacity(CHUNK_BYTES), more: Vec::new(), len: 0, sent: 0, lazy: false }
    }

    /// A batch outside any pool, for tests and tools.
    pub fn of(bytes: &[u8]) -> Box<Self> {
        let mut batch = Box::new(Self::new());
        batch.push_shared(bytes.into());
        batch
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the system has taken.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Bytes still to send.
    pub fn remaining(&self) -> usize {
        self.len - self.sent
    }

    /// True if nobody waits for the end of its send: it may be told together with the next completion of any other
    /// kind (the driver's contract, sentence 8).
    #[inline]
    pub fn is_lazy(&self) -> bool {
        self.lazy
    }

    /// Says whether somebody waits for the end of its send; at first, somebody does.
    #[inline]
    pub fn set_lazy(&mut self, lazy: bool) {
        self.lazy = lazy;
    }

    /// Records that the system took `count` bytes more.
    ///
    /// # Panics
    /// If that is more than was left: a driver must never report bytes it was not given.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "{count} bytes sent of {} that were left", self.remaining());
        self.sent += count;
    }

    /// What is still to send, when it lies in one piece.
    #[inline]
    pub fn single(&self) -> Option<&[u8]> {
        if self.more.is_empty() {
            return Some(&self.head[self.sent..]);
        }
        let mut slices = self.slices();
        let first = slices.next()?;
        slices.next().is_none().then_some(first)
    }

    /// What is still to send, piece by piece, none empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.sent;
        std::iter::once(self.head.as_slice()).chain(self.more.iter().map(Segment::bytes)).filter_map(
            move |bytes| {
                let skipped = skip.min(bytes.len());
                skip -= if planted(Bug::PiecesSkipped) { skip } else { skipped };
                (skipped < bytes.len()).then(|| &bytes[skipped..])
            },
        )
    }

    /// Lets `write` append `size` bytes to a chunk that has room for them. Returns how many it did append.
    ///
    /// # Panics
    /// If `write` shortens what was there: those are messages that were queued before.
    pub fn append(&mut self, size: usize, pool: &mut ChunkPool, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        debug_assert_eq!(self.sent, 0, "a batch in flight is not appended to");
        let chunk = self.chunk_with_room(size, pool);
        let mut appending = Appending { kept: chunk.len(), chunk };
        let before = appending.kept;
        write(appending.chunk);
        appending.kept = appending.chunk.len();
        assert!(appending.kept >= before, "the encoder removed bytes that were queued before");
        let written = appending.kept - before;
        drop(appending);
        self.len += written;
        pool.bytes_out += written;
        written
    }

    /// Appends bytes that other batches may share; only small ones are copied.
    pub fn append_shared(&mut self, bytes: Arc<[u8]>, pool: &mut ChunkPool) {
        if bytes.len() <= SHARED_COPIED_BYTES {
            self.append(bytes.len(), pool, |out| out.extend_from_slice(&bytes));
        } else {
            pool.bytes_out += bytes.len();
            self.push_shared(bytes);
        }
    }

    /// Appends a part of an edition. To an empty batch it goes without a copy: that is the case of everyone who keeps
    /// up. Behind others a small one is copied, as of [`append_shared`](Self::append_shared). One that is little of its
    /// edition is copied anyway: it would keep the whole edition alive, and a queue of such far more than it counts.
    pub fn append_part(&mut self, edition: &Edition, range: Range<usize>, pool: &mut ChunkPool) {
        debug_assert_eq!(self.sent, 0, "a batch in flight is not appended to");
        let little = if self.len == 0 {
            range.len() < edition.len() / FIRST_PART_OF_EDITION
        } else {
            range.len() <= SHARED_COPIED_BYTES || range.len() < edition.len() / PART_OF_EDITION
        };
        if little {
            self.append(range.len(), pool, |out| out.extend_from_slice(&edition[range]));
        } else if !range.is_empty() {
            self.len += range.len();
            pool.bytes_out += range.len();
            self.more.push(Segment::Part(Arc::clone(edition), range));
        }
    }

    /// Takes the ranges `dead` out, which are in order and do not overlap.
    pub(crate) fn remove(
        batch: &mut Box<Self>,
        dead: impl Iterator<Item = Range<usize>>,
        pool: &mut ChunkPool,
    ) {
        let mut kept = pool.take();
        let mut at = 0;
        for range in dead {
            batch.copy_to(&mut kept, at..range.start, pool);
            at = range.end;
        }
        batch.copy_to(&mut kept, at..batch.len, pool);
        pool.give(std::mem::replace(batch, kept));
    }

    /// Appends a range of its bytes to another batch; what is shared stays shared.
    fn copy_to(&self, to: &mut Self, range: Range<usize>, pool: &mut ChunkPool) {
        let mut base = 0;
        let mut piece = |len: usize| {
            let (start, end) =
                (range.start.clamp(base, base + len) - base, range.end.clamp(base, base + len) - base);
            base += len;
            start..end
        };
        let of_head = piece(self.head.len());
        if !of_head.is_empty() {
            to.append(of_head.len(), pool, |out| out.extend_from_slice(&self.head[of_head]));
        }
        for segment in &self.more {
            let bytes = segment.bytes();
            let part = piece(bytes.len());
            match segment {
                _ if part.is_empty() => {}
                Segment::Shared(bytes) if part.len() == bytes.len() => {
                    to.append_shared(Arc::clone(bytes), pool);
                }
                Segment::Part(edition, of) => {
                    to.append_part(edition, of.start + part.start..of.start + part.end, pool);
                }
                Segment::Shared(_) | Segment::Owned(_) => {
                    to.append(part.len(), pool, |out| out.extend_from_slice(&bytes[part]));
                }
            }
        }
    }

    fn push_shared(&mut self, bytes: Arc<[u8]>) {
        debug_assert_eq!(self.sent, 0, "a batch in flight is not appended to");
        self.len += bytes.len();
        if planted(Bug::SharedOutOfOrder) {
            return self.more.insert(0, Segment::Shared(bytes));
        }
        self.more.push(Segment::Shared(bytes));
    }

    fn chunk_with_room(&mut self, size: usize, pool: &mut ChunkPool) -> &mut Vec<u8> {
        let room = match self.more.last() {
            None => Some(self.head.capacity() - self.head.len()),
            Some(Segment::Owned(bytes)) => Some(bytes.capacity() - bytes.len()),
            Some(Segment::Shared(_) | Segment::Part(..)) => None,
        };
        if room.is_none_or(|room| room < size) {
            self.more.push(Segment::Owned(pool.take_block(size)));
        }
        match self.more.last_mut() {
            None => &mut self.head,
            Some(Segment::Owned(bytes)) => bytes,
            Some(Segment::Shared(_) | Segment::Part(..)) => {
                unreachable!("an owned segment was pushed behind the shared one")
            }
        }
    }
}

/// A chunk that is being written to. What a panic cuts short is taken out again.
struct Appending<'a> {
    chunk: &'a mut Vec<u8>,
    kept: usize,
}

impl Drop for Appending<'_> {
    #[inline]
    fn drop(&mut self) {
        self.chunk.truncate(self.kept);
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendBatch({} of {} bytes sent, {} pieces)", self.sent, self.len, 1 + self.more.len())
    }
}

/// A shard's store of batches, blocks and tails: at steady state nothing is allocated per message. It also knows how
/// many bytes all queues hold together, and how many they may.
pub struct ChunkPool {
    // Boxed, so that a batch moves through queue, driver and pool as one pointer.
    #[expect(clippy::vec_box)]
    batches: Vec<Box<SendBatch>>,
    blocks: [Vec<Vec<u8>>; 2],
    tails: Vec<Vec<u8>>,
    batches_out: usize,
    bytes_out: usize,
    allowance: usize,
}

impl Default for ChunkPool {
    fn default() -> Self {
        Self {
            batches: Vec::new(),
            blocks: [Vec::new(), Vec::new()],
            tails: Vec::new(),
            batches_out: 0,
            bytes_out: 0,
            allowance: usize::MAX,
        }
    }
}

impl ChunkPool {
    /// An empty pool; it fills with what comes back.
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches taken and not yet given back.
    pub fn batches_out(&self) -> usize {
        self.batches_out
    }

    /// Bytes in the batches that are out: queued, and in flight. Without those in flight of connections that are closing:
    /// they come back with the close.
    #[inline]
    pub fn bytes_out(&self) -> usize {
        self.bytes_out
    }

    /// Most bytes that may be out; without limit unless one is set.
    #[inline]
    pub fn allowance(&self) -> usize {
        self.allowance
    }

    /// Sets how many bytes may be out.
    pub fn set_allowance(&mut self, bytes: usize) {
        self.allowance = bytes;
    }

    /// An empty batch.
    #[inline]
    pub fn take(&mut self) -> Box<SendBatch> {
        self.batches_out += 1;
        self.batches.pop().unwrap_or_else(|| Box::new(SendBatch::new()))
    }

    /// Takes a batch back, sent or not.
    #[inline]
    #[cfg_attr(guard_pages, expect(clippy::absurd_extreme_comparisons, reason = "nothing is kept"))]
    pub fn give(&mut self, mut batch: Box<SendBatch>) {
        self.batches_out = self.batches_out.saturating_sub(1);
        self.bytes_out = self.bytes_out.saturating_sub(batch.len);
        if !batch.more.is_empty() {
            for segment in batch.more.drain(..) {
                if let Segment::Owned(bytes) = segment {
                    give_block(&mut self.blocks, bytes);
                }
            }
        }
        // An encoder that writes more than it said makes the chunk grow; such a batch is freed.
        if self.batches.len() < BATCHES_KEPT && batch.head.capacity() == CHUNK_BYTES {
            if batch.more.capacity() > PIECES_KEPT {
                batch.more = Vec::new();
            }
            batch.head.clear();
            batch.len = 0;
            batch.lazy = false;
            batch.sent = if planted(Bug::BatchReusedDirty) { batch.sent.min(1) } else { 0 };
            self.batches.push(batch);
        }
    }

    /// `bytes` that are in flight come back with the close of their connection: others may have their room.
    pub(crate) fn discount(&mut self, bytes: usize) {
        self.bytes_out = self.bytes_out.saturating_sub(bytes);
    }

    /// They are about to come back.
    pub(crate) fn recount(&mut self, bytes: usize) {
        self.bytes_out += bytes;
    }

    fn take_block(&mut self, size: usize) -> Vec<u8> {
        match BLOCK_BYTES.iter().position(|&bytes| size <= bytes) {
            Some(class) => self.blocks[class].pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES[class])),
            None => Vec::with_capacity(size),
        }
    }

    /// An empty buffer for the tail of a cut frame.
    pub fn take_tail(&mut self) -> Vec<u8> {
        self.tails.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }

    /// Takes a tail's buffer back. One that grew for a large frame is freed.
    #[cfg_attr(guard_pages, expect(clippy::absurd_extreme_comparisons, reason = "nothing is kept"))]
    pub fn give_tail(&mut self, mut tail: Vec<u8>) {
        if tail.capacity() == CHUNK_BYTES && self.tails.len() < TAILS_KEPT {
            tail.clear();
            self.tails.push(tail);
        }
    }
}

fn give_block(blocks: &mut [Vec<Vec<u8>>; 2], mut bytes: Vec<u8>) {
    if let Some(class) = BLOCK_BYTES.iter().position(|&size| bytes.capacity() == size)
        && blocks[class].len() < BLOCKS_KEPT[class]
    {
        bytes.clear();
        blocks[class].push(bytes);
    }
}

impl fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkPool")
            .field("batches", &self.batches.len())
            .field("batches_out", &self.batches_out)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(batch: &mut SendBatch, pool: &mut ChunkPool, bytes: &[u8]) {
        batch.append(bytes.len(), pool, |out| out.extend_from_slice(bytes));
    }

    fn joined(batch: &SendBatch) -> Vec<u8> {
        batch.slices().flatten().copied().collect()
    }

    #[test]
    fn small_messages_share_one_piece() {
        let mut pool = ChunkPool::new();
        let mut batch = pool.take();
        put(&mut batch, &mut pool, b"one ");
        put(&mut batch, &mut pool, b"two");
        assert_eq!(batch.single(), Some(&b"one two"[..]));
        batch.advance(4);
        assert_eq!((batch.single(), batch.remaining()), (Some(&b"two"[..]), 3));
    }

    #[test]
    fn order_holds_over_every_kind_of_piece_and_any_progress() {
        let mut pool = ChunkPool::new();
        let mut batch = pool.take();
        let mut all = Vec::new();
        for (at, size) in [3, 2_000, 70_000, 5, 1, 9_000].into_iter().enumerate() {
            let bytes = vec![at as u8; size];
            all.extend_from_slice(&bytes);
            if at == 2 || at == 3 {
                batch.append_shared(bytes.into(), &mut pool);
            } else {
                put(&mut batch, &mut pool, &bytes);
            }
        }
        assert_eq!(batch.len(), all.len());
        let mut at = 0;
        while batch.remaining() > 0 {
            assert_eq!(joined(&batch), &all[at..]);
            assert!(batch.slices().all(|piece| !piece.is_empty()));
            let step = 7_777.min(batch.remaining());
            batch.advance(step);
            at += step;
        }
        assert_eq!(batch.slices().count(), 0);
    }

    #[test]
    fn a_queue_of_parts_keeps_no_more_than_four_times_its_bytes_alive() {
        let mut pool = ChunkPool::new();
        let mut first = pool.take();
        let (part, word) = (Edition::new(vec![1; 160]), Edition::new(vec![3; 177]));
        first.append_part(&word, 0..10, &mut pool);
        assert_eq!(Arc::strong_count(&word), 1, "a word of a long edition is copied, also if it goes first");
        pool.give(first);
        let mut first = pool.take();
        first.append_part(&part, 0..10, &mut pool);
        assert_eq!(Arc::strong_count(&part), 2);
        pool.give(first);
        let mut batch = pool.take();
        put(&mut batch, &mut pool, b"before");
        let (little, whole) = (Edition::new(vec![1; 400_000]), Edition::new(vec![2; 40_000]));
        batch.append_part(&little, 70_000..90_000, &mut pool);
        batch.append_part(&whole, 0..10_000, &mut pool);
        assert_eq!((Arc::strong_count(&little), Arc::strong_count(&whole)), (1, 2));
        assert_eq!(joined(&batch), [b"before".to_vec(), vec![1; 20_000], vec![2; 10_000]].concat());
        assert_eq!(pool.bytes_out(), batch.len());
    }

    #[test]
    fn a_lone_large_message_is_one_piece() {
        let mut pool = ChunkPool::new();
        let mut batch = pool.take();
        put(&mut batch, &mut pool, &[7; 4_096]);
        assert_eq!(batch.single().map(<[u8]>::len), Some(4_096));
    }

    #[test]
    #[cfg(not(guard_pages))]
    fn what_comes_back_is_reused() {
        let mut pool = ChunkPool::new();
        let mut batch = pool.take();
        put(&mut batch, &mut pool, &[1; 5_000]);
        let at = std::ptr::from_ref::<SendBatch>(&batch);
        pool.give(batch);
        assert_eq!((pool.batches_out(), pool.blocks[0].len()), (0, 1));
        let again = pool.take();
        assert!(std::ptr::eq(at, std::ptr::from_ref::<SendBatch>(&again)) && again.is_empty());
    }

    #[test]
    #[should_panic(expected = "bytes sent of")]
    fn progress_beyond_the_end_is_a_bug() {
        SendBatch::of(b"abc").advance(4);
    }
}
