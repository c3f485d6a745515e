//! How many receive buffers the kernel is offered at a time.
//!
//! The kernel takes buffers in the order in which they were offered. Offered all at once it would walk through all of
//! the memory, and each message would be written to lines that no cache has. So it is offered a few, and of those that
//! come back the last one goes first.
//!
//! If it finds none left, twice as many are offered from then on, unless they were filled by few large receives: those
//! lose more by cold memory than by a receive that is armed again. If half of them stay unused for long, half as many
//! are offered.

/// So much memory is offered at first, and at least: a part of a processor's own cache.
const BYTES: usize = 512 << 10;
/// So many buffers are offered at least, however large they are.
const BUFFERS_MIN: usize = 2;
/// A receive that fills more than this part of a buffer is a large one.
const LARGE_PART: u64 = 4;
/// The window is looked at each time so many buffers have come back.
const LOOK_EVERY: u32 = 1024;

pub(super) struct Window {
    /// So many are to be offered.
    size: usize,
    size_min: usize,
    size_max: usize,
    /// So many are.
    offered: usize,
    /// The least that were offered since the last look, and how many have come back since.
    offered_least: usize,
    came_back: u32,
    /// Receives, and their bytes, since the kernel last found none left.
    receives: u64,
    received_bytes: u64,
    buffer_bytes: u64,
}

impl Window {
    /// Of `buffers` buffers; nothing is offered yet.
    pub(super) fn new(buffers: usize, buffer_bytes: usize) -> Self {
        let size = (BYTES / buffer_bytes).max(BUFFERS_MIN).min(buffers);
        Self {
            size,
            size_min: size,
            size_max: buffers,
            offered: 0,
            offered_least: size,
            came_back: 0,
            receives: 0,
            received_bytes: 0,
            buffer_bytes: buffer_bytes as u64,
        }
    }

    /// All are offered, always: for kernels that give each message a buffer of its own.
    pub(super) fn open_wide(&mut self) {
        self.size_min = self.size_max;
        self.size = self.size_max;
    }

    /// Buffers that the kernel may choose.
    pub(super) fn offered(&self) -> usize {
        self.offered
    }

    /// True if one more is to be offered.
    pub(super) fn has_room(&self) -> bool {
        self.offered < self.size
    }

    pub(super) fn note_offered(&mut self) {
        self.offered += 1;
    }

    /// The kernel will not write to one of them any more.
    pub(super) fn note_taken(&mut self) {
        self.offered -= 1;
        self.offered_least = self.offered_least.min(self.offered);
    }

    #[inline]
    pub(super) fn note_received(&mut self, bytes: u32) {
        self.receives += 1;
        self.received_bytes += u64::from(bytes);
    }

    /// One that was taken is nobody's again.
    pub(super) fn note_back(&mut self) {
        self.came_back += 1;
        if self.came_back == LOOK_EVERY {
            if self.offered_least > self.size / 2 {
                self.size = (self.size / 2).max(self.size_min);
            }
            self.offered_least = self.offered;
            self.came_back = 0;
        }
    }

    /// The kernel found none.
    pub(super) fn note_empty(&mut self) {
        let large = self.received_bytes > self.receives * (self.buffer_bytes / LARGE_PART);
        if !large {
            self.size = (self.size * 2).min(self.size_max);
        }
        self.receives = 0;
        self.received_bytes = 0;
        self.offered_least = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER: usize = 64 << 10;

    fn filled(mut window: Window) -> Window {
        while window.has_room() {
            window.note_offered();
        }
        window
    }

    /// Takes `count` buffers, which come back and are offered again.
    fn pass(window: &mut Window, count: u32) {
        for _ in 0..count {
            window.note_taken();
            window.note_back();
            while window.has_room() {
                window.note_offered();
            }
        }
    }

    #[test]
    fn a_part_of_the_cache_is_offered() {
        assert_eq!(filled(Window::new(64, BUFFER)).offered(), 8);
        assert_eq!(filled(Window::new(4, BUFFER)).offered(), 4);
        assert_eq!(filled(Window::new(64, 1 << 20)).offered(), 2);
        assert_eq!(filled(Window::new(1, 1 << 20)).offered(), 1);
        let mut wide = Window::new(64, BUFFER);
        wide.open_wide();
        assert_eq!(filled(wide).offered(), 64);
    }

    #[test]
    fn many_small_messages_that_find_it_empty_widen_it_up_to_all_buffers() {
        let mut window = filled(Window::new(64, BUFFER));
        for offered in [16, 32, 64, 64] {
            window.note_received(100);
            window.note_empty();
            window = filled(window);
            assert_eq!(window.offered(), offered);
        }
    }

    #[test]
    fn large_receives_do_not_widen_it() {
        let mut window = filled(Window::new(64, BUFFER));
        window.note_received(64);
        window.note_received(BUFFER as u32);
        window.note_empty();
        assert!(!window.has_room());
        // What was before does not count for ever.
        window.note_received(100);
        window.note_empty();
        assert!(window.has_room());
    }

    #[test]
    fn what_is_not_needed_for_long_is_given_up_but_for_the_least() {
        let mut window = Window::new(64, BUFFER);
        window.note_empty();
        window.note_empty();
        window = filled(window);
        assert_eq!(window.size, 32);
        // The first look still remembers that it was empty.
        for size in [32, 16, 8, 8] {
            pass(&mut window, LOOK_EVERY);
            assert_eq!(window.size, size);
        }
    }

    #[test]
    fn what_is_needed_now_and_then_is_kept() {
        let mut window = Window::new(64, BUFFER);
        window.note_empty();
        window = filled(window);
        for _ in 0..4 {
            pass(&mut window, LOOK_EVERY - 12);
            (0..12).for_each(|_| window.note_taken());
            (0..12).for_each(|_| window.note_back());
            window = filled(window);
            assert_eq!(window.size, 16);
        }
    }
}
