//! The memory of the receive buffers: one mapping.

#[cfg(not(guard_pages))]
use std::num::NonZero;
use std::{io, ptr::NonNull};

/// What a huge page is aligned to: its size on all common systems.
#[cfg(not(guard_pages))]
const HUGE_PAGE: usize = 2 << 20;

/// Anonymous memory; untouched pages cost nothing.
pub(super) struct Mapping {
    pub(super) at: NonNull<u8>,
    /// Where the mapping begins: at `at`, or before it with what is unused.
    begin: NonNull<u8>,
    /// Bytes of the whole mapping; none if it was given up.
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
        let begin = NonNull::new(at.cast()).expect("the kernel maps nothing at 0");
        Ok(Self { at: begin, begin, len })
    }

    /// Memory for which the kernel is asked for huge pages. It may have none: then it is as any other.
    #[cfg(not(guard_pages))]
    fn of_huge_pages(len: usize) -> io::Result<Self> {
        let len = len.next_multiple_of(HUGE_PAGE);
        let mut mapping = Self::new(len + HUGE_PAGE)?;
        let aligned = |at: NonZero<usize>| {
            NonZero::new(at.get().next_multiple_of(HUGE_PAGE))
                .expect("a mapping does not end beyond all memory")
        };
        // Less than one huge page on, by which the mapping is longer than asked for.
        mapping.at = mapping.begin.map_addr(aligned);
        // SAFETY: `len` bytes from `at` on are of our own mapping; the advice changes no byte of them.
        unsafe { libc::madvise(mapping.at.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        Ok(mapping)
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
        // SAFETY: `begin` and `len` are those of our own mapping; the owner drops it only after the kernel and
        // every lease have let go.
        unsafe { libc::munmap(self.begin.as_ptr().cast(), self.len) };
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
    pub(super) fn new(count: usize, buffer_bytes: usize, huge_pages: bool) -> io::Result<Self> {
        let len = count * buffer_bytes;
        let mapping = if huge_pages { Mapping::of_huge_pages(len)? } else { Mapping::new(len)? };
        Ok(Self { mapping, buffer_bytes: buffer_bytes as u32 })
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

#[cfg(all(test, not(guard_pages)))]
mod tests {
    use super::*;

    #[test]
    fn memory_of_huge_pages_is_aligned_and_all_of_it_can_be_written() {
        for (count, bytes) in [(1, 1), (64, 64 << 10), (3, (1 << 20) + 1)] {
            let memory = Memory::new(count, bytes, true).unwrap();
            assert_eq!(memory.at(0, 0).addr().get() % HUGE_PAGE, 0);
            for buffer in 0..count {
                for offset in [0, bytes - 1] {
                    let at = memory.at(buffer, offset as u32);
                    // SAFETY: a byte of the mapping, which nobody else knows.
                    unsafe { at.write(buffer as u8) };
                    // SAFETY: the same byte.
                    assert_eq!(unsafe { at.read() }, buffer as u8);
                }
            }
        }
    }
}
