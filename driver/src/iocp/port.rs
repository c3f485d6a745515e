//! The completion port: `CreateIoCompletionPort`, `GetQueuedCompletionStatusEx`, `PostQueuedCompletionStatus`.
//!
//! One port a shard, and one thread that takes from it. The concurrency value is 1 for that reason; it would say
//! how many threads may run at once, and there is no second.

use std::{
    io,
    os::windows::io::{AsRawHandle, AsRawSocket, FromRawHandle, OwnedHandle},
    ptr,
    time::Duration,
};

use socket2::Socket;
use windows_sys::Win32::{
    Foundation::{INVALID_HANDLE_VALUE, WAIT_TIMEOUT},
    Storage::FileSystem::SetFileCompletionNotificationModes,
    System::{
        IO::{
            CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY, PostQueuedCompletionStatus,
        },
        WindowsProgramming::{FILE_SKIP_COMPLETION_PORT_ON_SUCCESS, FILE_SKIP_SET_EVENT_ON_HANDLE},
    },
};

/// The completion key of every socket: what a packet is about stands in the slot that its OVERLAPPED is part of.
const OPERATION: usize = 1;
/// The completion key of a packet that was posted only to end a wait.
const WAKE: usize = 0;
/// Packets taken with one call.
const PACKETS_MAX: usize = 1024;

/// A completion port.
pub(super) struct Port(OwnedHandle);

impl Port {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: makes a new port; nothing is associated with it yet.
        let handle = unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, 1) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was made above, and nobody else has it.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    /// Packets of operations on this socket come here from now on, for as long as the socket lives: Windows
    /// associates once.
    pub(super) fn associate(&self, socket: &Socket) -> io::Result<()> {
        let handle = socket.as_raw_socket() as usize as _;
        // SAFETY: both handles are borrowed and open.
        let port = unsafe { CreateIoCompletionPort(handle, self.0.as_raw_handle(), OPERATION, 0) };
        if port.is_null() { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Ends the current or the next wait.
    pub(super) fn post_wake(&self) -> io::Result<()> {
        // SAFETY: the packet points at nothing.
        let done = unsafe { PostQueuedCompletionStatus(self.0.as_raw_handle(), 0, WAKE, ptr::null()) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes the packets that are there, in the order in which they came; waits for the first at most for `pause`,
    /// without bound for `None`.
    pub(super) fn take(&self, pause: Option<Duration>, packets: &mut Packets) -> io::Result<()> {
        packets.count = 0;
        let mut count = 0;
        let room = packets.entries.len() as u32;
        // SAFETY: the entries are ours, and there are as many as is said.
        let done = unsafe {
            GetQueuedCompletionStatusEx(
                self.0.as_raw_handle(),
                packets.entries.as_mut_ptr(),
                room,
                &raw mut count,
                milliseconds(pause),
                0,
            )
        };
        if done != 0 {
            packets.count = count as usize;
            return Ok(());
        }
        // The count is not to be looked at: some systems write 1 there with a time-out.
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(WAIT_TIMEOUT.cast_signed()) => Ok(()),
            error => Err(error),
        }
    }
}

/// Whole milliseconds, rounded up, so that a wait does not spin through the last fraction.
pub(super) fn milliseconds(pause: Option<Duration>) -> u32 {
    const INFINITE: u32 = u32::MAX;
    let Some(pause) = pause else { return INFINITE };
    let millis = pause.as_nanos().div_ceil(1_000_000);
    u32::try_from(millis).unwrap_or(INFINITE).min(INFINITE - 1)
}

/// Packets that were taken.
pub(super) struct Packets {
    entries: Vec<OVERLAPPED_ENTRY>,
    count: usize,
}

impl Packets {
    pub(super) fn new() -> Self {
        Self { entries: vec![OVERLAPPED_ENTRY::default(); PACKETS_MAX], count: 0 }
    }

    /// Room for no packet.
    pub(super) fn none() -> Self {
        Self { entries: Vec::new(), count: 0 }
    }

    /// True if nothing came in time.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The packets of operations; those that only woke us carry no OVERLAPPED.
    pub(super) fn operations(&self) -> impl Iterator<Item = &OVERLAPPED_ENTRY> {
        self.entries[..self.count].iter().filter(|entry| !entry.lpOverlapped.is_null())
    }
}

/// Asks Windows to spare the packet of an operation that succeeds at once. True if it agrees.
///
/// Only for sockets whose provider makes real handles of the system: a layered one may report a success twice
/// otherwise (documented with the call).
pub(super) fn skip_packets_on_success(socket: &Socket) -> bool {
    let modes = (FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE) as u8;
    // SAFETY: the handle is borrowed and open; only how its operations report changes.
    unsafe { SetFileCompletionNotificationModes(socket.as_raw_socket() as usize as _, modes) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_never_endless_by_accident() {
        let cases = [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (15_600_000, 16)];
        for (nanos, millis) in cases {
            assert_eq!(milliseconds(Some(Duration::from_nanos(nanos))), millis);
        }
        assert_eq!(milliseconds(Some(Duration::MAX)), u32::MAX - 1);
        assert_eq!(milliseconds(None), u32::MAX);
    }

    #[test]
    fn posted_packets_come_out_and_name_no_operation() {
        let port = Port::new().unwrap();
        let mut packets = Packets::new();
        port.take(Some(Duration::ZERO), &mut packets).unwrap();
        assert_eq!(packets.count, 0);
        for _ in 0..3 {
            port.post_wake().unwrap();
        }
        port.take(None, &mut packets).unwrap();
        assert_eq!((packets.count, packets.operations().count()), (3, 0));
    }
}
