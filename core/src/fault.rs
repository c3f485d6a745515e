//! What the operating system said went wrong, in the classes that a server acts upon.

use std::fmt;

/// The class of a [`Fault`]. Every driver maps its system's codes to these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultKind {
    /// The peer reset the connection, or is gone while we were sending.
    PeerReset,
    /// Nobody listens at the address.
    Refused,
    /// The network or the host cannot be reached.
    Unreachable,
    /// The peer did not answer in time.
    TimedOut,
    /// We cancelled the operation ourselves.
    Cancelled,
    /// The process or the system has no free descriptor.
    NoDescriptors,
    /// The system has no memory or buffer for this.
    NoMemory,
    /// The address is in use, or there is no free local port.
    AddressInUse,
    /// The address is not one of this machine.
    AddressNotAvailable,
    /// The system forbids it.
    NotPermitted,
    /// The socket key names no socket of this driver, or one in the wrong state for the operation.
    InvalidSocket,
    /// Any other code; [`Fault::code`] tells which.
    Other,
}

/// One failure as a driver reports it: the class, and the system's own code for a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What to act upon.
    pub kind: FaultKind,
    /// The system's code (errno, or a Windows error), 0 where no system was asked.
    pub code: i32,
}

impl Fault {
    /// A fault with the system's code.
    pub const fn new(kind: FaultKind, code: i32) -> Self {
        Self { kind, code }
    }

    /// A fault that no system call reported.
    pub const fn of(kind: FaultKind) -> Self {
        Self { kind, code: 0 }
    }

    /// True for a shortage that passes: more descriptors or memory may be free in a moment.
    pub fn is_shortage(self) -> bool {
        matches!(self.kind, FaultKind::NoDescriptors | FaultKind::NoMemory)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.kind {
            FaultKind::PeerReset => "the peer reset the connection",
            FaultKind::Refused => "connection refused: nobody listens at that address",
            FaultKind::Unreachable => "the network or host cannot be reached",
            FaultKind::TimedOut => "the peer did not answer in time",
            FaultKind::Cancelled => "cancelled",
            FaultKind::NoDescriptors => "no free descriptor (raise the open-files limit)",
            FaultKind::NoMemory => "the system is out of memory or buffers",
            FaultKind::AddressInUse => "address in use",
            FaultKind::AddressNotAvailable => "not an address of this machine",
            FaultKind::NotPermitted => "not permitted",
            FaultKind::InvalidSocket => "no such socket, or not in a state for this",
            FaultKind::Other => "system error",
        };
        if self.code == 0 { f.write_str(text) } else { write!(f, "{text} (os error {})", self.code) }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.code)
    }
}

impl std::error::Error for Fault {}
