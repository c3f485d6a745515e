//! What the driver keeps of each socket.

use std::os::fd::{AsRawFd, OwnedFd};

use anyport_core::{Fault, SendBatch, SlabKey};
use io_uring::{opcode, squeue, types};

use super::{buffers, sockaddr::RawAddress, tag::Tag};
use crate::{
    address::Address,
    posting::Posting,
    types::{SocketKey, Token},
    unix::local::SocketFile,
};

/// Most pieces handed to the kernel in one send; the rest of a batch follows when they are sent.
const PIECES_MAX: usize = 256;

/// A descriptor of the process, or a slot of the ring's own table, which the limit on open files does not count.
pub(super) enum Descriptor {
    Direct(u32),
    Plain(OwnedFd),
}

/// Builds an operation for either kind of descriptor.
macro_rules! on {
    ($descriptor:expr, |$fd:ident| $build:expr) => {
        match $descriptor {
            Descriptor::Direct(slot) => {
                let $fd = types::Fixed(*slot);
                $build
            }
            Descriptor::Plain(fd) => {
                let $fd = types::Fd(fd.as_raw_fd());
                $build
            }
        }
    };
}

/// Where a receive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receiving {
    /// None in flight.
    Idle,
    /// The kernel has it.
    Armed,
    /// The kernel has it and has been asked to give it up.
    Cancelling,
    /// It waits for the next wait, and for a buffer to come back.
    Starved,
}

/// Where a shutdown is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shutdown {
    /// None is wanted.
    None,
    /// It waits for the send before it.
    Waiting,
    /// The kernel has it.
    InFlight,
}

/// Header and pieces of a gathered send, at an address that stays.
pub(super) struct Gather {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
}

/// A listener's part.
pub(super) struct Listening {
    pub(super) posting: Posting,
    pub(super) line: Line,
    /// Places of accepts that are not posted.
    pub(super) resting: Vec<SlabKey>,
    /// Accepted sockets are plain descriptors, which can leave the driver.
    pub(super) detachable: bool,
    /// The file that goes with it, if it is a Unix socket.
    #[expect(dead_code, reason = "it does its work when it is dropped")]
    pub(super) file: Option<SocketFile>,
}

/// What is known of those who wait to be accepted.
pub(super) enum Line {
    /// Nothing: the kernel does not say whether there are more, or cannot let an accept wait. Several are posted.
    Unknown,
    /// One accept waits for them.
    Known {
        /// It does.
        watched: bool,
        /// It found more than its own.
        crowded: bool,
    },
}

/// What a socket from `open` is, until it is connected.
pub(super) enum Connecting {
    /// It has not tried yet.
    Opened(Address),
    /// The kernel has the connect, and reads the address here.
    InFlight(Token, RawAddress),
    /// It failed: the socket can only be closed.
    Failed,
}

/// One socket. A slot is freed only when nothing is in flight on it.
pub(super) struct Socket {
    /// Dropped before the descriptor: the file of a Unix socket goes before its listener.
    pub(super) listening: Option<Box<Listening>>,
    pub(super) descriptor: Descriptor,
    pub(super) receiving: Receiving,
    /// What comes on it fills buffers: it is received from one buffer at a time.
    pub(super) bulky: bool,
    pub(super) closing: bool,
    /// Nothing was submitted on it since it was accepted (sentence 13).
    pub(super) movable: bool,
    /// It is on the list of sockets to check, and whether data came since the last look at that list.
    pub(super) listed: bool,
    pub(super) fresh: bool,
    /// A check is in flight.
    pub(super) checking: bool,
    /// A check has found the end, which the receive missed.
    pub(super) end_found: Option<Result<(), Fault>>,
    /// The engine asked for the end of the receive, or of the send.
    pub(super) user_cancelled: bool,
    pub(super) send_cancelled: bool,
    pub(super) shutdown: Shutdown,
    pub(super) receive_token: Token,
    pub(super) send_token: Token,
    pub(super) shutdown_token: Token,
    pub(super) close_token: Token,
    /// The batch in flight: the kernel reads from it until its completion.
    pub(super) batch: Option<Box<SendBatch>>,
    pub(super) gather: Option<Box<Gather>>,
    pub(super) connecting: Option<Box<Connecting>>,
}

