//! Looking for a while before sleeping ([`DriverConfig::spin`](crate::DriverConfig::spin)).
//!
//! To sleep in the kernel and to be woken takes longer than most answers of a peer. A driver that looks again and again
//! instead, for a short while, has the next message at once. It does so after something happened, and once: whoever has
//! nothing to do sleeps, and its timers do not wake it to look around.

use std::time::{Duration, Instant};

use crate::DriverConfig;

/// When a driver looks again, instead of sleeping.
pub(crate) struct Spin {
    length: Duration,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Nothing happened since the last look: it is time to sleep.
    Spent,
    /// Something happened.
    Fresh,
    /// It looks, until then.
    Until(Instant),
}

impl Spin {
    pub(crate) fn new(config: &DriverConfig) -> Self {
        Self { length: config.spin.min(DriverConfig::SPIN_MAX), state: State::Spent }
    }

    /// One that always sleeps: where looking takes no time, as in a simulation.
    pub(crate) fn never() -> Self {
        Self { length: Duration::ZERO, state: State::Spent }
    }

    /// A wait ends. If `something` happened in it, the next one that finds nothing looks for a while.
    #[inline]
    pub(crate) fn note(&mut self, something: bool) {
        if something && !self.length.is_zero() {
            self.state = State::Fresh;
        }
    }

    /// True if a wait that would sleep for `pause` is to look once more instead. Reads the clock, if it may be.
    #[inline]
    pub(crate) fn goes_on(&mut self, pause: Option<Duration>) -> bool {
        match self.state {
            State::Spent => false,
            state => self.goes_on_at(state, Instant::now(), pause),
        }
    }

    /// As [`goes_on`](Self::goes_on), of a wait that would sleep until `end`.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn goes_on_until(&mut self, end: Option<Instant>) -> bool {
        match self.state {
            State::Spent => false,
            state => {
                let now = Instant::now();
                self.goes_on_at(state, now, end.map(|end| end.saturating_duration_since(now)))
            }
        }
    }

    fn goes_on_at(&mut self, state: State, now: Instant, pause: Option<Duration>) -> bool {
        let until = match state {
            State::Until(until) => until,
            // No longer than it would have slept: timers are in time.
            _ => now + pause.map_or(self.length, |pause| pause.min(self.length)),
        };
        let goes_on = now < until;
        self.state = if goes_on { State::Until(until) } else { State::Spent };
        if goes_on {
            std::hint::spin_loop();
        }
        goes_on
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn spin(length: Duration) -> Spin {
        Spin::new(&DriverConfig { spin: length, ..DriverConfig::DEFAULT })
    }

    fn goes_on(spin: &mut Spin, now: Instant, pause: Option<Duration>) -> bool {
        match spin.state {
            State::Spent => false,
            state => spin.goes_on_at(state, now, pause),
        }
    }

    #[test]
    fn it_looks_once_after_something_happened_and_then_sleeps() {
        let (mut spin, now) = (spin(50 * US), Instant::now());
        assert!(!goes_on(&mut spin, now, None), "nothing happened yet");
        spin.note(false);
        assert!(!goes_on(&mut spin, now, None));
        spin.note(true);
        assert!(goes_on(&mut spin, now, None) && goes_on(&mut spin, now + 49 * US, None));
        assert!(!goes_on(&mut spin, now + 50 * US, None));
        // A timer ends the sleep, and nothing else: it sleeps on.
        spin.note(false);
        assert!(!goes_on(&mut spin, now + 60 * US, None));
        spin.note(true);
        assert!(goes_on(&mut spin, now + 70 * US, None));
    }

    #[test]
    fn it_never_looks_longer_than_it_would_have_slept() {
        let (mut spin, now) = (spin(50 * US), Instant::now());
        spin.note(true);
        assert!(
            goes_on(&mut spin, now, Some(10 * US))
                && !goes_on(&mut spin, now + 10 * US, Some(Duration::ZERO))
        );
        spin.note(true);
        assert!(!goes_on(&mut spin, now, Some(Duration::ZERO)));
    }

    #[test]
    fn without_a_length_or_beyond_the_longest() {
        let now = Instant::now();
        for mut never in [spin(Duration::ZERO), Spin::never()] {
            never.note(true);
            assert!(!goes_on(&mut never, now, None));
        }
        let mut long = spin(Duration::MAX);
        long.note(true);
        assert!(goes_on(&mut long, now, None));
        assert!(!goes_on(&mut long, now + DriverConfig::SPIN_MAX, None));
    }

    /// Wakes a driver, has it wait without bound, and awaits that it sleeps: what looks for ever never does.
    #[cfg(any(unix, windows))]
    fn falls_asleep<D: crate::Driver>(make: impl FnOnce(DriverConfig) -> std::io::Result<D> + Send) {
        const PATIENCE: Duration = Duration::from_secs(30);
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let sleeper = scope.spawn(move || {
                let config =
                    DriverConfig { sockets_max: 8, spin: DriverConfig::SPIN_MAX, ..DriverConfig::DEFAULT };
                let mut driver = make(config).unwrap();
                let waker = driver.waker();
                waker.wake();
                let mut completions = Vec::new();
                driver.wait(None, &mut completions).unwrap();
                tell.send(waker).unwrap();
                driver.wait(None, &mut completions).unwrap();
                completions.len()
            });
            let waker = told.recv_timeout(PATIENCE).unwrap();
            let until = Instant::now() + PATIENCE;
            while !waker.is_asleep() && Instant::now() < until {
                std::thread::yield_now();
            }
            let asleep = waker.is_asleep();
            waker.wake();
            assert_eq!(sleeper.join().unwrap(), 0);
            assert!(asleep, "it still looks");
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn io_uring_falls_asleep_after_it_has_looked() {
        falls_asleep(crate::io_uring::IoUring::new);
    }

    #[cfg(unix)]
    #[test]
    fn readiness_falls_asleep_after_it_has_looked() {
        falls_asleep(crate::readiness::Readiness::new);
    }

    #[cfg(windows)]
    #[test]
    fn iocp_falls_asleep_after_it_has_looked() {
        falls_asleep(crate::iocp::Iocp::new);
    }

    #[cfg(any(unix, windows))]
    #[test]
    fn a_relay_falls_asleep_after_it_has_looked() {
        falls_asleep(|config| {
            let (seat, end) = crate::relay::link();
            // The other side stays, and does nothing.
            std::mem::forget(end);
            Ok(crate::relay::Relay::new(vec![seat], config, Box::new(crate::relay::Parked::here())))
        });
    }
}
