//! [`Lines`], against their definition.

use anyport_core::Lines;

use crate::{
    framing::{self, Expected, Wrong},
    input::{Cuts, Input},
};

/// The input is a limit, how the rest is cut, then the rest: bytes of a stream, and messages to encode.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limit = input.limit();
    let (codec, cuts) = (Lines::new(limit), Cuts::draw(&mut input));
    framing::check(&codec, input.rest(), &cuts, &definition(input.rest(), limit));

    let messages = framing::messages(input.rest());
    let (wire, carried) = framing::encode(&codec, 1, &messages);
    let mut expected = Expected::default();
    for (message, end) in carried {
        // A body that holds a line feed arrives as several lines, one that ends with a carriage return without it.
        let mut at = end - message.body.len() - 1;
        for line in message.body.split(|&byte| byte == b'\n') {
            at += line.len() + 1;
            expected.frame(0, line.strip_suffix(b"\r").unwrap_or(line), at);
        }
    }
    framing::check(&codec, &wire, &cuts, &expected);
}

/// A line ends at a line feed and takes at most `limit` bytes with it; a carriage return before it is not part of it.
pub(crate) fn definition(wire: &[u8], limit: usize) -> Expected<'_> {
    let (mut expected, mut start) = (Expected::default(), 0);
    loop {
        let Some(length) = wire[start..].iter().take(limit).position(|&byte| byte == b'\n') else {
            expected.error =
                (wire.len() - start >= limit).then_some((Wrong::TooLarge { limit }, start + limit));
            return expected;
        };
        let line = &wire[start..start + length];
        start += length + 1;
        expected.frame(0, line.strip_suffix(b"\r").unwrap_or(line), start);
    }
}
