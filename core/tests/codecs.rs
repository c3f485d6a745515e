//! Codecs and reassembly: any bytes, cut anywhere.

use anyport_core::{
    ChunkPool, Codec, Decode, Decoded, Encode, Frame, FrameError, Lines, Raw, Reassembly, SizeKind,
};
use proptest::prelude::*;

/// What came out of a stream of chunks.
#[derive(PartialEq, Eq, Debug, Default)]
struct Seen {
    frames: Vec<(u16, Vec<u8>)>,
    error: Option<FrameError>,
}

impl Seen {
    fn failed(&self) -> bool {
        self.error.is_some()
    }

    fn joined(&self) -> Vec<u8> {
        self.frames.iter().flat_map(|(_, body)| body).copied().collect()
    }
}

/// Decodes `wire` in chunks that end at `cuts`, and checks what must hold at every step.
fn decode_all<D: Decode>(decoder: &mut D, frame_size_max: usize, wire: &[u8], cuts: &[usize]) -> Seen {
    let (mut reassembly, mut pool, mut seen) = (Reassembly::default(), ChunkPool::new(), Seen::default());
    let mut from = 0;
    for &to in cuts.iter().chain([&wire.len()]) {
        let (chunk, mut at) = (&wire[from..to], 0);
        from = to;
        let taken = loop {
            let before = (at, reassembly.buffered());
            match reassembly.next(decoder, chunk, &mut at, frame_size_max) {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= frame_size_max, "a frame above the limit");
                    seen.frames.push((frame.kind, frame.to_vec()));
                    let progress = at > before.0 || before.1 > 0;
                    assert!(progress, "a frame that took no byte");
                }
                Ok(None) => break reassembly.finish(chunk, at, frame_size_max, &mut pool),
                Err(error) => break Err(error),
            }
            assert!(at <= chunk.len());
            assert!(reassembly.buffered() <= frame_size_max, "kept more than the limit");
        };
        assert!(reassembly.buffered() <= frame_size_max, "kept {} bytes", reassembly.buffered());
        if let Err(error) = taken {
            seen.error = Some(error);
            for _ in 0..3 {
                let more = reassembly.next(decoder, chunk, &mut at, frame_size_max);
                assert!(!matches!(more, Ok(Some(_))), "a frame after an error");
            }
            break;
        }
    }
    reassembly.release(&mut pool);
    assert_eq!(reassembly.buffered(), 0);
    seen
}

fn decode_cut(codec: &impl Codec, wire: &[u8], cuts: &[usize]) -> Seen {
    decode_all(&mut codec.split().0, codec.frame_size_max(), wire, cuts)
}

/// Sorted positions in `wire`, from any numbers.
fn positions(wire: &[u8], cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
    cuts.sort_unstable();
    cuts
}

fn encode_all<C: Codec>(codec: &C, frames: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let (_, mut encoder) = codec.split();
    let mut wire = Vec::new();
    for (kind, body) in frames {
        let frame = Frame { kind: *kind, body };
        let size = encoder.encoded_size(&frame).expect("the test makes frames that fit");
        let before = wire.len();
        encoder.encode(&frame, &mut wire);
        assert_eq!(wire.len() - before, size, "the encoder took more or fewer bytes than it said");
    }
    wire
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..20)
}

fn frames() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let body = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    prop::collection::vec((any::<u16>(), body), 0..20)
}

/// Bytes that look like frames often enough to get past the first check.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        2 => Just(0_u8),
        2 => 0..12_u8,
        1 => Just(b'\n'),
        1 => Just(b'\r'),
        2 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..300)
}

/// The whole stream and each split of it: the same frames, and an error in the one if in the other.
fn same_for_every_split(codec: &impl Codec, wire: &[u8], cuts: &[usize]) -> Seen {
    let whole = decode_cut(codec, wire, &[]);
    let bytewise: Vec<usize> = (0..wire.len()).collect();
    for cuts in [cuts, &bytewise] {
        let split = decode_cut(codec, wire, cuts);
        assert_eq!(split.frames, whole.frames, "cut at {cuts:?}");
        assert_eq!(
            split.error.map(|error| std::mem::discriminant(&error)),
            whole.error.map(|error| std::mem::discriminant(&error)),
            "cut at {cuts:?}"
        );
    }
    whole
}

/// The definition of [`Lines`], written plainly.
fn lines_by_definition(mut wire: &[u8], limit: usize) -> (Vec<(u16, Vec<u8>)>, bool) {
    let mut frames = Vec::new();
    while let Some(end) = wire.iter().position(|&byte| byte == b'\n') {
        if end >= limit {
            return (frames, true);
        }
        frames.push((0, wire[..end].strip_suffix(b"\r").unwrap_or(&wire[..end]).to_vec()));
        wire = &wire[end + 1..];
    }
    (frames, wire.len() >= limit)
}

