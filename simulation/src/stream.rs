//! What is sent, both ways: messages that follow from a label and their number, so that whoever receives them
//! knows what must come next.

use anyport::{Codec, Delimiter, Encode, Frame, LengthPrefix, Lines, Raw, SizeKind};

use crate::chance::mix;

/// Bytes that messages are cut from: printable, so that every codec can carry them.
const PATTERN_BYTES: usize = 1 << 16;
/// Bytes of the first message of a stream: its label in hexadecimal.
const LABEL_BYTES: usize = 16;

/// Bytes of the length that the simulated [`LengthPrefix`] has.
const LENGTH_BYTES: usize = 2;

/// How the body of a stray begins: no byte of a stream is like it.
const STRAY: u8 = b'~';
/// Bytes of a stray's body before its filling: the mark, the publisher, the number.
const STRAY_BYTES: usize = 1 + 4 + 8;
/// Most bytes of its filling.
const FILLING_MAX: u64 = 200;

/// A codec that the simulation uses.
pub(crate) trait Wire: Codec + Clone {
    /// Messages arrive as they were sent; otherwise only the bytes do.
    const FRAMED: bool;
    /// Frames carry a kind.
    const KINDS: bool;
    /// Bytes of a frame before its body.
    const HEADER: usize = 0;
    /// Whether the frame that begins with these bytes is a stray; `None` if more must come to know. By itself, of one
    /// without a header.
    fn is_stray(bytes: &[u8]) -> Option<bool> {
        bytes.first().map(|&byte| byte == STRAY)
    }
    /// Bytes that are no frame, if there are such, and whether they announce too large a one. By itself, of one whose end
    /// is marked.
    fn garbage(&self, too_large: bool) -> Option<Vec<u8>> {
        too_large.then(|| vec![b'x'; self.frame_size_max() + 1])
    }
}

impl Wire for Raw {
    const FRAMED: bool = false;
    const KINDS: bool = false;
    fn is_stray(_: &[u8]) -> Option<bool> {
        Some(false)
    }
    fn garbage(&self, _: bool) -> Option<Vec<u8>> {
        None
    }
}

impl Wire for Lines {
    const FRAMED: bool = true;
    const KINDS: bool = false;
}

impl Wire for SizeKind {
    const FRAMED: bool = true;
    const KINDS: bool = true;
    const HEADER: usize = 4;
    fn is_stray(bytes: &[u8]) -> Option<bool> {
        match bytes {
            [4, 0, _, _, ..] => Some(false),
            [_, _, _, _, byte, ..] => Some(*byte == STRAY),
            _ => None,
        }
    }
    fn garbage(&self, too_large: bool) -> Option<Vec<u8>> {
        Some(if too_large { vec![0xff, 0xff, 0, 0] } else { vec![3, 0, 0, 0] })
    }
}

/// After a zero byte and a line feed, which no message has.
impl Wire for Delimiter {
    const FRAMED: bool = true;
    const KINDS: bool = false;
}

/// With [`LENGTH_BYTES`] of length in network order.
impl Wire for LengthPrefix {
    const FRAMED: bool = true;
    const KINDS: bool = false;
    const HEADER: usize = LENGTH_BYTES;
    fn is_stray(bytes: &[u8]) -> Option<bool> {
        match bytes {
            [0, 0, ..] => Some(false),
            [_, _, byte, ..] => Some(*byte == STRAY),
            _ => None,
        }
    }
    fn garbage(&self, too_large: bool) -> Option<Vec<u8>> {
        too_large.then(|| vec![0xff; LENGTH_BYTES])
    }
}

/// Makes and knows every message.
#[derive(Debug)]
pub(crate) struct Messages {
    pattern: Vec<u8>,
    body_max: usize,
}

impl Messages {
    pub(crate) fn new(body_max: usize) -> Self {
        assert!((LABEL_BYTES..PATTERN_BYTES / 2).contains(&body_max), "a body fits into the pattern");
        let pattern = (0..PATTERN_BYTES as u64).map(|at| b'0' + (mix(at) & 0x3f) as u8).collect();
        Self { pattern, body_max }
    }

    /// Kind and body of message `number` of the stream `label`.
    pub(crate) fn message(&self, label: u64, number: u64) -> (u16, Message<'_>) {
        let mixed = mix(label ^ number.rotate_left(32));
        if number == 0 {
            return (0, Message::Label(label_text(label)));
        }
        // Mostly small; at times empty or as large as may be.
        let size = match mixed & 0xf {
            0 => 0,
            1 => self.body_max,
            2..=4 => (mixed >> 8) as usize % (self.body_max + 1),
            _ => (mixed >> 8) as usize % 48.min(self.body_max),
        };
        let at = (mixed >> 40) as usize % (PATTERN_BYTES - self.body_max);
        (mixed as u16, Message::Body(&self.pattern[at..at + size]))
    }
}

