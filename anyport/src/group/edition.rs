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
        // The oldest is free, unless somebody does not read.
        let unused = self.spare.iter().position(|edition| Arc::strong_count(edition) == 1);
        let mut edition = unused.and_then(|at| self.spare.remove(at)).unwrap_or_default();
        let place = Arc::get_mut(&mut edition).expect("nobody else has an edition that is not used");
        std::mem::swap(place, &mut self.bytes);
        self.bytes.clear();
        if edition.capacity() <= ROOM_KEPT_BYTES {
            if self.spare.len() == EDITIONS_KEPT {
                // All are used: the oldest stays with who does not read it, and is not waited for.
                self.spare.pop_front();
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Seals an edition of so many bytes. Gives it and where its bytes lie.
    fn seal(log: &mut Log, bytes: usize) -> (Edition, *const u8) {
        log.bytes.resize(bytes, 1);
        let edition = log.seal();
        let at = edition.as_ptr();
        (edition, at)
    }

    #[test]
    fn who_does_not_read_keeps_no_other_edition_from_being_used_again() {
        let mut log = Log::default();
        let stuck: Vec<_> = (0..2 * EDITIONS_KEPT).map(|_| seal(&mut log, 1_000)).collect();
        let used: Vec<_> = (0..6).map(|_| seal(&mut log, 1_000).1).collect();
        assert!(used[2..].iter().all(|at| used[..2].contains(at)), "{used:?}");
        assert!(stuck.iter().all(|(edition, at)| !used.contains(at) && edition.len() == 1_000));
    }

    #[test]
    fn large_editions_go_with_their_last_reader() {
        let mut log = Log::default();
        let (large, _) = seal(&mut log, ROOM_KEPT_BYTES + 1);
        assert_eq!((Arc::strong_count(&large), log.spare.len()), (1, 0));
        let (small, _) = seal(&mut log, ROOM_KEPT_BYTES / 2);
        assert_eq!((Arc::strong_count(&small), log.spare.len()), (2, 1));
    }
}
