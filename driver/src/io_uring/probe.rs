//! What io_uring of this kernel offers, found by trying.

use std::io;

use super::IoUring;
use crate::options::DriverConfig;

/// What the driver found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Receive buffers are consumed piece by piece (6.12): small messages stay dense in memory.
    pub incremental_buffers: bool,
    /// Sockets can leave the ring's own table (6.8): needed to hand connections to another shard.
    pub descriptor_install: bool,
    /// Slots of the ring's own table of sockets: the most sessions of one shard.
    pub sockets_max: u32,
}

/// Builds a driver and drops it again: what works here works later.
///
/// # Errors
/// The reason for which the kernel refuses.
pub fn probe(config: DriverConfig) -> io::Result<Features> {
    let driver = IoUring::new(config)?;
    let mut supported = io_uring::Probe::new();
    driver.ring.submitter().register_probe(&mut supported)?;
    Ok(Features {
        incremental_buffers: driver.buffers.is_incremental(),
        descriptor_install: supported.is_supported(io_uring::opcode::FixedFdInstall::CODE),
        sockets_max: driver.places,
    })
}
