//! Who a session is: an id that is never used twice.

use std::fmt;

use crate::slab::SlabKey;

/// Names one session for the life of the process: shard (8 bits), service (4), slot index (20) and the
/// slot's generation (32).
///
/// An id outlives its session safely: once the session has gone, look-ups by its id find nothing, whoever
/// sits in the slot now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// Most shards that an id can name.
    pub const SHARDS_MAX: usize = 1 << 8;
    /// Most services that an id can name.
    pub const SERVICES_MAX: usize = 1 << 4;
    /// Most sessions of one service on one shard.
    pub const INDEX_MAX: u32 = 1 << 20;

    /// Packs the parts.
    ///
    /// # Panics
    /// If `service` or the slot index is out of range: both are bounded where they are made.
    pub fn new(shard: u8, service: u8, slot: SlabKey) -> Self {
        assert!((service as usize) < Self::SERVICES_MAX, "service number {service} does not fit an id");
        assert!(slot.index < Self::INDEX_MAX, "slot index {} does not fit an id", slot.index);
        Self(
            (shard as u64) << 56
                | (service as u64) << 52
                | (slot.index as u64) << 32
                | slot.generation as u64,
        )
    }

    /// The id that [`bits`](Self::bits) gave.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// All 64 bits, for a log or a table of the user's own.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The shard on which the session lives and dies.
    pub fn shard(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The service that it belongs to.
    pub fn service(self) -> u8 {
        (self.0 >> 52) as u8 & 0xf
    }

    /// Its slot in the slab of that service on that shard.
    pub fn slot(self) -> SlabKey {
        SlabKey { index: (self.0 >> 32) as u32 & (Self::INDEX_MAX - 1), generation: self.0 as u32 }
    }
}

impl fmt::Display for SessionId {
    /// `shard.service.index.generation`, short enough for a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot();
        write!(f, "{}.{}.{}.{}", self.shard(), self.service(), slot.index, slot.generation)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_survive_packing_at_their_limits() {
        let slot = SlabKey { index: SessionId::INDEX_MAX - 1, generation: u32::MAX };
        let id = SessionId::new(255, 15, slot);
        assert_eq!((id.shard(), id.service(), id.slot()), (255, 15, slot));
        assert_eq!(SessionId::from_bits(id.bits()), id);
        assert_eq!(id.to_string(), "255.15.1048575.4294967295");
    }

    #[test]
    #[should_panic(expected = "does not fit an id")]
    fn an_index_beyond_the_field_is_refused() {
        SessionId::new(0, 0, SlabKey { index: SessionId::INDEX_MAX, generation: 1 });
    }
}
