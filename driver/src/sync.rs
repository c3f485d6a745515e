//! What threads of this crate share: the standard library's types, or, when the concurrency models are built
//! (`--cfg loom`), those that loom steps through.

#[cfg(loom)]
pub(crate) use crate::model::{
    atomic,
    loom::sync::{Condvar, Mutex, MutexGuard},
    thread,
};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic;
#[cfg(not(any(loom, windows)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
