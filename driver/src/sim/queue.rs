//! The bytes in a socket's buffer.

/// A first-in first-out queue of at most `capacity` bytes. Its memory grows with what it holds, so that idle
/// sockets cost nothing.
#[derive(Debug)]
pub(super) struct ByteQueue {
    ring: Vec<u8>,
    head: usize,
    len: usize,
    capacity: usize,
}

impl ByteQueue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { ring: Vec::new(), head: 0, len: 0, capacity: capacity.max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.len
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes as many of `bytes` as fit, and says how many.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.reserve(self.len + count);
        let mut at = 0;
        while at < count {
            let to = (self.head + self.len) % self.ring.len();
            let run = (count - at).min(self.ring.len() - to);
            self.ring[to..to + run].copy_from_slice(&bytes[at..at + run]);
            self.len += run;
            at += run;
        }
        count
    }

    /// Fills `out` from the front, and says how many bytes it wrote.
    pub(super) fn pop(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.len);
        let mut at = 0;
        while at < count {
            let piece = self.front(count - at);
            let run = piece.len();
            out[at..at + run].copy_from_slice(piece);
            self.drop_front(run);
            at += run;
        }
        count
    }

    /// Moves `count` bytes to the end of `other`, which has room for them.
    pub(super) fn move_to(&mut self, other: &mut Self, count: usize) {
        assert!(count <= self.len && count <= other.room(), "{count} bytes moved that do not fit");
        let mut left = count;
        while left > 0 {
            let piece = self.front(left);
            let run = other.push(piece);
            self.drop_front(run);
            left -= run;
        }
    }

    /// The first bytes that lie in one piece, at most `most`.
    fn front(&self, most: usize) -> &[u8] {
        let run = most.min(self.len).min(self.ring.len() - self.head);
        &self.ring[self.head..self.head + run]
    }

    fn drop_front(&mut self, count: usize) {
        self.head = (self.head + count) % self.ring.len();
        self.len -= count;
    }

    fn reserve(&mut self, bytes: usize) {
        if bytes <= self.ring.len() {
            return;
        }
        let size = bytes.next_power_of_two().min(self.capacity);
        let mut ring = vec![0; size];
        let count = self.pop(&mut ring);
        self.ring = ring;
        self.head = 0;
        self.len = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_over_growth_and_wrap() {
        let mut queue = ByteQueue::new(13);
        let mut other = ByteQueue::new(7);
        let (mut next, mut expected) = (0u8, 0u8);
        for round in 0..500 {
            let bytes: Vec<u8> = (0..round % 6).map(|n| next.wrapping_add(n as u8)).collect();
            next = next.wrapping_add(queue.push(&bytes) as u8);
            let count = queue.len().min(other.room()).min(3);
            queue.move_to(&mut other, count);
            let mut out = [0; 4];
            let count = other.pop(&mut out[..round % 5]);
            for byte in &out[..count] {
                assert_eq!(*byte, expected);
                expected = expected.wrapping_add(1);
            }
        }
        assert!(queue.room() <= 13 && other.room() <= 7);
    }

    #[test]
    fn nothing_is_taken_beyond_the_capacity() {
        let mut queue = ByteQueue::new(4);
        assert_eq!((queue.push(b"abcdef"), queue.push(b"g"), queue.room()), (4, 0, 0));
        queue.clear();
        assert!(queue.is_empty() && queue.push(b"xy") == 2);
    }
}
