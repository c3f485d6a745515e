//! The log of a turn: what was published in it, encoded once.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use anyport_core::{Overflow, SessionId};

use super::registry::Shared;

/// Editions kept until nobody sends them any more, to be used again.
const EDITIONS_KEPT: usize = 32;
/// Room for which an edition is kept.
const ROOM_KEPT_BYTES: usize = 256 << 10;

pub(crate) use anyport_core::Edition;

/// One published message in the log.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Its group's place on the shard that published it.
    pub(super) group: u32,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) overflow: Overflow,
    /// Who is not sent it.
    pub(super) except: Option<SessionId>,
    /// Replaced by a newer one of its key before anyone was sent it.
    pub(super) dead: bool,
}

impl Message {
    pub(super) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What a shard has published in this turn.
#[derive(Default)]
pub(crate) struct Log {
    pub(super) bytes: Vec<u8>,
    pub(super) messages: Vec<Message>,
    /// Counts the turns in which something was published.
    pub(super) turn: u64,
    spare: VecDeque<Edition>,
}

impl Log {
    /// The bytes for all; the log has room for new ones then. The messages stay until [`clear`](Self::clear).
    pub(super) fn seal(&mut self) -> Edition {
        let unused = self.spare.front().is_some_and(|oldest| Arc::strong_count(oldest) == 1);
        let mut edition =
            if unused { self.spare.pop_front().unwrap_or_default() } else { Edition::default() };
        let place = Arc::get_mut(&mut edition).expect("nobody else has an edition that is not used");
        std::mem::swap(place, &mut self.bytes);
        self.bytes.clear();
        if self.bytes.capacity() > ROOM_KEPT_BYTES {
            self.bytes = Vec::new();
        }
        if self.spare.len() < EDITIONS_KEPT {
            self.spare.push_back(Arc::clone(&edition));
        }
        edition
    }

    /// Every message has been given out.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.turn += 1;
    }
}

/// An edition for the members on other shards.
pub(crate) struct EditionOf {
    pub(super) edition: Edition,
    pub(super) groups: Vec<Arc<Shared>>,
    /// In the order of the log; each names its group by the place in `groups`.
    pub(super) messages: Vec<Message>,
}
