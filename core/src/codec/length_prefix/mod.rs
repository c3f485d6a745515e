//! A length before each body: the family of framings that most binary protocols belong to.

mod builder;
mod varint;

use std::sync::Arc;

use crate::planted::{Bug, planted};

use self::{builder::Layout, varint::Varint};
use super::{Codec, Decode, Decoded, Encode, Frame, FrameError};

pub use builder::{Endian, InvalidLayout, KindWidth, LengthPrefixBuilder, LengthWidth};

/// Frames that say how long they are.
///
/// ```text
/// | before the length | length | kind | body | trailer |
///   offset or magic            optional        optional
/// ```
///
/// ```
/// use anyport_core::{Endian, LengthPrefix, LengthWidth};
///
/// // `u32` in network order, then the body; frames of at most 64 KiB.
/// let plain = LengthPrefix::new(LengthWidth::U32);
///
/// // `AP`, `u16` size of all but the trailer, body, line feed.
/// let marked = LengthPrefix::builder(LengthWidth::U16)
///     .endian(Endian::Little)
///     .magic(b"AP")
///     .counts_header()
///     .trailer_bytes(b"\n")
///     .frame_size_max(1 << 10)
///     .build();
/// # use anyport_core::{Codec, Encode, Frame};
/// # let mut wire = Vec::new();
/// # plain.split().1.encode(&Frame { kind: 0, body: b"hi" }, &mut wire);
/// # assert_eq!(wire, b"\x00\x00\x00\x02hi");
/// # marked.split().1.encode(&Frame { kind: 0, body: b"hi" }, &mut wire);
/// # assert_eq!(&wire[6..], b"AP\x06\x00hi\n");
/// ```
///
/// A length is held against the limit as soon as it is there, and nothing is set aside for what it announces. A length
/// that leaves less than nothing for the body is malformed, and so is a varint longer than it needs to be.
#[derive(Clone, Debug)]
pub struct LengthPrefix {
    layout: Arc<Layout>,
}

impl LengthPrefix {
    /// A length in network order that counts the body, then the body; frames of at most 64 KiB.
    pub fn new(width: LengthWidth) -> Self {
        Self::builder(width).build()
    }

    /// Everything else.
    pub fn builder(width: LengthWidth) -> LengthPrefixBuilder {
        LengthPrefixBuilder::new(width)
    }
}

impl Codec for LengthPrefix {
    type Decoder = Self;
    type Encoder = Self;

    fn split(&self) -> (Self, Self) {
        (self.clone(), self.clone())
    }

    fn frame_size_max(&self) -> usize {
        self.layout.frame_size_max
    }
}

impl Decode for LengthPrefix {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        let layout = &*self.layout;
        if !layout.lead.accepts(bytes) {
            return Err(FrameError::Malformed("it does not begin with its magic"));
        }
        let (length, length_bytes) = match layout.read_length(bytes)? {
            Length::Whole(length, length_bytes) => (length, length_bytes),
            Length::Cut { missing } => return Ok(Decoded::NeedMore { missing }),
        };
        let header = layout.header(length_bytes);
        let body = layout.body_size(length, header)?;
        let (end, whole) = (header + body, header + body + layout.trailer.len());
        if bytes.len() < whole {
            return Ok(Decoded::NeedMore { missing: whole - bytes.len() });
        }
        if !layout.trailer.accepts(&bytes[end..whole]) {
            return Err(FrameError::Malformed("it does not end with its trailer"));
        }
        let kind = layout.read_kind(&bytes[..header]);
        let start = if layout.header_delivered { 0 } else { header };
        Ok(Decoded::Frame { kind, body: start..end, consumed: whole })
    }
}

/// The length field at the front of a frame.
enum Length {
    /// What it says, and its bytes.
    Whole(u64, usize),
    Cut {
        missing: usize,
    },
}

