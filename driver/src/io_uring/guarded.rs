//! What builds with guard pages (`--cfg guard_pages`, see `docs/guard-pages.md`) do otherwise.
//!
//! Each receive buffer is an allocation of its own. When a buffer is free, its memory is freed, and new memory is
//! offered to the kernel under its number; the allocator that such tests install makes freed memory
//! inaccessible for good. A piece of a buffer that comes back while the kernel still fills the rest is poisoned.

use std::{io, ptr::NonNull};

use rustix::io::Errno;

#[cfg(test)]
mod tests;

use super::tag::Tag;

/// What stands in a piece that came back.
const POISON: u8 = 0xDE;
/// Bytes that are compared at a time.
const COMPARED_BYTES: usize = 1 << 10;

/// True if buffers are not to be consumed piece by piece, though the kernel can: then every lease that comes back is a
/// whole buffer, and inaccessible at once. It is also what the driver does before Linux 6.12.
pub(super) fn takes_whole_buffers() -> bool {
    std::env::var_os("ANYPORT_WHOLE_BUFFERS").is_some()
}

/// The driver gives the kernel no address of freed memory: this would be the one bug that guard pages are for.
///
/// # Panics
/// If the kernel found memory inaccessible.
pub(super) fn refuse_freed(tag: Tag, result: i32) {
    if result == -Errno::FAULT.raw_os_error() {
        let text = format!("{tag:?}: the kernel was given memory that had been freed (EFAULT)");
        // A second panic would hide the first.
        if std::thread::panicking() { eprintln!("{text}") } else { panic!("{text}") }
    }
}

/// The memory of all buffers.
pub(super) struct Memory {
    buffers: Vec<Vec<u8>>,
    /// Where they begin: the kernel writes by this address, so we read by it, too.
    begins: Vec<NonNull<u8>>,
}

impl Memory {
    #[expect(clippy::unnecessary_wraps, reason = "a mapping can fail, and this stands in its place")]
    pub(super) fn new(count: usize, buffer_bytes: usize, _huge_pages: bool) -> io::Result<Self> {
        let mut buffers: Vec<_> = (0..count).map(|_| vec![0; buffer_bytes]).collect();
        let begins = buffers.iter_mut().map(begin).collect();
        Ok(Self { buffers, begins })
    }

    /// Where a byte of a buffer lies.
    pub(super) fn at(&self, buffer: usize, offset: u32) -> NonNull<u8> {
        // SAFETY: the owner names pieces inside a buffer only.
        unsafe { self.begins[buffer].add(offset as usize) }
    }

    /// A piece came back.
    pub(super) fn poison(&mut self, buffer: usize, offset: u32, len: u32) {
        // SAFETY: the piece was leased and came back, so it is inside the buffer and nobody's; the kernel writes
        // behind it.
        unsafe { self.at(buffer, offset).write_bytes(POISON, len as usize) };
    }

    /// Every piece of the first `filled` bytes came back, and the kernel has finished with the buffer: frees its memory
    /// and takes new.
    ///
    /// # Panics
    /// If someone wrote to a piece after it came back, or the kernel wrote more than it said.
    pub(super) fn renew(&mut self, buffer: usize, filled: u32) {
        let (came_back, rest) = self.buffers[buffer].split_at(filled as usize);
        let touched = first_other(came_back, &[POISON; COMPARED_BYTES]);
        assert_eq!(touched, None, "receive buffer {buffer}: this byte was written to after it came back");
        let touched = first_other(rest, &[0; COMPARED_BYTES]);
        assert_eq!(touched, None, "receive buffer {buffer}: the kernel wrote this byte and did not say so");
        self.replace(buffer);
    }

    fn replace(&mut self, buffer: usize) {
        self.buffers[buffer] = vec![0; self.buffers[buffer].len()];
        self.begins[buffer] = begin(&mut self.buffers[buffer]);
    }

    /// Gives the memory up for good.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.buffers));
    }
}

/// Where the first byte is that is not as in `pattern`, of which all bytes are alike. By pieces, because these are whole
/// comparisons in memory, also in a debug build.
fn first_other(bytes: &[u8], pattern: &[u8; COMPARED_BYTES]) -> Option<usize> {
    let at = bytes.chunks(COMPARED_BYTES).position(|piece| *piece != pattern[..piece.len()])?;
    let inside = bytes[at * COMPARED_BYTES..].iter().position(|&byte| byte != pattern[0])?;
    Some(at * COMPARED_BYTES + inside)
}

fn begin(buffer: &mut Vec<u8>) -> NonNull<u8> {
    NonNull::new(buffer.as_mut_ptr()).expect("a vector's memory is not at 0")
}
