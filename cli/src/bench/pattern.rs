//! The bytes that are sent, and how those that come back are checked.
//!
//! Each connection sends one endless stream: a table of pseudo-random bytes, repeated, from a place of its own.
//! The byte at a position is therefore known without being kept, and a byte that was lost, doubled, moved or
//! changed shifts or breaks what follows. The period is a prime, so that no round number of bytes, like a whole
//! buffer, can go missing unseen.

use std::fmt;

/// Bytes before the pattern repeats: small enough for the nearest caches, and prime.
const PERIOD: usize = 65_521;

/// Receive buffers are no larger: what one holds is compared in one piece.
const PIECE: usize = 64 << 10;

/// The endless stream of one connection begins here. Two connections begin at different places.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Start(usize);

impl Start {
    /// The place of a connection by its number.
    pub(crate) fn of(connection: u64) -> Self {
        Self((scramble(connection) % PERIOD as u64) as usize)
    }
}

/// Where a stream differs from what was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Difference {
    /// Position in the stream.
    pub(crate) position: u64,
    pub(crate) expected: u8,
    pub(crate) seen: u8,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, expected, seen } = self;
        write!(f, "byte {position} of its stream: expected {expected:#04x}, seen {seen:#04x}")
    }
}

/// The table, with enough of its beginning repeated at its end that any message lies in one piece.
pub(crate) struct Pattern {
    table: Box<[u8]>,
    longest: usize,
}

impl Pattern {
    /// For messages of up to `size` bytes. `text` leaves out what ends a line.
    pub(crate) fn new(size: usize, text: bool) -> Self {
        let longest = size.max(PIECE);
        let byte = |position: usize| {
            let random = scramble(!((position % PERIOD) as u64)) >> 32;
            if text { b'!' + (random % 94) as u8 } else { random as u8 }
        };
        let period: Vec<u8> = (0..PERIOD).map(byte).collect();
        Self { table: period.iter().copied().cycle().take(PERIOD + longest).collect(), longest }
    }

    /// `count` bytes of a stream from `position` on.
    ///
    /// # Panics
    /// If that is more than a message.
    pub(crate) fn slice(&self, start: Start, position: u64, count: usize) -> &[u8] {
        assert!(count <= self.longest, "{count} bytes asked of pieces of {}", self.longest);
        let at = (start.0 + (position % PERIOD as u64) as usize) % PERIOD;
        &self.table[at..at + count]
    }

    /// Compares bytes that came back with the stream from `position` on.
    pub(crate) fn check(&self, start: Start, position: u64, bytes: &[u8]) -> Result<(), Difference> {
        let mut position = position;
        for piece in bytes.chunks(self.longest) {
            let expected = self.slice(start, position, piece.len());
            if expected != piece {
                return Err(first_difference(position, expected, piece));
            }
            position += piece.len() as u64;
        }
        Ok(())
    }
}

#[cold]
fn first_difference(position: u64, expected: &[u8], seen: &[u8]) -> Difference {
    let at = expected.iter().zip(seen).position(|(a, b)| a != b).expect("the pieces differ");
    Difference { position: position + at as u64, expected: expected[at], seen: seen[at] }
}

/// Spreads a number over all 64 bits (the finisher of splitmix64).
pub(crate) fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pattern: &Pattern, start: Start, count: u64) -> Vec<u8> {
        (0..count).map(|position| pattern.slice(start, position, 1)[0]).collect()
    }

    #[test]
    fn slices_of_any_cut_join_to_the_same_stream() {
        let pattern = Pattern::new(100_000, false);
        let start = Start::of(3);
        let whole = stream(&pattern, start, 200_000);
        assert_eq!(pattern.slice(start, 65_000, 100_000), &whole[65_000..165_000]);
        for (from, to) in [(0, 200_000), (1, 65_522), (65_520, 199_999)] {
            assert_eq!(pattern.check(start, from as u64, &whole[from..to]), Ok(()));
        }
    }

    #[test]
    fn loss_doubling_order_and_change_are_seen() {
        let pattern = Pattern::new(64, false);
        let start = Start::of(0);
        let whole = stream(&pattern, start, 4096);
        let wrong = |bytes: Vec<u8>| pattern.check(start, 0, &bytes).is_err();
        assert!(wrong([&whole[..100], &whole[164..]].concat()), "loss");
        assert!(wrong([&whole[..128], &whole[64..]].concat()), "doubling");
        assert!(wrong([&whole[64..128], &whole[..64]].concat()), "order");
        assert!(wrong(stream(&pattern, Start::of(1), 64)), "another connection's");
        let mut changed = whole.clone();
        changed[1000] ^= 1;
        let difference = Difference { position: 1000, expected: whole[1000], seen: changed[1000] };
        assert_eq!(pattern.check(start, 0, &changed), Err(difference));
    }

    #[test]
    fn text_has_no_line_ends() {
        let pattern = Pattern::new(1, true);
        assert!(pattern.table.iter().all(|byte| (b'!'..=b'~').contains(byte)));
    }
}
