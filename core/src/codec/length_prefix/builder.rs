//! How the bytes around a body are laid out, and whether that makes sense.

use std::{fmt, sync::Arc};

use super::{LengthPrefix, varint};

/// Most bytes before the length, and most of a trailer.
const AROUND_MAX: usize = 255;
/// What a frame may take if nothing is said.
const FRAME_SIZE_MAX: usize = 64 << 10;

/// How a length is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LengthWidth {
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Three bytes.
    U24,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// One to ten bytes, seven bits in each, the lowest first, as protobuf writes them (LEB128). A number has one form:
    /// one that could be shorter is malformed.
    Varint,
}

impl LengthWidth {
    /// Bytes of a length, and the largest one; `None` for a varint.
    fn fixed(self) -> Option<(usize, u64)> {
        let size = match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U24 => 3,
            Self::U32 => 4,
            Self::U64 => 8,
            Self::Varint => return None,
        };
        Some((size, u64::MAX >> (64 - 8 * size)))
    }
}

/// Which byte of a number comes first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Endian {
    /// The highest: the order of most internet protocols.
    Big,
    /// The lowest: as most processors keep it, and most games send it.
    Little,
}

/// How wide the kind of a frame is, behind its length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KindWidth {
    /// One byte: kinds up to 255.
    U8,
    /// Two bytes, in the order of the length.
    U16,
}

impl KindWidth {
    fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
        }
    }
}

/// Bytes that stand around each body.
#[derive(Clone, Default, Debug)]
pub(super) struct Around {
    /// What is sent.
    pub(super) bytes: Box<[u8]>,
    /// What is received must be the same.
    pub(super) checked: bool,
}

impl Around {
    fn ignored(count: usize) -> Self {
        Self { bytes: vec![0; count].into(), checked: false }
    }

    fn exactly(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), checked: true }
    }

    /// True if what was received of them so far is what it must be.
    #[inline]
    pub(super) fn accepts(&self, received: &[u8]) -> bool {
        if !self.checked {
            return true;
        }
        let there = received.len().min(self.bytes.len());
        received[..there] == self.bytes[..there]
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A layout that makes sense. What is derived of it is derived once.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) width: LengthWidth,
    pub(super) endian: Endian,
    pub(super) lead: Around,
    pub(super) kind: Option<KindWidth>,
    pub(super) trailer: Around,
    pub(super) header_delivered: bool,
    pub(super) frame_size_max: usize,
    counts_header: bool,
    adjustment: i32,
    /// Bytes of the largest length that a frame within the limit can have.
    pub(super) length_bytes_max: usize,
}

impl Layout {
    /// Bytes before the body when the length takes `length_bytes`.
    #[inline]
    pub(super) fn header(&self, length_bytes: usize) -> usize {
        self.lead.len() + length_bytes + self.kind.map_or(0, KindWidth::bytes)
    }

    /// What is added to a length to give the size of the body.
    #[inline]
    pub(super) fn to_body(&self, header: usize) -> i64 {
        i64::from(self.adjustment) - if self.counts_header { i64::from(header as u32) } else { 0 }
    }

    /// Most bytes of a body behind such a header that the limit leaves.
    #[inline]
    pub(super) fn room(&self, header: usize) -> usize {
        self.frame_size_max - header - self.trailer.len()
    }

    /// The largest body behind a length of so many bytes; `None` if there is none at all.
    fn largest_body(&self, length_bytes: usize, lengths: (u64, u64)) -> Option<usize> {
        let header = self.header(length_bytes);
        let room = self.frame_size_max as i128 - (header + self.trailer.len()) as i128;
        let to_body = i128::from(self.to_body(header));
        let smallest = (i128::from(lengths.0) + to_body).max(0);
        let largest = (i128::from(lengths.1) + to_body).min(room);
        if smallest <= largest { usize::try_from(largest).ok() } else { None }
    }
}

/// Makes a [`LengthPrefix`]: start with [`LengthPrefix::builder`], end with [`build`](Self::build).
#[derive(Clone, Debug)]
pub struct LengthPrefixBuilder {
    layout: Layout,
}

impl LengthPrefixBuilder {
    pub(super) fn new(width: LengthWidth) -> Self {
        let layout = Layout {
            width,
            endian: Endian::Big,
            lead: Around::default(),
            kind: None,
            trailer: Around::default(),
            header_delivered: false,
            frame_size_max: FRAME_SIZE_MAX,
            counts_header: false,
            adjustment: 0,
            length_bytes_max: 0,
        };
        Self { layout }
    }

    /// The order of the bytes of length and kind; [`Big`](Endian::Big) by default. A varint has its own.
    pub fn endian(mut self, endian: Endian) -> Self {
        self.layout.endian = endian;
        self
    }

    /// The length counts the header as well: what stands before it, itself, and the kind. By default it counts the
    /// body alone.
    pub fn counts_header(mut self) -> Self {
        self.layout.counts_header = true;
        self
    }

    /// Added to each length that is received, and taken off each that is sent: for lengths that count something else.
    /// `-2` if they count a trailer of two bytes, or a kind, too; `1` if they count one byte too few. 0 by default.
    pub fn adjustment(mut self, adjustment: i32) -> Self {
        self.layout.adjustment = adjustment;
        self
    }

