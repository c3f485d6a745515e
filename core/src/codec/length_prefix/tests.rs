use super::*;

fn wire(codec: &LengthPrefix, frame: Frame<'_>) -> Vec<u8> {
    let (_, mut encoder) = codec.split();
    let mut wire = Vec::new();
    let size = encoder.encoded_size(&frame).unwrap();
    encoder.encode(&frame, &mut wire);
    assert_eq!(wire.len(), size, "other bytes than it said");
    wire
}

fn body(body: &[u8]) -> Frame<'_> {
    Frame { kind: 0, body }
}

fn decode(codec: &LengthPrefix, bytes: &[u8]) -> Result<Decoded, FrameError> {
    codec.split().0.decode(bytes)
}

fn too_large(size: usize, limit: usize) -> Result<Decoded, FrameError> {
    Err(FrameError::TooLarge { size, limit })
}

/// Encodes, compares with what the wire should hold, and decodes again.
fn both_ways(codec: &LengthPrefix, frame: Frame<'_>, bytes: &[u8]) {
    assert_eq!(wire(codec, frame), bytes);
    let Ok(Decoded::Frame { kind, body, consumed }) = decode(codec, bytes) else {
        panic!("no frame: {:?}", decode(codec, bytes));
    };
    assert_eq!((Frame { kind, body: &bytes[body] }, consumed), (frame, bytes.len()));
    for cut in 1..bytes.len() {
        let answer = decode(codec, &bytes[..cut]);
        assert!(
            matches!(answer, Ok(Decoded::NeedMore { missing }) if missing <= bytes.len() - cut),
            "cut at {cut}: {answer:?}"
        );
    }
}

#[test]
fn every_width_in_both_orders() {
    use LengthWidth::{U8, U16, U24, U32, U64};
    for (width, header) in [
        (U8, &b"\x02"[..]),
        (U16, b"\x00\x02"),
        (U24, b"\x00\x00\x02"),
        (U32, b"\x00\x00\x00\x02"),
        (U64, b"\x00\x00\x00\x00\x00\x00\x00\x02"),
    ] {
        both_ways(&LengthPrefix::new(width), body(b"hi"), &[header, b"hi"].concat());
        let little: Vec<u8> = header.iter().rev().copied().collect();
        let codec = LengthPrefix::builder(width).endian(Endian::Little).build();
        both_ways(&codec, body(b"hi"), &[&little[..], b"hi"].concat());
    }
    both_ways(&LengthPrefix::new(LengthWidth::Varint), body(b"hi"), b"\x02hi");
    let long = [b'x'; 300];
    both_ways(&LengthPrefix::new(LengthWidth::Varint), body(&long), &[b"\xac\x02", &long[..]].concat());
    let order = LengthPrefix::builder(U24).endian(Endian::Little).frame_size_max(1 << 20).build();
    assert_eq!(decode(&order, &[1, 2, 3, 0]), Ok(Decoded::NeedMore { missing: 0x03_0201 - 1 }));
}

#[test]
fn what_stands_around_the_body() {
    let builder = || LengthPrefix::builder(LengthWidth::U16);
    both_ways(&builder().offset(2).build(), body(b"hi"), b"\0\0\x00\x02hi");
    both_ways(&builder().magic(b"AP").build(), body(b"hi"), b"AP\x00\x02hi");
    both_ways(&builder().trailer(2).build(), body(b"hi"), b"\x00\x02hi\0\0");
    both_ways(&builder().trailer_bytes(b"\r\n").build(), body(b"hi"), b"\x00\x02hi\r\n");
    both_ways(&builder().magic(b"AP").counts_header().build(), body(b"hi"), b"AP\x00\x06hi");
    both_ways(&builder().trailer(1).adjustment(-1).build(), body(b"hi"), b"\x00\x03hi\0");
    both_ways(&builder().adjustment(1).build(), body(b"hi"), b"\x00\x01hi");
    let kind = Frame { kind: 0x0102, body: b"hi" };
    both_ways(&builder().kind(KindWidth::U16).build(), kind, b"\x00\x02\x01\x02hi");
    let little = builder().kind(KindWidth::U16).counts_header().endian(Endian::Little);
    both_ways(&little.build(), kind, b"\x06\x00\x02\x01hi");
    let kind = Frame { kind: 7, body: b"hi" };
    both_ways(&builder().kind(KindWidth::U8).adjustment(-1).build(), kind, b"\x00\x03\x07hi");
}

