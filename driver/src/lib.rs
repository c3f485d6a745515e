//! What the operating system gives, behind one contract.
//!
//! | driver | where | built on |
//! |---|---|---|
//! | [`IoUring`](io_uring::IoUring) | Linux 6.1 and later | one ring a shard: posted accepts, multishot receive into a buffer ring, batched submit-and-wait |
//! | `Iocp` | Windows | a completion port a shard: AcceptEx posted ahead, zero-byte receives, overlapped sends |
//! | `Readiness` | Linux, macOS, BSD | epoll or kqueue, edge-triggered; tries first, waits for readiness only if needed |
//! | `Sim` | everywhere | sockets in memory, virtual time, one seed |
//! | `Pipes` | everywhere | connections in memory, for what is in the same process |
//! | [`Relay`](relay::Relay) | everywhere | links to other threads' drivers: for threads that do no I/O |
//!
//! # The contract
//!
//! Every driver keeps these sentences; `tests/conformance` has at least one test for each, named after it, and
//! runs the same suite on every driver but `Pipes`, which has no addresses to connect to and no files, and tests of its
//! own.
//!
//! 1. **Ownership.** A driver owns its sockets and every buffer in flight. It is safe to call with any
//!    arguments. Dropping it cancels what is in flight, and waits until the kernel has given every buffer back.
//! 2. **Submit.** [`submit`](Driver::submit) never fails and never completes in place: every outcome is a
//!    completion of a later [`wait`](Driver::wait) that carries the submitter's [`Token`].
//! 3. **One end.** Each operation has exactly one terminal completion ([`Outcome::is_terminal`]). Accept and
//!    receive are streams: any number of non-terminal completions come before it. A receive after the end of
//!    the stream ends at once, as the one before it did.
//! 4. **Late buffers.** A receive holds no buffer while no data is there. Data comes as a [`Lease`]: the
//!    engine looks at it in place ([`bytes`](Driver::bytes)) and gives it back ([`recycle`](Driver::recycle)).
//!    A driver that has run out of buffers goes on when some come back, in the order in which sockets ran dry.
//! 5. **Whole sends.** A send takes a gathered batch and ends in success only when all of it was taken by the
//!    system; otherwise the batch comes back with a fault and says how much was ([`SendBatch::sent`]).
//! 6. **Cancel.** [`cancel`](Driver::cancel) changes no bookkeeping and has no completion of its own: what the
//!    kernel did before is reported and counted, then the operation ends as [`FaultKind::Cancelled`] or as it
//!    would have anyway. Data that was not delivered stays for the next receive. After a cancelled send there may be
//!    no connection any more: Windows does not promise one.
//! 7. **Accept stays armed** until its listener closes. A shortage is reported
//!    ([`Outcome::AcceptFaulted`], at a bounded rate) and accepting resumes by itself: at a timer, or when a
//!    socket closes. A connection that waits meanwhile is not lost. One that its peer reset before it was
//!    accepted may be delivered, or passed over.
//! 8. **Wait** hands over what was submitted and takes what is complete, in one system call where the OS can;
//!    it blocks at most for the time-out, rounded up to what the system's clock can tell apart (on Windows up to
//!    15.6 ms), and only while nothing is complete and nobody woke it. It delivers a
//!    bounded number of completions a call, in the order of the system for each socket. Before it blocks it may look
//!    again and again for a while ([`DriverConfig::spin`]): within the time-out, and not twice without an event.
//!    [`wait_until`](Driver::wait_until) is the same with the moment at which it ends at the latest.
//!    A send that nobody waits for ([`SendBatch::is_lazy`]) and that has ended, in success, by the next wait needs not end
//!    that wait: its completion may come with what ends it, the time-out included.
//! 9. **Wake.** A [`Waker`] ends the current or the next wait from any thread, with a system call only if the
//!    driver sleeps. A wake is never lost.
//! 10. **Close joins.** [`Op::Close`] is allowed at any time: whatever is in flight on the socket is cancelled
//!     and delivers its terminal completion first; `Closed` comes after all of them, and the key is dead from
//!     the submission on.
//!     A connection that is closed with nothing unread ends in order for the peer, not with a reset. A connect in
//!     flight is given up, whether its peer answers or not.
//! 11. **Dead keys.** An operation on a key that names no open socket, or one of another kind, a second connect
//!     ever, a second accept, receive, send or shutdown while one is in flight, or any operation after close was
//!     submitted, ends as [`FaultKind::InvalidSocket`]. A socket whose connect failed can only be closed.
//! 12. **Shutdown** ends our direction after what was sent before, a send in flight included; the peer sees the
//!     end of the stream, and receiving goes on. A send after it fails.
//! 13. **Moving.** An accepted socket on which nothing was submitted yet can be taken out of its driver
//!     ([`detach`](Driver::detach)) and given to another of the same kind ([`adopt`](Driver::adopt)): so one
//!     listener serves many shards. The first operation settles it for good, because Windows ties a socket to one
//!     completion port for life.
//! 14. **Files.** [`open_file`](Driver::open_file) opens a file to append to, made if it is missing. One operation at
//!     a time is in flight on it, a close aside; another one, or any on a key that names no open file, ends as
//!     [`FaultKind::InvalidSocket`]. An append ends in success only when the file has all of it at its end, in one
//!     piece; otherwise the batch says how much ([`SendBatch::sent`]), and the file ends with exactly that. Nothing on
//!     a file is cancelled: a close joins what is in flight when it has ended by itself. No operation blocks the
//!     driver's thread, however slow the disk is.
//!
//! Windows handles, `OVERLAPPED`, submission queue entries and `epoll_event` stop here: nothing above this
//! crate knows them.

#![deny(unsafe_code)]

