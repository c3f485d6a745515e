//! Frames that end with a delimiter of any bytes.

use std::sync::Arc;

use memchr::memmem::Finder;

use crate::planted::{Bug, planted};

use super::{Codec, Decode, Decoded, Encode, Frame, FrameError};

/// Frames ended by a delimiter: a zero byte, a blank line, `"\r\n"` and nothing else. It is not part of the frame.
///
/// What is sent gets the delimiter. A body that would arrive as something else, because it holds the delimiter or runs
/// into it, is refused: whoever passes on what a peer wrote need not look for it. Bytes after the last delimiter are
/// dropped when the peer closes. For text that people type, take [`Lines`](super::Lines): it accepts both line ends.
#[derive(Clone, Debug)]
pub struct Delimiter {
    shared: Arc<Shared>,
}

/// What all sessions of a service have in common.
#[derive(Debug)]
struct Shared {
    finder: Finder<'static>,
    frame_size_max: usize,
    /// How many bytes of the delimiter may stand at the end of a body and, with the beginning of the one that follows,
    /// make an earlier delimiter. Of `"aba"` it is 2: `"xab"` and `"aba"` are `"x"`, a delimiter, and `"ba"`. None for
    /// a delimiter that does not end as it begins.
    overlaps: Box<[usize]>,
}

impl Shared {
    fn delimiter(&self) -> &[u8] {
        self.finder.needle()
    }
}

impl Delimiter {
    /// Frames of at most `frame_size_max` bytes, delimiter included.
    ///
    /// A short delimiter is meant: of a frame that comes in small pieces, each piece costs another look at as many
    /// bytes as the delimiter has.
    ///
    /// # Panics
    /// If `delimiter` is empty, or `frame_size_max` is less than it takes: no frame could ever be received.
    pub fn new(delimiter: impl AsRef<[u8]>, frame_size_max: usize) -> Self {
        let delimiter = delimiter.as_ref();
        assert!(!delimiter.is_empty(), "the delimiter must have at least one byte");
        assert!(
            frame_size_max >= delimiter.len(),
            "frame_size_max must be at least {}, the size of the delimiter",
            delimiter.len()
        );
        let size = delimiter.len();
        let overlaps = (1..size).filter(|&at| delimiter[at..] == delimiter[..size - at]).collect();
        let finder = Finder::new(delimiter).into_owned();
        Self { shared: Arc::new(Shared { finder, frame_size_max, overlaps }) }
    }
}

impl Codec for Delimiter {
    type Decoder = DelimiterDecoder;
    type Encoder = Self;

    fn split(&self) -> (DelimiterDecoder, Self) {
        (DelimiterDecoder { shared: Arc::clone(&self.shared), scanned: 0 }, self.clone())
    }

    fn frame_size_max(&self) -> usize {
        self.shared.frame_size_max
    }
}

/// Receiving half of [`Delimiter`]. Remembers how far it has looked, so that a frame that trickles in costs no more than
/// one that comes at once.
#[derive(Debug)]
pub struct DelimiterDecoder {
    shared: Arc<Shared>,
    scanned: usize,
}

impl Decode for DelimiterDecoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        let limit = self.shared.frame_size_max;
        let size = self.shared.delimiter().len();
        let window = &bytes[..bytes.len().min(limit)];
        // A delimiter may have begun among the bytes looked at before.
        let back = if planted(Bug::CutDelimiterMissed) { 0 } else { size - 1 };
        let from = self.scanned.saturating_sub(back).min(window.len());
        if let Some(found) = self.shared.finder.find(&window[from..]) {
            self.scanned = 0;
            let end = from + found;
            return Ok(Decoded::Frame { kind: 0, body: 0..end, consumed: end + size });
        }
        if bytes.len() >= limit {
            // Even if the next byte completed the delimiter, the frame would be one byte too long.
            return Err(FrameError::TooLarge { size: bytes.len() + 1, limit });
        }
        if !planted(Bug::DelimiterLookedForAgain) {
            self.scanned = bytes.len();
        }
        Ok(Decoded::NeedMore { missing: 0 })
    }
}

impl Encode for Delimiter {
    fn encoded_size(&self, frame: &Frame<'_>) -> Result<usize, FrameError> {
        let Shared { finder, frame_size_max, overlaps } = &*self.shared;
        let delimiter = finder.needle();
        let size = frame.body.len().saturating_add(delimiter.len());
        if size > *frame_size_max {
            return Err(FrameError::TooLarge { size, limit: *frame_size_max });
        }
        let runs_into_it = |overlap: &usize| frame.body.ends_with(&delimiter[..*overlap]);
        if finder.find(frame.body).is_some() || overlaps.iter().any(runs_into_it) {
            return Err(FrameError::Malformed("the body holds the delimiter, or runs into it"));
        }
        Ok(size)
    }

    fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(frame.body);
        out.extend_from_slice(self.shared.delimiter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Result<Decoded, FrameError> = Ok(Decoded::NeedMore { missing: 0 });

    fn frame(body: usize, consumed: usize) -> Decoded {
        Decoded::Frame { kind: 0, body: 0..body, consumed }
    }

    #[test]
    fn a_delimiter_is_found_however_it_is_cut() {
        for cut in 0..=7 {
            let (mut decoder, _) = Delimiter::new("\r\n\r\n", 16).split();
            let whole = b"a\r\nb\r\n\r\n";
            for end in [cut, cut + 1].into_iter().filter(|end| (1..whole.len()).contains(end)) {
                assert_eq!(decoder.decode(&whole[..end]), CUT, "after {end}");
            }
            assert_eq!(decoder.decode(whole), Ok(frame(4, 8)), "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_may_fill_the_limit_and_not_exceed_it() {
        let decode = |bytes: &[u8]| Delimiter::new(b"--", 5).split().0.decode(bytes);
        assert_eq!(decode(b"abc--"), Ok(frame(3, 5)));
        assert_eq!(decode(b"abcd"), CUT);
        assert_eq!(decode(b"abcd-"), Err(FrameError::TooLarge { size: 6, limit: 5 }));
        assert_eq!(decode(b"abcd--"), Err(FrameError::TooLarge { size: 7, limit: 5 }));
    }

    #[test]
    fn bytes_of_a_cut_frame_are_looked_at_once() {
        let (mut decoder, _) = Delimiter::new("<>", 10_000).split();
        for size in 2..=2_000 {
            // Delimiters among what was shown before would be found if that were looked at again.
            let mut bytes = b"<>".repeat(size);
            bytes.truncate(size);
            bytes[size - 1] = b'x';
            bytes[size - 2] = b'x';
            assert_eq!(decoder.decode(&bytes), CUT, "at {size}");
        }
    }

    #[test]
    fn a_body_that_would_arrive_as_another_is_refused() {
        let holds = Err(FrameError::Malformed("the body holds the delimiter, or runs into it"));
        let size = |delimiter, body| Delimiter::new(delimiter, 9).encoded_size(&Frame { kind: 0, body });
        assert_eq!(size("\n", b"ab"), Ok(3));
        assert_eq!(size("\n", b"a\nb"), holds);
        assert_eq!(size("aba", b"xab"), holds, "x, then a delimiter, then ba");
        assert_eq!(size("aba", b"xa"), Ok(5), "xaaba holds one at its end");
        assert_eq!(size("--", b"x-"), holds);
        assert_eq!(size("--", b"123456789"), Err(FrameError::TooLarge { size: 11, limit: 9 }));
    }
}
