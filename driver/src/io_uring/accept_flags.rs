//! Accepts that wait before they are tried, and accepts that are tried and do not wait.
//!
//! The kernel tries an accept when it is submitted, and lets it wait if nobody is there. It has made a socket and a file by
//! then, and unmakes them: 2 µs of the 21 µs that all of a connection costs a bare loop, from its first packet to its last
//! (Linux 6.18, `docs/measurements.md`). So one accept waits for whoever comes, and is not tried before; those who stand
//! in the queue behind him are accepted by as many that do not wait.

use io_uring::squeue::Entry;

/// `IORING_ACCEPT_DONTWAIT`, Linux 6.10.
const AT_ONCE: u16 = 1 << 1;
/// `IORING_ACCEPT_POLL_FIRST`, Linux 6.10.
const WAIT_FIRST: u16 = 1 << 2;

const _: () = assert!(size_of::<Entry>() == 64, "struct io_uring_sqe of the kernel");

/// An accept that waits before it is tried. If somebody is there, waiting ends at once.
pub(super) fn wait_first(entry: Entry) -> Entry {
    with_flags(entry, WAIT_FIRST)
}

/// An accept that does not wait: if nobody is there it fails with `EAGAIN`.
pub(super) fn at_once(entry: Entry) -> Entry {
    with_flags(entry, AT_ONCE)
}

/// Sets the operation's own flags, for which the entry has no method: its bytes 2 and 3, after the operation and the flags
/// that all operations have.
fn with_flags(mut entry: Entry, flags: u16) -> Entry {
    let at = (&raw mut entry).cast::<u16>().wrapping_add(1);
    // SAFETY: an entry is `struct io_uring_sqe`, integers alone, in C's layout; it is ours, and these are its bytes.
    unsafe { at.write(flags) };
    entry
}

#[cfg(test)]
mod tests {
    use io_uring::{opcode, types::Fd};

    use super::*;

    fn bytes(entry: Entry) -> [u8; 64] {
        // SAFETY: an entry is 64 bytes of integers, without gaps.
        unsafe { std::mem::transmute(entry) }
    }

    #[test]
    fn the_flags_are_where_the_kernel_reads_them() {
        let receive = |flags| opcode::Recv::new(Fd(3), std::ptr::null_mut(), 7).ioprio(flags).build();
        for flags in [0, AT_ONCE, WAIT_FIRST, u16::MAX] {
            assert_eq!(bytes(with_flags(receive(0), flags)), bytes(receive(flags)), "{flags:#x}");
        }
    }
}
