//! No framing: every run of received bytes is a frame.

use super::{Codec, Decode, Decoded, Encode, Frame, FrameError};

/// Bytes as they come. Where one `send` ends means nothing to the other side.
#[derive(Clone, Copy, Default, Debug)]
pub struct Raw;

impl Codec for Raw {
    type Decoder = Self;
    type Encoder = Self;

    fn split(&self) -> (Self, Self) {
        (*self, *self)
    }

    fn frame_size_max(&self) -> usize {
        usize::MAX
    }
}

impl Decode for Raw {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        Ok(Decoded::Frame { kind: 0, body: 0..bytes.len(), consumed: bytes.len() })
    }
}

impl Encode for Raw {
    #[inline]
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError> {
        Ok(frame.body.len())
    }

    #[inline]
    fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(frame.body);
    }
}
