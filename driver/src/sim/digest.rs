//! A running hash of all that happens: two runs that agree in it saw the same.

use super::random::hash;
use crate::types::{Outcome, Received};

/// The hash so far.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Digest(u64);

impl Digest {
    #[inline]
    pub(super) fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// A completion: its kind, and its size or its fault.
    pub(super) fn add_outcome(&mut self, outcome: &Outcome) {
        let result = |result: &Result<(), anyport_core::Fault>| match result {
            Ok(()) => 0,
            Err(fault) => fault_code(*fault),
        };
        let (kind, size) = match outcome {
            Outcome::Accepted(accepted) => (1, accepted.peer.socket().map_or(0, |peer| peer.port()).into()),
            Outcome::AcceptFaulted(fault) => (2, fault_code(*fault)),
            Outcome::AcceptEnded(fault) => (3, fault_code(*fault)),
            Outcome::Connected(ended) => (4, result(ended)),
            Outcome::Received(Received::Data(lease)) => (5, lease.len() as u64),
            Outcome::Received(Received::EndOfStream) => (6, 0),
            Outcome::Received(Received::Failed(fault)) => (7, fault_code(*fault)),
            Outcome::Sent(batch, ended) => (8, (batch.sent() as u64) << 20 ^ result(ended)),
            Outcome::ShutDown(ended) => (9, result(ended)),
            Outcome::Closed(ended) => (10, result(ended)),
            Outcome::Appended(batch, ended) => (11, (batch.sent() as u64) << 20 ^ result(ended)),
            Outcome::Synced(ended) => (12, result(ended)),
            Outcome::Rotated(ended) => (13, result(ended)),
            Outcome::FileClosed(ended) => (14, result(ended)),
        };
        self.add(kind);
        self.add(size);
    }

    pub(super) fn finish(self) -> u64 {
        hash(self.0, 0)
    }
}

fn fault_code(fault: anyport_core::Fault) -> u64 {
    1 + fault.kind as u64 + (u64::from(fault.code.cast_unsigned()) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_every_word_count() {
        let of = |words: &[u64]| {
            let mut digest = Digest::default();
            for word in words {
                digest.add(*word);
            }
            digest.finish()
        };
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[1, 2]), of(&[1, 2, 3]));
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
    }
}
