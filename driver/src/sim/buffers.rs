//! The receive buffers of a simulated driver.

use anyport_core::planted::{Bug, planted};

use crate::{
    options::DriverConfig,
    types::{Lease, next_instance},
};

/// How much of a buffer that comes back is overwritten: enough for whoever still reads it to notice.
const POISONED_BYTES: usize = 256;

/// The receive buffers: each is free, or out as a lease.
#[derive(Debug)]
pub(super) struct Buffers {
    instance: u32,
    size: usize,
    /// Empty until first used.
    memory: Vec<Vec<u8>>,
    free: Vec<u32>,
}

impl Buffers {
    pub(super) fn new(config: &DriverConfig) -> Self {
        let size = config.receive_buffer_bytes.clamp(1, u32::MAX as usize);
        let count = (config.receive_memory_bytes / size).clamp(1, u32::MAX as usize - 1);
        Self {
            instance: next_instance(),
            size,
            memory: vec![Vec::new(); count],
            free: (0..count as u32).rev().collect(),
        }
    }

    /// Buffers that are free.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// A lease on a free buffer, which `fill` fills with `len` bytes.
    pub(super) fn lease(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Lease {
        assert!(len <= self.size, "{len} bytes in a buffer of {}", self.size);
        let buffer = self.free.pop().expect("the caller saw that one is free");
        if planted(Bug::BufferWithTwoOwners) && self.free.is_empty() {
            self.free.push(buffer);
        }
        let memory = &mut self.memory[buffer as usize];
        if memory.len() < len {
            memory.resize(len, 0);
        }
        fill(&mut memory[..len]);
        Lease { driver: self.instance, buffer, offset: 0, len: len as u32 }
    }

    /// Size of each.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn out(&self) -> usize {
        self.memory.len() - self.free.len()
    }

    pub(super) fn memory_of(&self, lease: &Lease) -> &[u8] {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
        let start = lease.offset as usize;
        &self.memory[lease.buffer as usize][start..start + lease.len as usize]
    }

    pub(super) fn take_back(&mut self, lease: &Lease) {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
        // What was received is gone: a later look at it would show.
        let poisoned = (lease.len as usize).min(POISONED_BYTES);
        self.memory[lease.buffer as usize][..poisoned].fill(0xdd);
        self.free.push(lease.buffer);
        assert!(self.free.len() <= self.memory.len(), "a buffer came back twice");
    }
}
