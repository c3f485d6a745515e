//! What crosses a link. A socket has a number here, its name: the logic thread gives it and takes it back.
//!
//! Both directions keep their order, and a name is free again only when the I/O side has said `Closed`. So a name
//! needs no generation, and connections that were accepted need none at all until they are named, in the order in
//! which they came.

use std::{path::PathBuf, sync::mpsc::Sender};

use anyport_core::{Fault, FaultKind};

use crate::{
    address::{Address, PeerAddress},
    options::{FileOptions, ListenOptions, SocketOptions},
    types::{Detached, FileKey, Op, OpKind, Outcome, Received, SocketKey},
};

/// From the logic thread to an I/O shard.
pub(super) enum Order {
    /// Start an operation. The key in it is the relay's own and says nothing here.
    Submit { socket: u32, op: Op },
    /// Ask for the end of one.
    Cancel { socket: u32, kind: OpKind },
    /// The accepted connection that has waited longest for a name has this one.
    Name { socket: u32 },
    /// The accepted connection that has waited longest for a name gets none: close it.
    Refuse,
    /// Open a socket of this name.
    Open { socket: u32, to: Box<(Address, SocketOptions)> },
    /// Start an operation on a file, which has the real driver's own key. The outcome bears the number.
    File { number: u32, op: Op },
    /// The door has this name.
    Claim { socket: u32 },
    /// Something that is waited for.
    Call(Box<Call>),
    /// A buffer comes back.
    Return(Vec<u8>),
}

/// Something that the logic thread waits for.
pub(super) enum Call {
    Listen { socket: u32, address: Address, options: ListenOptions, answer: Sender<std::io::Result<Address>> },
    OpenFile { path: PathBuf, options: FileOptions, answer: Sender<std::io::Result<(FileKey, u64)>> },
    Detach { socket: u32, answer: Sender<Option<Detached>> },
    Adopt { socket: u32, detached: Detached, answer: Sender<bool> },
}

/// From an I/O shard to the logic thread.
pub(super) enum News {
    /// The bytes of the `pieces` next [`Data`](Self::Data), one behind the other.
    Buffer { bytes: Vec<u8>, pieces: u32 },
    /// So many bytes of the last buffer are of this socket.
    Data { socket: u32, len: u32 },
    /// A connection came. It waits for its name.
    Accepted { listener: u32, peer: PeerAddress },
    /// Any other outcome of a socket.
    Outcome { socket: u32, outcome: Outcome },
    /// What became of the operation on a file that had this number.
    File { number: u32, outcome: Outcome },
    /// There is a listener at this address that hands over what it accepts: it waits to be claimed.
    Door { address: Box<Address> },
    /// Buffers have run out: send back what can be, at once.
    Starving,
}

/// The socket that an operation is on; `None` for one on a file.
pub(super) fn socket_of(op: &Op) -> Option<SocketKey> {
    match op {
        Op::Accept { listener: socket }
        | Op::Connect { socket }
        | Op::Receive { socket }
        | Op::Send { socket, .. }
        | Op::Shutdown { socket }
        | Op::Close { socket } => Some(*socket),
        Op::Append { .. } | Op::Sync { .. } | Op::Rotate { .. } | Op::CloseFile { .. } => None,
    }
}

/// The same operation on a socket of another driver.
pub(super) fn moved_to(op: Op, socket: SocketKey) -> Op {
    match op {
        Op::Accept { .. } => Op::Accept { listener: socket },
        Op::Connect { .. } => Op::Connect { socket },
        Op::Receive { .. } => Op::Receive { socket },
        Op::Send { mut batch, .. } => {
            // Whom its end lets go on has turns of its own, of which the driver here knows nothing.
            batch.set_lazy(false);
            Op::Send { socket, batch }
        }
        Op::Shutdown { .. } => Op::Shutdown { socket },
        Op::Close { .. } => Op::Close { socket },
        op @ (Op::Append { .. } | Op::Sync { .. } | Op::Rotate { .. } | Op::CloseFile { .. }) => op,
    }
}

/// The end of a receive that was cancelled.
pub(super) fn receive_cancelled() -> Outcome {
    Outcome::Received(Received::Failed(Fault::of(FaultKind::Cancelled)))
}
