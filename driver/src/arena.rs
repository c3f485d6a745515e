//! Receive memory: a few large blocks that fill from front to back, whoever the bytes are for.
//!
//! A session holds no buffer while it waits (sentence 4), and small messages of many sessions lie densely in one
//! block, where the cache has them. A block is free again when every lease of it has come back; when that is the
//! block being filled, filling starts over at its front, so that a shard whose engine keeps nothing works in
//! the same few cache lines all day.

use crate::types::Lease;

/// Reads start at multiples of this, so that the engine's loads are aligned and neighbours stay close.
const ALIGN: usize = 16;
/// A block whose room is below this, or below an eighth of its size, counts as full: reading large streams in
/// small pieces costs a system call each.
const ROOM_MIN_BYTES: usize = 4 << 10;

struct Block {
    /// Zeroed once, when first used: pages that were never received into are not resident.
    memory: Vec<u8>,
    leases: u32,
}

/// The receive memory of one driver.
pub(crate) struct Arena {
    driver: u32,
    block_bytes: usize,
    blocks_max: usize,
    room_min: usize,
    blocks: Vec<Block>,
    /// Blocks without leases, except the current one. The last one freed is taken first: it is the warmest.
    free: Vec<u32>,
    /// The block being filled.
    current: u32,
    /// Bytes of the current block that are taken.
    filled: usize,
    leases_out: usize,
}

impl Arena {
    /// An arena of blocks of `block_bytes` in `total_bytes`; at least one block. `driver` marks its leases.
    pub(crate) fn new(driver: u32, block_bytes: usize, total_bytes: usize) -> Self {
        assert!(block_bytes > 0 && u32::try_from(block_bytes).is_ok(), "offsets in a block are 32 bits wide");
        let blocks_max = (total_bytes / block_bytes).clamp(1, u32::MAX as usize);
        Self {
            driver,
            block_bytes,
            blocks_max,
            room_min: ROOM_MIN_BYTES.min(block_bytes / 8).max(1),
            blocks: vec![Block { memory: vec![0; block_bytes], leases: 0 }],
            free: Vec::new(),
            current: 0,
            filled: 0,
            leases_out: 0,
        }
    }

    /// Leases handed out and not given back.
    pub(crate) fn leases_out(&self) -> usize {
        self.leases_out
    }

    /// True if [`space`](Self::space) would give some.
    pub(crate) fn has_space(&self) -> bool {
        self.current_has_room() || !self.free.is_empty() || self.blocks.len() < self.blocks_max
    }

    fn current_has_room(&self) -> bool {
        self.block_bytes.saturating_sub(self.filled) >= self.room_min
    }

    /// Where the next bytes go; `None` when every block is full and leased.
    #[inline]
    pub(crate) fn space(&mut self) -> Option<&mut [u8]> {
        if !self.current_has_room() {
            self.open_next()?;
        }
        #[cfg(guard_pages)]
        if self.blocks[self.current as usize].memory.is_empty() {
            self.blocks[self.current as usize].memory = vec![0; self.block_bytes];
        }
        Some(&mut self.blocks[self.current as usize].memory[self.filled..])
    }

    /// Leaves the current block, which is full and has leases: without them it would have started over.
    fn open_next(&mut self) -> Option<()> {
        debug_assert!(self.blocks[self.current as usize].leases > 0, "a block without leases has room");
        self.current = match self.free.pop() {
            Some(block) => block,
            None if self.blocks.len() < self.blocks_max => {
                self.blocks.push(Block { memory: vec![0; self.block_bytes], leases: 0 });
                (self.blocks.len() - 1) as u32
            }
            None => return None,
        };
        self.filled = 0;
        Some(())
    }

