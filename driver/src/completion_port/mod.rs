//! A completion port: a queue of packets, and threads that take them, of which only so many run at once.
//!
//! What Windows has in its kernel, on every system. Give it as many threads as may ever have to block, and a
//! concurrency of as many as may compute (the processors, usually): while one sleeps in a database call, another one is
//! woken for it, and the processors are neither idle nor fought over.
//!
//! ```
//! use anyport_driver::{CompletionPort, PortConfig, WaitEnd};
//!
//! let port = CompletionPort::new(PortConfig { concurrency: 2, ..PortConfig::default() })?;
//! let total = std::thread::scope(|scope| {
//!     let work = || std::iter::from_fn(|| port.wait(None).ok()).sum::<u32>();
//!     let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
//!     (1..=100).for_each(|number| port.post(number).unwrap());
//!     port.close();
//!     threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
//! });
//! assert_eq!(total, 5050);
//! assert_eq!(port.wait(None), Err(WaitEnd::Closed));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What it promises
//!
//! `driver/tests/completion_port` has a test for each sentence, named after it. What differs between systems is in
//! `docs/completion-port.md`.
//!
//! 1. **Packets first in, first out.** They are taken in the order in which they were posted.
//! 2. **Threads last in, first out.** A packet goes to the thread that began to wait last: its memory is warm, and the
//!    others may sleep on.
//! 3. **Concurrency.** No packet is handed out while as many threads run as may. A thread runs from the moment it has a
//!    packet until it waits again, blocks, ends, or waits at another port.
//! 4. **Who blocks is replaced.** A running thread that says so ([`blocking`]) does not count from that moment; one that
//!    says nothing is found within a few milliseconds, on Windows at once (not on systems that do not tell what their
//!    threads do: there only what is said is known). The next packet goes to another thread. A thread that computes, or
//!    has no processor at the moment, is never taken for blocked.
//! 5. **Who comes back is one too many for a while.** Nobody is stopped; nobody new gets a packet until fewer run
//!    than may, so that a thread which waits again then may find packets queued and wait all the same.
//! 6. **Bounded.** Above `queue_max_packets` a packet is not taken: it comes back.
//! 7. **Closing.** Nothing can be posted any more. What was posted before is still handed out; once nothing is queued,
//!    everybody who waits, and whoever comes later, is told [`Closed`](WaitEnd::Closed).
//!    [`take_queued`](CompletionPort::take_queued) gives back what should not be handed out.
//! 8. **The dead do not count.** A thread that ends while it has a packet, by a panic too, gives up its place.
//! 9. **No wake-up is lost.** Whoever is woken has a packet with him; one that gives up at the same moment has it, too.
//! 10. **Once.** Each packet that was posted is handed out once, given back, or dropped with the port.

#[cfg(not(windows))]
pub(crate) mod portable;
#[cfg(not(windows))]
pub(crate) mod schedule;
#[cfg(not(windows))]
mod scheduled;
#[cfg(not(windows))]
mod seat;
#[cfg(all(target_os = "linux", not(loom)))]
mod watcher;

use std::{fmt, io, time::Duration};

#[cfg(windows)]
use crate::iocp::packets as system;
#[cfg(not(windows))]
use scheduled as system;

/// Sizes of a [`CompletionPort`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortConfig {
    /// Threads that may run at once; 0, the default, is one for each processor that the process may use.
    pub concurrency: usize,
    /// Packets that may be queued. From 1; default 65,536.
    pub queue_max_packets: usize,
    /// Look for threads that block without saying so. Default true. Costs a thread that sleeps until packets wait
    /// although threads do; then it looks every millisecond. Windows always knows; systems other than Linux never do.
    pub detect_blocked: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self { concurrency: 0, queue_max_packets: 1 << 16, detect_blocked: true }
    }
}

/// A queue of packets, and the threads that take them. What it promises is in the [module's docs](self).
///
/// Any number of threads may share it, in an `Arc` or by reference. Dropping it drops what is queued.
pub struct CompletionPort<T: Send + 'static> {
    system: system::System<T>,
}