/// The definition of [`SizeKind`], written plainly.
fn size_kind_by_definition(mut wire: &[u8], limit: usize) -> (Vec<(u16, Vec<u8>)>, bool) {
    let mut frames = Vec::new();
    while wire.len() >= 4 {
        let size = usize::from(wire[0]) + 256 * usize::from(wire[1]);
        if size < 4 || size > limit {
            return (frames, true);
        }
        if size > wire.len() {
            break;
        }
        frames.push((u16::from(wire[2]) + 256 * u16::from(wire[3]), wire[4..size].to_vec()));
        wire = &wire[size..];
    }
    (frames, false)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn raw_passes_every_byte_once(wire in garbage(), cuts in cuts()) {
        let seen = decode_cut(&Raw, &wire, &positions(&wire, &cuts));
        prop_assert!(!seen.failed());
        prop_assert!(seen.frames.iter().all(|(kind, body)| *kind == 0 && !body.is_empty()));
        prop_assert_eq!(seen.joined(), wire);
    }

    #[test]
    fn lines_are_what_their_definition_says(wire in garbage(), cuts in cuts(), limit in 1..300_usize) {
        let seen = same_for_every_split(&Lines::new(limit), &wire, &positions(&wire, &cuts));
        let (frames, failed) = lines_by_definition(&wire, limit);
        prop_assert_eq!((&seen.frames, seen.failed()), (&frames, failed));
    }

    #[test]
    fn size_kind_is_what_its_definition_says(wire in garbage(), cuts in cuts(), limit in 4..300_u16) {
        let seen = same_for_every_split(&SizeKind::new(limit), &wire, &positions(&wire, &cuts));
        let (frames, failed) = size_kind_by_definition(&wire, limit as usize);
        prop_assert_eq!((&seen.frames, seen.failed()), (&frames, failed));
    }

    #[test]
    fn raw_gives_back_what_was_encoded(frames in frames(), cuts in cuts()) {
        let wire = encode_all(&Raw, &frames);
        let sent: Vec<u8> = frames.iter().flat_map(|(_, body)| body).copied().collect();
        prop_assert_eq!(decode_cut(&Raw, &wire, &positions(&wire, &cuts)).joined(), sent);
    }

    #[test]
    fn size_kind_gives_back_what_was_encoded(frames in frames(), cuts in cuts()) {
        let codec = SizeKind::new(604);
        let wire = encode_all(&codec, &frames);
        let seen = same_for_every_split(&codec, &wire, &positions(&wire, &cuts));
        prop_assert_eq!(seen, Seen { frames, error: None });
    }

    #[test]
    fn lines_give_back_what_was_encoded(frames in frames(), cuts in cuts()) {
        let codec = Lines::new(601);
        // A line cannot hold its own end, nor end in the half of one.
        let clean = |body: Vec<u8>| {
            let body: Vec<u8> = body.into_iter().filter(|&byte| byte != b'\n').collect();
            if body.ends_with(b"\r") { [&body[..body.len() - 1], b"_"].concat() } else { body }
        };
        let frames: Vec<_> = frames.into_iter().map(|(_, body)| (0, clean(body))).collect();
        let wire = encode_all(&codec, &frames);
        let seen = same_for_every_split(&codec, &wire, &positions(&wire, &cuts));
        prop_assert_eq!(seen, Seen { frames, error: None });
    }

    #[test]
    fn a_decoder_that_answers_nonsense_costs_only_its_session(
        answers in prop::collection::vec(answer(), 1..40),
        wire in garbage(),
        cuts in cuts(),
        limit in 1..100_usize,
    ) {
        let mut decoder = Scripted { answers, at: 0 };
        let cuts = positions(&wire, &cuts);
        let seen = decode_nonsense(&mut decoder, limit, &wire, &cuts);
        prop_assert!(seen <= wire.len(), "{seen} frames out of {} bytes", wire.len());
    }
}

/// Gives its answers in turn, whatever it is asked.
struct Scripted {
    answers: Vec<Result<Decoded, FrameError>>,
    at: usize,
}

impl Decode for Scripted {
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        assert!(!bytes.is_empty(), "asked about no bytes");
        self.at += 1;
        self.answers[self.at % self.answers.len()].clone()
    }
}

fn answer() -> impl Strategy<Value = Result<Decoded, FrameError>> {
    let number = || prop_oneof![0..20_usize, Just(usize::MAX), Just(usize::MAX - 1), 0..2_000_usize];
    prop_oneof![
        (any::<u16>(), number(), number(), number())
            .prop_map(|(kind, from, to, consumed)| Ok(Decoded::Frame { kind, body: from..to, consumed })),
        number().prop_map(|missing| Ok(Decoded::NeedMore { missing })),
        Just(Err(FrameError::Malformed("as the script says"))),
    ]
}

/// How many frames came out before the first error.
fn decode_nonsense(decoder: &mut Scripted, limit: usize, wire: &[u8], cuts: &[usize]) -> usize {
    let (mut reassembly, mut pool, mut frames) = (Reassembly::default(), ChunkPool::new(), 0);
    let mut from = 0;
    for &to in cuts.iter().chain([&wire.len()]) {
        let (chunk, mut at) = (&wire[from..to], 0);
        from = to;
        let result = loop {
            match reassembly.next(decoder, chunk, &mut at, limit) {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= limit);
                    frames += 1;
                }
                Ok(None) => break reassembly.finish(chunk, at, limit, &mut pool),
                Err(error) => break Err(error),
            }
        };
        assert!(reassembly.buffered() <= limit, "kept {} bytes, limit {limit}", reassembly.buffered());
        if result.is_err() {
            break;
        }
    }
    reassembly.release(&mut pool);
    frames
}