    /// Leases the first `len` bytes of the last [`space`](Self::space).
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Lease {
        let offset = self.filled;
        assert!(len > 0 && len <= self.block_bytes - offset, "{len} bytes do not fit behind {offset}");
        let block = &mut self.blocks[self.current as usize];
        block.leases += 1;
        self.leases_out += 1;
        self.filled = (offset + len).next_multiple_of(ALIGN).min(self.block_bytes);
        Lease { driver: self.driver, buffer: self.current, offset: offset as u32, len: len as u32 }
    }

    /// What was received into the lease.
    #[inline]
    pub(crate) fn bytes(&self, lease: &Lease) -> &[u8] {
        assert_eq!(lease.driver, self.driver, "a lease of another driver");
        &self.blocks[lease.buffer as usize].memory[lease.offset as usize..][..lease.len as usize]
    }

    /// Takes a lease back.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "a lease that came back must not be used again")]
    pub(crate) fn recycle(&mut self, lease: Lease) {
        assert_eq!(lease.driver, self.driver, "a lease of another driver");
        let block = &mut self.blocks[lease.buffer as usize];
        block.leases -= 1;
        self.leases_out -= 1;
        if block.leases == 0 {
            // A block that is free has no memory, so that nobody reads from it or into it: `space` gives it new.
            #[cfg(guard_pages)]
            drop(std::mem::take(&mut block.memory));
            if lease.buffer == self.current {
                self.filled = 0;
            } else {
                self.free.push(lease.buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(arena: &mut Arena, byte: u8, len: usize) -> Option<Lease> {
        arena.space()?[..len].fill(byte);
        Some(arena.take(len))
    }

    #[test]
    fn reads_lie_behind_each_other_and_keep_their_bytes() {
        let mut arena = Arena::new(1, 256, 1024);
        let leases: Vec<_> = (0..10).map(|n| fill(&mut arena, n, 30).unwrap()).collect();
        for (n, lease) in leases.iter().enumerate() {
            assert_eq!(arena.bytes(lease), [n as u8; 30]);
        }
        assert_eq!((leases[0].buffer, leases[7].buffer, leases[8].buffer), (0, 0, 1));
        assert_eq!(leases[1].offset, 32);
        assert_eq!(arena.leases_out(), 10);
    }

    #[test]
    fn a_block_starts_over_when_its_last_lease_is_back() {
        let mut arena = Arena::new(1, 256, 256);
        let first = fill(&mut arena, 1, 100).unwrap();
        let second = fill(&mut arena, 2, 100).unwrap();
        arena.recycle(second);
        assert_eq!(arena.space().unwrap().len(), 256 - 224);
        arena.recycle(first);
        assert_eq!(arena.space().unwrap().len(), 256);
        assert_eq!(arena.leases_out(), 0);
    }

    #[test]
    fn without_a_free_block_there_is_no_space_until_one_comes_back() {
        let mut arena = Arena::new(1, 64, 192);
        let mut leases: Vec<_> = (0..3).map(|n| fill(&mut arena, n, 64).unwrap()).collect();
        assert!(!arena.has_space() && arena.space().is_none());
        arena.recycle(leases.remove(1));
        assert!(arena.has_space());
        leases.push(fill(&mut arena, 7, 10).unwrap());
        assert_eq!(leases[2].buffer, 1);
        assert_eq!((arena.bytes(&leases[0])[0], arena.bytes(&leases[1])[0]), (0, 2));
    }

    #[test]
    fn blocks_are_made_only_when_needed_and_never_more_than_asked_for() {
        let mut arena = Arena::new(1, 1 << 10, (4 << 10) - 1);
        assert_eq!(arena.blocks.len(), 1);
        let leases: Vec<_> = std::iter::from_fn(|| fill(&mut arena, 0, 1_000)).take(9).collect();
        assert_eq!((leases.len(), arena.blocks.len()), (3, 3));
    }

    #[test]
    #[should_panic(expected = "another driver")]
    fn a_lease_of_another_driver_is_a_bug() {
        let mut arena = Arena::new(1, 64, 64);
        let lease = fill(&mut arena, 0, 1).unwrap();
        Arena::new(2, 64, 64).recycle(lease);
    }
}
