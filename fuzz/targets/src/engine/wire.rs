//! The codecs of the engine's target, said apart from their code: bytes of a message, messages of a stream.

use crate::{framing::Expected, lines, size_kind};

/// Largest frame on the wire.
pub(super) const FRAME_SIZE_MAX: usize = 200;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wire {
    Raw,
    Lines,
    SizeKind,
}

impl Wire {
    /// Appends the bytes of a message.
    pub(super) fn encode(self, kind: u16, body: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Raw => out.extend_from_slice(body),
            Self::Lines => {
                out.extend_from_slice(body);
                out.push(b'\n');
            }
            Self::SizeKind => {
                out.extend_from_slice(&(body.len() as u16 + 4).to_le_bytes());
                out.extend_from_slice(&kind.to_le_bytes());
                out.extend_from_slice(body);
            }
        }
    }

    /// What a stream holds, and whether something is wrong behind it.
    fn expected(self, stream: &[u8]) -> Expected<'_> {
        match self {
            Self::Raw => {
                let mut expected = Expected::default();
                expected.frame(0, stream, stream.len());
                expected
            }
            Self::Lines => lines::definition(stream, FRAME_SIZE_MAX),
            Self::SizeKind => size_kind::definition(stream, FRAME_SIZE_MAX),
        }
    }

    /// Checks what a session received of a stream. `all` tells that it must be everything there is.
    pub(super) fn check_received(self, received: &[(u16, Vec<u8>)], stream: &[u8], all: bool) {
        let frames = self.expected(stream).frames;
        if self == Self::Raw {
            // Where a frame ends means nothing.
            let received: Vec<u8> = received.iter().flat_map(|(_, body)| body).copied().collect();
            assert!(stream.starts_with(&received), "received what was not sent: {received:?} of {stream:?}");
            assert!(!all || received.len() == stream.len(), "{} of {}", received.len(), stream.len());
            return;
        }
        assert!(received.len() <= frames.len(), "more frames than were sent");
        for ((kind, body), (frame, _)) in received.iter().zip(&frames) {
            assert_eq!((*kind, &body[..]), (frame.kind, frame.body), "not the frame that was sent");
        }
        assert!(!all || received.len() == frames.len(), "{} frames of {}", received.len(), frames.len());
    }

    /// True if the stream has something that is no frame.
    pub(super) fn is_wrong(self, stream: &[u8]) -> bool {
        self.expected(stream).error.is_some()
    }
}