/// Counts the calls of a decoder.
struct Counting<D> {
    decoder: D,
    calls: usize,
}

impl<D: Decode> Decode for Counting<D> {
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        self.calls += 1;
        self.decoder.decode(bytes)
    }
}

/// Decoder calls for `wire` in chunks of `size`, and frames seen.
fn calls(codec: &impl Codec, wire: &[u8], size: usize) -> (usize, usize) {
    let mut counting = Counting { decoder: codec.split().0, calls: 0 };
    let cuts: Vec<usize> = (0..wire.len()).step_by(size).collect();
    let seen = decode_all(&mut counting, codec.frame_size_max(), wire, &cuts);
    assert!(!seen.failed());
    (counting.calls, seen.frames.len())
}

#[test]
fn a_stream_that_comes_byte_by_byte_costs_one_decode_a_byte() {
    let frames: Vec<(u16, Vec<u8>)> = (0..40).map(|at| (at, vec![b'a'; 37 * at as usize])).collect();
    let lines = encode_all(&Lines::new(2_000), &frames);
    let size_kind = encode_all(&SizeKind::new(2_000), &frames);
    for size in [1, 2, 3, 100, 1_448] {
        for (calls, count, wire) in [
            (calls(&Lines::new(2_000), &lines, size), frames.len(), &lines),
            (calls(&SizeKind::new(2_000), &size_kind, size), frames.len(), &size_kind),
        ] {
            let chunks = wire.len().div_ceil(size);
            assert_eq!(calls.1, count);
            // One at the end of each chunk, one for each frame, and one when a header is complete.
            let bound = chunks + 2 * count;
            assert!(calls.0 <= bound, "{} decodes for {chunks} chunks of {size}, {count} frames", calls.0);
        }
    }
}

#[test]
fn lines_look_at_each_byte_of_a_cut_line_once() {
    let mut decoder = Lines::new(10_000).split().0;
    for size in 1..=2_000 {
        // A line end among the bytes that were shown before would be found if they were looked at again.
        let mut bytes = vec![b'\n'; size];
        bytes[size - 1] = b'x';
        assert_eq!(decoder.decode(&bytes), Ok(Decoded::NeedMore { missing: 0 }), "at {size}");
    }
}

#[test]
fn a_cut_frame_is_never_kept_beyond_its_limit() {
    // A line of 3 bytes is cut, and 300 more come without an end.
    let wire = [b'x'; 303];
    let seen = decode_cut(&Lines::new(10), &wire, &[3]);
    assert!(matches!(seen.error, Some(FrameError::TooLarge { limit: 10, .. })));
}

#[test]
fn empty_frames_all_come_out_of_one_chunk_and_take_their_bytes() {
    let count = 5_000;
    let wire = vec![b'\n'; count];
    assert_eq!(decode_cut(&Lines::new(1), &wire, &[]).frames, vec![(0, vec![]); count]);
    let wire = [4, 0, 9, 0].repeat(count);
    for cuts in [vec![], (0..wire.len()).step_by(3).collect()] {
        assert_eq!(decode_cut(&SizeKind::new(4), &wire, &cuts).frames, vec![(9, vec![]); count]);
    }
}

#[test]
fn every_declared_size_is_judged_at_every_limit() {
    for limit in [4, 5, 255, 256, 16_384, u16::MAX] {
        for size in 0..=u16::MAX {
            let [low, high] = size.to_le_bytes();
            let answer = SizeKind::new(limit).decode(&[low, high, 1, 0]);
            let expected = match size {
                0..4 => Err(FrameError::Malformed("size below the header's 4 bytes")),
                _ if size > limit => Err(FrameError::TooLarge { size: size as usize, limit: limit as usize }),
                4 => Ok(Decoded::Frame { kind: 1, body: 4..4, consumed: 4 }),
                _ => Ok(Decoded::NeedMore { missing: size as usize - 4 }),
            };
            assert_eq!(answer, expected, "size {size}, limit {limit}");
        }
    }
}

/// As [`SizeKind`], but with a decoder that does not keep the limit of its codec.
#[derive(Clone)]
struct Lax;

impl Codec for Lax {
    type Decoder = SizeKind;
    type Encoder = SizeKind;

    fn split(&self) -> (SizeKind, SizeKind) {
        (SizeKind::new(u16::MAX), SizeKind::new(u16::MAX))
    }

    fn frame_size_max(&self) -> usize {
        10
    }
}

#[test]
fn a_frame_above_the_limit_is_refused_however_it_is_cut() {
    let wire = encode_all(&Lax, &[(1, vec![1; 6]), (2, vec![2; 7])]);
    let seen = same_for_every_split(&Lax, &wire, &[3, 12]);
    assert_eq!(seen.frames, [(1, vec![1; 6])]);
    assert!(matches!(seen.error, Some(FrameError::TooLarge { limit: 10, .. })));
}