impl Messages {
    /// The body of a stray: a message that is not of its session's stream, because it went to a group, or may be lost. It
    /// says itself who published it, and which it is of that one's.
    pub(crate) fn stray(&self, publisher: u16, number: u32) -> Vec<u8> {
        let mixed = mix(u64::from(publisher) << 32 | u64::from(number));
        let room = (self.body_max - STRAY_BYTES) as u64;
        let size = (mixed % FILLING_MAX.min(room + 1)) as usize;
        let at = (mixed >> 40) as usize % (PATTERN_BYTES - self.body_max);
        let mut body = format!("{}{publisher:04x}{number:08x}", char::from(STRAY)).into_bytes();
        body.extend_from_slice(&self.pattern[at..at + size]);
        body
    }

    /// Who published the stray, and which it is; `None` if it is none that anybody published.
    pub(crate) fn read_stray(&self, body: &[u8]) -> Option<(u16, u32)> {
        let text = std::str::from_utf8(body.get(1..STRAY_BYTES)?).ok()?;
        let publisher = u16::from_str_radix(text.get(..4)?, 16).ok()?;
        let number = u32::from_str_radix(text.get(4..)?, 16).ok()?;
        (self.stray(publisher, number) == body).then_some((publisher, number))
    }
}

#[derive(Debug)]
pub(crate) enum Message<'a> {
    Label([u8; LABEL_BYTES]),
    Body(&'a [u8]),
}

impl std::ops::Deref for Message<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Label(text) => text,
            Self::Body(body) => body,
        }
    }
}

fn label_text(label: u64) -> [u8; LABEL_BYTES] {
    std::array::from_fn(|at| b"0123456789abcdef"[(label >> (60 - 4 * at)) as usize & 0xf])
}

/// The label that a first message names.
pub(crate) fn label_of(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body.get(..LABEL_BYTES)?).ok()?;
    u64::from_str_radix(text, 16).ok()
}

/// The bytes of a stream as they lie on the wire, made as they are needed.
#[derive(Debug)]
pub(crate) struct WireStream {
    label: u64,
    /// Number of the next message to be encoded.
    next: u64,
    bytes: Vec<u8>,
    at: usize,
}

impl WireStream {
    pub(crate) fn new(label: u64) -> Self {
        Self { label, next: 0, bytes: Vec::new(), at: 0 }
    }

    /// Messages whose last byte has been taken.
    pub(crate) fn whole(&self) -> u64 {
        self.next - u64::from(self.at < self.bytes.len())
    }

    /// True if a message has begun and not ended.
    pub(crate) fn is_inside(&self) -> bool {
        self.at > 0 && self.at < self.bytes.len()
    }

    /// The next bytes, at least one.
    pub(crate) fn peek<C: Wire>(&mut self, messages: &Messages, codec: &C) -> &[u8] {
        while self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
            let (kind, body) = messages.message(self.label, self.next);
            let kind = if C::KINDS { kind } else { 0 };
            codec.split().1.encode(&Frame { kind, body: &body }, &mut self.bytes);
            self.next += 1;
        }
        &self.bytes[self.at..]
    }

    /// Takes bytes that [`peek`](Self::peek) showed.
    pub(crate) fn take(&mut self, count: usize) {
        self.at += count;
        assert!(self.at <= self.bytes.len(), "more was taken than shown");
    }

    /// Takes `received` if it is what comes next; otherwise says at which of its bytes it differs.
    pub(crate) fn expect<C: Wire>(
        &mut self,
        messages: &Messages,
        codec: &C,
        received: &[u8],
    ) -> Result<(), usize> {
        let mut at = 0;
        while at < received.len() {
            let next = self.peek(messages, codec);
            let count = next.len().min(received.len() - at);
            let (wanted, got) = (&next[..count], &received[at..at + count]);
            if wanted != got {
                let differs = wanted.iter().zip(got).position(|(wanted, got)| wanted != got);
                return Err(at + differs.unwrap_or(0));
            }
            self.take(count);
            at += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_expects_itself_in_any_pieces_and_nothing_else() {
        let messages = Messages::new(300);
        let codec = SizeKind::new(1_000);
        let (mut out, mut expected) = (WireStream::new(0xfeed), WireStream::new(0xfeed));
        let mut count = 0;
        for step in 1..400 {
            let part = out.peek(&messages, &codec);
            let part = part[..part.len().min(step)].to_vec();
            out.take(part.len());
            assert_eq!(expected.expect(&messages, &codec, &part), Ok(()));
            count += part.len();
        }
        assert!(count > 1_000 && out.whole() == expected.whole());
        let mut wrong = out.peek(&messages, &codec).to_vec();
        wrong[0] ^= 1;
        assert_eq!(expected.expect(&messages, &codec, &wrong), Err(0));
    }

    #[test]
    fn the_first_message_names_its_stream() {
        let messages = Messages::new(64);
        assert_eq!(label_of(&messages.message(0x12ab, 0).1), Some(0x12ab));
        assert_eq!(label_of(b"short"), None);
    }
}
