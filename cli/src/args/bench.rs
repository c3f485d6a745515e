//! `anyport bench`: what is loaded, how, and for how long.

use std::{ops::RangeInclusive, time::Duration};

use clap::Subcommand;

use super::{
    CodecName, Common, DEFAULT_ADDRESS, DEFAULT_CHAT_ADDRESS, SHARDS, SIZE_MAX, in_range, seconds,
    seconds_above_zero,
};

#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// Loads an echo server and checks every byte that comes back
    #[command(after_help = ECHO)]
    Echo(BenchEcho),
    /// Connects, sends one message, waits for it, closes: over and over
    #[command(after_help = CHURN)]
    Churn(BenchChurn),
    /// Holds many sessions that say nothing, and asks each of them at the end
    #[command(after_help = IDLE)]
    Idle(BenchIdle),
    /// Has some publish in a chat room, and checks every line that every member is sent
    #[command(after_help = FANOUT)]
    Fanout(BenchFanout),
}

const ECHO: &str = "\
Closed loop (the default): each connection keeps --depth messages outstanding; the next one leaves when one
came back. Latency counts from the turn in which the message was sent.

Open loop (--rate): messages are due at fixed times, whether the server keeps up or not, and latency counts
from the time at which a message was due. While it runs, the loader's threads poll without sleeping.

Think times (--think MIN..MAX): each connection has a message due at random intervals between MIN and MAX
seconds, the same ones for the same --seed. As in the open loop, a message is due whether the last one came
back or not, and its latency counts from then: a server that stalls is charged for all that it kept waiting.

--spawn starts the server in a process of its own, with the same --codec, --driver, --pin, --spin-us and
--huge-pages, one shard for each processor that the loader leaves (at least one), and drains it at the end.

Above 20000 connections one address of the server has too few ports: --spawn takes as many of 127.0.0.1,
127.0.0.2, ... as it needs; a server of yours listens on 0.0.0.0 and is given by several --addr.

--json prints one object: codec, connections, size, depth or rate or think_s and seed, threads, driver, seconds,
cut_short, messages, messages_per_second, megabytes_per_second, bytes_checked, latency_us {count, min, mean,
p50, p90, p99, p999, max}, connections_opened, connections_lost {by reason}, unanswered, and for the open loop
and for think times not_sent and late_max_us.

Exit codes:
  0  measured (also when Ctrl-C cut it short)
  1  no server, a wrong byte, lost connections, messages that were not answered
  2  the command line is wrong";

const CHURN: &str = "\
Each of --connections lanes opens a connection, sends one message of --size bytes, waits until it is back, ends
its stream, waits for the server to end it, too, and opens the next one. The time of a cycle is from the connect
to the last of these.

Open loop (--rate): cycles are due at fixed times, and their time counts from when they were due; one that finds
no free lane waits for one.

The side that closes first keeps the pair of addresses for a minute (TIME_WAIT), and that is this one: at more
than 450 cycles a second, 28000 ports are used up after a minute if the system does not reuse them (Linux does,
after a second).

--json prints one object: codec, connections, size, rate if given, threads, driver, seconds, cut_short, cycles,
cycles_per_second, latency_us and connect_us {count, min, mean, p50, p90, p99, p999, max}, bytes_checked,
connections_opened, connections_lost {by reason}, unanswered, and for the open loop not_sent and late_max_us.

Exit codes:
  0  measured (also when Ctrl-C cut it short)
  1  no server, a wrong byte, lost connections, messages that were not answered
  2  the command line is wrong";

const IDLE: &str = "\
Every connection is asked one message when it opens, so that the server surely has it; then all of them are
silent for --duration; then every one is asked again, and must answer.

With --spawn, the memory of a session is told: the growth of what the server has resident, divided by the
sessions. Sockets are the kernel's memory, and not in it. Not on Windows.

Above 20000 connections one address of the server has too few ports: --spawn takes as many of 127.0.0.1,
127.0.0.2, ... as it needs; a server of yours listens on 0.0.0.0 and is given by several --addr. What else
stops it, such as the limit on open files, is told.

--json prints one object: codec, connections, size, threads, driver, seconds, cut_short, open_seconds, answered,
bytes_checked, latency_us {count, min, mean, p50, p90, p99, p999, max} of the last questions, connections_opened,
connections_lost {by reason}, unanswered, and with --spawn server_bytes {before, with_sessions} and
session_bytes.

Exit codes:
  0  every session was held, and answered at the end (also when Ctrl-C cut it short)
  1  no server, too few connections, lost connections, sessions that did not answer
  2  the command line is wrong";

const FANOUT: &str = "\
The server is `anyport serve chat`, or one that speaks as it does. All connections take a name and join one
room; --publishers more of them send lines, and each of the --members must be sent every line, of each publisher
in its order, and unchanged: it is checked byte for byte. A delivery is one line at one member.

Closed loop (the default): each publisher keeps --depth lines under way; the next one leaves when all members
have one. Open loop (--rate): lines are due at fixed times over all publishers, and latency counts from then.
The latency of a delivery is from the line's departure, or its due time, to its arrival.

--spawn starts the server with one shard, without its limits on who says too much.

--json prints one object: members, publishers, size, depth or rate, threads, driver, seconds, cut_short, lines,
lines_per_second, deliveries, deliveries_per_second, bytes_checked, latency_us {count, min, mean, p50, p90, p99,
p999, max}, connections_opened, connections_lost {by reason}, undelivered, and for the open loop not_sent and
late_max_us.

Exit codes:
  0  measured (also when Ctrl-C cut it short)
  1  no server, a line that was lost, doubled, changed or out of order, lost connections
  2  the command line is wrong";

/// What every load has.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Loading {
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

