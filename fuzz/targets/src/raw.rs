//! [`Raw`]: every chunk is a frame, and nothing is ever kept.

use anyport_core::{ChunkPool, Codec, Encode, Raw, Reassembly};

use crate::{
    framing,
    input::{Cuts, Input},
    memory,
};

/// The input is how the rest is cut, then the rest: bytes of a stream, and messages to encode.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cuts = Cuts::draw(&mut input);
    let wire = input.rest();
    for cuts in [&cuts, &Cuts::whole(), &Cuts::smallest(wire)] {
        let allocated = memory::allocated(|| feed(wire, cuts));
        assert_eq!(allocated.count_total, 0, "nothing is copied");
    }
    let messages = framing::messages(wire);
    let (_, mut encoder) = Raw.split();
    let mut sent = Vec::new();
    for message in &messages {
        let before = sent.len();
        encoder.encode(message, &mut sent);
        assert_eq!(encoder.encoded_size(message), Ok(sent.len() - before));
    }
    let bodies: Vec<u8> = messages.iter().flat_map(|message| message.body).copied().collect();
    assert_eq!(sent, bodies);
}

fn feed(wire: &[u8], cuts: &Cuts) {
    let (mut decoder, _) = Raw.split();
    let (mut reassembly, mut pool) = (Reassembly::default(), ChunkPool::new());
    for chunk in cuts.chunks(wire) {
        let mut at = 0;
        let frame = reassembly.next(&mut decoder, chunk, &mut at, Raw.frame_size_max());
        let frame = frame.expect("nothing is wrong").expect("a chunk is a frame");
        assert!(frame.kind == 0 && std::ptr::eq(frame.body, chunk), "not the chunk itself");
        let after = reassembly.next(&mut decoder, chunk, &mut at, Raw.frame_size_max());
        assert_eq!(after, Ok(None));
        assert_eq!(reassembly.finish(chunk, at, Raw.frame_size_max(), &mut pool), Ok(()));
        assert_eq!(reassembly.buffered(), 0);
    }
}
