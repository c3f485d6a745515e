//! Waking a driver from another thread, with a system call only if it sleeps.

use std::{fmt, io, sync::Arc};

use crate::sync::atomic::{AtomicU8, Ordering};

// Each ordering below is the weakest that will do; the model L1 (docs/concurrency.md) fails with any of them weakened.
// The state changes by read-modify-write only: those see the newest value whatever their ordering, so a wake is not
// lost. `Release` in `wake` and `Acquire` in `awake` carry what the waker wrote, also past a second waker, whose swap
// continues the first one's release sequence. The two others decide nothing but whether to block.
const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const NOTIFIED: u8 = 2;

/// Ends the current or the next wait of one driver. Cheap to clone, usable from any thread, and harmless once
/// the driver has gone.
#[derive(Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

struct Shared {
    state: AtomicU8,
    signal: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
}

impl Waker {
    /// A waker whose `signal` makes the system end the driver's blocking call.
    pub(crate) fn new(signal: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { state: AtomicU8::new(AWAKE), signal: Box::new(signal) }) }
    }

    /// Wakes the driver. What the caller wrote before is visible to the driver's thread after its wait.
    pub fn wake(&self) {
        if self.shared.state.swap(NOTIFIED, Ordering::Release) == ASLEEP {
            // The only failures are a full counter, which wakes as well, and a driver that has gone.
            let _ = (self.shared.signal)();
        }
    }

    /// The driver's side, before it blocks. False if it was woken meanwhile and must not block. Whatever it says,
    /// [`awake`](Self::awake) comes before the caller looks for what was posted.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.shared.state.compare_exchange(AWAKE, ASLEEP, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The driver's side, after its system call and before the caller looks for what was posted. True if
    /// someone woke it.
    pub(crate) fn awake(&self) -> bool {
        self.shared.state.swap(AWAKE, Ordering::Acquire) == NOTIFIED
    }

    /// True if it sleeps, or is about to.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn is_asleep(&self) -> bool {
        self.shared.state.load(Ordering::Relaxed) == ASLEEP
    }

    /// True if a wake is waiting to be noticed, by [`awake`](Self::awake).
    pub(crate) fn is_notified(&self) -> bool {
        self.shared.state.load(Ordering::Relaxed) == NOTIFIED
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("state", &self.shared.state).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_system_call_is_made_only_for_a_sleeper_and_once() {
        let calls = Arc::new(AtomicUsize::new(0));
        let waker = Waker::new({
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        });
        waker.wake();
        assert!(waker.is_notified() && !waker.fall_asleep());
        waker.awake();
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        assert!(waker.fall_asleep());
        waker.wake();
        waker.wake();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        waker.awake();
        assert!(waker.fall_asleep());
    }
}
