//! Text lines: a frame ends at a line feed.

use super::{Codec, Decode, Decoded, Encode, Frame, FrameError};

/// Lines ended by `\n` or `\r\n`; the end is not part of the frame. Bytes after the last line end are
/// dropped when the peer closes.
///
/// What is sent gets a `\n`. A body that holds a line feed arrives as several lines, and one that ends with a
/// carriage return arrives without it.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    line_size_max: usize,
}

impl Lines {
    /// Lines of at most `line_size_max` bytes, line end included.
    ///
    /// # Panics
    /// If `line_size_max` is 0: no line could ever be received.
    pub fn new(line_size_max: usize) -> Self {
        assert!(line_size_max > 0, "line_size_max must be at least 1");
        Self { line_size_max }
    }
}

impl Default for Lines {
    /// Lines of at most 8 KiB.
    fn default() -> Self {
        Self::new(8 << 10)
    }
}

impl Codec for Lines {
    type Decoder = LinesDecoder;
    type Encoder = Self;

    fn split(&self) -> (LinesDecoder, Self) {
        (LinesDecoder { line_size_max: self.line_size_max, scanned: 0 }, *self)
    }

    fn frame_size_max(&self) -> usize {
        self.line_size_max
    }
}

/// Receiving half of [`Lines`]. Remembers how far it has looked, so that a line that trickles in byte by
/// byte costs no more than one that comes at once.
#[derive(Debug)]
pub struct LinesDecoder {
    line_size_max: usize,
    scanned: usize,
}

impl Decode for LinesDecoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        let limit = self.line_size_max;
        let window = &bytes[..bytes.len().min(limit)];
        let from = self.scanned.min(window.len());
        if let Some(found) = memchr::memchr(b'\n', &window[from..]) {
            self.scanned = 0;
            let end = from + found;
            let body = if end > 0 && window[end - 1] == b'\r' { end - 1 } else { end };
            return Ok(Decoded::Frame { kind: 0, body: 0..body, consumed: end + 1 });
        }
        if bytes.len() >= limit {
            // Even if the next byte ended it, the line would be one byte too long.
            return Err(FrameError::TooLarge { size: bytes.len() + 1, limit });
        }
        self.scanned = bytes.len();
        Ok(Decoded::NeedMore { missing: 0 })
    }
}

impl Encode for Lines {
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError> {
        let size = frame.body.len().saturating_add(1);
        if size > self.line_size_max {
            return Err(FrameError::TooLarge { size, limit: self.line_size_max });
        }
        Ok(size)
    }

    fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(frame.body);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_line_ends_and_empty_lines() {
        let (mut decoder, _) = Lines::new(16).split();
        let mut bytes = &b"a\r\n\nb\r"[..];
        let mut lines = Vec::new();
        while let Ok(Decoded::Frame { body, consumed, .. }) = decoder.decode(bytes) {
            lines.push(bytes[body].to_vec());
            bytes = &bytes[consumed..];
        }
        assert_eq!(lines, [&b"a"[..], b""]);
        assert_eq!(bytes, b"b\r");
    }

    #[test]
    fn a_line_may_fill_the_limit_and_not_exceed_it() {
        let (mut decoder, _) = Lines::new(4).split();
        assert_eq!(decoder.decode(b"abc\n"), Ok(Decoded::Frame { kind: 0, body: 0..3, consumed: 4 }));
        assert_eq!(decoder.decode(b"abc"), Ok(Decoded::NeedMore { missing: 0 }));
        assert_eq!(decoder.decode(b"abcd"), Err(FrameError::TooLarge { size: 5, limit: 4 }));
    }
}
