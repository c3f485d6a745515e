//! Delimiter, fixed size, length prefix: every cut, every 16-bit length, any bytes. The fuzzers hold them against
//! definitions written apart (`fuzz/targets`).

use anyport_core::{
    ChunkPool, Codec, Decode, Decoded, Delimiter, Encode, Endian, Fixed, Frame, FrameError, KindWidth,
    LengthPrefix, LengthWidth, Reassembly, SizeKind,
};
use proptest::prelude::*;

type Frames = Vec<(u16, Vec<u8>)>;

/// Feeds `wire` in chunks that end at `cuts`: the frames, and what is wrong behind them.
fn decode<D: Decode>(
    mut decoder: D,
    limit: usize,
    wire: &[u8],
    cuts: &[usize],
) -> (Frames, Option<FrameError>) {
    let (mut reassembly, mut pool, mut frames) = (Reassembly::default(), ChunkPool::new(), Vec::new());
    let mut from = 0;
    for &to in cuts.iter().chain([&wire.len()]) {
        let (chunk, mut at) = (&wire[from..to], 0);
        from = to;
        let taken = loop {
            match reassembly.next(&mut decoder, chunk, &mut at, limit) {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= limit, "a body above the limit");
                    frames.push((frame.kind, frame.to_vec()));
                }
                Ok(None) => break reassembly.finish(chunk, at, limit, &mut pool),
                Err(error) => break Err(error),
            }
        };
        assert!(reassembly.buffered() <= limit, "{} bytes kept, limit {limit}", reassembly.buffered());
        if let Err(error) = taken {
            return (frames, Some(error));
        }
    }
    (frames, None)
}

fn decode_cut(codec: &impl Codec, wire: &[u8], cuts: &[usize]) -> (Frames, Option<FrameError>) {
    decode(codec.split().0, codec.frame_size_max(), wire, cuts)
}

/// Encodes what the codec carries, and gives that back, too.
fn encode<C: Codec>(codec: &C, frames: &[(u16, Vec<u8>)]) -> (Vec<u8>, Frames) {
    let (_, mut encoder) = codec.split();
    let (mut wire, mut carried) = (Vec::new(), Vec::new());
    for (kind, body) in frames {
        let frame = Frame { kind: *kind, body };
        if let Ok(size) = encoder.encoded_size(&frame) {
            let before = wire.len();
            encoder.encode(&frame, &mut wire);
            assert_eq!(wire.len() - before, size, "other bytes than it said");
            carried.push((*kind, body.clone()));
        }
    }
    (wire, carried)
}

/// The same frames and the same kind of error, whole, at each one and each two cuts, and byte by byte.
fn same_at_every_cut(codec: &impl Codec, wire: &[u8]) -> (Frames, Option<FrameError>) {
    let kind = |error: &Option<FrameError>| error.as_ref().map(std::mem::discriminant);
    let whole = decode_cut(codec, wire, &[]);
    let check = |cuts: &[usize]| {
        let cut = decode_cut(codec, wire, cuts);
        assert_eq!((&cut.0, kind(&cut.1)), (&whole.0, kind(&whole.1)), "{wire:?} cut at {cuts:?}");
    };
    for first in 0..=wire.len() {
        for second in first..=wire.len() {
            check(&[first, second]);
        }
    }
    check(&(0..wire.len()).collect::<Vec<_>>());
    whole
}

fn frames(bodies: &[&[u8]]) -> Frames {
    bodies.iter().map(|body| (0, body.to_vec())).collect()
}

/// Layouts that have everything at least once.
fn layouts() -> Vec<LengthPrefix> {
    use LengthWidth::{U8, U16, U24, U32, U64, Varint};
    let mut layouts = Vec::new();
    for width in [U8, U16, U24, U32, U64, Varint] {
        for endian in [Endian::Big, Endian::Little] {
            let plain = || LengthPrefix::builder(width).endian(endian).frame_size_max(300);
            layouts.extend([
                plain().build(),
                plain().counts_header().build(),
                plain().kind(KindWidth::U16).trailer(2).adjustment(-2).build(),
                plain().offset(3).trailer_bytes(b"\n").build(),
                plain().magic(b"AP").kind(KindWidth::U8).counts_header().build(),
            ]);
        }
    }
    layouts
}

#[test]
fn every_cut_gives_the_same_frames() {
    let bodies = frames(&[b"one", b"", b"three", b"x"]);
    let delimiter = Delimiter::new("\r\n\r\n", 40);
    assert_eq!(
        same_at_every_cut(&delimiter, b"one\r\n\r\n\r\n\r\nthree\r\n\r\nx\r\n\r\n"),
        (bodies.clone(), None)
    );
    let overlapping = Delimiter::new("aba", 40);
    assert_eq!(same_at_every_cut(&overlapping, b"xabababaaba"), (frames(&[b"x", b"b", b""]), None));
    assert_eq!(same_at_every_cut(&Fixed::new(3), b"onetwox"), (frames(&[b"one", b"two"]), None));
    for layout in layouts() {
        let (wire, carried) = encode(&layout, &bodies);
        assert_eq!(carried, bodies, "{layout:?}");
        assert_eq!(same_at_every_cut(&layout, &wire), (bodies.clone(), None), "{layout:?}");
    }
    for shape in [SizeKind::new(40).big_endian(), SizeKind::new(40).counts_body()] {
        let (wire, carried) = encode(&shape, &bodies);
        assert_eq!(same_at_every_cut(&shape, &wire), (carried, None), "{shape:?}");
    }
}

