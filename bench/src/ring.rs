//! The two kernel objects that the bare server and the loader share: a ring and a pool of provided buffers.
#![allow(unsafe_code)]

use std::{
    io::{self, ErrorKind},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use io_uring::{
    IoUring, cqueue,
    squeue::Entry,
    types::{BufRingEntry, CancelBuilder, SubmitArgs, Timespec},
};

/// One completion, copied out of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub token: u64,
    /// The count, or the negated error number.
    pub result: i32,
    pub flags: u32,
}

impl Completion {
    /// The multishot operation goes on.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Zero-copy sends: the kernel no longer reads the memory.
    pub fn is_notification(&self) -> bool {
        cqueue::notif(self.flags)
    }

    /// The provided buffer that the kernel took for this completion.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// What an operation was for, packed into the 64 bits that the kernel hands back: kind, buffer, slot.
pub fn token(kind: u8, buffer: u16, slot: u32) -> u64 {
    u64::from(kind) << 48 | u64::from(buffer) << 32 | u64::from(slot)
}

/// The kind, buffer and slot of a token.
pub fn split(token: u64) -> (u8, u16, u32) {
    ((token >> 48) as u8, (token >> 32) as u16, token as u32)
}

/// The kernel's flag that asks `io_uring_enter` to run what it has deferred to the thread that calls.
const ENTER_GETEVENTS: u32 = 1;

/// The kernel's thread sleeps when there was nothing to do for so long.
const KERNEL_THREAD_IDLE_MS: u32 = 1;

/// Who does what a ring has to do for completions, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskWork {
    /// The thread, when it asks for completions: single issuer, deferred.
    Deferred,
    /// The same, and shared memory shows when there is some (see `Ring::poll`).
    DeferredShown,
    /// The thread, at its next system call.
    Cooperative,
    /// A thread of the kernel's that looks for submissions all the time.
    KernelThread,
}

/// A ring for one thread, with a table of direct descriptors.
pub struct Ring(IoUring);

impl Ring {
    /// `completions` should hold what can be complete at once; more is kept by the kernel, but slowly.
    pub fn new(submissions: u32, completions: u32, descriptors: u32) -> io::Result<Self> {
        Self::with(TaskWork::Deferred, submissions, completions, descriptors)
    }

    /// As `new`, for a thread that mostly calls `poll`: the kernel shows in shared memory when it has work for it.
    pub fn to_be_polled(submissions: u32, completions: u32, descriptors: u32) -> io::Result<Self> {
        Self::with(TaskWork::DeferredShown, submissions, completions, descriptors)
    }

