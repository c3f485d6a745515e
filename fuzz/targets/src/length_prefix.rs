//! [`LengthPrefix`] in every layout, against its definition.

use anyport_core::{Codec, Endian, Frame, FrameError, KindWidth, LengthPrefix, LengthWidth};

use crate::{
    framing::{self, Expected, Wrong},
    input::{Cuts, Input},
};

/// The input is a layout, a limit, how the rest is cut, then the rest: bytes of a stream, and messages to encode.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let layout = Layout::draw(&mut input);
    let built = layout.build();
    let possible = (0..=layout.limit).filter_map(|body| layout.frame(body)).max();
    let Some(codec) = built else {
        assert!(
            possible.is_none() || layout.varint_delivered(),
            "a layout that would make sense: {layout:?}"
        );
        return;
    };
    // The largest frame there can be. Of a varint it is the limit itself, which not every length can meet.
    let limit = codec.frame_size_max();
    let largest = possible.expect("a layout without frames was built");
    assert!(
        limit == largest || (layout.length_bytes.is_none() && limit == layout.limit),
        "{limit} for {largest}"
    );

    let cuts = Cuts::draw(&mut input);
    framing::check(&codec, input.rest(), &cuts, &layout.definition(input.rest(), limit));

    let messages = framing::messages(input.rest());
    let (wire, carried) =
        framing::encode_as(&codec, &messages, |message| layout.encoded_size(message, limit));
    let expected = layout.definition(&wire, limit);
    assert!(expected.error.is_none() && expected.frames.len() == carried.len());
    for ((received, end), (sent, sent_end)) in expected.frames.iter().zip(&carried) {
        assert_eq!(end, sent_end);
        assert_eq!(received.kind, if layout.kind == 0 { 0 } else { sent.kind });
        // Of a header that is delivered some is filled in.
        let header = if layout.delivered { layout.header(layout.length_bytes.unwrap_or(1)) } else { 0 };
        assert_eq!(received.body[header..], sent.body[header..]);
        if layout.delivered && !layout.magic {
            assert_eq!(received.body[..layout.lead], sent.body[..layout.lead]);
        }
    }
    framing::check(&codec, &wire, &cuts, &expected);
}

/// A layout as it is drawn. Numbers are large enough that nothing wraps.
#[derive(Debug)]
struct Layout {
    /// `None` for a varint.
    length_bytes: Option<usize>,
    little: bool,
    counts_header: bool,
    /// Bytes before the length, and whether they are `AP`.
    lead: usize,
    magic: bool,
    kind: usize,
    /// Bytes behind the body, and whether they are `!`.
    trailer: usize,
    mark: bool,
    delivered: bool,
    adjustment: i32,
    limit: usize,
}

impl Layout {
    fn draw(input: &mut Input<'_>) -> Self {
        let width = input.byte();
        let [around, more, adjustment] = [input.byte(), input.byte(), input.byte()];
        let limit = input.limit();
        Self {
            length_bytes: [None, Some(1), Some(2), Some(3), Some(4), Some(8)][usize::from(width % 6)],
            little: width & 0x80 != 0,
            counts_header: around & 1 != 0,
            lead: [0, 1, 2, 2][usize::from(around >> 1 & 3)],
            magic: around >> 1 & 3 == 3,
            trailer: [0, 2, 1, 1][usize::from(around >> 3 & 3)],
            mark: around >> 3 & 3 == 3,
            kind: [0, 1, 2, 0][usize::from(more & 3)],
            delivered: more & 4 != 0,
            adjustment: match adjustment.cast_signed() {
                i8::MIN => i32::MIN,
                i8::MAX => i32::MAX,
                small => i32::from(small),
            },
            limit,
        }
    }

    fn build(&self) -> Option<LengthPrefix> {
        let width = match self.length_bytes {
            None => LengthWidth::Varint,
            Some(1) => LengthWidth::U8,
            Some(2) => LengthWidth::U16,
            Some(3) => LengthWidth::U24,
            Some(4) => LengthWidth::U32,
            Some(_) => LengthWidth::U64,
        };
        let mut builder = LengthPrefix::builder(width)
            .endian(if self.little { Endian::Little } else { Endian::Big })
            .adjustment(self.adjustment)
            .frame_size_max(self.limit);
        builder = if self.magic { builder.magic(b"AP") } else { builder.offset(self.lead) };
        builder = if self.mark { builder.trailer_bytes(b"!") } else { builder.trailer(self.trailer) };
        builder = match self.kind {
            0 => builder,
            1 => builder.kind(KindWidth::U8),
            _ => builder.kind(KindWidth::U16),
        };
        builder = if self.counts_header { builder.counts_header() } else { builder };
        builder = if self.delivered { builder.deliver_header() } else { builder };
        builder.try_build().ok()
    }

    fn varint_delivered(&self) -> bool {
        self.length_bytes.is_none() && self.delivered
    }

    fn header(&self, length_bytes: usize) -> usize {
        self.lead + length_bytes + self.kind
    }

    /// What a length says beyond the size of the body.
    fn beyond(&self, length_bytes: usize) -> i128 {
        let header = if self.counts_header { self.header(length_bytes) } else { 0 };
        header as i128 - i128::from(self.adjustment)
    }

    /// Length, its bytes, and bytes of the whole frame with a body of this size, whatever the limit. `None` if the body
    /// is too small for its length.
    fn sizes(&self, body: usize) -> Option<(u128, usize, usize)> {
        match self.length_bytes {
            Some(length_bytes) => self.sizes_with(body, length_bytes),
            None => (1..=10).find_map(|length_bytes| self.sizes_with(body, length_bytes)),
        }
    }

