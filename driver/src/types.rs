//! The nouns of the contract: tokens, keys, operations, outcomes.

use anyport_core::{Fault, SendBatch, SlabKey};

use crate::address::PeerAddress;

/// Comes back unchanged with every completion of the operation that it was submitted with. The driver gives it
/// no meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub u64);

/// Names one socket of one driver; never a descriptor or handle of the system. A key is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketKey(pub(crate) SlabKey);

/// Names one open file of one driver. A key is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileKey(pub(crate) SlabKey);

/// The kinds of operation: six on sockets, four on files. Of the old engines' eight, `PRE_RECV` lives on in how a
/// receive waits without a buffer, `DISCONNECT` in shutdown and close, `FILE_WRITE` in append; jobs are not of the
/// driver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum OpKind {
    /// [`Op::Accept`].
    Accept,
    /// [`Op::Connect`].
    Connect,
    /// [`Op::Receive`].
    Receive,
    /// [`Op::Send`].
    Send,
    /// [`Op::Shutdown`].
    Shutdown,
    /// [`Op::Close`].
    Close,
    /// [`Op::Append`].
    Append,
    /// [`Op::Sync`].
    Sync,
    /// [`Op::Rotate`].
    Rotate,
    /// [`Op::CloseFile`].
    CloseFile,
}

/// An operation to submit.
#[derive(Debug)]
pub enum Op {
    /// Accept connections until the listener closes.
    Accept {
        /// A key from [`listen`](crate::Driver::listen).
        listener: SocketKey,
    },
    /// Connect to the address that the socket was opened for.
    Connect {
        /// A key from [`open`](crate::Driver::open).
        socket: SocketKey,
    },
    /// Receive until the peer's end of stream, a fault, or a cancel.
    Receive {
        /// A connected socket.
        socket: SocketKey,
    },
    /// Send the whole batch. An empty one completes like any other.
    Send {
        /// A connected socket.
        socket: SocketKey,
        /// Moves into the driver and comes back with the completion.
        batch: Box<SendBatch>,
    },
    /// End our direction of the stream.
    Shutdown {
        /// A connected socket.
        socket: SocketKey,
    },
    /// Cancel what is in flight, join it, and free the socket.
    Close {
        /// Any socket, listeners too.
        socket: SocketKey,
    },
    /// Append the whole batch to a file. An empty one completes like any other.
    Append {
        /// A key from [`open_file`](crate::Driver::open_file).
        file: FileKey,
        /// Moves into the driver and comes back with the completion.
        batch: Box<SendBatch>,
    },
    /// Bring what was appended to the medium, so that it outlives a loss of power.
    Sync {
        /// A key from [`open_file`](crate::Driver::open_file).
        file: FileKey,
    },
    /// Begin a new file at the path: the one that is there is called `path.1` from then on, the former `path.1`
    /// becomes `path.2`, and so on.
    Rotate {
        /// A key from [`open_file`](crate::Driver::open_file).
        file: FileKey,
        /// How many old files stay, the oldest of more is removed. 0 is taken as 1.
        keep: u32,
    },
    /// Let what is in flight on a file end by itself, then close it.
    CloseFile {
        /// A key from [`open_file`](crate::Driver::open_file).
        file: FileKey,
    },
}

impl Op {
    /// Which kind it is.
    pub fn kind(&self) -> OpKind {
        match self {
            Self::Accept { .. } => OpKind::Accept,
            Self::Connect { .. } => OpKind::Connect,
            Self::Receive { .. } => OpKind::Receive,
            Self::Send { .. } => OpKind::Send,
            Self::Shutdown { .. } => OpKind::Shutdown,
            Self::Close { .. } => OpKind::Close,
            Self::Append { .. } => OpKind::Append,
            Self::Sync { .. } => OpKind::Sync,
            Self::Rotate { .. } => OpKind::Rotate,
            Self::CloseFile { .. } => OpKind::CloseFile,
        }
    }

