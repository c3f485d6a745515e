//! [`std::sync::OnceLock`], reduced to what it promises.

use loom::sync::atomic::{AtomicBool, Ordering};

/// A cell that is written once. Who reads the value has seen what the writer did before. Who reads `None` knows
/// nothing: unlike a lock, it may have been written already.
#[derive(Debug)]
pub struct OnceLock<T> {
    written: AtomicBool,
    value: std::sync::OnceLock<T>,
}

#[allow(missing_docs, reason = "the names and meanings of the standard library")]
impl<T> OnceLock<T> {
    #[allow(clippy::new_without_default, reason = "the real one is made by `new` here, too")]
    pub fn new() -> Self {
        Self { written: AtomicBool::new(false), value: std::sync::OnceLock::new() }
    }

    pub fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.written.store(true, Ordering::Release);
        Ok(())
    }

    pub fn get(&self) -> Option<&T> {
        if self.written.load(Ordering::Acquire) { self.value.get() } else { None }
    }
}
