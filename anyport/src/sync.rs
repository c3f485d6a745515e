//! What threads of the engine share, as far as it is not an `Arc`: the standard library's types, or, when the
//! concurrency models are built (`--cfg loom`), those that loom steps through.

#[cfg(loom)]
pub(crate) use anyport_driver::model::{
    atomic,
    cell::OnceLock,
    channel as mpsc,
    loom::{
        sync::{Condvar, Mutex, MutexGuard},
        thread::yield_now,
    },
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, OnceLock, atomic, mpsc},
    thread::yield_now,
};
