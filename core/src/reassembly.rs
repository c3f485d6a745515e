//! Frames out of received chunks: decoded in place; only the tail of a frame that a chunk cuts is copied.

use crate::{
    codec::{Decode, Decoded, Frame, FrameError},
    planted::{Bug, planted},
    send::ChunkPool,
};

/// Bytes to add to a cut frame at a time when its decoder cannot tell how many are missing.
const STEP_BYTES: usize = 256;

/// What one session keeps between chunks: nothing, or the beginning of a cut frame.
///
/// For each chunk: [`next`](Self::next) until it gives no frame, then [`finish`](Self::finish).
#[derive(Default, Debug)]
pub struct Reassembly {
    tail: Vec<u8>,
    /// Bytes the cut frame still needs, as its decoder said; 0 when unknown.
    missing: usize,
    /// The tail has become a frame that was given out: nothing of it is left.
    spent: bool,
}

impl Reassembly {
    /// Bytes of a cut frame that are waiting for their rest.
    pub fn buffered(&self) -> usize {
        if self.spent { 0 } else { self.tail.len() }
    }

    /// The next whole frame, or `None` when the rest of the chunk holds none. `at` is the position in `chunk`.
    ///
    /// `frame_size_max` holds for every codec by construction, and must be the same at every call: no frame is
    /// larger, and what is kept of a cut one never exceeds it.
    #[inline]
    pub fn next<'a>(
        &'a mut self,
        decoder: &mut impl Decode,
        chunk: &'a [u8],
        at: &mut usize,
        frame_size_max: usize,
    ) -> Result<Option<Frame<'a>>, FrameError> {
        if self.spent {
            if !planted(Bug::SpentTailKept) {
                self.tail.clear();
            }
            self.spent = false;
        }
        if self.tail.is_empty() {
            let bytes = &chunk[*at..];
            if bytes.is_empty() {
                return Ok(None);
            }
            return match decoder.decode(bytes)? {
                Decoded::Frame { kind, body, consumed } => {
                    let body = checked(bytes, body, consumed, frame_size_max)?;
                    *at += consumed;
                    Ok(Some(Frame { kind, body }))
                }
                Decoded::NeedMore { missing } => {
                    self.missing = missing;
                    Ok(None)
                }
            };
        }
        self.complete_tail(decoder, chunk, at, frame_size_max)
    }

    /// Adds to the cut frame until its decoder takes it.
    #[inline(never)]
    fn complete_tail<'a>(
        &'a mut self,
        decoder: &mut impl Decode,
        chunk: &[u8],
        at: &mut usize,
        frame_size_max: usize,
    ) -> Result<Option<Frame<'a>>, FrameError> {
        loop {
            let rest = &chunk[*at..];
            if rest.is_empty() {
                return Ok(None);
            }
            let room = frame_size_max.saturating_sub(self.tail.len());
            if room == 0 {
                return Err(FrameError::TooLarge { size: self.tail.len() + 1, limit: frame_size_max });
            }
            let step = if self.missing == 0 { STEP_BYTES } else { self.missing };
            let step = step.min(room).min(rest.len());
            self.tail.extend_from_slice(&rest[..step]);
            *at += step;
            match decoder.decode(&self.tail)? {
                Decoded::Frame { kind, body, consumed } => {
                    checked(&self.tail, body.clone(), consumed, frame_size_max)?;
                    // What lies beyond the frame came from this chunk: decoding goes on there, in place.
                    let beyond = self.tail.len() - consumed;
                    if beyond > step {
                        return Err(FrameError::Malformed("the decoder took a frame it had called cut"));
                    }
                    *at -= if planted(Bug::TailTakesTooMuch) { 0 } else { beyond };
                    self.spent = true;
                    return Ok(Some(Frame { kind, body: &self.tail[body] }));
                }
                Decoded::NeedMore { missing } => self.missing = missing,
            }
            if planted(Bug::TailStartsAnew) {
                self.tail.clear();
            }
        }
    }

    /// Keeps what is left of the chunk, or gives the tail's buffer back when nothing is.
    #[inline]
    pub fn finish(
        &mut self,
        chunk: &[u8],
        at: usize,
        frame_size_max: usize,
        pool: &mut ChunkPool,
    ) -> Result<(), FrameError> {
        // Most chunks hold whole frames.
        if at == chunk.len() && self.tail.capacity() == 0 {
            return Ok(());
        }
        self.finish_cut(chunk, at, frame_size_max, pool)
    }

    #[inline(never)]
    fn finish_cut(
        &mut self,
        chunk: &[u8],
        at: usize,
        frame_size_max: usize,
        pool: &mut ChunkPool,
    ) -> Result<(), FrameError> {
        if self.spent {
            if !planted(Bug::SpentTailKept) {
                self.tail.clear();
            }
            self.spent = false;
        }
        let rest = &chunk[at..];
        if rest.is_empty() {
            if self.tail.is_empty() && self.tail.capacity() > 0 {
                pool.give_tail(std::mem::take(&mut self.tail));
            }
            return Ok(());
        }
        if rest.len() > frame_size_max {
            return Err(FrameError::TooLarge { size: rest.len(), limit: frame_size_max });
        }
        if self.tail.capacity() == 0 {
            self.tail = pool.take_tail();
        }
        self.tail.extend_from_slice(rest);
        Ok(())
    }

    /// Gives the buffer back at the end of a session.
    pub fn release(&mut self, pool: &mut ChunkPool) {
        self.spent = false;
        if self.tail.capacity() > 0 {
            pool.give_tail(std::mem::take(&mut self.tail));
        }
    }
}

