//! What a completion is about, packed into its 64 bits of user data: kind (8), index (24), generation (32).

use anyport_core::SlabKey;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Tag {
    /// A request of our own whose outcome does not matter.
    Ignored = 0,
    /// Receive on the socket of this key.
    Receive = 1,
    /// Send on the socket of this key.
    Send = 2,
    /// Shutdown of the socket of this key.
    Shutdown = 3,
    /// One posted accept.
    Accept = 4,
    /// One connect.
    Connect = 5,
    /// The eventfd of the waker.
    Wake = 6,
    /// A look at whether the socket of this key has ended.
    Check = 8,
    /// A slot of the ring's table made into a plain descriptor.
    Install = 7,
    /// Write to the file of this key.
    Append = 9,
    /// Sync of the file of this key.
    Sync = 10,
    /// Send on the socket of this key that ended inside the call that handed it over, and not well.
    LazySend = 12,
    /// The timer that ends waits.
    Alarm = 13,
    /// Nothing: what was in flight on the file of this key is over, and its outcome may come out.
    Over = 11,
}

/// Most slots of a table that user data can name.
pub(super) const INDEX_MAX: u32 = 1 << 24;

impl Tag {
    pub(super) fn with(self, key: SlabKey) -> u64 {
        debug_assert!(key.index < INDEX_MAX);
        (self as u64) << 56 | u64::from(key.index) << 32 | u64::from(key.generation)
    }

    /// True if the kernel owes a last completion of each operation of this kind.
    pub(super) fn is_owed(self) -> bool {
        !matches!(self, Self::Ignored | Self::LazySend)
    }

    pub(super) fn plain(self) -> u64 {
        (self as u64) << 56
    }

    /// True if the user data is a lazy send's.
    #[inline]
    pub(super) fn is_lazy_send(user_data: u64) -> bool {
        (user_data >> 56) as u8 == Self::LazySend as u8
    }

    /// # Panics
    /// If the user data is none of ours.
    #[inline]
    pub(super) fn parse(user_data: u64) -> (Self, SlabKey) {
        let tag = match (user_data >> 56) as u8 {
            0 => Self::Ignored,
            1 => Self::Receive,
            2 => Self::Send,
            3 => Self::Shutdown,
            4 => Self::Accept,
            5 => Self::Connect,
            6 => Self::Wake,
            7 => Self::Install,
            8 => Self::Check,
            9 => Self::Append,
            10 => Self::Sync,
            11 => Self::Over,
            12 => Self::LazySend,
            13 => Self::Alarm,
            other => panic!("a completion with unknown user data kind {other}"),
        };
        let index = (user_data >> 32) as u32 & (INDEX_MAX - 1);
        (tag, SlabKey { index, generation: user_data as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_keys_survive_packing() {
        let key = SlabKey { index: INDEX_MAX - 1, generation: u32::MAX };
        for tag in [
            Tag::Ignored,
            Tag::Receive,
            Tag::Send,
            Tag::LazySend,
            Tag::Alarm,
            Tag::Shutdown,
            Tag::Accept,
            Tag::Connect,
            Tag::Wake,
            Tag::Append,
            Tag::Sync,
            Tag::Over,
        ] {
            assert_eq!(Tag::parse(tag.with(key)), (tag, key));
            assert_eq!(Tag::is_lazy_send(tag.with(key)), tag == Tag::LazySend);
        }
    }
}
