//! [`Delimiter`], against its definition.

use anyport_core::{Codec, Decode, Decoded, Delimiter, FrameError};

use crate::{
    framing::{self, Expected, Wrong},
    input::{Cuts, Input},
};

/// The input is a limit, a delimiter of up to four bytes, how the rest is cut, then the rest: bytes of a stream, and
/// messages to encode.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limit = input.limit();
    let size = usize::from(input.byte() % 4) + 1;
    let delimiter: Vec<u8> = (0..size).map(|_| input.byte()).collect();
    let limit = limit.max(size);
    let (codec, cuts) = (Delimiter::new(&delimiter, limit), Cuts::draw(&mut input));
    let wire = input.rest();
    framing::check(&codec, wire, &cuts, &definition(wire, &delimiter, limit));
    looks_once(&codec, wire, &delimiter, limit);

    let messages = framing::bodies(wire);
    let (wire, frames) = framing::encode_as(&codec, &messages, |message| {
        let whole = [message.body, &delimiter].concat();
        if whole.len() > limit {
            return Err(FrameError::TooLarge { size: whole.len(), limit });
        }
        // It must arrive as it is: the first delimiter is the one behind it.
        let first = whole.windows(size).position(|bytes| bytes == delimiter);
        if first == Some(message.body.len()) { Ok(whole.len()) } else { Err(FrameError::Malformed("")) }
    });
    framing::check(&codec, &wire, &cuts, &Expected { frames, error: None });
}

/// A frame ends with the first delimiter and takes at most `limit` bytes with it.
fn definition<'a>(wire: &'a [u8], delimiter: &[u8], limit: usize) -> Expected<'a> {
    let (mut expected, mut start) = (Expected::default(), 0);
    loop {
        let within = &wire[start..wire.len().min(start + limit)];
        let Some(length) = within.windows(delimiter.len()).position(|bytes| bytes == delimiter) else {
            expected.error =
                (wire.len() - start >= limit).then_some((Wrong::TooLarge { limit }, start + limit));
            return expected;
        };
        let body = &wire[start..start + length];
        start += length + delimiter.len();
        expected.frame(0, body, start);
    }
}

/// What was looked at is not looked at again, but for what a delimiter may have begun with. It is replaced by
/// delimiters here, which nobody who looks only at the rest can see.
fn looks_once(codec: &Delimiter, wire: &[u8], delimiter: &[u8], limit: usize) {
    let cut = delimiter.len() - 1;
    let whole = wire.windows(delimiter.len()).position(|bytes| bytes == delimiter);
    let shown = whole.map_or(wire.len(), |at| at + cut).min(limit - 1);
    let (mut decoder, _) = codec.split();
    if shown <= cut || !matches!(decoder.decode(&wire[..shown]), Ok(Decoded::NeedMore { .. })) {
        return;
    }
    let mut bytes = wire[..shown].to_vec();
    for (byte, other) in bytes[..shown - cut].iter_mut().zip(delimiter.iter().cycle()) {
        *byte = *other;
    }
    if let Ok(Decoded::Frame { body, .. }) = decoder.decode(&bytes) {
        assert!(body.end >= shown - cut, "looked at byte {} again after {shown}", body.end);
    }
}
