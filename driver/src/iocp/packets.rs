//! A [`CompletionPort`](crate::CompletionPort) as Windows has it: a port of the kernel, without sockets.
//!
//! The kernel keeps the packets and the threads: first in, first out; last in, first out; as many at once as the
//! concurrency says, and another one for each that blocks. Ours is what it has not: a limit of packets, and an end.
//! A packet is a box, whose address stands where that of an OVERLAPPED would. The end is a packet as well, which whoever
//! takes it posts again: so everybody sees it, and nobody needs to know how many wait. (Closing the handle would wake
//! them on Windows, and not under Wine.)

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "it is const; clippy does not see that on this target"
)]

use std::{
    cell::RefCell,
    io,
    marker::PhantomData,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    ptr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use windows_sys::Win32::{
    Foundation::{INVALID_HANDLE_VALUE, WAIT_TIMEOUT},
    System::IO::{CreateIoCompletionPort, GetQueuedCompletionStatus, OVERLAPPED, PostQueuedCompletionStatus},
};

use super::port::milliseconds;
use crate::completion_port::{PortConfig, PortCounters, PortError, WaitEnd};

/// The completion key of a packet.
const PACKET: usize = 1;
/// The completion key of the end.
const END: usize = 0;

/// The place of a thread at a port, which only counts: the kernel knows by itself.
struct Seat {
    /// How many run there; compared by address.
    running: Arc<AtomicUsize>,
    runs: bool,
}

impl Seat {
    fn set_runs(&mut self, runs: bool) {
        match (std::mem::replace(&mut self.runs, runs), runs) {
            (false, true) => self.running.fetch_add(1, Ordering::SeqCst),
            (true, false) => self.running.fetch_sub(1, Ordering::SeqCst),
            _ => return,
        };
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set_runs(false);
    }
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// What came out of the port.
enum Came<T> {
    Packet(Box<T>),
    End,
    Nothing,
}

pub(crate) struct System<T: Send + 'static> {
    /// As long as this lives, packets of the key [`PACKET`] in it are boxes of `T` that nobody else has.
    handle: OwnedHandle,
    queue_max: usize,
    /// Packets that were counted in and not yet taken. A poster counts before it looks whether the port is closed, so
    /// that whoever finds the end and a count of zero knows that nothing will come any more.
    queued: AtomicUsize,
    closed: AtomicBool,
    waiting: AtomicUsize,
    running: Arc<AtomicUsize>,
    posted: AtomicU64,
    refused: AtomicU64,
    /// Posters that wait for room.
    posters: Mutex<usize>,
    room: Condvar,
    /// Packets go in and come out, and nobody looks at one in here: threads may share it though `T` is not to be shared.
    packets: PhantomData<fn(T) -> T>,
}

impl<T: Send + 'static> System<T> {
    pub(crate) fn new(config: PortConfig) -> io::Result<Self> {
        let concurrency = u32::try_from(config.concurrency).unwrap_or(u32::MAX);
        // SAFETY: makes a new port; nothing is associated with it.
        let handle = unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, concurrency) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the handle was made above, and nobody else has it.
            handle: unsafe { OwnedHandle::from_raw_handle(handle) },
            queue_max: config.queue_max_packets,
            queued: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            running: Arc::default(),
            posted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            posters: Mutex::new(0),
            room: Condvar::new(),
            packets: PhantomData,
        })
    }

    // ---- packets ----

    pub(crate) fn try_post(&self, packet: T) -> Result<(), PortError<T>> {
        self.count_refused(self.offer(packet))
    }

    pub(crate) fn post(&self, packet: T) -> Result<(), PortError<T>> {
        let patient = !self.is_at();
        let mut offered = self.offer(packet);
        while let Err(PortError::Full(packet)) = offered {
            if !patient {
                offered = Err(PortError::Full(packet));
                break;
            }
            self.wait_for_room();
            offered = self.offer(packet);
        }
        self.count_refused(offered)
    }

    fn count_refused(&self, offered: Result<(), PortError<T>>) -> Result<(), PortError<T>> {
        if offered.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        offered
    }

    fn offer(&self, packet: T) -> Result<(), PortError<T>> {
        if self.queued.fetch_add(1, Ordering::SeqCst) >= self.queue_max {
            self.count_out();
            let full = !self.closed.load(Ordering::SeqCst);
            return Err(if full { PortError::Full(packet) } else { PortError::Closed(packet) });
        }
        if self.closed.load(Ordering::SeqCst) {
            self.count_out();
            return Err(PortError::Closed(packet));
        }
        let packet = Box::into_raw(Box::new(packet));
        if self.put(PACKET, packet.cast()).is_err() {
            // Windows has no memory for more: as full as a port can be.
            // SAFETY: it was made above, and did not come into the port.
            let packet = unsafe { Box::from_raw(packet) };
            self.count_out();
            return Err(PortError::Full(*packet));
        }
        self.posted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn wait_for_room(&self) {
        let mut posters = self.lock_posters();
        *posters += 1;
        while self.queued.load(Ordering::SeqCst) >= self.queue_max && !self.closed.load(Ordering::SeqCst) {
            posters = self.room.wait(posters).unwrap_or_else(PoisonError::into_inner);
        }
        *posters -= 1;
    }

    /// One packet less.
    fn count_out(&self) {
        self.queued.fetch_sub(1, Ordering::SeqCst);
        // Under the lock under which a poster looks and falls asleep: it sees the room, or is woken.
        if *self.lock_posters() > 0 {
            self.room.notify_all();
        }
    }

    fn lock_posters(&self) -> MutexGuard<'_, usize> {
        self.posters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.put_end();
            let posters = self.lock_posters();
            self.room.notify_all();
            drop(posters);
        }
    }

    pub(crate) fn take_queued(&self) -> Vec<T> {
        let mut taken = Vec::new();
        let mut ended = false;
        while self.queued.load(Ordering::SeqCst) > 0 {
            match self.take(Some(Duration::ZERO)) {
                Came::Packet(packet) => taken.push(*packet),
                // The end may lie before a packet. Put back once, below.
                Came::End => ended = true,
                // A poster has counted, and not posted yet: what comes from now on was posted later.
                Came::Nothing => break,
            }
        }
        if ended {
            self.put_end();
        }
        taken
    }

    // ---- threads ----

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<T, WaitEnd> {
        self.sit(false);
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let end = loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match self.take(left) {
                Came::Packet(packet) => break Ok(*packet),
                Came::Nothing => break Err(WaitEnd::TimedOut),
                Came::End => {
                    self.put_end();
                    if self.queued.load(Ordering::SeqCst) == 0 {
                        break Err(WaitEnd::Closed);
                    }
                    // A poster that was not too late is putting its packet behind the end.
                    std::thread::yield_now();
                }
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if end.is_ok() {
            self.sit(true);
        }
        end
    }

    /// The calling thread has its place here from now on, and runs or not.
    fn sit(&self, runs: bool) {
        SEAT.with_borrow_mut(|seat| {
            if !seat.as_ref().is_some_and(|seat| Arc::ptr_eq(&seat.running, &self.running)) {
                *seat = Some(Seat { running: Arc::clone(&self.running), runs: false });
            }
            if let Some(seat) = seat {
                seat.set_runs(runs);
            }
        });
    }

    fn is_at(&self) -> bool {
        let is_here = |seat: &Seat| Arc::ptr_eq(&seat.running, &self.running);
        SEAT.try_with(|seat| seat.borrow().as_ref().is_some_and(is_here)).unwrap_or(false)
    }

    pub(crate) fn counters(&self) -> PortCounters {
        PortCounters {
            queued: self.queued.load(Ordering::SeqCst),
            waiting: self.waiting.load(Ordering::SeqCst),
            running: self.running.load(Ordering::SeqCst),
            blocked: 0,
            posted: self.posted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            replaced: 0,
            looks: 0,
        }
    }

    // ---- the kernel's port ----

    fn put(&self, key: usize, packet: *const OVERLAPPED) -> io::Result<()> {
        // SAFETY: the kernel does not look at what is posted; whoever takes it gets the same address.
        let done = unsafe { PostQueuedCompletionStatus(self.handle.as_raw_handle(), 0, key, packet) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// It fails only for want of memory, and nothing else would end the waits.
    fn put_end(&self) {
        while self.put(END, ptr::null()).is_err() {
            std::thread::yield_now();
        }
    }

    fn take(&self, pause: Option<Duration>) -> Came<T> {
        let (mut bytes, mut key, mut packet) = (0, 0, ptr::null_mut());
        // SAFETY: all three are variables of ours.
        let done = unsafe {
            GetQueuedCompletionStatus(
                self.handle.as_raw_handle(),
                &raw mut bytes,
                &raw mut key,
                &raw mut packet,
                milliseconds(pause),
            )
        };
        if done == 0 {
            let error = io::Error::last_os_error();
            let timed_out = error.raw_os_error() == Some(WAIT_TIMEOUT.cast_signed());
            assert!(timed_out, "a completion port that is open cannot be waited at: {error}");
            return Came::Nothing;
        }
        if key == END {
            return Came::End;
        }
        // SAFETY: a packet of this key is a box of ours, and comes out once.
        let packet = unsafe { Box::from_raw(packet.cast::<T>()) };
        self.count_out();
        Came::Packet(packet)
    }
}

impl<T: Send + 'static> Drop for System<T> {
    fn drop(&mut self) {
        // Nobody waits or posts: that would be a reference. What is left are boxes that only the port knows.
        while !matches!(self.take(Some(Duration::ZERO)), Came::Nothing) {}
    }
}

/// Windows sees who blocks.
pub(crate) fn blocking<R>(work: impl FnOnce() -> R) -> R {
    work()
}
