//! Address space that is given out once: spans of pages, each followed by pages that nobody may touch.

#![allow(unsafe_code, reason = "mapping memory and taking its permissions away")]

use std::{
    ptr::{self, NonNull},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Pages of this size or a part of it: what x86-64 has, and the smallest that others have.
pub(crate) const PAGE_BYTES: usize = 4 << 10;
/// Address space reserved, an eighth of what a process has: two thousand million small allocations.
const RESERVED_BYTES: usize = 16 << 40;

/// Where the reserved addresses begin; 0 if the system gives none.
static RESERVED: OnceLock<usize> = OnceLock::new();
/// Bytes of it that were given out.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Inaccessible pages, at an address of the system's choice or in place of what was `there`.
fn map_inaccessible(there: Option<NonNull<u8>>, len: usize) -> Option<NonNull<u8>> {
    let fixed = if there.is_some() { libc::MAP_FIXED } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    let hint = there.map_or(ptr::null_mut(), |there| there.as_ptr().cast());
    // SAFETY: a new mapping at a free address, or over a span of our own reservation that was given back.
    let at = unsafe { libc::mmap(hint, len, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast()) }
}

fn reserved() -> usize {
    *RESERVED.get_or_init(|| map_inaccessible(None, RESERVED_BYTES).map_or(0, |at| at.as_ptr().addr()))
}

/// True if `at` is one of the reserved addresses, in use or not.
pub(crate) fn is_ours(at: *const u8) -> bool {
    let reserved = reserved();
    reserved != 0 && (reserved..reserved + RESERVED_BYTES).contains(&at.addr())
}

/// Zeroed pages that can be used, `len` bytes of them, with `behind` bytes that nobody may touch behind. `None` if the
/// system refuses (a process has a bounded number of mappings), or all addresses are used up.
pub(crate) fn take(len: usize, behind: usize) -> Option<NonNull<u8>> {
    debug_assert!(
        len.is_multiple_of(PAGE_BYTES) && behind.is_multiple_of(PAGE_BYTES),
        "spans are whole pages"
    );
    let reserved = reserved();
    let all = len.checked_add(behind)?;
    let offset = TAKEN.fetch_add(all, Ordering::Relaxed);
    if reserved == 0 || offset.checked_add(all)? > RESERVED_BYTES {
        return None;
    }
    let at = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(reserved + offset))?;
    // SAFETY: the span lies in our own reservation, and was given to nobody else.
    let result = unsafe { libc::mprotect(at.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_WRITE) };
    (result == 0).then_some(at)
}

/// Makes a span from [`take`] inaccessible for good, and gives its memory back to the system. False if the system
/// refuses.
///
/// # Safety
/// The span is the caller's, who does not use it any more.
pub(crate) unsafe fn give_back(at: NonNull<u8>, len: usize) -> bool {
    // A fresh mapping, unlike a change of permissions, becomes one with the inaccessible ones around it.
    map_inaccessible(Some(at), len).is_some()
}