impl Layout {
    #[inline]
    fn read_length(&self, bytes: &[u8]) -> Result<Length, FrameError> {
        let field = bytes.get(self.lead.len()..).unwrap_or_default();
        let big = self.endian == Endian::Big;
        let length = match self.width {
            LengthWidth::Varint => return self.read_varint(field),
            LengthWidth::U8 => field.first().map(|&byte| u64::from(byte)),
            LengthWidth::U16 => field.first_chunk().map(|&field| {
                u64::from(if big { u16::from_be_bytes(field) } else { u16::from_le_bytes(field) })
            }),
            LengthWidth::U24 => field.first_chunk().map(|&[a, b, c]| {
                u64::from(u32::from_le_bytes(if big { [c, b, a, 0] } else { [a, b, c, 0] }))
            }),
            LengthWidth::U32 => field.first_chunk().map(|&field| {
                u64::from(if big { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) })
            }),
            LengthWidth::U64 => field
                .first_chunk()
                .map(|&field| if big { u64::from_be_bytes(field) } else { u64::from_le_bytes(field) }),
        };
        let missing = || self.lead.len() + self.length_bytes_max - bytes.len();
        Ok(length.map_or_else(
            || Length::Cut { missing: missing() },
            |length| Length::Whole(length, self.length_bytes_max),
        ))
    }

    #[inline]
    fn read_varint(&self, field: &[u8]) -> Result<Length, FrameError> {
        match varint::read(field, self.length_bytes_max) {
            Varint::Number(length, length_bytes) => Ok(Length::Whole(length, length_bytes)),
            // Unknown: to be asked again for each byte of it would cost more than to be shown what follows as well.
            Varint::Cut => Ok(Length::Cut { missing: 0 }),
            Varint::Overlong if planted(Bug::OverlongVarintTaken) => Ok(Length::Whole(0, 1)),
            Varint::Overlong => {
                Err(FrameError::Malformed("its length is written longer than it needs to be"))
            }
            Varint::TooLong => Err(FrameError::TooLarge { size: usize::MAX, limit: self.frame_size_max }),
        }
    }

    /// The size of the body that a length announces, if such a frame is allowed. From here on it is a size in memory,
    /// however large the length was.
    #[inline]
    fn body_size(&self, length: u64, header: usize) -> Result<usize, FrameError> {
        let room = self.room(header);
        let to_body = self.to_body(header);
        if planted(Bug::LengthWraps) {
            return Ok((length.wrapping_add_signed(to_body) as usize).min(room));
        }
        let body = match length.checked_add_signed(to_body) {
            Some(body) => body,
            None if to_body < 0 => {
                return Err(FrameError::Malformed("its length is less than what it counts"));
            }
            None => u64::MAX,
        };
        match usize::try_from(body) {
            Ok(body) if body <= room => Ok(body),
            Ok(body) if planted(Bug::DeclaredLengthTrusted) => Ok(body.min(usize::MAX / 4)),
            announced => {
                let around = header + self.trailer.len();
                let size = announced.unwrap_or(usize::MAX).saturating_add(around);
                Err(FrameError::TooLarge { size, limit: self.frame_size_max })
            }
        }
    }

    #[inline]
    fn read_kind(&self, header: &[u8]) -> u16 {
        match (self.kind, header) {
            (Some(KindWidth::U8), [.., kind]) => u16::from(*kind),
            (Some(KindWidth::U16), [.., first, second]) => match self.endian {
                Endian::Big => u16::from_be_bytes([*first, *second]),
                Endian::Little => u16::from_le_bytes([*first, *second]),
            },
            _ => 0,
        }
    }

    /// The length of a frame with such a body, and how many bytes it takes. `None` if no length says it.
    #[inline]
    fn length_of(&self, body: usize) -> Option<(u64, usize)> {
        if self.width != LengthWidth::Varint {
            let length =
                (body as u64).checked_add_signed(-self.to_body(self.header(self.length_bytes_max)))?;
            return Some((length, self.length_bytes_max));
        }
        // A varint that counts itself: its size depends on what it says.
        (1..=varint::BYTES_MAX).find_map(|length_bytes| {
            let length = (body as u64).checked_add_signed(-self.to_body(self.header(length_bytes)))?;
            (varint::size(length) == length_bytes).then_some((length, length_bytes))
        })
    }

    #[inline]
    fn write_length(&self, length: u64, out: &mut Vec<u8>) {
        let field = match self.endian {
            Endian::Little => length.to_le_bytes(),
            // The lowest bytes come last: moved to the front.
            Endian::Big => (length << (64 - 8 * self.length_bytes_max.min(8))).to_be_bytes(),
        };
        // One arm for each width: a copy of a size that the compiler knows.
        match self.width {
            LengthWidth::Varint => varint::write(length, out),
            LengthWidth::U8 => out.push(field[0]),
            LengthWidth::U16 => out.extend_from_slice(&field[..2]),
            LengthWidth::U24 => out.extend_from_slice(&field[..3]),
            LengthWidth::U32 => out.extend_from_slice(&field[..4]),
            LengthWidth::U64 => out.extend_from_slice(&field),
        }
    }

    #[inline]
    fn write_kind(&self, kind: u16, out: &mut Vec<u8>) {
        match (self.kind, self.endian) {
            (None, _) => {}
            (Some(KindWidth::U8), _) => out.push(kind as u8),
            (Some(KindWidth::U16), Endian::Big) => out.extend_from_slice(&kind.to_be_bytes()),
            (Some(KindWidth::U16), Endian::Little) => out.extend_from_slice(&kind.to_le_bytes()),
        }
    }

    /// The body without the header that it begins with where headers are delivered.
    #[inline]
    fn bare_body<'a>(&self, frame: &Frame<'a>) -> Result<&'a [u8], FrameError> {
        if !self.header_delivered {
            return Ok(frame.body);
        }
        let header = self.header(self.length_bytes_max);
        frame.body.get(header..).ok_or(FrameError::Malformed("the body does not begin with its header"))
    }
}

impl Encode for LengthPrefix {
    #[inline]
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError> {
        let layout = &*self.layout;
        let body = layout.bare_body(frame)?.len();
        let limit = layout.frame_size_max;
        if layout.kind == Some(KindWidth::U8) && frame.kind > 255 {
            return Err(FrameError::Malformed("the kind takes one byte: 255 at most"));
        }
        let Some((_, length_bytes)) = layout.length_of(body) else {
            return Err(FrameError::Malformed(
                "the body is so small that no length says it: look at the adjustment",
            ));
        };
        match body.saturating_add(layout.header(length_bytes) + layout.trailer.len()) {
            size if size > limit => Err(FrameError::TooLarge { size, limit }),
            size => Ok(size),
        }
    }

    #[inline]
    fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        let layout = &*self.layout;
        let sized = layout.bare_body(frame).ok().and_then(|body| Some((body, layout.length_of(body.len())?)));
        let (body, (length, _)) = sized.expect("a frame that encoded_size has refused");
        let lead = if layout.header_delivered && !layout.lead.checked {
            &frame.body[..layout.lead.len()]
        } else {
            &layout.lead.bytes
        };
        if !lead.is_empty() {
            out.extend_from_slice(lead);
        }
        layout.write_length(length, out);
        layout.write_kind(frame.kind, out);
        out.extend_from_slice(body);
        if layout.trailer.len() > 0 {
            out.extend_from_slice(&layout.trailer.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
