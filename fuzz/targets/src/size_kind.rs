//! [`SizeKind`], against its definition.

use anyport_core::SizeKind;

use crate::{
    framing::{self, Expected, Wrong},
    input::{Cuts, Input},
};

/// Bytes before each body.
const HEADER: usize = 4;

/// The input is a limit, how the rest is cut, then the rest: bytes of a stream, and messages to encode.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limit = input.limit() + HEADER - 1;
    let (codec, cuts) = (SizeKind::new(limit as u16), Cuts::draw(&mut input));
    framing::check(&codec, input.rest(), &cuts, &definition(input.rest(), limit));

    let messages = framing::messages(input.rest());
    let (wire, frames) = framing::encode(&codec, HEADER, &messages);
    framing::check(&codec, &wire, &cuts, &Expected { frames, error: None });
}

/// Size of the whole and kind, two bytes each, the lower first; then the body.
pub(crate) fn definition(wire: &[u8], limit: usize) -> Expected<'_> {
    let (mut expected, mut start) = (Expected::default(), 0);
    while let Some(header) = wire.get(start..start + HEADER) {
        let size = usize::from(header[0]) + 256 * usize::from(header[1]);
        let wrong = match size {
            0..HEADER => Some(Wrong::Malformed),
            _ if size > limit => Some(Wrong::TooLarge { limit }),
            _ => None,
        };
        expected.error = wrong.map(|wrong| (wrong, start + HEADER));
        let Some(body) = wire.get(start + HEADER..start + size).filter(|_| wrong.is_none()) else { break };
        start += size;
        expected.frame(u16::from(header[2]) + 256 * u16::from(header[3]), body, start);
    }
    expected
}
