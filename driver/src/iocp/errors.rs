//! Error codes of Windows in the classes of a [`Fault`] (mission row C7).
//!
//! A code reaches us in two spellings: calls fail with a Winsock code (10054), packets carry an NTSTATUS that
//! translates to a Win32 code (64). Both spellings of a cause are in the same class.

use std::io;

use anyport_core::{Fault, FaultKind};
use windows_sys::Win32::{
    Foundation::{
        ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_COMMITMENT_LIMIT, ERROR_CONNECTION_ABORTED,
        ERROR_CONNECTION_INVALID, ERROR_CONNECTION_REFUSED, ERROR_DISK_FULL, ERROR_DISK_QUOTA_EXCEEDED,
        ERROR_HANDLE_DISK_FULL, ERROR_HANDLE_EOF, ERROR_HOST_UNREACHABLE, ERROR_INVALID_HANDLE,
        ERROR_NETNAME_DELETED, ERROR_NETWORK_UNREACHABLE, ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY,
        ERROR_NOT_ENOUGH_QUOTA, ERROR_OPERATION_ABORTED, ERROR_OUTOFMEMORY, ERROR_PIPE_NOT_CONNECTED,
        ERROR_PORT_UNREACHABLE, ERROR_SEM_TIMEOUT, ERROR_TOO_MANY_OPEN_FILES, ERROR_WORKING_SET_QUOTA,
        NTSTATUS, RtlNtStatusToDosError,
    },
    Networking::WinSock::{
        WSAEACCES, WSAEADDRINUSE, WSAEADDRNOTAVAIL, WSAECONNABORTED, WSAECONNREFUSED, WSAECONNRESET,
        WSAEHOSTUNREACH, WSAEMFILE, WSAENETDOWN, WSAENETRESET, WSAENETUNREACH, WSAENOBUFS, WSAENOTCONN,
        WSAENOTSOCK, WSAESHUTDOWN, WSAETIMEDOUT,
    },
};

/// The fault of a Winsock or Win32 code.
pub(super) fn fault(code: i32) -> Fault {
    let kind = match code {
        WSAECONNRESET | WSAECONNABORTED | WSAENETRESET | WSAENOTCONN | WSAESHUTDOWN => FaultKind::PeerReset,
        WSAECONNREFUSED => FaultKind::Refused,
        WSAENETUNREACH | WSAEHOSTUNREACH | WSAENETDOWN => FaultKind::Unreachable,
        WSAETIMEDOUT => FaultKind::TimedOut,
        WSAEMFILE => FaultKind::NoDescriptors,
        WSAENOBUFS => FaultKind::NoMemory,
        WSAEADDRINUSE => FaultKind::AddressInUse,
        WSAEADDRNOTAVAIL => FaultKind::AddressNotAvailable,
        WSAEACCES => FaultKind::NotPermitted,
        WSAENOTSOCK => FaultKind::InvalidSocket,
        _ => match code.cast_unsigned() {
            ERROR_NETNAME_DELETED
            | ERROR_CONNECTION_ABORTED
            | ERROR_CONNECTION_INVALID
            | ERROR_BROKEN_PIPE
            | ERROR_PIPE_NOT_CONNECTED
            | ERROR_HANDLE_EOF => FaultKind::PeerReset,
            ERROR_CONNECTION_REFUSED => FaultKind::Refused,
            ERROR_NETWORK_UNREACHABLE | ERROR_HOST_UNREACHABLE | ERROR_PORT_UNREACHABLE => {
                FaultKind::Unreachable
            }
            ERROR_SEM_TIMEOUT => FaultKind::TimedOut,
            ERROR_OPERATION_ABORTED => FaultKind::Cancelled,
            ERROR_TOO_MANY_OPEN_FILES => FaultKind::NoDescriptors,
            ERROR_NOT_ENOUGH_MEMORY
            | ERROR_OUTOFMEMORY
            | ERROR_NO_SYSTEM_RESOURCES
            | ERROR_WORKING_SET_QUOTA
            | ERROR_COMMITMENT_LIMIT
            | ERROR_NOT_ENOUGH_QUOTA => FaultKind::NoMemory,
            ERROR_ACCESS_DENIED => FaultKind::NotPermitted,
            ERROR_DISK_FULL | ERROR_HANDLE_DISK_FULL | ERROR_DISK_QUOTA_EXCEEDED => FaultKind::NoSpace,
            ERROR_INVALID_HANDLE => FaultKind::InvalidSocket,
            _ => FaultKind::Other,
        },
    };
    Fault::new(kind, code)
}

/// The fault of a call that failed.
pub(crate) fn fault_of(error: &io::Error) -> Fault {
    error.raw_os_error().map_or(Fault::of(FaultKind::Other), fault)
}

/// The fault of the call that has just failed on this thread.
pub(super) fn last_fault() -> Fault {
    fault_of(&io::Error::last_os_error())
}

/// What became of an operation, from the status that its packet carries.
pub(super) fn outcome(status: NTSTATUS) -> Result<(), Fault> {
    if status >= 0 {
        return Ok(());
    }
    // SAFETY: a translation of numbers.
    let code = unsafe { RtlNtStatusToDosError(status) };
    Err(fault(code.cast_signed()))
}

/// True for a shortage of the system: better after a while.
pub(super) fn is_shortage(fault: Fault) -> bool {
    matches!(fault.kind, FaultKind::NoDescriptors | FaultKind::NoMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_cause_are_in_one_class() {
        let pairs = [
            (10054, 64, FaultKind::PeerReset),
            (10053, 1236, FaultKind::PeerReset),
            (10061, 1225, FaultKind::Refused),
            (10051, 1231, FaultKind::Unreachable),
            (10065, 1232, FaultKind::Unreachable),
            (10060, 121, FaultKind::TimedOut),
            (10024, 4, FaultKind::NoDescriptors),
            (10055, 1450, FaultKind::NoMemory),
            (10013, 5, FaultKind::NotPermitted),
            (10038, 6, FaultKind::InvalidSocket),
        ];
        for (winsock, win32, kind) in pairs {
            assert_eq!((fault(winsock).kind, fault(win32).kind), (kind, kind), "{winsock} and {win32}");
            assert_eq!((fault(winsock).code, fault(win32).code), (winsock, win32));
        }
        assert_eq!((fault(995).kind, fault(87).kind), (FaultKind::Cancelled, FaultKind::Other));
    }

    #[test]
    fn a_status_is_translated() {
        const STATUS_CONNECTION_RESET: NTSTATUS = 0xC000_020D_u32.cast_signed();
        const STATUS_CANCELLED: NTSTATUS = 0xC000_0120_u32.cast_signed();
        assert_eq!(outcome(0), Ok(()));
        assert_eq!(outcome(STATUS_CONNECTION_RESET).unwrap_err().kind, FaultKind::PeerReset);
        assert_eq!(outcome(STATUS_CANCELLED).unwrap_err().kind, FaultKind::Cancelled);
    }
}