#[test]
fn what_is_ignored_may_be_anything_and_what_is_checked_may_not() {
    let frame = |codec: &LengthPrefix, bytes| matches!(decode(codec, bytes), Ok(Decoded::Frame { .. }));
    let codec = LengthPrefix::builder(LengthWidth::U8).offset(1).trailer(1).build();
    assert!(frame(&codec, b"?\x01a!"));
    let codec = LengthPrefix::builder(LengthWidth::U8).magic(b"AP").trailer_bytes(b"!").build();
    assert!(frame(&codec, b"AP\x01a!"));
    let malformed = |bytes| matches!(decode(&codec, bytes), Err(FrameError::Malformed(_)));
    assert!(malformed(b"B") && malformed(b"AB") && malformed(b"AB\x01a!") && malformed(b"AP\x01a?"));
    assert_eq!(decode(&codec, b"A"), Ok(Decoded::NeedMore { missing: 2 }));
}

#[test]
fn a_header_that_is_delivered_is_sent_the_same_way() {
    let codec =
        LengthPrefix::builder(LengthWidth::U16).offset(2).kind(KindWidth::U8).deliver_header().build();
    let frame = Frame { kind: 9, body: b"ab\x00\x02\x09hi" };
    both_ways(&codec, frame, b"ab\x00\x02\x09hi");
    assert_eq!(wire(&codec, Frame { kind: 9, body: b"ab???hi" }), b"ab\x00\x02\x09hi", "filled in");
    assert!(matches!(codec.encoded_size(&body(b"ab\0\0")), Err(FrameError::Malformed(_))));
    let marked = LengthPrefix::builder(LengthWidth::U8).magic(b"M").deliver_header().build();
    assert_eq!(wire(&marked, body(b"??hi")), b"M\x02hi");
}

#[test]
fn lengths_that_count_the_header_are_judged_from_nothing_to_the_header() {
    let codec = LengthPrefix::builder(LengthWidth::U32).offset(1).counts_header().frame_size_max(9).build();
    for length in 0..5 {
        let answer = decode(&codec, &[0, 0, 0, 0, length]);
        assert_eq!(answer, Err(FrameError::Malformed("its length is less than what it counts")), "{length}");
    }
    assert_eq!(decode(&codec, &[0, 0, 0, 0, 5]), Ok(Decoded::Frame { kind: 0, body: 5..5, consumed: 5 }));
    assert_eq!(decode(&codec, &[0, 0, 0, 0, 9]), Ok(Decoded::NeedMore { missing: 4 }));
    assert_eq!(decode(&codec, &[0, 0, 0, 0, 10]), too_large(10, 9));
    assert!(matches!(decode(&codec, &[0, 0xff, 0xff, 0xff, 0xff]), Err(FrameError::TooLarge { .. })));
}

#[test]
fn the_largest_lengths_wrap_nowhere() {
    for adjustment in [i32::MIN, -1, 0, 1, i32::MAX] {
        let codec =
            LengthPrefix::builder(LengthWidth::U64).adjustment(adjustment).frame_size_max(usize::MAX).build();
        for length in [u64::MAX, u64::MAX - 1, 1 << 63] {
            let answer = decode(&codec, &length.to_be_bytes());
            let cut = matches!(answer, Ok(Decoded::NeedMore { .. }));
            assert!(cut || matches!(answer, Err(FrameError::TooLarge { .. })), "{length}: {answer:?}");
        }
        let bounded = LengthPrefix::builder(LengthWidth::U64).adjustment(adjustment).frame_size_max(3 << 30);
        let answer = decode(&bounded.build(), &u64::MAX.to_be_bytes());
        assert!(matches!(answer, Err(FrameError::TooLarge { limit: 3_221_225_472, .. })), "{answer:?}");
    }
    let varint = LengthPrefix::builder(LengthWidth::Varint).frame_size_max(usize::MAX).build();
    let longest = [&[0xff; 9][..], &[1]].concat();
    assert!(matches!(decode(&varint, &longest), Err(FrameError::TooLarge { .. })));
}

