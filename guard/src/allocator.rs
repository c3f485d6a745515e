//! The allocator over the pages.

#![allow(unsafe_code, reason = "an allocator")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::pages::{self, PAGE_BYTES};

/// Linux gives a process 65,530 mappings. An allocation with an inaccessible page behind it is two: so many may be
/// in use at one time.
const FENCED_MAX: usize = 16 << 10;
/// What is more has no page behind it, so that neighbours are one mapping until they are freed. So many in all; what
/// is more still comes from the system's allocator. A backtrace with names, of a test that panics, takes tens of
/// thousands.
const LIVE_MAX: usize = 1 << 20;
/// What stands in the page around an allocation, and must still stand there when it is freed.
const CANARY: u8 = 0xCA;
/// As much of it as an allocation can have on one side: less than a page.
static CANARIES: [u8; PAGE_BYTES] = [CANARY; PAGE_BYTES];

static LIVE: AtomicUsize = AtomicUsize::new(0);
static GUARDED: AtomicUsize = AtomicUsize::new(0);
static UNGUARDED: AtomicUsize = AtomicUsize::new(0);

/// What the allocator did in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Guarded allocations that are in use.
    pub live: usize,
    /// Guarded allocations made.
    pub guarded: usize,
    /// Allocations for which there was no guard, or that stayed accessible when they were freed: too many mappings.
    pub unguarded: usize,
}

/// The counts of this process, all 0 if the allocator is not installed.
pub fn counts() -> Counts {
    Counts {
        live: LIVE.load(Ordering::Relaxed),
        guarded: GUARDED.load(Ordering::Relaxed),
        unguarded: UNGUARDED.load(Ordering::Relaxed),
    }
}

/// The allocator: see the [crate's docs](crate).
#[derive(Clone, Copy, Debug)]
pub struct Guarding;

/// Whole pages for `size` bytes.
fn span_of(size: usize) -> Option<usize> {
    size.checked_next_multiple_of(PAGE_BYTES)
}

/// A guarded allocation, zeroed; `None` if there can be none.
fn guarded(layout: Layout) -> Option<NonNull<u8>> {
    let span = span_of(layout.size()).filter(|_| layout.align() <= PAGE_BYTES)?;
    let live = LIVE.fetch_add(1, Ordering::Relaxed);
    if live >= LIVE_MAX {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    let behind = if live < FENCED_MAX { PAGE_BYTES } else { 0 };
    let Some(base) = pages::take(span, behind) else {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        return None;
    };
    GUARDED.fetch_add(1, Ordering::Relaxed);
    // As near to the inaccessible page as the alignment allows.
    let before = (span - layout.size()) & !(layout.align() - 1);
    for (from, to) in [(0, before), (before + layout.size(), span)] {
        // SAFETY: `from` is at most the span, which is ours.
        let at = unsafe { base.add(from) };
        // SAFETY: `from..to` lies inside the span, which is ours and writable.
        unsafe { at.write_bytes(CANARY, to - from) };
    }
    // SAFETY: `before` is less than the span.
    Some(unsafe { base.add(before) })
}

/// Ends the process: an allocator may not panic.
fn die(text: &str) -> ! {
    // SAFETY: the bytes are those of `text`; the descriptor is standard error.
    let _ = unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    std::process::abort();
}

// SAFETY: guarded memory is a span of pages that nobody else has, aligned as asked, until it is freed; everything else
// is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Guarding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same promise.
        unsafe { self.alloc_zeroed(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(at) = guarded(layout) {
            return at.as_ptr();
        }
        UNGUARDED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise about the layout is the one that `System` asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if !pages::is_ours(at) {
            // SAFETY: what is not ours came from `System`, with this layout.
            return unsafe { System.dealloc(at, layout) };
        }
        let Some(span) = span_of(layout.size()) else { die("guard: this was never allocated\n") };
        let before = at.addr() % PAGE_BYTES;
        // An allocation begins in the first page of its span.
        let Some(base) = NonNull::new(at.wrapping_sub(before)) else { die("guard: null was freed\n") };
        // SAFETY: one byte of an allocation that the caller still has. Freed twice, it is not there: this faults.
        unsafe { at.read_volatile() };
        // SAFETY: the span is ours, readable and initialised: pages begin zeroed.
        let bytes = unsafe { std::slice::from_raw_parts(base.as_ptr(), span) };
        let (slack, after) = (&bytes[..before], &bytes[before + layout.size()..]);
        if *slack != CANARIES[..slack.len()] || *after != CANARIES[..after.len()] {
            die("guard: someone wrote just outside of an allocation\n");
        }
        // SAFETY: the caller gives the allocation up, and nothing else is in its span.
        if !unsafe { pages::give_back(base, span) } {
            // Nobody gets these addresses again: nothing breaks, but a late use would not be found.
            UNGUARDED.fetch_add(1, Ordering::Relaxed);
        }
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}
