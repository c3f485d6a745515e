//! `anyport serve chat`: what the chat allows. The chat itself is in `rooms`.

mod rooms;

use anyport::{Limits, Lines, OnExcess, Rates, SendMarks};

use super::{Service, run};
use crate::{args::ServeChat, exit::Outcome};
use rooms::{Chat, LINE_SIZE_MAX};

/// Runs a chat until it is stopped.
pub(crate) fn chat(options: &ServeChat) -> Outcome {
    let login_timeout = options.login_timeout;
    let service = Service {
        hosting: &options.hosting,
        listen: &options.address,
        // Names and rooms are maps of one handler: see `rooms`.
        shards: Some(1),
        logic_threads: None,
        spread: anyport::Spread::Auto,
        what: "chat".to_owned(),
        hints: &|address| {
            format!(
                "talk there with: anyport connect {address} (or nc)\n\
                 load it with: anyport bench fanout --addr {address}"
            )
        },
    };
    run(&service, Lines::new(LINE_SIZE_MAX), limits(options), move |_shard| Chat::new(login_timeout))
}

fn limits(options: &ServeChat) -> Limits {
    let queue = options.queue_max as usize;
    Limits {
        idle_timeout: Some(options.idle_timeout),
        // What waits for a reader is what others said: the lines that he says himself are read all the same, or nobody
        // would hear of his /quit.
        pause_reading_under_pressure: false,
        send: SendMarks { high_water_bytes: queue / 2, low_water_bytes: queue / 4, queue_max_bytes: queue },
        rates: Rates {
            messages_per_second: u32::try_from(options.message_rate).ok().filter(|rate| *rate > 0),
            // Who pastes some lines is not thrown out for it: they come as fast as they may.
            on_excess: OnExcess::PauseReading,
            ..Rates::default()
        },
        ..options.hosting.limits()
    }
}