impl<T: Send + 'static> CompletionPort<T> {
    /// A port without packets and threads.
    ///
    /// # Errors
    /// If `queue_max_packets` is zero, or the system is short of threads or handles.
    pub fn new(config: PortConfig) -> io::Result<Self> {
        if config.queue_max_packets == 0 {
            let what = "queue_max_packets is 0: a port needs room for one packet at least";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let processors = || crate::machine::processors().len();
        let concurrency = if config.concurrency == 0 { processors() } else { config.concurrency };
        let config = PortConfig { concurrency: concurrency.max(1), ..config };
        Ok(Self { system: system::System::new(config)? })
    }

    /// Queues a packet, and waits while there is no room. A thread that has a place at this port does not wait, because
    /// it would wait for itself.
    ///
    /// While it waits, the thread counts as [`blocking`] at its own port, if it has one.
    ///
    /// # Errors
    /// [`Closed`](PortError::Closed), or [`Full`](PortError::Full) for a thread of this port; with the packet.
    pub fn post(&self, packet: T) -> Result<(), PortError<T>> {
        self.system.post(packet)
    }

    /// Queues a packet if there is room.
    ///
    /// # Errors
    /// [`Full`](PortError::Full) or [`Closed`](PortError::Closed), with the packet.
    pub fn try_post(&self, packet: T) -> Result<(), PortError<T>> {
        self.system.try_post(packet)
    }

    /// Takes the next packet; waits for it at most for `timeout`, without bound for `None`. Zero only looks whether
    /// the calling thread may have one now.
    ///
    /// The thread has a place at the port from here on. What it did before is over: it does not count until it has
    /// another packet.
    ///
    /// # Errors
    /// [`TimedOut`](WaitEnd::TimedOut), or [`Closed`](WaitEnd::Closed) when nothing will ever come.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<T, WaitEnd> {
        self.system.wait(timeout)
    }

    /// Takes no packet any more (sentence 7). Closing twice is closing once.
    pub fn close(&self) {
        self.system.close();
    }

    /// Takes out what is queued and not handed out, in order; more may be posted meanwhile, unless it was closed before.
    pub fn take_queued(&self) -> Vec<T> {
        self.system.take_queued()
    }

    /// What it is doing at this moment, and has done.
    pub fn counters(&self) -> PortCounters {
        self.system.counters()
    }
}

impl<T: Send + 'static> fmt::Debug for CompletionPort<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionPort").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// Runs `work`, which may block, and tells the port at which this thread has its place: it does not count meanwhile, and
/// the next packet goes to another thread at once. May be nested. Without a port, and on Windows, which sees for
/// itself, it only runs `work`.
pub fn blocking<R>(work: impl FnOnce() -> R) -> R {
    system::blocking(work)
}

/// A packet that was not taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PortError<T> {
    /// As many are queued as may be: try again later, or do without.
    Full(T),
    /// The port was closed.
    Closed(T),
}

impl<T> PortError<T> {
    /// The packet.
    pub fn into_packet(self) -> T {
        match self {
            Self::Full(packet) | Self::Closed(packet) => packet,
        }
    }
}

impl<T> fmt::Debug for PortError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for PortError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => {
                "the completion port is full: post less, add threads, or raise queue_max_packets"
            }
            Self::Closed(_) => "the completion port is closed: nothing can be posted any more",
        })
    }
}

impl<T> std::error::Error for PortError<T> {}

/// Why a wait ended without a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WaitEnd {
    /// None came in time.
    TimedOut,
    /// The port is closed, and nothing is left in it.
    Closed,
}

impl fmt::Display for WaitEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "no packet came in time",
            Self::Closed => "the completion port is closed, and nothing is left in it",
        })
    }
}

impl std::error::Error for WaitEnd {}

/// What a port is doing, and has done since it was made. On Windows each figure is read by itself, elsewhere all at one
/// moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortCounters {
    /// Packets queued.
    pub queued: usize,
    /// Threads that wait.
    pub waiting: usize,
    /// Threads that wait for room to post.
    pub posting: usize,
    /// Threads that have a packet and count. Windows does not tell who blocks: there, all that have a packet.
    pub running: usize,
    /// Threads that have a packet and block, as far as is known. Always 0 on Windows.
    pub blocked: usize,
    /// Packets taken so far.
    pub posted: u64,
    /// Packets not taken, because there was no room or the port was closed.
    pub refused: u64,
    /// Packets handed out only because somebody blocked: they would have waited otherwise. Always 0 on Windows.
    pub replaced: u64,
    /// How often somebody looked for threads that block. Linux only.
    pub looks: u64,
}
