//! What the loaders know of each other's publishers: which lines all members have, and how many there were in all.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use anyport::Remote;

use super::loader::FanoutLoader;

/// Shared by all loaders. A line's delivery is counted by each loader for itself; only when its members all have the
/// line is it told here, so that nothing is shared for each delivery.
pub(crate) struct Tracks {
    window: u64,
    /// For each publisher and each place in its window: loaders whose members do not all have the line there.
    missing: Box<[AtomicU64]>,
    /// Loaders that have members.
    loaders: u64,
    remote: OnceLock<Remote<FanoutLoader>>,
    /// Publishers that send no more, and the lines that they sent.
    finished: AtomicU64,
    lines: AtomicU64,
}

impl Tracks {
    /// `loaders` are those that have members.
    pub(crate) fn new(publishers: u64, window: u64, loaders: u64) -> Self {
        Self {
            window,
            missing: (0..publishers * window).map(|_| AtomicU64::new(0)).collect(),
            loaders,
            remote: OnceLock::new(),
            finished: AtomicU64::new(0),
            lines: AtomicU64::new(0),
        }
    }

    /// The way to the other loaders is known.
    pub(crate) fn connect(&self, remote: &Remote<FanoutLoader>) {
        let _ = self.remote.set(remote.clone());
    }

    pub(crate) fn remote(&self) -> Option<&Remote<FanoutLoader>> {
        self.remote.get()
    }

    /// The place of a line: its publisher's window has one for each line under way.
    pub(crate) fn place(&self, publisher: u64, number: u64) -> usize {
        (publisher * self.window + number % self.window) as usize
    }

    /// A line is about to leave.
    pub(crate) fn leaves(&self, place: usize) {
        self.missing[place].store(self.loaders, Ordering::Release);
    }

    /// All members of a loader have the line. True if with them all members have it.
    pub(crate) fn arrived(&self, place: usize) -> bool {
        self.missing[place].fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// A publisher sends no more.
    pub(crate) fn finish(&self, lines: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Release);
    }

    /// How many lines there were, once so many publishers have finished.
    pub(crate) fn lines(&self, publishers: u64) -> Option<u64> {
        (self.finished.load(Ordering::Acquire) == publishers).then(|| self.lines.load(Ordering::Relaxed))
    }
}