#[derive(clap::Args, Debug)]
pub(crate) struct Times {
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds_above_zero)]
    pub(crate) duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) warmup: Duration,
}

#[derive(clap::Args, Debug)]
pub(crate) struct BenchEcho {
    /// The server, HOST:PORT or unix:PATH; several addresses of it share the connections
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS, conflicts_with = "spawn")]
    pub(crate) addr: Vec<String>,
    /// Connections, spread over the threads
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = in_range(CONNECTIONS))]
    pub(crate) connections: u64,
    /// Bytes of a message, without header or line end
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = in_range(1..=SIZE_MAX))]
    pub(crate) size: u64,
    /// Where messages begin and end
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CodecName::Raw)]
    pub(crate) codec: CodecName,
    /// Messages that each connection keeps outstanding
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = in_range(1..=4096))]
    pub(crate) depth: u64,
    #[command(flatten)]
    pub(crate) times: Times,
    /// Sends at this rate over all connections, whether answers come or not (open loop)
    #[arg(long, value_name = "MSG/S", value_parser = in_range(1..=100_000_000), conflicts_with = "depth")]
    pub(crate) rate: Option<u64>,
    /// Each connection thinks for a random time between two messages
    #[arg(long, value_name = "MIN..MAX", value_parser = think, conflicts_with_all = ["depth", "rate"])]
    pub(crate) think: Option<Think>,
    /// Draws the think times
    #[arg(long, value_name = "N", default_value_t = 1, requires = "think")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) loading: Loading,
}

#[derive(clap::Args, Debug)]
pub(crate) struct BenchChurn {
    /// The server, HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS, conflicts_with = "spawn")]
    pub(crate) addr: String,
    /// Lanes: connections at a time, spread over the threads
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = in_range(1..=10_000))]
    pub(crate) connections: u64,
    /// Bytes of the message, without header or line end
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = in_range(1..=LONE_SIZE_MAX))]
    pub(crate) size: u64,
    /// Where messages begin and end
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CodecName::Raw)]
    pub(crate) codec: CodecName,
    #[command(flatten)]
    pub(crate) times: Times,
    /// Begins cycles at this rate, whether earlier ones are over or not (open loop)
    #[arg(long, value_name = "CYCLES/S", value_parser = in_range(1..=1_000_000))]
    pub(crate) rate: Option<u64>,
    #[command(flatten)]
    pub(crate) loading: Loading,
}

#[derive(clap::Args, Debug)]
pub(crate) struct BenchIdle {
    /// The server, HOST:PORT or unix:PATH; several addresses of it share the connections
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS, conflicts_with = "spawn")]
    pub(crate) addr: Vec<String>,
    /// Sessions to hold
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = in_range(CONNECTIONS))]
    pub(crate) connections: u64,
    /// Bytes of the messages at the beginning and the end, without header or line end
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = in_range(1..=LONE_SIZE_MAX))]
    pub(crate) size: u64,
    /// Where messages begin and end
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CodecName::Raw)]
    pub(crate) codec: CodecName,
    /// How long to hold them
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds_above_zero)]
    pub(crate) duration: Duration,
    #[command(flatten)]
    pub(crate) loading: Loading,
}

#[derive(clap::Args, Debug)]
pub(crate) struct BenchFanout {
    /// The server, HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_CHAT_ADDRESS, conflicts_with = "spawn")]
    pub(crate) addr: String,
    /// Members of the room that only listen, spread over the threads
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = in_range(1..=20_000))]
    pub(crate) members: u64,
    /// Members that send
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = in_range(1..=1000))]
    pub(crate) publishers: u64,
    /// Bytes of a line that is sent, without its end
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = in_range(LINE_SIZE))]
    pub(crate) size: u64,
    /// Lines that each publisher keeps under way
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = in_range(1..=1024))]
    pub(crate) depth: u64,
    #[command(flatten)]
    pub(crate) times: Times,
    /// Sends at this rate over all publishers, whether lines are delivered or not (open loop)
    #[arg(long, value_name = "LINES/S", value_parser = in_range(1..=10_000_000), conflicts_with = "depth")]
    pub(crate) rate: Option<u64>,
    #[command(flatten)]
    pub(crate) loading: Loading,
}

/// Times that connections think, at least and at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Think {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

const CONNECTIONS: RangeInclusive<u64> = 1..=100_000;
/// Largest message of which a connection sends no second one before the first is back.
const LONE_SIZE_MAX: u64 = 1 << 20;
/// A line begins with its number and its time; what is longer than a chat takes is no chat.
const LINE_SIZE: RangeInclusive<u64> = 24..=1000;
/// Who thinks for less has no time to.
const THINK_MAX_AT_LEAST: Duration = Duration::from_millis(1);

fn think(text: &str) -> Result<Think, String> {
    let wrong = || "give the least and the most as seconds, like 0.1..2".to_owned();
    let (min, max) = text.split_once("..").ok_or_else(wrong)?;
    let (min, max) = (seconds(min)?, seconds_above_zero(max)?);
    if min > max {
        return Err(wrong());
    }
    if max < THINK_MAX_AT_LEAST {
        return Err("the most must be 0.001 at least".to_owned());
    }
    Ok(Think { min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn think_times_are_two_in_order() {
        let of = |min, max| Think { min: Duration::from_millis(min), max: Duration::from_millis(max) };
        assert_eq!(think("0.1..2"), Ok(of(100, 2000)));
        assert_eq!(think("0..0.5"), Ok(of(0, 500)));
        assert_eq!(think("1..1"), Ok(of(1000, 1000)));
        for wrong in ["", "1", "2..1", "0..0", "a..b", "1..", "..1", "-1..1", "0..0.0009"] {
            assert!(think(wrong).is_err(), "{wrong}");
        }
    }
}
