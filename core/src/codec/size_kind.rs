//! Size and kind: `u16` size of the whole frame, `u16` kind, body; little endian. The header that most C++
//! game servers use.

use crate::planted::{Bug, planted};

use super::{Codec, Decode, Decoded, Encode, Frame, FrameError};

/// Bytes of the header.
const HEADER: usize = 4;

/// `{ u16 size; u16 kind; }` little endian before each body; `size` counts the header.
#[derive(Clone, Copy, Debug)]
pub struct SizeKind {
    frame_size_max: u16,
}

impl SizeKind {
    /// Frames of at most `frame_size_max` bytes, header included.
    ///
    /// # Panics
    /// If `frame_size_max` is below 4, the size of the header.
    pub fn new(frame_size_max: u16) -> Self {
        assert!(frame_size_max as usize >= HEADER, "frame_size_max must be at least 4, the header");
        Self { frame_size_max }
    }
}

impl Default for SizeKind {
    /// Frames of at most 16 KiB.
    fn default() -> Self {
        Self::new(16 << 10)
    }
}

impl Codec for SizeKind {
    type Decoder = Self;
    type Encoder = Self;

    fn split(&self) -> (Self, Self) {
        (*self, *self)
    }

    fn frame_size_max(&self) -> usize {
        self.frame_size_max as usize
    }
}

impl Decode for SizeKind {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        let Some(&[size_low, size_high, kind_low, kind_high]) = bytes.first_chunk() else {
            return Ok(Decoded::NeedMore { missing: HEADER - bytes.len() });
        };
        let size = u16::from_le_bytes([size_low, size_high]) as usize;
        if size < HEADER && planted(Bug::ShortSizeAccepted) {
            return Ok(Decoded::Frame { kind: 0, body: HEADER..HEADER, consumed: HEADER });
        }
        if size < HEADER {
            return Err(FrameError::Malformed("size below the header's 4 bytes"));
        }
        if size > self.frame_size_max as usize && !planted(Bug::DeclaredSizeTrusted) {
            return Err(FrameError::TooLarge { size, limit: self.frame_size_max as usize });
        }
        if bytes.len() < size {
            return Ok(Decoded::NeedMore { missing: size - bytes.len() });
        }
        let kind = u16::from_le_bytes([kind_low, kind_high]);
        Ok(Decoded::Frame { kind, body: HEADER..size, consumed: size })
    }
}

impl Encode for SizeKind {
    #[inline]
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError> {
        let size = frame.body.len().saturating_add(HEADER);
        if size > self.frame_size_max as usize {
            return Err(FrameError::TooLarge { size, limit: self.frame_size_max as usize });
        }
        Ok(size)
    }

    #[inline]
    fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        let size = (frame.body.len() + HEADER) as u16;
        let [size_low, size_high] = size.to_le_bytes();
        let [kind_low, kind_high] = frame.kind.to_le_bytes();
        out.extend_from_slice(&[size_low, size_high, kind_low, kind_high]);
        out.extend_from_slice(frame.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_little_endian_and_counted() {
        let (mut decoder, mut encoder) = SizeKind::new(64).split();
        let frame = Frame { kind: 0x0201, body: b"hi" };
        assert_eq!(encoder.encoded_size(&frame), Ok(6));
        let mut wire = Vec::new();
        encoder.encode(&frame, &mut wire);
        assert_eq!(wire, [6, 0, 1, 2, b'h', b'i']);
        assert_eq!(decoder.decode(&wire), Ok(Decoded::Frame { kind: 0x0201, body: 4..6, consumed: 6 }));
    }

    #[test]
    fn sizes_below_the_header_and_above_the_limit_are_refused() {
        let (mut decoder, encoder) = SizeKind::new(64).split();
        for size in 0..4 {
            assert!(matches!(decoder.decode(&[size, 0, 0, 0]), Err(FrameError::Malformed(_))));
        }
        assert_eq!(decoder.decode(&[65, 0, 0, 0]), Err(FrameError::TooLarge { size: 65, limit: 64 }));
        assert_eq!(decoder.decode(&[64, 0, 0]), Ok(Decoded::NeedMore { missing: 1 }));
        let body = [0; 61];
        let too_large = encoder.encoded_size(&Frame { kind: 0, body: &body });
        assert_eq!(too_large, Err(FrameError::TooLarge { size: 65, limit: 64 }));
    }
}