/// A codec of the user's own may answer nonsense; it must cost its session, not the shard.
fn checked(
    bytes: &[u8],
    body: std::ops::Range<usize>,
    consumed: usize,
    frame_size_max: usize,
) -> Result<&[u8], FrameError> {
    if consumed == 0 || consumed > bytes.len() {
        return Err(FrameError::Malformed("the decoder consumed no byte, or more than there are"));
    }
    if consumed > frame_size_max {
        return Err(FrameError::TooLarge { size: consumed, limit: frame_size_max });
    }
    bytes[..consumed].get(body).ok_or(FrameError::Malformed("the decoder's body lies outside its frame"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec, Lines, SizeKind};

    /// Feeds `wire` in chunks that end at `cuts`.
    fn frames(codec: &impl Codec, wire: &[u8], cuts: &[usize]) -> Result<Vec<(u16, Vec<u8>)>, FrameError> {
        let (mut decoder, _) = codec.split();
        let (mut reassembly, mut pool, mut out) = (Reassembly::default(), ChunkPool::new(), Vec::new());
        let mut from = 0;
        for &to in cuts.iter().chain([&wire.len()]) {
            let (chunk, mut at) = (&wire[from..to], 0);
            while let Some(frame) = reassembly.next(&mut decoder, chunk, &mut at, codec.frame_size_max())? {
                out.push((frame.kind, frame.to_vec()));
            }
            reassembly.finish(chunk, at, codec.frame_size_max(), &mut pool)?;
            from = to;
        }
        Ok(out)
    }

    #[test]
    fn every_single_cut_gives_the_same_frames() {
        let wire = b"\x06\x00\x01\x00ab\x04\x00\x02\x00\x09\x00\x03\x00hello";
        let whole = frames(&SizeKind::new(64), wire, &[]).unwrap();
        assert_eq!(whole.len(), 3);
        for cut in 0..=wire.len() {
            assert_eq!(frames(&SizeKind::new(64), wire, &[cut]).unwrap(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_that_never_ends_is_stopped_at_the_limit() {
        let wire = vec![b'x'; 100];
        let cuts: Vec<usize> = (1..100).collect();
        assert_eq!(frames(&Lines::new(40), &wire, &cuts), Err(FrameError::TooLarge { size: 41, limit: 40 }));
    }

    /// Says a frame is cut whatever comes, as a codec with a bug might.
    #[derive(Clone)]
    struct Insatiable;
    impl Codec for Insatiable {
        type Decoder = Self;
        type Encoder = crate::Raw;
        fn split(&self) -> (Self, crate::Raw) {
            (Self, crate::Raw)
        }
        fn frame_size_max(&self) -> usize {
            1_000
        }
    }
    impl Decode for Insatiable {
        fn decode(&mut self, _: &[u8]) -> Result<Decoded, FrameError> {
            Ok(Decoded::NeedMore { missing: 1 })
        }
    }

    #[test]
    fn the_limit_holds_for_a_codec_that_does_not_keep_it() {
        let wire = vec![0; 5_000];
        assert!(matches!(frames(&Insatiable, &wire, &[]), Err(FrameError::TooLarge { .. })));
        let cuts: Vec<usize> = (0..5_000).step_by(7).collect();
        assert!(matches!(frames(&Insatiable, &wire, &cuts), Err(FrameError::TooLarge { size: 1_001, .. })));
    }

    #[test]
    fn nothing_is_kept_once_no_frame_is_cut() {
        let codec = SizeKind::new(64);
        let (mut decoder, _) = codec.split();
        let (mut reassembly, mut pool) = (Reassembly::default(), ChunkPool::new());
        for chunk in [&b"\x05\x00\x00"[..], b"\x00a"] {
            let mut at = 0;
            while reassembly.next(&mut decoder, chunk, &mut at, 64).unwrap().is_some() {}
            reassembly.finish(chunk, at, 64, &mut pool).unwrap();
        }
        assert_eq!((reassembly.buffered(), reassembly.tail.capacity()), (0, 0));
    }
}
