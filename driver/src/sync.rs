//! The atomics of this crate: the standard library's, or, when the concurrency models are built (`--cfg loom`), those
//! that loom steps through.

#[cfg(loom)]
pub(crate) use crate::model::atomic;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic;
