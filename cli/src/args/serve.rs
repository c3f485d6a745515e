//! `anyport serve`: which server, and what it allows.

use std::time::Duration;

use clap::Subcommand;

use super::{
    CodecName, Common, DEFAULT_ADDRESS, EXIT_CODES, LINE_SIZE_MAX, SESSIONS, SHARDS, SpreadName, in_range,
    seconds, seconds_above_zero,
};

#[derive(Subcommand, Debug)]
pub(crate) enum Serve {
    /// Sends every frame back to where it came from
    #[command(after_help = EXIT_CODES)]
    Echo(ServeEcho),
}

#[derive(clap::Args, Debug)]
pub(crate) struct ServeEcho {
    /// Where to listen; port 0 lets the system choose one, and the start lines name it
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS)]
    pub(crate) listen: String,
    /// Threads, each with sessions of its own [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = in_range(SHARDS))]
    pub(crate) shards: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Where messages begin and end
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CodecName::Raw)]
    pub(crate) codec: CodecName,
    /// Most sessions at a time; one more is closed at once [default: as many as the system allows, at most
    /// 100000]
    #[arg(long, value_name = "N", value_parser = in_range(SESSIONS))]
    pub(crate) sessions_max: Option<u64>,
    /// Closes a session from which nothing arrives for this long [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
    pub(crate) idle_timeout: Option<Duration>,
    /// How long sessions may take to flush when the server stops
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) drain_deadline: Duration,
    /// How connections are spread over the shards
    #[arg(long, value_name = "HOW", value_enum, default_value_t = SpreadName::Auto)]
    pub(crate) spread: SpreadName,
    /// Largest frame that is taken, header or line end included [default: 65535]
    #[arg(long, value_name = "BYTES", value_parser = in_range(1..=LINE_SIZE_MAX))]
    pub(crate) frame_size_max: Option<u64>,
    /// Drains when standard input ends, too: for a parent that wants its server to end with it
    #[arg(long)]
    pub(crate) until_input_ends: bool,
}