/// What a 16-bit length means, by the plainest sum: the size of the body, or who is at fault.
fn judged(length: u16, header: Option<i64>, adjustment: i64, limit: i64) -> Result<i64, bool> {
    let body = i64::from(length) - header.unwrap_or(0) + adjustment;
    match body + 4 {
        _ if body < 0 => Err(true),
        whole if whole > limit => Err(false),
        _ => Ok(body),
    }
}

#[test]
fn every_16_bit_length_is_judged_in_every_layout() {
    // Two bytes before the length: the header has four.
    for adjustment in [-70_000, -65_531, -5, -4, -1, 0, 1, 4, 300, 65_535] {
        for counts_header in [false, true] {
            for limit in [4_u32, 5, 255, 65_535, 65_539, 200_000] {
                let builder =
                    LengthPrefix::builder(LengthWidth::U16).offset(2).frame_size_max(limit as usize);
                let builder = builder.adjustment(adjustment);
                let builder = if counts_header { builder.counts_header() } else { builder };
                let header = counts_header.then_some(4);
                let judged = |length| judged(length, header, i64::from(adjustment), i64::from(limit));
                let Ok(codec) = builder.try_build() else {
                    assert!((0..=u16::MAX).all(|length| judged(length).is_err()), "{adjustment} {limit}");
                    continue;
                };
                let mut decoder = codec.split().0;
                for length in 0..=u16::MAX {
                    let [high, low] = length.to_be_bytes();
                    let answer = decoder.decode(&[0, 0, high, low]);
                    let right = match judged(length) {
                        Err(true) => matches!(answer, Err(FrameError::Malformed(_))),
                        Err(false) => {
                            matches!(answer, Err(FrameError::TooLarge { size, limit }) if size > limit)
                        }
                        Ok(0) => answer == Ok(Decoded::Frame { kind: 0, body: 4..4, consumed: 4 }),
                        Ok(body) => {
                            answer == Ok(Decoded::NeedMore { missing: usize::try_from(body).unwrap() })
                        }
                    };
                    assert!(right, "{length}, {adjustment}, {counts_header}, {limit}: {answer:?}");
                }
            }
        }
    }
}

#[test]
fn every_16_bit_length_that_is_sent_is_received() {
    for codec in [
        LengthPrefix::builder(LengthWidth::U16).frame_size_max(1 << 20).build(),
        LengthPrefix::builder(LengthWidth::U16).counts_header().frame_size_max(1 << 20).build(),
        LengthPrefix::builder(LengthWidth::Varint).frame_size_max(1 << 20).build(),
    ] {
        let (mut decoder, mut encoder) = codec.split();
        let (bytes, mut wire) = (vec![7; 1 << 16], Vec::new());
        for size in 0..1 << 16 {
            let frame = Frame { kind: 0, body: &bytes[..size] };
            let Ok(whole) = encoder.encoded_size(&frame) else {
                assert!(size > 65_535 - 2, "{size} is refused");
                continue;
            };
            wire.clear();
            encoder.encode(&frame, &mut wire);
            let wanted = Decoded::Frame { kind: 0, body: whole - size..whole, consumed: whole };
            assert_eq!(decoder.decode(&wire), Ok(wanted), "{size}");
        }
    }
}

/// Bytes that look like frames often enough to get past the first check.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => 0..4_u8,
        1 => Just(b'\n'),
        1 => prop_oneof![Just(b'A'), Just(b'P')],
        1 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..24)
}

fn bodies() -> impl Strategy<Value = Frames> {
    let body = prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(b'b'), any::<u8>()], 0..12);
    prop::collection::vec((any::<u16>(), body), 0..5)
}

fn without_kinds(frames: &Frames) -> Frames {
    frames.iter().map(|(_, body)| (0, body.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn hostile_bytes_give_the_same_at_every_cut_and_keep_the_limit(wire in garbage(), limit in 3..20_usize) {
        same_at_every_cut(&Delimiter::new("\n\n", limit), &wire);
        same_at_every_cut(&Delimiter::new("A\0A", limit), &wire);
        same_at_every_cut(&Fixed::new(limit), &wire);
        for layout in layouts() {
            same_at_every_cut(&layout, &wire);
        }
        same_at_every_cut(&LengthPrefix::builder(LengthWidth::U8).frame_size_max(limit).build(), &wire);
        same_at_every_cut(&LengthPrefix::builder(LengthWidth::Varint).frame_size_max(limit).build(), &wire);
        same_at_every_cut(&SizeKind::new(limit as u16 + 4).counts_body(), &wire);
    }

    #[test]
    fn what_is_encoded_is_decoded(sent in bodies()) {
        let bodies = without_kinds(&sent);
        for delimiter in ["\n", "ab", "aba", "aa"] {
            let codec = Delimiter::new(delimiter, 20);
            let (wire, carried) = encode(&codec, &bodies);
            prop_assert_eq!(decode_cut(&codec, &wire, &[]), (carried, None));
        }
        let (wire, carried) = encode(&Fixed::new(4), &bodies);
        prop_assert_eq!(decode_cut(&Fixed::new(4), &wire, &[]), (carried, None));
        for layout in layouts() {
            let (wire, carried) = encode(&layout, &bodies);
            prop_assert_eq!(decode_cut(&layout, &wire, &[]), (carried, None));
        }
        let kinds = LengthPrefix::builder(LengthWidth::U32).kind(KindWidth::U16).build();
        let (wire, carried) = encode(&kinds, &sent);
        prop_assert_eq!(&carried, &sent);
        prop_assert_eq!(decode_cut(&kinds, &wire, &[]), (carried, None));
    }
}
