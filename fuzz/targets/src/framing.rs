//! A codec through [`Reassembly`], against what its definition says: any split of the same bytes gives the same frames
//! and the same error, each as soon as its last byte is there; limits hold, work and memory are bounded.

use anyport_core::{
    ChunkPool, Codec, Decode, Decoded, Encode, Frame, FrameError, Reassembly, send::CHUNK_BYTES,
};

use crate::{
    input::{Cuts, Input},
    memory,
};

/// What a definition makes of a stream. Positions count from its start.
#[derive(Default)]
pub(crate) struct Expected<'a> {
    /// Each frame, and where it ends.
    pub(crate) frames: Vec<(Frame<'a>, usize)>,
    /// What is wrong behind the frames, and how many bytes show it.
    pub(crate) error: Option<(Wrong, usize)>,
}

impl<'a> Expected<'a> {
    pub(crate) fn frame(&mut self, kind: u16, body: &'a [u8], end: usize) {
        self.frames.push((Frame { kind, body }, end));
    }
}

/// A [`FrameError`] without what depends on the split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    TooLarge { limit: usize },
    Malformed,
}

impl From<FrameError> for Wrong {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge { size, limit } => {
                assert!(size > limit, "{size} bytes are within the limit of {limit}");
                Self::TooLarge { limit }
            }
            FrameError::Malformed(_) | FrameError::WrongSize { .. } => Self::Malformed,
        }
    }
}

/// Feeds `wire` whole, byte by byte, and cut as the input says.
pub(crate) fn check(codec: &impl Codec, wire: &[u8], cuts: &Cuts, expected: &Expected<'_>) {
    for cuts in [&Cuts::whole(), &Cuts::smallest(wire), cuts] {
        let allocated = memory::allocated(|| feed(codec, wire, cuts, expected));
        // A buffer that grows doubles, and is there twice while it moves; a pool keeps a few pointers. What a header
        // declares does not count, only what was received.
        let kept = codec.frame_size_max().min(wire.len());
        let most = 3 * kept + 2 * CHUNK_BYTES;
        assert!(allocated.bytes_max <= most as u64, "{allocated:?} with at most {kept} bytes to keep");
    }
}

fn feed(codec: &impl Codec, wire: &[u8], cuts: &Cuts, expected: &Expected<'_>) {
    let limit = codec.frame_size_max();
    let mut decoder = Counting { decoder: codec.split().0, calls: 0 };
    let (mut reassembly, mut pool) = (Reassembly::default(), ChunkPool::new());
    let (mut frames, mut fed, mut chunks) = (0, 0, 0);
    for chunk in cuts.chunks(wire) {
        fed += chunk.len();
        chunks += 1;
        let mut at = 0;
        let taken = loop {
            match reassembly.next(&mut decoder, chunk, &mut at, limit) {
                Ok(Some(frame)) => {
                    let (wanted, end) = expected.frames.get(frames).expect("a frame too many");
                    assert_eq!(frame, *wanted, "frame {frames}");
                    assert!(*end <= fed, "a frame before its last byte");
                    frames += 1;
                }
                Ok(None) => break reassembly.finish(chunk, at, limit, &mut pool),
                Err(error) => break Err(error),
            }
        };
        let due = expected.error.filter(|(_, shown)| *shown <= fed).map(|(wrong, _)| wrong);
        assert_eq!(taken.err().map(Wrong::from), due, "after {fed} bytes and {frames} frames");
        let whole = expected.frames.partition_point(|(_, end)| *end <= fed);
        assert_eq!(frames, whole, "frames after {fed} bytes");
        if due.is_some() {
            break;
        }
        let kept = fed - expected.frames[..frames].last().map_or(0, |(_, end)| *end);
        assert_eq!(reassembly.buffered(), kept, "bytes kept of a cut frame");
        assert!(kept <= limit, "{kept} bytes kept, limit {limit}");
    }
    // Two for a chunk: the cut frame and the last look; two for a frame: its header and its end; and one for each
    // step of a decoder that cannot say how much is missing. That is below 4 a byte, and one a frame.
    let fuel = 2 * (chunks + frames) + fed / 256 + 1;
    assert!(decoder.calls <= fuel, "{} decodes of {fed} bytes in {chunks} chunks", decoder.calls);
    reassembly.release(&mut pool);
    assert_eq!(reassembly.buffered(), 0);
}

/// Counts the calls of a decoder.
struct Counting<D> {
    decoder: D,
    calls: usize,
}

impl<D: Decode> Decode for Counting<D> {
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        assert!(!bytes.is_empty(), "asked about no bytes");
        self.calls += 1;
        self.decoder.decode(bytes)
    }
}

/// Messages to encode: kind, size, body.
pub(crate) fn messages<'a>(bytes: &'a [u8]) -> Vec<Frame<'a>> {
    let mut input = Input::new(bytes);
    let mut message = || -> Option<Frame<'a>> {
        let size = usize::from(input.next()?);
        Some(Frame { kind: input.u16(), body: input.take(size) })
    };
    std::iter::from_fn(&mut message).collect()
}

