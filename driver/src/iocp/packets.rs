//! A [`CompletionPort`](crate::CompletionPort) as Windows has it: a port of the kernel, without sockets.
//!
//! The kernel keeps the threads: last in, first out; as many at once as the concurrency says, and another one for each
//! that blocks. Ours is what it has not: a limit of packets, a way to take them back (the kernel hands nothing out, not
//! even to one who does not wait, while as many run as may), and an end. So packets are in a queue here, and the kernel's
//! port has a permit for each: whoever gets one takes the first packet. There may be more permits than packets, after some
//! were taken back, and never fewer. The end is in the port as well, behind all permits; whoever takes it posts it again:
//! so everybody sees it, and nobody needs to know how many wait. (Closing the handle would wake them on Windows, and not
//! under Wine.)

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "it is const; clippy does not see that on this target"
)]

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    ptr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use windows_sys::Win32::{
    Foundation::{INVALID_HANDLE_VALUE, WAIT_TIMEOUT},
    System::IO::{CreateIoCompletionPort, GetQueuedCompletionStatus, PostQueuedCompletionStatus},
};

use super::port::milliseconds;
use crate::completion_port::{PortConfig, PortCounters, PortError, WaitEnd};

/// The completion key of a permit to take a packet.
const PERMIT: usize = 1;
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

/// What came out of the kernel's port.
enum Came {
    Permit,
    End,
    Nothing,
}

struct Queue<T> {
    packets: VecDeque<T>,
    closed: bool,
    /// Posters that wait for room.
    posters: usize,
}

pub(crate) struct System<T: Send + 'static> {
    handle: OwnedHandle,
    queue_max: usize,
    /// For each packet in it, there is a permit in the port or with a thread that is about to take one.
    queue: Mutex<Queue<T>>,
    room: Condvar,
    waiting: AtomicUsize,
    running: Arc<AtomicUsize>,
    posted: AtomicU64,
    refused: AtomicU64,
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
            queue: Mutex::new(Queue { packets: VecDeque::new(), closed: false, posters: 0 }),
            room: Condvar::new(),
            waiting: AtomicUsize::new(0),
            running: Arc::default(),
            posted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
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
        let mut queue = self.lock();
        if queue.closed {
            return Err(PortError::Closed(packet));
        }
        // If Windows has no memory for a permit more, the port is as full as it can be.
        if queue.packets.len() >= self.queue_max || self.put(PERMIT).is_err() {
            return Err(PortError::Full(packet));
        }
        queue.packets.push_back(packet);
        drop(queue);
        self.posted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn wait_for_room(&self) {
        let mut queue = self.lock();
        queue.posters += 1;
        while queue.packets.len() >= self.queue_max && !queue.closed {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.posters -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After packets left the queue.
    fn tell_posters(&self, queue: MutexGuard<'_, Queue<T>>) {
        let some_wait = queue.posters > 0;
        drop(queue);
        if some_wait {
            self.room.notify_all();
        }
    }

    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        if !std::mem::replace(&mut queue.closed, true) {
            self.put_end();
            self.tell_posters(queue);
        }
    }

    /// Their permits stay in the port: whoever gets one finds nothing, and waits again.
    pub(crate) fn take_queued(&self) -> Vec<T> {
        let mut queue = self.lock();
        let taken = std::mem::take(&mut queue.packets);
        self.tell_posters(queue);
        taken.into()
    }

    fn take_first(&self) -> Option<T> {
        let mut queue = self.lock();
        let packet = queue.packets.pop_front()?;
        self.tell_posters(queue);
        Some(packet)
    }

    // ---- threads ----

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<T, WaitEnd> {
        self.sit(false);
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let end = loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match self.take(left) {
                Came::Permit => {
                    if let Some(packet) = self.take_first() {
                        break Ok(packet);
                    }
                }
                Came::Nothing => break Err(WaitEnd::TimedOut),
                Came::End => {
                    self.put_end();
                    if self.lock().packets.is_empty() {
                        break Err(WaitEnd::Closed);
                    }
                    // Somebody has the permit, and takes the packet in this moment.
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
        let (queued, posting) = {
            let queue = self.lock();
            (queue.packets.len(), queue.posters)
        };
        PortCounters {
            queued,
            waiting: self.waiting.load(Ordering::SeqCst),
            posting,
            running: self.running.load(Ordering::SeqCst),
            blocked: 0,
            posted: self.posted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            replaced: 0,
            looks: 0,
        }
    }

    // ---- the kernel's port ----

    fn put(&self, key: usize) -> io::Result<()> {
        // SAFETY: nothing is pointed at; whoever takes it gets the key.
        let done = unsafe { PostQueuedCompletionStatus(self.handle.as_raw_handle(), 0, key, ptr::null()) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// It fails only for want of memory, and nothing else would end the waits.
    fn put_end(&self) {
        while self.put(END).is_err() {
            std::thread::yield_now();
        }
    }

    fn take(&self, pause: Option<Duration>) -> Came {
        let (mut bytes, mut key, mut nothing) = (0, 0, ptr::null_mut());
        // SAFETY: all three are variables of ours.
        let done = unsafe {
            GetQueuedCompletionStatus(
                self.handle.as_raw_handle(),
                &raw mut bytes,
                &raw mut key,
                &raw mut nothing,
                milliseconds(pause),
            )
        };
        if done == 0 {
            let error = io::Error::last_os_error();
            let timed_out = error.raw_os_error() == Some(WAIT_TIMEOUT.cast_signed());
            assert!(timed_out, "a completion port that is open cannot be waited at: {error}");
            return Came::Nothing;
        }
        if key == END { Came::End } else { Came::Permit }
    }
}

/// Windows sees who blocks.
pub(crate) fn blocking<R>(work: impl FnOnce() -> R) -> R {
    work()
}
