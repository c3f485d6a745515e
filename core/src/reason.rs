//! Why a session ended: the kick reason of the old engines, with blame first.

use std::fmt;

use crate::{codec::FrameError, fault::Fault, fault::FaultKind};

/// Who caused the end of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Blame {
    /// The other end.
    Peer,
    /// One of the service's limits.
    Limit,
    /// The operating system or the network.
    System,
    /// The application's own code asked for it.
    Application,
    /// A defect: of a handler that panicked, or of anyport.
    Bug,
}

/// Why a session ended. The first cause wins: what completes afterwards never overwrites it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its stream in order.
    PeerClosed,
    /// The peer reset the connection.
    PeerReset,
    /// The peer sent bytes that are no frame of this codec.
    MalformedFrame,
    /// The peer sent, or announced, a frame above the codec's limit.
    FrameTooLarge,
    /// Nothing arrived for `idle_timeout`.
    IdleTimeout,
    /// The peer did not read what was sent: more than `queue_max_bytes` would have been waiting.
    SendQueueFull,
    /// The service had `sessions_max` sessions already.
    AtCapacity,
    /// The peer did not take the rest, or did not end its stream, within the drain deadline.
    DrainDeadline,
    /// Receiving failed; [`FaultKind::class`] sorts the fault.
    ReceiveFailed(Fault),
    /// Sending failed; [`FaultKind::class`] sorts the fault.
    SendFailed(Fault),
    /// The application closed it; the number is its own.
    Kicked(u16),
    /// The application or a stop drained it. All that was queued went out, unless the peer was gone first or the
    /// application closed it meanwhile.
    Drained,
    /// The engine stopped before the session could be drained.
    Stopped,
    /// A handler panicked in one of this session's events.
    HandlerPanicked,
    /// No whole frame came within `handshake_timeout` of the open.
    HandshakeTimeout,
    /// A frame that had begun was not whole within `frame_timeout` of its first byte.
    FrameTimeout,
    /// While a frame was cut, its bytes came slower than `receive_rate_min`.
    TooSlow,
    /// The peer sent more than `rates` allow, and they say that this closes.
    RateExceeded,
    /// Its address had `sessions_per_address_max` sessions already.
    TooManyFromAddress,
    /// Its network had `sessions_per_prefix_max` sessions already.
    TooManyFromPrefix,
    /// More came at a time than `accepts_per_second` and its burst allow.
    AcceptRate,
    /// What waits to be sent to all sessions together would have gone beyond a budget of bytes.
    SendBudget,
    /// The peer fell silent, and the system gave it up: by keep-alive, or after sending again and again.
    PeerTimedOut,
}

impl CloseReason {
    /// How many different reasons there are: the size of a table of counters.
    pub const COUNT: usize = 23;

    /// Every reason, in the order of [`index`](Self::index), with zero for the numbers inside.
    pub const ALL: [CloseReason; Self::COUNT] = [
        Self::PeerClosed,
        Self::PeerReset,
        Self::MalformedFrame,
        Self::FrameTooLarge,
        Self::IdleTimeout,
        Self::SendQueueFull,
        Self::AtCapacity,
        Self::DrainDeadline,
        Self::ReceiveFailed(Fault::of(FaultKind::Other)),
        Self::SendFailed(Fault::of(FaultKind::Other)),
        Self::Kicked(0),
        Self::Drained,
        Self::Stopped,
        Self::HandlerPanicked,
        Self::HandshakeTimeout,
        Self::FrameTimeout,
        Self::TooSlow,
        Self::RateExceeded,
        Self::TooManyFromAddress,
        Self::TooManyFromPrefix,
        Self::AcceptRate,
        Self::SendBudget,
        Self::PeerTimedOut,
    ];

