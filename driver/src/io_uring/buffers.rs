//! Receive buffers that the kernel chooses from when data is there: a provided buffer ring.
//!
//! Where the kernel can (6.12), a buffer is consumed piece by piece, so that many small messages lie densely in
//! few pages; else every completion takes a whole buffer. A buffer returns when the kernel has finished with it and
//! every lease of it has come back. How many the kernel is offered at a time is [`Window`]'s.

use std::{
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{Submitter, types::BufRingEntry};

#[cfg(guard_pages)]
use super::guarded::{self, Memory};
use super::memory::Mapping;
#[cfg(not(guard_pages))]
use super::memory::Memory;
use super::window::Window;
use crate::types::Lease;

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;
/// `IOU_PBUF_RING_INC`.
const INCREMENTAL: u16 = 2;
/// Most entries of a buffer ring.
const BUFFERS_MAX: usize = 1 << 15;

const _: () = assert!(size_of::<BufRingEntry>() == 16, "struct io_uring_buf of the kernel");

/// What we know of one buffer.
#[derive(Clone, Copy, Default)]
struct Buffer {
    /// Where the kernel writes next.
    filled: u32,
    /// Leases of it that are out.
    leases: u32,
    /// The kernel will not write to it any more, until it is put back.
    retired: bool,
}

/// The ring of buffers and their memory.
pub(super) struct Buffers {
    entries: Mapping,
    pub(super) memory: Memory,
    states: Vec<Buffer>,
    buffer_bytes: u32,
    instance: u32,
    tail: u16,
    incremental: bool,
    window: Window,
    /// Buffers that nobody holds and the kernel is not offered; the last one is the warmest. None while the window has
    /// room.
    spare: Vec<u16>,
    leases_out: usize,
}

impl Buffers {
    /// Registers a ring of buffers of `buffer_bytes` each, `memory_bytes` in all.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        instance: u32,
        memory_bytes: usize,
        buffer_bytes: usize,
        huge_pages: bool,
    ) -> io::Result<Self> {
        let buffer_bytes = buffer_bytes.clamp(1, 1 << 30);
        let count = (memory_bytes / buffer_bytes).clamp(1, BUFFERS_MAX);
        // The kernel wants a power of two.
        let count = 1 << count.ilog2();
        let entries = Mapping::new(count * size_of::<BufRingEntry>())?;
        let memory = Memory::new(count, buffer_bytes, huge_pages)?;
        let register = |flags| {
            let address = entries.at.as_ptr() as u64;
            // SAFETY: the entries' mapping is page aligned, zeroed and large enough, and lives until the ring
            // is gone: `IoUring` drops its ring before its buffers.
            unsafe { submitter.register_buf_ring_with_flags(address, count as u16, GROUP, flags) }
        };
        #[cfg(not(guard_pages))]
        let incremental = register(INCREMENTAL).is_ok();
        #[cfg(guard_pages)]
        let incremental = !guarded::takes_whole_buffers() && register(INCREMENTAL).is_ok();
        if !incremental {
            register(0)?;
        }
        let mut buffers = Self {
            entries,
            memory,
            states: vec![Buffer::default(); count],
            buffer_bytes: buffer_bytes as u32,
            instance,
            tail: 0,
            incremental,
            window: Window::new(count, buffer_bytes),
            spare: (0..count as u16).rev().collect(),
            leases_out: 0,
        };
        if !incremental {
            buffers.window.open_wide();
        }
        buffers.fill_window();
        Ok(buffers)
    }

    /// True if the kernel consumes buffers piece by piece.
    pub(super) fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// Buffers that the kernel may choose.
    pub(super) fn offered(&self) -> usize {
        self.window.offered()
    }

    pub(super) fn leases_out(&self) -> usize {
        self.leases_out
    }

    /// The kernel found no buffer.
    pub(super) fn ran_out(&mut self) {
        self.window.note_empty();
        self.fill_window();
    }

    fn fill_window(&mut self) {
        while self.window.has_room()
            && let Some(buffer) = self.spare.pop()
        {
            self.offer(buffer);
        }
    }

    /// The kernel has finished with a buffer that it was offered.
    fn retire(&mut self, buffer: u16) {
        self.window.note_taken();
        let state = &mut self.states[buffer as usize];
        state.retired = true;
        if state.leases == 0 {
            self.put_back(buffer);
        } else {
            self.fill_window();
        }
    }

    /// Nobody holds a buffer any more.
    fn put_back(&mut self, buffer: u16) {
        self.spare.push(buffer);
        self.window.note_back();
        self.fill_window();
    }

    /// Puts a buffer that nobody holds at the end of the kernel's ring.
    fn offer(&mut self, buffer: u16) {
        #[cfg(guard_pages)]
        if self.states[buffer as usize].retired {
            self.memory.renew(buffer as usize, self.states[buffer as usize].filled);
        }
        self.states[buffer as usize] = Buffer::default();
        let at = self.tail as usize & (self.states.len() - 1);
        // SAFETY: `at` is below the number of entries of the mapping.
        let entry = unsafe { self.entries.at.cast::<BufRingEntry>().add(at) };
        // SAFETY: the kernel does not look at entries between its head and the tail published below, and
        // there are as many entries as buffers: this one is ours.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(self.memory.at(buffer as usize, 0).as_ptr() as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        let base = self.entries.at.cast::<BufRingEntry>().as_ptr();
        // SAFETY: `base` is the first entry of the registered ring, page aligned and initialised.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the tail is an aligned u16 inside the mapping that the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.window.note_offered();
    }

    /// The kernel wrote `len` bytes to `buffer`; `more` tells that it will go on writing behind them.
    pub(super) fn lease(&mut self, buffer: u16, len: u32, more: bool) -> Lease {
        let state = &mut self.states[buffer as usize];
        let offset = state.filled;
        state.filled += len;
        state.leases += 1;
        assert!(state.filled <= self.buffer_bytes, "the kernel wrote beyond a receive buffer");
        if !(self.incremental && more) {
            self.retire(buffer);
        }
        self.leases_out += 1;
        self.window.note_received(len);
        Lease { driver: self.instance, buffer: u32::from(buffer), offset, len }
    }

    /// The kernel chose `buffer` for a completion without data.
    pub(super) fn unused(&mut self, buffer: u16, more: bool) {
        if !(self.incremental && more) {
            self.retire(buffer);
        }
    }

    pub(super) fn bytes(&self, lease: &Lease) -> &[u8] {
        self.check(lease);
        let at = self.memory.at(lease.buffer as usize, lease.offset);
        // SAFETY: a lease of this instance names a piece of its buffer: `lease` checked it when made. The kernel has
        // written these bytes and writes only behind them until the lease, which is borrowed here, has come
        // back; nobody else writes to the memory.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), lease.len as usize) }
    }

    #[expect(clippy::needless_pass_by_value, reason = "giving it back is the point")]
    pub(super) fn recycle(&mut self, lease: Lease) {
        self.check(&lease);
        self.leases_out -= 1;
        let state = &mut self.states[lease.buffer as usize];
        state.leases -= 1;
        #[cfg(guard_pages)]
        self.memory.poison(lease.buffer as usize, lease.offset, lease.len);
        if state.retired && state.leases == 0 {
            self.put_back(lease.buffer as u16);
        }
    }

    /// Gives the memory up for good: for a kernel that does not let go of it.
    pub(super) fn leak(&mut self) {
        self.entries.leak();
        self.memory.leak();
    }

    fn check(&self, lease: &Lease) {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
    }
}
