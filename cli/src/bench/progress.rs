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

use super::crew::Crew;
use crate::output::{count, grouped};

/// What a load does, over and over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// In the plural; empty if it does nothing.
    pub(crate) name: &'static str,
    /// Bytes of payload that each stands for; zero if the bytes matter little.
    pub(crate) bytes: usize,
}

/// Rewrites its line on a terminal; elsewhere each is a line of its own.
pub(crate) struct Progress {
    terminal: bool,
    start: Instant,
    warmup: Duration,
    unit: Unit,
    last: Instant,
    done: u64,
}

impl Progress {
    pub(crate) const PERIOD: Duration = Duration::from_secs(1);

    pub(crate) fn new(start: Instant, warmup: Duration, unit: Unit) -> Self {
        Self { terminal: io::stderr().is_terminal(), start, warmup, unit, last: start, done: 0 }
    }

    /// When the next line is due.
    pub(crate) fn next(&self) -> Instant {
        self.last + Self::PERIOD
    }

    /// Shows how many connections are open, while they open.
    pub(crate) fn show_opening(&mut self, crew: &Crew) {
        let now = Instant::now();
        if now < self.next() {
            return;
        }
        let seconds = now.saturating_duration_since(self.start).as_secs();
        let (opened, wanted) = (grouped(crew.opened()), count(crew.wanted(), "connection"));
        self.write(&format!("{seconds:4} s (opening)  {opened} of {wanted}"));
        self.last = now;
    }

    /// Shows how the run goes, if it is time to.
    pub(crate) fn show(&mut self, crew: &Crew) {
        let now = Instant::now();
        if now < self.next() {
            return;
        }
        let done = crew.done();
        let seconds = now.saturating_duration_since(self.last).as_secs_f64();
        let rate = (done - self.done) as f64 / seconds;
        let since_start = now.saturating_duration_since(self.start);
        let bytes = match self.unit.bytes {
            0 => String::new(),
            bytes => format!("  {:>9.2} MB/s", rate * bytes as f64 / 1e6),
        };
        let rate = match self.unit.name {
            "" => String::new(),
            name => format!("  {:>12} {name}/s{bytes}", grouped(rate as u64)),
        };
        self.write(&format!(
            "{:4} s{}{rate}  {}",
            since_start.as_secs(),
            if since_start < self.warmup { " (warm-up)" } else { "" },
            count(crew.live(), "connection"),
        ));
        (self.last, self.done) = (now, done);
    }

    fn write(&self, line: &str) {
        let mut out = io::stderr().lock();
        let _ = if self.terminal { write!(out, "\r{line}\x1b[K") } else { writeln!(out, "{line}") };
        let _ = out.flush();
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
