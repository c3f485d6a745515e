//! What can be typed. Ranges are checked here, so that everything behind this file gets numbers that make sense;
//! what depends on two options is checked where it is used.

mod bench;
mod connect;
mod log;
mod protect;
mod serve;

use std::{ops::RangeInclusive, time::Duration};

use anyport::{DriverChoice, Spread};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::exit::{Failure, Outcome};
pub(crate) use bench::{Bench, BenchChurn, BenchEcho, BenchFanout, BenchIdle, Loading, Think, Times};
pub(crate) use connect::Connect;
pub(crate) use log::LogFileOptions;
pub(crate) use protect::Protection;
pub(crate) use serve::{Hosting, Serve, ServeChat, ServeEcho, ServeFanout};

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
        #[command(flatten)]
        log: LogFileOptions,
        #[command(subcommand)]
        service: Serve,
    },
    /// Loads a server and measures it
    Bench {
        #[command(subcommand)]
        load: Bench,
    },
    /// Connects, sends what is typed or piped in, and prints what arrives
    #[command(after_help = connect::HELP)]
    Connect(Connect),
    /// Looks at this machine: which driver would be taken, and what could be better
    #[command(after_help = "Exit code 1 if something is in the way.")]
    Doctor {
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What a server and a loader take of the machine.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Common {
    /// What to take from the operating system
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = DriverName::Auto)]
    pub(crate) driver: DriverName,
    /// Binds each thread to a processor: a server from the first one up, a loader to the last ones
    #[arg(long)]
    pub(crate) pin: bool,
    /// Looks for more for so many microseconds before it sleeps: answers sooner, and takes processor time; 0 sleeps
    /// at once
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = in_range(0..=SPIN_MAX_US))]
    pub(crate) spin_us: u64,
    /// Asks for receive memory of huge pages (io-uring)
    #[arg(long)]
    pub(crate) huge_pages: bool,
}

impl Common {
    pub(crate) fn spin(self) -> Duration {
        Duration::from_micros(self.spin_us)
    }
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
    /// A zero byte behind each message
    Delimiter,
    /// A 32-bit length in network order before each message
    LengthPrefix,
    /// A header of 16-bit size and kind before each message
    SizeKind,
}

impl CodecName {
    /// Bytes on the wire of a message of this size.
    pub(crate) fn frame_size(self, size: usize) -> usize {
        match self {
            Self::Raw => size,
            Self::Lines | Self::Delimiter => size + 1,
            Self::LengthPrefix | Self::SizeKind => size + 4,
        }
    }

    /// True if some bytes cannot be part of a message: those that end it.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Lines | Self::Delimiter)
    }

    /// A message of this size, if there can be one.
    pub(crate) fn check_size(self, size: u64) -> Outcome<usize> {
        let size = size as usize;
        if self == Self::SizeKind && self.frame_size(size) > usize::from(u16::MAX) {
            let text = format!("--size {size} does not fit --codec size-kind: at most 65531");
            return Err(Failure::Usage(text));
        }
        Ok(size)
    }
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
/// Of the chat, so that both servers can run with no option.
const DEFAULT_CHAT_ADDRESS: &str = "127.0.0.1:7001";
const SHARDS: RangeInclusive<u64> = 1..=256;
const SESSIONS: RangeInclusive<u64> = 1..=1 << 20;
/// What the engine allows.
const SPIN_MAX_US: u64 = 1000;
/// Largest message of the loader.
const SIZE_MAX: u64 = 16 << 20;
/// Room for the largest message and what a codec puts around it.
const FRAME_SIZE_MAX: u64 = SIZE_MAX + 4;
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
