//! `anyport serve`: which server, and what it allows.

use std::time::Duration;

use clap::Subcommand;

use super::{
    CodecName, Common, DEFAULT_ADDRESS, DEFAULT_CHAT_ADDRESS, EXIT_CODES, FRAME_SIZE_MAX, Protection,
    SESSIONS, SHARDS, SpreadName, in_range, seconds, seconds_above_zero,
};

#[derive(Subcommand, Debug)]
pub(crate) enum Serve {
    /// Sends every frame back to where it came from
    #[command(after_help = EXIT_CODES)]
    Echo(ServeEcho),
    /// A chat in lines: names, rooms, private messages; `anyport connect` or nc is a client
    #[command(after_help = CHAT)]
    Chat(ServeChat),
    /// Sends every byte to all other connections: what bench/ measures fan-out with
    #[command(hide = true)]
    Fanout(ServeFanout),
}

const CHAT: &str = "\
The commands of the chat: /nick NAME, /join ROOM, /leave, /who, /rooms, /msg NAME TEXT, /quit, /help; every other
line is said to the room. Who has just come says a name, with /nick or without.

All sessions are on one thread, so that a name is never taken twice.

Exit codes:
  0  drained
  1  failed while running; one line on standard error says why
  2  the command line is wrong";

/// What every server has.
#[derive(clap::Args, Debug)]
pub(crate) struct Hosting {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Most sessions at a time; one more is closed at once [default: as many as the system allows, at most
    /// 100000]
    #[arg(long, value_name = "N", value_parser = in_range(SESSIONS))]
    pub(crate) sessions_max: Option<u64>,
    /// How long sessions may take to flush when the server stops
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) drain_deadline: Duration,
    /// Drains when standard input ends, too: for a parent that wants its server to end with it
    #[arg(long)]
    pub(crate) until_input_ends: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ServeEcho {
    /// Where to listen, HOST:PORT or unix:PATH; port 0 lets the system choose one, and the start lines name it
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS)]
    pub(crate) listen: String,
    /// Threads, each with sessions of its own [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = in_range(SHARDS))]
    pub(crate) shards: Option<u64>,
    /// Answers on so many threads of their own; the shards do the I/O [default: answers on the shards]
    #[arg(long, value_name = "N", value_parser = in_range(SHARDS))]
    pub(crate) logic_threads: Option<u64>,
    /// Where messages begin and end
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CodecName::Raw)]
    pub(crate) codec: CodecName,
    /// Closes a session from which nothing arrives for this long [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
    pub(crate) idle_timeout: Option<Duration>,
    /// How connections are spread over the shards
    #[arg(long, value_name = "HOW", value_enum, default_value_t = SpreadName::Auto)]
    pub(crate) spread: SpreadName,
    /// Largest frame that is taken, header or line end included [default: 65535]
    #[arg(long, value_name = "BYTES", value_parser = in_range(1..=FRAME_SIZE_MAX))]
    pub(crate) frame_size_max: Option<u64>,
    #[command(flatten)]
    pub(crate) protection: Protection,
    #[command(flatten)]
    pub(crate) hosting: Hosting,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ServeChat {
    /// Where to listen, HOST:PORT or unix:PATH; port 0 lets the system choose one, and the start lines name it
    #[arg(value_name = "ADDR", default_value = DEFAULT_CHAT_ADDRESS)]
    pub(crate) address: String,
    /// Closes a session that has said no name for this long
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds_above_zero)]
    pub(crate) login_timeout: Duration,
    /// Closes a session from which nothing arrives for this long
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds_above_zero)]
    pub(crate) idle_timeout: Duration,
    /// Lines that one session may say in a second; what comes faster waits. 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = in_range(0..=1_000_000))]
    pub(crate) message_rate: u64,
    /// Bytes that may wait for a session that does not read; more closes it
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10, value_parser = in_range(4096..=1 << 30))]
    pub(crate) queue_max: u64,
    #[command(flatten)]
    pub(crate) hosting: Hosting,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ServeFanout {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS)]
    pub(crate) listen: String,
    /// Threads, each with sessions of its own [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = in_range(SHARDS))]
    pub(crate) shards: Option<u64>,
    #[command(flatten)]
    pub(crate) hosting: Hosting,
}
