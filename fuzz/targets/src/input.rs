//! Decisions out of the bytes that a fuzzer makes up.

/// Bytes that are used up from front to back. What is asked for beyond their end is zero, so that every input means
/// something.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The next byte, or `None` at the end: what a loop over steps ends with.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Two bytes, little endian.
    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Four bytes, little endian.
    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// Eight bytes, little endian.
    pub(crate) fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// At most `count` bytes: as many as are left.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// All that is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// A limit from 1 to 4,096, of which every one up to 128 can be had.
    pub(crate) fn limit(&mut self) -> usize {
        match self.byte() {
            small @ 0..128 => 1 + usize::from(small),
            large => usize::from(large - 127) * 32,
        }
    }
}

/// How a stream is cut into chunks: these sizes in turn, from the start again when they are used up.
pub(crate) struct Cuts {
    sizes: Vec<usize>,
}

impl Cuts {
    /// At most 7 sizes from 1 to 256; with none the stream comes whole.
    pub(crate) fn draw(input: &mut Input<'_>) -> Self {
        let count = input.byte() % 8;
        Self { sizes: (0..count).map(|_| usize::from(input.byte()) + 1).collect() }
    }

    pub(crate) fn whole() -> Self {
        Self { sizes: Vec::new() }
    }

    /// Byte by byte; a long stream by three, which a fuzzer does three times as often.
    pub(crate) fn smallest(wire: &[u8]) -> Self {
        Self { sizes: vec![if wire.len() <= 256 { 1 } else { 3 }] }
    }

    /// The chunks of `wire`, none empty.
    pub(crate) fn chunks<'a>(&'a self, wire: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let (mut rest, mut sizes) = (wire, self.sizes.iter().cycle());
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let size = sizes.next().map_or(rest.len(), |size| (*size).min(rest.len()));
            let (chunk, after) = rest.split_at(size);
            rest = after;
            Some(chunk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_zero() {
        let mut input = Input::new(&[1, 2, 3]);
        assert_eq!((input.u16(), input.u32(), input.next(), input.byte()), (0x0201, 3, None, 0));
        assert!(Input::new(&[7]).take(9) == [7] && input.rest().is_empty());
    }

    #[test]
    fn limits_reach_both_ends() {
        let limit = |byte| Input::new(&[byte]).limit();
        assert_eq!((limit(0), limit(127), limit(128), limit(255)), (1, 128, 32, 4_096));
    }

    #[test]
    fn chunks_are_the_stream() {
        let cuts = Cuts::draw(&mut Input::new(&[2, 0, 2]));
        let chunks: Vec<&[u8]> = cuts.chunks(b"abcdefghi").collect();
        assert_eq!(chunks, [&b"a"[..], b"bcd", b"e", b"fgh", b"i"]);
        assert_eq!(Cuts::whole().chunks(b"abc").collect::<Vec<_>>(), [b"abc"]);
        assert_eq!(Cuts::smallest(b"abc").chunks(b"abc").count(), 3);
        assert_eq!(cuts.chunks(b"").count(), 0);
    }
}