#[test]
fn varints_that_no_frame_needs_are_not_waited_for() {
    // 127 bytes of body are the most that one byte says, 129 the most that two bytes leave of 131.
    let codec = |limit| LengthPrefix::builder(LengthWidth::Varint).frame_size_max(limit).build();
    assert_eq!(decode(&codec(128), &[0x80]), too_large(usize::MAX, 128));
    assert_eq!(decode(&codec(131), &[0x80]), Ok(Decoded::NeedMore { missing: 0 }));
    assert_eq!(decode(&codec(131), &[0x81, 0x01]), Ok(Decoded::NeedMore { missing: 129 }));
    assert_eq!(decode(&codec(131), &[0x82, 0x01]), too_large(132, 131));
    assert_eq!(decode(&codec(131), &[0x80, 0x80]), too_large(usize::MAX, 131));
    assert!(matches!(decode(&codec(131), &[0x80, 0x00]), Err(FrameError::Malformed(_))));
    let encoded = |limit, size| codec(limit).encoded_size(&body(&vec![0; size]));
    assert_eq!(encoded(129, 127), Ok(128));
    assert_eq!(encoded(129, 128), Err(FrameError::TooLarge { size: 130, limit: 129 }));
    assert_eq!(encoded(130, 128), Ok(130));
}

#[test]
fn a_varint_may_count_itself() {
    let codec = LengthPrefix::builder(LengthWidth::Varint).counts_header().build();
    for (size, header) in [(0, &[1][..]), (126, &[127]), (127, &[0x81, 1]), (128, &[0x82, 1])] {
        let payload = vec![b'x'; size];
        both_ways(&codec, body(&payload), &[header, &payload].concat());
    }
    assert!(matches!(decode(&codec, &[0]), Err(FrameError::Malformed(_))));
}

#[test]
fn a_limit_is_no_more_than_the_length_can_say() {
    let codec = LengthPrefix::builder(LengthWidth::U8).trailer(1).build();
    assert_eq!(codec.frame_size_max(), 1 + 255 + 1);
    assert_eq!(wire(&codec, body(&[0; 255])).len(), 257);
    let refused = codec.encoded_size(&body(&[0; 256]));
    assert_eq!(refused, Err(FrameError::TooLarge { size: 258, limit: 257 }));
    assert_eq!(LengthPrefix::builder(LengthWidth::U8).counts_header().build().frame_size_max(), 255);
}

#[test]
fn what_cannot_be_sent_is_refused_and_says_why() {
    let codec = LengthPrefix::builder(LengthWidth::U8).adjustment(2).kind(KindWidth::U8).build();
    let refused = |frame| codec.encoded_size(&frame).unwrap_err().to_string();
    assert!(refused(body(b"a")).contains("adjustment"));
    assert!(refused(Frame { kind: 256, body: b"abc" }).contains("255 at most"));
    assert_eq!(codec.encoded_size(&Frame { kind: 255, body: b"ab" }), Ok(4));
}

#[test]
fn a_layout_that_makes_no_sense_says_what_to_change() {
    let builder = LengthPrefix::builder;
    for (wrong, change) in [
        (builder(LengthWidth::U32).frame_size_max(3), "raise frame_size_max"),
        (builder(LengthWidth::U8).offset(4).trailer(4).frame_size_max(8), "9 bytes around its body"),
        (builder(LengthWidth::U8).adjustment(-256), "bring the adjustment nearer to 0"),
        (builder(LengthWidth::Varint).adjustment(70_000), "bring the adjustment nearer to 0"),
        (builder(LengthWidth::U8).offset(256), "255 at most"),
        (builder(LengthWidth::U8).trailer_bytes(&[0; 300]), "300 bytes"),
        (builder(LengthWidth::Varint).deliver_header(), "leave out deliver_header"),
    ] {
        let said = wrong.clone().try_build().unwrap_err().to_string();
        assert!(said.contains(change), "{said}");
    }
    assert!(builder(LengthWidth::U32).frame_size_max(4).try_build().is_ok());
    assert!(builder(LengthWidth::U8).adjustment(-255).try_build().is_ok());
}
