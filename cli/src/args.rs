//! What can be typed. Ranges are checked here, so that everything behind this file gets numbers that make sense;
//! what depends on two options is checked where it is used.

use std::{ops::RangeInclusive, time::Duration};

use anyport::{DriverChoice, Spread};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes:
  0  done: drained, measured, nothing in the way
  1  failed while running; one line on standard error says why
  2  the command line is wrong";

/// A session server engine on completion I/O: try it, load it, look at the machine.
#[derive(Parser, Debug)]
#[command(name = "anyport", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Logs more to standard error: -v what happens, -vv every session; `RUST_LOG` overrides
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Runs a server until a termination signal
    Serve {
        #[command(subcommand)]
        service: Serve,
    },
    /// Loads a server and measures it
    Bench {
        #[command(subcommand)]
        service: Bench,
    },
    /// Looks at this machine: which driver would be taken, and what could be better
    #[command(after_help = "Exit code 1 if something is in the way.")]
    Doctor {
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
}

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

#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// Loads an echo server and checks every byte that comes back
    #[command(after_help = BENCH_ECHO)]
    Echo(BenchEcho),
}

const BENCH_ECHO: &str = "\
Closed loop (the default): each connection keeps --depth messages outstanding; the next one leaves when one
came back. Latency counts from the turn in which the message was sent.

Open loop (--rate): messages are due at fixed times, whether the server keeps up or not, and latency counts
from the time at which a message was due. While it runs, the loader's threads poll without sleeping.

--spawn starts the server in a process of its own, with the same --codec, --driver and --pin, one shard for
each processor that the loader leaves (at least one), and drains it at the end.

--json prints one object: codec, connections, size, depth or rate, threads, driver, seconds, cut_short,
messages, messages_per_second, megabytes_per_second, bytes_checked, latency_us {count, min, mean, p50, p90,
p99, p999, max}, connections_opened, connections_lost {by reason}, unanswered, and for the open loop
not_sent and late_max_us.

Exit codes:
  0  measured (also when Ctrl-C cut it short)
  1  no server, a wrong byte, lost connections, messages that were not answered
  2  the command line is wrong";

#[derive(clap::Args, Debug)]
pub(crate) struct BenchEcho {
    /// The server
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS, conflicts_with = "spawn")]
    pub(crate) addr: String,
    /// Connections, spread over the threads
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = in_range(1..=100_000))]
    pub(crate) connections: u64,
    /// Bytes of a message, without header or line end
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = in_range(1..=SIZE_MAX))]
    pub(crate) size: u64,
    /// Messages that each connection keeps outstanding
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = in_range(1..=4096))]
    pub(crate) depth: u64,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds_above_zero)]
    pub(crate) duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) warmup: Duration,
    /// Sends at this rate over all connections, whether answers come or not (open loop)
    #[arg(long, value_name = "MSG/S", value_parser = in_range(1..=100_000_000), conflicts_with = "depth")]
    pub(crate) rate: Option<u64>,
    /// Threads of the loader
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = in_range(SHARDS))]
    pub(crate) threads: u64,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Prints one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Starts a server of its own and stops it at the end
    #[arg(long)]
    pub(crate) spawn: bool,
}

/// What a server and a loader have in common.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Common {
    /// What to take from the operating system
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = DriverName::Auto)]
    pub(crate) driver: DriverName,
    /// Where messages begin and end
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CodecName::Raw)]
    pub(crate) codec: CodecName,
    /// Binds each thread to a processor: a server from the first one up, a loader to the last ones
    #[arg(long)]
    pub(crate) pin: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DriverName {
    /// The best that works here
    Auto,
    /// Linux `io_uring`, or an error that says why not
    IoUring,
    /// epoll or kqueue
    Readiness,
    /// Windows completion ports
    Iocp,
}

impl From<DriverName> for DriverChoice {
    fn from(name: DriverName) -> Self {
        match name {
            DriverName::Auto => Self::Auto,
            DriverName::IoUring => Self::IoUring,
            DriverName::Readiness => Self::Readiness,
            DriverName::Iocp => Self::Iocp,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CodecName {
    /// Bytes as they come
    Raw,
    /// Text lines
    Lines,
    /// A header of 16-bit size and kind before each message
    SizeKind,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpreadName {
    /// reuse-port where the driver can, else hand-over
    Auto,
    /// Every shard listens on the port, and the system chooses one; not on Windows
    ReusePort,
    /// The first shard accepts and hands connections to all in turn
    HandOver,
}

impl From<SpreadName> for Spread {
    fn from(name: SpreadName) -> Self {
        match name {
            SpreadName::Auto => Self::Auto,
            SpreadName::ReusePort => Self::ReusePort,
            SpreadName::HandOver => Self::HandOver,
        }
    }
}

impl From<Spread> for SpreadName {
    fn from(spread: Spread) -> Self {
        match spread {
            Spread::Auto => Self::Auto,
            Spread::ReusePort => Self::ReusePort,
            Spread::HandOver => Self::HandOver,
        }
    }
}

/// A name as it is typed.
pub(crate) fn typed(name: impl ValueEnum + Copy) -> String {
    name.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

const DEFAULT_ADDRESS: &str = "127.0.0.1:7000";
const SHARDS: RangeInclusive<u64> = 1..=256;
const SESSIONS: RangeInclusive<u64> = 1..=1 << 20;
/// Largest message of the loader.
const SIZE_MAX: u64 = 16 << 20;
/// Room for the largest message and its line end.
const LINE_SIZE_MAX: u64 = SIZE_MAX + 1;
/// A year: nothing here runs longer, and every clock can add it.
const SECONDS_MAX: f64 = 365.0 * 24.0 * 3600.0;

fn in_range(range: RangeInclusive<u64>) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(range)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.0..=SECONDS_MAX).contains(&value) {
        return Err("give seconds from 0 to 31536000".to_owned());
    }
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

fn seconds_above_zero(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("must be above zero".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn seconds_take_no_nonsense() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "x", "-1", "NaN", "inf", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert!(seconds_above_zero("0").is_err());
        assert!(seconds_above_zero("1e-12").is_err(), "less than a nanosecond is none");
    }
}