    /// As `new`, with a choice.
    pub fn with(work: TaskWork, submissions: u32, completions: u32, descriptors: u32) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions);
        if work == TaskWork::KernelThread {
            builder.setup_sqpoll(KERNEL_THREAD_IDLE_MS);
        } else {
            builder.setup_coop_taskrun();
        }
        if matches!(work, TaskWork::Deferred | TaskWork::DeferredShown) {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        if work == TaskWork::DeferredShown {
            builder.setup_taskrun_flag();
        }
        let ring = builder.build(submissions)?;
        ring.submitter().register_files_sparse(descriptors)?;
        Ok(Self(ring))
    }

    /// Queues an operation; if the queue is full, hands it to the kernel first.
    ///
    /// # Safety
    /// Memory that the operation points to must stay valid, and be left alone as the operation demands,
    /// until the operation has completed.
    pub unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller keeps the memory of the operation valid, see above.
            if unsafe { self.0.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Makes room for a chain of linked operations: a chain must reach the kernel in one piece.
    pub fn reserve(&mut self, count: usize) -> io::Result<()> {
        let submissions = self.0.submission();
        let room = submissions.capacity() - submissions.len();
        drop(submissions);
        if room < count { self.submit() } else { Ok(()) }
    }

    fn submit(&mut self) -> io::Result<()> {
        forgive(self.0.submit())
    }

    /// Submits everything and waits for at least one completion.
    pub fn wait(&mut self) -> io::Result<()> {
        forgive(self.0.submit_and_wait(1))
    }

    /// Submits everything, lets the kernel do what it has to do on this thread, and does not wait. With `idle`, that is:
    /// if the call before brought nothing, it makes no system call unless there is something to submit or the kernel
    /// has asked to be called (see `to_be_polled`).
    pub fn poll(&mut self, idle: bool) -> io::Result<()> {
        let submissions = self.0.submission();
        let count = submissions.len();
        let asked = submissions.taskrun() || submissions.cq_overflow();
        drop(submissions);
        // After some work the kernel may keep the rest for the next call without asking again.
        if idle && count == 0 && !asked {
            return Ok(());
        }
        // SAFETY: the entries were queued by `push`, whose caller keeps their memory valid; there is no argument.
        forgive(unsafe { self.0.submitter().enter::<()>(count as u32, 0, ENTER_GETEVENTS, None) })
    }

    /// As `wait`, but returns after `limit` even without a completion.
    pub fn wait_at_most(&mut self, limit: Duration) -> io::Result<()> {
        let limit = Timespec::from(limit);
        forgive(self.0.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit)))
    }

    /// Moves the completions that are there to the end of `into`.
    pub fn collect(&mut self, into: &mut Vec<Completion>) {
        into.extend(self.0.completion().map(|entry| Completion {
            token: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    /// Ends every operation, so that the kernel touches no memory of ours any more.
    pub fn cancel_all(&mut self) {
        let limit = Timespec::from(Duration::from_secs(1));
        // Nothing to cancel is an error here, and a welcome one.
        let _ = self.0.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
    }
}

/// The errors of io_uring_enter that mean "look at the completions, then try again".
fn forgive(result: io::Result<usize>) -> io::Result<()> {
    match result.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ETIME), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Buffers that the kernel picks from when something arrives.
///
/// Every buffer is either the kernel's (published in the ring) or ours (named by a completion and not yet
/// recycled). Must be dropped after the ring it is registered with.
pub struct Pool {
    memory: NonNull<u8>,
    memory_size: usize,
    count: u16,
    size: usize,
    stride: usize,
    tail: u16,
}

/// Buffers one page apart would all fall into the same few cache sets.
const STAGGER: usize = 64;
const PAGE: usize = 4096;
/// The only group of buffers of each ring.
pub const GROUP: u16 = 0;

impl Pool {
    /// `count` buffers (a power of two) of `size` bytes.
    pub fn new(ring: &Ring, count: u16, size: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel masks the index");
        let stride = size.next_multiple_of(STAGGER) + STAGGER;
        let memory_size = (Self::entries_size(count) + stride * count as usize).next_multiple_of(PAGE);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), memory_size, protection, kind, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(ErrorKind::OutOfMemory)?;
        let mut pool = Self { memory, memory_size, count, size, stride, tail: 0 };
        let address = memory.as_ptr() as u64;
        // SAFETY: the mapping begins with room for `count` entries, is page-aligned, and outlives the ring.
        unsafe { ring.0.submitter().register_buf_ring_with_flags(address, count, GROUP, 0) }?;
        for buffer in 0..count {
            pool.recycle(buffer);
        }
        pool.publish();
        Ok(pool)
    }

    fn entries_size(count: u16) -> usize {
        (count as usize * size_of::<BufRingEntry>()).next_multiple_of(PAGE)
    }

    /// Where a buffer begins.
    pub fn pointer(&self, buffer: u16) -> *const u8 {
        assert!(buffer < self.count, "the kernel named a buffer that we never gave it");
        let offset = Self::entries_size(self.count) + buffer as usize * self.stride;
        // SAFETY: `buffer` is below `count`, so that the offset lies within the mapping.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    /// The first `length` bytes of a buffer that a completion named.
    pub fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(length <= self.size, "the kernel wrote more than a buffer holds");
        // SAFETY: the mapping holds `size` bytes here, and the kernel leaves them alone until the buffer is
        // recycled, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.pointer(buffer), length) }
    }

    /// Queues a buffer for the kernel, which sees it after `publish`.
    pub fn recycle(&mut self, buffer: u16) {
        let (address, size) = (self.pointer(buffer) as u64, self.size as u32);
        let index = (self.tail & (self.count - 1)) as usize;
        // SAFETY: the mapping begins with `count` entries, and `index` is masked to be below that.
        let entry = unsafe { self.memory.cast::<BufRingEntry>().add(index) };
        // SAFETY: a valid, aligned entry; the kernel reads it only once the tail has passed it.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address);
        entry.set_len(size);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all recycled buffers.
    pub fn publish(&mut self) {
        let first = self.memory.cast::<BufRingEntry>().as_ptr();
        // SAFETY: `first` is the first entry of the ring, as the function demands.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail is a live, aligned 16-bit field that the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the ring that wrote into it is gone.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.memory_size) };
    }
}
