//! [`Fixed`], against its definition.

use anyport_core::{Fixed, FrameError};

use crate::{
    framing::{self, Expected},
    input::{Cuts, Input},
};

/// The input is a size, how the rest is cut, then the rest: bytes of a stream, and messages to encode.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let size = input.limit();
    let (codec, cuts) = (Fixed::new(size), Cuts::draw(&mut input));
    framing::check(&codec, input.rest(), &cuts, &definition(input.rest(), size));

    let messages = framing::bodies(input.rest());
    let (wire, frames) = framing::encode_as(&codec, &messages, |message| match message.body.len() {
        same if same == size => Ok(size),
        other => Err(FrameError::WrongSize { size: other, wanted: size }),
    });
    framing::check(&codec, &wire, &cuts, &Expected { frames, error: None });
}

/// So many bytes are a frame, whatever they are.
fn definition(wire: &[u8], size: usize) -> Expected<'_> {
    let mut expected = Expected::default();
    for (at, body) in wire.chunks_exact(size).enumerate() {
        expected.frame(0, body, (at + 1) * size);
    }
    expected
}
