//! Receive buffers that the kernel chooses from when data is there: a provided buffer ring.
//!
//! Where the kernel can (6.12), a buffer is consumed piece by piece, so that many small messages lie densely in
//! few pages; else every completion takes a whole buffer. A buffer returns to the ring when the kernel has
//! finished with it and every lease of it has come back.

use std::{
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{Submitter, types::BufRingEntry};

use crate::types::Lease;

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;
/// `IOU_PBUF_RING_INC`.
const INCREMENTAL: u16 = 2;
/// Most entries of a buffer ring.
const BUFFERS_MAX: usize = 1 << 15;

const _: () = assert!(size_of::<BufRingEntry>() == 16, "struct io_uring_buf of the kernel");

/// Anonymous memory; untouched pages cost nothing.
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches nothing else.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: NonNull::new(at.cast()).expect("the kernel maps nothing at 0"), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: `at` and `len` are those of our own mapping; the owner drops it only after the kernel and
        // every lease have let go.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

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
    memory: Mapping,
    states: Vec<Buffer>,
    buffer_bytes: u32,
    instance: u32,
    tail: u16,
    incremental: bool,
    /// Buffers that the kernel may choose.
    offered: usize,
    leases_out: usize,
}

impl Buffers {
    /// Registers a ring of buffers of `buffer_bytes` each, `memory_bytes` in all.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        instance: u32,
        memory_bytes: usize,
        buffer_bytes: usize,
    ) -> io::Result<Self> {
        let buffer_bytes = buffer_bytes.clamp(1, 1 << 30);
        let count = (memory_bytes / buffer_bytes).clamp(1, BUFFERS_MAX);
        // The kernel wants a power of two.
        let count = 1 << count.ilog2();
        let entries = Mapping::new(count * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(count * buffer_bytes)?;
        let register = |flags| {
            let address = entries.at.as_ptr() as u64;
            // SAFETY: the entries' mapping is page aligned, zeroed and large enough, and lives until the ring
            // is gone: `IoUring` drops its ring before its buffers.
            unsafe { submitter.register_buf_ring_with_flags(address, count as u16, GROUP, flags) }
        };
        let incremental = register(INCREMENTAL).is_ok();
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
            offered: 0,
            leases_out: 0,
        };
        for buffer in 0..count {
            buffers.offer(buffer as u16);
        }
        Ok(buffers)
    }

    /// True if the kernel consumes buffers piece by piece.
    pub(super) fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// Buffers that the kernel may choose.
    pub(super) fn offered(&self) -> usize {
        self.offered
    }

    pub(super) fn leases_out(&self) -> usize {
        self.leases_out
    }

    /// Puts a buffer that nobody holds at the end of the kernel's ring.
    fn offer(&mut self, buffer: u16) {
        self.states[buffer as usize] = Buffer::default();
        let at = self.tail as usize & (self.states.len() - 1);
        // SAFETY: `at` is below the number of entries of the mapping.
        let entry = unsafe { self.entries.at.cast::<BufRingEntry>().add(at) };
        // SAFETY: the kernel does not look at entries between its head and the tail published below, and
        // there are as many entries as buffers: this one is ours.
        let entry = unsafe { &mut *entry.as_ptr() };
        // SAFETY: `buffer` is below the number of buffers in the mapping.
        let memory = unsafe { self.memory.at.add(buffer as usize * self.buffer_bytes as usize) };
        entry.set_addr(memory.as_ptr() as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        let base = self.entries.at.cast::<BufRingEntry>().as_ptr();
        // SAFETY: `base` is the first entry of the registered ring, page aligned and initialised.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the tail is an aligned u16 inside the mapping that the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.offered += 1;
    }

    /// The kernel wrote `len` bytes to `buffer`; `more` tells that it will go on writing behind them.
    pub(super) fn lease(&mut self, buffer: u16, len: u32, more: bool) -> Lease {
        let state = &mut self.states[buffer as usize];
        let offset = state.filled;
        state.filled += len;
        state.leases += 1;
        assert!(state.filled <= self.buffer_bytes, "the kernel wrote beyond a receive buffer");
        if !(self.incremental && more) {
            state.retired = true;
            self.offered -= 1;
        }
        self.leases_out += 1;
        Lease { driver: self.instance, buffer: u32::from(buffer), offset, len }
    }

    /// The kernel chose `buffer` for a completion without data.
    pub(super) fn unused(&mut self, buffer: u16, more: bool) {
        if !(self.incremental && more) {
            self.offered -= 1;
            let state = &mut self.states[buffer as usize];
            state.retired = true;
            if state.leases == 0 {
                self.offer(buffer);
            }
        }
    }

    pub(super) fn bytes(&self, lease: &Lease) -> &[u8] {
        self.check(lease);
        let offset = lease.buffer as usize * self.buffer_bytes as usize + lease.offset as usize;
        // SAFETY: a lease of this instance names a piece inside the mapping: `lease` checked it when made.
        let at = unsafe { self.memory.at.add(offset) };
        // SAFETY: the kernel has written these bytes and writes only behind them until the lease, which is
        // borrowed here, has come back; nobody else writes to the memory.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), lease.len as usize) }
    }

    #[expect(clippy::needless_pass_by_value, reason = "giving it back is the point")]
    pub(super) fn recycle(&mut self, lease: Lease) {
        self.check(&lease);
        self.leases_out -= 1;
        let state = &mut self.states[lease.buffer as usize];
        state.leases -= 1;
        if state.retired && state.leases == 0 {
            self.offer(lease.buffer as u16);
        }
    }

    /// Gives the memory up for good: for a kernel that does not let go of it.
    pub(super) fn leak(&mut self) {
        for mapping in [&mut self.entries, &mut self.memory] {
            mapping.len = 0;
        }
    }

    fn check(&self, lease: &Lease) {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
    }
}
