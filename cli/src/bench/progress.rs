//! A line a second on standard error while a run goes on.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "rates are shown to a few digits, and are not negative"
)]

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use super::loader::Shared;
use crate::output::{count, grouped};

/// Rewrites its line on a terminal; elsewhere each is a line of its own.
pub(crate) struct Progress {
    terminal: bool,
    start: Instant,
    last: Instant,
    answered: u64,
}

impl Progress {
    pub(crate) const PERIOD: Duration = Duration::from_secs(1);

    pub(crate) fn new(start: Instant) -> Self {
        Self { terminal: io::stderr().is_terminal(), start, last: start, answered: 0 }
    }

    /// When the next line is due.
    pub(crate) fn next(&self) -> Instant {
        self.last + Self::PERIOD
    }

    /// Shows how the run goes, if it is time to.
    pub(crate) fn show(&mut self, shared: &Shared) {
        let now = Instant::now();
        if now < self.next() {
            return;
        }
        let answered = shared.answered();
        let seconds = now.saturating_duration_since(self.last).as_secs_f64();
        let rate = (answered - self.answered) as f64 / seconds;
        let since_start = now.saturating_duration_since(self.start);
        let line = format!(
            "{:4} s{}  {:>12} messages/s  {:>9.2} MB/s  {}",
            since_start.as_secs(),
            if since_start < shared.plan.warmup { " (warm-up)" } else { "" },
            grouped(rate as u64),
            rate * shared.plan.size as f64 / 1e6,
            count(shared.live(), "connection"),
        );
        let mut out = io::stderr().lock();
        let _ = if self.terminal { write!(out, "\r{line}\x1b[K") } else { writeln!(out, "{line}") };
        let _ = out.flush();
        (self.last, self.answered) = (now, answered);
    }
}

impl Drop for Progress {
    /// Clears the line, so that what follows has a place of its own.
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
