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
        if self.period_start.is_none_or(|start| now.saturating_duration_since(start) >= PERIOD) {
            if self.withheld > 0 {
                log::warn!("{} lines like these were withheld", self.withheld);
            }
            *self = Self { period_start: Some(now), lines: 0, withheld: 0 };
        }
        if self.lines < LINES_MAX {
            self.lines += 1;
            log::warn!("{}", line());
        } else {
            self.withheld += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_pass() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let mut made = 0;
        for _ in 0..100 {
            limit.note(start, || {
                made += 1;
                String::new()
            });
        }
        assert_eq!((made, limit.withheld), (10, 90));
        limit.note(start + PERIOD, || {
            made += 1;
            String::new()
        });
        assert_eq!((made, limit.withheld), (11, 0));
    }
}
