//! Codecs: where frames begin and end in the stream of bytes.
//!
//! A [`Codec`] is the template of a service; every session gets its own two halves from it, because a handler
//! encodes an answer while the decoder is still inside the received chunk.

mod lines;
mod raw;
mod size_kind;

use std::{fmt, ops::Range};

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

/// Why bytes are not a frame. Always the peer's fault: it closes that session only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The frame is larger than the codec allows.
    TooLarge {
        /// Bytes announced or received.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The bytes cannot begin a frame; the text says what is wrong with them.
    Malformed(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size, limit } => write!(f, "frame of {size} bytes, limit {limit}"),
            Self::Malformed(what) => write!(f, "malformed frame: {what}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The receiving half.
pub trait Decode: Send + 'static {
    /// Looks at the front of `bytes` (never empty) for one frame.
    ///
    /// After `NeedMore` it is called again with the same bytes and more behind them, so it may remember how
    /// far it has looked; after `Frame` with what follows the bytes consumed.
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError>;
}

/// The sending half.
pub trait Encode: Send + 'static {
    /// Bytes that `frame` takes on the wire, or `TooLarge` when the codec cannot carry it.
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError>;

    /// Appends the frame to `out`, which has room for [`encoded_size`](Self::encoded_size) bytes.
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
