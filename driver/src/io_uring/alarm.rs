//! One timer for all the waits that end by themselves.
//!
//! A wait with a time-out of its own sets the processor's timer and takes it back, each time: beside a single message that
//! is a tenth of its cost, and more on a virtual machine. What waits end for is mostly far off and mostly the same from
//! one to the next: a look at sockets that fall quiet, the next timer of a session. So the ring has a timer set for the
//! earliest of them, and waits sleep without one. A timer that turns out to be early costs one turn.

use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use super::{IoUring, tag::Tag};

/// Shorter waits have a time-out of their own: they would hardly be the same twice.
const SHORT: Duration = Duration::from_millis(1);

pub(super) struct Alarm {
    rings_at: Option<Instant>,
    /// What the kernel reads when it takes an entry; on the heap, so that it stays where it is.
    time: Box<types::Timespec>,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { rings_at: None, time: Box::new(types::Timespec::new()) }
    }
}

impl Alarm {
    /// It has rung, or was taken back.
    pub(super) fn note_rung(&mut self) {
        self.rings_at = None;
    }
}

impl IoUring {
    /// Sees to it that a wait ends at `end`: by the time-out that it returns, or by the alarm.
    pub(super) fn set_alarm(&mut self, end: Instant) -> Option<Duration> {
        if self.alarm.rings_at.is_some_and(|at| at <= end) {
            return None;
        }
        let timeout = end.saturating_duration_since(Instant::now());
        if timeout < SHORT {
            return Some(timeout);
        }
        *self.alarm.time = types::Timespec::from(timeout);
        let time: *const types::Timespec = &raw const *self.alarm.time;
        let entry = match self.alarm.rings_at.replace(end) {
            None => {
                self.ring.owe();
                opcode::Timeout::new(time).build().user_data(Tag::Alarm.plain())
            }
            // If it rings meanwhile, it is only early.
            Some(_) => opcode::TimeoutUpdate::new(Tag::Alarm.plain(), time)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Tag::Ignored.plain()),
        };
        // SAFETY: the time is on the heap and lives as long as the driver; the kernel reads it when it takes the entry, in
        // a call of this thread.
        unsafe { self.ring.push_unowed(&entry) };
        None
    }
}
