//! How a relay lets the other side get on while it has nothing to do itself.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::wake::Waker;

/// What a [`Relay`](super::Relay) stands on: how it waits, and what time it is.
pub trait Pump {
    /// Ends [`pump`](Self::pump) from any thread.
    fn waker(&self) -> Waker;

    /// Lets the I/O side get on, and blocks until it is woken or for `timeout` at most; it may return sooner.
    ///
    /// # Errors
    /// Only if the other side can no longer work.
    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// The time.
    fn now(&self) -> Instant;

    /// False if [`pump`](Self::pump) fails rather than waits: then nothing is asked that needs an answer.
    fn may_block(&self) -> bool {
        true
    }
}

pub(super) fn cannot_wait() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a relay that is stepped cannot wait for the other side")
}

/// A thread of its own, that sleeps while there is nothing to do: the I/O side has others.
#[derive(Debug)]
pub struct Parked {
    waker: Waker,
}

impl Parked {
    /// For the calling thread, and no other.
    pub fn here() -> Self {
        let thread = std::thread::current();
        Self {
            waker: Waker::new(move || {
                thread.unpark();
                Ok(())
            }),
        }
    }
}

impl Pump for Parked {
    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) && !self.waker.is_notified() {
            return Ok(());
        }
        if timeout != Some(Duration::ZERO) && self.waker.fall_asleep() {
            match timeout {
                Some(timeout) => std::thread::park_timeout(timeout),
                None => std::thread::park(),
            }
        }
        self.waker.awake();
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A relay that somebody else steps: it never blocks, and has the time of whoever steps it.
pub struct Stepped {
    waker: Waker,
    clock: Box<dyn Fn() -> Instant>,
}

impl Stepped {
    /// With the time that `clock` tells.
    pub fn new(clock: impl Fn() -> Instant + 'static) -> Self {
        Self { waker: Waker::new(|| Ok(())), clock: Box::new(clock) }
    }
}

impl Pump for Stepped {
    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.waker.awake();
        if timeout == Some(Duration::ZERO) {
            return Ok(());
        }
        Err(cannot_wait())
    }

    fn now(&self) -> Instant {
        (self.clock)()
    }

    fn may_block(&self) -> bool {
        false
    }
}
