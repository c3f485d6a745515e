//! Which threads are shards: they must not wait for a shard, because it could be themselves.

#![cfg_attr(
    windows,
    allow(clippy::missing_const_for_thread_local, reason = "it is const; clippy does not see it on Windows")
)]

use std::{cell::Cell, marker::PhantomData};

#[cfg(not(loom))]
thread_local! {
    static SHARDS: Cell<u32> = const { Cell::new(0) };
}
#[cfg(loom)]
anyport_driver::model::loom::thread_local! {
    static SHARDS: Cell<u32> = Cell::new(0);
}

/// Kept by each shard, on its thread. A simulated engine has several on the thread of its owner.
pub(crate) struct OnShard {
    /// Stays on its thread.
    here: PhantomData<*const ()>,
}

impl OnShard {
    pub(crate) fn mark() -> Self {
        SHARDS.with(|shards| shards.set(shards.get() + 1));
        Self { here: PhantomData }
    }
}

impl Drop for OnShard {
    fn drop(&mut self) {
        let OnShard { here: PhantomData } = self;
        SHARDS.with(|shards| shards.set(shards.get() - 1));
    }
}

/// True on the thread of a shard.
pub(crate) fn is_here() -> bool {
    SHARDS.with(|shards| shards.get() > 0)
}
