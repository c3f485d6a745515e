//! What a server allows its peers: the options of `serve echo` that bound who comes, and who holds a session.

use std::time::Duration;

use anyport::{Limits, OnExcess, Rates};

use super::{in_range, seconds_above_zero};

/// Most that a rate or a count can be typed as.
const COUNT_MAX: u64 = 1_000_000;

#[derive(clap::Args, Debug)]
pub(crate) struct Protection {
    /// Most sessions from one address (of IPv6, from one /64); one more is closed at once [default: no limit]
    #[arg(long, value_name = "N", value_parser = in_range(1..=COUNT_MAX))]
    pub(crate) max_per_address: Option<u64>,
    /// Most sessions from one network, a /24 of IPv4 or a /48 of IPv6 [default: no limit]
    #[arg(long, value_name = "N", value_parser = in_range(1..=COUNT_MAX))]
    pub(crate) max_per_network: Option<u64>,
    /// Most connections in a second; what comes faster is closed at once [default: no limit]
    #[arg(long, value_name = "CONN/S", value_parser = in_range(1..=COUNT_MAX))]
    pub(crate) accept_rate: Option<u64>,
    /// Closes a session that has sent no whole frame for so long after it came [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
    pub(crate) handshake_timeout: Option<Duration>,
    /// Closes a session with a frame that is not whole so long after its first byte [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
    pub(crate) frame_timeout: Option<Duration>,
    /// Most messages of one session in a second; a peer that sends more is not read from for a while
    /// [default: no limit]
    #[arg(long, value_name = "MSG/S", value_parser = in_range(1..=COUNT_MAX))]
    pub(crate) message_rate: Option<u64>,
    /// Closes sessions that exceed --message-rate, instead of slowing them down
    #[arg(long, requires = "message_rate")]
    pub(crate) close_on_excess: bool,
}

impl Protection {
    /// These limits, with what was typed.
    pub(crate) fn apply(&self, limits: Limits) -> Limits {
        // The ranges are within those of the types.
        let number = |count: Option<u64>| count.map(|count| count as u32);
        Limits {
            sessions_per_address_max: self.max_per_address.map(|count| count as usize),
            sessions_per_prefix_max: self.max_per_network.map(|count| count as usize),
            accepts_per_second: number(self.accept_rate),
            handshake_timeout: self.handshake_timeout,
            frame_timeout: self.frame_timeout,
            rates: Rates {
                messages_per_second: number(self.message_rate),
                on_excess: if self.close_on_excess { OnExcess::Close } else { OnExcess::PauseReading },
                ..limits.rates
            },
            ..limits
        }
    }
}
