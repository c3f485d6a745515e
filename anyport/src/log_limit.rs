//! Log lines that peers can cause, at a bounded rate.

use std::time::{Duration, Instant};

const LINES_MAX: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// Passes ten lines a second and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    period_start: Option<Instant>,
    lines: u32,
    withheld: u64,
}

impl LogLimit {
    /// Logs the line, unless too many came before it.
    pub(crate) fn note(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if self.admits(now) {
            log::warn!("{}", line());
        }
    }

    /// As [`note`](Self::note), as an error.
    pub(crate) fn note_error(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if self.admits(now) {
            log::error!("{}", line());
        }
    }

    fn admits(&mut self, now: Instant) -> bool {
        if self.period_start.is_none_or(|start| now.saturating_duration_since(start) >= PERIOD) {
            if self.withheld > 0 {
                log::warn!("{} lines like these were withheld", self.withheld);
            }
            *self = Self { period_start: Some(now), lines: 0, withheld: 0 };
        }
        let admitted = self.lines < LINES_MAX;
        if admitted {
            self.lines += 1;
        } else {
            self.withheld += 1;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_pass() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| limit.admits(start)).count(), 10);
        assert_eq!(limit.withheld, 90);
        assert!(limit.admits(start + PERIOD));
        assert_eq!(limit.withheld, 0);
    }
}
