//! Size and kind: `u16` size, `u16` kind, body. The header that most C++ game servers use.

use crate::planted::{Bug, planted};

use super::{Codec, Decode, Decoded, Encode, Frame, FrameError};

/// Bytes of the header.
const HEADER: usize = 4;

/// `{ u16 size; u16 kind; }` before each body; little endian, and `size` counts the header, unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct SizeKind {
    frame_size_max: u16,
    big_endian: bool,
    /// What the size on the wire leaves out: 0, or the header.
    uncounted: u8,
}

impl SizeKind {
    /// Frames of at most `frame_size_max` bytes, header included.
    ///
    /// # Panics
    /// If `frame_size_max` is below 4, the size of the header.
    pub const fn new(frame_size_max: u16) -> Self {
        assert!(frame_size_max as usize >= HEADER, "frame_size_max must be at least 4, the header");
        Self { frame_size_max, big_endian: false, uncounted: 0 }
    }

    /// Size and kind in network order.
    pub const fn big_endian(self) -> Self {
        Self { big_endian: true, ..self }
    }

    /// The size counts the body alone. `frame_size_max` stays what the whole frame may take.
    pub const fn counts_body(self) -> Self {
        Self { uncounted: HEADER as u8, ..self }
    }

    #[inline]
    fn in_order(self, number: u16) -> u16 {
        if self.big_endian { number.swap_bytes() } else { number }
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
        let size =
            self.in_order(u16::from_le_bytes([size_low, size_high])) as usize + self.uncounted as usize;
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
        let kind = self.in_order(u16::from_le_bytes([kind_low, kind_high]));
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
        let size = (frame.body.len() + HEADER - self.uncounted as usize) as u16;
        let [size_low, size_high] = self.in_order(size).to_le_bytes();
        let [kind_low, kind_high] = self.in_order(frame.kind).to_le_bytes();
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
    fn the_other_order_and_the_other_size_are_had_for_the_asking() {
        let frame = Frame { kind: 0x0102, body: b"hi" };
        for (codec, header) in [
            (SizeKind::new(6).big_endian(), [0, 6, 1, 2]),
            (SizeKind::new(6).counts_body(), [2, 0, 2, 1]),
            (SizeKind::new(6).big_endian().counts_body(), [0, 2, 1, 2]),
        ] {
            let (mut decoder, mut encoder) = codec.split();
            assert_eq!(encoder.encoded_size(&frame), Ok(6));
            let mut wire = Vec::new();
            encoder.encode(&frame, &mut wire);
            assert_eq!(wire, [&header[..], b"hi"].concat());
            assert_eq!(decoder.decode(&wire), Ok(Decoded::Frame { kind: 0x0102, body: 4..6, consumed: 6 }));
            wire[usize::from(header[0] == 0)] += 1;
            assert_eq!(decoder.decode(&wire), Err(FrameError::TooLarge { size: 7, limit: 6 }));
        }
        // The largest size that can be written, and four bytes more than it says.
        let mut largest = SizeKind::new(u16::MAX).counts_body();
        let too_large = Err(FrameError::TooLarge { size: 65_539, limit: 65_535 });
        assert_eq!(largest.decode(&[0xff, 0xff, 0, 0]), too_large);
        assert_eq!(largest.decode(&[0, 0, 1, 0]), Ok(Decoded::Frame { kind: 1, body: 4..4, consumed: 4 }));
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