    /// The same with a length of so many bytes; `None` too if a varint of that size cannot say it.
    fn sizes_with(&self, body: usize, length_bytes: usize) -> Option<(u128, usize, usize)> {
        let length = u128::try_from(body as i128 + self.beyond(length_bytes)).ok()?;
        let can = self.length_bytes.is_some() || digits(length) == length_bytes;
        can.then_some((length, length_bytes, self.header(length_bytes) + body + self.trailer))
    }

    /// Bytes of the whole frame, if there can be one with a body of this size.
    fn frame(&self, body: usize) -> Option<usize> {
        let (length, length_bytes, whole) = self.sizes(body)?;
        (whole <= self.limit && (self.length_bytes.is_none() || length < 1 << (8 * length_bytes)))
            .then_some(whole)
    }

    /// Most bytes of a varint that a frame can have. Where it counts itself, that may be one more than any that is sent:
    /// of two lengths that say the same body, the shorter is.
    fn varint_bytes_max(&self) -> usize {
        let fits =
            |body: usize, bytes| self.sizes_with(body, bytes).is_some_and(|(.., whole)| whole <= self.limit);
        let most = (1..=10).rev().find(|bytes| (0..=self.limit).any(|body| fits(body, *bytes)));
        most.expect("a layout without frames was built")
    }

    fn encoded_size(&self, message: &Frame<'_>, limit: usize) -> Result<usize, FrameError> {
        let header = if self.delivered { self.header(self.length_bytes.unwrap_or(1)) } else { 0 };
        let body = message.body.len().checked_sub(header).ok_or(FrameError::Malformed(""))?;
        if self.kind == 1 && message.kind > 255 {
            return Err(FrameError::Malformed(""));
        }
        match self.sizes(body).ok_or(FrameError::Malformed(""))? {
            (_, _, size) if size > limit => Err(FrameError::TooLarge { size, limit }),
            (_, _, size) => Ok(size),
        }
    }

    fn definition<'a>(&self, wire: &'a [u8], limit: usize) -> Expected<'a> {
        let (mut expected, mut start) = (Expected::default(), 0);
        let varint_bytes_max = if self.length_bytes.is_none() { self.varint_bytes_max() } else { 0 };
        loop {
            let bytes = &wire[start..];
            match self.next(bytes, limit, varint_bytes_max) {
                Ok(None) => return expected,
                Ok(Some((kind, body, whole))) => {
                    start += whole;
                    expected.frame(kind, body, start);
                }
                Err((wrong, shown)) => {
                    expected.error = Some((wrong, start + shown));
                    return expected;
                }
            }
        }
    }

    /// The frame at the front: kind, body, and bytes in all; or what is wrong, and how many bytes show it.
    #[expect(clippy::type_complexity, reason = "three numbers")]
    fn next<'a>(
        &self,
        bytes: &'a [u8],
        limit: usize,
        varint_bytes_max: usize,
    ) -> Result<Option<(u16, &'a [u8], usize)>, (Wrong, usize)> {
        if self.magic
            && let Some(at) = bytes.iter().zip(b"AP").position(|(byte, wanted)| byte != wanted)
        {
            return Err((Wrong::Malformed, at + 1));
        }
        let Some(field) = bytes.get(self.lead..) else { return Ok(None) };
        let (length, length_bytes) = match self.length_bytes {
            None => match field.iter().take(varint_bytes_max).position(|byte| *byte < 128) {
                Some(end) if end > 0 && field[end] == 0 => {
                    return Err((Wrong::Malformed, self.lead + end + 1));
                }
                Some(end) => {
                    let digits = field[..=end].iter().rev();
                    (digits.fold(0, |length, byte| length * 128 + i128::from(byte % 128)), end + 1)
                }
                None if field.len() < varint_bytes_max => return Ok(None),
                None => return Err((Wrong::TooLarge { limit }, self.lead + varint_bytes_max)),
            },
            Some(count) => {
                let Some(field) = field.get(..count) else { return Ok(None) };
                let number = |length: i128, byte: &u8| length * 256 + i128::from(*byte);
                let little = field.iter().rev().fold(0, number);
                (if self.little { little } else { field.iter().fold(0, number) }, count)
            }
        };
        let shown = self.lead + length_bytes;
        let header = self.header(length_bytes);
        let body = length - self.beyond(length_bytes);
        if body < 0 {
            return Err((Wrong::Malformed, shown));
        }
        let whole = usize::try_from(header as i128 + body + self.trailer as i128);
        let Some(whole) = whole.ok().filter(|whole| *whole <= limit) else {
            return Err((Wrong::TooLarge { limit }, shown));
        };
        let Some(frame) = bytes.get(..whole) else { return Ok(None) };
        let (front, trailer) = frame.split_at(frame.len() - self.trailer);
        if self.mark && trailer != b"!" {
            return Err((Wrong::Malformed, frame.len()));
        }
        let kind = match front[shown..header] {
            [] => 0,
            [kind] => u16::from(kind),
            [first, second] if self.little => u16::from(first) + 256 * u16::from(second),
            [first, second, ..] => 256 * u16::from(first) + u16::from(second),
        };
        Ok(Some((kind, if self.delivered { front } else { &front[header..] }, frame.len())))
    }
}

/// Digits to the base of 128.
fn digits(number: u128) -> usize {
    (1..=18).find(|digits| number < 1 << (7 * digits)).expect("there is one")
}
