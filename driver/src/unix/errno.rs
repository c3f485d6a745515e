//! Error codes of Unix in the classes of a [`Fault`].

use anyport_core::{Fault, FaultKind};
use rustix::io::Errno;

/// The class of an error code.
#[cfg_attr(guard_pages, track_caller)]
pub(crate) fn fault(errno: Errno) -> Fault {
    #[cfg(guard_pages)]
    assert!(errno != Errno::FAULT, "the kernel was given memory that had been freed (EFAULT)");
    let kind = match errno {
        Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN => FaultKind::PeerReset,
        Errno::CONNREFUSED => FaultKind::Refused,
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN => FaultKind::Unreachable,
        Errno::TIMEDOUT => FaultKind::TimedOut,
        Errno::CANCELED => FaultKind::Cancelled,
        Errno::MFILE | Errno::NFILE => FaultKind::NoDescriptors,
        Errno::NOBUFS | Errno::NOMEM => FaultKind::NoMemory,
        Errno::ADDRINUSE => FaultKind::AddressInUse,
        Errno::ADDRNOTAVAIL => FaultKind::AddressNotAvailable,
        Errno::PERM | Errno::ACCESS => FaultKind::NotPermitted,
        Errno::BADF => FaultKind::InvalidSocket,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FaultKind::NoSpace,
        _ => FaultKind::Other,
    };
    Fault::new(kind, errno.raw_os_error())
}

/// The class of the error code of a connect.
#[cfg_attr(guard_pages, track_caller)]
pub(crate) fn fault_of_connect(errno: Errno) -> Fault {
    match errno {
        // A Unix socket that has no file has no listener either.
        Errno::NOENT => Fault::new(FaultKind::Refused, errno.raw_os_error()),
        errno => fault(errno),
    }
}

#[cfg(all(test, guard_pages))]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "memory that had been freed")]
    fn with_guard_pages_a_bad_address_is_a_bug() {
        fault(Errno::FAULT);
    }
}