    /// How it ends if it fails with `fault`.
    pub(crate) fn failed(self, fault: Fault) -> Outcome {
        match self {
            Self::Accept { .. } => Outcome::AcceptEnded(fault),
            Self::Connect { .. } => Outcome::Connected(Err(fault)),
            Self::Receive { .. } => Outcome::Received(Received::Failed(fault)),
            Self::Send { batch, .. } => Outcome::Sent(batch, Err(fault)),
            Self::Shutdown { .. } => Outcome::ShutDown(Err(fault)),
            Self::Close { .. } => Outcome::Closed(Err(fault)),
            Self::Append { batch, .. } => Outcome::Appended(batch, Err(fault)),
            Self::Sync { .. } => Outcome::Synced(Err(fault)),
            Self::Rotate { .. } => Outcome::Rotated(Err(fault)),
            Self::CloseFile { .. } => Outcome::FileClosed(Err(fault)),
        }
    }
}

/// An accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The new socket.
    pub socket: SocketKey,
    /// Who connected.
    pub peer: PeerAddress,
}

/// What receiving gave.
#[derive(Debug)]
pub enum Received {
    /// Bytes, at least one. More follow: not terminal.
    Data(Lease),
    /// The peer ended its stream. Terminal.
    EndOfStream,
    /// It failed or was cancelled. Terminal.
    Failed(Fault),
}

/// What became of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// A connection was accepted. Not terminal.
    Accepted(Accepted),
    /// A connection could not be accepted; accepting goes on by itself. Not terminal.
    AcceptFaulted(Fault),
    /// Accepting ended: its listener closed, or the key was no listener. Terminal.
    AcceptEnded(Fault),
    /// Connecting ended. In success the socket is a connected one from here on.
    Connected(Result<(), Fault>),
    /// Receiving gave something.
    Received(Received),
    /// Sending ended; in success the whole batch was taken.
    Sent(Box<SendBatch>, Result<(), Fault>),
    /// Shutting down ended.
    ShutDown(Result<(), Fault>),
    /// The socket is closed and the key is dead; a fault if it was dead already.
    Closed(Result<(), Fault>),
    /// Appending ended; in success the whole batch was taken.
    Appended(Box<SendBatch>, Result<(), Fault>),
    /// What was appended before is on the medium, or it is not known to be.
    Synced(Result<(), Fault>),
    /// The file at the path is a new, empty one; or, with a fault, appending goes on where it was.
    Rotated(Result<(), Fault>),
    /// The file is closed and the key is dead; a fault if it was dead already.
    FileClosed(Result<(), Fault>),
}

impl Outcome {
    /// True if nobody waits for it: it needs not end a wait (sentence 8).
    #[inline]
    pub fn is_lazy(&self) -> bool {
        matches!(self, Self::Sent(batch, Ok(())) if batch.is_lazy())
    }

    /// True if nothing more will come for the operation (sentence 3).
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::Accepted(_) | Self::AcceptFaulted(_) | Self::Received(Received::Data(_)))
    }
}

/// One outcome of one operation.
#[derive(Debug)]
pub struct Completion {
    /// What the submitter gave.
    pub token: Token,
    /// What became of it.
    pub outcome: Outcome,
}

/// Received bytes in a buffer of the driver. Neither `Clone` nor to be made outside: whoever holds it is the
/// only reader, until [`recycle`](crate::Driver::recycle) gives it back.
#[derive(Debug)]
#[must_use = "a lease that is dropped keeps its buffer from the driver for ever"]
pub struct Lease {
    /// Which driver instance it belongs to.
    pub(crate) driver: u32,
    pub(crate) buffer: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Lease {
    /// How many bytes were received.
    #[expect(clippy::len_without_is_empty, reason = "a lease is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

/// A number for each driver instance, so that a lease cannot be used with another.
pub(crate) fn next_instance() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A socket between two drivers. Dropping it closes the socket.
#[derive(Debug)]
pub struct Detached(pub(crate) DetachedSocket);

#[derive(Debug)]
pub(crate) enum DetachedSocket {
    /// A descriptor of the system.
    #[cfg(unix)]
    Descriptor(std::os::fd::OwnedFd),
    /// A socket of Windows.
    #[cfg(windows)]
    Handle(std::os::windows::io::OwnedSocket),
    /// A socket of the simulated network.
    Sim(crate::sim::SimEnd),
    /// A connection of a concurrency model.
    #[cfg(loom)]
    Model(crate::model::driver::Connection),
}
