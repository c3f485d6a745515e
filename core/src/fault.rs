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
    /// The key names no socket or file of this driver, or one in the wrong state for the operation.
    InvalidSocket,
    /// Any other code; [`Fault::code`] tells which.
    Other,
    /// No space is left for a file, or it may not grow: the disk, a quota, the process's limit.
    // Last: digests of simulated runs hold the numbers of the others.
    NoSpace,
    /// A limit of our own is reached: `sessions_max`.
    AtCapacity,
}

/// What a server does about a [`Fault`]: the classes into which engines on completion ports sort their errors.
///
/// | class | what it calls for | of Windows, for instance |
/// |---|---|---|
/// | [`Timeout`](Self::Timeout) | the session ends; its peer may come again | `ERROR_SEM_TIMEOUT`, `WSAETIMEDOUT` |
/// | [`Recoverable`](Self::Recoverable) | the same thing again, a little later | `WSAENOBUFS`, `WSAEMFILE` |
/// | [`PeerGone`](Self::PeerGone) | the session ends, and that is ordinary | `ERROR_NETNAME_DELETED`, `ERROR_CONNECTION_REFUSED` |
/// | [`Aborted`](Self::Aborted) | nothing: we wanted it | `ERROR_OPERATION_ABORTED` |
/// | [`PortClosed`](Self::PortClosed) | nothing more on this socket or driver | `ERROR_ABANDONED_WAIT_0`, `WSAENOTSOCK` |
/// | [`Unexpected`](Self::Unexpected) | somebody should read the log | any other |
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultClass {
    /// Time ran out: the peer, or the network, did not answer.
    Timeout,
    /// A shortage that passes: the same call may succeed in a moment.
    Recoverable,
    /// The other end is not there, or not any more.
    PeerGone,
    /// We gave the operation up ourselves.
    Aborted,
    /// The socket, or the driver that had it, is closed.
    PortClosed,
    /// None of these: set-up, permission, or a code that nobody has met.
    Unexpected,
}

impl FaultKind {
    /// What a server does about it.
    pub const fn class(self) -> FaultClass {
        match self {
            Self::TimedOut => FaultClass::Timeout,
            Self::NoDescriptors | Self::NoMemory | Self::AddressInUse | Self::AtCapacity => {
                FaultClass::Recoverable
            }
            Self::PeerReset | Self::Refused | Self::Unreachable => FaultClass::PeerGone,
            Self::Cancelled => FaultClass::Aborted,
            Self::InvalidSocket => FaultClass::PortClosed,
            Self::AddressNotAvailable | Self::NotPermitted | Self::Other | Self::NoSpace => {
                FaultClass::Unexpected
            }
        }
    }
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
            FaultKind::InvalidSocket => "no such socket or file, or not in a state for this",
            FaultKind::Other => "system error",
            FaultKind::AtCapacity => "there are as many sessions as sessions_max allows",
            FaultKind::NoSpace => "no space left for the file (disk, quota, or the limit `ulimit -f`)",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_kind_and_a_shortage_is_recoverable() {
        for (kind, class) in [
            (FaultKind::TimedOut, FaultClass::Timeout),
            (FaultKind::NoMemory, FaultClass::Recoverable),
            (FaultKind::AddressInUse, FaultClass::Recoverable),
            (FaultKind::PeerReset, FaultClass::PeerGone),
            (FaultKind::Refused, FaultClass::PeerGone),
            (FaultKind::Cancelled, FaultClass::Aborted),
            (FaultKind::InvalidSocket, FaultClass::PortClosed),
            (FaultKind::Other, FaultClass::Unexpected),
        ] {
            assert_eq!(kind.class(), class, "{kind:?}");
        }
        let shortage = Fault::of(FaultKind::NoDescriptors);
        assert!(shortage.is_shortage() && shortage.kind.class() == FaultClass::Recoverable);
    }
}
