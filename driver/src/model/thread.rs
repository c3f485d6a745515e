//! Threads that loom steps through.

use std::time::Duration;

pub use loom::thread::{Thread, current, park};

/// A park that ends by itself: at any moment, as loom has no time.
pub fn park_timeout(_: Duration) {
    loom::thread::yield_now();
}
