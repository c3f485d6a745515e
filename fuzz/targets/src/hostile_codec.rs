//! A codec of a user that answers nonsense. It must cost its session only: no panic, nothing kept beyond the limit, no
//! byte that is not the stream's, no work without end.

use std::ops::Range;

use anyport_core::{ChunkPool, Decode, Decoded, FrameError, Reassembly, send::CHUNK_BYTES};

use crate::{
    input::{Cuts, Input},
    memory,
};

/// The input is a limit, how the stream is cut, the number of answers and the answers, then the stream.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limit = input.limit();
    let cuts = Cuts::draw(&mut input);
    let answers = (0..=input.byte() % 32).map(|_| Answer::draw(&mut input)).collect();
    let wire = input.rest();
    let mut decoder =
        Hostile { answers, wire: wire.to_vec(), start: 0, fed: 0, shown: 0, calls: 0, last: None };
    let allocated = memory::allocated(|| feed(&mut decoder, limit, wire, &cuts));
    let most = 3 * limit.min(wire.len()) + 2 * CHUNK_BYTES;
    assert!(allocated.bytes_max <= most as u64, "{allocated:?}, limit {limit}");
}

fn feed(decoder: &mut Hostile, limit: usize, wire: &[u8], cuts: &Cuts) {
    let (mut reassembly, mut pool) = (Reassembly::default(), ChunkPool::new());
    let (mut frames, mut chunks, mut failed) = (0, 0, false);
    for chunk in cuts.chunks(wire) {
        chunks += 1;
        decoder.fed += chunk.len();
        let mut at = 0;
        let taken = loop {
            let found = reassembly.next(decoder, chunk, &mut at, limit);
            assert!(at <= chunk.len());
            match found {
                Ok(Some(frame)) => {
                    let answer = decoder.accepted(limit).expect("a frame that the decoder did not find");
                    assert_eq!((frame.kind, frame.body), (answer.kind, &wire[answer.body]));
                    decoder.start += answer.consumed;
                    decoder.shown = 0;
                    frames += 1;
                }
                Ok(None) => break reassembly.finish(chunk, at, limit, &mut pool),
                Err(error) => break Err(error),
            }
        };
        // Nothing, nonsense, or a cut frame that is too large: that is what ends a chunk.
        let kept = decoder.fed - decoder.start;
        failed = match decoder.last.take() {
            Some(Last::Failed | Last::Frame(_)) => true,
            Some(Last::NeedMore) => kept > limit,
            None => kept != 0,
        };
        assert_eq!(taken.is_err(), failed, "{taken:?} with {kept} bytes kept, limit {limit}");
        if failed {
            break;
        }
        assert_eq!(reassembly.buffered(), kept);
    }
    assert!(failed || decoder.fed == wire.len());
    // One for each byte of a cut frame, one a frame, one for the end of each chunk.
    let fuel = decoder.fed + frames + chunks;
    assert!(decoder.calls <= fuel, "{} decodes of {} bytes", decoder.calls, decoder.fed);
    reassembly.release(&mut pool);
    assert_eq!(reassembly.buffered(), 0);
}

/// What a decoder may say; numbers count from nothing, or from the bytes that it is shown.
#[derive(Clone, Copy)]
struct Answer {
    what: u8,
    numbers: [u8; 3],
}

impl Answer {
    fn draw(input: &mut Input<'_>) -> Self {
        Self { what: input.byte(), numbers: [input.byte(), input.byte(), input.byte()] }
    }

    fn number(self, at: usize, shown: usize) -> usize {
        match self.numbers[at] {
            near @ 0..160 => usize::from(near),
            around @ 160..224 => (shown + 192).saturating_sub(usize::from(around)),
            far @ 224..240 => usize::from(far) * 100,
            past @ 240..=255 => usize::MAX - usize::from(255 - past),
        }
    }
}

/// Gives its answers in turn, and knows the stream: whatever it is shown must be the bytes that come next.
struct Hostile {
    answers: Vec<Answer>,
    wire: Vec<u8>,
    /// Where the bytes begin that are in no frame yet.
    start: usize,
    fed: usize,
    /// How many bytes of the cut frame it was shown.
    shown: usize,
    calls: usize,
    last: Option<Last>,
}

/// What was answered last, until something comes of it.
enum Last {
    Frame(Found),
    NeedMore,
    Failed,
}

struct Found {
    kind: u16,
    body: Range<usize>,
    consumed: usize,
    /// Bytes that it was shown then, and before.
    shown: [usize; 2],
}

impl Hostile {
    /// The last answer, if it is a frame that may be given out: its body in the stream.
    fn accepted(&mut self, limit: usize) -> Option<Found> {
        let Some(Last::Frame(found)) = self.last.take() else { return None };
        let Found { body, consumed, shown: [now, before], .. } = &found;
        let consumes = (1..=*now.min(&limit)).contains(consumed) && consumed >= before;
        let inside = body.start <= body.end && body.end <= *consumed;
        let body = self.start.wrapping_add(body.start)..self.start.wrapping_add(body.end);
        (consumes && inside).then_some(Found { body, ..found })
    }
}

impl Decode for Hostile {
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        let end = self.start + bytes.len();
        assert!(!bytes.is_empty() && end <= self.fed, "asked about bytes that have not come");
        assert!(self.wire[self.start..end] == *bytes, "asked about other bytes than come next");
        assert!(bytes.len() > self.shown, "asked again about no more bytes");
        assert!(
            !matches!(self.last, Some(Last::Frame(_) | Last::Failed)),
            "asked before the answer took effect"
        );
        let answer = self.answers[self.calls % self.answers.len()];
        self.calls += 1;
        let shown = [bytes.len(), std::mem::replace(&mut self.shown, bytes.len())];
        let [first, second, third] = [0, 1, 2].map(|at| answer.number(at, bytes.len()));
        let (last, answer) = match answer.what {
            0..160 => {
                let kind = u16::from(answer.what);
                let found = Found { kind, body: first..second, consumed: third, shown };
                (Last::Frame(found), Ok(Decoded::Frame { kind, body: first..second, consumed: third }))
            }
            160..240 => (Last::NeedMore, Ok(Decoded::NeedMore { missing: first })),
            _ => (Last::Failed, Err(FrameError::Malformed("as the input says"))),
        };
        self.last = Some(last);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_reach_every_kind_of_number() {
        let number = |byte, shown| Answer { what: 0, numbers: [byte, 0, 0] }.number(0, shown);
        assert_eq!((number(0, 9), number(159, 9)), (0, 159));
        assert_eq!((number(192, 9), number(191, 9), number(223, 9), number(160, 9)), (9, 10, 0, 41));
        assert_eq!((number(239, 9), number(255, 9)), (23_900, usize::MAX));
    }

    #[test]
    fn a_stream_of_whole_frames_passes_and_each_answer_is_used() {
        // Limit 128, whole, one answer: one byte is the body and the frame. Then the stream.
        run(&[127, 0, 0, 7, 0, 1, 1, b'a', b'b', b'c']);
        let answers = vec![Answer { what: 7, numbers: [0, 1, 1] }, Answer { what: 200, numbers: [0; 3] }];
        let wire = b"abc".to_vec();
        let mut decoder = Hostile { answers, wire, start: 0, fed: 0, shown: 0, calls: 0, last: None };
        feed(&mut decoder, 8, b"abc", &Cuts::smallest(b"abc"));
        assert_eq!((decoder.start, decoder.calls), (2, 4));
    }
}
