//! How the simulated network behaves.

use std::{ops::RangeInclusive, time::Duration};

use super::faults::Faults;

/// What a [`SimNet`](super::SimNet) draws from. The default is a quiet network: it delays, reorders across
/// sockets and cuts transfers at any byte, as every real one may, but nothing goes wrong in it by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Behaviour {
    /// Longest delay of one step of the network or of one completion. Default 100 µs.
    pub delay_max: Duration,
    /// Capacity of a socket's buffer, each way, where its options name none. Default 4 KiB to 256 KiB.
    pub socket_buffer_bytes: RangeInclusive<usize>,
    /// Most bytes that one step moves from one socket's send buffer to the other's receive buffer, or from a
    /// batch into the send buffer. Default 64 KiB.
    pub step_bytes_max: usize,
    /// How long an attempt to connect waits for a full backlog before it tries again. Default 1 s.
    pub connect_retry_after: Duration,
    /// Attempts before connecting ends as timed out. Default 5.
    pub connect_attempts_max: u32,
    /// What goes wrong besides. Default nothing.
    pub faults: Faults,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            delay_max: Duration::from_micros(100),
            socket_buffer_bytes: 4 << 10..=256 << 10,
            step_bytes_max: 64 << 10,
            connect_retry_after: Duration::from_secs(1),
            connect_attempts_max: 5,
            faults: Faults::default(),
        }
    }
}

impl Behaviour {
    /// The same with these faults.
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The same with another longest delay.
    pub fn with_delay_max(self, delay_max: Duration) -> Self {
        Self { delay_max, ..self }
    }

    /// The same with other capacities of sockets' buffers.
    pub fn with_socket_buffer_bytes(self, socket_buffer_bytes: RangeInclusive<usize>) -> Self {
        Self { socket_buffer_bytes, ..self }
    }

    /// The same with other longest steps.
    pub fn with_step_bytes_max(self, step_bytes_max: usize) -> Self {
        Self { step_bytes_max, ..self }
    }
}
