//! The memory of the receive buffers: one mapping.

use std::{io, ptr::NonNull};

/// Anonymous memory; untouched pages cost nothing.
pub(super) struct Mapping {
    pub(super) at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches nothing else.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: NonNull::new(at.cast()).expect("the kernel maps nothing at 0"), len })
    }

    /// Gives the memory up for good: it is never unmapped.
    pub(super) fn leak(&mut self) {
        self.len = 0;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: `at` and `len` are those of our own mapping; the owner drops it only after the kernel and
        // every lease have let go.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// The memory of all buffers.
#[cfg(not(guard_pages))]
pub(super) struct Memory {
    mapping: Mapping,
    buffer_bytes: u32,
}

#[cfg(not(guard_pages))]
impl Memory {
    pub(super) fn new(count: usize, buffer_bytes: usize) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::new(count * buffer_bytes)?, buffer_bytes: buffer_bytes as u32 })
    }

    /// Where a byte of a buffer lies.
    pub(super) fn at(&self, buffer: usize, offset: u32) -> NonNull<u8> {
        let offset = buffer * self.buffer_bytes as usize + offset as usize;
        // SAFETY: the owner names pieces inside the mapping only: it made as many buffers of that size as fit.
        unsafe { self.mapping.at.add(offset) }
    }

    /// Gives the memory up for good.
    pub(super) fn leak(&mut self) {
        self.mapping.leak();
    }
}
