//! Buffers with received bytes, from their arrival until they go back.

use crate::types::Lease;

/// Buffers that arrived, with the leases on them.
pub(super) struct Buffers {
    instance: u32,
    held: Vec<Held>,
    free: Vec<u32>,
    leases_out: usize,
}

struct Held {
    bytes: Vec<u8>,
    /// Leases that have not come back, and pieces that nobody has yet.
    leases: u32,
    link: u32,
}

impl Buffers {
    pub(super) fn new(instance: u32) -> Self {
        Self { instance, held: Vec::new(), free: Vec::new(), leases_out: 0 }
    }

    /// Leases handed out and not given back.
    pub(super) fn leases_out(&self) -> usize {
        self.leases_out
    }

    /// What was received into the lease.
    #[inline]
    pub(super) fn bytes(&self, lease: &Lease) -> &[u8] {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
        let held = &self.held[lease.buffer as usize];
        &held.bytes[lease.offset as usize..][..lease.len as usize]
    }

    /// Takes in a buffer on which there will be so many leases. Gives its number.
    pub(super) fn take_in(&mut self, bytes: Vec<u8>, leases: u32, link: usize) -> u32 {
        let held = Held { bytes, leases, link: link as u32 };
        if let Some(place) = self.free.pop() {
            self.held[place as usize] = held;
            return place;
        }
        self.held.push(held);
        (self.held.len() - 1) as u32
    }

    /// A lease on a part of it.
    #[inline]
    pub(super) fn lease(&mut self, buffer: u32, offset: u32, len: u32) -> Lease {
        self.leases_out += 1;
        Lease { driver: self.instance, buffer, offset, len }
    }

    /// Takes a lease back; with the last one, the buffer can go back to this link.
    #[expect(clippy::needless_pass_by_value, reason = "a lease that came back must not be used again")]
    pub(super) fn recycle(&mut self, lease: Lease) -> Option<(usize, Vec<u8>)> {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
        let held = &mut self.held[lease.buffer as usize];
        held.leases -= 1;
        self.leases_out -= 1;
        if held.leases > 0 {
            return None;
        }
        self.free.push(lease.buffer);
        Some((held.link as usize, std::mem::take(&mut held.bytes)))
    }
}