pub mod address;
#[cfg(any(unix, windows))]
mod arena;
pub mod completion_port;
#[cfg(any(unix, windows))]
mod files;
#[cfg(target_os = "linux")]
pub mod io_uring;
#[cfg(windows)]
pub mod iocp;
pub mod machine;
#[cfg(loom)]
pub mod model;
pub mod options;
#[cfg(any(unix, windows))]
pub mod pipes;
#[cfg(any(target_os = "linux", windows))]
mod posting;
pub mod probe;
#[cfg(any(unix, windows))]
mod queue;
#[cfg(unix)]
pub mod readiness;
pub mod relay;
pub mod sim;
mod spin;
mod sync;
pub mod topology;
pub mod types;
#[cfg(unix)]
mod unix;
pub mod wake;

#[cfg(all(test, guard_pages, target_os = "linux"))]
#[global_allocator]
static GUARD: anyport_guard::Guarding = anyport_guard::Guarding;

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

pub use address::{Address, PeerAddress};
pub use anyport_core::{Fault, FaultKind, SendBatch};
pub use completion_port::{CompletionPort, PortConfig, PortCounters, PortError, WaitEnd, blocking};
pub use options::{DriverConfig, FileOptions, KeepAlive, ListenOptions, SocketOptions, numbered};
pub use probe::{DriverChoice, DriverKind};
pub use topology::{Placing, Topology};
pub use types::{
    Accepted, Completion, Detached, FileKey, Lease, Op, OpKind, Outcome, Received, SocketKey, Token,
};
pub use wake::Waker;

/// Most completions that one [`Driver::wait`] delivers.
pub const COMPLETIONS_MAX: usize = 4096;
/// Most files that one driver has open at a time.
pub const FILES_MAX: u32 = 1024;

/// What a shard asks of the operating system. The sentences of the contract are in the [crate's docs](crate).
///
/// A driver is built on the thread that uses it, and stays there.
pub trait Driver: Sized {
    /// Which driver this is.
    fn kind(&self) -> DriverKind;

    /// Opens a listening socket. Accepting starts with [`Op::Accept`]. Returns the key and the address that
    /// was bound, with the port that the system chose if `address` had port 0. The file of a Unix
    /// socket goes with the listener; one that a dead server left is replaced.
    ///
    /// # Errors
    /// As the system says: the address is in use, not of this machine, or not permitted; descriptors are short.
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the port is to be shared and the system has no such thing
    /// ([`DriverKind::shares_ports`]), or has no Unix sockets ([`DriverKind::has_unix_sockets`]).
    fn listen(&mut self, address: &Address, options: &ListenOptions) -> io::Result<(SocketKey, Address)>;

    /// Opens a socket that is to connect to `address`. Connecting starts with [`Op::Connect`].
    ///
    /// # Errors
    /// If the driver has no place for it, the system is short of descriptors or memory, or refuses an option.
    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<SocketKey, Fault>;

    /// Opens a file to append to, and gives its key and how many bytes it has. It is made if it is missing; its folder
    /// is not (sentence 14).
    ///
    /// This asks the system while the caller waits, as [`listen`](Self::listen) does: for the start of a program, not
    /// for the path of a message.
    ///
    /// # Errors
    /// As the system says: no such folder, not permitted, descriptors are short;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a pipe, a socket or a folder;
    /// [`Unsupported`](io::ErrorKind::Unsupported) of a driver that has no files.
    fn open_file(&mut self, path: &Path, options: &FileOptions) -> io::Result<(FileKey, u64)>;

    /// Starts an operation. Its outcome comes out of a later [`wait`](Self::wait) with `token` (sentence 2).
    fn submit(&mut self, token: Token, op: Op);

    /// Asks for the end of the operation of `kind` (receive or send) that is in flight on `socket`, if one is
    /// (sentence 6).
    fn cancel(&mut self, socket: SocketKey, kind: OpKind);

    /// Appends what is complete to `completions`; blocks at most for `timeout`, without bound for `None`
    /// (sentence 8).
    ///
    /// # Errors
    /// Only if the driver itself can no longer work; sockets' faults are completions.
    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// As [`wait`](Self::wait), at most until `deadline`; not at all if that has come by what [`now`](Self::now) says. A
    /// driver whose waits end by a timer that is set already need not read the clock for it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    fn wait_until(&mut self, deadline: Option<Instant>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(self.now()));
        self.wait(timeout, completions)
    }

    /// The received bytes.
    ///
    /// # Panics
    /// If the lease is of another driver.
    fn bytes(&self, lease: &Lease) -> &[u8];

    /// Gives a receive buffer back.
    ///
    /// # Panics
    /// If the lease is of another driver.
    fn recycle(&mut self, lease: Lease);

    /// A handle that ends this driver's wait from any thread.
    fn waker(&self) -> Waker;

    /// The time: the system's monotonic clock, or the simulator's. It may stand still between two waits, at the end of the
    /// first.
    fn now(&self) -> Instant;

    /// Takes an accepted socket out of the driver; its key is dead from then on. `None` if there is no such
    /// socket, it was not accepted or adopted, or something was submitted on it already (sentence 13).
    fn detach(&mut self, socket: SocketKey) -> Option<Detached>;

    /// Takes over a socket that another driver of the same kind gave up; it can be given up again. `None` if it is
    /// of another kind, or this driver has no place for it; the socket is closed then.
    fn adopt(&mut self, detached: Detached) -> Option<SocketKey>;

    /// Sockets held, listeners included: what tests and metrics count.
    fn sockets(&self) -> usize;

    /// Files open.
    fn files(&self) -> usize;

    /// Receive buffers handed out and not given back.
    fn leases_out(&self) -> usize;
}
