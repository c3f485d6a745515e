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
    /// Receiving failed.
    ReceiveFailed(Fault),
    /// Sending failed.
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
}

impl CloseReason {
    /// How many different reasons there are: the size of a table of counters.
    pub const COUNT: usize = 14;

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
        }
    }

    /// Who caused it.
    pub fn blame(self) -> Blame {
        match self {
            Self::PeerClosed | Self::PeerReset | Self::MalformedFrame | Self::FrameTooLarge => Blame::Peer,
            Self::IdleTimeout | Self::SendQueueFull | Self::AtCapacity | Self::DrainDeadline => Blame::Limit,
            Self::ReceiveFailed(_) | Self::SendFailed(_) => Blame::System,
            Self::Kicked(_) | Self::Drained | Self::Stopped => Blame::Application,
            Self::HandlerPanicked => Blame::Bug,
        }
    }

    /// The reason for a receive that failed.
    pub fn from_receive(fault: Fault) -> Self {
        if fault.kind == FaultKind::PeerReset { Self::PeerReset } else { Self::ReceiveFailed(fault) }
    }

    /// The reason for a send that failed.
    pub fn from_send(fault: Fault) -> Self {
        if fault.kind == FaultKind::PeerReset { Self::PeerReset } else { Self::SendFailed(fault) }
    }
}

impl From<FrameError> for CloseReason {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge { .. } => Self::FrameTooLarge,
            FrameError::Malformed(_) => Self::MalformedFrame,
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