    /// `count` bytes stand before the length, whatever they are. Sent as zeros, unless the header is
    /// [delivered](Self::deliver_header). None by default, 255 at most.
    pub fn offset(mut self, count: usize) -> Self {
        self.layout.lead = Around::ignored(count);
        self
    }

    /// These bytes stand before each length: a mark by which a frame is known. A frame that begins with others is
    /// malformed.
    pub fn magic(mut self, bytes: &[u8]) -> Self {
        self.layout.lead = Around::exactly(bytes);
        self
    }

    /// A kind stands between length and body, and becomes [`Frame::kind`](crate::Frame::kind).
    pub fn kind(mut self, width: KindWidth) -> Self {
        self.layout.kind = Some(width);
        self
    }

    /// `count` bytes stand behind each body, whatever they are, and are not part of it. Sent as zeros. The length does
    /// not count them, unless the [adjustment](Self::adjustment) says so. None by default, 255 at most.
    pub fn trailer(mut self, count: usize) -> Self {
        self.layout.trailer = Around::ignored(count);
        self
    }

    /// As [`trailer`](Self::trailer), but always these bytes: a frame that ends with others is malformed.
    pub fn trailer_bytes(mut self, bytes: &[u8]) -> Self {
        self.layout.trailer = Around::exactly(bytes);
        self
    }

    /// Frames begin with their header: [`Frame::body`](crate::Frame::body) is everything but the trailer. So must what
    /// is sent: the length in it is filled in (and the kind, and the magic), the rest of its header goes as it is. Not
    /// for varints, for which nobody can leave the right room.
    pub fn deliver_header(mut self) -> Self {
        self.layout.header_delivered = true;
        self
    }

    /// Most bytes of a frame, header and trailer included; 64 KiB by default. If the length cannot say as much, the
    /// limit is what it can say.
    pub fn frame_size_max(mut self, bytes: usize) -> Self {
        self.layout.frame_size_max = bytes;
        self
    }

    /// The codec.
    ///
    /// # Panics
    /// If the layout makes no sense; [`try_build`](Self::try_build) says in which way, and so does the panic.
    #[track_caller]
    pub fn build(self) -> LengthPrefix {
        match self.try_build() {
            Ok(codec) => codec,
            Err(error) => panic!("{error}"),
        }
    }

    /// The codec, or what is wrong with its layout.
    ///
    /// # Errors
    /// See [`InvalidLayout`].
    pub fn try_build(self) -> Result<LengthPrefix, InvalidLayout> {
        let Self { mut layout } = self;
        for bytes in [layout.lead.len(), layout.trailer.len()] {
            if bytes > AROUND_MAX {
                return Err(InvalidLayout::TooManyAround { bytes, most: AROUND_MAX });
            }
        }
        if let Some((bytes, largest)) = layout.width.fixed() {
            let body = layout.largest_body(bytes, (0, largest)).ok_or_else(|| no_frame_fits(&layout))?;
            layout.length_bytes_max = bytes;
            // At most what it was: the room for a body was part of the sum.
            layout.frame_size_max = layout.header(bytes) + body + layout.trailer.len();
        } else {
            if layout.header_delivered {
                return Err(InvalidLayout::VarintDelivered);
            }
            let possible = |bytes: &usize| {
                let lengths = (if *bytes == 1 { 0 } else { 1 << (7 * (bytes - 1)) }, largest_varint(*bytes));
                layout.largest_body(*bytes, lengths).is_some()
            };
            let bytes = (1..=varint::BYTES_MAX).rev().find(possible);
            layout.length_bytes_max = bytes.ok_or_else(|| no_frame_fits(&layout))?;
        }
        Ok(LengthPrefix { layout: Arc::new(layout) })
    }
}

fn largest_varint(bytes: usize) -> u64 {
    1_u64.checked_shl(7 * bytes as u32).map_or(u64::MAX, |above| above - 1)
}

fn no_frame_fits(layout: &Layout) -> InvalidLayout {
    let around = layout.header(layout.width.fixed().map_or(1, |(bytes, _)| bytes)) + layout.trailer.len();
    InvalidLayout::NoFrameFits {
        frame_size_max: layout.frame_size_max,
        around,
        adjustment: layout.adjustment,
    }
}

/// Why a layout makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InvalidLayout {
    /// More bytes before the length, or behind the body, than can be had.
    TooManyAround {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes that can be had.
        most: usize,
    },
    /// The header of a varint cannot be delivered.
    VarintDelivered,
    /// Not even the smallest frame is allowed, whatever length it has.
    NoFrameFits {
        /// The limit, in bytes.
        frame_size_max: usize,
        /// Bytes of header and trailer.
        around: usize,
        /// The adjustment of the length.
        adjustment: i32,
    },
}

impl fmt::Display for InvalidLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyAround { bytes, most } => write!(
                f,
                "length prefix: {bytes} bytes before the length or behind the body, {most} at most: make them part \
                 of the body, or write a codec of your own"
            ),
            Self::VarintDelivered => f.write_str(
                "length prefix: the header of a varint cannot be delivered, because its size depends on the body: \
                 leave out deliver_header, or choose a length of fixed width",
            ),
            Self::NoFrameFits { frame_size_max, around, adjustment } => write!(
                f,
                "length prefix: no frame fits frame_size_max {frame_size_max} with {around} bytes around its body \
                 and an adjustment of {adjustment}: raise frame_size_max, or bring the adjustment nearer to 0"
            ),
        }
    }
}

impl std::error::Error for InvalidLayout {}
