//! `anyport serve echo`: every frame goes back to where it came from.

use std::marker::PhantomData;

use anyport::{Codec, Frame, Handler, Limits, Lines, Raw, SendMarks, Session, SizeKind};

use super::{FRAME_SIZE_MAX, Service, largest_frame, run};
use crate::{
    args::{CodecName, ServeEcho, typed},
    exit::{Failure, Outcome},
    framing::{length_prefix, zero_ended},
};

/// Runs an echo server until it is stopped.
pub(crate) fn echo(options: &ServeEcho) -> Outcome {
    let frame_size_max = options.frame_size_max.unwrap_or(FRAME_SIZE_MAX);
    match options.codec {
        CodecName::Raw if options.frame_size_max.is_some() => {
            let text = "--frame-size-max means nothing to --codec raw: choose another one";
            Err(Failure::Usage(text.to_owned()))
        }
        CodecName::Raw => serve(options, Raw),
        CodecName::Lines => serve(options, Lines::new(frame_size_max as usize)),
        CodecName::Delimiter => serve(options, zero_ended(frame_size_max as usize)),
        CodecName::LengthPrefix => serve(options, length_prefix(frame_size_max as usize)?),
        CodecName::SizeKind => serve(options, SizeKind::new(largest_frame(frame_size_max)?)),
    }
}

/// Sends every frame back, with its kind.
struct Echo<C>(PhantomData<C>);

impl<C: Codec> Handler for Echo<C> {
    type State = ();
    type Codec = C;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send_frame(frame);
    }
}

fn serve<C: Codec>(options: &ServeEcho, codec: C) -> Outcome {
    let limits = limits(options, codec.frame_size_max());
    let name = typed(options.codec);
    let load = if options.codec == CodecName::Raw { String::new() } else { format!(" --codec {name}") };
    let service = Service {
        hosting: &options.hosting,
        listen: &options.listen,
        shards: options.shards,
        logic_threads: options.logic_threads,
        spread: options.spread.into(),
        what: format!("echo, {name}"),
        hints: &|address| format!("load it with: anyport bench echo --addr {address}{load}"),
    };
    run(&service, codec, limits, |_shard| Echo::<C>(PhantomData))
}

fn limits(options: &ServeEcho, frame_size_max: usize) -> Limits {
    let marks = SendMarks::default();
    // Reading stops above the high mark, so the queue holds at most that and one frame more: a peer that asks
    // faster than it reads is slowed down and never closed for it. Raw frames are no larger than what one
    // receive delivers.
    let largest = if frame_size_max == usize::MAX { 0 } else { frame_size_max };
    options.protection.apply(Limits {
        idle_timeout: options.idle_timeout,
        send: SendMarks { queue_max_bytes: marks.queue_max_bytes + largest, ..marks },
        ..options.hosting.limits()
    })
}
