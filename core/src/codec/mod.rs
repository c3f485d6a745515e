//! Codecs: where frames begin and end in the stream of bytes.
//!
//! | codec | a frame is | for |
//! |---|---|---|
//! | [`Raw`] | whatever has arrived | proxies, and protocols that frame themselves |
//! | [`Lines`] | a line of text | what people type, and most text protocols |
//! | [`Delimiter`] | what stands before a delimiter of any bytes | text or binary that ends with a mark |
//! | [`Fixed`] | so many bytes | records of one size |
//! | [`LengthPrefix`] | as long as its header says | most binary protocols |
//! | [`SizeKind`] | `u16` size, `u16` kind, body | most game servers |
//!
//! A [`Codec`] is the template of a service; every session gets its own two halves from it, because a handler
//! encodes an answer while the decoder is still inside the received chunk.
//!
//! # A codec of your own
//!
//! Three traits, of which only [`Decode`] needs thought: it looks at the bytes that are there and says where the first
//! frame ends, without copying or keeping any. Where bytes come from, how they are cut, and what is kept of a cut frame
//! is not its business; nor can it break anything: whatever it answers, no frame is larger than
//! [`frame_size_max`](Codec::frame_size_max) and nothing more than that is kept.
//!
//! Here is one for records that begin with their kind, as `+` or `-`, and end with `;`:
//!
//! ```
//! use anyport_core::{Codec, Decode, Decoded, Encode, Frame, FrameError};
//!
//! #[derive(Clone, Copy)]
//! struct Votes;
//!
//! impl Codec for Votes {
//!     type Decoder = Self;
//!     type Encoder = Self;
//!
//!     fn split(&self) -> (Self, Self) {
//!         (*self, *self) // nothing to remember between two calls
//!     }
//!     fn frame_size_max(&self) -> usize {
//!         32
//!     }
//! }
//!
//! impl Decode for Votes {
//!     fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
//!         // As early as possible: what can never become a frame is not waited for.
//!         let kind = match bytes[0] {
//!             b'+' => 1,
//!             b'-' => 2,
//!             _ => return Err(FrameError::Malformed("a vote begins with + or -")),
//!         };
//!         match bytes.iter().position(|&byte| byte == b';') {
//!             Some(end) => Ok(Decoded::Frame { kind, body: 1..end, consumed: end + 1 }),
//!             // How much is missing cannot be known. It will be asked again when there is more.
//!             None => Ok(Decoded::NeedMore { missing: 0 }),
//!         }
//!     }
//! }
//!
//! impl Encode for Votes {
//!     fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError> {
//!         match frame.body.len() + 2 {
//!             size @ ..=32 => Ok(size),
//!             size => Err(FrameError::TooLarge { size, limit: 32 }),
//!         }
//!     }
//!     fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
//!         out.push(if frame.kind == 2 { b'-' } else { b'+' });
//!         out.extend_from_slice(frame.body);
//!         out.push(b';');
//!     }
//! }
//!
//! let (mut decoder, mut encoder) = Votes.split();
//! let mut wire = Vec::new();
//! encoder.encode(&Frame { kind: 2, body: b"rain" }, &mut wire);
//! assert_eq!(wire, b"-rain;");
//! assert_eq!(decoder.decode(b"-ra"), Ok(Decoded::NeedMore { missing: 0 }));
//! assert_eq!(decoder.decode(&wire), Ok(Decoded::Frame { kind: 2, body: 1..5, consumed: 6 }));
//! ```
//!
//! A frame that comes byte by byte is looked at again with each byte. Where that could be long, remember how far you
//! have looked (as [`LinesDecoder`] does), or say how much is missing (as a codec with a length can).

mod delimiter;
mod fixed;
mod length_prefix;
mod lines;
mod raw;
mod size_kind;

use std::{fmt, ops::Range};

use crate::send::Refusal;

pub use delimiter::{Delimiter, DelimiterDecoder};
pub use fixed::Fixed;
pub use length_prefix::{Endian, InvalidLayout, KindWidth, LengthPrefix, LengthPrefixBuilder, LengthWidth};
pub use lines::{Lines, LinesDecoder};
pub use raw::Raw;
pub use size_kind::SizeKind;

/// One message, as the handler sees it and as it is sent. Derefs to its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What the message is, for codecs that carry a kind; 0 for the others.
    pub kind: u16,
    /// The payload, without header or line end.
    pub body: &'a [u8],
}

impl std::ops::Deref for Frame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.body
    }
}

/// What a decoder found at the front of the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// A whole frame.
    Frame {
        /// Its kind, or 0.
        kind: u16,
        /// Where its body lies in the bytes given.
        body: Range<usize>,
        /// How many bytes it takes, header and all: at least 1.
        consumed: usize,
    },
    /// The frame is cut. It needs at least `missing` more bytes; 0 when the decoder cannot know.
    NeedMore {
        /// Bytes to wait for.
        missing: usize,
    },
}

/// Why bytes are not a frame, or a frame cannot be sent.
///
/// In what was received it is the peer's fault, and closes that session only. What cannot be sent is refused, and the
/// session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The frame is larger than the codec allows.
    TooLarge {
        /// Bytes announced or received.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The bytes cannot begin a frame, or make none; the text says what is wrong with them.
    Malformed(&'static str),
    /// The body has another size than every frame of this codec.
    WrongSize {
        /// Bytes given.
        size: usize,
        /// Bytes that a body has.
        wanted: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size, limit } => write!(f, "frame of {size} bytes, limit {limit}"),
            Self::Malformed(what) => write!(f, "malformed frame: {what}"),
            Self::WrongSize { size, wanted } => {
                write!(f, "body of {size} bytes, where this codec takes exactly {wanted}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Why a frame that a codec does not carry was not sent.
impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge { .. } => Self::FrameTooLarge,
            FrameError::Malformed(_) | FrameError::WrongSize { .. } => Self::FrameMalformed,
        }
    }
}

/// The receiving half. [How to write one](self#a-codec-of-your-own).
pub trait Decode: Send + 'static {
    /// Looks at the front of `bytes` (never empty) for one frame.
    ///
    /// After `NeedMore` it is called again with the same bytes and more behind them, so it may remember how
    /// far it has looked; after `Frame` with what follows the bytes consumed.
    ///
    /// # Errors
    /// If no bytes that might follow could make a frame of these. The session closes, and the decoder is not asked again.
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError>;
}

/// The sending half.
pub trait Encode: Send + 'static {
    /// Bytes that `frame` takes on the wire.
    ///
    /// # Errors
    /// If the codec cannot carry it. It is not sent then, and the session goes on.
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError>;

    /// Appends the frame to `out`, behind what is there, which has room for [`encoded_size`](Self::encoded_size) bytes.
    fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>);
}

/// How a service frames its messages.
pub trait Codec: Clone + Send + Sync + 'static {
    /// Receiving half of one session.
    type Decoder: Decode;
    /// Sending half of one session.
    type Encoder: Encode;

    /// The two halves for a new session.
    fn split(&self) -> (Self::Decoder, Self::Encoder);

    /// Most bytes that one frame may take on the wire. Holds for what was received, whatever a header
    /// declares: a cut frame is never kept beyond it.
    fn frame_size_max(&self) -> usize;
}
