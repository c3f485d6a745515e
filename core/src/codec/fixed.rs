//! Frames of one size.

use super::{Codec, Decode, Decoded, Encode, Frame, FrameError};

/// Frames of exactly `frame_size` bytes, without a header: tickers, telemetry, records of a fixed layout.
///
/// What is sent must have that size; anything else is refused ([`FrameError::WrongSize`]). Bytes behind the last whole
/// frame are dropped when the peer closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixed {
    frame_size: usize,
}

impl Fixed {
    /// Frames of `frame_size` bytes each.
    ///
    /// # Panics
    /// If `frame_size` is 0: a frame must take at least one byte.
    pub const fn new(frame_size: usize) -> Self {
        assert!(frame_size > 0, "frame_size must be at least 1");
        Self { frame_size }
    }
}

impl Codec for Fixed {
    type Decoder = Self;
    type Encoder = Self;

    fn split(&self) -> (Self, Self) {
        (*self, *self)
    }

    fn frame_size_max(&self) -> usize {
        self.frame_size
    }
}

impl Decode for Fixed {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        let size = self.frame_size;
        if bytes.len() < size {
            return Ok(Decoded::NeedMore { missing: size - bytes.len() });
        }
        Ok(Decoded::Frame { kind: 0, body: 0..size, consumed: size })
    }
}

impl Encode for Fixed {
    #[inline]
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError> {
        let size = frame.body.len();
        if size != self.frame_size {
            return Err(FrameError::WrongSize { size, wanted: self.frame_size });
        }
        Ok(size)
    }

    #[inline]
    fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(frame.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_at_its_last_byte() {
        let (mut decoder, _) = Fixed::new(3).split();
        assert_eq!(decoder.decode(b"a"), Ok(Decoded::NeedMore { missing: 2 }));
        for bytes in [&b"abc"[..], b"abcdefg"] {
            assert_eq!(decoder.decode(bytes), Ok(Decoded::Frame { kind: 0, body: 0..3, consumed: 3 }));
        }
    }

    #[test]
    fn another_size_is_not_sent() {
        let (_, encoder) = Fixed::new(3).split();
        let size = |body| encoder.encoded_size(&Frame { kind: 0, body });
        assert_eq!(size(b"abc"), Ok(3));
        assert_eq!(size(b""), Err(FrameError::WrongSize { size: 0, wanted: 3 }));
        assert_eq!(size(b"abcd"), Err(FrameError::WrongSize { size: 4, wanted: 3 }));
        let said = size(b"abcd").unwrap_err().to_string();
        assert_eq!(said, "body of 4 bytes, where this codec takes exactly 3");
    }
}
