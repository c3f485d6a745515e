//! An allocator for tests: what is freed is never accessible again, to us or to the kernel.
//!
//! Every allocation has pages of its own, ends where an inaccessible page begins, and becomes inaccessible itself when
//! it is freed; its addresses are not given out again. So whoever uses it too long or beyond its end is found at
//! once: our own code dies by SIGSEGV, and a system call fails with `EFAULT` and changes nothing. Sanitizers see
//! only the first of these: what the kernel writes passes them by.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! #[global_allocator]
//! static GUARD: anyport_guard::Guarding = anyport_guard::Guarding;
//! # }
//! ```
//!
//! The tests of the drivers and of the engine install it when built with `--cfg guard_pages`; `docs/guard-pages.md`
//! says what that shows.

#![cfg(target_os = "linux")]
#![deny(unsafe_code)]

mod allocator;
mod pages;

pub use allocator::{Counts, Guarding, counts};
