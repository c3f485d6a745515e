//! The groups of a service, by name: what its shards share. The lock is taken when a name is looked up and when a group
//! is made or goes, never on the path of a message.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use anyport_core::Losses;

use super::{Group, GroupInfo};

/// A shard has no place for the group.
const NO_PLACE: u32 = u32::MAX;

/// The groups of one service.
#[derive(Default)]
pub(crate) struct Registry {
    groups: Mutex<HashMap<Box<str>, Weak<Shared>>>,
    /// Groups that were made.
    made: AtomicU32,
    /// Shards that may have members.
    shards: usize,
}

impl Registry {
    pub(crate) fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self { groups: Mutex::default(), made: AtomicU32::new(0), shards })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Weak<Shared>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group of this name; made if there is none.
    pub(crate) fn group(self: &Arc<Self>, name: &str) -> Group {
        let mut groups = self.lock();
        if let Some(shared) = groups.get(name).and_then(Weak::upgrade) {
            return Group { shared };
        }
        let shared = Arc::new(Shared {
            name: name.into(),
            id: self.made.fetch_add(1, Ordering::Relaxed) % (u32::MAX - 1) + 1,
            on_shards: (0..self.shards).map(|_| OnShard::default()).collect(),
            registry: Arc::clone(self),
        });
        groups.insert(name.into(), Arc::downgrade(&shared));
        Group { shared }
    }

    /// The group of this number, if somebody is in it or holds it.
    pub(super) fn of_id(&self, id: u32) -> Option<Arc<Shared>> {
        // The others are dropped after the lock: the last handle of a group takes it.
        let groups: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        groups.into_iter().find(|shared| shared.id == id)
    }

    /// Those that have members, by name.
    pub(crate) fn infos(&self) -> Vec<GroupInfo> {
        // The handles are dropped after the lock: the last one of a group takes it.
        let groups: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        let mut infos: Vec<_> =
            groups.iter().map(|shared| shared.info()).filter(|info| info.members > 0).collect();
        infos.sort_by(|one, other| one.name.cmp(&other.name));
        infos
    }
}

/// What the shards share of a group.
pub(crate) struct Shared {
    pub(super) name: Box<str>,
    /// What its messages are known by in queues: no other group of the service has it, among four thousand million that
    /// were made one after the other. Not zero.
    pub(super) id: u32,
    on_shards: Box<[OnShard]>,
    registry: Arc<Registry>,
}

/// What one shard tells the others of a group. It alone writes here.
///
/// Relaxed throughout: no memory is guarded by it. That a join is seen by a publish that comes after it is the work
/// of whatever made it come after.
#[repr(align(64))]
struct OnShard {
    members: AtomicUsize,
    /// The group's place in the shard's table.
    place: AtomicU32,
    published: AtomicU64,
    delivered: AtomicU64,
    skipped: AtomicU64,
    dropped: AtomicU64,
    conflated: AtomicU64,
}

impl Default for OnShard {
    fn default() -> Self {
        Self {
            members: AtomicUsize::new(0),
            place: AtomicU32::new(NO_PLACE),
            published: AtomicU64::default(),
            delivered: AtomicU64::default(),
            skipped: AtomicU64::default(),
            dropped: AtomicU64::default(),
            conflated: AtomicU64::default(),
        }
    }
}

impl Shared {
    pub(super) fn members(&self) -> usize {
        self.on_shards.iter().map(|shard| shard.members.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn members_on(&self, shard: usize) -> usize {
        self.on_shards[shard].members.load(Ordering::Relaxed)
    }

    pub(super) fn set_members(&self, shard: usize, members: usize) {
        self.on_shards[shard].members.store(members, Ordering::Relaxed);
    }

    /// Where the shard has it in its table.
    pub(super) fn place(&self, shard: usize) -> Option<u32> {
        let place = self.on_shards[shard].place.load(Ordering::Relaxed);
        (place != NO_PLACE).then_some(place)
    }

    pub(super) fn set_place(&self, shard: usize, place: Option<u32>) {
        self.on_shards[shard].place.store(place.unwrap_or(NO_PLACE), Ordering::Relaxed);
    }

    pub(super) fn count_published(&self, shard: usize) {
        self.on_shards[shard].published.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages that were counted as delivered were lost in a queue.
    pub(super) fn count_lost(&self, shard: usize, losses: Losses) {
        self.count(shard, 0_u64.wrapping_sub(losses.total()), losses);
    }

    /// What was `delivered` may be less than nothing, as a number that wraps: when more is lost than comes.
    pub(super) fn count(&self, shard: usize, delivered: u64, losses: Losses) {
        let counts = &self.on_shards[shard];
        counts.delivered.fetch_add(delivered, Ordering::Relaxed);
        if losses.total() > 0 {
            counts.skipped.fetch_add(losses.skipped, Ordering::Relaxed);
            counts.dropped.fetch_add(losses.dropped, Ordering::Relaxed);
            counts.conflated.fetch_add(losses.conflated, Ordering::Relaxed);
        }
    }

    /// True if it is a group of this service.
    pub(super) fn is_of(&self, registry: &Arc<Registry>) -> bool {
        Arc::ptr_eq(&self.registry, registry)
    }

    pub(super) fn info(&self) -> GroupInfo {
        let sum = |of: fn(&OnShard) -> &AtomicU64| {
            self.on_shards.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
        };
        GroupInfo {
            name: self.name.to_string(),
            members: self.members(),
            published: sum(|shard| &shard.published),
            delivered: sum(|shard| &shard.delivered),
            losses: Losses {
                skipped: sum(|shard| &shard.skipped),
                dropped: sum(|shard| &shard.dropped),
                conflated: sum(|shard| &shard.conflated),
            },
        }
    }
}

impl Drop for Shared {
    /// The last member or handle has gone, and the name with it; unless it was made anew at this moment.
    fn drop(&mut self) {
        let mut groups = self.registry.lock();
        if groups.get(&self.name).is_some_and(|group| group.strong_count() == 0) {
            groups.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_group_for_as_long_as_somebody_holds_it() {
        let registry = Registry::new(2);
        let lobby = registry.group("lobby");
        assert_eq!(registry.group("lobby"), lobby);
        assert_ne!(registry.group("arena"), lobby);
        assert!(!registry.lock().contains_key("arena"), "nobody holds it");
        lobby.shared.set_members(1, 3);
        assert_eq!((lobby.members(), registry.infos().len()), (3, 1));
        drop(lobby);
        assert!(registry.lock().is_empty());
    }
}