impl Socket {
    pub(super) fn new(descriptor: Descriptor, listening: Option<Box<Listening>>) -> Self {
        Self {
            descriptor,
            receiving: Receiving::Idle,
            bulky: false,
            closing: false,
            movable: false,
            listed: false,
            fresh: false,
            checking: false,
            end_found: None,
            user_cancelled: false,
            send_cancelled: false,
            shutdown: Shutdown::None,
            receive_token: Token(0),
            send_token: Token(0),
            shutdown_token: Token(0),
            close_token: Token(0),
            batch: None,
            gather: None,
            listening,
            connecting: None,
        }
    }

    /// True for a connected socket.
    pub(super) fn is_stream(&self) -> bool {
        self.listening.is_none() && self.connecting.is_none()
    }

    /// True if the kernel or the driver still has an operation on it, close aside.
    pub(super) fn is_busy(&self) -> bool {
        self.receiving != Receiving::Idle
            || self.batch.is_some()
            || self.shutdown != Shutdown::None
            || self.checking
            || matches!(self.connecting.as_deref(), Some(Connecting::InFlight(..)))
            || self.listening.as_ref().is_some_and(|listening| listening.posting.posted > 0)
    }

    pub(super) fn receive(&self, key: SocketKey) -> squeue::Entry {
        let entry = if self.bulky {
            // The kernel takes as much as the buffer holds.
            on!(&self.descriptor, |fd| opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(buffers::GROUP)
                .build())
            .flags(squeue::Flags::BUFFER_SELECT)
        } else {
            on!(&self.descriptor, |fd| opcode::RecvMulti::new(fd, buffers::GROUP).build())
        };
        entry.user_data(Tag::Receive.with(key.0))
    }

    /// A look at the front of the stream that takes nothing and does not wait.
    pub(super) fn check(&self, key: SocketKey, byte: *mut u8) -> squeue::Entry {
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        on!(&self.descriptor, |fd| opcode::Recv::new(fd, byte, 1).flags(flags).build())
            .user_data(Tag::Check.with(key.0))
    }

    /// A send of what remains of the batch in flight.
    pub(super) fn send(&mut self, key: SocketKey) -> squeue::Entry {
        let batch = self.batch.as_deref().expect("a batch is in flight");
        let lazy = batch.is_lazy();
        // One that does not wait for room ends inside the call that hands it over, and is silent if all went out.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | if lazy { libc::MSG_DONTWAIT } else { 0 };
        // One piece goes as SEND, which costs the kernel less than a gathered one.
        let entry = if let Some(piece) = batch.single() {
            let len = piece.len().min(i32::MAX as usize) as u32;
            on!(&self.descriptor, |fd| opcode::Send::new(fd, piece.as_ptr(), len).flags(flags).build())
        } else {
            let gather = self.gather.get_or_insert_with(|| {
                // SAFETY: `msghdr` is integers and pointers, for which zeros are valid.
                let header = unsafe { std::mem::zeroed() };
                Box::new(Gather { header, pieces: Vec::new() })
            });
            gather.pieces.clear();
            gather.pieces.extend(batch.slices().take(PIECES_MAX).map(|piece| libc::iovec {
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }));
            gather.header.msg_iov = gather.pieces.as_mut_ptr();
            gather.header.msg_iovlen = gather.pieces.len();
            let header = &raw const gather.header;
            on!(&self.descriptor, |fd| opcode::SendMsg::new(fd, header).flags(flags.cast_unsigned()).build())
        };
        if lazy {
            entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::LazySend.with(key.0))
        } else {
            entry.user_data(Tag::Send.with(key.0))
        }
    }

    pub(super) fn shutdown(&self, key: SocketKey) -> squeue::Entry {
        on!(&self.descriptor, |fd| opcode::Shutdown::new(fd, libc::SHUT_WR).build())
            .user_data(Tag::Shutdown.with(key.0))
    }

    /// A request that ends everything the kernel has on this socket.
    pub(super) fn cancel_all(&self) -> squeue::Entry {
        let builder = on!(&self.descriptor, |fd| types::CancelBuilder::fd(fd)).all();
        opcode::AsyncCancel2::new(builder)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Tag::Ignored.plain())
    }
}

/// A request that ends the operation with this user data.
pub(super) fn cancel(user_data: u64) -> squeue::Entry {
    opcode::AsyncCancel2::new(types::CancelBuilder::user_data(user_data))
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(Tag::Ignored.plain())
}

/// A request that frees a slot of the ring's table.
pub(super) fn close_direct(slot: u32) -> squeue::Entry {
    opcode::Close::new(types::Fixed(slot))
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(Tag::Ignored.plain())
}