/// The same without kinds, for codecs that carry none.
pub(crate) fn bodies(bytes: &[u8]) -> Vec<Frame<'_>> {
    messages(bytes).into_iter().map(|message| Frame { kind: 0, ..message }).collect()
}

/// Encodes those messages that the codec carries, and says where each ends. `overhead` is what the codec adds to a
/// body: exactly those are refused that are larger than the limit with it.
pub(crate) fn encode<'a>(
    codec: &impl Codec,
    overhead: usize,
    messages: &[Frame<'a>],
) -> (Vec<u8>, Vec<(Frame<'a>, usize)>) {
    let limit = codec.frame_size_max();
    encode_as(codec, messages, |message| match message.body.len() + overhead {
        size if size > limit => Err(FrameError::TooLarge { size, limit }),
        size => Ok(size),
    })
}

/// As [`encode`], for codecs with more to say: `size` is what each message takes, or why it is refused. The text of an
/// error is the codec's own.
pub(crate) fn encode_as<'a>(
    codec: &impl Codec,
    messages: &[Frame<'a>],
    size: impl Fn(&Frame<'a>) -> Result<usize, FrameError>,
) -> (Vec<u8>, Vec<(Frame<'a>, usize)>) {
    let (_, mut encoder) = codec.split();
    let (mut wire, mut carried) = (Vec::new(), Vec::new());
    let without_text = |error| match error {
        FrameError::Malformed(_) => FrameError::Malformed(""),
        other => other,
    };
    for message in messages {
        let wanted = size(message);
        assert_eq!(encoder.encoded_size(message).map_err(without_text), wanted, "of {message:?}");
        let Ok(size) = wanted else { continue };
        encoder.encode(message, &mut wire);
        carried.push((*message, carried.last().map_or(0, |(_, end)| *end) + size));
        assert_eq!(Some(wire.len()), carried.last().map(|(_, end)| *end), "other bytes than it said");
    }
    (wire, carried)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use anyport_core::Raw;

    use super::*;

    /// One byte a frame; `0` begins none. The errors can be planted.
    #[derive(Clone, Copy, Default)]
    struct Bytes {
        skips_twos: bool,
        says_cut: bool,
        takes_zero: bool,
        hoards: bool,
    }

    impl Codec for Bytes {
        type Decoder = Self;
        type Encoder = Raw;

        fn split(&self) -> (Self, Raw) {
            (*self, Raw)
        }

        fn frame_size_max(&self) -> usize {
            8
        }
    }

    impl Decode for Bytes {
        fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
            if self.hoards {
                std::hint::black_box(Vec::<u8>::with_capacity(1 << 16));
            }
            match bytes {
                [0, ..] if !self.takes_zero => Err(FrameError::Malformed("a zero")),
                [2, 2, ..] if self.skips_twos => Ok(Decoded::Frame { kind: 0, body: 1..2, consumed: 2 }),
                [_] if self.says_cut => Ok(Decoded::NeedMore { missing: 1 }),
                _ => Ok(Decoded::Frame { kind: 0, body: 0..1, consumed: 1 }),
            }
        }
    }

    fn passes(codec: Bytes, wire: &[u8]) -> bool {
        let zero = wire.iter().position(|&byte| byte == 0);
        let whole = &wire[..zero.unwrap_or(wire.len())];
        let frames =
            whole.chunks(1).enumerate().map(|(at, body)| (Frame { kind: 0, body }, at + 1)).collect();
        let expected = Expected { frames, error: zero.map(|at| (Wrong::Malformed, at + 1)) };
        catch_unwind(AssertUnwindSafe(|| check(&codec, wire, &Cuts::whole(), &expected))).is_ok()
    }

    #[test]
    fn what_a_codec_does_wrong_is_found() {
        let good = Bytes::default();
        for wire in [&b""[..], b"a", b"abc", b"ab\x00c", &[2, 2, 2, 7]] {
            assert!(passes(good, wire), "{wire:?}");
        }
        assert!(!passes(Bytes { skips_twos: true, ..good }, &[1, 2, 2]), "a frame that depends on the split");
        assert!(!passes(Bytes { says_cut: true, ..good }, b"abc"), "a frame that comes late");
        assert!(!passes(Bytes { takes_zero: true, ..good }, b"ab\x00"), "an error that is missing");
        assert!(!passes(Bytes { hoards: true, ..good }, b"abc"), "memory beyond the limit");
    }

    #[test]
    fn messages_are_drawn_to_the_last_byte() {
        let drawn = messages(&[2, 1, 0, b'h', b'i', 9, 2, 1, b'x']);
        assert_eq!(drawn, [Frame { kind: 1, body: b"hi" }, Frame { kind: 0x102, body: b"x" }]);
    }
}