    /// Position in a table of counters, below [`COUNT`](Self::COUNT).
    pub fn index(self) -> usize {
        match self {
            Self::PeerClosed => 0,
            Self::PeerReset => 1,
            Self::MalformedFrame => 2,
            Self::FrameTooLarge => 3,
            Self::IdleTimeout => 4,
            Self::SendQueueFull => 5,
            Self::AtCapacity => 6,
            Self::DrainDeadline => 7,
            Self::ReceiveFailed(_) => 8,
            Self::SendFailed(_) => 9,
            Self::Kicked(_) => 10,
            Self::Drained => 11,
            Self::Stopped => 12,
            Self::HandlerPanicked => 13,
            Self::HandshakeTimeout => 14,
            Self::FrameTimeout => 15,
            Self::TooSlow => 16,
            Self::RateExceeded => 17,
            Self::TooManyFromAddress => 18,
            Self::TooManyFromPrefix => 19,
            Self::AcceptRate => 20,
            Self::SendBudget => 21,
            Self::PeerTimedOut => 22,
        }
    }

    /// Short name in the style of a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::MalformedFrame => "malformed_frame",
            Self::FrameTooLarge => "frame_too_large",
            Self::IdleTimeout => "idle_timeout",
            Self::SendQueueFull => "send_queue_full",
            Self::AtCapacity => "at_capacity",
            Self::DrainDeadline => "drain_deadline",
            Self::ReceiveFailed(_) => "receive_failed",
            Self::SendFailed(_) => "send_failed",
            Self::Kicked(_) => "kicked",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
            Self::HandlerPanicked => "handler_panicked",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::TooSlow => "too_slow",
            Self::RateExceeded => "rate_exceeded",
            Self::TooManyFromAddress => "too_many_from_address",
            Self::TooManyFromPrefix => "too_many_from_prefix",
            Self::AcceptRate => "accept_rate",
            Self::SendBudget => "send_budget",
            Self::PeerTimedOut => "peer_timed_out",
        }
    }

    /// Who caused it.
    pub fn blame(self) -> Blame {
        match self {
            Self::PeerClosed | Self::PeerReset | Self::MalformedFrame | Self::FrameTooLarge => Blame::Peer,
            Self::IdleTimeout
            | Self::SendQueueFull
            | Self::AtCapacity
            | Self::DrainDeadline
            | Self::HandshakeTimeout
            | Self::FrameTimeout
            | Self::TooSlow
            | Self::RateExceeded
            | Self::TooManyFromAddress
            | Self::TooManyFromPrefix
            | Self::AcceptRate
            | Self::SendBudget => Blame::Limit,
            Self::ReceiveFailed(_) | Self::SendFailed(_) | Self::PeerTimedOut => Blame::System,
            Self::Kicked(_) | Self::Drained | Self::Stopped => Blame::Application,
            Self::HandlerPanicked => Blame::Bug,
        }
    }

    /// True for a connection that was turned away as it came: it never was a session, and no handler heard of it.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::AtCapacity | Self::TooManyFromAddress | Self::TooManyFromPrefix | Self::AcceptRate
        )
    }

    /// What a fault says of the peer, if it does.
    fn of_peer(fault: Fault) -> Option<Self> {
        match fault.kind {
            FaultKind::PeerReset => Some(Self::PeerReset),
            FaultKind::TimedOut => Some(Self::PeerTimedOut),
            _ => None,
        }
    }

    /// The reason for a receive that failed.
    pub fn from_receive(fault: Fault) -> Self {
        Self::of_peer(fault).unwrap_or(Self::ReceiveFailed(fault))
    }

    /// The reason for a send that failed.
    pub fn from_send(fault: Fault) -> Self {
        Self::of_peer(fault).unwrap_or(Self::SendFailed(fault))
    }
}

impl From<FrameError> for CloseReason {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge { .. } => Self::FrameTooLarge,
            FrameError::Malformed(_) | FrameError::WrongSize { .. } => Self::MalformedFrame,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReceiveFailed(fault) => write!(f, "receive failed: {fault}"),
            Self::SendFailed(fault) => write!(f, "send failed: {fault}"),
            Self::Kicked(number) => write!(f, "kicked by the application ({number})"),
            other => f.write_str(&other.name().replace('_', " ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        for (at, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), at, "{reason:?}");
        }
        let names: std::collections::HashSet<_> = CloseReason::ALL.map(CloseReason::name).into();
        assert_eq!(names.len(), CloseReason::COUNT);
    }
}
